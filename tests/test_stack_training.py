"""In the real stack: a file dropped is prepared, trained on, judged and told; other datasets than churn."""

import csv
import io
import json
import os
import random
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import Running, wait_until
from sklearn.datasets import load_iris

from dropflow import drops
from dropflow.declarations import load_datasets
from dropflow.demo import body_of, subject_of
from dropflow.prefect_env import prefect_environment
from dropflow.samples import churn_csv
from dropflow.settings import PROJECT

pytestmark = pytest.mark.stack
DATASETS = load_datasets(PROJECT / "datasets")


def iris_csv() -> bytes:
    iris = load_iris()
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["sepal_length", "sepal_width", "petal_length", "petal_width", "species"])
    for row, kind in zip(iris.data, iris.target, strict=True):
        writer.writerow([*row, iris.target_names[kind]])
    return text.getvalue().encode()


def taxi_csv(rows: int = 1500) -> bytes:
    """Trips between six zones: the way decides how long they take, and whether it is rush hour."""
    rng = random.Random(7)
    zones = ["Alphabet City", "Astoria", "Battery Park", "Bronx Park", "Chelsea", ""]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["pickup", "dropoff", "passengers", "distance", "fare", "pickup_zone", "dropoff_zone"])
    for _ in range(rows):
        start, there = rng.sample(range(6), 2)
        begins = datetime(2019, 3, 1) + timedelta(minutes=rng.randrange(40_000))
        way = 1.0 + ((start * 7 + there * 13) % 11)
        rush = 2.5 if 7 <= begins.hour < 10 or 16 <= begins.hour < 19 else 1.0
        minutes = max(0.2, way * rush + rng.gauss(0, 1))
        ends = begins + timedelta(minutes=minutes)
        writer.writerow(
            [begins, ends, 1, round(abs(way + rng.gauss(0, 3)), 2), 9.5, zones[start], zones[there]]
        )
    return text.getvalue().encode()


def prepared(running: Running, dataset: str, name: str, content: bytes) -> drops.Drop:
    drop = running.put(f"{dataset}/{name}", content)
    outcome = drops.wait(running.store, running.prefect, DATASETS[dataset], drop, 90)
    assert outcome.fate == "processed", outcome.reason
    return drop


def trained(running: Running, dataset: str, key: str) -> dict[str, Any]:
    """The run of train/<dataset> that the automation made for the key, once it has ended."""

    def ended() -> dict[str, Any] | None:
        runs = running.api(
            "POST",
            "/flow_runs/filter",
            json={"flows": {"name": {"any_": ["train"]}}, "deployments": {"name": {"any_": [dataset]}}},
        )
        return next(
            (
                r
                for r in runs
                if key in r["parameters"].get("keys", []) and r["state_type"] in ("COMPLETED", "FAILED")
            ),
            None,
        )

    run: dict[str, Any] = wait_until(ended, 120, f"the training on {key}")
    return run


def models(running: Running, dataset: str) -> list[dict[str, Any]]:
    done = running.cli("models", dataset, "--json")
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_a_dropped_file_is_prepared_then_trained_on_and_the_verdict_is_told(running: Running) -> None:
    drop = prepared(running, "iris", "first.csv", iris_csv())
    run = trained(running, "iris", drop.ref.key)
    assert run["state_name"] == "Best", run["state"]["message"]
    (preparation,) = running.runs(drop)
    assert run["start_time"] > preparation["start_time"], "the second flow follows the first"
    (model,) = models(running, "iris")
    assert model["tag"] == "best"
    assert model["metrics"]["accuracy"] >= 0.93
    assert model["data"][0]["receipt_key"].startswith("_receipts/iris/iris/first.csv/")
    mail = running.mailbox.wait_for(run["id"], 60)
    assert mail is not None
    assert subject_of(mail) == "Best model: iris · first.csv"
    assert "accuracy" in body_of(mail)
    again = prepared(running, "iris", "again.csv", iris_csv())
    assert trained(running, "iris", again.ref.key)["state_name"] == "Trained", "the same rows are no better"


