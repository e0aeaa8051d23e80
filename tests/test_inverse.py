"""DPS, PSLD and STSL: what they are at neutral values, exact problems, the trace of the second order, interruption."""
import math

import pytest
import torch
from gmm import MEANS, denoise

from odeon.editing.inverse import PROBE, Problem, Weights, _Slope, hutchinson, sample_inverse
from odeon.editing.operators import operator
from odeon.samplers.ddim import plan_ddim
from odeon.samplers.linear import run
from odeon.samplers.noise import step_noise
from odeon.samplers.process import FLOW, VE

MEAN, STD = 0.2, 0.5
AREA = torch.zeros(1, 8, 8)
AREA[:, 4:] = 1.0
LEVELS = {"VE": [14.6, 6.0, 2.5, 1.0, 0.4, 0.1, 0.0], "flow": [1.0, 0.85, 0.7, 0.5, 0.3, 0.1, 0.0]}
PROCESSES = {"VE": VE, "flow": FLOW}


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(process):
    """The denoiser of N(MEAN, STD^2)."""
    def model(x, sigma):
        s, a = sigma.reshape(-1, 1, 1, 1), sigma.new_tensor([process.alpha(float(sigma[0]))])
        return (STD ** 2 * a * x + s ** 2 * MEAN) / (STD ** 2 * a ** 2 + s ** 2)

    return model


def bent(x, sigma):
    """A denoiser that is not linear."""
    return torch.tanh(x / (1.0 + sigma.reshape(-1, 1, 1, 1))) + 0.1 * x.roll(1, -1).sin()


def problem(a=None, y=None, **changes):
    a = a or operator("inpaint", area=AREA)
    return Problem(a, drawn(1, 3, 8, 8, seed=7) * 0.3 if y is None else y,
                   **{"decode": lambda x: x, "encode": lambda x: x, **changes})


def restored(model, x, process, given=None, levels=None, **options):
    def noise_of(stream):
        draw = step_noise(x, 0, stream)
        return lambda *at: draw(*at).to(x)

    name = "flow" if process is FLOW else "VE"
    return sample_inverse(model, x, levels or LEVELS[name], problem=given or problem(),
                          clean=torch.zeros_like(x), process=process, noise_of=noise_of,
                          **{"differentiable": lambda model: model, **options})


@pytest.mark.parametrize("name", PROCESSES)
def test_without_weights_it_is_ddim_to_the_bit(name):
    x, process = LEVELS[name][0] * drawn(2, 3, 8, 8), PROCESSES[name]
    for eta in (0.0, 1.0):
        draw = step_noise(x, 0, "inverse")
        ddim = run(lambda x, sigma: bent(x, x.new_full((len(x),), sigma)), x,
                   plan_ddim(LEVELS[name], eta=eta, process=process),
                   noise_sampler=lambda *at, draw=draw: draw(*at).to(x))
        for weights in ({"omega": 0.0, "gamma": 0.0}, {"zeta": 0.0}):
            assert torch.equal(restored(bent, x, process, eta=eta, **weights), ddim)


@pytest.mark.parametrize("name", PROCESSES)
def test_stsl_with_one_look_and_no_second_order_is_psld(name):
    x, process = LEVELS[name][0] * drawn(2, 3, 8, 8), PROCESSES[name]
    psld = restored(bent, x, process, method="psld", zeta=0.2)
    stsl = restored(bent, x, process, method="stsl", zeta=0.2, inner=1, second_order=0.0, start="noise")
    assert torch.equal(psld, stsl)
    dps = restored(bent, x, process, method="dps", zeta=0.2)
    assert torch.equal(dps, restored(bent, x, process, method="psld", zeta=0.2, gamma=0.0))
    assert not torch.allclose(dps, psld, atol=1e-4)


