"""Pictures whose sides the VAE can't divide, with transparency: editors that take a LATENT give it back in its size."""
import pytest
import torch
from embedded_editing import build, shapes

from odeon.bench.editing_ways import WAYS, Task
from odeon.bench.shapes import encoded
from odeon.host.embedded.core_nodes import VAEEncode
from odeon.host.embedded.core_sampling import model_sigmas

OF_UNETS, OF_FLOWS = {"control"}, {"rf"}
CAPTIONS = ("a large red star on the left on grey", "a large blue star on the left on grey")


def latent_of(vae):
    """Of 74 x 61 px: VAE Encode cuts to 72 x 56 around the middle, as ComfyUI does; both sides are odd as latents."""
    images, _ = build("OdeonShapes", count=1, size=128, data_seed=4)
    picture = torch.cat([images[:, 20:81, 30:104], torch.rand(1, 61, 74, 1)], -1)
    found, = VAEEncode().encode(picture, vae)
    assert torch.equal(found["samples"], vae.encode(picture[:, 2:58, 1:73, :3]))
    return found["samples"]


@pytest.mark.parametrize("kind", ["shapes-unet", "shapes-dit-small"])
def test_editors_of_latents_keep_every_size(kind):
    model, clip, vae = shapes(kind)
    latents, (source, target) = latent_of(vae), (encoded(clip, [text]) for text in CAPTIONS)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    task = Task(model, clip, [CAPTIONS], latents, noise, source, target, encoded(clip, [""]),
                model_sigmas(model, "normal", 3)[-3:], 2.0, 1)
    for way in sorted(set(WAYS) - {"nothing"} - (OF_FLOWS if "unet" in kind else OF_UNETS)):
        with torch.inference_mode():
            out = WAYS[way](task)
        assert out.shape == latents.shape and torch.isfinite(out).all(), way


@pytest.mark.parametrize("kind", ["shapes-unet", "shapes-dit-small"])
def test_nodes_that_keep_a_part_take_masks_of_any_size(kind):
    model, clip, vae = shapes(kind)
    latents, words = latent_of(vae), encoded(clip, ["a star"])
    mask = torch.zeros(1, 61, 74)  # of the picture as it was before it was cut
    mask[..., 37:] = 1.0
    out, = build("OdeonPIE", model=model, positive=words, negative=words, latent={"samples": latents}, mask=mask,
                 n_steps=1, steps=4, beta_1=0.0)
    assert torch.equal(out["samples"][1:, ..., :4], latents[..., :4])
    assert not torch.equal(out["samples"][1:, ..., 5:], latents[..., 5:])
