"""DualFast: the noise prediction of each step pushed away from one made at a noisier level."""
from .linear import Step, Update
from .process import VE, Process
from .transfer import eps_of

ANCHORS = ("previous", "first")


def dual_fast(steps: list[Step], *, c_start: float = 0.0, c_end: float = 0.2, anchor: str = "previous", lag: int = 1,
              keep_last: bool = True, process: Process = VE) -> list[Step]:
    """The same steps, their first-order term made of e' = (1 + c) e - c e_anchor in place of e = (x - D) / sigma.

    c goes evenly from c_start at the first step, which has no anchor yet, to c_end at the last. anchor: the prediction
    `lag` steps before ('previous') or that of the first step ('first'). Differences of predictions, the higher-order
    terms, stay as they are, and so does UniC's correction. On flow models e is the velocity. keep_last: the last step
    stays as it is. c = 0 changes nothing; over DDIM, c = 1/2 with the previous step is Adams-Bashforth 2. NFE stays.
    Raises ValueError for plans that call the model inside a step or keep something else than predictions.
    Source: after Dual-speedup framework 2025, arXiv 2506.13058; no code of the authors was found to compare with.
    """
    if anchor not in ANCHORS:
        raise ValueError(f"anchor must be one of {', '.join(ANCHORS)}, got {anchor!r}")
    if lag < 1 or not (0.0 <= c_start <= 1.0 and 0.0 <= c_end <= 1.0):
        raise ValueError(f"need lag >= 1 and c_start, c_end in [0, 1], got {lag}, {c_start} and {c_end}")
    if any(step.stages for step in steps):
        raise ValueError("DualFast is for samplers with one model call a step; choose a multistep method")
    keeps = any(step.keep for step in steps)
    if any([len(update.d_coefs) for update in step.keep] != [1] if step.keep
           else keeps and len(step.predict.d_coefs) > 1 for step in steps):
        raise ValueError("DualFast knows samplers that keep predictions of the picture or of the noise; this one keeps "
                         "something else, connect another (and UniC before DualFast)")
    pushed, last = [], len(steps) - 1
    for i, step in enumerate(steps):
        share = i / last if last else 0.0
        c = 0.0 if i < (lag if anchor == "previous" else 1) or (keep_last and i == last) else \
            c_start + share * (c_end - c_start)
        pushed.append(_pushed(step, keeps, c, lag if anchor == "previous" else 0 if i else None))
    return pushed


def _pushed(step: Step, keeps: bool, c: float, lag: int | None) -> Step:
    """One step with its history widened by e of each step (lag > 0), or by the first step's (lag 0; None at that step).

    The history holds, newest first, the anchor and what the sampler keeps: D, or its one combination (keeps).
    """
    anchor = Update(0.0, (0.0, 0.0, 1.0)) if lag == 0 else eps_of(VE, step.sigma)
    own = step.keep[0] if step.keep else Update(0.0, (1.0,))
    x_coef, *coefs = _wide(step.predict, keeps)
    # how far the first-order term moves when e does: D by -sigma, the kept combination by its share of D
    moved = -step.sigma * (step.predict.d_coefs[0] if keeps else sum(step.predict.d_coefs))
    if keeps:
        moved += -step.sigma * own.d_coefs[0] * sum(step.predict.d_coefs[1:])
    at = 1 + 2 * (lag or 0)
    coefs += [0.0] * (at + 1 - len(coefs))
    x_coef += c * moved / step.sigma
    coefs[0] -= c * moved / step.sigma
    coefs[at] -= c * moved
    predict = Update(x_coef, tuple(coefs), step.predict.noise_coef)
    correct = step.correct
    if correct is not None:
        x_coef, *coefs = _wide(correct, keeps)
        correct = Update(x_coef, tuple(coefs), correct.noise_coef)
    return step._replace(predict=predict, correct=correct, keep=(own, anchor))


def _wide(update: Update, keeps: bool) -> list[float]:
    """x's coefficient, then those of (D, anchor_0, kept_0, anchor_1, kept_1, ...) for an update on (D, kept_0, ...) or,
    where the sampler keeps plain predictions, on (D_0, D_1, ...)."""
    newest, *others = update.d_coefs if keeps else (0.0, *update.d_coefs)
    return [update.x_coef, newest, *(value for coef in others for value in (0.0, coef))]
