"""Laws that hold for the plan of every solver node, with every choice of its options."""
import math
import random
import re
from itertools import product

import pytest
import torch

from odeon import NODE_CLASS_MAPPINGS
from odeon.host.common import planned
from odeon.models.levels import DiscreteLevels
from odeon.samplers.clock import FLOW_CLOCK, clock_of_table
from odeon.samplers.dc_solver import DCRatios
from odeon.samplers.iia import IIACoefs
from odeon.samplers.linear import run
from odeon.samplers.process import FLOW, VE
from odeon.samplers.usf_decisions import SOLVERS

SIGMAS = {VE: [14.6, 9.0, 5.5, 3.0, 1.4, 0.6, 0.2, 0.03, 0.0], FLOW: [1.0, 0.95, 0.8, 0.6, 0.45, 0.3, 0.1, 0.02, 0.0]}


CLOCKS = {VE: clock_of_table(DiscreteLevels().sigmas.tolist()), FLOW: FLOW_CLOCK}


MOST = 400  # combinations of one node's options, picked at random (the same ones every time) where there are more
MEASURED = {"ratios": DCRatios((1.0, 1.0, 1.0, 1.1, 0.9, 1.05, 0.95)),
            "decisions": SOLVERS["unipc_3"](8),
            "iia": IIACoefs("dpmpp2m", ((0.0,), *((0.0, 0.1),) * 6))}  # weights of differences alone keep the laws


def _choices(kind, options):
    if isinstance(kind, list):
        return kind
    if kind == "INT":
        return sorted({options["min"], options["default"], min(options["max"], options["min"] + 3)})
    if kind == "BOOLEAN":
        return [False, True]
    return sorted(value for value in {options["default"], 0.5, 1.0} if options["min"] <= value <= options["max"])


def _cases():
    for name, cls in NODE_CLASS_MAPPINGS.items():
        if hasattr(cls, "PLAN"):
            inputs = {key: spec for group in cls.INPUT_TYPES().values() for key, spec in group.items()
                      if key != "noise_maps"}  # of one picture, on one schedule
            found = list(product(*([MEASURED[key]] if key in MEASURED else _choices(*spec)
                                   for key, spec in inputs.items())))
            for values in random.Random(0).sample(found, min(len(found), MOST)):
                yield name, dict(zip(inputs, values))


CASES = list(_cases())


class Basis:
    """States as coordinates: of the picture, of the start noise, of every later draw. The picture is known exactly."""

    def __init__(self, alpha, sigma):
        self.start = torch.zeros(1, 2000, dtype=torch.float64)
        self.start[0, :2] = torch.tensor([alpha, sigma], dtype=torch.float64)
        self.draws = 1

    def model(self, x, sigma):
        return torch.zeros_like(x).index_fill_(1, torch.tensor([0]), 1.0)

    def noise(self, sigma, sigma_next):
        self.draws += 1
        return torch.zeros_like(self.start).index_fill_(1, torch.tensor([self.draws]), 1.0)


# Methods whose point it is to break a law, and their options that do.
BREAKS_LAWS = {
    "OdeonSamplerLambdaDDIM": lambda options: options["lam"],  # a step's start is expanded in its length
    "OdeonSamplerPNDM": lambda options: options["variant"].startswith("FON"),  # differences in place of derivatives
    "OdeonSamplerGradientEstimation": lambda options: options["mu"] and options["gamma"] > 1.0,  # pushes noise too
}


def planned_for(name, options, process):
    """The steps, or None where the method says in words that it has no meaning for flow models."""
    plan = NODE_CLASS_MAPPINGS[name].PLAN
    try:
        return planned(plan, SIGMAS[process], process=process, clock=CLOCKS[process], **options)
    except ValueError as error:
        if process is FLOW and re.search("flow models|FON counts", str(error)):
            return None
        assert re.search("r1 < r2|alpha must lie|0 < r < 1|got 3 with|got 4 with",
                         str(error)), error  # limits that the menu's ranges can't tell
        return None


@pytest.mark.parametrize("name", sorted({name for name, _ in CASES}))
@pytest.mark.parametrize("process", [VE, FLOW], ids=lambda process: process.name)
def test_two_laws_of_a_linear_plan(process, name):
    """From a state with signal alpha and noise sigma every step leads to one with those of its next level."""
    held, exempt = 0, 0
    for options in (options for case, options in CASES if case == name):
        if BREAKS_LAWS.get(name, lambda options: False)(options):
            exempt += 1
            continue
        options = {key: 1.0 if key == "s_noise" else value for key, value in options.items()}
        steps = planned_for(name, options, process)
        if steps is None:
            continue
        basis, states = Basis(process.alpha(SIGMAS[process][0]), SIGMAS[process][0]), []
        end = run(basis.model, basis.start, steps, noise_sampler=basis.noise,
                  callback=lambda i, x, denoised, sigma, states=states: states.append(x))
        levels = [step.sigma for step in steps] + [steps[-1].sigma_next]
        for level, state in zip(levels, [*states, end]):
            assert state[0, 0].item() == pytest.approx(process.alpha(level), abs=1e-9), options
            assert state[0, 1:].norm().item() == pytest.approx(level, abs=1e-9), options
        held += 1
    assert held or exempt or process is FLOW


@pytest.mark.parametrize("name", sorted({name for name, _ in CASES}))
def test_runs_where_nothing_can_be_read_back(name):
    x = torch.empty(2, 4, device="meta")  # has no values: .item(), float(x) or `if x:` would raise
    for options in [options for case, options in CASES if case == name][::3]:
        for process in SIGMAS:
            steps = planned_for(name, options, process)
            if steps is not None:
                out = run(lambda x, sigma: 0.5 * x, x, steps, noise_sampler=lambda a, b: torch.empty_like(x))
                assert out.shape == x.shape


def test_state_is_left_alone_and_steps_are_reported():
    steps = NODE_CLASS_MAPPINGS["OdeonSamplerExponentialAdams"].PLAN(SIGMAS[VE])
    x = torch.randn(2, 3)
    before, seen = x.clone(), []
    run(lambda x, sigma: 0.5 * x, x, steps, callback=lambda i, x, denoised, sigma: seen.append((i, sigma)))
    assert torch.equal(x, before)
    assert seen == list(enumerate(SIGMAS[VE][:-1]))


BAD_LEVELS = ([], [3.0], [0.9, math.nan, 0.0], [math.inf, 0.5, 0.0], [0.1, 0.5, 0.9], [0.9, 0.5, 0.5, 0.0],
              [0.9, 0.5, 0.0, 0.0], [0.9, 0.5, -0.1])


@pytest.mark.parametrize("name", sorted({name for name, _ in CASES}))
def test_levels_that_are_no_schedule_are_refused_in_words(name):
    """By every plan before anything else goes wrong with them."""
    options = next(options for case, options in CASES if case == name)
    for process, sigmas in product(SIGMAS, BAD_LEVELS):
        count = max(len(sigmas) - 1 - (sigmas[-1:] == [0.0]), 0)
        fitting = {"ratios": DCRatios((1.0,) * count), "decisions": "ddim", "iia": IIACoefs("ddim", ((0.0,),) * count)}
        given = {key: fitting.get(key, value) for key, value in options.items()}
        with pytest.raises(ValueError, match="sigmas (must|need)|schedule needs|flow models|FON counts"):
            planned(NODE_CLASS_MAPPINGS[name].PLAN, sigmas, process=process, clock=CLOCKS[process], **given)
