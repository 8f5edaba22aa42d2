"""On the real stack: what fails too often is paused, waits, is told of once, and goes on when it is resumed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import OUTCOME_SECONDS, Running, wait_until
from test_stack_training import taxi_csv

from dropflow import drops
from dropflow.declarations import load_datasets
from dropflow.demo import body_of, subject_of
from dropflow.settings import PROJECT

pytestmark = pytest.mark.stack

TAXI = load_datasets(PROJECT / "datasets")["taxi"]
ENOUGH = 10


def automation(running: Running, name: str) -> dict[str, Any]:
    found = running.api("POST", "/automations/filter", json={})
    return next(one for one in found if one["name"] == name)


def is_paused(running: Running) -> bool:
    return bool(running.api("GET", "/deployments/name/preprocess/taxi")["paused"])


def ended(running: Running, *several: dict[str, Any]) -> list[dict[str, Any]]:
    """Runs with these parameters, at their end."""
    runs = [running.prefect.create_run("preprocess/taxi", parameters) for parameters in several]
    over = ("FAILED", "COMPLETED")

    def all_ended() -> list[dict[str, Any]]:
        found = [running.api("GET", f"/flow_runs/{run}") for run in runs]
        return found if all(run["state_type"] in over for run in found) else []

    ends: list[dict[str, Any]] = wait_until(all_ended, 120, "the end of the runs")
    return ends


def outcome(running: Running, drop: drops.Drop) -> drops.Outcome:
    return drops.wait(running.store, running.prefect, TAXI, drop, OUTCOME_SECONDS)


def test_the_breaker_pauses_tells_once_and_what_waits_leaves_after_it_is_resumed(running: Running) -> None:
    assert automation(running, "breaker · taxi")["trigger"]["threshold"] == ENOUGH
    assert outcome(running, running.put("taxi/first.csv", taxi_csv(200))).fate == "processed"
    bad = [f"taxi/bad-{number}.csv" for number in range(ENOUGH)]
    for number, key in enumerate(bad):
        running.put(key, b"pickup\n%d\n" % number)
    rejected = ended(running, *({"keys": [key]} for key in bad))
    assert {run["state_name"] for run in rejected} == {"Rejected"}
    assert outcome(running, running.put("taxi/second.csv", taxi_csv(210))).fate == "processed"
    assert not is_paused(running), "whoever may upload could pause the dataset"

    nothing = {"glob": "taxi/there is none of this name"}
    failed = ended(running, *[nothing] * ENOUGH)
    assert {run["state_name"] for run in failed} == {"Failed"}
    wait_until(lambda: is_paused(running), what="the pause")
    mail = running.mailbox.wait_for("Paused: taxi", 30)
    assert mail is not None
    assert "10 of its runs failed within 10.0 minutes" in body_of(mail)
    assert "dropflow resume taxi" in body_of(mail)

    good = running.put("taxi/good.csv", taxi_csv(300))
    reason = "paused: dropflow resume taxi (or resume the deployment in the Prefect UI)"
    wait_until(lambda: running.fate("taxi/good.csv") == ("pending", reason), what="the reason")
    assert outcome(running, good).reason == reason
    assert json.loads(running.cli("status", "--json").stdout)["paused"] == {"taxi": 1}
    story = json.loads(running.cli("explain", "taxi/good.csv", "--json").stdout)
    assert story["next"] == "it leaves within seconds of `dropflow resume taxi`"
    assert "taxi is paused already." in running.cli("pause", "taxi").stdout
    assert running.runs(good) == []

    assert "taxi is resumed." in running.cli("resume", "taxi").stdout
    wait_until(lambda: (running.fate("taxi/good.csv") or ("",))[0] != "pending", 5, "its event")
    assert outcome(running, good).fate == "processed"
    assert "taxi is not paused." in running.cli("resume", "taxi").stdout
    assert [subject_of(m) for m in running.mailbox.messages if "Paused" in subject_of(m)] == ["Paused: taxi"]


def test_a_difference_is_shown_and_nothing_is_touched(running: Running, tmp_path: Path) -> None:
    for folder in ("datasets", "automations"):
        shutil.copytree(PROJECT / folder, tmp_path / folder)
    iris = tmp_path / "datasets" / "iris.yaml"
    iris.write_text(iris.read_text().replace("description: Iris flowers", "description: Flowers"))
    (tmp_path / "datasets" / "churn_model.yaml").unlink()
    breaker = tmp_path / "automations" / "breaker.yaml"
    breaker.write_text(breaker.read_text().replace("threshold: 10", "threshold: 20"))
    before = everything(running)
    environment = {
        "PATH": os.environ["PATH"],
        "DROPFLOW_DATA_DIR": str(running.settings.data_dir),
        "DROPFLOW_DATASETS_DIR": str(tmp_path / "datasets"),
        "DROPFLOW_AUTOMATIONS_DIR": str(tmp_path / "automations"),
        "DROPFLOW_NOTIFY_URLS": "json://user:hush-hush@127.0.0.1:9/",
    }
    command = [str(Path(sys.executable).with_name("dropflow")), "apply", "--diff"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert everything(running) == before
    for told in (
        "unchanged deployment preprocess/churn\n",
        "updated   deployment preprocess/iris\n  description\n    -Iris flowers;",
        "removed   deployment preprocess/churn_model\n",
        "updated   notification block dropflow\n  urls\n    -(secret)\n    +(another secret)\n",
        "updated   automation breaker · iris\n  trigger.threshold\n    -10\n    +20\n",
        "removed   automation on trained · churn_model\n",
        "would change; nothing was touched.",
    ):
        assert told in done.stdout
    assert "hush" not in done.stdout + done.stderr


def everything(running: Running) -> list[dict[str, Any]]:
    paths = ("/deployments/filter", "/automations/filter", "/block_documents/filter")
    fields = ("id", "name", "version", "description", "tags", "trigger", "data")
    found = [one for path in paths for one in running.api("POST", path, json={})]
    return sorted(
        ({field: one.get(field) for field in fields} for one in found), key=lambda one: str(one["id"])
    )


def test_what_is_paused_stays_so_when_its_deployment_is_brought_up_to_date(running: Running) -> None:
    path = f"/deployments/{running.api('GET', '/deployments/name/preprocess/iris')['id']}"
    running.api("PATCH", path, json={"version": "older", "paused": True})
    changes = json.loads(running.cli("apply", "--json").stdout)
    assert [c["name"] for c in changes if c["action"] == "updated"] == ["preprocess/iris"]
    assert running.api("GET", path)["paused"] is True
    running.api("POST", f"{path}/resume_deployment")
