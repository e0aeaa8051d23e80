"""The classic families: recorded runs of ComfyUI and diffusers on all kinds of models, and what holds for all."""
import inspect
import math

import pytest
import torch
from golden_runs import load
from hypothesis import given
from hypothesis import settings as running
from hypothesis import strategies as st
from other_levels import CascadeLevels, ContinuousVLevels, CosmosLevels, EDMLevels

from odeon import NODE_CLASS_MAPPINGS
from odeon.models.levels import DiscreteLevels, FlowLevels
from odeon.samplers.clock import linear_vp_clock
from odeon.samplers.process import FLOW, VE
from odeon.schedules.classic import classic_sigmas
from odeon.schedules.family import FAMILIES, OF_FLOW, OF_TABLE, family_sigmas, flow_shift, mu_of_size


class CascadeInFloat32(CascadeLevels):
    """As ComfyUI's, whose table ends 1e-4 from where it would in float64."""

    def sigma(self, timestep):
        return super().sigma(torch.as_tensor(timestep).float())


RUNS = load("schedules/families")["runs"] + [
    run for run in load("classic_schedules")["runs"] if run["settings"]["scheduler"] in FAMILIES]
DIFFUSERS = load("schedules/diffusers_families")["runs"]
MODELS = {"sd": (DiscreteLevels(rounded=True), VE), "sd zsnr": (DiscreteLevels(rounded=True, zero_terminal=True), VE),
          "sd3 flow": (FlowLevels(3.0), FLOW), "wan flow": (FlowLevels(8.0), FLOW),
          "flux": (FlowLevels(math.exp(1.15), count=10000, top=1.0), FLOW), "edm": (EDMLevels(0.002, 120.0), VE),
          "svd": (EDMLevels(0.002, 700.0), VE), "continuous v": (ContinuousVLevels(0.03, 500.0), VE),
          "cosmos rflow": (CosmosLevels(0.002, 80.0), VE), "stable cascade": (CascadeInFloat32(2.0), VE)}
OPTIONS = {"mu": "laplace_mu", "beta": "laplace_beta", "threshold_noise": "threshold"}  # ours: theirs
DEFAULTS = {name: parameter.default for name, parameter in inspect.signature(family_sigmas).parameters.items()}


def float32_leaves(model, scheduler, sigma):
    """The relative error that ComfyUI's own float32 makes of a level: four roundings of what the level is made of."""
    rounding, open_ = 4 * 2.0 ** -24, 0.0
    if sigma == 0.0:
        return 0.0
    if scheduler == "kl_optimal" or model == "continuous v":  # a tangent, of an angle up to pi / 2
        open_ += math.pi / 2.0 * (1.0 + sigma ** 2) / sigma
    if model == "stable cascade":  # sqrt((1 - k) / k), of what timestep() makes of sigma_min where it is asked
        low = min(sigma, 0.01) if scheduler in ("normal", "sgm_uniform") else sigma
        open_ += (1.0 + low ** 2) ** 2 / low ** 2
    if scheduler == "karras":  # the 7th power of a difference
        open_ += 7.0 * (500.0 / sigma) ** (1.0 / 7.0)
    if model == "cosmos rflow":
        open_ += (1.0 + sigma) ** 2 / sigma
    return 1e-6 + rounding * open_


@pytest.mark.parametrize("scheduler", sorted({run["settings"]["scheduler"] for run in RUNS}))
def test_golden_parity_with_comfyui(scheduler):
    for run in (run for run in RUNS if run["settings"]["scheduler"] == scheduler):
        options = {OPTIONS.get(name, name): value for name, value in run["settings"].items() if value is not None}
        model = options.pop("model_sampling", "").split(" (")[0]
        levels, process = MODELS.get(model, (None, None))
        options = {name: value for name, value in options.items() if name in DEFAULTS}  # not VP's own constants
        ours = family_sigmas(family=scheduler, levels=levels, process=process, **options).tolist()
        if run["sigmas"] is None:  # ComfyUI divides by zero here
            assert ours == pytest.approx([float(levels.sigma_max), 0.0])
            continue
        assert len(ours) == len(run["sigmas"])
        for mine, theirs in zip(ours, run["sigmas"]):
            assert abs(mine - theirs) <= theirs * float32_leaves(model, scheduler, theirs), run["settings"]


def of_diffusers(recorded, options):
    if "mu" in options:
        shift = options["mu"] if options.get("time_shift_type") == "linear" else math.exp(options["mu"])
        return {"family": "flow_shift", "shift": shift, "sigma_min": flow_shift(0.001, shift),
                "terminal": options.get("shift_terminal", 0.0)}
    if options.get("shift") == 3.0:
        return {"family": "normal", "levels": FlowLevels(3.0), "process": FLOW}
    kinds = {"use_karras_sigmas": "karras", "use_exponential_sigmas": "exponential",
             "use_lu_lambdas": "uniform_log_snr"}
    return {"family": next(family for key, family in kinds.items() if options.get(key)),
            "sigma_max": recorded[0], "sigma_min": recorded[-2]}


