"""Checks of pictures of numbers inside ComfyUI, run as in_comfyui.py is: `in_comfyui_analysis.py COMFYUI_ROOT`."""
import importlib
import logging
from pathlib import Path

from comfyui_pack import HOST, NAME, NODES, build, close, comfy, expect_error, run_checks, sampler, torch, toy, word

MENU = importlib.import_module(f"{NAME}.nodes.menu")
LIVE = importlib.import_module(f"{NAME}.host.live")
SAMPLER_KEY = importlib.import_module(f"{NAME}.host.sampler_key").sampler_key
ALONE = {"sampler_3": "none", "more_samplers": ""}


class Codec:
    def decode(self, samples):
        return ((samples[:, :3] + 1.0) / 2.0).clamp(0.0, 1.0).movedim(1, -1)


def made(name, **changes):
    inputs = {key: spec[1]["default"] for key, spec in NODES[name].INPUT_TYPES()["required"].items()
              if "default" in spec[1]}
    with torch.inference_mode():
        return build(name, **{**inputs, **changes})


def task(model, batch=1):
    return {"model": model, "positive": word(0.3), "negative": word(-0.2),
            "latent": {"samples": torch.zeros(batch, 4, 8, 8)}}


def plain(model, solver, sigmas, *, cfg=3.0, seed=0, batch=1):
    latent = torch.zeros(batch, 4, 8, 8)
    with torch.inference_mode():
        return comfy.sample.sample_custom(model, comfy.sample.prepare_noise(latent, seed), cfg, solver, sigmas,
                                          word(0.3), word(-0.2), latent, disable_pbar=True, seed=seed)


def check_plots_are_shown_on_the_node():
    model = toy("flow")[0]
    answer = made("OdeonPlotSigmas", sigmas=torch.tensor([1.0, 0.5, 0.0]), sigmas_2=torch.tensor([0.9, 0.1]),
                  model=model, unit="log_snr")
    assert answer["result"][0].shape == (1, 560, 900, 3)
    shown, = answer["ui"]["images"]
    import folder_paths

    assert shown["type"] == "temp" and (Path(folder_paths.get_temp_directory()) / shown["filename"]).is_file()


def check_a_trajectory_counts_the_calls_of_any_sampler():
    for prediction in ("eps", "flow"):
        model = toy(prediction)[0]
        sigmas = MENU.sigmas_of("normal", model, 4)
        for name, calls in (("euler", 4), ("heun", 7), ("dpmpp_2m", 4), ("Odeon UniPC", 4), ("Odeon EDMHeun", 7)):
            solver = MENU.sampler_of(name)
            strip, _, latent, report = made("OdeonTrajectory", **task(model, 2), sampler=solver, sigmas=sigmas,
                                            vae=Codec())["result"]
            assert report.startswith(f"4 steps, {calls} model calls"), (prediction, name, report)
            close(latent["samples"], plain(model, solver, sigmas, batch=2), 0.0, (prediction, name))
        assert "odeon_calls" not in str(model.wrappers), "the MODEL that came in was changed"


def check_a_grid_is_drawn_once_and_resumed_after_an_interruption():
    model, network = toy("eps")
    wanted = {**task(model), "vae": Codec(), "steps": "3, 4", "cell": 64, **ALONE, "sampler_2": "heun"}
    stop = comfy.model_management.InterruptProcessingException
    seen = []

    def hook(value, total, *_args, **_kwargs):
        seen.append((value, total))
        if len(seen) == 9:  # in the third of eight pictures
            raise stop()

    comfy.utils.set_progress_bar_global_hook(hook)
    try:
        try:
            made("OdeonCompareGrid", **wanted)
            raise AssertionError("the interruption was swallowed")
        except stop:
            pass
        assert seen == [(i + 1, 28) for i in range(9)], seen
        spent = network.calls
        grid, pictures, report = made("OdeonCompareGrid", **wanted)["result"]
        assert (seen[9], seen[-1]) == ((8, 28), (28, 28)), "two pictures were there already"
        again = network.calls
        assert torch.equal(made("OdeonCompareGrid", **wanted)["result"][0], grid)
        assert network.calls == again > spent, "a picture was drawn twice"
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
    assert len(pictures) == 8 and "heun, karras 4: 7 model calls" in report
    sigmas = MENU.sigmas_of("karras", model, 4)
    close(pictures[7], Codec().decode(plain(model, MENU.sampler_of("heun"), sigmas))[0], 0.0, "the last cell")
    expect_error("400 pictures", made, "OdeonCompareGrid",
                 **{**wanted, "steps": "1,2,3,4,5", "scales": ",".join(map(str, range(1, 21)))})


def check_every_name_of_the_menus_is_one():
    model = toy("eps")[0]
    for name in comfy.samplers.SCHEDULER_NAMES:
        sigmas = MENU.sigmas_of(name, model, 5)
        theirs = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), name, 5)
        assert torch.equal(sigmas, theirs), name
    keys = {name: SAMPLER_KEY(MENU.sampler_of(name)) for name in (*comfy.samplers.SAMPLER_NAMES, *MENU.SAMPLERS)}
    assert None not in keys.values(), [name for name, key in keys.items() if key is None]
    twice = {name for name in keys if list(keys.values()).count(keys[name]) > 1}
    assert not twice, twice
    assert keys["euler"] == SAMPLER_KEY(MENU.sampler_of("euler"))
    assert SAMPLER_KEY(sampler(2)) != SAMPLER_KEY(sampler(3))


def check_the_error_is_measured_from_the_same_noise():
    model = toy("flow")[0]
    plot, report = made("OdeonPlotError", **task(model), **ALONE, sampler_2="Odeon UniPC", schedule="simple",
                        steps="8, 32", samples=2, teacher_steps=60)["result"]
    errors = [float(line.split("error ")[1].split()[0]) for line in report.splitlines()[:4]]
    assert errors[1] < errors[0] and errors[3] < errors[2] and errors[3] < 0.02, report
    assert plot.shape == (1, 560, 900, 3)


def check_the_live_curve_is_the_node_s_own_and_remembers_levels():
    spec = {"id": "4", "class": "OdeonSigmasTimestepSpacing", "ran": True,
            "inputs": {"steps": 6, "spacing": "trailing", "offset": 1, "model": {"class": "SomeLoader", "inputs": {}}}}
    assert "once the graph has run" in LIVE.answer(spec, NODES)["words"]
    from comfy_execution.utils import CurrentNodeContext

    for prediction in ("eps", "flow"):
        model = toy(prediction)[0]
        with CurrentNodeContext("a prompt", "4", 0):
            own = made("OdeonSigmasTimestepSpacing", model=model, steps=6)[0]
        assert LIVE.answer(spec, NODES)["levels"] == own.tolist(), prediction
    assert "once the graph has run" in LIVE.answer({**spec, "ran": False}, NODES)["words"]
    for name in ("shapes-unet", "shapes-dit"):
        model = NODES["OdeonShapesCheckpoint"]().load(name)[0]
        spec["inputs"]["model"] = {"class": "OdeonShapesCheckpoint", "inputs": {"model": name}}
        assert LIVE.answer(spec, NODES)["levels"] == made("OdeonSigmasTimestepSpacing", model=model,
                                                         steps=6)[0].tolist(), name


def check_nothing_is_registered_without_a_server():
    LIVE.register(NODES)
    assert HOST.levels_of(toy("eps")[0]).sigma_max > 14.0


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    run_checks(globals())
