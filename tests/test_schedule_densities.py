"""The cosine schedule and densities of log-SNR: their formulas, their quantiles, their ends."""
import math

import gmm
import pytest
import scipy.stats
import torch

from odeon import NODE_CLASS_MAPPINGS
from odeon.samplers.dpm_solver_pp import plan_dpm_solver_pp
from odeon.samplers.exponential_adams import plan_exponential_adams
from odeon.samplers.linear import run
from odeon.samplers.process import FLOW, VE
from odeon.schedules.cosine import cosine_sigmas
from odeon.schedules.family import family_sigmas
from odeon.schedules.log_snr_density import NAMES, log_snr_density_sigmas

SD = {"sigma_max": 14.614641, "sigma_min": 0.029167}
# independent of ours: SciPy's distributions of L = log SNR, with mu 0.7 and width 1.5
SCIPY = {"laplace": scipy.stats.laplace(0.7, 1.5), "cauchy": scipy.stats.cauchy(0.7, 1.5),
         "cosine_shifted": scipy.stats.hypsecant(0.7, 2.0), "cosine_scaled": scipy.stats.hypsecant(0.7, 3.0),
         "logistic": scipy.stats.logistic(0.7, 1.5), "normal": scipy.stats.norm(0.7, 1.5)}


def log_snr(sigmas, process):
    return (2.0 * torch.tensor([math.log(process.alpha(sigma) / sigma) for sigma in sigmas.tolist()])).numpy()


@pytest.mark.parametrize("process", [VE, FLOW], ids=lambda process: process.name)
@pytest.mark.parametrize("density", list(SCIPY))
def test_levels_are_the_density_s_quantiles(density, process):
    """Kolmogorov and Smirnov: the levels' distribution is the density cut off at the two ends."""
    steps, ends = 2000, {"sigma_max": 0.98, "sigma_min": 0.01}
    sigmas = log_snr_density_sigmas(steps, density, mu=0.7, width=1.5, process=process, **ends)[:-1]
    assert len(sigmas) == steps
    low, high = (2.0 * math.log(process.alpha(ends[end]) / ends[end]) for end in ("sigma_max", "sigma_min"))
    first, last = SCIPY[density].cdf([low, high])
    found = scipy.stats.kstest(log_snr(sigmas, process), lambda x: (SCIPY[density].cdf(x) - first) / (last - first))
    assert found.statistic < 1.0 / steps + 1e-6


@pytest.mark.parametrize("density", NAMES)
def test_both_ends_are_hit_and_every_step_is_kept(density):
    for process, ends in ((VE, SD), (FLOW, {"sigma_max": 1.0, "sigma_min": 0.003})):
        for steps in (1, 2, 3, 10, 40):
            sigmas = log_snr_density_sigmas(steps, density, process=process, **ends)
            assert len(sigmas) == steps + 1 and (sigmas.diff() < 0).all()
            assert sigmas[0] == ends["sigma_max"] and sigmas[-1] == 0.0
            if steps > 1:
                assert sigmas[-2] == ends["sigma_min"]
        left = log_snr_density_sigmas(6, density, append_zero=False, process=process, **ends)
        assert len(left) == 7 and left[-1] == ends["sigma_min"]


def test_symmetric_curves_give_symmetric_flows():
    for density in NAMES:
        sigmas = log_snr_density_sigmas(9, density, sigma_max=0.98, sigma_min=0.02, process=FLOW)[:-1]
        assert torch.allclose(sigmas + sigmas.flip(0), torch.ones(9, dtype=torch.float64), atol=1e-12)


def test_limits_and_units():
    even = family_sigmas(10, "exponential", **SD)
    assert torch.allclose(log_snr_density_sigmas(10, "uniform", **SD), even, rtol=1e-12)
    assert torch.allclose(log_snr_density_sigmas(10, "normal", width=1e4, **SD), even, rtol=1e-6)
    cosine = log_snr_density_sigmas(10, "cosine_shifted", **SD)
    assert torch.allclose(cosine, family_sigmas(10, "kl_optimal", **SD), rtol=1e-9)
    assert torch.allclose(log_snr_density_sigmas(10, "cosine_scaled", width=1.0, **SD), cosine)
    for density in SCIPY:
        ours = log_snr_density_sigmas(10, density, mu=1.2, width=3.0, **SD)
        theirs = log_snr_density_sigmas(10, density, mu=-0.6, width=1.5, units="comfy_log_sigma", **SD)
        assert torch.allclose(ours, theirs, rtol=1e-12)


def test_clamped_is_the_whole_curve_without_what_falls_outside():
    whole = log_snr_density_sigmas(50, "laplace", width=2.0, ends="clamp", **SD)
    assert len(whole) < 51 and (whole.diff() < 0).all()
    assert whole[[0, -2]].tolist() == [SD["sigma_max"], SD["sigma_min"]]
    comfy = family_sigmas(50, "laplace", laplace_beta=1.0, **SD)  # which has 1e-5 in its logarithm
    assert torch.allclose(whole[:-1], comfy, rtol=1e-3)


