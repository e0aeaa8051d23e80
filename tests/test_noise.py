import torch

from odeon.samplers.noise import step_noise


def _start(items=4, seed=0):
    return torch.randn(items, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_item_of_a_batch_draws_what_it_draws_alone():
    start = _start()
    batch = step_noise(start, 7, "x")
    for i in range(3):
        together = batch(1.0, 0.5)
        assert together.shape == start.shape
        singles = torch.cat([_nth(step_noise(start[k:k + 1], 7, "x"), i) for k in range(4)])
        assert torch.equal(together, singles)


def _nth(draw, n):
    for _ in range(n):
        draw(1.0, 0.5)
    return draw(1.0, 0.5)


def test_streams_seeds_items_and_steps_share_nothing():
    start = _start()
    base = step_noise(start, 7, "x")
    first = base(1.0, 0.5)
    others = [base(0.5, 0.2), step_noise(start, 8, "x")(1.0, 0.5), step_noise(start, 7, "y")(1.0, 0.5), start]
    for other in others:
        assert torch.corrcoef(torch.stack([first.flatten(), other.flatten()]))[0, 1].abs() < 0.1
    assert torch.corrcoef(first.flatten(1)).fill_diagonal_(0).abs().max() < 0.25


def test_never_the_start_noise_of_the_same_seed():
    start = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(7))
    assert not torch.allclose(step_noise(start, 7, "x")(1.0, 0.5), start)


def test_items_without_start_noise_still_differ():
    noise = step_noise(torch.zeros(3, 16), 7, "x")(1.0, 0.5)
    assert len({tuple(item.tolist()) for item in noise}) == 3


def test_unit_variance_float32_and_repeatable():
    start = _start(64)
    noise = step_noise(start, 1, "x")(1.0, 0.5)
    assert noise.dtype == torch.float32
    assert abs(noise.var().item() - 1.0) < 0.05
    assert torch.equal(noise, step_noise(start, 1, "x")(1.0, 0.5))
    torch.manual_seed(5)  # the global generator plays no part
    assert torch.equal(noise, step_noise(start, 1, "x")(1.0, 0.5))
