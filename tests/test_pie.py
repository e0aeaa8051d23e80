"""PIE: its limits, its bounds on the exact mixture, and the node on Shapes."""
from itertools import pairwise

import pytest
import torch
from embedded_editing import build, shapes, words
from gmm import LABELS, MEANS, STDS, UNIT_NOISE, WEIGHTS, denoise, log_spaced

from odeon.editing.path import euler_path
from odeon.editing.pie import pie_mixed, pie_round
from odeon.samplers.process import FLOW, VE

SIGMAS = [*log_spaced(10, top=1.0, bottom=0.05), 0.0]


def towards(x, sigma):
    """The mixture's denoiser for pictures of class 1."""
    return denoise(x, sigma, label=1)


def starts(count=64):
    """Pictures of class 0."""
    generator = torch.Generator().manual_seed(3)
    component = torch.multinomial(WEIGHTS * (LABELS == 0), count, replacement=True, generator=generator)
    noise = torch.randn(count, MEANS.shape[1], generator=generator, dtype=torch.float64)
    return MEANS[component] + STDS[component][:, None] * noise


def shares(x):
    """How likely class 1 is for each."""
    log = WEIGHTS.log() - 0.5 * (x[:, None] - MEANS).square().sum(-1) / STDS ** 2 - x.shape[1] * STDS.log()
    return torch.softmax(log, dim=1)[:, LABELS == 1].sum(1)


def result(start, source, *, seed=0, mask=None, process=VE, sigmas=SIGMAS):
    def draw(step):
        return torch.randn(start.shape, generator=torch.Generator().manual_seed(1000 * seed + step), dtype=start.dtype)

    *_, last = pie_round(towards, start, source, sigmas, draw=draw, process=process, mask=mask)
    return last.state["x"]


def rounds(count, fresh):
    """(mean lengths of the moves, mean shares of class 1) of rounds with fresh noise, or with the same in all."""
    source = x = starts()
    moves, classes = [], [shares(x).mean().item()]
    for n in range(count):
        before, x = x, pie_mixed(source, result(x, source, seed=n if fresh else 0), torch.ones_like(x), beta_1=0.0,
                                 beta_2=0.5)
        moves.append((x - before).norm(dim=1).mean().item())
        classes.append(shares(x).mean().item())
    return moves, classes


def test_rounds_go_on_in_ever_smaller_moves_to_ever_more_of_the_class():
    moves, classes = rounds(6, fresh=False)
    assert all(after < before for before, after in pairwise(moves)) and moves[-1] < 0.1 * moves[0]
    assert all(after >= before - 1e-3 for before, after in pairwise(classes)) and classes[-1] > classes[0] + 0.3


def test_fresh_noise_leaves_moves_of_its_own_size():
    moves, classes = rounds(6, fresh=True)
    assert max(moves[1:]) < 0.5 * moves[0] and classes[-1] > 0.7


def test_the_first_round_everywhere_is_sdedit():
    source = starts(8)
    noise = torch.randn(source.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    *_, (x, _) = euler_path(towards, source + SIGMAS[0] * noise, SIGMAS)
    everywhere = torch.ones_like(source)
    edited = result(source, source)
    assert torch.equal(edited, x) and torch.equal(pie_mixed(source, edited, None, beta_1=0.3, beta_2=0.3), x)
    masked = result(source, source, mask=everywhere)
    assert torch.allclose(pie_mixed(source, masked, everywhere, beta_1=0.0, beta_2=1.0), x, atol=1e-12)


def test_betas_of_0_keep_the_source_and_a_mask_its_outside():
    source, mask = starts(8), (torch.arange(16) < 8).double().expand(8, 16)
    edited = result(source, source, mask=mask)
    assert torch.equal(pie_mixed(source, edited, mask, beta_1=0.0, beta_2=0.0), source)
    mixed = pie_mixed(source, edited, mask, beta_1=0.0, beta_2=1.0)
    assert torch.equal(mixed[:, 8:], source[:, 8:]) and torch.allclose(mixed[:, :8], edited[:, :8])


@pytest.mark.parametrize("process, top", [(VE, 1.0), (FLOW, 0.6)])
def test_an_interrupted_round_goes_on(process, top):
    source, sigmas = starts(3), [top, 0.5 * top, 0.2 * top, 0.0]
    mask = torch.full_like(source, 0.5)

    def draw(step):
        return UNIT_NOISE * (step + 1.0)

    options = {"draw": draw, "process": process, "mask": mask}
    whole = list(pie_round(towards, source, source, sigmas, **options))
    rest = list(pie_round(towards, source, source, sigmas, **options, state=whole[0].state))
    assert [progress.done for progress in rest] == [2, 3]
    assert torch.equal(rest[-1].state["x"], whole[-1].state["x"])


SMALL = {"n_steps": 2, "steps": 10, "strength": 0.4, "cfg": 3.0}


@pytest.mark.parametrize("kind", ["shapes-unet", "shapes-dit-small"])
def test_the_node_s_frames_masks_and_batches(kind):
    model, clip, vae = shapes(kind)
    images, _ = build("OdeonShapes", count=2, size=128, data_seed=4)
    latent = {"samples": vae.encode(images), "batch_index": [0, 1]}
    options = {"model": model, "positive": words(clip, "a large red star in the middle on sand"),
               "negative": words(clip, ""), **SMALL}
    out, = build("OdeonPIE", latent=latent, **options)
    frames = out["samples"].unflatten(0, (3, 2))
    assert set(out) == {"samples"} and torch.equal(frames[0], latent["samples"])
    assert (frames[1] - frames[0]).abs().max() > 0.1 and (frames[2] - frames[1]).abs().max() > 0.1
    alone, = build("OdeonPIE", latent={"samples": latent["samples"][1:]}, **options)
    assert (alone["samples"] - frames[:, 1]).abs().max() < 1e-3
    half = torch.zeros(1, 64, 64)
    half[..., 32:] = 1.0
    masked, = build("OdeonPIE", latent=latent, mask=half, beta_1=0.0, **options)
    by_latent, = build("OdeonPIE", latent={**latent, "noise_mask": half[:, None]}, beta_1=0.0, **options)
    assert torch.equal(masked["samples"], by_latent["samples"])
    moved = (masked["samples"].unflatten(0, (3, 2)) - frames[0]).abs()
    assert moved[..., :7].max() == 0.0 and moved[1:, ..., 9:].max() > 0.05
    kept, = build("OdeonPIE", latent=latent, **{**options, "strength": 0.0})
    assert all(torch.equal(frame, frames[0]) for frame in kept["samples"].unflatten(0, (3, 2)))
    through, = build("OdeonPIE", latent=latent, vae=vae, **options)
    assert (through["samples"] - out["samples"]).abs().max() > 1e-3


def test_masks_of_another_batch_are_refused():
    model, clip, _ = shapes()
    with pytest.raises(ValueError, match="need one mask, or one for each of the 2 pictures, got 3"):
        build("OdeonPIE", model=model, positive=words(clip, ""), negative=words(clip, ""),
              latent={"samples": torch.zeros(2, 4, 8, 8)}, mask=torch.ones(3, 8, 8))
