"""Processes that share the objects of a run: real ones, forked from one of ours."""

import multiprocessing
import os
from collections import Counter
from typing import Any

import pytest
from sharing import LETHAL, shared

from dropflow.datasets import Dataset
from dropflow.declarations import load_datasets
from dropflow.samples import churn_csv
from dropflow.settings import PROJECT, Settings
from dropflow.storage import ObjectStore
from flows import preparers
from flows.outcomes import Outcome
from flows.preparation import Work
from flows.preparers import Preparers
from flows.preprocessors import cards

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["flows.preparers"])


def outcomes(settings: Settings, work: Work, keys: list[str], number: int = 2) -> list[Outcome]:
    ours, theirs = multiprocessing.Pipe()
    process = processes.Process(target=shared, args=(settings, number, work, keys, theirs))
    process.start()
    theirs.close()
    try:
        assert ours.poll(60), "the preparers do not end"
        answers: list[Outcome] = ours.recv()
    finally:
        process.join(10)
    assert process.exitcode == 0
    return answers


def put(store: ObjectStore, number: int) -> list[str]:
    keys = [f"churn/{place}.csv" for place in range(number)]
    for place, key in enumerate(keys):
        store.put("raw", key, churn_csv(rows=20, seed=place), "text/csv")
    return keys


def make_lethal(store: ObjectStore, key: str) -> None:
    """Preparing it `with_lethal` kills the process."""
    header, first, *rows = store.get("raw", key)[1].decode().splitlines()
    cells = first.split(",")
    cells[header.split(",").index("EstimatedSalary")] = str(LETHAL)
    store.put("raw", key, "\n".join([header, ",".join(cells), *rows]).encode(), "text/csv")


def with_lethal(dataset: Dataset) -> Work:
    return Work(dataset.model_copy(update={"prepare": "sharing:prepare"}), "run")


@pytest.mark.parametrize("number", [1, 2, 5])
def test_every_object_is_prepared_once(
    settings: Settings, store: ObjectStore, churn: Dataset, number: int
) -> None:
    keys = put(store, 7)
    found = [
        prepared for prepared, _ in outcomes(settings, Work(churn, "run"), [*keys, "churn/none.csv"], number)
    ]
    assert sorted(one.key for one in found) == sorted([*keys, "churn/none.csv"])
    assert Counter(one.result for one in found) == {"processed": 7, "missing": 1}
    assert len(list(store.list("processed", "churn/"))) == 7


def test_a_file_that_kills_takes_no_other_with_it(
    settings: Settings, store: ObjectStore, churn: Dataset
) -> None:
    keys = put(store, 8)
    make_lethal(store, keys[2])
    found = {prepared.key: prepared for prepared, _ in outcomes(settings, with_lethal(churn), keys)}
    assert {key for key, one in found.items() if one.result == "processed"} == {*keys} - {keys[2]}
    assert found[keys[2]].result == "failed"
    assert "s3://raw/churn/2.csv its process was ended by SIGSEGV" in found[keys[2]].message


def test_where_every_process_was_killed_what_is_left_fails_and_nothing_hangs(
    settings: Settings, store: ObjectStore, churn: Dataset
) -> None:
    keys = put(store, 5)
    for key in keys[:2]:
        make_lethal(store, key)
    found = {prepared.key: prepared for prepared, _ in outcomes(settings, with_lethal(churn), keys)}
    assert len(found) == 5
    left = [one for one in found.values() if "no process is left" in one.message]
    assert left
    assert all(one.result == "failed" for one in left)


def test_a_function_of_the_dataset_may_use_processes_of_its_own(
    settings: Settings, store: ObjectStore, churn: Dataset
) -> None:
    work = Work(churn.model_copy(update={"prepare": "sharing:with_processes"}), "run")
    assert {one.result for one, _ in outcomes(settings, work, put(store, 2))} == {"processed"}


def test_one_that_ends_before_it_begins_or_in_an_answer_costs_its_own_object_at_most() -> None:
    class Torn:
        """As a process that is killed while it writes an answer leaves it."""

        def __init__(self, preparer: Any) -> None:
            self._pipe = preparer.pipe

        def send(self, message: Any) -> None:
            self._pipe.send(message)

        def recv(self) -> Any:
            raise OSError("got end of file during message")

        def fileno(self) -> int:
            return int(self._pipe.fileno())

    ours, theirs = multiprocessing.Pipe()
    gone, closed = multiprocessing.Pipe()
    closed.close()
    process = processes.Process(target=os.getpid)
    process.start()
    process.join()
    torn = preparers._Preparer(process, ours)  # type: ignore[arg-type]
    torn.pipe = Torn(torn)  # type: ignore[assignment]
    theirs.send("a beginning")
    mine = Preparers(0)
    mine._preparers = [preparers._Preparer(process, gone), torn]  # type: ignore[arg-type]
    dataset = load_datasets(PROJECT / "datasets")["churn"]
    found = [prepared.message for prepared, _ in mine.prepare(Work(dataset, "run"), ["churn/a.csv"])]
    assert found == [
        "s3://raw/churn/a.csv its process ended with exit code 0: the worker's log may tell more"
    ]


def test_what_is_logged_comes_with_the_outcome(
    settings: Settings, store: ObjectStore, churn: Dataset
) -> None:
    keys = put(store, 3)
    # Larger than large, and what a whole file is needed for: that is said in the log.
    work = Work(churn.model_copy(update={"prepare": "sharing:prepare"}), "run", large_bytes=1)
    for prepared, lines in outcomes(settings, work, keys):
        assert prepared.result == "processed"
        assert [line for line in lines if f"{prepared.key} is large, and prepared in memory" in line.text]


def test_one_object_teaches_and_the_others_wait_for_it(
    settings: Settings, store: ObjectStore, churn: Dataset
) -> None:
    keys = put(store, 6)
    reference = Dataset.model_validate({**churn.model_dump(), "fit": "reference"})
    first = outcomes(settings, Work(reference, "run"), keys)
    again = outcomes(settings, Work(reference, "again", refit=True), keys)
    assert {one.result for one, _ in [*first, *again]} == {"processed"}
    assert [card.version for card in cards(store, reference)] == [1, 2]
