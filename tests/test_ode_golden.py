"""Every recorded run of reference code is repeated: the deterministic samplers on the exact mixture, in float64."""
import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from gmm import denoise

from odeon.samplers.accelerated_ddim import plan_accelerated_ddim
from odeon.samplers.bdia import plan_bdia
from odeon.samplers.clock import Clock
from odeon.samplers.ddim import plan_ddim
from odeon.samplers.deis import plan_deis
from odeon.samplers.dpm_solver import plan_dpm_solver
from odeon.samplers.dpm_solver_pp import plan_dpm_solver_pp
from odeon.samplers.dpm_solver_pp_sde import plan_dpm_solver_pp_sde
from odeon.samplers.edm_heun import plan_edm_heun
from odeon.samplers.gradient_estimation import plan_gradient_estimation
from odeon.samplers.lambda_ddim import plan_lambda_ddim
from odeon.samplers.linear import Step, run
from odeon.samplers.momentum import plan_momentum
from odeon.samplers.pndm import plan_pndm
from odeon.samplers.transfer import RETURN_D
from odeon.samplers.unipc import plan_unipc

FOLDER = Path(__file__).parent / "golden" / "solvers"
RK = {"1euler": "euler", "2heun": "heun2", "3kutta": "kutta3", "3ral": "ralston3", "3heun": "heun3", "3vdh": "vdh3",
      "3ssprk": "ssprk3", "4rk": "rk4"}


def explicit(settings):
    """The reference's grid: given, or even in log sigma with one level for each model call or each step."""
    if "sigmas" in settings:
        return settings["sigmas"]
    count = settings["steps"] // (settings["order"] if settings["method"] == "singlestep_fixed" else 1)
    high, low = math.log(settings["sigma_max"]), math.log(settings["sigma_min"])
    return [math.exp(high + (low - high) * i / count) for i in range(count + 1)]


def dpm(settings, plan, solver_type):
    method = {"singlestep": "grouped", "singlestep_fixed": "singlestep"}.get(settings["method"], "multistep")
    if method == "grouped" and "sigmas" not in settings:
        method = "fast"
    return plan(explicit(settings), order=settings["order"], method=method, solver_type=solver_type,
                lower_order_below=10 * settings["lower_order_final"], third_order_term="reference")


def dpm_solver(settings):
    return dpm(settings, plan_dpm_solver, settings["solver_type"])


def dpm_solver_pp(settings):
    return dpm(settings, plan_dpm_solver_pp, {"dpmsolver": "midpoint"}.get(settings["solver_type"], "taylor"))


def dpm_solver_pp_sde(settings):
    order, method = {"2m_sde": (2, "multistep"), "3m_sde": (3, "multistep"), "2s_ancestral": (2, "ancestral"),
                     "sde": (2, "singlestep")}[settings["sampler"].removeprefix("sample_dpmpp_")]
    return plan_dpm_solver_pp_sde(settings["sigmas"], order=order, method=method, eta=settings["eta"],
                                  solver_type={"heun": "taylor"}.get(settings.get("solver_type"), "midpoint"),
                                  third_order_term="reference", stage_noise="fresh")


def ddim_eta(settings):
    return plan_ddim(settings["sigmas_ve"], eta=settings["eta"])


def edm_heun(settings):
    return plan_edm_heun(settings["sigmas"], s_churn=settings.get("S_churn", 0.0), s_min=settings.get("S_min", 0.0),
                         s_max=settings.get("S_max", 1e9), s_noise=settings.get("S_noise", 1.0))


def pndm(settings):
    """The reference looks its levels up in a table whose first entry is time -1; times between are cut off."""
    betas = torch.linspace(0.00085 ** 0.5, 0.012 ** 0.5, 1000, dtype=torch.float64) ** 2
    alphas_cumprod = torch.cumprod(1.0 - betas, dim=0)
    table = ((1.0 - alphas_cumprod) / alphas_cumprod).sqrt()
    clock = Clock(lambda sigma: int((table.log() - math.log(sigma)).abs().argmin()) - 1,
                  lambda time: table[math.floor(time + 1e-9) + 1].item())
    if settings["method"] == "DDIM":
        return plan_ddim(settings["sigmas_ve"])
    variant = {"FON": "FON-published"}.get(settings["method"], settings["method"])
    return plan_pndm(settings["sigmas_ve"], variant=variant, clock=clock)


def deis(settings):
    if settings["method"] == "ipndm":
        return plan_pndm(settings["sigmas_ve"], variant="iPNDM", max_order=settings["ab_order"] + 1)
    variant = {"t_ab": "tAB", "rho_ab": "rhoAB", "rho_rk": "rhoRK"}[settings["method"]]
    return plan_deis(settings["sigmas_ve"], variant=variant, ab_order=settings["ab_order"], time_map="linear_vp",
                     rk=RK.get(settings["rk_method"], "heun2"))


