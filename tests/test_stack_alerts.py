"""On the real stack: what a burst is told as, and what `dropflow doctor` tells."""

import json
import re
from datetime import UTC, datetime

import pytest
from conftest import Running, wait_until

from automations.definitions import load_definitions
from dropflow.demo import body_of, subject_of
from dropflow.ledger import Ledger
from dropflow.samples import churn_csv
from dropflow.settings import PROJECT

pytestmark = pytest.mark.stack

GOOD = churn_csv(rows=30, seed=31)
UNREADABLE = GOOD.replace(b"Balance", b"Saldo", 1)
NEGATIVE = re.sub(rb"(?m)^(1,(?:[^,]*,){6})\d+", rb"\1-1", churn_csv(rows=10, seed=31))


def test_a_burst_with_7_bad_files_is_one_digest_and_a_few_messages_for_each_cause(
    running: Running,
) -> None:
    bad = {7: UNREADABLE, 29: UNREADABLE, 50: UNREADABLE, 70: UNREADABLE}
    bad |= {91: NEGATIVE, 120: NEGATIVE, 149: NEGATIVE}
    ledger = Ledger(running.settings.ledger)

    def nothing_to_tell() -> bool:
        return not ledger.notices.untold()

    def settled() -> bool:
        fates = [e.fate for e in ledger.search(dataset="churn") if e.ref.key.startswith("churn/burst/")]
        return fates.count("processed") == 143 and fates.count("rejected") == 7

    def forget_what_was_told() -> None:
        """What was told lengthens the pauses before the next of the same."""
        ledger.notices.prune(datetime.now(UTC))

    try:
        forget_what_was_told()
        wait_until(nothing_to_tell, 60, "what earlier tests have told")
        forget_what_was_told()
        for number in range(150):
            content = bad.get(number, GOOD)
            running.store.put("raw", f"churn/burst/{number}.csv", content, "text/csv")
        wait_until(settled, 240, "every fate")
        wait_until(nothing_to_tell, 90, "what is to be told of the burst")
    finally:
        ledger.close()

    def told(title: str, of: str) -> list[str]:
        mails = [mail for mail in running.mailbox.messages if f"churn/burst/{of}" in body_of(mail)]
        return [subject_of(mail) for mail in mails if subject_of(mail).startswith(title)]

    wait_until(lambda: told("Ready", ""), 60, "the mail of the digest")
    for number in bad:
        wait_until(lambda n=number: told("Rejected", f"{n}.csv\n"), 30, f"the mail of {number}.csv")
        assert len(told("Rejected", f"{number}.csv\n")) == 1
    assert len(told("Ready", "")) == 1
    # The first at once, and then what came meanwhile: how many these are depends on how fast the runs are.
    assert 2 <= len(told("Rejected", "")) <= 7


def test_silence_is_told_when_the_listener_cannot(running: Running) -> None:
    """The watchdog of files that are expected, with ten seconds instead of days."""
    (file,) = (d for d in load_definitions(PROJECT / "automations") if d.path.stem == "on_missing")
    block = running.api("POST", "/block_documents/filter", json={})[0]["id"]
    values = {"dataset": "quiet", "silence_seconds": "10", "notification_block_id": block}
    automation = file.fill(values)
    assert automation is not None
    made = running.api("POST", "/automations/", json=automation.model_dump(mode="json"))
    try:
        mail = running.mailbox.wait_for("Silence: quiet", 60)
    finally:
        running.api("DELETE", f"/automations/{made['id']}")
    assert mail is not None
    assert "Nothing was heard of quiet for 0.0 hours" in body_of(mail)


def test_a_stack_that_is_well(running: Running) -> None:
    done = running.cli("doctor", "--json")
    found = {one["name"]: one for one in json.loads(done.stdout)}
    assert {name: one["found"] for name, one in found.items() if one["state"] != "ok"} == {}
    assert done.returncode == 0
    assert "webhook told of an object" in found["notifications"]["found"]
    assert {"worker", "deployments and automations", "ledger", "listener", "Prefect's clock"} <= set(found)


def test_an_automation_that_was_deleted_and_a_paused_work_pool(running: Running) -> None:
    pool = running.settings.work_pool
    # Not churn's breaker, which is off: made anew it would be on, and pause what the next tests drop.
    named = {"automations": {"name": {"any_": ["breaker · iris"]}}}
    (one,) = running.api("POST", "/automations/filter", json=named)
    running.api("DELETE", f"/automations/{one['id']}")
    running.api("PATCH", f"/work_pools/{pool}", json={"is_paused": True})
    try:
        done = running.cli("doctor")
    finally:
        running.api("PATCH", f"/work_pools/{pool}", json={"is_paused": False})
        assert running.cli("apply").returncode == 0
    assert done.returncode == 1
    assert f"the work pool {pool} is paused" in done.stdout
    assert f"automation {one['name']}" in done.stdout
    assert "dropflow apply" in done.stdout
    assert "2 of" in done.stdout
