"""Steps found within a budget: the search on the exact mixture, and the nodes around it."""
import re
import time

import gmm
import pytest
import torch
from lessons import LEVELS, MODEL, noises

from odeon import NODE_CLASS_MAPPINGS, host
from odeon.host.denoiser import Denoiser, smooth
from odeon.measure.kept import load_plan, load_sigmas
from odeon.models.levels import DiscreteLevels
from odeon.samplers.dpm_solver_pp import plan_dpm_solver_pp
from odeon.samplers.process import FLOW, VE
from odeon.schedules.classic import SCHEDULERS, classic_sigmas
from odeon.schedules.optimize.plan import FREE, GUIDED
from odeon.schedules.optimize.steps import Search, _affordable, found, optimize_steps, same_start
from odeon.schedules.optimize.teacher import Lesson, teacher_levels


def families(process, steps=6):
    levels = LEVELS[process]
    every = {name: classic_sigmas(name, levels, steps).tolist() for name in SCHEDULERS}
    return same_start({name: sigmas for name, sigmas in every.items() if len(sigmas) == steps + 1},
                      float(levels.sigma_max))


def search(process, *, count=48, state=None, **changes):
    options = Search(0.2, iterations=30, minibatch=16, teacher_steps=160)._replace(**changes)
    return optimize_steps(MODEL[process], noises(process, count), families(process), lambda sigmas: plan_dpm_solver_pp(
        sigmas, order=2, process=process), options, sigma_min=float(LEVELS[process].sigma_min), process=process,
        state=state)


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("process", [VE, FLOW], ids=lambda process: process.name)
def test_what_is_returned_is_better_than_the_best_family(process, lower):
    *_, last = search(process, lower=lower)
    ended = found(last.state, families(process))
    assert ended.kept and ended.learned.median < 0.8 * min(score.median for score in ended.families.values())
    assert ended.teacher.median < 0.1 * ended.learned.median
    top = float(LEVELS[process].sigma_max)
    assert ended.sigmas[0] <= top and (lower or ended.sigmas[0] == top) and ended.sigmas[-1] == 0.0


def test_it_never_returns_anything_worse_than_the_best_family(monkeypatch):
    from odeon.schedules.optimize import plan

    kept = plan._Learning.found
    monkeypatch.setattr(plan._Learning, "found", lambda self, numbers, *more: {
        **kept(self, numbers, *more), "sigmas": self.student.sigmas(numbers.theta - 3.0),
        "levels": torch.full_like(numbers.shares, 1e-3)})  # learning that ends in nonsense
    *_, last = search(VE, iterations=2)
    ended = found(last.state, families(VE))
    assert not ended.kept and ended.learned.median > ended.families[ended.best_family].median
    assert ended.sigmas.tolist() == families(VE)[ended.best_family]


@pytest.mark.parametrize("stop", [20, 70, 75])
def test_a_stopped_search_goes_on(stop):
    states = [progress.state for progress in search(VE, minutes=9.0, iterations=12)]
    assert len(states) > 75
    *_, whole = search(VE, minutes=9.0, iterations=12)
    *_, resumed = search(VE, minutes=9.0, iterations=12, state=states[stop])
    assert torch.equal(resumed.state["teacher.targets"], whole.state["teacher.targets"])
    assert torch.equal(resumed.state["judged"], whole.state["judged"])
    assert torch.equal(resumed.state["sigmas"], whole.state["sigmas"])


@pytest.mark.parametrize(("seconds", "steps", "wanted"), [(1e6, 0, (60, 30)), (0.0, 0, (40, 12)), (0.0, 20, (20, 12)),
                                                          (1e6, 20, (20, 30))])
def test_as_many_noises_and_teacher_steps_as_there_is_time_for(seconds, steps, wanted):
    assert _affordable(lambda x, sigma: x, torch.zeros(30, 4), 1.0, seconds, steps) == wanted
    between = _affordable(lambda x, sigma: time.sleep(0.01 * len(x)), torch.zeros(30, 4), 1.0, 12.0, 0)
    assert between[0] == 40 and 14 <= between[1] <= 21  # 800 calls of 10 ms


