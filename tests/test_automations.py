"""Automation files: filled in, checked, and told apart by content."""

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.client.schemas.schedules import CronSchedule
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.server.events.schemas.events import Resource, ResourceSpecification
from prefect.types import _datetime

import automations.server
from automations.definitions import check_definitions, load_definitions, placeholders
from automations.sync import sync
from dropflow.changes import differences
from dropflow.declarations import load_datasets
from dropflow.errors import AutomationError
from dropflow.expecting import Expect
from dropflow.prefect_api import PERMANENT
from dropflow.settings import PROJECT

VALUES = {
    "dataset": "churn",
    "deployment_id": "11111111-1111-1111-1111-111111111111",
    "runbooks_url": "https://docs.example.com/runbooks",
    "notification_block_id": "22222222-2222-2222-2222-222222222222",
    "train_deployment_id": "33333333-3333-3333-3333-333333333333",
    "silence_seconds": "90000",
}
PLAIN = {name: VALUES[name] for name in ("dataset", "deployment_id", "runbooks_url")}
GOOD = (PROJECT / "automations" / "on_arrival.yaml").read_text()


def test_the_ready_ones_are_valid_for_prefect() -> None:
    filled = {d.path.stem: d.fill(VALUES) for d in load_definitions(PROJECT / "automations")}
    assert set(filled) == {
        "breaker",
        "on_arrival",
        "on_failure",
        "on_missing",
        "on_processed",
        "on_trained",
    }
    arrival = filled["on_arrival"]
    assert arrival.name == "on arrival · churn"
    assert "dropflow.dataset.churn" in json.dumps(arrival.model_dump(mode="json"))
    assert "${" not in json.dumps([a.model_dump(mode="json") for a in filled.values()])


@pytest.mark.parametrize(
    ("lacking", "left"),
    [
        (["notification_block_id"], {"breaker", "on_arrival", "on_processed"}),
        (["train_deployment_id"], {"breaker", "on_arrival", "on_failure", "on_missing"}),
        (["silence_seconds"], {"breaker", "on_arrival", "on_failure", "on_processed", "on_trained"}),
        (["train_deployment_id", "notification_block_id"], {"breaker", "on_arrival"}),
    ],
)
def test_those_that_need_what_a_dataset_lacks_are_not_for_it(lacking: list[str], left: set[str]) -> None:
    values = {name: value for name, value in VALUES.items() if name not in lacking}
    found = {d.path.stem for d in load_definitions(PROJECT / "automations") if d.fill(values)}
    assert found == left


def test_silence_is_longer_than_between_any_two_deadlines() -> None:
    churn = load_datasets(PROJECT / "datasets")["churn"]
    expecting = churn.model_copy(update={"expect": Expect.model_validate("by 08:00 on weekdays")})
    ids = {"preprocess": VALUES["deployment_id"]}
    assert placeholders(churn, ids, None, VALUES["runbooks_url"]) == PLAIN
    values = placeholders(expecting, ids, VALUES["notification_block_id"], VALUES["runbooks_url"])
    assert values["silence_seconds"] == str((3 * 24 + 1) * 3600)
    (definition,) = (d for d in load_definitions(PROJECT / "automations") if d.path.stem == "on_missing")
    assert definition.fill(values).trigger.within == timedelta(hours=73)


def test_without_a_block_the_breaker_pauses_and_tells_nobody() -> None:
    (breaker,) = (d for d in load_definitions(PROJECT / "automations") if d.path.stem == "breaker")
    assert [action.type for action in breaker.fill(VALUES).actions] == [
        "pause-deployment",
        "send-notification",
    ]
    values = {name: value for name, value in VALUES.items() if name != "notification_block_id"}
    (action,) = breaker.fill(values).actions
    assert action.type == "pause-deployment"
    assert str(action.deployment_id) == VALUES["deployment_id"]


@pytest.mark.parametrize("name", ["on_failure", "on_trained"])
def test_every_bad_end_of_a_run_is_told(name: str) -> None:
    (definition,) = (d for d in load_definitions(PROJECT / "automations") if d.path.stem == name)
    bad = {f"prefect.flow-run.{state}" for state in (*PERMANENT, "Crashed")}
    assert bad <= definition.fill(VALUES).trigger.expect


def test_the_breaker_counts_nothing_that_a_file_alone_can_bring_about() -> None:
    (breaker,) = (d for d in load_definitions(PROJECT / "automations") if d.path.stem == "breaker")
    counted = {event.removeprefix("prefect.flow-run.") for event in breaker.fill(VALUES).trigger.expect}
    assert counted == {"Failed", "Crashed", "TooManyProcesses"}


@pytest.mark.parametrize(
    ("message", "counts"), [("2 failed\nwhy", True), ("1 failed, 3 processed\nwhy", False)]
)
def test_the_breaker_counts_no_run_that_has_also_processed_something(message: str, counts: bool) -> None:
    (breaker,) = (d for d in load_definitions(PROJECT / "automations") if d.path.stem == "breaker")
    labels = {"prefect.resource.id": "prefect.flow-run.1", "prefect.state-message": message}
    # The server's: the client's knows a wildcard at the end only.
    match = ResourceSpecification(breaker.fill(VALUES).trigger.match.root)
    assert match.matches(Resource(labels)) is counts


def test_runbooks_are_linked_as_they_are_set() -> None:
    filled = [d.fill(VALUES) for d in load_definitions(PROJECT / "automations")]
    bodies = [action.body for one in filled for action in one.actions if hasattr(action, "body")]
    found = re.findall(r"Runbook: (\S+)#(\S+)", "\n".join(bodies))
    assert found
    assert {address for address, _ in found} == {VALUES["runbooks_url"]}
    headings = re.findall(r"^## (.+)$", (PROJECT / "docs" / "runbooks.md").read_text(), re.MULTILINE)
    assert {section for _, section in found} <= {heading.lower() for heading in headings}