def test_a_step_is_the_papers_in_the_scale_of_comfyui():
    """z' - grad_z L with z = x / sqrt(1 + s^2), by hand."""
    s, t, x, given = 2.5, 1.0, drawn(1, 3, 8, 8), problem()
    a, b = (1.0 / math.sqrt(1.0 + level ** 2) for level in (s, t))
    z = (a * x).requires_grad_()
    d = bent(z / a, torch.full((1,), s, dtype=torch.float64))
    value = (given.operator(d) - given.y).norm() + 0.1 * (d - given.operator.projected(d, given.y)).norm()
    slope, = torch.autograd.grad(value, z)
    ddim = b * (d + t / s * (z / a - d)).detach()
    out = restored(bent, x, VE, levels=[s, t], given=given, limit=False)
    assert torch.allclose(b * out, ddim - slope, atol=1e-12)


@pytest.mark.parametrize("name", PROCESSES)
def test_the_gradient_is_that_of_the_sum_of_terms(name):
    """All three terms at once, by plain autograd, second order included."""
    process, sigma, x, probe = PROCESSES[name], 0.6, drawn(2, 3, 8, 8), drawn(2, 3, 8, 8, seed=3)
    given = problem(operator("downscale", factor=2), drawn(2, 3, 4, 4, seed=4))
    slope, found, residual = _Slope(given, bent, Weights(0.7, 0.3, 0.5), lambda *_: probe, process)(bent, x, sigma)
    at = x.clone().requires_grad_()
    d = bent(at, torch.full((2,), sigma, dtype=torch.float64))
    value = (0.7 * given.residual(d) + 0.3 * given.gluing(d, d)
             + 0.5 * hutchinson(bent, at, sigma, probe, process=process))
    wanted, = torch.autograd.grad(value.sum(), at)
    assert torch.allclose(slope, wanted, atol=1e-12) and torch.equal(found, d.detach())
    assert torch.allclose(residual, given.residual(d).detach())


@pytest.mark.parametrize("name", PROCESSES)
def test_of_a_gaussian_the_second_order_is_constant(name):
    x, process = LEVELS[name][0] * drawn(2, 3, 8, 8), PROCESSES[name]
    with_it, without = (restored(gaussian(process), x, process, method="stsl", zeta=0.05, second_order=second)
                        for second in (0.5, 0.0))
    assert torch.allclose(with_it, without, atol=1e-10)
    other = [restored(bent, x, process, method="stsl", zeta=0.05, second_order=second) for second in (0.5, 0.0)]
    assert not torch.allclose(*other, atol=1e-3)


def test_the_trace_is_estimated_without_bias():
    """Over 10^4 probes, of the mixture between two components: 3 standard errors, beside autograd's own trace."""
    sigma, x = 1.2, (0.5 * (MEANS[0] + MEANS[1]))[None]
    true = torch.autograd.functional.jacobian(lambda x: denoise(x, sigma)[0], x)[:, 0].trace()
    found = hutchinson(lambda x, level: denoise(x, sigma), x.expand(10_000, 16), sigma, drawn(10_000, 16), process=VE)
    bias = (PROBE * sigma) ** 2 * 0.5  # of the difference, of a Jacobian whose own scale is 1
    assert abs(found.mean() - true) < 3.0 * found.std() / 100.0 + bias
    assert abs(found.mean() - true) < 0.05 * true


@pytest.mark.parametrize("method", ["dps", "psld", "stsl"])
@pytest.mark.parametrize("name", PROCESSES)
def test_a_gaussian_seen_in_part_is_restored(name, method):
    """Prior N(m, s^2 I), half of the pixels known exactly: they are met, the others are what DDIM makes of them."""
    process, top = PROCESSES[name], LEVELS[name][0]
    levels = ([top * (0.02 / top) ** (i / 100) for i in range(100)] if process is VE
              else [1.0 - i / 100 for i in range(100)]) + [0.0]
    x = top * drawn(2, 3, 8, 8)
    given = problem(y=problem().operator(MEAN + STD * drawn(1, 3, 8, 8, seed=9)))
    options = {"zeta": 0.4, "inner": 2, "start": "noise"}
    record = []
    out = restored(gaussian(process), x, process, given, levels, method=method, record=record, **options)
    plain = restored(gaussian(process), x, process, given, levels, zeta=0.0)
    known = AREA[0] == 0.0
    assert (out - given.y)[..., known].abs().max() < 0.1 and (plain - given.y)[..., known].abs().max() > 1.0
    assert torch.allclose(out[..., ~known], plain[..., ~known], atol=1e-9)
    assert record[-1][1][0] < 0.1 * record[0][1][0] and len(record) == (200 if method == "stsl" else 100) + 1


