"""Measurements through the seam: what they are given, what an interruption leaves, whose results are refused."""
import json
import math

import pytest
import torch

from odeon import NODE_CLASS_MAPPINGS, host
from odeon.host.measuring import fingerprint, key_of, same_weights
from odeon.measure.kept import read_tensors, write_tensors
from odeon.measure.plot import draw_lines
from odeon.measure.progress import Progress
from odeon.models.levels import DiscreteLevels
from odeon.samplers.ddim import plan_ddim


class Flat(torch.nn.Module):
    """A network whose predicted noise is x times a weight, in whatever precision."""

    def __init__(self, weight=0.5):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((3,), weight), requires_grad=False)

    def forward(self, x, timesteps, context=None, **_):
        return x * self.weight[0]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ODEON_FOLDER", str(tmp_path))
    return tmp_path


def model(weight=0.5):
    return host.make_model(Flat(weight), prediction="eps", levels=DiscreteLevels(), channels=4,
                           rgb_factors=[[0.1] * 3] * 4)


def counting(stop_at=None, seen=None):
    """A measurement of five calls that sums predictions; the user interrupts it after `stop_at`."""
    def start(denoise, x, *, state, process, clock):
        total, done = (state["total"], int(state["done"])) if state else (torch.zeros_like(x), 0)
        for i in range(done, 5):
            total = total + denoise(x, 2.0 + i)
            if seen is not None:
                seen.append((i, process.name, clock().time_of(1.0)))
            if i == stop_at:
                raise KeyboardInterrupt
            yield Progress(i + 1, 5, {"total": total, "done": torch.tensor(i + 1)}, total)

    return start


def measure(start, network=None, **changes):
    options = {"what": "a sum", "latent": {"samples": torch.zeros(1, 4, 8, 8)}, "count": 3,
               "sigmas": torch.tensor([14.0, 1.0, 0.0]), "seed": 1, "options": {"points": 5}, "start": start, "cost": 5}
    word = [[torch.zeros(1, 2, 3), {}]]
    return host.measure(network or model(), word, word, 3.0, **{**options, **changes})


def test_an_interrupted_measurement_goes_on_where_it_stopped(folder):
    whole, about = measure(counting())
    assert whole["total"].shape == (3, 4, 8, 8) and not list(folder.rglob("*.safetensors"))
    assert about["what"] == "a sum" and about["points"] == 5 and about["size"] == [4, 8, 8]
    with pytest.raises(KeyboardInterrupt):
        measure(counting(stop_at=3))
    partial, = folder.rglob("*.safetensors")
    assert read_tensors(partial)[1]["points"] == 5
    seen = []
    resumed, _ = measure(counting(seen=seen))
    assert [i for i, *_ in seen] == [3, 4] and {name for _, name, _ in seen} == {"VE"}
    assert torch.equal(resumed["total"], whole["total"]) and not list(folder.rglob("*.safetensors"))


def test_other_settings_are_another_measurement(folder):
    with pytest.raises(KeyboardInterrupt):
        measure(counting(stop_at=3))
    for changes in ({"seed": 2}, {"options": {"points": 6}}, {"sigmas": torch.tensor([14.0, 2.0, 0.0])},
                    {"network": model(0.4)}, {"latent": {"samples": torch.zeros(1, 4, 8, 16)}}):
        seen = []
        measure(counting(seen=seen), **changes)
        assert seen[0][0] == 0, changes


def test_tensors_come_back_with_what_they_were_measured_on(folder):
    path = folder / "ems" / "mine.safetensors"
    write_tensors(path, {"l": torch.arange(6.0).reshape(2, 3).T}, {"cfg": 7.5})
    tensors, about = read_tensors(path)
    assert torch.equal(tensors["l"], torch.arange(6.0).reshape(2, 3).T) and about == {"cfg": 7.5}
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ValueError, match=r"mine.safetensors can't be read"):
        read_tensors(path)
    with pytest.raises(ValueError, match="there is no file"):
        read_tensors(folder / "none.safetensors")
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="was not saved by Odeon"):
        read_tensors(path)


