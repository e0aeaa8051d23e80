"""Pictures of numbers: plots of schedules, a run step by step, grids of samplers, error by model calls."""
import re

import pytest
import torch

from odeon import NODE_CLASS_MAPPINGS as NODES
from odeon import host
from odeon.host.embedded.context import Context, running
from odeon.host.sampler_key import sampler_key
from odeon.measure.grid import labelled_grid
from odeon.measure.trajectory import Seen, calls_of_steps, changes, schedule_curve, spread
from odeon.models.levels import DiscreteLevels, FlowLevels
from odeon.nodes import menu
from odeon.samplers.process import FLOW, VE

NOTHING = {"more_samplers": "", "sampler_3": "none"}


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("ODEON_FOLDER", str(tmp_path / "odeon"))
    with running(Context(tmp_path / "output")):
        yield tmp_path


def toy(prediction="eps"):
    """A MODEL whose prediction is tanh(x / 2 + word), and a VAE that shows three channels as they are."""
    class Network(torch.nn.Module):
        def __init__(self, levels):
            super().__init__()
            self.weight, self.levels, self.calls = torch.nn.Parameter(torch.ones(3)), levels, 0

        def forward(self, x, timesteps, context=None, **_):
            self.calls += 1
            sigma = (timesteps / 1000.0 if prediction == "flow" else self.levels.sigma(timesteps)).reshape(-1, 1, 1, 1)
            scaled = x if prediction == "flow" else x * (sigma.square() + 1.0).sqrt()
            return (scaled - torch.tanh(scaled / 2.0 + context.mean((1, 2)).reshape(-1, 1, 1, 1))) / sigma

    network = Network(FlowLevels() if prediction == "flow" else DiscreteLevels())
    return host.make_model(network, prediction=prediction, levels=network.levels, channels=4,
                           rgb_factors=[[0.1] * 3] * 4), network


class Codec:
    def decode(self, samples):
        return ((samples[:, :3] + 1.0) / 2.0).clamp(0.0, 1.0).movedim(1, -1)


def word(value):
    return [[torch.full((1, 2, 3), value), {}]]


def task(model, batch=1, size=8):
    return {"model": model, "positive": word(0.3), "negative": word(-0.2),
            "latent": {"samples": torch.zeros(batch, 4, size, size)}}


def made(name, **inputs):
    cls = NODES[name]
    defaults = {key: spec[1]["default"] for key, spec in cls.INPUT_TYPES()["required"].items() if "default" in spec[1]}
    return getattr(cls(), cls.FUNCTION)(**{**defaults, **inputs})


def test_curves_are_the_levels_in_the_unit_asked_for():
    levels = [14.0, 2.0, 0.5, 0.0]
    assert schedule_curve(levels, "sigma") == list(enumerate(levels))
    snr = schedule_curve(levels, "log_snr", levels=DiscreteLevels(), process=VE)
    assert snr == [(i, pytest.approx(-2.0 * torch.tensor(v).log().item(), abs=1e-6)) for i, v in enumerate(levels[:3])]
    told = schedule_curve([1.0, 0.25, 0.0], "timestep", levels=FlowLevels(), process=FLOW)
    assert told == [(0, pytest.approx(1000.0)), (1, pytest.approx(250.0))]
    of_flow = schedule_curve([1.0, 0.5, 0.0], "log_snr", levels=FlowLevels(), process=FLOW)
    assert of_flow == [(1, pytest.approx(0.0, abs=1e-9))]  # pure noise and none have no log-SNR
    with pytest.raises(ValueError, match="log_snr depends on the model; connect the MODEL"):
        schedule_curve(levels, "log_snr")
    with pytest.raises(ValueError, match="unit must be one of sigma, log_sigma"):
        schedule_curve(levels, "volts")


