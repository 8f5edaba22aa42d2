"""MLflow beside the running stack: whatever becomes of the tracking, a training stands."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Running

from dropflow.declarations import load_datasets
from dropflow.prefect_env import prefect_environment
from dropflow.settings import PROJECT
from flows import tracking
from flows.preparation import Preparation

pytestmark = pytest.mark.stack

DATASET = """
name: tracked
match: tracked-raw/*.csv
output_bucket: tracked-prepared
columns: {x: {type: number}, kind: {type: category}}
steps: [{clip: {x: {min: 0}}}]
target: kind
train: {model: decision_tree}
"""
FLOW = """
import os, sys
from flows.train import track, train
for uri in sys.argv[1:]:
    os.environ["DROPFLOW_MLFLOW_TRACKING_URI"] = uri
    if uri == sys.argv[-1]:
        track.timeout_seconds = 1
    state = train("tracked", return_state=True)
    print(state.type.value, state.name, state.message, sep="|")
"""


def test_a_training_stands_whatever_becomes_of_its_tracking(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Buckets and a dataset of its own, which the stack's listener does not know."""
    for name, value in tracking.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    from mlflow import MlflowClient

    database = f"sqlite:///{tmp_path}/mlflow.db"
    (tmp_path / "tracked.yaml").write_text(DATASET)
    dataset = load_datasets(tmp_path)["tracked"]
    for bucket in ("tracked-raw", "tracked-prepared"):
        running.store.ensure_bucket(bucket)
    rows = "".join(f"{i},{'low' if i < 50 else 'high'}\n" for i in range(100))
    running.store.put("tracked-raw", "a.csv", f"x,kind\n{rows}".encode(), "text/csv")
    assert Preparation(running.store, dataset, "run").prepare("a.csv").result == "processed"
    environment = {
        **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
        **prefect_environment(running.settings),
        "DROPFLOW_DATA_DIR": str(running.settings.data_dir),
        "DROPFLOW_DATASETS_DIR": str(tmp_path),
        "PYTHONPATH": str(PROJECT),
    }
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uris = ("http://me:hush@127.0.0.1:9", database, f"http://127.0.0.1:{silent.getsockname()[1]}")
        command = [sys.executable, "-c", FLOW, *uris]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=120, env=environment, cwd=tmp_path, check=False
        )
    said = done.stdout + done.stderr
    assert [line[: line.find(":")] for line in done.stdout.splitlines() if line.startswith("COMPLETED")] == [
        "COMPLETED|Best|tracked v0001",
        "COMPLETED|Trained|tracked v0002",
        "COMPLETED|Trained|tracked v0003",
    ], said
    assert "is not, or not wholly, in MLflow: MlflowException: API request to http://***@127.0.0.1:9" in said
    assert "hush" not in said
    assert "Finished in state TimedOut" in said
    client = MlflowClient(database)
    (run,) = client.search_runs([client.get_experiment_by_name("tracked").experiment_id])
    assert (run.data.tags["dropflow.model"], run.info.status) == ("tracked v0002", "FINISHED")
