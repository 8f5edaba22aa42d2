"""The main job on real parts: real store, Prefect server, worker, listener and SMTP server."""

import io
import json
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from conftest import Running, wait_until

from dropflow import drops
from dropflow.demo import body_of, subject_of
from dropflow.errors import TransientError
from dropflow.receipts import FINGERPRINT, SOURCE
from dropflow.samples import churn_csv
from flows.preprocess import MOST_TOLD

pytestmark = pytest.mark.stack

SCALED = ["CreditScore", "Age", "Tenure", "Balance", "NumOfProducts", "EstimatedSalary"]
GOOD = churn_csv(rows=200, seed=7)


def replaced(column: str, value: str, row: int = 3) -> bytes:
    """Ten rows, one of them bad: more than the share that may be set aside."""
    frame = pd.read_csv(io.BytesIO(GOOD), dtype=str, keep_default_na=False).head(10)
    frame.loc[row, column] = value
    return frame.to_csv(index=False).encode()


def processed(running: Running, outcome: drops.Outcome) -> pd.DataFrame:
    assert outcome.receipt is not None
    _, content = running.store.get("processed", outcome.receipt.output_key)
    return pd.read_parquet(io.BytesIO(content))


def test_drop_by_command_equals_an_independent_computation(running: Running, tmp_path: Any) -> None:
    path = tmp_path / "customers.csv"
    path.write_bytes(churn_csv())
    done = running.cli("drop", str(path), "--dataset", "churn", "--json")
    assert done.returncode == 0, done.stderr
    (outcome,) = json.loads(done.stdout)
    assert outcome["fate"] == "processed"
    assert outcome["rows_in"] == outcome["rows_out"] == 10_000
    assert [step["name"] for step in outcome["steps"]] == ["drop", "impute", "encode", "scale"]

    bucket, _, key = outcome["output"].removeprefix("s3://").partition("/")
    result = pd.read_parquet(io.BytesIO(running.store.get(bucket, key)[1]))
    raw = pd.read_csv(path)
    assert raw["Age"].isna().sum() > 1000
    assert result.notna().all(axis=None)
    expected = raw[SCALED].copy()
    expected["Age"] = expected["Age"].fillna(raw["Age"].median())
    expected = (expected - expected.mean()) / expected.std(ddof=0)
    np.testing.assert_allclose(result[SCALED], expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(result[SCALED].mean(), 0, atol=1e-9)
    np.testing.assert_allclose(result[SCALED].std(ddof=0), 1, atol=1e-9)
    gender = raw["Gender"].fillna(raw["Gender"].mode()[0])
    np.testing.assert_array_equal(result["Gender"], (gender == "Male").astype(float))
    for country in ("France", "Germany", "Spain"):
        np.testing.assert_array_equal(result[f"Geography_{country}"], raw["Geography"] == country)
    np.testing.assert_array_equal(result["Exited"], raw["Exited"])

    again = running.cli("drop", str(path), "--dataset", "churn", "--json")
    assert json.loads(again.stdout)[0]["repeated"] is True


def test_success_is_told_by_mail_with_the_link_to_the_run(running: Running) -> None:
    outcome = running.outcome(running.put("churn/told.csv", GOOD))
    assert outcome.fate == "processed"
    mail = running.mailbox.wait_for("told.csv", 30)
    assert mail is not None
    # Or "2 files": what was ready a moment ago is told with it.
    assert subject_of(mail).startswith("Ready: churn · ")
    assert "200 rows in, 200 out" in body_of(mail)
    assert running.settings.run_url(outcome.flow_run_id) in body_of(mail)


BAD: dict[str, tuple[bytes, str]] = {
    "empty.csv": (b"", "is empty (0 bytes)"),
    "blank.csv": (b"\n \n", "is blank"),
    "header-only.csv": (GOOD.splitlines()[0] + b"\n", "header but no rows"),
    "picture.csv": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "is a PNG image, not CSV text"),
    "no-age.csv": (GOOD.replace(b"Age", b"Alter", 1), "lacks the columns Age"),
    "text-in-age.csv": (replaced("Age", "forty"), "column Age: the value 'forty' in data row 4 is no number"),
    "too-old.csv": (replaced("Age", "400"), "column Age: the value 400.0 in data row 4 is above 120"),
    "atlantis.csv": (replaced("Geography", "Atlantis"), "is none of France, Germany, Spain"),
    "no-score.csv": (replaced("CreditScore", ""), "column CreditScore: the value in data row 4 is missing"),
    "latin-1.csv": (GOOD.decode().encode("latin-1"), "is not UTF-8 text"),
    "twice.csv": (GOOD.replace(b"Balance", b"Age", 1), "columns of the same name: Age"),
    "ragged.csv": (GOOD + b"1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16\n", "is no readable CSV"),
}


