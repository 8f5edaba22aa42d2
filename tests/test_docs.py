"""What the documents say is so: commands exist, files exist, and Prefect and Python are the stated ones."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from dropflow.cli import app
from dropflow.datasets import Dataset
from dropflow.embedded.stores import StoreAccess, Webhook, seaweedfs
from dropflow.objects import CREATED_EVENTS
from dropflow.receipts import PREFIX
from dropflow.recipes import Step
from dropflow.settings import FIELDS, PROJECT, SECRETS

DOCUMENTS = [*PROJECT.glob("*.md"), *(PROJECT / "docs").glob("*.md")]
README = (PROJECT / "README.md").read_text()
MAKEFILE = (PROJECT / "Makefile").read_text()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_and_variable_named_is_there(path: object) -> None:
    text = path.read_text()  # type: ignore[attr-defined]
    for name in re.findall(
        r"`((?:dropflow|listeners|flows|automations|notifications|datasets|docs|monitoring)/[\w/.]+)`", text
    ):
        assert (PROJECT / name).exists(), name
    for target in re.findall(r"\]\(([\w/.-]+)\)", text):
        assert (path.parent / target).exists(), target  # type: ignore[attr-defined]
    for variable in re.findall(r"DROPFLOW_([A-Z0-9_]+)", text):
        name = variable.lower()
        assert name in FIELDS or name.removesuffix("_file") in SECRETS, variable


def test_every_test_named_is_there() -> None:
    tests = "".join(path.read_text() for path in (PROJECT / "tests").glob("test_*.py"))
    known = set(re.findall(r"^def (test_\w+)", tests, re.MULTILINE))
    named = set(re.findall(r"`(test_\w+)`", (PROJECT / "docs" / "security.md").read_text()))
    assert len(named) > 30
    assert named <= known, named - known


def test_a_store_of_your_own_is_bound_as_ours_are(tmp_path: Path) -> None:
    operations = (PROJECT / "docs" / "operations.md").read_text()
    section = operations.partition("## A store of your own")[2].partition("\n## ")[0]
    compose = (PROJECT / "docker-compose.yaml").read_text()
    webhook = Webhook("http://there/notifications", "token", [("raw", ""), ("processed", PREFIX)])
    _, weed = seaweedfs(tmp_path, StoreAccess(1, "key", "secret"), [2, 3, 4, 5], webhook)
    # The files with certificates are each store's own.
    told = {name for name in weed if name.startswith(("WEED_NOTIFICATION_", "WEED_JWT_"))}
    known = set(re.findall(r"MINIO_(?:NOTIFY|API)\w+", compose)) | told
    assert set(re.findall(r"(?:MINIO|WEED)_\w+", section)) == known
    assert (
        f"WEED_NOTIFICATION_WEBHOOK_PATH_PREFIXES={weed['WEED_NOTIFICATION_WEBHOOK_PATH_PREFIXES']}"
        in section
    )
    commands = re.findall(r"^mc event .*", section, re.MULTILINE)
    assert commands == re.findall(r"mc event .*", compose)
    assert all(name in section for name in CREATED_EVENTS)


def test_every_command_shown_is_one() -> None:
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))
    shown = re.findall(r"^(?:\.venv/bin/)?dropflow ([\w-]+)", blocks, re.MULTILINE)
    assert shown
    for command in shown:
        assert command in app, command
    targets = re.findall(r"^make (\w+)", blocks, re.MULTILINE)
    assert {"demo", "test"} <= set(targets)
    assert all(re.search(rf"^{target}:", MAKEFILE, re.MULTILINE) for target in targets)


def test_the_dataset_shown_is_the_one_that_is_there() -> None:
    (shown,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    real = yaml.safe_load((PROJECT / "datasets" / "churn.yaml").read_text())
    part = yaml.safe_load(shown)
    assert part["steps"] == real["steps"]
    assert part["match"] == real["match"]
    assert part["columns"].items() <= real["columns"].items()


def test_the_stated_versions_are_the_locked_ones() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert f"Prefect {version('prefect')}" in README
    assert project["requires-python"] == ">=3.11,<3.14"
    assert "Python 3.11, 3.12 or 3.13" in README


def test_locks_are_complete_and_name_no_index() -> None:
    for name in ("requirements.lock", "requirements-dev.lock"):
        text = (PROJECT / name).read_text()
        assert not re.search(r"^\s*-(?!-hash=)", text, re.MULTILINE), "no option of pip: no index"
        assert "://" not in text
        packages = re.findall(r"^[a-z0-9][\w.-]*==", text, re.MULTILINE)
        assert len(packages) > 100
        assert len(re.findall(r"^[a-z0-9].*==.*\\$", text, re.MULTILINE)) == len(packages), "a hash for each"


def test_what_runs_has_every_extra_that_is_not_left_out() -> None:
    """The image is made of requirements.lock."""
    extras = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    left_out = {"dev", "embedded", "dask", "mlflow"}
    (command,) = re.findall(r"^\t.*--output-file requirements\.lock$", MAKEFILE, re.MULTILINE)
    assert set(re.findall(r"--extra (\w+)", command)) == extras.keys() - left_out
    pins = re.findall(r"^([\w.-]+)==", (PROJECT / "requirements.lock").read_text(), re.MULTILINE)
    for extra in extras.keys() - left_out:
        for package in extras[extra]:
            (name,) = re.findall(r"^[\w.-]+", package)
            assert name in pins, package


def test_what_runs_is_what_is_tested() -> None:
    pins = [
        set(re.findall(r"^[a-z0-9][\w.-]*==\S+", (PROJECT / name).read_text(), re.MULTILINE))
        for name in ("requirements.lock", "requirements-dev.lock")
    ]
    assert pins[0] <= pins[1]


def test_the_dataset_file_that_is_explained_is_valid() -> None:
    (shown,) = re.findall(r"```yaml\n(.*?)```", (PROJECT / "docs" / "datasets.md").read_text(), re.DOTALL)
    fields = yaml.safe_load(shown)
    dataset = Dataset.model_validate(fields)
    assert set(Dataset.model_fields) - {"prepare"} == set(fields), "every field is explained"
    kinds = {step.kind for step in dataset.steps} | {"select"}
    assert kinds == set(Step.model_fields), "every step is explained"
