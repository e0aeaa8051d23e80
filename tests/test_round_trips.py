"""How far pictures come back from inversions that are not exact, by the number of steps: the figures of help pages."""
import pytest
import torch
from embedded_editing import build, shapes, words
from gmm import LABELS, MEANS, STDS, WEIGHTS, denoise, denoise_flow

from odeon.editing.ddim_inversion import sample_ddim_invert
from odeon.editing.rf_inversion import sample_rf_edit, sample_rf_invert
from odeon.host.embedded.core_sampling import SamplerCustom, model_sigmas
from odeon.samplers.ddim import plan_ddim
from odeon.samplers.linear import run
from odeon.samplers.process import FLOW, VE

OWN, PROCESS = {"VE": denoise, "flow": denoise_flow}, {"VE": VE, "flow": FLOW}


def clean():
    generator = torch.Generator().manual_seed(4)
    own = torch.nonzero(LABELS == 0)[:, 0]
    which = own[torch.multinomial(WEIGHTS[own], 64, replacement=True, generator=generator)]
    return MEANS[which] + STDS[which, None] * torch.randn(64, 16, generator=generator, dtype=torch.float64)


def levels(steps, kind):
    """ComfyUI's karras on SD; even on a flow, with 0.9999 for its 1."""
    if kind == "flow":
        return [0.9999, *[1.0 - i / steps for i in range(1, steps)], 0.0]
    high, low = 14.6 ** (1 / 7), 0.03 ** (1 / 7)
    return [*[(high + i / (steps - 1) * (low - high)) ** 7 for i in range(steps)], 0.0]


def on_the_mixture(kind, steps, invert=sample_ddim_invert, pull=0.0, **options):
    """The distance of what comes back by DDIM (on a flow: Euler, or RF edit with its usual stop), as a share of the
    picture's size, of the median of 64 pictures. The picture counts as the state at the last level above 0."""
    def guided(state, sigma):
        return OWN[kind](state, float(sigma[0]), 0)

    x, down = clean(), levels(steps, kind)
    noisy = invert(guided, x, down[::-1][1:], process=PROCESS[kind], **options)
    if pull:
        back = sample_rf_edit(guided, noisy, down, reference=x, eta=pull, noise_of=unit_noise, process=FLOW)
    else:
        back = run(lambda state, sigma: guided(state, [sigma]), noisy, plan_ddim(down, process=PROCESS[kind]))
    return float(((back - x).norm(dim=1) / x.norm(dim=1)).median())


def unit_noise(stream):
    return lambda sigma, sigma_next: torch.randn(64, 16, generator=torch.Generator().manual_seed(3),
                                                 dtype=torch.float64)


MIXTURE = {
    ("DDIM", "VE"): {},
    ("DDIM, told the level it goes to", "VE"): {"eval_at": "destination_level"},
    ("DDIM, 3 fixed points", "VE"): {"fixed_point_iters": 3},
    ("DDIM", "flow"): {},
    ("RF, gamma 0.5", "flow"): {"invert": sample_rf_invert, "gamma": 0.5, "noise_of": unit_noise},
    ("RF, gamma 0.5, pulled back", "flow"): {"invert": sample_rf_invert, "gamma": 0.5, "noise_of": unit_noise,
                                             "pull": 0.9},
}
SHAPES = {
    ("DDIM", "shapes-unet"): ("OdeonSamplerDDIMInvert", {}),
    ("DDIM, 3 fixed points", "shapes-unet"): ("OdeonSamplerDDIMInvert", {"fixed_point_iters": 3}),
    ("DDIM", "shapes-dit"): ("OdeonSamplerDDIMInvert", {}),
    ("RF, gamma 0.5", "shapes-dit"): ("OdeonSamplerRFInvert", {"gamma": 0.5}),
}


def on_shapes(kind, steps, node, options):
    """The same of an encoded Shapes picture under its caption, at CFG 1 on the normal schedule."""
    (model, clip, vae), (images, caption) = shapes(kind), build("OdeonShapes", count=1, size=64, data_seed=3,
                                                                objects=1)[:2]
    latent, down, said = vae.encode(images), model_sigmas(model, "normal", steps), words(clip, caption)
    up = down.flip(0)
    up[0] = 1e-4
    x = latent
    for sampler, sigmas in ((build(node, **options)[0], up), (build("OdeonSamplerDDIM")[0], down)):
        with torch.inference_mode():
            x = SamplerCustom().sample(model, False, 3, 1.0, said, said, sampler, sigmas, {"samples": x})[0]["samples"]
    return float((x - latent).norm() / latent.norm())


FIGURES = {
    ("DDIM", "VE"): (0.058, 0.032, 0.021, 0.015),
    ("DDIM, told the level it goes to", "VE"): (0.083, 0.059, 0.040, 0.024),
    ("DDIM, 3 fixed points", "VE"): (0.013, 0.009, 0.009, 0.009),
    ("DDIM", "flow"): (0.073, 0.045, 0.026, 0.014),
    ("RF, gamma 0.5", "flow"): (0.340, 0.383, 1.234, 1.239),
    ("RF, gamma 0.5, pulled back", "flow"): (0.152, 0.170, 0.185, 0.189),
    ("DDIM", "shapes-unet"): (0.551, 0.249, 0.115),
    ("DDIM, 3 fixed points", "shapes-unet"): (0.034, 0.004, 0.0005),
    ("DDIM", "shapes-dit"): (0.437, 0.202, 0.095),
    ("RF, gamma 0.5", "shapes-dit"): (1.07, 1.08, 1.08),
}


@pytest.mark.parametrize("row", MIXTURE)
def test_round_trips_on_the_mixture(row):
    """In 10, 20, 40 and 80 steps."""
    found = [on_the_mixture(row[1], steps, **MIXTURE[row]) for steps in (10, 20, 40, 80)]
    assert found == pytest.approx(FIGURES[row], abs=6e-4)


@pytest.mark.parametrize("row", SHAPES)
def test_round_trips_on_shapes(row):
    """In 5, 10 and 20 steps."""
    found = [on_shapes(row[1], steps, *SHAPES[row]) for steps in (5, 10, 20)]
    assert found == pytest.approx(FIGURES[row], rel=0.05, abs=6e-3)