def test_the_teacher_s_levels_reach_from_the_start_to_the_end():
    for process, start, low in ((VE, 14.6, 0.03), (FLOW, 1.0, 0.001)):
        levels = teacher_levels([start, 0.5, 0.0], 12, sigma_min=low, process=process)
        assert len(levels) == 13 and levels[0] == start and levels[-2:] == [low, 0.0]
        assert all(a > b for a, b in zip(levels, levels[1:]))
        assert teacher_levels([start, 0.5], 12, process=process)[-1] == 0.5
    with pytest.raises(ValueError, match="at least 4 steps, got 3"):
        teacher_levels([1.0, 0.0], 3)


def test_noises_are_scaled_for_schedules_that_start_lower():
    x, plan = noises(VE, 4), lambda sigmas: plan_dpm_solver_pp(sigmas, order=2)
    targets = torch.zeros_like(x)
    lesson = Lesson(gmm.denoise, x, targets, plan, held=2, top=float(LEVELS[VE].sigma_max))
    low = Lesson(gmm.denoise, x * (7.0 / float(LEVELS[VE].sigma_max)), targets, plan, held=2)
    assert lesson.score([7.0, 1.0, 0.0]) == pytest.approx(low.score([7.0, 1.0, 0.0]), rel=1e-12)


class Network(torch.nn.Module):
    """The exact posterior of places that are bright or dark, as a noise prediction told of the table's places."""

    def __init__(self, levels):
        super().__init__()
        self.levels = levels

    def forward(self, x, timesteps, context=None, **_):
        sigma = self.levels.sigma(timesteps)[:, None, None, None] if not x.requires_grad else self._sigma(timesteps)
        state = x * (sigma.square() + 1.0).sqrt()
        mean, spread = 0.6 + 0.2 * context.mean((1, 2))[:, None, None, None], 0.3 ** 2 + sigma.square()
        denoised = (0.3 ** 2 * state + sigma.square() * mean * torch.tanh(mean * state / spread)) / spread
        return (state - denoised) / sigma

    def _sigma(self, timesteps):
        low = timesteps.detach().floor().clamp(0, 998).long()
        logs = self.levels.log_sigmas
        return torch.lerp(logs[low], logs[low + 1], timesteps - low).exp()[:, None, None, None]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ODEON_FOLDER", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def model():
    levels = DiscreteLevels(rounded=True)
    return host.make_model(Network(levels), prediction="eps", levels=levels, channels=4, rgb_factors=[[0.1] * 3] * 4)


def node_run(name, model, **changes):
    sampler, = NODE_CLASS_MAPPINGS["OdeonSamplerDPMSolverPP"]().build(order=2, solver_type="midpoint",
                                                                     lower_order_below=10, third_order_term="exact")
    words = [[torch.full((1, 2, 3), 0.3), {}], [torch.full((1, 2, 3), -0.5), {}]]
    shared = {"model": model, "positive": words, "negative": words[:1], "latent": {"samples": torch.zeros(1, 4, 8, 8)},
              "cfg": 2.0, "sampler": sampler, "samples": 12, "start_seed": 1, "batch": 5, "several_prompts": "each"}
    return NODE_CLASS_MAPPINGS[name]().run(**{**shared, **changes})


def test_optimize_steps_then_save_and_load(model, folder):
    shown = node_run("OdeonOptimizeSteps", model, steps=5, minutes=0.05)
    sigmas, report, plot, about = shown["result"]
    assert len(sigmas) == 6 and sigmas[-1] == 0.0 and shown["ui"]["text"] == [report]
    assert "Returned:" in report and plot.shape[0] == 1 and about["cfg"] == 2.0
    assert node_run("OdeonOptimizeSteps", model, steps=5, minutes=0.05)["result"][0].equal(sigmas)  # kept
    saved = NODE_CLASS_MAPPINGS["OdeonSaveSigmas"]().save(sigmas, "mine", about)
    assert load_sigmas(folder / "odeon_schedules" / "mine.safetensors")[1]["odeon"]
    assert saved["result"][0].endswith("mine.safetensors")
    loader = NODE_CLASS_MAPPINGS["OdeonLoadSigmas"]()
    again, words = loader.load("mine", 0, model)["result"]
    assert again.equal(sigmas) and "CFG 2.0" in words and "WARNING" not in words
    assert len(loader.load("mine", 8, model)["result"][0]) == 9
    other = host.make_model(torch.nn.Linear(2, 2), prediction="eps", levels=DiscreteLevels(), channels=4,
                            rgb_factors=[[0.1] * 3] * 4)
    assert "made for another model" in loader.load("mine", 0, other)["result"][1]
    from odeon.models.levels import FlowLevels

    flow = host.make_model(torch.nn.Linear(2, 2), prediction="flow", levels=FlowLevels(), channels=4,
                           rgb_factors=[[0.1] * 3] * 4)
    with pytest.raises(ValueError, match="made on a VE model"):
        loader.load("mine", 0, flow)