def test_two_files_that_make_the_same_automation_are_both_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    (tmp_path / "b.yaml").write_text(GOOD.replace("threshold: 1", "threshold: 2"))
    with pytest.raises(AutomationError, match="give one another name") as raised:
        check_definitions(load_definitions(tmp_path), ["churn", "iris"])
    assert "a.yaml and " in str(raised.value)
    assert "b.yaml" in str(raised.value)
    assert "'on arrival · churn'" in str(raised.value)


class Server:
    """Automations as a Prefect client sees them."""

    def __init__(self, *found: Automation) -> None:
        self.found = {automation.id: automation for automation in found}

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None: ...

    def read_automations(self, limit: int, offset: int) -> list[Automation]:
        return list(self.found.values())[offset : offset + limit]

    def create_automation(self, automation: AutomationCore) -> None:
        self.update_automation(uuid4(), automation)

    def update_automation(self, automation_id: UUID, automation: AutomationCore) -> None:
        # As the server does: JSON, without what is not set.
        sent = automation.model_dump(mode="json", exclude_unset=True)
        old = self.found.get(automation_id)
        kept = old.model_dump(mode="json") if old else {}
        self.found[automation_id] = Automation.model_validate({**kept, **sent, "id": automation_id})

    def delete_automation(self, automation_id: UUID) -> None:
        del self.found[automation_id]

    def change(self, **fields: Any) -> None:
        """As the UI does: what it does not know, such as tags, stays."""
        ((automation_id, old),) = self.found.items()
        self.found[automation_id] = old.model_copy(update=fields)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    monkeypatch.setattr("automations.sync.get_client", lambda **_: server)
    return server


def synced(folder: Path, text: str, *, dry_run: bool = False) -> list[tuple[str, str]]:
    (folder / "a.yaml").write_text(text)
    return [(c.action, c.note) for c in sync(load_definitions(folder), [PLAIN], dry_run=dry_run)]


def test_what_was_changed_in_the_ui_is_left_alone_until_its_file_changes(
    server: Server, tmp_path: Path
) -> None:
    assert synced(tmp_path, GOOD) == [("created", "")]
    server.change(enabled=False, description="mine", name="renamed")
    assert synced(tmp_path, GOOD) == [("unchanged", "")]
    (left,) = server.found.values()
    assert (left.enabled, left.description, left.name) == (False, "mine", "renamed")

    newer = GOOD.replace("threshold: 1", "threshold: 2")
    server.change(name="on arrival · churn")
    assert synced(tmp_path, newer, dry_run=True) == [("updated", "was changed in the UI")]
    assert next(iter(server.found.values())).trigger.threshold == 1
    assert synced(tmp_path, newer) == [("updated", "was changed in the UI")]
    (left,) = server.found.values()
    assert (left.enabled, left.trigger.threshold, left.description != "mine") == (False, 2, True)
    assert synced(tmp_path, GOOD) == [("updated", "")]


def test_a_field_that_is_gone_from_the_file_is_gone_from_the_server(server: Server, tmp_path: Path) -> None:
    synced(tmp_path, GOOD + "actions_on_trigger: [{type: do-nothing}]\n")
    assert synced(tmp_path, GOOD) == [("updated", "")]
    assert [a.actions_on_trigger for a in server.found.values()] == [[]]


def test_a_second_automation_of_one_file_is_removed(server: Server, tmp_path: Path) -> None:
    synced(tmp_path, GOOD)
    (first,) = server.found.values()
    second = first.model_copy(update={"id": uuid4()})
    server.found[second.id] = second
    removed = ("removed", "there was another of this name")
    assert synced(tmp_path, GOOD, dry_run=True) == [("unchanged", ""), removed]
    assert len(server.found) == 2
    assert synced(tmp_path, GOOD) == [("unchanged", ""), removed]
    assert list(server.found) == [first.id]


def test_the_differences_are_told_field_by_field(server: Server, tmp_path: Path) -> None:
    synced(tmp_path, GOOD)
    newer = GOOD.replace("threshold: 1", "threshold: 2").replace("object.created", "object.made")
    (tmp_path / "a.yaml").write_text(newer)
    (change,) = sync(load_definitions(tmp_path), [PLAIN], dry_run=True)
    assert [(d.field, d.lines()) for d in change.differences] == [
        ("trigger.expect.0", ["-object.created", "+object.made"]),
        ("trigger.threshold", ["-1", "+2"]),
    ]


def test_of_a_long_text_only_the_changed_lines_are_shown() -> None:
    before, after = {"body": "a\nb\nc", "tags": ["x"]}, {"body": "a\nB\nc", "tags": ["x", "y"]}
    found = {d.field: d.lines() for d in differences(before, after)}
    assert found == {"body": ["-b", "+B"], "tags": ['-["x"]', '+["x", "y"]']}
    assert [d.lines() for d in differences({}, {"new": 1})] == [["+1"]]


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


def test_prefect_lists_the_time_zones_once_and_knows_them() -> None:
    for wrapped in automations.server.WRAPPED:
        automations.server._wrap(*wrapped)
    listing: Any = _datetime.available_timezones
    for _ in range(2):
        CronSchedule(cron="0 9 * * *", timezone="Europe/Berlin")
    assert listing.cache_info().hits
    assert listing.cache_info().misses == 1
    with pytest.raises(ValueError, match="Invalid timezone"):
        CronSchedule(cron="0 9 * * *", timezone="Mars/Phobos")
