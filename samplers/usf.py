"""USF, the unified sampling framework: a solver whose every step decides its prediction, order, differences, corrector.

A step from point s to t, with h the step in lambda, y = h for the data prediction f = D and y = -h for the noise
prediction f = eps, and m_k of exponential_moment:
    x_t = ratio x_s + scale sum_k m_k(y) h^k f^(k)_s / k!,
ratio = sigma_t / sigma_s and scale = alpha_t for D, ratio = alpha_t / alpha_s and scale = sigma_t for eps. The
derivatives f^(k)_s come from differences to other points.
"""
import math

from .dc_solver import require_levels
from .exponential import exponential_moment, monic
from .linear import Step, Update
from .process import VE, Process
from .transfer import eps_of
from .usf_decisions import AFS, PREDICTIONS, RELAXATIONS, Decisions, Derivative, Taylor, named

Terms = dict[tuple[str, int], float]  # a sum of states "x", predictions "d" and noises "e" of points


def plan_usf(sigmas: list[float], *, decisions: Decisions | str = "dpmpp_2m", strict: bool = True,
             process: Process = VE) -> list[Step]:
    """The steps of `decisions`, one for each step of sigmas; NFE decisions.nfe. A name of SOLVERS fits any schedule.

    strict: sigmas above 0 must be those the decisions were found for, to 1e-3 of each. The step to sigma = 0 returns D,
    one from a flow's sigma = 1, infinitely far in lambda, is of order 1 and corrected by the mean of its two D; that
    point then drops out of every difference, and derivatives that lack points with it. The last step has no corrector.
    A correction replaces the state, but the D and eps of the state it corrects stay, as published ('pseudo').
    Raises ValueError for decisions that no step can follow. Source: Liu et al. 2023, arXiv 2312.07243, section 4.
    """
    process.lams(sigmas)
    if isinstance(decisions, str):
        decisions = named(decisions, len(sigmas) - 1)
    if strict:
        require_levels(sigmas, decisions.sigmas, "these decisions were found", "search")
    check(decisions, len(sigmas) - 1)
    points = _Points(sigmas, process, decisions)
    return [points.step(i) for i in range(decisions.afs != "no_afs", len(decisions.steps))]


class _Points:
    """The points of a run, and what each of its states is made of."""

    def __init__(self, sigmas: list[float], process: Process, decisions: Decisions):
        self.sigmas, self.process, self.decisions = sigmas, process, decisions
        self.lams = process.lams(sigmas)
        self.skips_first = decisions.afs != "no_afs"
        self.keeps_both = self.skips_first or any(
            step.prediction == "noise" or step.predict.start != -1 or (step.correct and step.correct.start != -2)
            for step in decisions.steps)
        self.corrected = {i + 1: self.taylor(i, step.correct, newest=i + 1)
                          for i, step in enumerate(decisions.steps) if step.correct and sigmas[i + 1] > 0.0}
        if self.skips_first:
            first = self.taylor(0, decisions.steps[0].predict, newest=0)
            self.first_ratio = math.fsum(coef * {"x": 1.0, "e": 1.0 / sigmas[0], "d": self.first_share}[kind]
                                         for (kind, _), coef in first.items())

    @property
    def first_share(self) -> float:
        """What D of the first point is of its state where the model is not asked."""
        alpha = self.process.alpha(self.sigmas[0])
        if self.decisions.afs == "zero_x0" or alpha == 0.0:
            return 0.0
        return (1.0 - self.sigmas[0] / math.hypot(alpha, self.sigmas[0])) / alpha

    def step(self, i: int) -> Step:
        decision, sigma = self.decisions.steps[i], self.sigmas[i]
        current = None if self.skips_first and i == 1 and i in self.corrected else i  # the state that the loop holds
        predict = self.update(self.taylor(i, decision.predict, newest=i), current, newest=i)
        correct = i + 1 in self.corrected and self.update(self.corrected[i + 1], current, newest=i + 1)
        return Step(sigma, self.sigmas[i + 1], predict, correct=correct or None,
                    keep=(eps_of(self.process, sigma), Update(0.0, (1.0,))) if self.keeps_both else None,
                    before=Update(self.first_ratio) if self.skips_first and i == 1 else None)

    def taylor(self, i: int, taylor: Taylor, *, newest: int) -> Terms:
        """The state at point i + 1, step i's end."""
        start, sigmas, lams = newest + 1 + taylor.start, self.sigmas, self.lams
        alpha_next, is_noise = self.process.alpha(sigmas[i + 1]), self.decisions.steps[i].prediction == "noise"
        if sigmas[i + 1] == 0.0:
            return {("d", newest): 1.0}
        if lams[start] == -math.inf:
            ends = [("d", start)] if is_noise or newest == start else [("d", start), ("d", newest)]
            return {("x", start): sigmas[i + 1] / sigmas[start], **dict.fromkeys(ends, alpha_next / len(ends))}
        h = lams[i + 1] - lams[start]
        kind, y = ("e", -h) if is_noise else ("d", h)
        ratio, scale = sigmas[i + 1] / sigmas[start], alpha_next
        if is_noise:
            ratio, scale = alpha_next / self.process.alpha(sigmas[start]), sigmas[i + 1]
        terms = {("x", start): ratio, (kind, start): scale * exponential_moment(0, y)}
        for k, derivative in enumerate(taylor.derivatives, start=1):
            places = [place for place in (newest + 1 + p for p in derivative.places) if math.isfinite(lams[place])]
            if len(places) < k:
                break
            relaxed = _relaxation(derivative, h, y) if k == 1 else 1.0
            weight = scale * relaxed * exponential_moment(k, y) / math.factorial(k)
            for place, share in zip(places, _difference([(lams[place] - lams[start]) / h for place in places], k)):
                terms[kind, place] = terms.get((kind, place), 0.0) + weight * share
                terms[kind, start] -= weight * share
        return terms

    def update(self, terms: Terms, current: int | None, *, newest: int) -> Update:
        """The same for the loop, which holds the state of point `current` and what was kept of every call."""
        x_coef, values = 0.0, {}
        left = list(terms.items())
        while left:
            (kind, j), coef = left.pop()
            if kind == "x" and j == current:
                x_coef += coef
            elif self.skips_first and j == 0:  # all a multiple of the first state that the model saw
                share = {"x": 1.0, "d": self.first_share, "e": 1.0 / self.sigmas[0]}[kind] / self.first_ratio
                left += [(("d", 1), coef * share * self.process.alpha(self.sigmas[1])),
                         (("e", 1), coef * share * self.sigmas[1])]
            elif kind == "x":
                uncorrected = {("d", j): self.process.alpha(self.sigmas[j]), ("e", j): self.sigmas[j]}
                left += [(name, coef * part) for name, part in self.corrected.get(j, uncorrected).items()]
            else:
                place = newest - j
                place = 1 + 2 * place + (kind == "e") if self.keeps_both else place
                values[place] = values.get(place, 0.0) + coef
        return Update(x_coef, tuple(values.get(place, 0.0) for place in range(max(values, default=-1) + 1)))


