"""Whether what was loaded is what would have been built, with nothing but values learnt. Pure.

Types alone do not tell: a trusted one with other parameters, or in another's place, does something else.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator


@dataclass(frozen=True)
class Of:
    """Wanted: values and objects of exactly these classes, in lists or not."""

    classes: Collection[type]


Held = Callable[[Any, Any], Mapping[str, Any]]
"""Called as held(found, wanted): what else than values a fitted estimator has learnt, by attribute."""


def unlike(found: Any, wanted: Any, held: Held) -> str:
    """Where it is not what is wanted; "" where it is.

    Of an estimator: its class, all that its constructor has set, and no more attributes than those that are
    `held` and plain values. Raises anything where it lacks an attribute that `held` asks for.
    """
    return next(_unlike(found, wanted, held, type(wanted).__name__), "")


def _unlike(found: Any, wanted: Any, held: Held, where: str) -> Iterator[str]:
    if isinstance(wanted, BaseEstimator):
        yield from _unlike_estimator(found, wanted, held, where)
    elif isinstance(wanted, Of):
        if not _consists_of(found, wanted.classes):
            yield where
    elif type(wanted) in (list, tuple) and type(found) is type(wanted) and len(found) == len(wanted):
        for one, other in zip(found, wanted, strict=True):
            yield from _unlike(one, other, held, where)
    elif not (_is_plain(found) and _written(found) == _written(wanted)):
        yield where


def _unlike_estimator(found: Any, wanted: Any, held: Held, where: str) -> Iterator[str]:
    if type(found) is not type(wanted):
        yield where
        return
    there, made = vars(found), vars(wanted)
    for name, value in made.items():
        yield from _unlike(there.get(name, found), value, held, f"{where}.{name}")
    learnt = sorted(there.keys() - made.keys())
    objects = held(found, wanted) if learnt else {}
    for name in learnt:
        if hasattr(type(found), name):
            # It would stand in for a method.
            yield f"{where}.{name}"
        elif name in objects:
            yield from _unlike(there[name], objects[name], held, f"{where}.{name}")
        elif not _is_plain(there[name]):
            yield f"{where}.{name}"


def _consists_of(found: Any, classes: Collection[type]) -> bool:
    if type(found) in (list, tuple):
        return all(_consists_of(one, classes) for one in found)
    if type(found) not in classes:
        return _is_plain(found)
    own = getattr(found, "__dict__", {})
    return all(not hasattr(type(found), name) and _consists_of(one, classes) for name, one in own.items())


def _is_plain(value: Any) -> bool:
    """Whether it is a value: nothing that does anything."""
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    if type(value) is dict:
        return all(map(_is_plain, [*value, *value.values()]))
    if type(value) is np.ndarray:
        return not value.dtype.hasobject or all(map(_is_plain, value.flat))
    if isinstance(value, type):
        return issubclass(value, np.generic)
    return value is None or type(value) in (bool, int, float, str) or isinstance(value, np.generic | np.dtype)


def _written(value: Any) -> str:
    """As text, which compares gaps and arrays, and the options of a card, whose keys are texts."""
    return json.dumps(value, default=_told)


def _told(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)