def test_optimize_plan_then_save_and_load(model, folder):
    sigmas = classic_sigmas("karras", host.levels_of(model), 4).float()
    shown = node_run("OdeonOptimizePlan", model, sigmas=sigmas, free="all", minutes=0.1, iterations=6, minibatch=3,
                     history=0, teacher_steps=12)
    sampler, learned, report, plot, about, same = shown["result"]
    assert len(learned) == 5 and learned.equal(same) and "learned" in report and plot.ndim == 4 and about["steps"] == 4
    NODE_CLASS_MAPPINGS["OdeonSavePlan"]().save(sampler, "plan")
    assert load_plan(folder / "odeon_schedules" / "plan.safetensors").about["free"] == "all"
    again, levels, words = NODE_CLASS_MAPPINGS["OdeonLoadPlan"]().load("plan", model)["result"]
    assert levels.equal(learned) and "WARNING" not in words
    assert host.plan_of(again)[1]["learned"].sigmas == host.plan_of(sampler)[1]["learned"].sigmas
    with pytest.raises(ValueError, match="no learned plan"):
        NODE_CLASS_MAPPINGS["OdeonSavePlan"]().save(NODE_CLASS_MAPPINGS["OdeonSamplerDDIM"]().build(eta=0.0)[0], "x")


def test_a_plan_with_guidance_is_saved_and_runs_whole(model, folder):
    sigmas = classic_sigmas("karras", host.levels_of(model), 4).float()
    given = {"sigmas": sigmas, "free": GUIDED, "minutes": 0.1, "iterations": 6, "minibatch": 3, "history": 0,
             "teacher_steps": 12}
    sampler, learned, *_ = node_run("OdeonOptimizePlan", model, **given)["result"]
    NODE_CLASS_MAPPINGS["OdeonSavePlan"]().save(sampler, "plan")
    again = NODE_CLASS_MAPPINGS["OdeonLoadPlan"]().load("plan", model)["result"][0]
    table = host.plan_of(again)[1]["learned"].table
    assert table.d.shape == (5, 8) and (table.d[1:, 1::2] != 0.0).any()
    with pytest.raises(ValueError, match="whole as it is"):
        host.plan_for(model, NODE_CLASS_MAPPINGS["OdeonWrapCFGPP"]().build(again, history="guided")[0])(
            learned.tolist())
    with pytest.raises(ValueError, match="at CFG 1 there is no guidance"):
        node_run("OdeonOptimizePlan", model, **given, cfg=1.0)


def test_one_step_is_answered_with_the_best_family(model):
    report = node_run("OdeonOptimizeSteps", model, steps=1, minutes=0.05)["result"][1]
    assert "a single step leaves nothing to learn" in report


class Quantized(Network):
    def forward(self, x, timesteps, context=None, **_):
        return super().forward(x.detach(), timesteps.detach(), context)


@pytest.mark.parametrize("free", FREE)
def test_no_gradients_are_needed(free):
    levels = DiscreteLevels(rounded=True)
    model = host.make_model(Quantized(levels), prediction="eps", levels=levels, channels=4,
                            rgb_factors=[[0.1] * 3] * 4)
    shown = node_run("OdeonOptimizePlan", model, free=free, sigmas=classic_sigmas("karras", levels, 4).float(),
                     minutes=0.1, iterations=6, minibatch=3, history=0, teacher_steps=12)
    assert "Returned: the learned plan" in shown["result"][2]
    usual = [classic_sigmas(name, levels, 4).tolist() for name in SCHEDULERS]
    assert any(shown["result"][1].tolist() == pytest.approx(one, rel=1e-5) for one in usual
               ) == (free == "coefficients")  # whose levels stay those of the best schedule
    table = host.plan_of(shown["result"][0])[1]["learned"].table
    own = table.d[:, ::1 + table.guided]
    assert ((table.x + own.sum(1) - 1.0).abs().max() > 1e-6) == (free in FREE[3:])  # the first law


