import math

import pytest
import torch
from gmm import LABELS, MEANS, STDS, UNIT_NOISE, WEIGHTS, denoise, denoise_flow

from odeon.guidance.recurrence import recur
from odeon.guidance.reflect import into_box, reflect
from odeon.guidance.stepwise import chosen, pick, sample_stepwise_select
from odeon.samplers.ddim import plan_ddim
from odeon.samplers.edm_heun import plan_edm_heun
from odeon.samplers.exponential_adams import plan_exponential_adams
from odeon.samplers.linear import run
from odeon.samplers.process import FLOW, VE
from odeon.samplers.unipc import plan_unipc

SIGMAS = [14.6 * (0.05 / 14.6) ** (i / 11) for i in range(12)] + [0.0]


def noises(shape, seed=0):
    """noise_of(stream) -> noise_sampler with generators of its own for each stream."""
    def noise_of(stream):
        generator = torch.Generator().manual_seed(seed + sum(stream.encode()))
        return lambda sigma, sigma_next: torch.randn(shape, generator=generator, dtype=torch.float64)

    return noise_of


def log_class(x, sigma=0.3):
    """log p(class 1 | x) of the mixture, pictures blurred by sigma."""
    variance = STDS ** 2 + sigma ** 2
    each = WEIGHTS.log() - 0.5 * (x[:, None] - MEANS).square().sum(-1) / variance - 8.0 * variance.log()
    return each[:, LABELS == 1].logsumexp(1) - each.logsumexp(1)


