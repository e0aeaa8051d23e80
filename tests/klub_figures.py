"""What tests of Align Your Steps share: pictures of the mixture, its spread, the schedules whose bounds are known."""
import math

import torch
from gmm import MEANS, STDS, WEIGHTS

from odeon.models.levels import DiscreteLevels
from odeon.samplers.process import VE
from odeon.schedules.align_your_steps import TABLES
from odeon.schedules.classic import classic_sigmas
from odeon.schedules.optimize.klub import Spread, measure_spread

TOP, BOTTOM, C = 14.6146412293, 0.0291671582, 0.5


def gaussian(x, sigma):
    """D for data N(0, C^2 I)."""
    return x * C ** 2 / (C ** 2 + sigma ** 2)


def pictures(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    which = torch.multinomial(WEIGHTS, count, replacement=True, generator=generator)
    noise = torch.randn(count, 16, generator=generator, dtype=torch.float64)
    return MEANS[which] + STDS[which][:, None] * noise


def log_grid(points, low=BOTTOM, high=TOP):
    return torch.linspace(math.log(low), math.log(high), points, dtype=torch.float64).exp()


def spread(model, data, points=64, low=BOTTOM, high=TOP, **options):
    """All data as the numbers of one picture, which is the quick way."""
    levels = log_grid(points, low, high)
    *_, last = measure_spread(lambda x, sigma: model(x[0], sigma)[None], data[None], levels, process=VE, **options)
    return Spread(levels, last.state["sum"] / len(data))


def exact_spread(points, low, high, c=C, dims=16):
    """That of N(0, c^2 I): what the error of D falls by."""
    levels = log_grid(points, low, high)
    size = dims * c ** 4 / (levels ** 2 + c ** 2)
    return Spread(levels, size[None] - size[:, None])


def time_uniform(steps):
    return [float(DiscreteLevels().sigma(torch.tensor(999.0 * (1.0 - i / steps)))) for i in range(steps + 1)]


SCHEDULES = {
    "log-uniform": [TOP * (BOTTOM / TOP) ** (i / 10) for i in range(11)],
    "karras": classic_sigmas("karras", DiscreteLevels(), 11).tolist()[:-1],
    "arctan c=.5": [0.5 * math.tan(math.atan(2 * TOP) + i / 10 * (math.atan(2 * BOTTOM) - math.atan(2 * TOP)))
                    for i in range(11)],
    "AYS SD1": list(TABLES["SD1.5"]),
    "arctan c=1": classic_sigmas("kl_optimal", DiscreteLevels(), 11).tolist()[:-1],
    "SD time-uniform": time_uniform(10),
}