def test_a_network_is_known_in_any_precision():
    torch.manual_seed(0)
    network = torch.nn.Sequential(*[torch.nn.Linear(7, 7) for _ in range(40)])
    name = fingerprint(network, {})
    json.dumps(name)
    for dtype in (torch.float16, torch.bfloat16):
        assert same_weights(name, fingerprint(network.to(dtype).float(), {}))
    changed = torch.nn.Sequential(*[torch.nn.Linear(7, 7) for _ in range(40)])
    assert not same_weights(name, fingerprint(changed, {}))
    assert not same_weights(name, fingerprint(network[:30], {}))
    kept = {key: value.clone() for key, value in network.state_dict().items()}
    with torch.no_grad():
        network[0].weight += 1.0
    assert not same_weights(name, fingerprint(network, {})) and same_weights(name, fingerprint(network, kept))


def test_keys_tell_values_apart():
    values = [1, 1.5, "1", None, [1, 2], [[1], 2], {"a": 1}, {"b": 1}, torch.zeros(2), torch.zeros(1, 2), torch.ones(2)]
    assert len({key_of(value) for value in values}) == len(values)
    assert key_of({"a": 1, "b": [torch.ones(2)]}) == key_of({"b": [torch.ones(2)], "a": 1})


def sampled(sampler, network, steps=6, top=14.0):
    from odeon.host.embedded.sampling import Guider, Noise

    sigmas = torch.tensor([top * (0.1 / top) ** (i / steps) for i in range(steps + 1)] + [0.0])
    latent = torch.zeros(1, 4, 8, 8)
    noise = Noise(3).generate_noise({"samples": latent})
    return Guider(network, [[torch.zeros(1, 2, 3), {}]]).sample(noise, latent, sampler, sigmas)


def build(name, **inputs):
    cls = NODE_CLASS_MAPPINGS[name]
    own = {key: spec[1]["default"] for group in cls.INPUT_TYPES().values() for key, spec in group.items()
           if "default" in spec[1]}
    return getattr(cls(), cls.FUNCTION)(**{**own, **inputs})[0]


def test_wrapper_nodes_wrap_what_solver_nodes_make():
    network = model()
    plain = sampled(build("OdeonSamplerDDIM"), network)
    for name, changes in (("OdeonWrapUniC", {}), ("OdeonWrapDualFast", {}), ("OdeonWrapODEJump", {"jump_sigma": 2.0})):
        wrapped = build(name, sampler=build("OdeonSamplerDDIM"), **changes)
        assert (sampled(wrapped, network) - plain).abs().max() > 1e-6, name
        twice = build("OdeonWrapODEJump", sampler=wrapped, jump_sigma=3.0)  # a wrapped one can be wrapped
        assert torch.isfinite(sampled(twice, network)).all()
    neutral = build("OdeonWrapDualFast", sampler=build("OdeonSamplerDDIM"), c_end=0.0)
    assert torch.allclose(sampled(neutral, network), plain, atol=1e-6)
    with pytest.raises(ValueError, match="this needs a SAMPLER with a plan"):
        build("OdeonWrapUniC", sampler=build("OdeonSamplerPFODE"))


def test_levels_above_the_model_s_and_orders_beyond_the_steps_are_told(caplog):
    with pytest.raises(ValueError, match="starts at sigma 80, above the model's highest level 14.6146; use a schedule"):
        sampled(build("OdeonSamplerDDIM"), model(), top=80.0)
    sampled(build("OdeonSamplerUniPC", order=4), model(), steps=2)
    assert "unipc of order 4 needs at least 4 steps above sigma 0, the schedule has 2" in caplog.text
    caplog.clear()
    sampled(build("OdeonSamplerUniPC", order=2), model(), steps=2)
    sampled(build("OdeonSamplerDPMSolver", order=3, method="singlestep"), model(), steps=1)
    assert not caplog.text


def test_every_solver_node_makes_a_sampler_of_its_own():
    """Momentum and BDIA beside DDIM: neutral they are it, as they come they are not."""
    network = model()
    plain = sampled(build("OdeonSamplerDDIM"), network)
    for name, neutral in (("OdeonSamplerMomentum", {"order": 1.0}), ("OdeonSamplerBDIA", {"gamma": 0.0})):
        assert torch.allclose(sampled(build(name, **neutral), network), plain, atol=1e-5), name
        assert (sampled(build(name), network) - plain).abs().max() > 1e-4, name


