"""Half precision in rules that square and sum: fp16 ends at 65504, which a length of a few hundred numbers passes."""
import functools
from collections.abc import Callable

import torch
from torch import Tensor


def in_float32(rule: Callable) -> Callable:
    """The rule with half-precision tensors widened; its prediction, the first of what it gives, in their precision."""
    @functools.wraps(rule)
    def widened(first: Tensor, *others, **options):
        if first.dtype not in (torch.float16, torch.bfloat16):
            return rule(first, *others, **options)
        found = rule(first.float(), *(v.float() if isinstance(v, Tensor) else v for v in others), **options)
        return (found[0].to(first.dtype), *found[1:]) if isinstance(found, tuple) else found.to(first.dtype)

    return widened