def _difference(shares: list[float], k: int) -> list[float]:
    """Weights of the differences to points at `shares` of the step that give h^k f^(k), exact for polynomials: of the
    Lagrange basis on those points and 0, the k-th derivative at 0."""
    weights = []
    for j, share in enumerate(shares):
        others = shares[:j] + shares[j + 1:]
        scale = share * math.prod(share - other for other in others)
        weights.append(math.factorial(k) * monic(others)[k - 1] / scale)
    return weights


def _relaxation(derivative: Derivative, h: float, y: float) -> float:
    """1 + O(h): 'linear' is 1 + r h, 'bh1' and 'bh2' weigh a single difference as UniPC does ('bh2' is DPM-Solver-2's
    weight too), 'exp' are 1 +- (exp(-y) - 1) / 2."""
    if derivative.relaxation == "linear":
        return 1.0 + derivative.r * h
    if derivative.relaxation == "bh1":
        return 0.5 * y / exponential_moment(1, y)
    if derivative.relaxation == "bh2":
        return 0.5 * exponential_moment(0, y) / exponential_moment(1, y)
    signs = {"none": 0.0, "+0.5exp": 1.0, "-0.5exp": -1.0}
    return 1.0 + 0.5 * signs[derivative.relaxation] * math.expm1(-y)


def check(decisions: Decisions, steps: int) -> None:
    """Raises ValueError unless the decisions are for so many steps and each can be followed."""
    if len(decisions.steps) != steps:
        raise ValueError(f"the decisions are for {len(decisions.steps)} steps, the schedule has {steps}; use the "
                         "schedule they were found for, or search again")
    if decisions.afs not in AFS:
        raise ValueError(f"afs must be one of {', '.join(AFS)}, got {decisions.afs!r}; a mean picture for the first "
                         "step is no number of a plan")
    if decisions.nfe < 1:
        raise ValueError(f"afs {decisions.afs} with a single step never calls the model; add a step, or set no_afs")
    for i, step in enumerate(decisions.steps):
        where = f"step {i + 1}"
        if step.prediction not in PREDICTIONS:
            raise ValueError(f"{where}: prediction must be one of {', '.join(PREDICTIONS)}, got {step.prediction!r}")
        _check_taylor(step.predict, i + 1, where)
        if step.correct and i == steps - 1:
            raise ValueError(f"{where}: the last step has no corrector, since no model call follows it; remove it")
        if step.correct:
            _check_taylor(step.correct, i + 2, f"{where}, corrector", most=5)
            if step.correct.start == -1:
                raise ValueError(f"{where}: a corrector starts at -2 or before, not at its own end; got -1")


def _check_taylor(taylor: Taylor, points: int, where: str, *, most: int = 4) -> None:
    places = range(-points, 0)
    if len(taylor.derivatives) >= most:
        raise ValueError(f"{where}: order must be at most {most}, got {len(taylor.derivatives) + 1}")
    if taylor.start not in places:
        raise ValueError(f"{where}: starts at {taylor.start}, but there are {points} points by then: -{points} to -1")
    for k, derivative in enumerate(taylor.derivatives, start=1):
        used = derivative.places
        if len(set(used)) != len(used) or taylor.start in used or any(place not in places for place in used):
            raise ValueError(f"{where}: derivative {k} needs different points of the {points} by then, -{points} to "
                             f"-1, beside its start {taylor.start}, got {list(used)}")
        if len(used) < k:
            raise ValueError(f"{where}: derivative {k} needs {k} points or more, got {list(used)}; lower the order")
        if derivative.relaxation not in RELAXATIONS:
            raise ValueError(f"{where}: relaxation must be one of {', '.join(RELAXATIONS)}, got "
                             f"{derivative.relaxation!r}")
        if not math.isfinite(derivative.r):
            raise ValueError(f"{where}: the relaxation's coefficient must be finite, got {derivative.r}")