@pytest.fixture(scope="module")
def bad_drops(running: Running) -> dict[str, drops.Drop]:
    """All bad files at once, with a good one among them."""
    found = {name: running.put(f"churn/bad/{name}", content) for name, (content, _) in BAD.items()}
    found["good.csv"] = running.put("churn/bad/good.csv", GOOD)
    return found


def test_a_bad_file_never_stops_a_good_one(running: Running, bad_drops: dict[str, drops.Drop]) -> None:
    assert running.outcome(bad_drops["good.csv"]).fate == "processed"


@pytest.mark.parametrize("name", BAD)
def test_bad_file_is_rejected_with_its_reason(
    running: Running, bad_drops: dict[str, drops.Drop], name: str
) -> None:
    content, reason = BAD[name]
    drop = bad_drops[name]
    outcome = running.outcome(drop)
    assert outcome.fate == "rejected"
    assert reason in outcome.reason
    assert running.store.get("raw", drop.ref.key)[1] == content, "the object is untouched"
    run = wait_until(lambda: [r for r in running.runs(drop) if r["state_type"] == "FAILED"])[0]
    assert run["state_name"] == "Rejected"
    assert reason in run["state"]["message"] or len(run["parameters"]["keys"]) > MOST_TOLD
    wait_until(lambda: (running.fate(drop.ref.key) or ("",))[0] == "rejected", what="the ledger's fate")
    mail = running.mailbox.wait_for(f"s3://raw/churn/bad/{name}\n", 60)
    assert mail is not None
    assert subject_of(mail).startswith("Rejected: churn · ")
    assert reason in body_of(mail)


KEYS = [
    "churn/fäil+name a&b.csv",
    "churn/a%20b.csv",
    "churn/dir one/ünïcode 数据.csv",
    "churn/" + "/".join(["k" * 99] * 9)[:890] + ".csv",
    "churn/{{ 7*7 }} <img src=x onerror=alert(1)>.csv",
    "churn/quote ' \" semi;colon, comma=equals.csv",
    "churn/tab\there.csv",
]


@pytest.fixture(scope="module")
def key_drops(running: Running) -> dict[str, drops.Drop]:
    return {key: running.put(key, GOOD) for key in KEYS}


@pytest.mark.parametrize("key", KEYS, ids=[str(number) for number in range(len(KEYS))])
def test_hostile_keys_work(running: Running, key_drops: dict[str, drops.Drop], key: str) -> None:
    outcome = running.outcome(key_drops[key])
    assert outcome.fate == "processed", outcome.reason
    assert len(processed(running, outcome)) == 200
    (run,) = running.runs(key_drops[key])
    assert key in run["parameters"]["keys"]
    assert f"key:{key}" in run["tags"]


def test_a_key_outside_every_dataset_is_ignored_with_a_reason(running: Running) -> None:
    running.put("somewhere/else.csv", GOOD)
    fate, reason = wait_until(lambda: (f := running.fate("somewhere/else.csv")) and f[0] != "pending" and f)
    assert fate == "ignored"
    assert "outside every dataset (churn: raw/churn/**/*.csv, " in reason


def test_an_overwritten_object_is_prepared_again(running: Running) -> None:
    first = running.outcome(running.put("churn/overwritten.csv", GOOD))
    second = running.outcome(running.put("churn/overwritten.csv", churn_csv(rows=300, seed=8)))
    assert (first.fate, second.fate) == ("processed", "processed")
    assert len(processed(running, second)) == 300


def test_the_same_bytes_again_after_others_are_prepared_again(running: Running) -> None:
    other = churn_csv(rows=300, seed=8)
    for content, rows in ((GOOD, 200), (other, 300), (GOOD, 200)):
        outcome = running.outcome(running.put("churn/back-again.csv", content))
        assert outcome.fate == "processed"
        assert len(processed(running, outcome)) == rows