@pytest.mark.parametrize("run", DIFFUSERS, ids=lambda run: "-".join(map(str, run["settings"].values()))[-40:])
def test_golden_parity_with_diffusers(run):
    """In its float32, which for flows also rounds timesteps of up to 1000."""
    options = of_diffusers(run["sigmas"], run["settings"])
    ours = family_sigmas(run["settings"]["steps"], **options)
    assert ours.tolist() == pytest.approx(run["sigmas"], rel=3e-6)


@running(max_examples=300, deadline=None, derandomize=True)
@given(family=st.sampled_from(sorted(FAMILIES)), model=st.sampled_from(sorted(MODELS)), steps=st.integers(1, 60),
       denoise=st.floats(0.05, 1.0), comfy_exact=st.booleans(), shift=st.floats(0.2, 20.0),
       rho=st.just(0.0) | st.floats(0.05, 20.0), mu=st.floats(-2.0, 3.0),
       terminal=st.floats(0.0, 0.2), data_std=st.floats(0.1, 5.0), laplace_mu=st.floats(-1.0, 1.0),
       laplace_beta=st.floats(0.3, 3.0))
def test_any_options_give_levels_that_fall_to_zero(family, model, steps, comfy_exact, **options):
    levels, process = MODELS[model]
    if family in OF_FLOW and process is VE:
        return
    if family == "turbo" and model not in ("sd", "sd zsnr"):
        return
    if family == "laplace" and comfy_exact:
        steps += 1
    sigmas = family_sigmas(steps, family, comfy_exact=comfy_exact, levels=levels, process=process, **options)
    assert (sigmas.float().diff() < 0).all()
    assert sigmas[0] <= max(float(levels.sigma_max), 0.0) * (1 + 1e-6)
    assert sigmas[-1] == 0.0 or family == "laplace" and comfy_exact
    assert len(sigmas) <= steps + 1
    if not comfy_exact and family != "turbo" and model != "stable cascade":  # whose table repeats levels
        assert len(sigmas) == steps + 1


def test_denoise_keeps_the_last_steps_of_a_longer_schedule():
    for family in ("karras", "flow_shift", "kl_optimal"):
        whole = family_sigmas(12, family, sigma_max=1.0, sigma_min=0.01)
        assert torch.equal(family_sigmas(5, family, 0.4, sigma_max=1.0, sigma_min=0.01), whole[-6:])
        assert family_sigmas(5, family, 0.0, sigma_max=1.0, sigma_min=0.01).shape == (0,)


def test_turbo_takes_every_hundredth_timestep():
    levels = MODELS["sd"][0]
    for steps, denoise, places in ((3, 1.0, [999, 899, 799]), (2, 0.5, [499, 399])):
        sigmas = family_sigmas(steps, "turbo", denoise, levels=levels)
        assert sigmas.tolist() == pytest.approx([*levels.sigmas[places].tolist(), 0.0], rel=1e-6)
    assert len(family_sigmas(99, "turbo", levels=levels)) == 11
    with pytest.raises(ValueError, match="turbo is for models with 1000 timesteps"):
        family_sigmas(3, "turbo", levels=MODELS["flux"][0], process=FLOW)


def test_what_comfy_exact_changes_is_as_the_help_page_says():
    levels = FlowLevels(3.0)
    for family in FAMILIES:
        if family in ("turbo", "edm_time", *OF_FLOW):
            continue
        exact, plain = (family_sigmas(7, family, comfy_exact=on, levels=levels, process=FLOW) for on in (True, False))
        changed = family in ("normal", "sgm_uniform", "ddim_uniform", "laplace")
        assert (len(exact) != len(plain) or not torch.allclose(exact, plain)) == changed, family
    for family in ("normal", "sgm_uniform"):  # even in the time before the shift, once
        times = torch.tensor([flow_shift(sigma, 1 / 3) for sigma in
                              family_sigmas(7, family, comfy_exact=False, levels=levels, process=FLOW)[:-1].tolist()])
        assert torch.allclose(times.diff(), times.diff()[0].expand(6), rtol=1e-5)
    assert family_sigmas(7, "normal", comfy_exact=True, levels=levels, process=FLOW)[-2] > 2.9 * levels.sigma_min
    assert len(family_sigmas(7, "ddim_uniform", levels=MODELS["sd"][0])) == 9
    assert family_sigmas(8, "laplace", sigma_max=14.6, sigma_min=0.03)[-1] > 0.0
    assert len(family_sigmas(8, "laplace", sigma_max=14.6, sigma_min=0.03)) == 8


def test_repeats_are_dropped():
    levels = MODELS["sd"][0]
    assert len(family_sigmas(3000, "simple", levels=levels)) == 1001
    narrow = family_sigmas(40, "laplace", laplace_beta=10.0, sigma_max=2.0, sigma_min=0.5)
    assert len(narrow) < 10 and (narrow.diff() < 0).all()


