"""AutoDiffusion: an evolutionary search for the few levels of many that bring a sampler nearest to the teacher."""
import math
import random
import sys
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ...measure.progress import Progress
from .teacher import Lesson, Score, calls_of, score_of

FITNESS = {"mean_square": lambda errors: errors.square().mean(), "mean": Tensor.mean, "median": Tensor.median}
TRIES = 10  # so many times the wanted number before an operator gives up finding candidates not seen before


class Breeding(NamedTuple):
    """Sizes of a generation: of `population` candidates `mutation` are mutants of the top_k best so far, `crossover`
    their children, the others random. m_prob: the chance of each level of a mutant to be replaced; near: the share of
    replacements, from the fourth generation on, by a level nearby (a fifth of an even step away, normally distributed);
    0 as published."""
    population: int = 50
    top_k: int = 10
    mutation: int = 25
    crossover: int = 10
    m_prob: float = 0.1
    near: float = 0.9


PUBLISHED = Breeding()


@torch.no_grad()
def evolve(lesson: Lesson, space: list[float], *, steps: int = 5, epochs: int = 10, breeding: Breeding = PUBLISHED,
           fitness: str = "mean_square", seed: int = 0, state: dict[str, Tensor] | None = None) -> Iterator[Progress]:
    """Searches `steps` of space[:-1] to be followed by space[-1], on the training noises of the lesson. A Progress
    after each candidate, and after the best was judged beside the even choice on the noises held back: levels_found and
    judged of the last state.

    space: strictly decreasing levels from that of the lesson's noises on. A candidate may start lower, from the same
    noise at its own first level as a sampler would: the lesson needs its `top`. fitness: what is made small, the
    'mean_square' of the distances to the teacher as published, their 'mean', or their 'median', in which a few noises
    that end elsewhere count for nothing. The first generation holds the even choice, mutants of it and random ones; no
    candidate is tried twice. state: of an earlier Progress, to go on behind it; the same seed finds the same either
    way. Cost: evolution_cost.
    Source: Li et al. 2023, arXiv 2309.10438, algorithm 1 and the authors' code, with the distance to a teacher for FID.
    Near moves are ours: see tests/test_evolution.py for what they gain, and what other searches did not.
    """
    check(space, steps=steps, epochs=epochs, breeding=breeding, fitness=fitness)
    if lesson.top is None:
        raise ValueError("candidates start at levels of their own; tell the lesson the level of its noises (top)")
    cost = calls_of(lesson.plan(levels_of(even_choice(len(space), steps), space)))
    total = evolution_cost(cost, epochs=epochs, population=breeding.population)

    def progress(done: int, **more: Tensor) -> Progress:
        losses = [value for _, value in found]
        return Progress(done, total, {"places": torch.tensor([places for places, _ in found]),
                                      "fitness": torch.tensor(losses, dtype=torch.float64), **more},
                        losses=best_so_far(losses))

    def errors(places: tuple[int, ...], where: slice) -> Tensor:
        return lesson.errors(lesson.plan(levels_of(places, space)), where)

    found = [] if state is None else list(zip(map(tuple, state["places"].tolist()), state["fitness"].tolist()))
    for epoch in range(epochs):
        first = epoch * breeding.population
        if len(found) >= first + breeding.population:
            continue
        best = sorted(found[:first], key=lambda one: one[1])[:breeding.top_k]
        near = breeding.near * min(1.0, epoch / 3.0)
        generation = _Generation(len(space) - 1, steps, breeding._replace(near=near), random.Random(f"{seed} {epoch}"))
        seen = {places for places, _ in found[:first]}
        for places in generation.make([places for places, _ in best], seen)[len(found) - first:]:
            found.append((places, loss(errors(places, lesson.training), fitness)))
            yield progress(len(found) * cost)
    if state is None or "judged" not in state:
        best = min(found, key=lambda one: one[1])[0]
        scores = [score_of(errors(places, lesson.judging)) for places in (best, even_choice(len(space), steps))]
        yield progress(total, judged=torch.tensor(scores, dtype=torch.float64))


def evolution_cost(calls: int, *, epochs: int = 10, population: int = 50) -> int:
    """Model calls of evolve, where one run of the sampler takes `calls`: on the training noises, the last of them on
    those held back."""
    return (epochs * population + 2) * calls


def levels_found(state: dict[str, Tensor], space: list[float]) -> list[float]:
    """The best levels of evolve's state."""
    return levels_of(state["places"][state["fitness"].argmin()].tolist(), space)