def test_cosine_is_its_formula():
    def sigma(t, s):
        f = [math.cos((time + s) / (1 + s) * math.pi / 2) ** 2 for time in (0.0, t)]
        return math.sqrt(f[0] / f[1] - 1.0)

    ours = cosine_sigmas(20, "none", **SD)
    assert ours[:-1].tolist() == pytest.approx([sigma(0.9946 * (1 - i / 20), 0.008) for i in range(20)], rel=1e-9)
    assert ours[-1] == 0.0 and ours[0] < 200.0
    plain = cosine_sigmas(20, "none", s=0.0, **SD)
    tangents = [math.tan(math.pi / 2 * 0.9946 * (1 - i / 20)) for i in range(20)]
    assert plain[:-1].tolist() == pytest.approx(tangents, rel=1e-9)
    assert torch.allclose(cosine_sigmas(20, s=0.0, **SD), family_sigmas(20, "kl_optimal", **SD), rtol=1e-9)
    inside = cosine_sigmas(20, **SD)
    assert inside[[0, -1]].tolist() == [SD["sigma_max"], 0.0] and inside[-2].item() == pytest.approx(SD["sigma_min"])


def test_cosine_has_the_density_of_its_name():
    sigmas = cosine_sigmas(2000, s=0.0, sigma_max=1e4, sigma_min=1e-4)[:-1]
    assert scipy.stats.kstest(log_snr(sigmas, VE), scipy.stats.hypsecant(0.0, 2.0).cdf).statistic < 1.0 / 2000 + 1e-4


def test_cosine_on_flows_has_the_same_snr():
    flow = cosine_sigmas(12, sigma_max=0.95, sigma_min=0.01, process=FLOW)
    ve = cosine_sigmas(12, sigma_max=0.95 / 0.05, sigma_min=0.01 / 0.99)
    assert torch.allclose(flow / (1 - flow), ve, rtol=1e-9)
    from_noise = cosine_sigmas(12, sigma_max=1.0, sigma_min=0.001, process=FLOW)
    assert from_noise[0] == 1.0 and (from_noise.diff() < 0).all() and len(from_noise) == 13


STARTS = torch.randn(256, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def error(sigmas, process, exact):
    """Median rms error of DPM-Solver++(2M) on the exact mixture, from 256 starts."""
    denoise = gmm.denoise if process is VE else gmm.denoise_flow
    steps = plan_dpm_solver_pp(sigmas.tolist(), order=2, lower_order_below=0, process=process)
    return (run(denoise, STARTS * sigmas[0], steps) - exact).square().mean(1).sqrt().median().item()


def test_a_wide_curve_samples_better_than_the_paper_s_narrow_one():
    """The help pages' words, at 10 steps."""
    fine = [*gmm.log_spaced(300, SD["sigma_max"], SD["sigma_min"]), 0.0]
    exact = run(gmm.denoise, STARTS * fine[0], plan_exponential_adams(fine, order=3))
    narrow, middle, wide = (error(log_snr_density_sigmas(10, "laplace", width=width, **SD), VE, exact)
                            for width in (0.5, 2.0, 4.0))
    assert wide < middle < narrow / 4.0
    karras = error(family_sigmas(10, "karras", **SD), VE, exact)
    assert error(cosine_sigmas(10, **SD), VE, exact) < karras and wide < 0.7 * karras


def test_even_steps_are_better_on_a_flow():
    """The help pages' words, at 10 steps."""
    fine = [1.0, *gmm.logit_spaced(300, top=0.9995, bottom=1e-4), 0.0]
    exact = run(gmm.denoise_flow, STARTS, plan_exponential_adams(fine, order=3, process=FLOW))
    flow = {"sigma_max": 1.0, "sigma_min": 0.001, "process": FLOW}
    even = error(family_sigmas(10, "flow_shift", shift=1.0), FLOW, exact)
    assert error(cosine_sigmas(10, **flow), FLOW, exact) > 1.7 * even
    for density in NAMES:
        for width in (0.5, 1.0, 2.0, 4.0):
            assert error(log_snr_density_sigmas(10, density, width=width, **flow), FLOW, exact) > even, (density, width)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: log_snr_density_sigmas(0, **SD), "steps must be at least 1"),
    (lambda: log_snr_density_sigmas(5, "x", **SD), "density must be one of laplace"),
    (lambda: log_snr_density_sigmas(5, units="x", **SD), "units must be one of"),
    (lambda: log_snr_density_sigmas(5, width=0.0, **SD), "width must be above 0"),
    (lambda: log_snr_density_sigmas(5, mu=90.0, **SD), "move mu into the range"),
    (lambda: log_snr_density_sigmas(5, sigma_max=1.0, sigma_min=1.0), "need 0 < sigma_min < sigma_max"),
    (lambda: cosine_sigmas(5, "x", **SD), "rescale must be one of"),
    (lambda: cosine_sigmas(5, s=-0.1, **SD), r"s must lie in \[0, 1\]"),
    (lambda: cosine_sigmas(5, t_max=1.0, **SD), "t_max must lie between"),
    (lambda: cosine_sigmas(5, sigma_max=2.0, sigma_min=0.1, process=FLOW), "at or below 1"),
])
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_nodes_take_their_range_from_the_model():
    model = NODE_CLASS_MAPPINGS["OdeonShapesCheckpoint"]().load("shapes-dit")[0]
    for name in ("OdeonSigmasCosine", "OdeonSigmasLogSNRDensity"):
        node = NODE_CLASS_MAPPINGS[name]()
        shown = {key: spec[1]["default"] for key, spec in node.INPUT_TYPES()["required"].items()}
        with pytest.raises(ValueError, match="without a MODEL"):
            node.build(**shown)
        sigmas = node.build(model=model, **shown)[0]
        assert sigmas.dtype == torch.float32 and sigmas[0] == 1.0 and len(sigmas) == 11
        given = node.build(**{**shown, "sigma_max": 14.6, "sigma_min": 0.03})[0]
        assert given[0].item() == pytest.approx(14.6)