def test_the_training_shows_its_parts_and_its_report(running: Running) -> None:
    drop = prepared(running, "iris", "shown.csv", iris_csv())
    run = trained(running, "iris", drop.ref.key)
    parts = running.api(
        "POST", "/flow_runs/filter", json={"flow_runs": {"parent_flow_run_id": {"any_": [run["id"]]}}}
    )
    assert sorted(part["name"] for part in parts) == ["fit and evaluate", "select features"]
    assert all(part["parameters"] == {} for part in parts), "no frame is sent to the API"
    artifacts = running.api(
        "POST",
        "/artifacts/filter",
        json={"artifacts": {"key": {"any_": ["model-iris"]}}, "sort": "CREATED_DESC"},
    )
    assert "accuracy" in artifacts[0]["data"]


def test_later_files_are_transformed_as_the_first_was_and_the_preprocessor_is_listed(
    running: Running,
) -> None:
    first = prepared(running, "churn_model", "first.csv", churn_csv(rows=10_000, seed=5))
    prepared(running, "churn_model", "second.csv", churn_csv(rows=400, seed=6))
    done = running.cli("preprocessors", "churn_model", "--json")
    (card,) = json.loads(done.stdout)
    assert (card["version"], card["key"], card["in_use"]) == (1, first.ref.key, True)
    run = trained(running, "churn_model", first.ref.key)
    assert run["state_name"] == "Best", run["state"]["message"]
    assert models(running, "churn_model")[0]["preprocessor_version"] == "v1"


def test_trips_by_taxi_beat_a_linear_baseline(running: Running) -> None:
    drop = prepared(running, "taxi", "march.csv", taxi_csv())
    run = trained(running, "taxi", drop.ref.key)
    assert run["state_type"] == "COMPLETED", run["state"]["message"]
    # Tests of the breaker have trained on other trips.
    model = next(m for m in models(running, "taxi") if drop.ref.key in m["data"][0]["receipt_key"])
    assert model["metrics"]["rmse"] < model["baseline_metrics"]["rmse"]


def test_every_object_has_a_quality_report_in_the_ui_and_by_command(running: Running, tmp_path: Path) -> None:
    drop = prepared(running, "iris", "reported.csv", iris_csv())
    (run,) = running.runs(drop)
    artifacts = running.api("POST", "/artifacts/filter", json={"flow_runs": {"id": {"any_": [run["id"]]}}})
    (report,) = [one for one in artifacts if one["key"].startswith("quality-iris-")]
    assert "150" in report["data"]
    assert "dropflow report s3://raw/iris/reported.csv" in report["data"]
    written = running.cli("report", "iris/reported.csv", "--output", str(tmp_path / "report.html"))
    assert written.returncode == 0, written.stderr
    assert "sepal_length" in (tmp_path / "report.html").read_text()


def test_parameters_of_a_run_come_from_a_json_file(running: Running, tmp_path: Path) -> None:
    drop = prepared(running, "iris", "by-hand.csv", iris_csv())
    (tmp_path / "parameters.json").write_text(json.dumps({"test_size": 0.4}))
    done = running.cli("run", "preprocess/iris", drop.ref.key, "--params", str(tmp_path / "parameters.json"))
    assert done.returncode == 0, done.stderr
    run_id = done.stdout.strip().rpartition("/")[2]
    run = wait_until(lambda: finished(running, run_id), 60, "the run")
    assert run["state_name"] == "Completed", run["state"]["message"]
    output = running.store.get("processed", DATASETS["iris"].output_key(drop.ref.key))[1]
    assert (pd.read_parquet(io.BytesIO(output))["split"] == "test").sum() == 60
    assert running.cli("run", "preprocess/nothing").returncode == 2


def finished(running: Running, run_id: str) -> dict[str, Any] | None:
    run: dict[str, Any] = running.api("GET", f"/flow_runs/{run_id}")
    return run if run["state_type"] in ("COMPLETED", "FAILED", "CRASHED") else None


def test_the_greeting_is_deployed_with_cron_and_time_zone_and_runs(running: Running) -> None:
    environment = {**os.environ, **prefect_environment(running.settings)}
    command = [sys.executable, str(PROJECT / "examples" / "greeting.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found = running.api("GET", "/deployments/name/greet/weekdays")
    (schedule,) = found["schedules"]
    assert schedule["schedule"]["cron"] == "0 9 * * 1-5"
    assert schedule["schedule"]["timezone"] == "Europe/Berlin"
    run_id = running.prefect.create_run("greet/weekdays", {"name": "Ada"})
    run = wait_until(lambda: finished(running, run_id), 60, "the greeting")
    assert run["state_name"] == "Completed", run["state"]["message"]