def test_families_are_what_their_names_say():
    ends = {"sigma_max": 14.6, "sigma_min": 0.03}

    def inner(family, **options):
        return family_sigmas(9, family, **ends, **options)[:-1]

    def is_even(values):
        return torch.allclose(values.diff(), values.diff()[0].expand(8), rtol=1e-9)

    assert is_even(inner("karras", rho=3.0) ** (1 / 3)) and is_even(inner("karras") ** (1 / 7))
    assert is_even(inner("exponential").log()) and torch.allclose(inner("exponential"), inner("uniform_log_snr"))
    places = (inner("polyexponential", rho=2.0) / 0.03).log() / math.log(14.6 / 0.03)
    assert is_even(places.clamp(min=0.0).sqrt().round(decimals=6).double())
    assert is_even((inner("kl_optimal", data_std=0.5) / 0.5).atan())
    clock = linear_vp_clock()
    assert is_even(torch.tensor([clock.time_of(sigma) for sigma in inner("vp").tolist()], dtype=torch.float64))
    flow = family_sigmas(9, "uniform_log_snr", sigma_max=0.99, sigma_min=0.01, process=FLOW)[:-1]
    assert is_even(((1 - flow) / flow).log())
    from_noise = family_sigmas(9, "uniform_log_snr", levels=FlowLevels(), process=FLOW)
    assert from_noise[0] == 1.0 and is_even(torch.cat([torch.tensor([0.999], dtype=torch.float64),
                                                       from_noise[1:-1]]).logit())
    shifted = family_sigmas(9, "flow_shift", shift=5.0)
    assert torch.allclose(flow_shift(shifted, 1 / 5), torch.linspace(1, 0, 10, dtype=torch.float64))
    squares = family_sigmas(4, "quadratic", levels=MODELS["sd"][0])[:-1]
    assert squares[[0, -1]].tolist() == MODELS["sd"][0].sigmas[[999, 0]].tolist()
    assert squares[1].item() == pytest.approx(MODELS["sd"][0].sigmas[444].item(), rel=1e-6)  # 999 * 4 / 9


def test_flux_shift():
    assert mu_of_size(256, 256) == pytest.approx(0.5) and mu_of_size(1024, 1024) == pytest.approx(1.15)
    sized = family_sigmas(6, "flux_shift", width=1024, height=1024)
    assert torch.allclose(sized, family_sigmas(6, "flux_shift", mu=1.15))
    assert torch.allclose(sized, family_sigmas(6, "flow_shift", shift=math.exp(1.15)))
    assert family_sigmas(6, "flux_shift", terminal=0.1)[-2] == pytest.approx(0.1)
    assert torch.allclose(family_sigmas(6, "flux_shift", sigma_max=0.8)[0], torch.tensor(0.8, dtype=torch.float64))


def test_a_narrower_range_of_a_model():
    levels = MODELS["sd"][0]
    for family in FAMILIES:
        if family in OF_FLOW:
            continue
        sigmas = family_sigmas(8, family, sigma_max=5.0, sigma_min=0.5, levels=levels, process=VE)
        if family not in ("turbo", "ddim_uniform"):  # which do not start at the top
            assert 4.95 < sigmas[0] <= 5.001, family
    assert 0.495 < family_sigmas(8, "normal", sigma_min=0.5, levels=levels)[-2] < 0.505
    assert torch.equal(family_sigmas(9, "normal", levels=levels), classic_sigmas("normal", levels, 9))


@pytest.mark.parametrize(("options", "message"), [
    ({"family": "x"}, "family must be one of karras"), ({"family": "karras"}, "karras needs sigma_max and sigma_min"),
    ({"family": "simple"}, "simple needs a MODEL"), ({"steps": 0}, "steps of at least 1"),
    ({"denoise": 1.5}, "denoise"), ({"family": "flow_shift", "process": VE}, "for flow models"),
    ({"family": "flow_shift", "shift": 0.0}, "shift"), ({"family": "flow_shift", "sigma_max": 2.0}, "at or below 1"),
    ({"sigma_max": 1.0, "sigma_min": 2.0}, "need 0 < sigma_min < sigma_max"),
    ({"family": "laplace", "steps": 1, "sigma_max": 9.0, "sigma_min": 1.0}, "turn comfy_exact off"),
    ({"family": "linear_quadratic", "linear_steps": 10, "sigma_max": 1.0, "sigma_min": 0.1}, "linear_steps must lie"),
    ({"family": "linear_quadratic", "threshold": 0.9, "linear_steps": 1, "sigma_max": 1.0, "sigma_min": 0.1},
     "not fall"),
    ({"family": "simple", "sigma_max": 5.0, "sigma_min": 4.999, "levels": DiscreteLevels()}, "levels between"),
])
def test_bad_input_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        family_sigmas(**options)


def test_the_node_reports_the_steps_it_has():
    node = NODE_CLASS_MAPPINGS["OdeonSigmasFamily"]()
    shown = {key: spec[1]["default"] for key, spec in node.INPUT_TYPES()["required"].items()}
    assert set(OF_TABLE) | set(OF_FLOW) <= set(FAMILIES)
    sigmas, steps = node.build(**{**shown, "sigma_max": 14.6, "sigma_min": 0.03})
    assert sigmas.dtype == torch.float32 and steps == len(sigmas) - 1 == 10
    sigmas, steps = node.build(**{**shown, "family": "flux_shift", "denoise": 0.0})
    assert (len(sigmas), steps) == (0, 0)