def test_changes_and_calls_are_those_of_the_run():
    result = torch.zeros(2, 3)
    seen = [Seen(torch.full((2, 3), value), calls) for value, calls in ((4.0, 1), (1.0, 3), (0.0, 4))]
    moved, left = changes(seen, result)
    assert moved == [(3, 3.0), (4, 1.0)] and left == [(1, 4.0), (3, 1.0), (4, 0.0)]
    assert calls_of_steps(seen, 6) == [2, 1, 3] and calls_of_steps([], 0) == []
    assert spread(4, 10) == [0, 1, 2, 3] and spread(100, 4) == [0, 33, 66, 99]


def test_a_grid_holds_each_picture_at_its_place():
    cells = [[torch.full((6, 6, 3), value) for value in (0.0, 0.2)], [torch.full((6, 6, 3), 0.6), "it failed"]]
    grid = labelled_grid(cells, ["a", "b"], ["c", "d"], width=40)[0]
    found = [grid[28 + 20 + 46 * i, 190 + 20 + 46 * j, 0].item() for i, j in ((0, 0), (0, 1), (1, 0))]
    assert found == pytest.approx([0.0, 0.2, 0.6], abs=0.003)
    assert grid.shape == (22 + 6 + 2 * 46, 190 + 2 * 46, 3)
    with pytest.raises(ValueError, match="need 2 rows of 2 cells, got"):
        labelled_grid(cells[:1], ["a", "b"], ["c", "d"], width=40)
    with pytest.raises(ValueError, match="more than 16384; make the cells smaller"):
        labelled_grid(cells, ["a", "b"], ["c", "d"], width=9000)


def test_plot_sigmas_draws_every_schedule_and_shows_itself(folders):
    one, other = torch.tensor([14.0, 1.0, 0.0]), torch.tensor([14.0, 5.0, 0.1, 0.0])
    answer = made("OdeonPlotSigmas", sigmas=one, sigmas_3=other, names="mine", unit="log_sigma")
    assert answer["result"][0].shape == (1, 560, 900, 3)
    shown = answer["ui"]["images"][0]
    assert (folders / "output" / "temp" / shown["filename"]).is_file()
    alone = made("OdeonPlotSigmas", sigmas=one, names="mine", unit="log_sigma")["result"][0]
    assert not torch.equal(alone, answer["result"][0])
    both = made("OdeonPlotSigmas", sigmas=one, sigmas_2=one.clone())["result"][0]  # equal names don't hide one another
    assert both.shape == (1, 560, 900, 3)


def test_a_trajectory_is_the_sampler_s_own_run():
    model, network = toy()
    sigmas = torch.tensor([14.6146, 6.0, 2.0, 0.5, 0.0])
    given = task(model, batch=2)
    sampler = menu.sampler_of("Odeon EDMHeun")  # two calls a step but the last
    strip, plot, latent, report = made("OdeonTrajectory", **given, sampler=sampler, sigmas=sigmas, vae=Codec(), most=3,
                                       cell=64)["result"]
    calls = network.calls // 2 if network.calls > 7 else network.calls  # cond and uncond in one call or in two
    assert calls == 7 and report.startswith("4 steps, 7 model calls")
    assert [line.split(": ")[1].split(",")[0] for line in report.splitlines()[1:]] == ["2 calls"] * 3 + ["1 call"]
    plain = host.sampled(model, word(0.3), word(-0.2), 3.0, sampler=sampler, sigmas=sigmas, latent=given["latent"],
                         seed=0)
    assert torch.equal(latent["samples"], plain) and not given["latent"]["samples"].any()
    assert strip.shape == (1, 28 + 2 * 70, 6 + 4 * 70, 3)  # three of four steps and the result, a row a picture
    with pytest.raises(ValueError, match="there is no step to watch"):
        made("OdeonTrajectory", **given, sampler=sampler, sigmas=sigmas[:1], vae=Codec())


