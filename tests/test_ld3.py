"""LD3: recorded runs, gradients against differences, the rules of its training, and what it gains in a few seconds."""

import pytest
import torch
from gmm import denoise, denoise_flow
from golden_runs import load, tensor

from odeon.bench.learned import BY_NOISE, PLANS, told_model
from odeon.measure.kept import read_tensors, write_tensors
from odeon.samplers.exponential_adams import plan_exponential_adams
from odeon.samplers.linear import run
from odeon.samplers.process import FLOW, VE
from odeon.samplers.unipc import plan_unipc
from odeon.schedules.optimize.ld3 import ld3_cost, learn_ld3
from odeon.schedules.optimize.ld3_levels import DECOUPLED, MODES, Numbers, decoupled, discretization
from odeon.schedules.optimize.ld3_training import LD3, Student, Training, project
from odeon.schedules.optimize.teacher import Lesson, teach
from odeon.schedules.power import power_sigmas

GOLDEN = load("schedules/ld3")
RUNS = GOLDEN["runs"]
TOP, BOTTOM = RUNS[0]["timesteps"][0], RUNS[0]["timesteps"][-1]
EDM_5 = power_sigmas(5, TOP, BOTTOM).tolist()  # and then 0
MODELS = {VE: told_model(denoise, scaled=False), FLOW: told_model(denoise_flow, scaled=False)}
SCHEDULES = {VE: [14.6, 8.0, 3.0, 1.0, 0.3, 0.03], FLOW: [0.95, 0.8, 0.5, 0.3, 0.1, 0.02]}
ENDED = {VE: [14.6, 8.0, 3.0, 1.0, 0.3, 0.0], FLOW: [1.0, 0.8, 0.5, 0.3, 0.1, 0.0]}
BOTH = pytest.mark.parametrize("process", [VE, FLOW], ids=lambda process: process.name)


def name(recorded):
    asked = recorded["settings"]
    return f"{asked['solver']}-{asked['order']}-{asked['steps']}-{asked['time_mode']}-{asked['prior_bound']:g}"


def plan_of(recorded):
    asked = recorded["settings"]
    return PLANS[asked["solver"]](asked["order"], asked["variant"])


def told_as_recorded(recorded, model, sigmas, cond):
    how = "label_only" if recorded["settings"]["solver"] in BY_NOISE else "whole_denoiser"
    return decoupled(model, tensor(sigmas), tensor(cond), how=how)


