"""What USF decides for every step of a solver, as JSON in the words of the published code, and that of known solvers.

Points are the levels of a run. A place like -2 counts them back from the newest one at which the model was called.
"""
import json
from functools import partial
from typing import NamedTuple

PREDICTIONS = ("data", "noise")
RELAXATIONS = ("none", "linear", "bh1", "bh2", "+0.5exp", "-0.5exp")
AFS = ("no_afs", "zero_x0", "zero_x0_reference")


class Derivative(NamedTuple):
    """An estimate of f^(k) from the points at `places` beside the start, k of them or more. relaxation: what the
    first derivative is multiplied by, see _relaxation; r: the coefficient of 'linear'."""
    places: tuple[int, ...]
    relaxation: str = "none"
    r: float = 0.0


class Taylor(NamedTuple):
    """An expansion of order len(derivatives) + 1, at most 4 (a corrector's 5), around the point at place `start`."""
    start: int = -1
    derivatives: tuple[Derivative, ...] = ()


class Decision(NamedTuple):
    """What one step does. correct: the step redone once the model was called at its end, place -1 in there."""
    prediction: str = "data"
    predict: Taylor = Taylor()
    correct: Taylor | None = None


class Decisions(NamedTuple):
    """A whole solver: a Decision for each step. afs: 'no_afs', or the first step without a model call, from D = 0 and
    eps = x / sigma ('zero_x0'); 'zero_x0_reference' repeats the published code, whose D differs from 0 a little.
    sigmas: the levels it was found for, None for any."""
    steps: tuple[Decision, ...]
    afs: str = "no_afs"
    sigmas: tuple[float, ...] | None = None

    @property
    def nfe(self) -> int:
        return len(self.steps) - (self.afs != "no_afs")


RELAXATION_NAMES = {None: "none", "no_relaxation": "none", "linear": "linear", "unipc-bh1": "bh1", "unipc-bh2": "bh2",
                    "dpmsolver-2": "bh2", "0.5exp": "+0.5exp", "-0.5exp": "-0.5exp"}
PREDICTION_NAMES = {"data_prediction": "data", "noise_prediction": "noise"}
LISTS = ("orders", "prediction_types", "derivative_types", "start_points", "corrector_types")
KEYS = (*LISTS, "afs", "sigmas", "timesteps")  # the published times are those of another model's clock, and not read


def decisions_of_text(text: str) -> Decisions:
    """Decisions from JSON: orders, prediction_types and derivative_types have an entry for each step, start_points (-1)
    and corrector_types (none), afs (no_afs) and sigmas (any) may be missing. Raises ValueError saying what is wrong.

    plan_usf checks that a step can follow them. The published corrector 'implicit' is 'pseudo', as its code runs it.
    """
    try:
        given = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"decisions must be JSON: {error.msg} in line {error.lineno}, column {error.colno}; copy them "
                         "whole from Search a solver (USF)") from error
    if not isinstance(given, dict):
        raise ValueError(f"decisions must be a JSON object with {', '.join(LISTS)}, got {_kind(given)}")
    unknown = [key for key in given if key not in KEYS]
    if unknown:
        raise ValueError(f"decisions know {', '.join(KEYS)}, got {unknown[0]!r}; remove it")
    orders = _typed(given.get("orders"), list, "orders")
    defaults = {"start_points": [-1] * len(orders), "corrector_types": [{"type": "no_corrector"}] * len(orders)}
    columns = [_typed(given.get(key, defaults.get(key)), list, key) for key in LISTS]
    for key, column in zip(LISTS, columns):
        if len(column) != len(orders):
            raise ValueError(f"{key} must have an entry for each of the {len(orders)} orders, got {len(column)}")
    steps = tuple(_decision(*row, where=f"step {i}") for i, row in enumerate(zip(*columns), start=1))
    sigmas = given.get("sigmas")
    if sigmas is not None:
        sigmas = tuple(float(_typed(sigma, (int, float), "a sigma")) for sigma in _typed(sigmas, list, "sigmas"))
    return Decisions(steps, _typed(given.get("afs", "no_afs"), str, "afs"), sigmas)


def text_of_decisions(decisions: Decisions) -> str:
    """The JSON that decisions_of_text reads."""
    steps = decisions.steps
    names = {name: published for published, name in PREDICTION_NAMES.items()}
    given = {"sigmas": decisions.sigmas and list(decisions.sigmas), "afs": decisions.afs,
             "orders": [len(step.predict.derivatives) + 1 for step in steps],
             "prediction_types": [names[step.prediction] for step in steps],
             "start_points": [step.predict.start for step in steps],
             "derivative_types": [_records(step.predict) for step in steps],
             "corrector_types": [_corrector(step.correct) for step in steps]}
    rows = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in given.items()]
    return "{" + ",\n ".join(rows) + "}"


def _decision(order, prediction, derivatives, start, corrector, *, where: str) -> Decision:
    if prediction not in PREDICTION_NAMES:
        raise ValueError(f"{where}: prediction_types must be {' or '.join(PREDICTION_NAMES)}, got {prediction!r}")
    predict = _taylor(order, derivatives, start, where)
    corrector = _typed(corrector, dict, f"{where}: corrector_types")
    kind = corrector.get("type")
    if kind not in ("no_corrector", "pseudo", "implicit"):
        raise ValueError(f"{where}: corrector type must be no_corrector or pseudo, got {kind!r}")
    correct = None
    if kind != "no_corrector":
        parts = (corrector.get(key) for key in ("taylor_order", "derivative_type", "start_point"))
        correct = _taylor(*parts, f"{where}, corrector")
    return Decision(PREDICTION_NAMES[prediction], predict, correct)


