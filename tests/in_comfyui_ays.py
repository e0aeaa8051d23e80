"""Checks of the Align Your Steps optimizer inside ComfyUI, run as in_comfyui.py is: `python in_comfyui_ays.py ROOT`."""
import os
from pathlib import Path

from comfyui_pack import build, comfy, defaults, expect_error, levels_for, run_checks, torch, toy, word

ASKED = {"cfg": 2.0, "steps": 5, "steps_init": 5, "refine": 1, "mc_samples": 3, "candidates": 3, "max_iters": 2,
         "stop": "teacher_distance", "c": 0.5, "solver": "2m", "estimate": "table", "end": "zero", "sigma_min": 0.03,
         "reach": 0.25, "samples": 4, "start_seed": 1, "batch": 2, "several_prompts": "each"}


def find(model, prediction="eps", shape=(1, 4, 8, 8), **changes):
    with torch.inference_mode():
        return build("OdeonOptimizeAlignYourSteps", **{
            **ASKED, "model": model, "positive": [*word(0.3), *word(0.1)], "negative": word(-0.2),
            "sigmas": levels_for(prediction, 5), "sampler": defaults("OdeonSamplerDPMSolverPP"),
            "latent": {"samples": torch.zeros(shape)}, **changes})["result"]


def check_ays_of_every_prediction_and_of_video():
    for prediction, shape, estimate in (("eps", (1, 4, 8, 8), "table"), ("v", (1, 4, 8, 8), "draws"),
                                        ("flow", (1, 4, 2, 8, 8), "table")):
        given = levels_for(prediction, 5)
        sigmas, report, plot, about = find(toy(prediction)[0], prediction, shape, estimate=estimate)
        assert sigmas.shape == (6,) and (sigmas.diff() < 0).all() and sigmas[-1] == 0.0
        assert sigmas[0] == given[0] and "found at 10 steps" in report and plot.shape[3] == 3 and about["steps"] == 5


def forget():
    """Empties the folder of results."""
    for kept in (Path(os.environ["ODEON_FOLDER"]) / "cache").glob("*.safetensors"):
        kept.unlink()


def check_ays_reads_pictures_in_the_model_s_scale():
    """The same pictures under another latent scale are another LATENT."""
    drawn, found = 0.1 * torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(2)), []
    for factor, pictures in ((1.0, drawn), (0.25, drawn / 0.25), (1.0, drawn / 0.25)):
        model = toy()[0]
        model.model.latent_format.scale_factor = factor
        forget()
        found.append(find(model, data={"samples": pictures}, stop="no_change")[1].split("\n")[1])
    assert found[0] == found[1] != found[2], found
    expect_error("data must be latents of pictures for this model", find, toy()[0],
                 data={"samples": torch.zeros(1, 4, 8, 8)})


def check_ays_goes_on_after_an_interruption():
    partial = Path(os.environ["ODEON_FOLDER"]) / "partial"
    for share, estimate in ((0.15, "table"), (0.8, "table"), (0.8, "draws")):
        model, network = toy()
        network.calls = 0
        whole, asked, forward = find(model, estimate=estimate), network.calls, network.forward
        forget()
        network.calls, stop = 0, int(share * asked)

        def interrupted(*args, forward=forward, network=network, stop=stop, **kwargs):
            if network.calls == stop:
                comfy.model_management.interrupt_current_processing()
            return forward(*args, **kwargs)

        network.forward = interrupted
        try:
            find(model, estimate=estimate)
            raise AssertionError("was not interrupted")
        except comfy.model_management.InterruptProcessingException:
            pass
        finally:
            del network.forward
        assert network.calls <= stop + 40, (network.calls, stop)
        assert len(list(partial.glob("*.safetensors"))) == 1, list(partial.glob("*"))
        network.calls = 0
        resumed = find(model, estimate=estimate)
        assert not list(partial.glob("*.safetensors"))
        assert torch.equal(resumed[0], whole[0]) and network.calls < asked, (network.calls, asked)
        forget()


if __name__ == "__main__":
    run_checks(globals())
