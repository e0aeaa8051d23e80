"""BDIA: undone exactly with DDIM, and the error of other bases carried back."""
import math

import pytest
import torch
from gmm import UNIT_NOISE, denoise, log_spaced

from odeon.samplers.bdia import plan_bdia
from odeon.samplers.ddim import plan_ddim
from odeon.samplers.edm_heun import plan_edm_heun
from odeon.samplers.exponential_adams import plan_exponential_adams
from odeon.samplers.linear import run
from odeon.samplers.process import VE
from odeon.samplers.transfer import ddim


def test_bdia_runs_backwards():
    sigmas = log_spaced(20, top=14.6, bottom=0.05)
    states = [14.6 * UNIT_NOISE]
    steps = plan_bdia(sigmas, gamma=0.9)
    states.append(run(denoise, states[0], steps, callback=lambda i, x, d, sigma: states.append(x) if i else None))

    def scaled(i):
        return states[i] / math.sqrt(1.0 + sigmas[i] ** 2)

    def t(i, to):  # DDIM from state i to another level, of unit size
        x_coef, d_coef = ddim(VE, sigmas[i], sigmas[to])
        return (x_coef * states[i] + d_coef * denoise(states[i], sigmas[i])) / math.sqrt(1.0 + sigmas[to] ** 2)

    for i in range(1, 20):
        back = t(i, i - 1) + (scaled(i + 1) - t(i, i + 1)) / 0.9
        assert (back - scaled(i - 1)).abs().max() < 1e-12


def heun_both_ways(x, slope, slope_before, sigmas, i):
    """Heun's step from level i, and back to the level before it by the slopes at its ends."""
    ahead = x + (sigmas[i + 1] - sigmas[i]) * slope
    mean = (slope + (ahead - denoise(ahead, sigmas[i + 1])) / sigmas[i + 1]) / 2.0
    return x + (sigmas[i + 1] - sigmas[i]) * mean, x + (sigmas[i - 1] - sigmas[i]) * (slope + slope_before) / 2.0


def dpmpp_both_ways(x, slope, slope_before, sigmas, i):
    """The same by D drawn as a straight line in log sigma, integrated by many small steps."""
    (at, before), d, bent = [math.log(sigmas[j]) for j in (i, i - 1)], x - sigmas[i] * slope, []
    for to in (i + 1, i - 1):
        state, fine = x, torch.linspace(at, math.log(sigmas[to]), 4001, dtype=torch.float64)
        for here, there in zip(fine[:-1], fine[1:]):
            line = d + ((here + there) / 2.0 - at) / (before - at) * (slope_before - d)
            state = line + (there - here).exp() * (state - line)
        bent.append(state)
    return bent


@pytest.mark.parametrize(("base", "both_ways"), [("edm_heun", heun_both_ways), ("dpmpp", dpmpp_both_ways)])
@pytest.mark.parametrize("scaling", ["vp", "ve"])
def test_bdia_carries_the_error_of_its_base_back(base, both_ways, scaling):
    sigmas = [14.6, 6.0, 2.5, 0.9]
    sizes = [math.sqrt(1.0 + sigma ** 2) if scaling == "vp" else 1.0 for sigma in sigmas]
    seen = []
    end = run(denoise, 14.6 * UNIT_NOISE, plan_bdia(sigmas, gamma=0.7, scaling=scaling, base=base),
              callback=lambda i, x, d, sigma: seen.append((x, d if base == "dpmpp" else (x - d) / sigma)))
    states = [*(x for x, _ in seen), end]
    for i in (1, 2):
        slope = (states[i] - denoise(states[i], sigmas[i])) / sigmas[i]
        ahead, back = both_ways(states[i], slope, seen[i - 1][1], sigmas, i)
        wanted = ahead + 0.7 * sizes[i + 1] / sizes[i - 1] * (states[i - 1] - back)
        assert (states[i + 1] - wanted).abs().max() < (1e-12 if base == "edm_heun" else 1e-6)


def test_bdia_without_gamma_is_its_base():
    sigmas = [14.6, 6.0, 2.5, 0.9, 0.0]
    for base, plan in (("edm_heun", plan_edm_heun), ("dpmpp", lambda s: plan_exponential_adams(s, order=2))):
        own = run(denoise, 14.6 * UNIT_NOISE, plan_bdia(sigmas, gamma=0.0, base=base))
        assert (own - run(denoise, 14.6 * UNIT_NOISE, plan(sigmas))).abs().max() < 1e-12
        exact = plan_bdia(sigmas, gamma=0.5, base=base, last="exact")
        assert (run(denoise, 14.6 * UNIT_NOISE, exact) - own).abs().max() > 1e-3


@pytest.mark.parametrize(("base", "plan", "shares"), [
    ("ddim", plan_ddim, (1.49, 0.44, 0.29)), ("edm_heun", plan_edm_heun, (0.69, 0.72, 0.78)),
    ("dpmpp", lambda s: plan_exponential_adams(s, order=2), (0.33, 0.19, 0.39))])
def test_how_much_of_its_base_s_error_bdia_has(base, plan, shares):
    end = run(denoise, 80.0 * UNIT_NOISE, plan_exponential_adams(log_spaced(2048, top=80.0, bottom=0.002), order=4))
    for steps, share in zip((6, 10, 20), shares):
        sigmas = [(80.0 ** (1 / 7) + i / steps * (0.002 ** (1 / 7) - 80.0 ** (1 / 7))) ** 7 for i in range(steps + 1)]
        own, bare = ((run(denoise, 80.0 * UNIT_NOISE, found) - end).norm()
                     for found in (plan_bdia(sigmas, base=base), plan(sigmas)))
        assert own / bare == pytest.approx(share, abs=0.006)
