"""What the solvers share: eps out of a prediction, and the exact first-order step in its two forms."""
from .linear import Update
from .process import Process


def eps_of(process: Process, sigma: float) -> Update:
    """(x - alpha D) / sigma, of the state and its D."""
    return Update(1.0 / sigma, (-process.alpha(sigma) / sigma,))


RETURN_D = Update(0.0, (1.0,))  # the step to sigma = 0


def ddim(process: Process, sigma: float, sigma_to: float) -> tuple[float, float]:
    """DDIM from sigma to any other level, cleaner or noisier: alpha_to D + sigma_to eps as coefficients of x and D."""
    ratio = sigma_to / sigma
    return ratio, process.alpha(sigma_to) - ratio * process.alpha(sigma)


def first_order(process: Process, sigma: float, sigma_next: float) -> tuple[float, float, float]:
    """DDIM's step alpha_next D + sigma_next eps as (x_coef, D's, eps's coefficient).

    D is only used where alpha = 0 and x is eps alone; elsewhere x and eps are enough, so that the eps may be that of
    another model call than the last one.
    """
    alpha, alpha_next = process.alpha(sigma), process.alpha(sigma_next)
    if alpha == 0.0:
        return 0.0, alpha_next, sigma_next
    return alpha_next / alpha, 0.0, sigma_next - alpha_next * sigma / alpha
