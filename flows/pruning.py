"""Which columns before a step those after it come from: what else there is need not be read. Pure."""

from typing import Any

from dropflow.recipes import DICT_SEPARATOR, Step
from flows.transformers import Columnwise, Derive


def sources(step: Step, needed: set[str]) -> set[str]:
    """The columns before a step that those needed after it come from."""
    if step.rename:
        return {old for old, new in step.rename.items() if new in needed} | (needed - {*step.rename.values()})
    if step.filter:
        return needed | {*step.filter}
    if step.scale and needed & {*step.scale.columns}:
        # One transformer for all of them.
        return needed | {*step.scale.columns}
    if step.encode:
        return needed | {name for name in step.encode if _comes_from(needed, name)}
    if step.derive:
        made = {name: {*how.names(name)} & needed for name, how in step.derive.items()}
        return needed.difference(*made.values()).union(
            *(step.derive[name].sources for name, columns in made.items() if columns)
        )
    return needed


def reduced(fitted: Any, needed: set[str]) -> Any:
    """The fitted step without the parts that none of the columns needed after it come from."""
    if isinstance(fitted, Columnwise):
        pairs = zip(fitted.parts, fitted.fitted_, strict=True)
        left = [pair for pair in pairs if any(_comes_from(needed, name) for name in pair[0][0])]
        fewer = Columnwise([part for part, _ in left], fitted.target)
        fewer.fitted_ = [one for _, one in left]
        return fewer
    if isinstance(fitted, Derive):
        made = {
            name: [f"{name}_{part}" for part in how.get("parts") or ()]
            for name, how in fitted.columns.items()
        }
        return Derive({name: fitted.columns[name] for name in made if needed & {name, *made[name]}})
    return fitted


def _comes_from(needed: set[str], name: str) -> bool:
    """Whether one of the columns is this one, or may have been made of it by encoding."""
    encoded = (f"{name}_", f"{name}{DICT_SEPARATOR}")
    return name in needed or any(one.startswith(encoded) for one in needed)
