"""S^3: a search for the solver itself, levels and every decision of each step, that comes nearest to the teacher."""
import random
from collections.abc import Iterator

import torch
from torch import Tensor

from ...measure.progress import Progress
from ...samplers.linear import Step
from ...samplers.process import VE, Process
from ...samplers.usf import plan_usf
from ...samplers.usf_decisions import Decisions
from .evolution import FITNESS, best_so_far, loss
from .teacher import Lesson, Score, score_of
from .usf_genes import Breeder, Candidate, candidates_of, known, numbers_of
from .usf_predictor import encoded, ranked

PARENTS = 15  # the best so far that children come from
STAGE = 10  # so many are tried before parents and predictor learn of them
SCREENED = 5  # with a predictor the one of so many children is tried that promises most


@torch.no_grad()
def search_usf(lesson: Lesson, sigmas: list[float], *, nfe: int = 5, budget: int = 200, sigma_min: float | None = None,
               fitness: str = "mean", predictor: bool = True, seed: int = 0, process: Process = VE,
               state: dict[str, Tensor] | None = None) -> Iterator[Progress]:
    """Searches a solver of nfe model calls from sigmas[0], the level of the lesson's noises, to sigmas[-1], on the
    training noises of the lesson; its own plan plays no part. A Progress after each of `budget` candidates, and after
    the best was judged beside known solvers on the noises held back: decisions_found and judged of the last state.

    sigma_min: no level above 0 is lower; without it the last of sigmas above 0. The first candidates are known solvers
    on known levels, and on some of sigmas. fitness: what is made small, 'mean_square', 'mean' or 'median' of the
    distances to the teacher. predictor: see usf_predictor; it screens children. state: of an earlier Progress, to go on
    behind it. Cost: usf_cost.
    Source: Liu et al. 2023, arXiv 2312.07243, section 4.2, and the authors' code for the breeding, with the distance to
    a teacher for FID, a fixed NFE, and no average picture for a first step that costs no call.
    """
    low = sigmas[-1] or sigma_min or sigmas[-2]
    check(sigmas, nfe, budget, fitness)
    lesson = Lesson(lesson.model, lesson.x, lesson.targets, lesson.plan, held=lesson.held, look=lesson.look)  # no top:
    first = list(known(sigmas, nfe, low).values())  # every candidate starts at sigmas[0], whatever its first call
    pool = _Pool(process, state)
    done, total = len(pool.tried) * nfe, usf_cost(sigmas, nfe=nfe, budget=budget)
    while len(pool.tried) < budget:
        begun = 0
        if len(pool.tried) >= len(first):
            begun = len(pool.tried) - (len(pool.tried) - len(first)) % STAGE
        breeder = Breeder(process, low, random.Random(f"{seed} {begun}"))
        stage = pool.stage(begun, breeder, screened=SCREENED if predictor else 1, seed=seed) if begun else first
        for one in stage[len(pool.tried) - begun:budget - begun]:
            pool.add(one, loss(lesson.errors(planned(one, process), lesson.training), fitness))
            done += nfe
            yield Progress(done, total, pool.state(), losses=best_so_far(pool.scores))
    if state is None or "judged" not in state:
        scores = [lesson_score(lesson, one, process) for one in (pool.best(), *first)]
        yield Progress(total, total, {**pool.state(), "judged": torch.tensor(scores, dtype=torch.float64)},
                       losses=best_so_far(pool.scores))


def usf_cost(sigmas: list[float], *, nfe: int = 5, budget: int = 200) -> int:
    """Model calls of search_usf, on the training noises or, at the end, on those held back."""
    return nfe * (budget + 1 + len(known(sigmas, nfe, sigmas[-1] or sigmas[-2])))


def decisions_found(state: dict[str, Tensor]) -> Decisions:
    """The best of search_usf's state; its levels are its sigmas."""
    return candidates_of(state)[int(state["scores"].argmin())].decisions()


def judged(state: dict[str, Tensor], sigmas: list[float], nfe: int) -> dict[str, Score]:
    """Of the last state: 'found' and then every known solver, on noises that nothing was chosen by."""
    names = ["found", *known(sigmas, nfe, sigmas[-1] or sigmas[-2])]
    return {name: Score(*row) for name, row in zip(names, state["judged"].tolist())}


def planned(candidate: Candidate, process: Process) -> list[Step]:
    return plan_usf(list(candidate.levels), decisions=candidate.decisions(), process=process)


def lesson_score(lesson: Lesson, candidate: Candidate, process: Process) -> Score:
    return score_of(lesson.errors(planned(candidate, process), lesson.judging))


class _Pool:
    """What was tried."""

    def __init__(self, process: Process, state: dict[str, Tensor] | None):
        self.process = process
        self.tried = candidates_of(state) if state else []
        self.scores = state["scores"].tolist() if state else []
        self.rows = [numbers_of([one]) for one in self.tried]

    def add(self, candidate: Candidate, score: float) -> None:
        self.tried.append(candidate)
        self.scores.append(score)
        self.rows.append(numbers_of([candidate]))

    def best(self) -> Candidate:
        return self.tried[min(range(len(self.tried)), key=self.scores.__getitem__)]

    def state(self) -> dict[str, Tensor]:
        return {**{name: torch.cat([row[name] for row in self.rows]) for name in self.rows[0]},
                "scores": torch.tensor(self.scores, dtype=torch.float64)}

    def stage(self, begun: int, breeder: Breeder, *, screened: int, seed: int) -> list[Candidate]:
        """STAGE children of the best of the first `begun`: out of each `screened` the most promising one."""
        best = sorted(range(begun), key=self.scores.__getitem__)[:PARENTS]
        parents, seen, children = [self.tried[i] for i in best], set(self.tried[:begun]), []
        while len(children) < STAGE * screened:
            child = breeder.child(parents)
            if child not in seen:
                seen.add(child)
                children.append(child)
        if screened == 1:
            return children
        tried, others = (encoded([planned(one, self.process) for one in some])
                         for some in (self.tried[:begun], children))
        scores = torch.tensor(self.scores[:begun], dtype=torch.float64)
        promised = ranked(tried, scores, others, seed=seed + begun)
        return [children[min(range(i, i + screened), key=promised.__getitem__)]
                for i in range(0, len(children), screened)]


def check(sigmas: list[float], nfe: int, budget: int, fitness: str) -> None:
    """Raises ValueError for what can't be searched."""
    if fitness not in FITNESS:
        raise ValueError(f"fitness must be one of {', '.join(FITNESS)}, got {fitness!r}")
    if nfe < 2:
        raise ValueError(f"nfe must be at least 2, got {nfe}; a single call leaves nothing to decide")
    if budget < 1:
        raise ValueError(f"budget must be at least 1, got {budget}")
    if len(sigmas) < 2 or (sigmas[-1] == 0.0 and len(sigmas) < 3):
        raise ValueError(f"need a schedule of at least two levels above 0, got {sigmas}; raise its steps")
