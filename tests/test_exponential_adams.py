import math

import pytest
import torch
from gmm import UNIT_NOISE, denoise, denoise_flow, log_spaced, logit_spaced

from odeon.samplers.exponential_adams import plan_exponential_adams
from odeon.samplers.linear import run
from odeon.samplers.process import FLOW, VE

CASES = {"VE": (VE, denoise, log_spaced), "flow": (FLOW, denoise_flow, logit_spaced)}


@pytest.fixture(scope="module", params=list(CASES))
def case(request):
    process, model, grid = CASES[request.param]
    start = UNIT_NOISE * grid(1)[0]
    exact = run(model, start, plan_exponential_adams(grid(8192), order=4, process=process))
    return process, model, grid, start, exact


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_order_of_convergence(case, order):
    process, model, grid, start, exact = case
    coarse, fine = ((run(model, start, plan_exponential_adams(grid(n), order=order, process=process)) - exact).norm()
                    for n in (320, 640))
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("process", [VE, FLOW])
def test_order_one_is_ddim(process):
    sigmas = [0.9, 0.6, 0.35, 0.1, 0.0]
    steps = plan_exponential_adams(sigmas, order=1, process=process)
    x = y = UNIT_NOISE
    for sigma, sigma_next in zip(sigmas, sigmas[1:]):
        d = denoise(y, sigma)
        eps = (y - process.alpha(sigma) * d) / sigma
        y = process.alpha(sigma_next) * d + sigma_next * eps
    assert torch.allclose(run(denoise, x, steps), y, atol=1e-13)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize(("process", "top"), [(VE, 14.6), (FLOW, 1.0)])
def test_constant_denoiser_is_exact(order, process, top):
    target = UNIT_NOISE.flip(0)
    sigmas = [top, 0.7 * top, 0.4 * top, 0.2 * top, 0.05 * top]
    start = process.alpha(top) * target + top * UNIT_NOISE
    x = run(lambda x, sigma: target, start, plan_exponential_adams(sigmas, order=order, process=process))
    assert torch.allclose(x, process.alpha(sigmas[-1]) * target + sigmas[-1] * UNIT_NOISE, atol=1e-13)


def test_exact_on_polynomials_in_lambda():
    # order p is exact, from its first full step on, for D a polynomial of degree p - 1 in lambda
    lams = torch.linspace(0.0, 3.0, 13, dtype=torch.float64).tolist()
    sigmas = [math.exp(-lam) for lam in lams]
    model = lambda x, sigma: torch.full_like(x, math.log(sigma) ** 2)  # noqa: E731
    steps = plan_exponential_adams(sigmas, order=3)
    x = torch.zeros(1, 1, dtype=torch.float64)
    trajectory = []
    run(model, x, steps, callback=lambda i, x, denoised, sigma: trajectory.append(x / sigma))
    # d(x / sigma) / dlam = exp(lam) lam^2, whose integral is exp(lam) (lam^2 - 2 lam + 2)
    primitive = lambda lam: math.exp(lam) * (lam * lam - 2.0 * lam + 2.0)  # noqa: E731
    for i in range(3, 12):
        assert (trajectory[i] - trajectory[3]).item() == pytest.approx(
            primitive(lams[i]) - primitive(lams[3]), rel=1e-12)


def test_starts_from_pure_noise_on_flow():
    sigmas = [1.0, 0.8, 0.5, 0.2, 0.0]
    steps = plan_exponential_adams(sigmas, order=4, eta=1.0, process=FLOW)
    assert all(math.isfinite(v) for step in steps for v in (step.predict.x_coef, step.predict.noise_coef,
                                                           *step.predict.d_coefs))
    assert steps[0].predict.x_coef == 0.0  # eta > 0 from infinite noise: the state is drawn anew
    assert plan_exponential_adams(sigmas, process=FLOW)[0].predict == (0.8, (pytest.approx(0.2),), 0.0)


def test_eta_one_keeps_the_variance_of_a_gaussian():
    # data N(0, 1): the reverse SDE at every eta must end with variance sigma_end^2 + 1
    generator = torch.Generator().manual_seed(0)
    sigmas = log_spaced(200, top=30.0, bottom=0.1)
    x = torch.randn(20000, 1, generator=generator, dtype=torch.float64) * math.sqrt(30.0 ** 2 + 1.0)
    noise = lambda sigma, sigma_next: torch.randn(x.shape, generator=generator, dtype=x.dtype)  # noqa: E731
    model = lambda x, sigma: x / (1.0 + sigma ** 2)  # noqa: E731
    out = run(model, x, plan_exponential_adams(sigmas, order=2, eta=1.0), noise_sampler=noise)
    assert out.var().item() == pytest.approx(1.01, rel=0.03)


@pytest.mark.parametrize(("options", "sigmas", "message"), [
    ({"order": 5}, [2.0, 1.0], "order must be 1, 2, 3 or 4, got 5"),
    ({}, [1.0, 2.0, 0.0], "must strictly decrease"),
    ({}, [2.0, 2.0, 0.0], "must strictly decrease"),
    ({}, [2.0], "at least 2 sigmas"),
    ({}, [], "at least 2 sigmas"),
    ({}, [float("nan"), 0.0], "must be finite"),
    ({}, [1.0, -1.0], r"must lie in \[0, inf\]"),
    ({"process": FLOW}, [14.6, 0.0], r"flow sigmas must lie in \[0, 1\]"),
])
def test_bad_input_is_named(options, sigmas, message):
    with pytest.raises(ValueError, match=message):
        plan_exponential_adams(sigmas, **options)


def test_noise_must_be_given():
    with pytest.raises(ValueError, match="adds noise but noise_sampler is None"):
        run(denoise, UNIT_NOISE, plan_exponential_adams([2.0, 1.0, 0.0], eta=1.0))
