"""What the checks inside ComfyUI share: the pack loaded there, a network to run it on, and how results are told.

Imported by scripts that run under ComfyUI's own Python with its folder as their argument."""
import functools
import importlib.util
import json
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, sys.argv[1])
sys.argv = ["main.py", "--cpu"]
os.environ["ODEON_FOLDER"] = tempfile.mkdtemp()

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()
import comfy.model_management  # noqa: E402
import comfy.sample  # noqa: E402
import comfy.samplers  # noqa: E402
import comfy.utils  # noqa: E402
import torch  # noqa: E402

KINDS = ("eps", "v", "flow")


def tables():
    """What other packs and the menus read of ComfyUI."""
    import comfy.k_diffusion.sampling as sampling

    import nodes

    return {"samplers": list(comfy.samplers.SAMPLER_NAMES), "schedulers": list(comfy.samplers.SCHEDULER_NAMES),
            "handlers": dict(comfy.samplers.SCHEDULER_HANDLERS), "nodes": dict(nodes.NODE_CLASS_MAPPINGS),
            "functions": {name: getattr(sampling, name) for name in dir(sampling)},
            "samplers_module": {name: getattr(comfy.samplers, name) for name in dir(comfy.samplers)}}


def load_pack():
    """Loads the pack as ComfyUI does: under a name that is its path."""
    name = str(ROOT).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module, sys.modules[f"{name}.host"], name


BEFORE = tables()
STARTED = time.process_time()  # not the clock: other processes run beside
PACK, HOST, NAME = load_pack()
LOAD_SECONDS = time.process_time() - STARTED
NODES = PACK.NODE_CLASS_MAPPINGS


class Toy(torch.nn.Module):
    """A network for latents of any shape whose denoised prediction is tanh(x + word), on every prediction type."""

    def __init__(self, prediction, levels):
        super().__init__()
        self.prediction, self.levels = prediction, levels
        self.weight = torch.nn.Parameter(torch.ones(()), requires_grad=False)
        self.dtype, self.calls, self.fail_at = torch.float32, 0, None

    def forward(self, x, timesteps, context=None, **_):
        self.calls += 1
        if self.calls == self.fail_at:
            return x * float("nan")
        wide = [-1] + [1] * (x.ndim - 1)
        if self.prediction == "flow":
            sigma = (timesteps / 1000.0).reshape(wide)
        else:
            sigma = self.levels.sigma(timesteps).reshape(wide)
            x = x * (sigma.square() + 1.0).sqrt()
        denoised = torch.tanh(x * 0.5 + context.mean((1, 2)).reshape(wide))
        if self.prediction == "v":
            return (x / (sigma.square() + 1.0) - denoised) * (sigma.square() + 1.0).sqrt() / sigma
        return (x - denoised) / sigma


def toy(prediction="eps", channels=4):
    levels_module = sys.modules[f"{NAME}.models.levels"]
    levels = levels_module.FlowLevels() if prediction == "flow" else levels_module.DiscreteLevels()
    network = Toy(prediction, levels)
    model = HOST.make_model(network, prediction=prediction, levels=levels, channels=channels,
                            rgb_factors=[[0.1, 0.1, 0.1]] * channels)
    return model, network


def word(value):
    return [[torch.full((1, 2, 3), value), {}]]


def build(node, **inputs):
    cls = NODES[node]
    return getattr(cls(), cls.FUNCTION)(**inputs)


def sampler(order=2, eta=0.0):
    return build("OdeonSamplerExponentialAdams", order=order, eta=eta, s_noise=1.0)[0]


def defaults(name, **changes):
    """A SAMPLER of a node as it comes from the menu, with changes."""
    inputs = {key: spec[1]["default"] for group in NODES[name].INPUT_TYPES().values() for key, spec in group.items()
              if "default" in spec[1]}
    return build(name, **{**inputs, **changes})[0]