def selected(count=256, score=log_class, model=denoise, sigmas=SIGMAS, process=VE, **options):
    shape = (count, 16)
    start = sigmas[0] * torch.randn(shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return sample_stepwise_select(
        lambda x, sigma: model(x, float(sigma[0])), start, sigmas, stream="ddim", score=score, process=process,
        plan=lambda sigmas: plan_ddim(sigmas, eta=1.0, process=process), noise_of=noises(shape), **options)


@pytest.mark.parametrize("process", [VE, FLOW])
def test_one_draw_is_the_plain_sampler_with_its_noise(process):
    sigmas, model = (SIGMAS, denoise) if process is VE else ([1.0, 0.8, 0.5, 0.2, 0.0], denoise_flow)
    start = sigmas[0] * torch.randn(4, 16, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    plain = run(model, start, plan_ddim(sigmas, eta=1.0, process=process), noise_sampler=noises((4, 16))("ddim"))
    options = {"count": 4, "model": model, "sigmas": sigmas, "process": process}
    assert torch.equal(selected(k=1, start_step=0, **options), plain)
    assert torch.equal(selected(k=3, start_step=99, **options), plain)
    assert not torch.equal(selected(k=3, start_step=1, **options), plain)


def test_multistep_histories_follow_the_chosen_draw():
    shape = (4, 16)
    start = SIGMAS[0] * UNIT_NOISE[:1].expand(shape)

    def plan(sigmas):
        return plan_exponential_adams(sigmas, order=2, eta=1.0)

    plain = run(denoise, start, plan(SIGMAS), noise_sampler=noises(shape)("s"))
    out = sample_stepwise_select(lambda x, sigma: denoise(x, float(sigma[0])), start, SIGMAS, plan=plan, stream="s",
                                 score=log_class, k=1, noise_of=noises(shape))
    assert (out - plain).abs().max() < 1e-12


def test_more_draws_score_higher_by_more_than_chance():
    one, four = (log_class(selected(k=k, start_step=2)) for k in (1, 4))
    error = math.sqrt(one.var() / len(one) + four.var() / len(four))
    assert four.mean() - one.mean() > error, (one.mean(), four.mean(), error)


def mmd(a, b):
    """Unbiased squared maximum mean discrepancy with a Gaussian kernel of the median distance."""
    scale = torch.cdist(a, b).median().square()

    def kernel(x, y):
        return (-torch.cdist(x, y).square() / scale).exp()

    inner = [(kernel(x, x).sum() - len(x)) / (len(x) * (len(x) - 1)) for x in (a, b)]
    return (inner[0] + inner[1] - 2.0 * kernel(a, b).mean()).item()


def test_random_selection_keeps_the_distribution():
    """Two-sample test against the plain sampler by permutation: p above 0.01; the best-of-four fails it."""
    plain = selected(k=1)
    generator = torch.Generator().manual_seed(3)

    def share(other):
        found, both = mmd(plain, other), torch.cat([plain, other])
        shuffled = [both[torch.randperm(len(both), generator=generator)] for _ in range(100)]
        return sum(mmd(each[:len(plain)], each[len(plain):]) >= found for each in shuffled) / 100

    other = {"start_step": 1, "k": 4}
    assert share(selected(select="random", **other)) > 0.01
    assert share(selected(select="best", **other)) <= 0.01


def test_picks():
    scores = torch.tensor([[1.0, 0.0, 5.0], [2.0, 0.0, 5.0], [0.0, 3.0, 5.0]])
    assert pick(scores, "best").tolist() == [1, 2, 0]
    assert pick(scores, "random", chance=lambda: torch.tensor([0.0, 0.5, 0.99])).tolist() == [0, 1, 2]
    assert pick(scores, "softmax", temperature=0.01, chance=lambda: torch.full((3,), 0.5)).tolist() == [1, 2, 1]
    assert torch.equal(chosen([scores, -scores, 2.0 * scores], torch.tensor([0, 2, 1]))[1], 2.0 * scores[1])
    with pytest.raises(ValueError, match="not a number"):
        pick(scores * math.nan, "best")


@pytest.mark.parametrize(("change", "words"), [
    ({"k": 0}, "k must be at least 1"), ({"select": "x"}, "select must be one of"),
    ({"temperature": 0.0}, "temperature must be above 0")])
def test_bad_selections_are_named(change, words):
    with pytest.raises(ValueError, match=words):
        selected(count=2, **change)


def test_samplers_without_candidates_are_refused():
    def select(plan):
        return sample_stepwise_select(denoise, UNIT_NOISE, SIGMAS, plan=plan, stream="s", score=log_class,
                                      noise_of=noises((3, 16)))

    with pytest.raises(ValueError, match="adds none; raise its eta"):
        select(plan_ddim)
    with pytest.raises(ValueError, match="calls the model once a step"):
        select(plan_edm_heun)


@pytest.mark.parametrize("process", [VE, FLOW])
def test_recurrence_takes_steps_again_at_their_own_level(process):
    """The way back up keeps the law of the state: alpha' back to alpha, and its noise to sigma."""
    sigmas = SIGMAS if process is VE else [1.0, 0.8, 0.5, 0.2, 0.0]
    plan = plan_ddim(sigmas, eta=1.0, process=process)
    assert recur(plan, recurrence=1, process=process) == plan
    steps = recur(plan, recurrence=3, process=process)
    assert len(steps) == 3 * len(plan) - (2 if process is FLOW else 0)  # pure noise is not gone back to
    for step in steps:
        if step.before is not None:
            alpha, nxt = process.alpha(step.sigma), process.alpha(step.sigma_next)
            assert step.before.x_coef * nxt == pytest.approx(alpha)
            kept = (step.before.x_coef * step.sigma_next) ** 2 + step.before.noise_coef ** 2
            assert kept == pytest.approx(step.sigma ** 2)
    some = recur(plan, recurrence=2, sigma_hi=1.0, sigma_lo=0.5, process=process)
    again = {step.sigma for step in some if step.before is not None}
    assert again == {s for s in sigmas[:-1] if 0.5 <= s / max(process.alpha(s), 1e-9) <= 1.0}


def test_recurrence_lets_weak_guidance_arrive():
    """A push toward the first mean, too weak in one pass, ends nearer after three."""
    def pushed(x, sigma):
        denoised = denoise(x, sigma)
        return denoised + 0.08 * (MEANS[0] - denoised)

    start = 14.6 * torch.randn(128, 16, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    ends = [run(pushed, start, recur(plan_ddim(SIGMAS), recurrence=times), noise_sampler=noises((128, 16))("s"))
            for times in (1, 3)]
    far = [(end - MEANS[0]).norm(dim=1).mean() for end in ends]
    assert far[1] < far[0]


def test_recurrence_refuses_what_it_can_t_take_again():
    for plan in (plan_exponential_adams(SIGMAS, order=2), plan_unipc(SIGMAS)):
        with pytest.raises(ValueError, match="looks at no earlier step"):
            recur(plan, recurrence=2)
    assert len(recur(plan_edm_heun(SIGMAS), recurrence=2)) == 2 * len(plan_edm_heun(SIGMAS))
    with pytest.raises(ValueError, match="at least 1"):
        recur(plan_ddim(SIGMAS), recurrence=0)


def test_reflection_is_a_fold():
    x = torch.linspace(-7.0, 7.0, 141, dtype=torch.float64)
    out = reflect(x, 1.5)
    assert out.abs().max() <= 1.5 and torch.equal(reflect(out, 1.5), out)
    inside = x.abs() <= 1.5
    assert torch.equal(out[inside], x[inside])
    assert torch.allclose(reflect(torch.tensor([1.6, 3.0, 4.5, 6.0, -1.7]), 1.5),
                          torch.tensor([1.4, 0.0, -1.5, 0.0, -1.3]), atol=1e-6)
    assert torch.allclose(reflect(-x, 1.5), -out)
    assert torch.equal(into_box(x, 1.5, how="clamp"), x.clamp(-1.5, 1.5))


def test_reflection_preserves_uniform_density():
    x = 3.0 * torch.rand(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1.5
    moved = reflect(x + 2.0 * torch.randn(200_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64),
                    1.5)
    shares = torch.histc(moved, 10, min=-1.5, max=1.5) / len(moved)
    assert (shares - 0.1).abs().max() < 0.004


def test_states_stay_in_the_box_after_every_step():
    seen = []
    run(lambda x, sigma: seen.append(x.abs().max().item()) or 3.0 * x, UNIT_NOISE.clamp(-1.0, 1.0), plan_ddim(SIGMAS),
        after=lambda x, sigma: reflect(x, 1.0))
    assert len(seen) == 12 and max(seen) <= 1.0
    with pytest.raises(ValueError, match="redoes its steps"):
        run(denoise, UNIT_NOISE, plan_unipc(SIGMAS), after=lambda x, sigma: x)
    with pytest.raises(ValueError, match="bound must be above 0"):
        reflect(UNIT_NOISE, 0.0)
    with pytest.raises(ValueError, match="how must be"):
        into_box(UNIT_NOISE, 1.0, how="x")