def test_an_interruption_keeps_the_best_so_far(model, folder, monkeypatch):
    from odeon.host import measuring

    class Impatient:
        def __init__(self, seen=0):
            self.seen = seen

        def __call__(self, progress):
            self.seen += bool(progress.losses)
            if self.seen == 3:
                raise KeyboardInterrupt

    monkeypatch.setattr(measuring.Measuring, "report", property(lambda self: patience, lambda self, value: None),
                        raising=False)
    patience = Impatient()
    arguments = {"sigmas": classic_sigmas("karras", host.levels_of(model), 4).float(), "free": "levels+coefficients",
                 "minutes": 1.0, "iterations": 8, "minibatch": 3, "history": 0, "teacher_steps": 12}
    with pytest.raises(KeyboardInterrupt):
        node_run("OdeonOptimizePlan", model, **arguments)
    best = load_plan(folder / "odeon_schedules" / "interrupted.safetensors")
    assert len(best.sigmas) == 5 and list((folder / "partial").glob("*.safetensors"))
    patience = Impatient(seen=10)
    assert "learned" in node_run("OdeonOptimizePlan", model, **arguments)["result"][2]


def test_each_picture_has_its_prompt_in_whatever_part_it_is_called():
    chosen = []

    def model(x, sigma):
        return x * 0.0 + chosen[-1]

    denoise = Denoiser(model, {}, batch=2, prompts=3, choose=chosen.append)
    x = torch.zeros(7, 2)
    assert denoise(x, 1.0)[:, 0].tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert denoise.of([6, 1, 4])(x[:3], 1.0)[:, 0].tolist() == [0, 1, 1]
    assert denoise.of(slice(2, 7)).of([0, 3])(x[:2], 1.0)[:, 0].tolist() == [2, 2]


def test_smoothed_levels_tell_the_same_and_have_a_slope():
    levels = DiscreteLevels(rounded=True)
    soft, sigma = smooth(levels), torch.tensor([14.0, 3.3, 0.4, 0.03], requires_grad=True)
    assert torch.equal(soft.timestep(sigma).detach(), levels.timestep(sigma).float())
    slope, = torch.autograd.grad(soft.timestep(sigma).sum(), sigma)
    exact = DiscreteLevels()
    reached = [(exact.timestep(sigma * (1 + h)) - exact.timestep(sigma * (1 - h))) / (2 * h * sigma) for h in (0.01,)]
    assert torch.allclose(slope, reached[0], rtol=0.05)


def test_distances_are_of_pictures_where_there_is_a_vae(model, folder, monkeypatch):
    """Through a decoder that shows a tenth of one channel, distances are less."""
    class Decoder:
        about, given_back = {"what": "a tenth"}, 0

        def __call__(self, latents):
            return 0.1 * latents[:, :1]

        def give_back(self):
            Decoder.given_back += 1

    monkeypatch.setattr(host, "decoder", lambda vae: Decoder())
    first = node_run("OdeonOptimizeSteps", model, steps=4, minutes=0.05)["result"]
    through = node_run("OdeonOptimizeSteps", model, steps=4, minutes=0.05, vae=object())["result"]
    assert Decoder.given_back == 1
    plain, seen = (float(re.search(r"learned: median ([\d.e+-]+)", shown[1])[1]) for shown in (first, through))
    assert seen < 0.3 * plain


def test_gradients_come_back_through_a_real_decoder(folder):
    model, clip, vae = NODE_CLASS_MAPPINGS["OdeonShapesCheckpoint"]().load("shapes-dit-small")
    words = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a red star on sand", "")]
    with torch.inference_mode():
        shown = node_run("OdeonOptimizeSteps", model, positive=words[0], negative=words[1], samples=6, steps=4,
                         minutes=0.1, vae=vae)
    assert "learned: median" in shown["result"][1] and (shown["result"][0].diff() < 0.0).all()