def levels_for(prediction, steps=6):
    if prediction == "flow":
        return torch.linspace(1.0, 0.0, steps + 1)
    return build("OdeonSigmasPower", steps=steps, sigma_max=14.614642, sigma_min=0.0291675, rho=7.0)[0]


def sample(model, solver, sigmas, latent, *, noise=None, cfg=3.0, mask=None, callback=None, seed=5):
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(word(0.3), word(-0.2))
    guider.set_cfg(cfg)
    if noise is None:
        noise = comfy.sample.prepare_noise(latent, seed)
    with torch.inference_mode():
        return guider.sample(noise, latent, solver, sigmas, denoise_mask=mask, callback=callback, disable_pbar=True,
                             seed=seed)


def close(a, b, tolerance, what):
    difference = (a - b).abs().max().item()
    assert difference <= tolerance, f"{what}: differs by {difference:.3g}, allowed {tolerance:g}"


def measure(name, prediction, *, model=None, shape=(1, 4, 8, 8), steps=6, **options):
    """What a measuring node gives on the toy model."""
    with torch.inference_mode():
        return build(name, model=model or toy(prediction)[0], positive=word(0.3), negative=word(-0.2), cfg=3.0,
                     sigmas=levels_for(prediction, steps), latent={"samples": torch.zeros(shape)}, start_seed=1,
                     **options)


@functools.cache
def fitted(prediction):
    return measure("OdeonFitIIA", prediction, base="ddim", r=1, ridge=0.0, substeps=4, samples=4)[0]


EMS = {"points": 40, "samples": 8, "batch": 4, "spatial": "channel", "jacobian": "finite_diff"}


@functools.cache
def statistics(prediction):
    return measure("OdeonFitEMS", prediction, **EMS)[0]


def expect_error(text, function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except ValueError as error:
        assert text in str(error), f"said {error}"
    else:
        raise AssertionError(f"no error; expected one with {text!r}")


def checked(found):
    """Runs every check_ function: {name: "" or what went wrong}."""
    results = {}
    for name, function in list(found.items()):
        if name.startswith("check_"):
            try:
                function()
                results[name] = ""
            except Exception:
                results[name] = traceback.format_exc(limit=-4)
    return results


def sd3():
    """(MODEL, positive, negative, levels of three steps) of ComfyUI's SD3 network with random weights, made small."""
    import comfy.latent_formats
    import comfy.model_base
    import comfy.supported_models_base

    class Config(comfy.supported_models_base.BASE):
        unet_extra_config, sampling_settings, memory_usage_factor = {}, {"shift": 3.0}, 1.0
        latent_format = comfy.latent_formats.SD15

    torch.manual_seed(0)
    config = Config({"in_channels": 4, "patch_size": 2, "depth": 2, "input_size": None,
                        "adm_in_channels": 32, "num_patches": 256, "pos_embed_max_size": 16, "qk_norm": "rms",
                        "x_block_self_attn_layers": [0], "dtype": torch.float32, "context_embedder_config": {
                            "target": "torch.nn.Linear", "params": {"in_features": 24, "out_features": 128}}})
    base = comfy.model_base.SD3(config, device=torch.device("cpu")).eval()
    for key, value in base.diffusion_model.named_parameters():
        torch.nn.init.normal_(value, std=0.08, mean=2.0 if ".ln_" in key else 0.0)
    base.diffusion_model.pos_embed.normal_()
    base.diffusion_model.requires_grad_(False)
    model = comfy.model_patcher.ModelPatcher(base, load_device=base.device, offload_device=base.device)
    words = [[[torch.randn(1, 7, 24), {"pooled_output": torch.randn(1, 32)}]] for _ in range(2)]
    return model, *words, torch.tensor([1.0, 0.8, 0.5, 0.0])


def run_checks(found):
    """Prints what checked gives."""
    sys.__stdout__.write("\n" + json.dumps(checked(found)) + "\n")
