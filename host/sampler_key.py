"""A name for a SAMPLER by all that it is made of, so that what was drawn with it can be kept."""
import functools
from types import BuiltinFunctionType, FunctionType, MethodType

from torch import Tensor, nn

from .measuring import key_of

PLAIN = (str, int, float, bool, type(None), Tensor)


def sampler_key(sampler) -> str | None:
    """A short name that two SAMPLERs share only if they do the same; None where one holds what can't be compared, such
    as a network."""
    try:
        return key_of(_told(sampler, ()))
    except TypeError:
        return None


def _told(value, way: tuple):
    """A value as plain words, numbers, tensors, lists and dicts; TypeError for what is none of these inside.

    way: the ids of what it is inside of, as functions may enclose themselves.
    """
    if isinstance(value, PLAIN):
        return value
    if id(value) in way:
        return "itself"
    way = (*way, id(value))
    if isinstance(value, dict):
        return {f"{type(name).__name__} {name}": _told(inner, way) for name, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = [_told(inner, way) for inner in value]
        return [type(value).__qualname__, sorted(items, key=repr) if isinstance(value, (set, frozenset)) else items]
    if isinstance(value, (type, BuiltinFunctionType)):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, functools.partial):
        return [_told(part, way) for part in (value.func, value.args, value.keywords)]
    if isinstance(value, MethodType):
        return [_told(value.__self__, way), value.__name__]
    if isinstance(value, FunctionType):
        cells = [_told(cell.cell_contents, way) for cell in value.__closure__ or ()]
        return [f"{value.__module__}.{value.__qualname__}", cells, _told(value.__defaults__, way)]
    if isinstance(value, nn.Module) or not hasattr(value, "__dict__"):
        raise TypeError(f"a {type(value).__name__} can't be compared")
    return [f"{type(value).__module__}.{type(value).__qualname__}", _told(vars(value), way)]