def test_searches_make_a_table_that_gives_their_ratios_back():
    """Rows as Search DC ratios words them -> Fit DC ratios -> Estimate DC ratios -> DC-Solver."""
    known = {(cfg, steps): build("OdeonDCRatiosCPR", cfg=cfg, steps=steps).values
             for cfg in (1.5, 4.0, 7.5, 11.0) for steps in (6, 8, 10, 14)}
    rows = "\n".join(f"{cfg:g}, {steps}: " + ", ".join(map(str, values)) for (cfg, steps), values in known.items())
    coeffs = build("OdeonFitDCCPR", rows=rows)
    for (cfg, steps), values in known.items():
        assert build("OdeonDCRatiosCPR", cfg=cfg, steps=steps, coeffs=coeffs).values == pytest.approx(values, rel=1e-4)
    network, own = model(), build("OdeonDCRatiosCPR", cfg=4.0, steps=6, coeffs=coeffs)
    drawn = [sampled(build("OdeonSamplerDCSolver", ratios=ratios, order=2), network)
             for ratios in (own, ", ".join(map(str, own.values)), "1, 1, 1, 1, 1, 1")]
    assert torch.equal(drawn[0], drawn[1]) and not torch.allclose(drawn[0], drawn[2])
    with pytest.raises(ValueError, match="need one ratio for each of the 6 steps above sigma 0, got 2"):
        sampled(build("OdeonSamplerDCSolver", ratios="1, 1"), network)


def test_thresholding_runs_at_every_scale():
    network = model(0.1)
    changed = build("OdeonDynamicThreshold", model=network)
    out = sampled(build("OdeonSamplerDDIM"), changed)
    assert sampled(build("OdeonSamplerDDIM"), network).abs().max() > 2.0 and out.abs().max() <= 1.0 + 1e-6


def test_pfgmpp_noise_is_a_noise():
    noise = build("OdeonPFGMppNoise", noise_seed=4, extra_dims=8)
    plain = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(4))
    drawn = noise.generate_noise({"samples": torch.zeros(2, 4, 8, 8)})
    assert noise.seed == 4 and not torch.allclose(drawn, plain)
    assert (torch.nn.functional.cosine_similarity(drawn.flatten(1), plain.flatten(1)) - 1.0).abs().max() < 1e-6


NEED_A_SCHEDULE = ("OdeonFitEMS", "OdeonFitIIA", "OdeonOneMoreStep", "OdeonOptimizeBOSS", "OdeonOptimizeDCRatios",
                   "OdeonOptimizeLD3", "OdeonOptimizePlan", "OdeonOptimizeTimeTuner")
BAD_LEVELS = ([], [3.0], [8.0, float("nan"), 1.0, 0.0], [float("inf"), 4.0, 0.0], [0.5, 1.0, 4.0], [8.0, 4.0, 4.0, 0.0],
              [8.0, 4.0, -1.0])


@pytest.mark.parametrize("name", NEED_A_SCHEDULE)
def test_levels_that_are_no_schedule_are_refused_before_the_model_is_asked(name):
    node, network = NODE_CLASS_MAPPINGS[name](), model()
    network.network.forward = lambda *_, **__: pytest.fail("the model was asked")
    asked, word = node.INPUT_TYPES()["required"], [[torch.zeros(1, 2, 3), {}]]
    given = {key: spec[1]["default"] for key, spec in asked.items() if "default" in spec[1]}
    given |= {"positive": word, "negative": word, "model": network, "latent": {"samples": torch.zeros(1, 4, 8, 8)}}
    if "sampler" in asked:
        given["sampler"] = host.solver(plan_ddim)
    for sigmas in BAD_LEVELS:
        with pytest.raises(ValueError, match="sigma|step|schedule"):
            getattr(node, node.FUNCTION)(**given, sigmas=torch.tensor(sigmas))


def test_a_plot_needs_a_point_and_shows_every_curve():
    picture = draw_lines({"a": [(0, 1.0), (1, 0.1)], "b": [(0, 2.0), (1, -1.0)]}, title="t", log=True)
    blue, orange = torch.tensor([47, 111, 222]) / 255.0, torch.tensor([224, 102, 43]) / 255.0
    assert ((picture - blue).abs().sum(-1) < 0.02).sum() > 100
    assert ((picture - orange).abs().sum(-1) < 0.02).sum() > 20
    with pytest.raises(ValueError, match="at least one finite point"):
        draw_lines({"a": [(0, math.nan)]}, title="t", log=True)