def judged(state: dict[str, Tensor]) -> tuple[Score, Score]:
    """Of the best levels and of the even choice, on noises that nothing was chosen by: of the last state."""
    found, even = (Score(*row) for row in state["judged"].tolist())
    return found, even


def levels_of(places, space: list[float]) -> list[float]:
    return [*(space[place] for place in places), space[-1]]


def loss(errors: Tensor, fitness: str) -> float:
    """By one of FITNESS; the largest number there is for a run that led to none."""
    value = FITNESS[fitness](errors).item()
    return value if value < sys.float_info.max else sys.float_info.max  # not nan either


def best_so_far(losses: list[float]) -> tuple[float, ...]:
    best, lowest = [], math.inf
    for loss in losses:
        lowest = min(lowest, loss)
        best.append(lowest)
    return tuple(best)


def even_choice(count: int, steps: int) -> tuple[int, ...]:
    """Places of a schedule of `count` levels, the first among them, evenly spaced before the last."""
    return tuple(i * (count - 1) // steps for i in range(steps))


class _Generation:
    """Makes candidates: increasing places in range(count)."""

    def __init__(self, count: int, steps: int, breeding: Breeding, rng: random.Random):
        self.count, self.steps, self.breeding, self.rng = count, steps, breeding, rng

    def make(self, best: list[tuple[int, ...]], seen: set[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """`population` new ones."""
        size, made = self.breeding.population, []
        if not best:
            even = even_choice(self.count + 1, self.steps)
            made = [even]
            self._add(made, seen, size // 2, self._random)
            self._add(made, seen, size, lambda: self._mutant([even]))
        else:
            self._add(made, seen, self.breeding.mutation, lambda: self._mutant(best))
            self._add(made, seen, len(made) + self.breeding.crossover, lambda: self._child(best))
        while len(made) < size:
            self._add(made, seen, size, self._random)
        return made[:size]

    def _add(self, made: list, seen: set, until: int, make) -> None:
        for _ in range(TRIES * (until - len(made))):
            if len(made) >= until:
                return
            candidate = tuple(sorted(make()))
            if candidate not in seen and candidate not in made:
                made.append(candidate)

    def _random(self) -> list[int]:
        return self.rng.sample(range(self.count), self.steps)

    def _mutant(self, parents: list[tuple[int, ...]]) -> list[int]:
        places = list(self.rng.choice(parents))
        for i in range(self.steps):
            if self.rng.random() < self.breeding.m_prob:
                nearby = self.rng.random() < self.breeding.near
                place = places[i] + round(self.rng.gauss(0.0, 0.2 * self.count / self.steps)) if nearby else -1
                places[i] = place if 0 <= place < self.count and place not in places else self._unused(places)
        return places

    def _child(self, parents: list[tuple[int, ...]]) -> list[int]:
        pair = self.rng.choice(parents), self.rng.choice(parents)
        places = []
        for choice in zip(*pair):
            place = self.rng.choice(choice)
            places.append(self._unused(places) if place in places else place)
        return places

    def _unused(self, places: list[int]) -> int:
        while (place := self.rng.randrange(self.count)) in places:
            pass
        return place


def check(space: list[float], *, steps: int, epochs: int, breeding: Breeding, fitness: str) -> None:
    """Raises ValueError for what can't be searched."""
    if fitness not in FITNESS:
        raise ValueError(f"fitness must be one of {', '.join(FITNESS)}, got {fitness!r}")
    population, top_k, mutation, crossover, m_prob, near = breeding
    if min(epochs, population, top_k) < 1 or min(mutation, crossover) < 0 or mutation + crossover > population:
        raise ValueError("need epochs, population and top_k of at least 1, and mutation + crossover within population, "
                         f"got {epochs}, {population}, {top_k} and {mutation} + {crossover}")
    if not 0.0 < m_prob <= 1.0 or not 0.0 <= near <= 1.0:
        raise ValueError(f"m_prob must lie in (0, 1] and near in [0, 1], got {m_prob} and {near}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    choices = math.comb(max(len(space) - 1, 0), steps)
    if choices < 2 * epochs * population:
        raise ValueError(f"{steps} of {len(space) - 1} levels can be chosen in {choices} ways, too few for {epochs} "
                         f"epochs of {population}; give a schedule of more steps to choose from, or search less")