def test_a_trajectory_keeps_the_masked_part():
    model, _ = toy("flow")
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 4:] = 1.0
    kept = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    latent = {"samples": kept, "noise_mask": mask}
    out = made("OdeonTrajectory", **{**task(model), "latent": latent}, sampler=menu.sampler_of("euler"),
               sigmas=torch.tensor([1.0, 0.5, 0.0]), vae=Codec())["result"][2]
    assert torch.allclose(out["samples"][..., :4], kept[..., :4], atol=1e-5) and out["noise_mask"] is mask


def test_a_grid_draws_each_cell_once_and_goes_on_after_an_interruption(monkeypatch):
    model, network = toy()
    wanted = {**task(model), "vae": Codec(), "steps": "3, 5", "sampler_2": "Odeon UniPC", "cell": 64, **NOTHING}
    drawn, real = [], host.followed

    def followed(*args, **options):
        drawn.append(len(options["sigmas"]) - 1)
        if len(drawn) == 6:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(host, "followed", followed)
    with pytest.raises(KeyboardInterrupt):
        made("OdeonCompareGrid", **wanted)
    grid, pictures, report = made("OdeonCompareGrid", **wanted)["result"]
    assert len(drawn) == 6 + 3 and len(report.splitlines()) == 8  # five kept, three more
    assert grid.shape == (1, 28 + 2 * 70, 190 + 4 * 70, 3) and len(pictures) == 8
    again = made("OdeonCompareGrid", **wanted)["result"]
    assert len(drawn) == 9 and torch.equal(again[0], grid)
    made("OdeonCompareGrid", **{**wanted, "noise_seed": 1})
    assert len(drawn) == 17
    alone = host.sampled(model, word(0.3), word(-0.2), 3.0, sampler=menu.sampler_of("Odeon UniPC"), seed=0,
                         sigmas=menu.sigmas_of("karras", model, 5), latent=wanted["latent"])
    assert torch.equal(pictures[7], Codec().decode(alone)[0]) and "Odeon UniPC, karras 5: 5 model calls" in report


def test_a_grid_of_400_cells_asks_first(monkeypatch):
    monkeypatch.setattr(host, "followed", lambda *_args, **_options: pytest.fail("something was drawn"))
    model, _ = toy()
    wanted = {**task(model), "vae": Codec(), "steps": "4, 6, 8, 10, 12", "scales": ", ".join(map(str, range(1, 21))),
              "sampler_2": "Odeon UniPC", **NOTHING}
    with pytest.raises(ValueError, match=r"400 pictures \(40 rows of 10\), 3200 steps in all, .* the limit is 40. "
                                         "Nothing was drawn: raise limit to 400"):
        made("OdeonCompareGrid", **wanted)


def test_a_grid_says_what_is_wrong_where_it_is_wrong():
    model, _ = toy()
    wanted = {**task(model), "vae": Codec(), "steps": "3", "cell": 64, **NOTHING}
    for asked, words in (({"sampler_1": "none", "sampler_2": "none"}, "nothing to compare"),
                         ({"schedule_1": "none", "schedule_2": "none"}, "no schedule to draw with"),
                         ({"more_samplers": "eular"}, "no sampler 'eular'; did you mean euler"),
                         ({"more_schedules": "karas"}, "no schedule 'karas'; did you mean karras"),
                         ({"steps": "3.5"}, "steps must be whole numbers above 0"),
                         ({"scales": ""}, "scales must be numbers between commas")):
        with pytest.raises(ValueError, match=words):
            made("OdeonCompareGrid", **{**wanted, **asked})
    too_high = torch.tensor([80.0, 1.0, 0.0])
    answer = made("OdeonCompareGrid", **wanted, sigmas=too_high, schedule_3="none")
    grid, pictures, report = answer["result"]
    assert "starts at sigma 80, above the model's highest level" in report  # UniPC refuses, Euler of the menu does not
    assert len(pictures) == 6 and not pictures[5].any() and pictures[4].any()