@pytest.mark.parametrize("method", ["psld", "stsl"])
def test_batches_are_single_runs(method):
    x = 14.6 * drawn(3, 3, 8, 8)
    both = restored(bent, x, VE, method=method, zeta=0.2)
    assert torch.allclose(restored(bent, x[1:2], VE, method=method, zeta=0.2), both[1:2], atol=1e-9)


@pytest.mark.parametrize("name", PROCESSES)
def test_a_limited_move_ends_on_the_measurement_where_all_is_straight(name):
    """Of a Gaussian seen in part: one move at the second level meets it, however hard the pull; without it bursts."""
    process, kept, levels = PROCESSES[name], {}, LEVELS[name][1:]
    x, given = levels[0] * drawn(2, 3, 8, 8), problem(y=problem().operator(drawn(1, 3, 8, 8, seed=9)))
    for limit in (True, False):
        kept[limit] = []
        restored(gaussian(process), x, process, given, levels, method="stsl", inner=2, second_order=0.0, gamma=0.0,
                 zeta=1e6, start="noise", limit=limit, record=kept[limit])
    assert max(kept[True][1][1]) < 1e-9 * min(kept[True][0][1])
    assert min(kept[False][1][1]) > max(kept[False][0][1])


def test_it_starts_from_the_measurement():
    """Under noise: alpha A^+ y + sigma n."""
    x, seen = drawn(2, 3, 8, 8), []
    given = problem(operator("downscale", factor=2), drawn(2, 3, 4, 4, seed=4))

    def look(x, sigma):
        seen.append(x)
        return bent(x, sigma)

    for name, process in PROCESSES.items():
        sigma, alpha = LEVELS[name][1], process.alpha(LEVELS[name][1])
        clean = drawn(2, 3, 8, 8, seed=6)
        restored(look, alpha * clean + sigma * x, process, given, LEVELS[name][1:], method="stsl", zeta=0.0,
                 second_order=0.0, **{"start": "measurement"} if process is FLOW else {})
        guess = given.y.repeat_interleave(2, -1).repeat_interleave(2, -2)
        assert torch.allclose(seen[0], alpha * (clean + guess) + sigma * x)  # `clean` is zeros to this run
        seen.clear()


def test_a_stopped_run_gives_the_best_so_far():
    x, looks = 14.6 * drawn(2, 3, 8, 8), []

    def callback(i, x, denoised, sigma, of):
        looks.append((denoised, i, of))
        if len(looks) == 4:
            raise KeyboardInterrupt

    record, done = [], []
    out = restored(bent, x, VE, problem(done=lambda: done.append(1)), zeta=3.0, callback=callback, record=record)
    best = [min(range(4), key=lambda k: record[k][1][item]) for item in range(2)]
    assert all(torch.equal(out[item], looks[best[item]][0][item]) for item in range(2))
    assert [look[1:] for look in looks] == [(i, 6) for i in range(4)] and done == [1]


def test_bad_input_is_named():
    x = drawn(1, 3, 8, 8)
    with pytest.raises(ValueError, match="method must be one of"):
        restored(bent, x, VE, method="ddrm")
    with pytest.raises(ValueError, match="the measurement has the size"):
        restored(bent, x, VE, problem(operator("downscale", factor=2)))
