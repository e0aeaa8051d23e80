"""What a long measurement hands out while it runs."""
from typing import NamedTuple

from torch import Tensor


class Progress(NamedTuple):
    """How far a measurement is, after a piece of work that need not be done again.

    A measurement is a generator of these: the caller draws the bar, keeps `state` where it survives an interruption,
    and stops by not asking on. The same measurement called with that state goes on behind it; the last state is the
    result.
    """
    done: int  # model calls so far, those behind a given state included
    total: int  # model calls in all, as far as is known
    state: dict[str, Tensor]
    preview: Tensor | None = None  # a prediction D (B, ...) to look at
    losses: tuple[float, ...] = ()  # so far, to draw live in place of a preview
