"""USF's search space: levels and decisions of a fixed number of model calls, and how they are bred."""
import math
import random
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ...samplers.process import FLOW, Process
from ...samplers.usf_decisions import PREDICTIONS, RELAXATIONS, Decision, Decisions, Derivative, Taylor, corrected
from ..power import power_sigmas
from .evolution import even_choice, levels_of

ORDERS = {1: 0.2, 2: 0.4, 3: 0.3, 4: 0.1}
CHANGE = 0.15  # chance of each part of a step to change in a mutant; published .3
SPREAD = 0.3  # of a moved level, in lambda; published .08 of the time
RELAX = 0.04  # of a changed relaxation; published .03 to .06
CLOSEST = 0.02  # levels in lambda


class Gene(NamedTuple):
    """A step: its prediction, order (as far as there are points), the number of points that the first derivative is
    estimated from (no more than the order needs), its relaxation, and whether the step is corrected."""
    prediction: str = "data"
    order: int = 1
    estimate: int = 3
    relaxation: str = "none"
    r: float = 0.0
    corrected: bool = False


class Candidate(NamedTuple):
    """levels: one more than genes. afs: the first step costs no call."""
    levels: tuple[float, ...]
    genes: tuple[Gene, ...]
    afs: bool = False

    @property
    def nfe(self) -> int:
        return len(self.genes) - self.afs

    def decisions(self) -> Decisions:
        steps = []
        for i, gene in enumerate(self.genes):
            places = tuple(range(-2, -min(gene.order, i + 1) - 1, -1))
            first = [Derivative(places[:gene.estimate], gene.relaxation, gene.r)] if places else []
            predict = Taylor(-1, (*first, *[Derivative(places)] * (len(places) - 1)))
            redone = gene.corrected and i < len(self.genes) - 1
            steps.append(Decision(gene.prediction, predict, corrected(predict) if redone else None))
        return Decisions(tuple(steps), "zero_x0" if self.afs else "no_afs", self.levels)


def known(sigmas: list[float], nfe: int, sigma_min: float) -> dict[str, Candidate]:
    """Solvers of nfe calls by their names, on levels even in a power of sigma, in log sigma, and picked from sigmas."""
    end = sigmas[-1]
    count, low = (nfe - 1, sigma_min) if end == 0.0 else (nfe, end)
    ramp = [i / count for i in range(nfe)]
    grids = {"karras": power_sigmas(count + 1, sigmas[0], low).tolist()[:nfe],
             "log sigma": [sigmas[0] * (low / sigmas[0]) ** share for share in ramp]}
    if len(sigmas) > nfe:
        grids["schedule"] = levels_of(even_choice(len(sigmas), nfe), sigmas)[:-1]
    found = {}
    for name, order, is_corrected in (("DPM-Solver++(2M)", 2, False), ("UniPC-3", 3, True), ("UniPC-2", 2, True),
                                      ("DPM-Solver++(3M)", 3, False)):
        orders = [min(order, i + 1, nfe - i) for i in range(nfe)]
        genes = tuple(Gene(order=used, corrected=is_corrected,
                           relaxation="bh2" if is_corrected and used == 2 else "none") for used in orders)
        found |= {f"{name}, {grid}": Candidate((sigmas[0], *levels[1:], end), genes) for grid, levels in grids.items()}
    return found


