"""Where ComfyUI's own guidance nodes do otherwise than what is published, beside ours; run as in_comfyui.py is."""
import importlib

from comfyui_pack import build, close, comfy, levels_for, run_checks, sample, sampler, torch, toy, word
from in_comfyui_attention import drawn, node
from in_comfyui_guidance_nodes import APG, LATENT, guided, predictions


def core(module, name, *args, **inputs):
    """The MODEL that a node of ComfyUI gives."""
    return getattr(importlib.import_module(f"comfy_extras.{module}"), name).execute(*args, **inputs).args[0]


def check_core_apg_takes_each_channel_of_a_video_by_itself():
    x = 3.0 * torch.randn(1, 4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    model, options = toy()[0], {"eta": 0.0, "norm_threshold": 1.0, "momentum": 0.0}
    theirs = predictions(core("nodes_apg", "APG", model, **options), 5.0, x, 2.0)
    ours, channels = (predictions(build("OdeonAPG", model=model, **{**APG, **options, "axes": axes})[0], 6.0, x, 2.0)
                      for axes in ("sample", "channel"))
    close(theirs, channels, 1e-4, "ComfyUI's APG on a video against ours by channels, at CFG one higher")
    assert (theirs - ours).abs().max() > 0.3


def check_core_apg_carries_its_average_into_the_next_sampler():
    sigmas, noise = levels_for("eps"), comfy.sample.prepare_noise(LATENT, 5)
    options = {"eta": 0.0, "norm_threshold": 2.0, "momentum": 0.9}
    off = []
    for patched in (core("nodes_apg", "APG", toy()[0], **options),
                    build("OdeonAPG", model=toy()[0], **{**APG, **options})[0]):
        alone = sample(patched, sampler(1), sigmas[3:], LATENT, noise=noise)
        sample(patched, sampler(1), sigmas[:4], LATENT, noise=noise)
        off.append((sample(patched, sampler(1), sigmas[3:], LATENT, noise=noise) - alone).abs().max())
    assert off[0] > 0.14 and off[1] == 0.0, off


def check_core_nodes_measure_over_the_whole_batch():
    """How far a picture in a batch of three is from itself alone: at most, and as a share of its spread."""
    noise, off = comfy.sample.prepare_noise(LATENT, 2), {}
    noise[1:] *= 0.2
    for name, patched in (("Mahiro", core("nodes_mahiro", "Mahiro", toy()[0])),
                          ("PerpNeg", core("nodes_perpneg", "PerpNeg", toy()[0], word(0.1), 2.0)),
                          ("rescale", guided("OdeonCFGRescale", toy()[0]))):
        whole, alone = (sample(patched, sampler(1), levels_for("eps"), LATENT[:n], noise=noise[:n], cfg=7.0)
                        for n in (3, 1))
        off[name] = (whole[:1] - alone).abs().max().item()
    skipping = {"scale": 3.0, "start_percent": 0.0, "end_percent": 1.0, "double_layers": "0", "single_layers": "1",
                "rescaling_scale": 1.0}
    for name, patch in (("SLG", lambda model: core("nodes_slg", "SkipLayerGuidanceDiT", model, **skipping)),
                        ("PAG", node("OdeonPAG", rescale=1.0))):
        whole, alone = (drawn("shapes-dit", patch, items=items) for items in ((5, 6, 7), (5,)))
        off[name] = ((whole[:1] - alone).square().mean().sqrt() / alone.std()).item()
    assert off["rescale"] < 1e-5 and off["PAG"] < 1e-3, off
    assert off["Mahiro"] > 0.2 and off["PerpNeg"] > 0.9 and off["SLG"] > 0.16, off


def check_core_renorm_cfg_takes_one_picture_at_a_time():
    model, network = toy()
    network.in_channels = 4
    patched = core("nodes_lumina2", "RenormCFG", model, 100.0, 1.0)
    assert torch.isfinite(sample(patched, sampler(1), levels_for("eps"), LATENT[:1])).all()
    try:
        sample(patched, sampler(1), levels_for("eps"), LATENT)
    except RuntimeError as error:
        assert "ambiguous" in str(error), error
    else:
        raise AssertionError("RenormCFG takes batches now: correct OdeonCFGRescale's page")


def check_core_cfg_zero_star_never_stands_still():
    model = toy("flow")[0]
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    close(predictions(guided("OdeonCFGZeroStar", model), 5.0, x, 1.0), x, 1e-6, "the first step of ours")
    assert (predictions(core("nodes_cfg", "CFGZeroStar", model), 5.0, x, 1.0) - x).abs().max() > 2.0


if __name__ == "__main__":
    run_checks(globals())
