import pytest
import torch
from gmm import denoise, denoise_flow, log_spaced
from golden_runs import load, tensor

from odeon.guidance.cfg_pp import cfg_pp
from odeon.samplers.corrector import add_corrector
from odeon.samplers.ddim import plan_ddim
from odeon.samplers.dpm_solver_pp import plan_dpm_solver_pp
from odeon.samplers.edm_heun import plan_edm_heun
from odeon.samplers.exponential_adams import plan_exponential_adams
from odeon.samplers.linear import run
from odeon.samplers.process import FLOW, VE
from odeon.samplers.table import table_of
from odeon.samplers.unipc import plan_unipc

RUNS = load("guidance/cfg_pp")["runs"]
START = 14.6 * torch.randn(4, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
SIGMAS = [*log_spaced(8, top=14.6, bottom=0.05), 0.0]


def sampled(steps, x, *, cfg, label=0, model=denoise, seen=None):
    """A run under D = D_u + cfg (D_c - D_u), its unconditional prediction at hand."""
    last = None

    def guided(x, sigma):
        nonlocal last
        last = model(x, sigma)
        return last + cfg * (model(x, sigma, label) - last)

    def note(i, x, denoised, sigma):
        if seen is not None:
            seen.append(x)

    return run(guided, x, steps, unconditional=lambda: last, callback=note)


def steps_of(name, sigmas, process):
    """ComfyUI's samplers over our plans."""
    if name == "sample_euler_cfg_pp":
        return cfg_pp(plan_ddim(sigmas, process=process), process=process)
    return cfg_pp(plan_dpm_solver_pp(sigmas, order=2, lower_order_below=0), history="uncond")


@pytest.mark.parametrize("i", range(len(RUNS)))
def test_golden_parity_step_by_step_and_at_the_end(i):
    settings, process = RUNS[i]["settings"], FLOW if RUNS[i]["settings"]["flow"] else VE
    steps = steps_of(settings["sampler"], settings["sigmas"], process)
    seen = []
    end = sampled(steps, tensor(RUNS[i]["x_init"]), cfg=settings["cfg"], label=settings["cond_label"],
                  model=denoise_flow if settings["flow"] else denoise, seen=seen)
    assert (end - tensor(RUNS[i]["x_final"])).abs().max() < 1e-9
    for x, recorded in zip(seen, RUNS[i]["x_traj"]):
        assert (x - tensor(recorded)).abs().max() < 1e-9


@pytest.mark.parametrize("plan", [plan_ddim, plan_dpm_solver_pp, plan_unipc, plan_edm_heun,
                                  lambda sigmas: plan_dpm_solver_pp(sigmas, method="singlestep"),
                                  lambda sigmas: add_corrector(plan_exponential_adams(sigmas, order=2))])
def test_cfg_0_is_the_sampler_without_a_prompt_and_equal_predictions_the_sampler_itself(plan):
    alone = run(denoise, START, plan(SIGMAS))
    assert torch.equal(sampled(cfg_pp(plan(SIGMAS)), START, cfg=0.0), alone)
    prompt = run(lambda x, sigma: denoise(x, sigma, 0), START, plan(SIGMAS))
    both = sampled(cfg_pp(plan(SIGMAS)), START, cfg=0.7, label=0, model=lambda x, sigma, label=0: denoise(x, sigma, 0))
    assert torch.allclose(both, prompt, atol=1e-12)


def test_it_is_ddim_at_a_scale_that_rises_to_the_end():
    """x_next = D + sigma_next eps_u is DDIM at w = cfg sigma / (sigma - sigma_next)."""
    cfg, x = 0.6, START
    for sigma, sigma_next in zip(SIGMAS, SIGMAS[1:]):
        uncond, scale = denoise(x, sigma), cfg * sigma / (sigma - sigma_next)
        guided = uncond + scale * (denoise(x, sigma, 0) - uncond)
        x = guided + sigma_next / sigma * (x - guided)
    assert torch.allclose(sampled(cfg_pp(plan_ddim(SIGMAS)), START, cfg=cfg), x, atol=1e-12)


def test_the_state_keeps_the_unconditional_noise():
    """After a step of DDIM, (x - alpha D) / sigma is the eps_u of the step's start, on flow models too."""
    steps = cfg_pp(plan_ddim([0.9, 0.4], process=FLOW), process=FLOW)
    x = START / 14.6
    uncond = denoise_flow(x, 0.9)
    guided = uncond + 0.8 * (denoise_flow(x, 0.9, 1) - uncond)
    end = sampled(steps, x, cfg=0.8, label=1, model=denoise_flow)
    assert torch.allclose((end - 0.6 * guided) / 0.4, (x - 0.1 * uncond) / 0.9, atol=1e-12)


def test_pure_noise_of_a_flow_is_a_start_like_any_other():
    steps = cfg_pp(plan_ddim([1.0, 0.5, 0.0], process=FLOW), process=FLOW)
    out = sampled(steps, START / 14.6, cfg=0.8, model=lambda x, sigma, label=None: 0.1 * x + (label is not None))
    assert torch.isfinite(out).all()


def test_wherever_the_prediction_without_prompt_is_missing_is_named():
    steps = cfg_pp(plan_ddim(SIGMAS))
    with pytest.raises(ValueError, match="reads the prediction without the prompt"):
        run(denoise, START, steps)
    with pytest.raises(ValueError, match="put it last"):
        table_of(steps)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="history must be"):
        cfg_pp(plan_ddim(SIGMAS), history="none")
    with pytest.raises(ValueError, match="once a step"):
        cfg_pp(plan_edm_heun(SIGMAS), history="uncond")
