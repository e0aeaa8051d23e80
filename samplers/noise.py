"""Unit noise for stochastic steps: the same picture for the same seed, whatever the batch and the device."""
import hashlib
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor


def step_noise(start: Tensor, seed: int, stream: str) -> Callable[[float, float], Tensor]:
    """noise_sampler(sigma, sigma_next) -> unit normal float32 values shaped as start, on start's device.

    One CPU generator for each batch item, seeded from the seed, the stream's name and the item's start noise.
    So an item draws the same numbers in a batch of eight, alone, on any device; two streams, or the stream and
    the start noise, share nothing. start: the noise (B, ...) the run began with. Items that start from equal
    noise (all zeros where noise is disabled) are told apart by counting them.
    """
    generators = [torch.Generator("cpu").manual_seed(item_seed) for item_seed in item_seeds(start, f"{stream}/{seed}")]
    shape, device = start.shape[1:], start.device

    def draw(sigma: float, sigma_next: float) -> Tensor:
        items = [torch.randn(shape, generator=generator, dtype=torch.float32) for generator in generators]
        return torch.stack(items).to(device, non_blocking=True)

    return draw


def shared_noise(like: Tensor, seed: int, stream: str) -> Callable[[float, float], Tensor]:
    """noise_sampler(sigma, sigma_next) that gives every item of like (B, ...) the same draw: for methods that start
    from pictures, whose last digits differ from host to host and from batch to batch."""
    one = torch.randn(like.shape[1:], generator=torch.Generator("cpu").manual_seed(seed))[None]
    draw = step_noise(one, seed, stream)
    return lambda sigma, sigma_next: draw(sigma, sigma_next).to(like.device).expand(like.shape)


def item_seeds(start: Tensor, stream: str) -> list[int]:
    """A seed for each item of start (B, ...), made of the stream's name and the item's numbers."""
    seen, seeds = Counter(), []
    for item in start.detach().cpu().contiguous().float():
        digest = hashlib.blake2b(item.numpy().tobytes(), digest_size=16).digest()
        key = f"{stream}/{seen[digest]}/".encode() + digest
        seen[digest] += 1
        seeds.append(int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1)
    return seeds
