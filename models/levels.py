"""The noise levels a network was trained on, and the two-way map between sigmas and its timesteps."""
import torch
from torch import Tensor

from ..schedules.zero_snr import zero_terminal_sigmas


class _Table:
    """The ends of a rising table `sigmas`."""
    sigmas: Tensor

    @property
    def sigma_min(self) -> Tensor:
        return self.sigmas[0]

    @property
    def sigma_max(self) -> Tensor:
        return self.sigmas[-1]


class TableLevels(_Table):
    """Levels of a network that is told their places in a rising table (VE form), read between the table's points by
    straight lines in log sigma.

    timestep() is the exact inverse of sigma() within the table; rounded=True gives the table's nearest place instead,
    as ComfyUI tells it to networks that were trained on whole steps.
    """

    def __init__(self, sigmas: Tensor, *, rounded: bool = False):
        self.rounded = rounded
        self.sigmas = sigmas.float()
        self.log_sigmas = sigmas.log().float()

    def timestep(self, sigma: Tensor) -> Tensor:
        """Where sigma (B,) lies in the table, 0 to 999; levels outside take the nearest end."""
        table, log_sigma = self.log_sigmas.to(sigma.device), sigma.log()
        if self.rounded:
            return (log_sigma - table[:, None]).abs().argmin(0).reshape(sigma.shape)
        high = torch.searchsorted(table, log_sigma.contiguous()).clamp(1, len(table) - 1)
        part = (log_sigma - table[high - 1]) / (table[high] - table[high - 1])
        return high - 1 + part.clamp(0.0, 1.0)

    def sigma(self, timestep: Tensor) -> Tensor:
        """The level at a fractional place 0 to 999 of the table; places outside take the nearest end."""
        table = self.log_sigmas.to(timestep.device)
        place = timestep.float().clamp(0, len(table) - 1)
        low = place.floor().long()
        return torch.lerp(table[low], table[(low + 1).clamp(max=len(table) - 1)], place - low).exp()


class DiscreteLevels(TableLevels):
    """Stable Diffusion's 1000 levels: betas are evenly spaced in their square root from 0.00085 to 0.012, and
    sigma = sqrt((1 - abar) / abar). zero_terminal=True stretches them so that the last is noise alone.

    Source: Rombach et al. 2022, arXiv 2112.10752, released configuration; zero terminal SNR: Lin et al. 2023,
    arXiv 2305.08891, algorithm 1.
    """

    def __init__(self, *, rounded: bool = False, zero_terminal: bool = False):
        self.zero_terminal = zero_terminal
        betas = torch.linspace(0.00085 ** 0.5, 0.012 ** 0.5, 1000, dtype=torch.float64) ** 2
        alphas_cumprod = torch.cumprod(1.0 - betas, dim=0)
        sigmas = ((1.0 - alphas_cumprod) / alphas_cumprod).sqrt()
        super().__init__(zero_terminal_sigmas(sigmas) if zero_terminal else sigmas, rounded=rounded)


class FlowLevels(_Table):
    """`count` levels of a flow model, sigma in (0, 1], bent by `shift`: s = shift t / (1 + (shift - 1) t).

    timestep(sigma) is what the network is told, top * sigma; sigma(timestep) maps an UNSHIFTED time 0 to `top` to
    its shifted level. The two are inverse only at shift = 1, as in the models that use them. Stable Diffusion 3 has
    1000 levels and top 1000, Flux 10000 and top 1.
    Source: Esser et al. 2024, arXiv 2403.03206, eq. 23.
    """

    def __init__(self, shift: float = 1.0, *, count: int = 1000, top: float = 1000.0):
        self.shift, self.top = shift, top
        self.sigmas = self.sigma(torch.arange(1, count + 1) / count * top)

    def timestep(self, sigma: Tensor) -> Tensor:
        return sigma * self.top

    def sigma(self, timestep: Tensor) -> Tensor:
        t = timestep / self.top
        return self.shift * t / (1.0 + (self.shift - 1.0) * t)
