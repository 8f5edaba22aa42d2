"""In the real stack: a file dropped is prepared, trained on, judged and told; other datasets than churn."""

import csv
import io
import json
import random
from datetime import datetime, timedelta
from typing import Any

import pytest
from conftest import Running, wait_until
from sklearn.datasets import load_iris

from dropflow import drops
from dropflow.declarations import load_datasets
from dropflow.demo import body_of, subject_of
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
    assert len(parts) == 2
    artifacts = running.api(
        "POST",
        "/artifacts/filter",
        json={"artifacts": {"key": {"any_": ["model-iris"]}}, "sort": "CREATED_DESC"},
    )
    assert "accuracy" in artifacts[0]["data"]


def test_later_files_are_transformed_as_the_first_was_and_the_preprocessor_is_listed(
    running: Running,
) -> None:
    first = prepared(running, "churn_model", "first.csv", churn_csv(rows=1500, seed=5))
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
    (model,) = models(running, "taxi")
    assert model["metrics"]["rmse"] < model["baseline_metrics"]["rmse"]


def test_every_object_has_a_quality_report_in_the_ui_and_in_the_bucket(running: Running) -> None:
    drop = prepared(running, "iris", "reported.csv", iris_csv())
    (run,) = running.runs(drop)
    artifacts = running.api("POST", "/artifacts/filter", json={"flow_runs": {"id": {"any_": [run["id"]]}}})
    (report,) = [one for one in artifacts if one["key"].startswith("quality-iris-")]
    assert "150" in report["data"]
    reports = [ref.key for ref in running.store.list("processed", "_reports/iris/iris/reported.csv/")]
    assert len(reports) == 1
    assert b"sepal_length" in running.store.get("processed", reports[0])[1]
