"""Automation files: Prefect's own schema with placeholders for the dataset."""

import hashlib
import json
import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from prefect.events.schemas.automations import AutomationCore
from pydantic import ValidationError

from dropflow.errors import AutomationError

MANAGED = "dropflow"
"""The tag of automations this project made; others are never touched."""
NOTIFICATION_BLOCK, TRAIN_DEPLOYMENT = "notification_block_id", "train_deployment_id"
"""Placeholders that some datasets have no value for: a file that uses one is not for them."""
_ANY_ID = "00000000-0000-0000-0000-000000000000"
SPECIMEN = {
    "dataset": "specimen",
    "deployment_id": _ANY_ID,
    NOTIFICATION_BLOCK: _ANY_ID,
    TRAIN_DEPLOYMENT: _ANY_ID,
}
"""Values that show whether a file can be filled in at all."""


@dataclass(frozen=True)
class Definition:
    """One automation file."""

    path: Path
    content: dict[str, Any]

    @property
    def optional(self) -> set[str]:
        """The optional placeholders that the file uses."""
        text = json.dumps(self.content)
        return {name for name in (NOTIFICATION_BLOCK, TRAIN_DEPLOYMENT) if f"${{{name}}}" in text}

    def fill(self, values: Mapping[str, str]) -> AutomationCore:
        """The automation for one dataset, tagged with a hash of what it was made from.

        Raises AutomationError naming the file and the field.
        """
        try:
            content = _fill(self.content, values)
        except (KeyError, ValueError) as error:
            known = ", ".join(f"${{{name}}}" for name in SPECIMEN)
            raise AutomationError(
                f"{self.path}: unknown placeholder {error}; there are {known}; write $$ for a dollar sign"
            ) from error
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
        tags = [*content.get("tags", []), MANAGED, f"{MANAGED}:{digest}"]
        try:
            return AutomationCore.model_validate({**content, "tags": tags})
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()[:5]
            )
            raise AutomationError(f"{self.path}: {problems}") from error


def _fill(node: Any, values: Mapping[str, str]) -> Any:
    if isinstance(node, str):
        return string.Template(node).substitute(values)
    if isinstance(node, dict):
        return {_fill(key, values): _fill(value, values) for key, value in node.items()}
    if isinstance(node, list):
        return [_fill(item, values) for item in node]
    return node


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