def unipc(settings):
    return plan_unipc(settings["sigmas"], order=settings["order"],
                      variant=settings["variant"], prediction="data" if settings["predict_x0"] else "noise",
                      lower_order_final=settings["lower_order_final"])


def momentum(settings):
    method = {"PLMSWithHBScheduler": "hb", "GHVBScheduler": "ghvb", "PLMSWithNTScheduler": "nesterov"}.get(
        settings["class"], "dpmpp_2m_hb")
    option = {"beta": settings["beta"]} if method == "dpmpp_2m_hb" else {"order": settings["order"]}
    return plan_momentum(settings["sigmas"], method=method, **option)


def gradient_estimation(settings):
    return plan_gradient_estimation(settings["sigmas"], gamma=settings["gam"], mu=settings["mu"], last="follow")


def accelerated_ddim(settings):
    plan = plan_accelerated_ddim if settings["fn"].endswith("accelerated") else plan_ddim
    return plan(settings["sigmas_ve"], **({"last": "follow"} if plan is plan_accelerated_ddim else {}))


def bdia(settings):
    return plan_bdia(settings["sigmas_ve"], gamma=settings["gamma"])


def bdia_ddim_sampling(settings):
    return plan_bdia(settings["sigmas_ve"], gamma=settings["gamma"])


def comfy_ode(settings):
    """ComfyUI's samplers that are methods of ours."""
    sigmas, name = settings.get("sigmas"), settings["sampler"].removeprefix("sample_")
    if name == "dpm_fast":
        ends = [settings["sigma_max"] * (settings["sigma_min"] / settings["sigma_max"]) ** (i / settings["n"])
                for i in range(settings["n"] + 1)]
        return plan_dpm_solver(ends, order=3, method="fast")
    return {"euler": lambda: plan_ddim(sigmas), "heun": lambda: plan_edm_heun(sigmas),
            "dpm_2": lambda: plan_dpm_solver(sigmas, order=2),
            "dpmpp_2m": lambda: plan_dpm_solver_pp(sigmas, lower_order_below=0),
            "lms": lambda: plan_pndm(sigmas, variant="iPNDM-V"),
            "ipndm": lambda: plan_pndm(sigmas, variant="iPNDM", max_order=settings.get("max_order", 4)),
            "deis": lambda: plan_deis(sigmas, ab_order=2, time_map="edm"),
            "gradient_estimation": lambda: plan_gradient_estimation(sigmas, gamma=settings.get("ge_gamma", 2.0)),
            }[name]()


def conjugate_ddim(settings):
    return plan_lambda_ddim(settings["sigmas_ve"], lam=settings["lam"], phi=settings["Phi"])


def quadrature_ddim(settings):
    return plan_lambda_ddim(settings["sigmas_ve"], lam=settings["lam"])


CASES = (dpm_solver, dpm_solver_pp, dpm_solver_pp_sde, ddim_eta, edm_heun, pndm, deis, unipc, momentum,
         gradient_estimation, accelerated_ddim, bdia_ddim_sampling, comfy_ode, bdia, conjugate_ddim, quadrature_ddim)
# the reference integrates by sums and adaptive steps there
TOLERANCES = {"t_ab": 3e-5, "sample_deis": 3e-5, "sample_lms": 1e-7, "rho_ab": 1e-6, "conjugate_ddim": 1e-8,
              "quadrature_ddim": 1e-5}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_golden_parity(case):
    name = case.__name__.replace("quadrature", "conjugate")
    golden = json.loads((FOLDER / f"{name}.json").read_text())
    assert golden["runs"]
    for entry in golden["runs"]:
        settings, calls = entry["settings"], []
        steps = case(settings)
        if settings.get("denoise_to_zero"):  # a call more, after a solver that knows nothing of it
            steps = [*steps, Step(steps[-1].sigma_next, 0.0, RETURN_D)]
        # the reference draws where it then multiplies by 0 too
        draws = [sum(update.noise_coef != 0.0 for update in step.updates) for step in steps]
        noisy = [[step.is_noisy] * max(count, 1) for step, count in zip(steps, draws)]
        drawn = [noise for noise, used in zip(entry.get("noises", ()), itertools.chain(*noisy)) if used]
        noises = iter(torch.tensor(drawn, dtype=torch.float64))
        start, wanted = (torch.tensor(values, dtype=torch.float64).reshape(-1, 16)
                         for values in (golden["starts"][entry["start"]], entry["x_final"]))

        def model(x, sigma, calls=calls, settings=settings):
            calls.append(sigma)
            return denoise(x, sigma, settings.get("label"))

        out = run(model, start, steps, noise_sampler=lambda sigma, sigma_next, noises=noises: next(noises))
        kind = settings.get("method", settings.get("sampler"))
        tolerance = TOLERANCES.get(case.__name__, TOLERANCES.get(kind, 1e-9))
        assert (out - wanted).abs().max() < tolerance, settings
        assert len(calls) == settings.get("nfe", len(calls)), settings