def test_connected_samplers_and_schedules_are_compared_too():
    model, _ = toy()
    own = host.solver(*[menu.SAMPLERS["Odeon DDIM"].PLAN], eta=0.5, s_noise=1.0)
    wanted = {**task(model, batch=3), "vae": Codec(), "steps": "3", "cell": 64, **NOTHING, "sampler_1": "none",
              "sampler_2": "none", "schedule_1": "none", "schedule_2": "none"}
    grid, pictures, report = made("OdeonCompareGrid", **wanted, sampler=own,
                                  sigmas=torch.tensor([10.0, 1.0, 0.0]))["result"]
    assert report.startswith("sampler, sigmas, 2 steps: 2 model calls") and len(pictures) == 1


def test_every_name_of_the_menus_draws_on_a_model():
    model, _ = toy()
    latent = task(model)["latent"]
    for name in menu.SAMPLERS:
        out, _ = host.followed(model, word(0.3), word(-0.2), 2.0, sampler=menu.sampler_of(name), latent=latent, seed=1,
                               sigmas=menu.sigmas_of("normal", model, 5))
        assert out.isfinite().all(), name
    for name in menu.SCHEDULES:
        if name not in ("Odeon Reflow", "Odeon OSSTable"):  # for flow models
            sigmas = menu.sigmas_of(name, model, 7)
            assert len(sigmas) > 2 and sigmas[0] < 14.7 and sigmas[-1] == 0.0 and (sigmas.diff() < 0.0).all(), name


def test_sampler_keys_tell_samplers_apart():
    keys = [sampler_key(menu.sampler_of(name)) for name in menu.SAMPLERS]
    assert None not in keys and len(set(keys)) == len(keys)
    assert keys == [sampler_key(menu.sampler_of(name)) for name in menu.SAMPLERS]
    plan = menu.SAMPLERS["Odeon DDIM"].PLAN
    assert sampler_key(host.solver(plan, eta=0.0, s_noise=1.0)) != sampler_key(host.solver(plan, eta=0.1, s_noise=1.0))
    one, other = (NODES["OdeonWrapODEJump"]().build(menu.sampler_of("Odeon DDIM"), jump_sigma=level)[0]
                  for level in (0.5, 0.6))
    assert sampler_key(one) != sampler_key(other) and sampler_key(one) is not None
    assert sampler_key(host.solver(plan, eta=torch.nn.Linear(1, 1), s_noise=1.0)) is None
    tensors = [sampler_key(host.solver(plan, eta=torch.tensor(value))) for value in (1.0, 2.0)]
    assert tensors[0] != tensors[1]


def test_the_error_falls_with_the_calls_and_faster_at_higher_order():
    model, _ = toy()
    plot, report = made("OdeonPlotError", **task(model), sampler_2="Odeon UniPC", more_samplers="Odeon EDMHeun",
                        sampler_3="none", schedule="karras", steps="8, 16, 32", samples=2, teacher_steps=120)["result"]
    found = {}
    for line in report.splitlines()[:-1]:
        name, calls, error = re.fullmatch(r"(.*), \d+ steps: (\d+) model calls, error (\S+) .*", line).groups()
        found.setdefault(name, []).append((int(calls), float(error)))
    euler, unipc, heun = found["euler"], found["Odeon UniPC"], found["Odeon EDMHeun"]
    assert [calls for calls, _ in euler] == [8, 16, 32] and [calls for calls, _ in heun] == [15, 31, 63]
    assert euler[0][1] > euler[1][1] > euler[2][1] > 5.0 * heun[2][1] > 5.0 * unipc[2][1]
    assert float(report.splitlines()[-1].split("about ")[1].split()[0]) < unipc[2][1]
    assert plot.shape == (1, 560, 900, 3)
    with pytest.raises(ValueError, match="connect an empty latent"):
        made("OdeonPlotError", **{**task(model), "latent": {"samples": torch.ones(1, 4, 8, 8)}}, **NOTHING)
