"""Automation files: filled in, checked, and told apart by content."""

import json
from pathlib import Path

import pytest

from automations.definitions import load_definitions
from dropflow.errors import AutomationError
from dropflow.settings import PROJECT

VALUES = {
    "dataset": "churn",
    "deployment_id": "11111111-1111-1111-1111-111111111111",
    "notification_block_id": "22222222-2222-2222-2222-222222222222",
    "train_deployment_id": "33333333-3333-3333-3333-333333333333",
}
GOOD = (PROJECT / "automations" / "on_arrival.yaml").read_text()


def test_the_ready_ones_are_valid_for_prefect() -> None:
    filled = {d.path.stem: d.fill(VALUES) for d in load_definitions(PROJECT / "automations")}
    assert set(filled) == {"on_arrival", "on_failure", "on_processed", "on_trained"}
    arrival = filled["on_arrival"]
    assert arrival.name == "on arrival · churn"
    assert "dropflow.dataset.churn" in json.dumps(arrival.model_dump(mode="json"))
    assert "${" not in json.dumps([a.model_dump(mode="json") for a in filled.values()])


def test_only_those_that_need_the_block_wait_for_it() -> None:
    optional = {d.path.stem: d.optional for d in load_definitions(PROJECT / "automations")}
    assert optional == {
        "on_arrival": set(),
        "on_failure": {"notification_block_id"},
        "on_processed": {"train_deployment_id"},
        "on_trained": {"train_deployment_id", "notification_block_id"},
    }


def test_the_tag_follows_the_content(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    before = load_definitions(tmp_path)[0].fill(VALUES)
    (tmp_path / "a.yaml").write_text("# a comment\n" + GOOD)
    assert load_definitions(tmp_path)[0].fill(VALUES).tags == before.tags
    (tmp_path / "a.yaml").write_text(GOOD.replace("threshold: 1", "threshold: 2"))
    assert load_definitions(tmp_path)[0].fill(VALUES).tags != before.tags


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("${deployment_id}", "${deploymnt_id}", "unknown placeholder 'deploymnt_id'; there are ${dataset}"),
        ("posture: Reactive", "posture: Relaxed", "posture"),
        ("name: on arrival · ${dataset}", "name: on arrival", "whose name contains ${dataset}"),
        ("trigger:", "trigger: [", "while parsing"),
        ("actions:", "actoins:", "actions: Field required"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert old in GOOD
    (tmp_path / "mine.yaml").write_text(GOOD.replace(old, new))
    with pytest.raises(AutomationError) as raised:
        load_definitions(tmp_path)[0].fill(VALUES)
    assert told in str(raised.value)
    assert "mine.yaml" in str(raised.value)
