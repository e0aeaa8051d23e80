"""Rows of `python -m odeon.bench solvers` whose numbers are measured on the model first, on noises of their own."""
import torch
from torch import Tensor

from ..measure.dc_ratios import taught_dc_ratios
from ..measure.ems import ems_of, measure_ems
from ..measure.iia import fit_iia, iia_coefs
from ..measure.kept import EMS_FOLDER, load_ems
from ..samplers.dc_solver import DCRatios, plan_dc_solver
from ..samplers.dpm_solver_v3 import EMS, sample_dpm_solver_v3
from ..samplers.iia import plan_iia
from ..samplers.process import FLOW
from .solvers_problems import Problem, solve

SEED = 25
TEACHER_STEPS = 60


def other_start(on: Problem) -> Tensor:
    """As many noises as the problem has, none of them its own."""
    noise = torch.randn(on.start.shape, generator=torch.Generator().manual_seed(SEED)).to(on.start)
    return noise * (1.0 if on.process is FLOW else float(on.levels.sigma_max))


def by_iia(on: Problem, sigmas: list[float]) -> Tensor:
    *_, last = fit_iia(on.denoise, other_start(on), sigmas, base="ddim", r=1, process=on.process)
    iia = iia_coefs(last.state, sigmas, base="ddim", r=1)
    return solve(on.denoise, on.start, plan_iia(sigmas, iia=iia, process=on.process))


def by_dc_solver(on: Problem, sigmas: list[float]) -> Tensor:
    *_, last = taught_dc_ratios(on.denoise, other_start(on), sigmas, teacher_steps=TEACHER_STEPS, process=on.process,
                                clock=on.clock, order=2)
    ratios = DCRatios(tuple(last.state["search.ratios"].tolist()))
    return solve(on.denoise, on.start, plan_dc_solver(sigmas, ratios=ratios, order=2, process=on.process,
                                                      clock=on.clock))


def by_dpm_solver_v3(on: Problem, sigmas: list[float]) -> Tensor:
    return sample_dpm_solver_v3(on.denoise, on.start, sigmas, process=on.process, ems=statistics(on))


def statistics(on: Problem) -> EMS:
    """Those that come with the pack; on the exact mixture those of its other noises."""
    if not on.name.startswith("exact"):
        return load_ems(EMS_FOLDER / f"{on.name}.safetensors")
    noise = torch.randn(on.start.shape, generator=torch.Generator().manual_seed(SEED)).to(on.start)
    sigmas = on.sigmas(20)
    *_, last = measure_ems(on.denoise, noise, process=on.process, sigma_max=min(sigmas[0], 0.99) if
                           on.process is FLOW else sigmas[0], sigma_min=sigmas[-2], points=250, batch=len(noise))
    return ems_of(last.state)


RUNS = {"DPM-Solver-v3 2, measured": by_dpm_solver_v3, "DC-Solver 2, searched": by_dc_solver,
        "IIA over DDIM, r 1, fitted": by_iia}
