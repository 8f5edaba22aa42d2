"""Batches prepared by a Dask cluster: a real scheduler, real workers."""

import logging
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import store_environment
from dask import config
from distributed import LocalCluster
from test_preparers import make_lethal, put, with_lethal

from dropflow import doctor
from dropflow.datasets import Dataset
from dropflow.errors import SettingsError
from dropflow.storage import ObjectStore
from flows import cluster
from flows.preparation import Prepared, Work
from flows.preprocessors import cards

PROFILER = "distributed.worker.profile.enabled"


@pytest.fixture(scope="module", autouse=True)
def _without_profiler() -> Iterator[None]:
    """With it a worker on Python 3.11 can deadlock: see `cluster._warn_of_profiler`."""
    with config.set({PROFILER: False}):
        yield


@pytest.fixture(scope="module")
def dask(moto_endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Two workers, each of which finds the store by settings of its own."""
    with (
        # What ends one worker need not end three others.
        config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(
            n_workers=2,
            threads_per_worker=2,
            env={
                **store_environment(moto_endpoint),
                **dict([cluster.NO_PROFILER.split("=")]),
                "PYTHONPATH": str(Path(__file__).parent),
            },
            dashboard_address="127.0.0.1:0",
            local_directory=str(tmp_path_factory.mktemp("dask")),
        ) as found,
    ):
        yield found


def results(outcomes: Iterator[cluster.Outcome]) -> dict[str, Prepared]:
    found = [prepared for prepared, _ in outcomes]
    by_key = {one.key: one for one in found}
    assert len(by_key) == len(found), "no object has two outcomes"
    return by_key


def test_a_cluster_prepares_every_object_once(
    dask: LocalCluster, store: ObjectStore, churn: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "AHEAD", 3)
    keys = [*put(store, 9), "churn/none.csv"]
    found = results(cluster.prepare(dask.scheduler_address, Work(churn, "run"), keys))
    assert found.keys() == {*keys}
    assert Counter(one.result for one in found.values()) == {"processed": 9, "missing": 1}
    assert len(list(store.list("processed", "churn/"))) == 9

    again = results(cluster.prepare(dask.scheduler_address, Work(churn, "again"), keys))
    assert Counter(one.result for one in again.values()) == {"cached": 9, "missing": 1}


def test_one_teaches_the_others(dask: LocalCluster, store: ObjectStore, churn: Dataset) -> None:
    keys = put(store, 6)
    store.put("raw", keys[0], b"not,a,churn,file\n1,2,3,4\n", "text/csv")
    taught = churn.model_copy(update={"fit": churn.fit.model_copy(update={"mode": "reference"})})
    outcomes = list(cluster.prepare(dask.scheduler_address, Work(taught, "run"), keys, one_teaches=True))
    found = results(iter(outcomes))
    assert found[keys[0]].result == "rejected"
    assert [line.text for _, lines in outcomes for line in lines] == [
        f"preprocessor v1 of churn was fitted on s3://raw/{keys[1]}"
    ]
    assert Counter(one.result for one in found.values()) == {"processed": 5, "rejected": 1}
    assert len(list(cards(store, taught))) == 1


def test_a_file_that_kills_its_workers_fails_alone(
    dask: LocalCluster, store: ObjectStore, churn: Dataset
) -> None:
    keys = put(store, 4)
    make_lethal(store, keys[2])
    work = with_lethal(churn)
    found = results(cluster.prepare(dask.scheduler_address, work, [keys[2]]))
    assert found[keys[2]].result == "failed"
    assert "s3://raw/churn/2.csv brings down the Dask workers" in found[keys[2]].message
    found = results(cluster.prepare(dask.scheduler_address, work, [*keys[:2], keys[3]]))
    assert {one.result for one in found.values()} == {"processed"}, "there are workers again"


def test_a_lost_scheduler_interrupts_what_is_left(
    moto_endpoint: str, store: ObjectStore, churn: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "AHEAD", 2)
    monkeypatch.setattr(cluster, "ANSWER_SECONDS", 1)
    for name, value in store_environment(moto_endpoint).items():
        monkeypatch.setenv(name, value)
    keys = put(store, 6)
    with LocalCluster(n_workers=1, processes=False, dashboard_address="127.0.0.1:0") as lost:
        address = lost.scheduler_address
        outcomes = cluster.prepare(address, Work(churn, "run"), keys)
        first, _ = next(outcomes)
    found = results(outcomes)
    assert {first.key, *found} == {*keys}
    assert first.result == "processed"
    assert {one.result for one in found.values()} <= {"processed", "interrupted"}
    assert found[keys[-1]].result == "interrupted"

    found = results(cluster.prepare(address, Work(churn, "run"), keys))
    assert {one.result for one in found.values()} == {"interrupted"}
    assert f"the Dask cluster: {address} does not answer" in found[keys[0]].message
    assert found[keys[0]].message.endswith("it is tried again")


def test_workers_of_another_version_prepare_nothing(
    dask: LocalCluster, store: ObjectStore, churn: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "__version__", "9.9.9")
    keys = put(store, 1)
    (found,) = results(cluster.prepare(dask.scheduler_address, Work(churn, "run"), keys)).values()
    assert found.result == "interrupted"
    assert "the run has Dropflow 9.9.9, a Dask worker 0.1.0" in found.message
    assert not list(store.list("processed"))


def test_the_doctor_counts_workers_and_says_where_there_are_none(dask: LocalCluster) -> None:
    found = doctor._dask(dask.scheduler_address)
    assert (found.state, found.found) == ("ok", f"{dask.scheduler_address} has 2 workers")
    with LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as idle:
        found = doctor._dask(idle.scheduler_address)
    assert (found.state, found.found) == ("warning", f"{idle.scheduler_address} has no workers")
    assert "`dask worker`" in found.to_do
    found = doctor._dask(idle.scheduler_address)
    assert found.state == "failed"
    assert f"{idle.scheduler_address} does not answer" in found.found


def test_without_dask_it_is_said_what_to_install(churn: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(SettingsError, match=r"pip install dropflow\[dask\]"):
        list(cluster.prepare("tcp://127.0.0.1:9", Work(churn, "run"), ["churn/a.csv"]))
    assert doctor._dask("tcp://127.0.0.1:9").to_do == "pip install dropflow[dask]"


@pytest.mark.parametrize(
    ("version", "profiles", "warned"), [((3, 11), True, 1), ((3, 12), True, 0), ((3, 11), False, 0)]
)
def test_a_worker_that_can_deadlock_warns_once(
    version: tuple[int, int],
    profiles: bool,
    warned: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(cluster, "_unwarned", threading.Lock())
    monkeypatch.setattr(sys, "version_info", version)
    with config.set({PROFILER: profiles}), caplog.at_level(logging.WARNING):
        cluster._warn_of_profiler()
        cluster._warn_of_profiler()
    assert [cluster.NO_PROFILER in one.message for one in caplog.records] == [True] * warned


def test_the_variable_that_is_told_turns_the_profiler_off(dask: LocalCluster) -> None:
    (name, value) = cluster.NO_PROFILER.split("=")
    assert config.collect_env({name: value})["distributed"]["worker"]["profile"]["enabled"] is False
    with dask.get_client() as client:
        assert set(client.run(lambda: config.get(PROFILER)).values()) == {False}