def deployment(running: Running) -> dict[str, Any]:
    found: dict[str, Any] = running.api("GET", "/deployments/name/preprocess/churn")
    return found


def run_by_hand(running: Running, **parameters: Any) -> dict[str, Any]:
    """What "Custom run" in the UI does; the finished run."""
    path = f"/deployments/{deployment(running)['id']}/create_flow_run"
    run = running.api("POST", path, json={"parameters": parameters})
    return finished(running, run["id"])


def finished(running: Running, run_id: str) -> dict[str, Any]:
    def ended() -> dict[str, Any] | None:
        run: dict[str, Any] = running.api("GET", f"/flow_runs/{run_id}")
        return run if run["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None

    found: dict[str, Any] = wait_until(ended, 60, "the end of the run")
    return found


def test_the_same_bytes_and_recipe_are_not_prepared_twice(running: Running) -> None:
    assert running.outcome(running.put("churn/once.csv", GOOD)).fate == "processed"
    run = run_by_hand(running, keys=["churn/once.csv"])
    assert (run["state_type"], run["state_name"]) == ("COMPLETED", "Cached")


def test_custom_run_with_mean_instead_of_median(running: Running) -> None:
    drop = running.put("churn/custom.csv", GOOD)
    assert running.outcome(drop).fate == "processed"
    run = run_by_hand(running, keys=["churn/custom.csv"], numeric_imputation="mean")
    assert run["state_name"] == "Completed"
    assert run["name"] == "churn · custom.csv"
    assert set(run["tags"]) >= {"dataset:churn", "key:churn/custom.csv"}
    receipt = running.receipt(drop)
    assert receipt is not None
    assert "filled with the mean" in receipt.steps[1].detail


def test_custom_run_of_a_glob(running: Running) -> None:
    names = ["churn/2026-01.csv", "churn/2026-02.csv", "churn/2025-12.csv"]
    found = [running.put(name, GOOD) for name in names]
    assert [running.outcome(drop).fate for drop in found] == ["processed"] * 3
    run = run_by_hand(running, glob="churn/2026-*.csv", numeric_imputation="mean")
    assert (run["state_name"], run["name"]) == ("Completed", "churn · churn/2026-*.csv")
    assert set(run["tags"]) >= {"key:churn/2026-01.csv", "key:churn/2026-02.csv"}
    ways = [running.receipt(drop).steps[1].detail for drop in found]  # type: ignore[union-attr]
    assert ["mean" in way for way in ways] == [True, True, False]
    run = run_by_hand(running, glob="churn/2024-*.csv")
    assert run["state_type"] == "FAILED"
    assert "churn has no object like 'churn/2024-*.csv'" in run["state"]["message"]


def test_a_missing_key_fails_with_its_reason(running: Running) -> None:
    run = run_by_hand(running, keys=["churn/never-there.csv"])
    assert run["state_name"] == "Failed"
    assert "no such object (deleted or renamed?)" in run["state"]["message"]


def test_a_batch_shows_its_progress(running: Running) -> None:
    run = run_by_hand(running, keys=[f"churn/never-there-{number}.csv" for number in range(4)])
    chosen = {"artifacts": {"key": {"any_": ["progress-churn"]}}, "flow_runs": {"id": {"any_": [run["id"]]}}}
    (shown,) = running.api("POST", "/artifacts/filter", json=chosen)
    assert (shown["type"], shown["data"], shown["description"]) == ("progress", 100, "4 of 4 objects")


def test_a_failed_run_can_be_retried_from_the_ui(running: Running) -> None:
    run = run_by_hand(running, keys=["churn/comes-later.csv"])
    assert run["state_name"] == "Failed"
    content = churn_csv(rows=50, seed=9)
    running.store.put("raw", "churn/comes-later.csv", content, "text/csv")
    # The UI's Retry button sets just this state.
    retry = {"state": {"type": "SCHEDULED", "name": "AwaitingRetry"}, "force": True}
    running.api("POST", f"/flow_runs/{run['id']}/set_state", json=retry)
    wait_until(lambda: running.api("GET", f"/flow_runs/{run['id']}")["run_count"] > 1)
    assert finished(running, run["id"])["state_type"] == "COMPLETED"


def test_the_parameter_form_has_choices_defaults_and_help(running: Running) -> None:
    found = deployment(running)
    properties = found["parameter_openapi_schema"]["properties"]
    assert properties["numeric_imputation"]["enum"] == [
        "as declared",
        "mean",
        "median",
        "most_frequent",
        "knn",
    ]
    assert properties["force"]["default"] is False
    assert all(field.get("description") for field in properties.values()), properties
    assert found["parameters"] == {"dataset": "churn"}
    assert found["work_pool_name"] == "dropflow"


def test_the_cron_schedule_makes_runs(running: Running) -> None:
    """Prefect 3.8.8 cannot insert scheduled runs under SQLAlchemy 2.1: the lock must keep it below."""
    (schedule,) = deployment(running)["schedules"]
    assert schedule["schedule"]["cron"] == "0 9 * * 1-5"
    body = {
        "deployments": {"id": {"any_": [deployment(running)["id"]]}},
        "flow_runs": {"state": {"name": {"any_": ["Scheduled"]}}},
    }
    assert wait_until(lambda: running.api("POST", "/flow_runs/filter", json=body), 90, "a scheduled run")


def test_apply_changes_nothing_twice_and_leaves_other_automations_alone(running: Running) -> None:
    theirs = {
        "name": "made in the UI",
        "trigger": {"type": "event", "expect": ["x.y"], "posture": "Reactive", "threshold": 1, "within": 0},
        "actions": [{"type": "do-nothing"}],
    }
    made = running.api("POST", "/automations/", json=theirs)
    ours = running.api("POST", "/automations/filter", json={})
    ours = next(a for a in ours if a["name"] == "on failure · churn")
    # The UI's form sends no tags.
    keep = ("name", "enabled", "trigger", "actions")
    edited = {**{name: ours[name] for name in keep}, "description": "adjusted in the UI"}
    edited["trigger"]["threshold"] = 2
    running.api("PUT", f"/automations/{ours['id']}", json=edited)

    done = running.cli("apply", "--json")
    assert done.returncode == 0, done.stderr
    changes = json.loads(done.stdout)
    assert {change["action"] for change in changes} == {"unchanged"}, changes
    assert running.api("GET", f"/automations/{made['id']}")["name"] == "made in the UI"
    left = running.api("GET", f"/automations/{ours['id']}")
    assert (left["description"], left["trigger"]["threshold"]) == ("adjusted in the UI", 2)
    assert left["tags"] == ours["tags"]
    edited["trigger"]["threshold"] = 1
    running.api("PUT", f"/automations/{ours['id']}", json=edited)
    running.api("DELETE", f"/automations/{made['id']}")


def test_status_counts_by_dataset_and_shows_that_everything_is_live(running: Running) -> None:
    assert running.outcome(running.put("churn/counted.csv", GOOD)).fate == "processed"
    wait_until(lambda: (running.fate("churn/counted.csv") or ("",))[0] == "processed")
    wait_until(lambda: json.loads(running.cli("status", "--json").stdout)["last_sweep"], what="a sweep")
    status = json.loads(running.cli("status", "--json").stdout)
    counts = status["datasets"]["churn"]
    assert counts["processed"] >= 1
    assert set(counts) == {"seen", "pending", "dispatched", "processed", "rejected", "ignored", "failed"}
    assert counts["seen"] == sum(number for fate, number in counts.items() if fate != "seen")
    assert status["unaccounted"] == 0
    assert [(source["name"], source["live"]) for source in status["sources"]] == [("webhook", True)]
    shown = running.cli("status").stdout
    assert "unaccounted  0" in shown
    assert "webhook  live for" in shown


def explained(running: Running, place: str) -> dict[str, Any]:
    done = running.cli("explain", place, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_explain_tells_the_whole_story_of_an_object(running: Running) -> None:
    outcome = running.outcome(running.put("churn/explained.csv", GOOD))
    wait_until(lambda: (running.fate("churn/explained.csv") or ("",))[0] == "processed")
    for place in ("churn/explained.csv", "raw/churn/explained.csv", "s3://raw/churn/explained.csv"):
        story = explained(running, place)
        assert story["fate"] == "processed"
    told = [line["what"] for line in story["story"]]
    assert [line["at"] for line in story["story"]] == sorted(line["at"] for line in story["story"])
    expected = (
        "written to the bucket: ",
        "first seen by the ",
        "delivery 1: event ",
        "run churn",
        "receipt: processed",
    )
    assert all(any(what.startswith(start) for what in told) for start in expected), told
    assert story["runs"][0]["url"] == running.settings.run_url(outcome.flow_run_id)
    assert story["next"].startswith("nothing: it is done")
    assert "first seen by the" in running.cli("explain", "churn/explained.csv").stdout


def test_explain_tells_why_nothing_happens(running: Running) -> None:
    running.put("elsewhere/unmatched.csv", GOOD)
    wait_until(lambda: (running.fate("elsewhere/unmatched.csv") or ("",))[0] == "ignored")
    story = explained(running, "elsewhere/unmatched.csv")
    assert story["fate"] == "ignored"
    assert any("outside every dataset" in line for line in story["now"])
    assert story["next"] == "name it so that a dataset matches, or change a dataset's match"
    assert explained(running, "churn/never.csv")["next"] == "nothing: there is no such object"


def test_a_replay_makes_no_second_output_unless_forced(running: Running) -> None:
    drop = running.put("churn/replayed.csv", GOOD)
    assert running.outcome(drop).fate == "processed"
    wait_until(lambda: (running.fate(drop.ref.key) or ("",))[0] == "processed")
    first = running.store.head("processed", "churn/replayed.parquet")
    receipt = running.receipt(drop)
    shown = running.cli("replay", "churn/replay*.csv", "--dry-run")
    assert "s3://raw/churn/replayed.csv" in shown.stdout
    assert "1 objects would be replayed" in shown.stdout
    assert (running.fate(drop.ref.key) or ("",))[0] == "processed"

    assert running.cli("replay", drop.ref.key).returncode == 0
    runs = wait_until(lambda: [r for r in running.runs(drop) if r["state_name"] == "Cached"], 60)
    assert len(runs) == 1
    wait_until(lambda: (running.fate(drop.ref.key) or ("",))[0] == "processed", 60)
    assert running.store.head("processed", "churn/replayed.parquet").metadata == first.metadata
    assert running.receipt(drop) == receipt

    assert running.cli("replay", drop.ref.key, "--force").returncode == 0
    wait_until(lambda: running.receipt(drop) != receipt, 60, "another receipt")
    wait_until(lambda: (running.fate(drop.ref.key) or ("",))[0] == "processed", 60)
    assert running.store.head("processed", "churn/replayed.parquet").metadata != first.metadata


def test_replay_wants_to_be_told_what(running: Running) -> None:
    done = running.cli("replay")
    assert done.returncode == 2
    assert "what is to be replayed?" in done.stderr
    assert "No object is like that" in running.cli("replay", "churn/no-such-*").stdout


def test_an_audit_proves_that_nothing_is_lost(running: Running) -> None:
    wait_until(lambda: running.cli("audit").returncode == 0, 60, "a clean audit")
    proof = json.loads(running.cli("audit", "--json").stdout)
    assert proof["unaccounted"] == proof["without_output"] == proof["orphans"] == 0
    assert proof["objects"] > 0


def test_an_output_that_an_interrupted_run_has_left_is_found_and_removed(running: Running) -> None:
    metadata = {SOURCE: "nothing", FINGERPRINT: "none"}
    running.store.put("processed", "churn/left-behind.parquet", b"x", "x/y", metadata=metadata)
    wait_until(lambda: not running.store.exists("processed", "churn/left-behind.parquet"), 90, "its removal")


def test_an_output_that_was_deleted_is_made_again(running: Running) -> None:
    drop = running.put("churn/unmade.csv", GOOD)
    assert running.outcome(drop).fate == "processed"
    wait_until(lambda: (running.fate(drop.ref.key) or ("",))[0] == "processed")
    running.store.delete("processed", "churn/unmade.parquet")
    wait_until(lambda: running.store.exists("processed", "churn/unmade.parquet"), 60, "the output again")


def test_health_and_metrics_are_served(running: Running) -> None:
    listener = f"http://127.0.0.1:{running.settings.webhook_port}"
    assert httpx.get(f"{listener}/healthz").status_code == 200
    wait_until(lambda: httpx.get(f"{listener}/readyz").status_code == 200, what="readiness")
    metrics = httpx.get(f"{listener}/metrics").text
    assert "dropflow_sweep_interval_seconds 5.0" in metrics
    for name in (
        'dropflow_objects{dataset="churn",fate="processed"}',
        "dropflow_unaccounted 0.0",
        'dropflow_lag_seconds_bucket{dataset="churn",le="5.0"}',
        "dropflow_events_posted_total",
        "dropflow_events_redelivered_total",
        "dropflow_sweep_seconds",
        'dropflow_webhook_requests_total{result="recorded"}',
    ):
        assert name in metrics, name


def test_a_run_that_dies_with_its_worker_is_marked_and_its_object_delivered_again(running: Running) -> None:
    worker = running.stack.supervisor.processes["worker"]
    big = churn_csv(rows=60_000, seed=3)
    drop = running.put("churn/dies.csv", big)
    run = wait_until(lambda: [r for r in running.runs(drop) if r["state_type"] == "RUNNING"], 30)[0]
    os.killpg(worker.pid, signal.SIGKILL)
    outcome = running.outcome(drop)
    assert outcome.fate == "processed"
    ended = finished(running, run["id"])
    assert ended["state_type"] in ("CRASHED", "COMPLETED")
    wait_until(lambda: (running.fate(drop.ref.key) or ("",))[0] == "processed")


def test_no_secret_reaches_logs_events_or_runs(running: Running) -> None:
    settings = running.settings
    secrets = [settings.s3_secret_key, settings.webhook_token]
    events = json.dumps(running.api("POST", "/events/filter", json={"limit": 50}))
    texts = [path.read_text(errors="replace") for path in (settings.data_dir / "logs").glob("*.log")]
    for secret in secrets:
        assert secret is not None
        assert not any(secret.get_secret_value() in text for text in [events, *texts])
    assert (settings.stack_file.stat().st_mode & 0o777) == 0o600


def test_everything_listens_on_loopback_and_wants_credentials(running: Running) -> None:
    assert running.settings.s3_endpoint is not None
    assert running.settings.s3_endpoint.startswith("http://127.0.0.1:")
    assert httpx.get(f"{running.settings.s3_endpoint}/raw").status_code == 403
    webhook = f"http://127.0.0.1:{running.settings.webhook_port}/notifications"
    assert httpx.post(webhook, content=b"{}").status_code == 401
    # SeaweedFS's filer would serve every object to anyone; now it speaks no HTTP at all, whatever is asked for.
    filer = next(a for a in running.stack.supervisor.processes["store"].command if "filer.port" in a)
    key = "churn/fäil+name a&b.csv"
    for path in ("/", f"/buckets/raw/{key}"):
        assert httpx.get(f"http://127.0.0.1:{filer.partition('=')[2]}{path}").status_code == 404


def killed(running: Running, name: str, ready: Callable[[], bool]) -> None:
    """SIGKILL one process of the stack and wait until the supervisor has brought it back."""
    process = running.stack.supervisor.processes[name]
    before = process.restarts
    os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: process.restarts > before, what=f"the restart of {name}")
    wait_until(ready, 60, f"{name} ready again")


def test_objects_dropped_while_the_listener_is_down_are_found_by_the_sweep(running: Running) -> None:
    process = running.stack.supervisor.processes["listener"]
    os.kill(process.pid, signal.SIGSTOP)
    drop = running.put("churn/while-down.csv", GOOD)
    time.sleep(0.5)
    killed(running, "listener", process.ready)
    assert running.outcome(drop).fate == "processed"


def test_a_killed_store_comes_back_with_its_objects(running: Running) -> None:
    drop = running.put("churn/survives.csv", GOOD)
    assert running.outcome(drop).fate == "processed"
    killed(running, "store", running.stack.supervisor.processes["store"].ready)

    def content() -> bytes | None:
        try:
            return running.store.get("raw", drop.ref.key)[1]
        except TransientError:
            return None  # it answers before its volumes have reported to it

    assert wait_until(content, 60) == GOOD
    assert running.outcome(running.put("churn/after-store.csv", GOOD)).fate == "processed"


def test_a_killed_worker_comes_back(running: Running) -> None:
    killed(running, "worker", lambda: True)
    assert running.outcome(running.put("churn/after-worker.csv", GOOD)).fate == "processed"
