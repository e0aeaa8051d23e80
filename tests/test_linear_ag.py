"""LinearAG: the fit is exact where it can be, holds on new noises, and the policy search keeps its tolerance."""
import math

import pytest
import torch
from gmm import denoise, log_spaced

from odeon.guidance.linear_ag import LinearAG, estimated, of_slope, paper_policy, slope, step_of
from odeon.measure.kept import load_linear_ag, read_tensors, save_linear_ag, write_tensors
from odeon.measure.linear_ag import fit_linear_ag, linear_ag_coefs, linear_ag_cost

SIGMAS = [*log_spaced(11, top=14.6, bottom=0.05), 0.0]


def noises(count, seed):
    return 14.6 * torch.randn(count, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixture(x, sigma):
    return denoise(x, sigma, 0), denoise(x, sigma)


def fitted(predict, x, sigmas=SIGMAS, **options):
    *_, last = fit_linear_ag(predict, x, sigmas, scale=3.0, **options)
    return linear_ag_coefs(last.state, sigmas, {"what": "LinearAG weights"})


def run(predict, x, coefs, scale=3.0):
    """(the final state by Euler steps, the relative error of each estimate)."""
    conds, unconds, errors = [], [], []
    for i, sigma in enumerate(coefs.sigmas[:-1]):
        at = torch.tensor(sigma, dtype=torch.float64)
        cond, real = (slope(denoised, x, at) for denoised in predict(x, sigma))
        conds.append(cond)
        guess = estimated(conds, unconds, coefs)
        errors.append(((guess - real).norm() / real.norm()).item())
        unconds.append(real if coefs.policy[i] == "both" else guess)
        used = cond if coefs.policy[i] == "cond" else unconds[-1]
        x = x + (coefs.sigmas[i + 1] - sigma) * (used + scale * (cond - used))
    return x, errors


def test_exact_where_the_unconditional_slope_is_linear():
    def gaussians(x, sigma):
        return tuple(x * std ** 2 / (std ** 2 + sigma ** 2) for std in (0.5, 2.0))

    coefs = fitted(gaussians, noises(4, 1), ridge=0.0)._replace(policy=("both",) * 12)
    assert max(run(gaussians, noises(4, 2), coefs)[1]) < 1e-9


def test_estimates_hold_on_new_noises_at_low_levels():
    coefs = fitted(mixture, noises(64, 1))
    _, errors = run(mixture, noises(64, 2), coefs._replace(policy=("both",) * 12))
    low = [error for error, sigma in zip(errors, SIGMAS) if sigma < 1.0]
    assert max(low) <= 0.05, errors


def test_search_keeps_the_tolerance_and_saves_more_than_none():
    x = noises(32, 1)
    coefs = fitted(mixture, x, policy="search", tolerance=0.05)
    full, _ = run(mixture, x, coefs._replace(policy=("both",) * 12))
    found, _ = run(mixture, x, coefs)
    assert (found - full).norm() <= 0.05 * full.norm()
    assert sum(choice != "both" for choice in coefs.policy) >= 4
    strict, _ = run(mixture, x, fitted(mixture, x, policy="search", tolerance=0.0))
    assert (strict - full).abs().max() < 1e-12


@pytest.mark.parametrize("policy", ["paper", "search"])
def test_it_goes_on_from_any_state_and_costs_what_it_says(policy):
    calls = []

    def predict(x, sigma):
        calls.append(sigma)
        return mixture(x, sigma)

    x = noises(8, 1)
    whole = [*fit_linear_ag(predict, x, SIGMAS, scale=3.0, policy=policy)]
    assert len(calls) <= linear_ag_cost(SIGMAS, policy=policy) == whole[-1].total
    assert [step.done for step in whole] == sorted(step.done for step in whole)
    for at in (2, len(whole) - 3):
        *_, last = fit_linear_ag(predict, x, SIGMAS, scale=3.0, policy=policy, state=whole[at].state)
        assert torch.allclose(last.state["weights"], whole[-1].state["weights"], atol=1e-9)
        assert torch.equal(last.state["policy"], whole[-1].state["policy"])


def test_the_paper_s_policy():
    assert paper_policy(8) == ("both", "estimate", "both", "estimate", "cond", "cond", "cond", "cond")
    assert paper_policy(3) == ("both", "cond", "cond")


def test_slopes_there_and_back():
    x, denoised = noises(2, 1), noises(2, 3)
    sigma = torch.tensor([3.0, 0.5])
    assert torch.allclose(of_slope(slope(denoised, x, sigma), x, sigma), denoised)


def test_files_keep_it(tmp_path):
    coefs = fitted(mixture, noises(4, 1))
    save_linear_ag(tmp_path / "a.safetensors", coefs)
    assert load_linear_ag(tmp_path / "a.safetensors") == coefs
    write_tensors(tmp_path / "b.safetensors", {"x": torch.zeros(1)}, {"what": "something"})
    with pytest.raises(ValueError, match="holds no LinearAG weights but something"):
        load_linear_ag(tmp_path / "b.safetensors")
    assert read_tensors(tmp_path / "a.safetensors")[1]["what"] == "LinearAG weights"


def test_bad_input_is_named():
    coefs = LinearAG((2.0, 1.0, 0.0), ((1.0,), (0.0, 1.0)), ((), (0.0,)), ("both", "cond"), {})
    assert step_of(torch.tensor(1.0).item(), coefs) == 1
    with pytest.raises(ValueError, match="no weights for sigma 1.5: they were fitted for 2 steps"):
        step_of(1.5, coefs)
    for options, said in (({"policy": "x"}, "policy must be one of paper, search"),):
        with pytest.raises(ValueError, match=said):
            next(fit_linear_ag(mixture, noises(2, 1), SIGMAS, scale=3.0, **options))
    for sigmas in ([1.0, 0.0], [math.inf, 1.0, 0.0], [2.0, math.nan, 0.0], [2.0, 1.0, -1.0]):
        with pytest.raises(ValueError, match="falling schedule of at least 2 steps"):
            next(fit_linear_ag(mixture, noises(2, 1), sigmas, scale=3.0))
