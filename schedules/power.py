"""Schedules evenly spaced in a power of sigma."""
import torch


def power_sigmas(steps: int, sigma_max: float = 14.614642, sigma_min: float = 0.0291675,
                 rho: float = 7.0) -> torch.Tensor:
    """Levels evenly spaced in sigma^(1 / rho), then 0: float64 (steps + 1,). rho = 1 is linear, 7 is EDM.

    The default range is Stable Diffusion's. One step goes from sigma_max straight to 0.
    Source: Karras et al. 2022, arXiv 2206.00364, eq. 5.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if not 0.0 < sigma_min <= sigma_max:
        raise ValueError(f"need 0 < sigma_min <= sigma_max, got {sigma_min} and {sigma_max}; swap the two")
    if rho <= 0.0:
        raise ValueError(f"rho must be above 0, got {rho}; 7 is usual, 1 is even spacing")
    if sigma_min == sigma_max and steps > 1:
        raise ValueError(f"sigma_min equals sigma_max {sigma_max}, and {steps} steps would repeat it; lower sigma_min")
    ramp = torch.linspace(0.0, 1.0, steps, dtype=torch.float64)
    top, bottom = sigma_max ** (1.0 / rho), sigma_min ** (1.0 / rho)
    return torch.cat([(top + ramp * (bottom - top)) ** rho, torch.zeros(1, dtype=torch.float64)])