def noises(count, process, seed=0):
    top = ENDED[process][0]
    return top * torch.randn(count, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gaussian(process):
    """The exact denoiser of independent numbers with spreads 0.2 to 2: no run ends in another mode."""
    spread = torch.linspace(0.2, 2.0, 16, dtype=torch.float64).square()

    def exact(x, sigma):
        alpha = 1.0 - sigma if process is FLOW else 1.0
        return alpha * spread / (alpha ** 2 * spread + sigma ** 2) * x

    return told_model(exact, scaled=False)


def lesson(process=VE, count=12, held=4, sigmas=None, plan=None, seed=0, model=None):
    """Noises whose ends are an accurate run's."""
    sigmas, model = sigmas or SCHEDULES[process], model or MODELS[process]
    x = noises(count, process, seed)
    *_, last = teach(model, x, sigmas, steps=60, sigma_min=0.01, process=process)
    return Lesson(model, x, last.state["targets"],
                  plan or (lambda levels: plan_unipc(levels, order=3, process=process)), held=held)


def last_of(*args, **options):
    *_, last = learn_ld3(*args, **options)
    return last.state


@pytest.mark.parametrize("recorded", RUNS, ids=name)
def test_recorded_lists_lead_to_the_recorded_end(recorded):
    model = told_as_recorded(recorded, MODELS[VE], recorded["timesteps"], recorded["timesteps2"])
    end = run(model, tensor(GOLDEN["x_init"]), plan_of(recorded)(recorded["timesteps"]))
    assert (end - tensor(recorded["x_final"])).abs().max() < 1e-9


@pytest.fixture(scope="module")
def judged():
    x = TOP * tensor(GOLDEN["eval_unit_noise"])
    *_, last = teach(denoise, x, [TOP, BOTTOM], steps=300)
    return x, last.state["targets"]


@pytest.mark.parametrize("recorded", RUNS[::2], ids=name)
def test_recorded_figures_come_out_of_the_recorded_lists(recorded, judged):
    """Noises are kept to 7 digits: runs on the edge between two modes may end in the other one."""
    x, targets = judged
    for key, sigmas, cond in (("initial", "initial_timesteps", "initial_timesteps"), ("learned", "timesteps",
                              "timesteps2"), ("learned_without_tc", "timesteps", "timesteps")):
        model = told_as_recorded(recorded, MODELS[VE], recorded[sigmas], recorded[cond])
        errors = (run(model, x, plan_of(recorded)(recorded[sigmas])) - targets).square().mean(1)
        assert errors.mean().item() == pytest.approx(recorded[key]["mean_mse"], rel=2e-3)
        assert errors.median().item() == pytest.approx(recorded[key]["median_mse"], rel=5e-3)


@BOTH
@pytest.mark.parametrize("how", DECOUPLED)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("schedules", [SCHEDULES, ENDED], ids=["to sigma_min", "to 0"])
def test_gradients_are_those_of_differences(schedules, mode, how, process):
    x, generator = noises(6, process), torch.Generator().manual_seed(1)
    learned = Lesson(MODELS[process], x, torch.zeros_like(x), held=2,
                     plan=lambda sigmas: plan_unipc(sigmas, order=3, process=process))
    levels = discretization(schedules[process], mode=mode, process=process, sigma_min=0.01)
    student, items = Student(learned, levels, LD3(decouple=how, mode=mode)), [0, 2, 3]
    numbers = Numbers(*(size * torch.randn(6, dtype=torch.float64, generator=generator) for size in (0.3, 0.001)))
    losses, slopes = student.gradients(numbers, x, items)
    assert (losses - student.losses(student.lists(numbers), x, items)).abs().max() < 1e-13
    for place, slope in enumerate(slopes):
        along = torch.randn(slope.shape, dtype=torch.float64, generator=generator)

        def loss(reach, place=place, along=along):
            moved = [*(value.clone() for value in numbers), x.clone()]
            moved[place][items if place == 2 else slice(None)] += reach * along
            return student.losses(student.lists(Numbers(*moved[:2])), moved[2], items).mean().item()

        wanted = (8.0 * (loss(1e-4) - loss(-1e-4)) - (loss(2e-4) - loss(-2e-4))) / 12e-4
        assert (slope * along).sum().item() == pytest.approx(wanted, rel=1e-4, abs=1e-9)


@BOTH
@pytest.mark.parametrize("radius", [0.0, 0.02])
def test_noises_move_within_their_radius_and_only_to_gain(radius, process):
    learned = lesson(process)
    options = LD3(minibatch=2, rounds_v1=1, rounds_v2=1, soft_radius=radius)
    levels = discretization(SCHEDULES[process], process=process)
    training = Training(Student(learned, levels, options), levels.even(5), None)
    while training.work():
        moved = (training.x - training.noises).norm(dim=1)
        assert (moved <= radius * learned.x.new_tensor(SCHEDULES[process][0]) + 1e-12).all()
    assert bool(moved.any()) is (radius > 0.0)
    if radius:
        lists, items = training.student.lists(training.numbers), list(range(len(training.x)))
        held, free = (training.student.losses(lists, x, items).mean() for x in (training.noises, training.x))
        assert free < held


def test_projection():
    x = torch.tensor([[3.0, 4.0], [0.3, 0.4], [1.0, 0.0]], dtype=torch.float64)
    assert project(x, torch.zeros_like(x), 1.0).tolist() == [pytest.approx([0.6, 0.8]), [0.3, 0.4], [1.0, 0.0]]


@pytest.mark.parametrize(("mode", "model", "least"), [("time", MODELS[VE], 3.0), ("lambda", gaussian(VE), 1.5)],
                         ids=["time", "lambda"])
def test_a_few_iterations_gain_on_noises_they_never_saw(mode, model, least):
    learned = lesson(count=56, held=40, sigmas=[TOP, BOTTOM], model=model)
    even = discretization([TOP, 1.0, BOTTOM], mode=mode)
    state = last_of(learned, even.sigmas(even.even(5))[0].tolist(),
                    LD3(mode=mode, rounds_v1=4, rounds_v2=3, minibatch=2, rate=0.01, soft_radius=0.0))
    gain = state["given_errors"].square().mean() / state["errors"].square().mean()
    assert state["iterations"] == 28 and gain > least, gain
    assert state["checks"].min() < state["checks"][0]


@BOTH
def test_gains_from_a_schedule_that_ends_at_0(process):
    """Its last level above 0 moves too, and what the network is told makes a difference of its own."""
    sigmas = ENDED[process]
    state = last_of(lesson(process, count=30, held=10, sigmas=sigmas, model=gaussian(process)), sigmas,
                    LD3(rounds_v1=3, rounds_v2=3, soft_radius=0.0, rate=0.02), sigma_min=0.01, process=process)
    assert state["sigmas"][0] == sigmas[0] and state["sigmas"][-1] == 0.0
    assert abs(state["sigmas"][-2].item() / sigmas[-2] - 1.0) > 0.05
    assert state["errors"].quantile(0.5) < 0.8 * state["given_errors"].quantile(0.5)
    assert not torch.equal(state["errors"], state["alone_errors"])


def test_what_is_not_better_gives_way_to_the_schedule_given():
    sigmas = power_sigmas(6, TOP, BOTTOM).tolist()[:-1]
    learned = lesson(count=8, held=2, sigmas=sigmas, model=gaussian(VE))
    state = last_of(learned, sigmas, LD3(mode="time", init="even", rate=0.0, rounds_v1=1, rounds_v2=0))
    assert state["sigmas"].tolist() == state["cond_sigmas"].tolist() == sigmas
    assert torch.equal(state["errors"], state["given_errors"])


def test_in_vain_it_slows_down_and_stops():
    """Nothing moves: 5 checks in vain bring all noises to choose by, then every 5 a slower rate, 5 of these the end."""
    options = LD3(rate=0.0, told_rate=1e-6, minibatch=1, rounds_v1=0, rounds_v2=1, soft_radius=0.0, decouple="off")
    x = noises(241, VE)
    learned = Lesson(denoise, x, torch.zeros_like(x), lambda sigmas: plan_exponential_adams(sigmas, order=1), held=1)
    state = last_of(learned, SCHEDULES[VE], options)
    assert state["iterations"] == 30 and state["at_floor"] == 5 and len(state["checks"]) == 31
    assert len(set(state["checks"].tolist())) == 2  # 100 of the noises, then all
    state = last_of(learned, SCHEDULES[VE], options._replace(rate=0.005, rounds_v1=1, rounds_v2=0, most_iterations=7))
    assert state["iterations"] == 7


def test_rates_decay_to_their_floors():
    options = LD3(rate=6e-5, told_rate=1.0, minibatch=1, rounds_v1=0, rounds_v2=1, soft_radius=0.0, decouple="off")
    x = noises(41, VE)
    learned = Lesson(lambda x, sigma: x, x, x, lambda sigmas: plan_exponential_adams(sigmas, order=1), held=1)
    state = last_of(learned, SCHEDULES[VE], options)  # whatever is learned, D = x leaves x as it is
    assert state["iterations"] == 20  # 5 for all noises to choose by, 15 in vain
    assert state["rate"] == 5e-5 and state["told_rate"].item() == pytest.approx(0.8 ** 3)


def test_a_schedule_given_is_where_it_starts():
    learned = lesson(count=8, held=2, sigmas=EDM_5)
    first = next(learn_ld3(learned, EDM_5, LD3(rounds_v1=1, decouple="off"), sigma_min=0.01)).state
    found = discretization(EDM_5, sigma_min=0.01).sigmas(Numbers(first["p"], first["q"]))[0]
    assert found.tolist() == pytest.approx(EDM_5, rel=1e-12)


def test_it_goes_on_where_it_stopped(tmp_path):
    learned = lesson(count=8, held=2)
    options = LD3(rounds_v1=1, rounds_v2=1, minibatch=1, soft_radius=0.01, decouple="whole_denoiser")
    with torch.no_grad():
        whole = []
        for progress in learn_ld3(learned, SCHEDULES[VE], options):
            assert not torch.is_grad_enabled()
            whole.append(progress)
    cost = ld3_cost(5, 8, 2, options)
    assert whole[-1].done == whole[-1].total == cost
    assert all(before.done < after.done for before, after in zip(whole, whole[1:]))
    assert 0.8 * cost < whole[-2].done <= cost
    for stop in (0, 3, 9, len(whole) - 2, len(whole) - 1):
        write_tensors(tmp_path / "kept.safetensors", whole[stop].state, {})
        state = last_of(learned, SCHEDULES[VE], options, state=read_tensors(tmp_path / "kept.safetensors")[0])
        assert all(torch.equal(state[key], value) for key, value in whole[-1].state.items()), stop


class EachItsOwn:
    """A model of as many prompts as items: each has a mean of its own."""

    def __init__(self, items=None):
        self.items = items

    def of(self, items):
        return EachItsOwn(list(range(12))[items] if isinstance(items, slice) else list(items))

    def __call__(self, x, sigma, told=None):
        assert len(self.items) == len(x)
        return denoise(x, sigma) + 0.1 * torch.tensor(self.items, dtype=x.dtype)[:, None]


def test_every_noise_keeps_its_prompt():
    x = noises(12, VE)
    learned = Lesson(EachItsOwn(), x, torch.zeros_like(x), plan_exponential_adams, held=4)
    levels = discretization(SCHEDULES[VE])
    student = Student(learned, levels, LD3())
    lists = student.lists(levels.even(5))
    together = student.losses(lists, x, list(range(12)))
    assert torch.equal(student.losses(lists, x, [7, 2]), together[[7, 2]])
    assert student.gradients(levels.even(5), x, [7, 2])[0].tolist() == pytest.approx(together[[7, 2]].tolist())


def test_distances_are_of_what_is_looked_at():
    x, levels = noises(6, VE), discretization(SCHEDULES[VE])
    learned = Lesson(denoise, x, torch.zeros_like(x), plan_exponential_adams, held=2, look=lambda x: 3.0 * x[:, :4])
    for loss, wanted in (("latent_l2", 9.0 * x[:2, :4].square().mean(1)), ("latent_l1", 3.0 * x[:2, :4].abs().mean(1))):
        assert torch.allclose(Student(learned, levels, LD3(loss=loss)).distances(x[:2], [0, 1]), wanted)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: last_of(lesson(count=4, held=3), SCHEDULES[VE]), "learning needs at least 2 noises that are not held"),
    (lambda: last_of(lesson(count=4, held=1), SCHEDULES[VE], LD3(loss="l2")), "loss must be one of latent_l2"),
    (lambda: last_of(lesson(count=4, held=1), SCHEDULES[VE], LD3(init="random")), "init must be one of given, even"),
    (lambda: last_of(lesson(count=4, held=1, plan=lambda sigmas: plan_exponential_adams(sigmas, eta=1.0)),
                     SCHEDULES[VE]), "adds noise, so that no run has one right end"),
])
def test_errors_say_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()
