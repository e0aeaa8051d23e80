"""Operators: exact adjoints, pseudo-inverses where promised, sizes, JPEG beside Pillow's, and what is refused."""
import io

import pytest
import torch

from odeon.editing.operators import KINDS, gaussian, measured, operator, streak

AREA = torch.zeros(1, 12, 16)
AREA[:, 3:8, 5:] = 1.0
KERNEL = torch.rand(5, 4, generator=torch.Generator().manual_seed(1))
OPTIONS = {"inpaint": {"area": AREA}, "kernel": {"kernel": KERNEL},
           "motion blur": {"size": 6.0, "angle": 30.0}, "gaussian blur": {"size": 1.5}}
LINEAR = [kind for kind in KINDS if kind != "jpeg"]


def made(kind):
    return operator(kind, **OPTIONS.get(kind, {}))


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("size", [(24, 32), (27, 35)])
@pytest.mark.parametrize("kind", LINEAR)
def test_adjoints_are_exact_and_operators_linear(kind, size):
    a, x, other = made(kind), drawn(2, 3, *size), drawn(2, 3, *size, seed=1)
    y = drawn(*a(x).shape, seed=2)
    assert torch.allclose((a(x) * y).sum((1, 2, 3)), (x * a.adjoint(y, x)).sum((1, 2, 3)), rtol=1e-12, atol=1e-10)
    assert torch.allclose(a(2.0 * x - other), 2.0 * a(x) - a(other), atol=1e-12)


@pytest.mark.parametrize("kind", LINEAR)
def test_the_gain_is_the_largest_squared_singular_value(kind):
    a, x = made(kind), drawn(1, 3, 24, 32)
    for _ in range(60):
        x = a.adjoint(a(x / x.norm()), x)
    assert x.norm().item() == pytest.approx(a.gain, rel=0.2 if kind in ("motion blur", "kernel") else 0.05)


@pytest.mark.parametrize("size", [(24, 32), (27, 35)])
@pytest.mark.parametrize("kind", ["inpaint", "downscale", "grey"])
def test_back_is_the_pseudo_inverse(kind, size):
    a, x = made(kind), drawn(2, 3, *size)
    y = a(x)
    assert torch.allclose(a(a.back(y, x)), y, atol=1e-12)
    moved = a.projected(drawn(2, 3, *size, seed=5), y)
    assert torch.allclose(a(moved), y, atol=1e-12) and torch.allclose(a.projected(moved, y), moved, atol=1e-12)


def test_gradients_pass_the_projection_also_in_inference_mode():
    a, x, y = made("gaussian blur"), drawn(1, 3, 24, 32), drawn(1, 3, 24, 32, seed=1)
    at = x.clone().requires_grad_()
    direction = drawn(1, 3, 24, 32, seed=2)
    slope, = torch.autograd.grad((a.projected(at, y) * direction).sum(), at)
    assert torch.allclose(slope, direction - a.adjoint(a(direction), x), atol=1e-12)
    with torch.inference_mode():
        inside = a.adjoint(y.clone(), x.clone())
    assert torch.equal(inside, a.adjoint(y, x))


def test_blurs_have_the_size_and_direction_asked_for():
    places = torch.arange(-12, 13, dtype=torch.float64)
    kernel = gaussian(3.0)
    assert kernel.sum().item() == pytest.approx(1.0)
    assert (kernel.sum(0) * places.square()).sum().sqrt().item() == pytest.approx(3.0, rel=0.01)
    line = streak(10.0, 30.0)
    places = torch.arange(-5, 6, dtype=torch.float64)
    across, along = torch.meshgrid(-places, places, indexing="ij")  # rows go down
    c, s = 3 ** 0.5 / 2, 0.5
    spread = [(line * (c * along + s * across).square()).sum(), (line * (c * across - s * along).square()).sum()]
    assert spread[0].sqrt().item() == pytest.approx(10.0 / 12 ** 0.5, rel=0.05) and spread[1] < 0.5
    point = torch.zeros(1, 3, 15, 15, dtype=torch.float64)
    point[..., 7, 7] = 1.0
    own = torch.tensor([[0.0, 1.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 5.0]], dtype=torch.float64)
    smeared = operator("kernel", kernel=own)(point)
    assert torch.allclose(smeared[0, 0, 6:9, 6:9], own / 8.0)


def test_jpeg_is_pillow_s():
    from PIL import Image

    images = torch.rand(1, 5, 5, 3, generator=torch.Generator().manual_seed(0)).repeat_interleave(8, 1)
    images = torch.nn.functional.interpolate(images.repeat_interleave(8, 2).movedim(-1, 1), size=(37, 50),
                                             mode="bilinear").movedim(1, -1)
    picture = Image.fromarray((images[0] * 255.0).round().byte().numpy())
    rms = []
    for quality in (10, 60):
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality, subsampling=0)
        theirs = torch.frombuffer(bytearray(Image.open(file).tobytes()), dtype=torch.uint8).reshape(37, 50, 3) / 255.0
        ours = measured(operator("jpeg", quality=quality), images)[0]
        rms.append((theirs - images[0]).square().mean().sqrt())
        assert (ours - theirs).square().mean().sqrt() < 0.3 * rms[-1]
    assert rms[1] < 0.6 * rms[0]


def test_measurements_have_the_noise_asked_for_and_batches_are_single_ones():
    images = torch.rand(3, 32, 32, 4, generator=torch.Generator().manual_seed(0))
    a = operator("downscale", factor=2)
    plain, noisy = measured(a, images), measured(a, images, noise=0.1, seed=4)
    assert plain.shape == (3, 16, 16, 3) and torch.allclose(plain[0, 0, 0], images[0, :2, :2, :3].mean((0, 1)))
    assert (noisy - plain).std().item() == pytest.approx(0.1, rel=0.1)
    assert torch.equal(measured(a, images[:1], noise=0.1, seed=4), noisy[:1])
    missing = measured(operator("inpaint", area=torch.ones(1, 8, 8)), images)
    assert torch.equal(missing, torch.full_like(missing, 0.5))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="needs a mask"):
        operator("inpaint")
    with pytest.raises(ValueError, match="needs one; connect a small picture"):
        operator("kernel")
    with pytest.raises(ValueError, match="a black picture"):
        operator("kernel", kernel=torch.zeros(3, 3))
    with pytest.raises(ValueError, match="larger than the picture"):
        operator("gaussian blur", size=10.0)(torch.zeros(1, 3, 16, 16))
    with pytest.raises(ValueError, match="one mask, or one for each of 3"):
        operator("inpaint", area=torch.zeros(2, 8, 8))(torch.zeros(3, 3, 16, 16))
    with pytest.raises(ValueError, match="leaves nothing of a picture of 3 x 9 px"):
        operator("downscale")(torch.zeros(1, 3, 9, 3))
    with pytest.raises(ValueError, match="kind must be one of"):
        operator("fog")