def _taylor(order, derivatives, start, where: str) -> Taylor:
    order, start = _typed(order, int, f"{where}: order"), _typed(start, int, f"{where}: start_point")
    derivatives = _typed(derivatives, list, f"{where}: derivative_types")[:max(order - 1, 0)]
    if order < 1 or len(derivatives) < order - 1:
        raise ValueError(f"{where}: order {order} needs {max(order - 1, 0)} derivatives and must be 1 to 4, got "
                         f"{len(derivatives)}")
    return Taylor(start, tuple(_derivative(record, where) for record in derivatives))


def _derivative(record, where: str) -> Derivative:
    where = f"{where}: a derivative"
    record = _typed(record, dict, where)
    places = _typed(record.get("active_points"), list, f"{where}'s active_points")
    relaxation = record.get("relaxation")
    if relaxation is not None and relaxation not in RELAXATION_NAMES:
        known = ", ".join(str(name) for name in RELAXATION_NAMES if name)
        raise ValueError(f"{where}'s relaxation must be one of {known}, got {relaxation!r}")
    name = RELAXATION_NAMES[relaxation]
    r = _typed(record.get("relaxation_coefficient", 0.0), (int, float), f"{where}'s relaxation_coefficient")
    return Derivative(tuple(_typed(place, int, f"{where}'s active point") for place in places), name,
                      float(r) if name == "linear" else 0.0)


def _typed(value, kind, what: str):
    if not isinstance(value, kind) or isinstance(value, bool):
        wanted = {list: "a list", dict: "an object", str: "a text", int: "a whole number"}.get(kind, "a number")
        raise ValueError(f"{what} must be {wanted}, got {_kind(value)}")
    return value


def _kind(value) -> str:
    return "nothing" if value is None else repr(value)[:60]


def _records(taylor: Taylor) -> list[dict]:
    names = {name: published for published, name in RELAXATION_NAMES.items() if published != "no_relaxation"}
    return [{"estimate": f"Difference_{len(derivative.places)}", "active_points": list(derivative.places),
             "relaxation": names[derivative.relaxation],
             **({"relaxation_coefficient": derivative.r} if derivative.relaxation == "linear" else {})}
            for derivative in taylor.derivatives]


def _corrector(taylor: Taylor | None) -> dict:
    if taylor is None:
        return {"type": "no_corrector"}
    return {"type": "pseudo", "start_point": taylor.start, "taylor_order": len(taylor.derivatives) + 1,
            "derivative_type": _records(taylor)}


def corrected(predict: Taylor, relaxation: str = "none") -> Taylor:
    """The published corrector of a step: one order more, every difference also to the step's end, nothing relaxed but
    where the end is the only point."""
    shifted = [Derivative((*(place - 1 for place in derivative.places), -1)) for derivative in predict.derivatives]
    return Taylor(predict.start - 1, (*shifted, shifted[-1]) if shifted else (Derivative((-1,), relaxation),))


def multistep(steps: int, order: int, *, prediction: str = "data", relaxation: str = "none",
              correct: bool = False) -> Decisions:
    """A multistep solver: orders 1, 2, ..., order, ..., 2, 1. relaxation: of steps of order 2, and of the corrector
    where it has one point."""
    decisions = []
    for i in range(steps):
        used = min(order, i + 1, steps - i)
        places = tuple(range(-2, -used - 1, -1))
        predict = Taylor(-1, (Derivative(places, relaxation if used == 2 else "none"),) * (used - 1))
        redone = corrected(predict, relaxation) if correct and i < steps - 1 else None
        decisions.append(Decision(prediction, predict, redone))
    return Decisions(tuple(decisions))


def singlestep_2s(steps: int, *, prediction: str = "data", relaxation: str = "none") -> Decisions:
    """Steps over two intervals with the model called between them; an odd number of steps ends on order 1."""
    second = Taylor(-2, (Derivative((-1,), relaxation),))
    return Decisions(tuple(Decision(prediction, second if i % 2 else Taylor()) for i in range(steps)))


SOLVERS = {
    "ddim": partial(multistep, order=1),
    "dpmpp_2m": partial(multistep, order=2),
    "dpmpp_3m": partial(multistep, order=3),
    "dpmpp_2s": singlestep_2s,
    "dpm_solver_2m": partial(multistep, order=2, prediction="noise", relaxation="bh2"),
    "unipc_2": partial(multistep, order=2, relaxation="bh2", correct=True),
    "unipc_3": partial(multistep, order=3, relaxation="bh2", correct=True),
}


def named(name: str, steps: int) -> Decisions:
    """A solver of SOLVERS for so many steps."""
    if name not in SOLVERS:
        raise ValueError(f"decisions must be one of {', '.join(SOLVERS)}, or those of a search, got {name!r}")
    return SOLVERS[name](steps)


def decisions_or_name(text: str) -> Decisions | str:
    """Decisions of JSON, or a name of SOLVERS as it is. Raises ValueError for anything else."""
    text = text.strip()
    if text in SOLVERS:
        return text
    if not text.startswith(("{", "[")):
        raise ValueError(f"decisions must be JSON from Search a solver (USF), or one of {', '.join(SOLVERS)}, got "
                         f"{text[:60]!r}")
    return decisions_of_text(text)
