"""Automation files: Prefect's own schema with placeholders for the dataset."""

import hashlib
import json
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml
from prefect.events.schemas.automations import AutomationCore
from pydantic import ValidationError

from dropflow.changes import NEW_ID
from dropflow.datasets import Dataset
from dropflow.errors import AutomationError

MANAGED = "dropflow"
"""The tag of automations this project made; others are never touched."""
NOTIFICATION_BLOCK, TRAIN_DEPLOYMENT = "notification_block_id", "train_deployment_id"
SILENCE = "silence_seconds"
OPTIONAL = (NOTIFICATION_BLOCK, TRAIN_DEPLOYMENT, SILENCE)
"""Placeholders that some datasets have no value for: see `Definition.fill`."""
GRACE = timedelta(hours=1)
ACTIONS = ("actions", "actions_on_trigger", "actions_on_resolve")
SPECIMEN = {
    "dataset": "specimen",
    "deployment_id": NEW_ID,
    "runbooks_url": "docs/runbooks.md",
    NOTIFICATION_BLOCK: NEW_ID,
    TRAIN_DEPLOYMENT: NEW_ID,
    SILENCE: "86400",
}
"""Values that show whether a file can be filled in at all."""


def placeholders(
    dataset: Dataset, deployments: Mapping[str, str], block_id: str | None, runbooks_url: str
) -> dict[str, str]:
    """The values for one dataset. `deployments`: ids of its deployments, by flow."""
    values = {
        "dataset": dataset.name,
        "deployment_id": deployments["preprocess"],
        "runbooks_url": runbooks_url,
    }
    if "train" in deployments:
        values[TRAIN_DEPLOYMENT] = deployments["train"]
    if block_id:
        values[NOTIFICATION_BLOCK] = block_id
    if dataset.expect:
        values[SILENCE] = f"{(dataset.expect.longest + GRACE).total_seconds():.0f}"
    return values


@dataclass(frozen=True)
class Definition:
    """One automation file."""

    path: Path
    content: dict[str, Any]

    def fill(self, values: Mapping[str, str]) -> AutomationCore | None:
        """The automation for one dataset, tagged with hashes: of what it was made from, and of itself.

        Actions that use an optional placeholder without a value are left out. None when no action is
        left, or such a placeholder is used elsewhere: the file is not for this dataset.
        Raises AutomationError naming the file and the field.
        """
        fitting = self._fitting([name for name in OPTIONAL if name not in values])
        if fitting is None:
            return None
        try:
            content = _fill(fitting, values)
        except (KeyError, ValueError) as error:
            known = ", ".join(f"${{{name}}}" for name in SPECIMEN)
            raise AutomationError(
                f"{self.path}: unknown placeholder {error}; there are {known}; write $$ for a dollar sign"
            ) from error
        digest = _hash(content)
        try:
            made = AutomationCore.model_validate(content)
            tags = [*made.tags, MANAGED, f"{MANAGED}:{digest}-{_hash(plain(made))}"]
            return made.model_copy(update={"tags": tags})
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()[:5]
            )
            raise AutomationError(f"{self.path}: {problems}") from error
        except TypeError as error:
            # Prefect compares `within` before it has read it.
            raise AutomationError(f"{self.path}: trigger: within: expected seconds, as a number") from error

    def _fitting(self, lacking: list[str]) -> dict[str, Any] | None:
        left = dict(self.content)
        for field, found in self.content.items():
            if field in ACTIONS and isinstance(found, list):
                left[field] = [action for action in found if not _uses(action, lacking)]
            elif _uses(found, lacking):
                return None
        acted = any(self.content.get(field) for field in ACTIONS)
        return None if acted and not any(left.get(field) for field in ACTIONS) else left


def _uses(node: Any, names: list[str]) -> bool:
    text = json.dumps(node, default=str)
    return any(f"${{{name}}}" in text for name in names)


def file_hash(automation: AutomationCore) -> str:
    """Of the file and the values an automation was made from; "" for one that is not ours."""
    return _own_tag(automation).partition("-")[0]


def changed_since(automation: AutomationCore) -> bool:
    """Whether someone, in the Prefect UI, has changed it since it was made; switching it off counts not."""
    made = _own_tag(automation).partition("-")[2]
    return bool(made) and made != _hash(plain(automation))


def plain(automation: AutomationCore) -> dict[str, Any]:
    """What an automation does, comparable between file and server."""
    content = automation.model_dump(exclude={"id", "tags", "enabled", "owner_resource"})
    found: dict[str, Any] = _without_empty(json.loads(json.dumps(content, default=_plain_value)))
    return found


def _own_tag(automation: AutomationCore) -> str:
    return next((tag for tag in automation.tags if tag.startswith(f"{MANAGED}:")), "").partition(":")[2]


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _plain_value(value: Any) -> Any:
    if isinstance(value, set):
        return sorted(value)
    return value.total_seconds() if isinstance(value, timedelta) else str(value)


def _without_empty(node: Any) -> Any:
    """Without what is empty: servers fill in empty fields, newer ones more of them."""
    if isinstance(node, dict):
        inside = {name: _without_empty(value) for name, value in node.items()}
        return {name: value for name, value in inside.items() if value not in (None, "", [], {})}
    return [_without_empty(item) for item in node] if isinstance(node, list) else node


def _fill(node: Any, values: Mapping[str, str]) -> Any:
    if isinstance(node, str):
        filled = string.Template(node).substitute(values)
        # YAML takes a placeholder for text; its value may be a number.
        return int(filled) if filled != node and filled.isascii() and filled.isdigit() else filled
    if isinstance(node, dict):
        return {_fill(key, values): _fill(value, values) for key, value in node.items()}
    if isinstance(node, list):
        return [_fill(item, values) for item in node]
    return node


def check_definitions(definitions: list[Definition], datasets: Iterable[str]) -> None:
    """Raises AutomationError for a file that cannot be filled in, or two that fill in the same name."""
    made: dict[str, Path] = {}
    for dataset in datasets:
        for definition in definitions:
            automation = definition.fill({**SPECIMEN, "dataset": dataset})
            if automation is None:
                continue
            other = made.setdefault(automation.name, definition.path)
            if other != definition.path:
                raise AutomationError(
                    f"{other} and {definition.path}: name: both make an automation "
                    f"{automation.name!r}; give one another name"
                )


def load_definitions(folder: Path) -> list[Definition]:
    """Every `*.yaml` of the folder. Raises AutomationError."""
    if not folder.is_dir():
        raise AutomationError(f"there is no folder {folder}: set DROPFLOW_AUTOMATIONS_DIR")
    return [_load(path) for path in sorted(folder.glob("*.yaml"))]


def _load(path: Path) -> Definition:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise AutomationError(f"{path}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or "${dataset}" not in str(content.get("name")):
        raise AutomationError(f"{path}: expected a mapping whose name contains ${{dataset}}")
    return Definition(path, content)