class Breeder:
    """Makes candidates of candidates. Each is for the process, from the same first level to the same end."""

    def __init__(self, process: Process, sigma_min: float, rng: random.Random):
        self.process, self.sigma_min, self.rng = process, sigma_min, rng

    def child(self, parents: list[Candidate]) -> Candidate:
        """A mutant of one of the parents, or of a cross of two."""
        parent = self.rng.choice(parents)
        if self.rng.random() < 0.3:
            parent = self.crossed(parent, self.rng.choice(parents))
        while not self.is_spread(child := self.mutant(parent)):
            pass
        return child

    def crossed(self, one: Candidate, other: Candidate) -> Candidate:
        """Of two as long as each other: levels of one, and steps mixed, or whole parts of all steps of one or other."""
        if len(one.genes) != len(other.genes):
            return one
        levels = self.rng.choice((one, other)).levels
        if self.rng.random() < 0.5:
            return one._replace(levels=levels, genes=tuple(map(self.rng.choice, zip(one.genes, other.genes))))
        prediction, order, correct = (self.rng.randrange(2) for _ in range(3))
        genes = tuple(pair[order]._replace(prediction=pair[prediction].prediction, corrected=pair[correct].corrected)
                      for pair in zip(one.genes, other.genes))
        return one._replace(levels=levels, genes=genes)

    def mutant(self, parent: Candidate) -> Candidate:
        levels, genes, rng = list(parent.levels), list(parent.genes), self.rng
        afs = rng.random() < 0.5 if rng.random() < CHANGE and parent.nfe > 1 else parent.afs
        moves = rng.random() < 0.2 and parent.nfe > 1
        for _ in range(moves + int(parent.afs and not afs)):
            place = rng.randrange(1, len(genes))
            del levels[place], genes[place - 1]
        for _ in range(moves + int(afs and not parent.afs)):
            place = rng.randrange(1, len(genes) + 1)
            levels.insert(place, rng.uniform(levels[place - 1], max(levels[place], self.sigma_min)))
            genes.insert(place - 1, Gene(rng.choice(PREDICTIONS), self._order(), rng.choice((1, 2)), "linear",
                                         corrected=rng.random() < 0.5))
        for i in range(1, len(genes)):
            levels[i] = self._moved(levels[i]) if rng.random() < CHANGE else levels[i]
        inner = sorted(levels[1:-1], reverse=True)
        return Candidate((levels[0], *inner, levels[-1]), tuple(self._changed(gene) for gene in genes), afs)

    def is_spread(self, candidate: Candidate) -> bool:
        """Whether the levels decrease by CLOSEST or more, the last above 0 not below sigma_min, to a thousandth."""
        levels = candidate.levels
        if any(nxt >= level for level, nxt in pairwise(levels)) or levels[-2] < 0.999 * self.sigma_min:
            return False
        return all(nxt - lam >= CLOSEST for lam, nxt in pairwise(self.process.lams(list(levels))))

    def _moved(self, sigma: float) -> float:
        if self.process is FLOW and sigma >= 1.0:
            return sigma
        lam, _ = self.process.lams([sigma, 0.0])
        return self.process.sigma(lam + self.rng.gauss(0.0, SPREAD))

    def _order(self) -> int:
        return self.rng.choices(list(ORDERS), list(ORDERS.values()))[0]

    def _changed(self, gene: Gene) -> Gene:
        rng = self.rng
        if rng.random() < CHANGE:
            gene = gene._replace(order=self._order(), estimate=3, relaxation="none", r=0.0)
        if rng.random() < CHANGE:
            gene = gene._replace(prediction=rng.choice(PREDICTIONS))
        if rng.random() < CHANGE:
            gene = gene._replace(relaxation="linear", r=gene.r + (rng.random() < CHANGE) * rng.gauss(0.0, RELAX))
        if rng.random() < CHANGE:
            gene = gene._replace(estimate=rng.choice((1, 2)))
        if rng.random() < CHANGE:
            gene = gene._replace(corrected=rng.random() < 0.5)
        return gene


def numbers_of(candidates: list[Candidate]) -> dict[str, Tensor]:
    """Candidates of one NFE as tensors: levels (n, nfe + 2) and genes (n, nfe + 1, 6), nan behind shorter ones."""
    size = candidates[0].nfe + 1
    levels = torch.full((len(candidates), size + 1), math.nan, dtype=torch.float64)
    genes = torch.full((len(candidates), size, len(Gene._fields)), math.nan, dtype=torch.float64)
    for i, one in enumerate(candidates):
        levels[i, :len(one.levels)] = torch.tensor(one.levels, dtype=torch.float64)
        rows = [[PREDICTIONS.index(gene.prediction), gene.order, gene.estimate, RELAXATIONS.index(gene.relaxation),
                 gene.r, gene.corrected] for gene in one.genes]
        genes[i, :len(rows)] = torch.tensor(rows, dtype=torch.float64)
    return {"levels": levels, "genes": genes}


def candidates_of(numbers: dict[str, Tensor]) -> list[Candidate]:
    """The candidates of numbers_of."""
    found = []
    for levels, genes in zip(numbers["levels"].tolist(), numbers["genes"].tolist()):
        rows = [row for row in genes if not math.isnan(row[0])]
        kept = tuple(Gene(PREDICTIONS[int(row[0])], int(row[1]), int(row[2]), RELAXATIONS[int(row[3])], row[4],
                          bool(row[5])) for row in rows)
        found.append(Candidate(tuple(levels[:len(rows) + 1]), kept, len(rows) == len(genes)))
    return found
