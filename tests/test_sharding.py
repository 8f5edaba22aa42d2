"""Two Dropflows share a raw bucket by prefixes: each object has a fate in exactly one of them."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_listener import Listener, make_listener

from dropflow.audit import audit
from dropflow.datasets import Datasets
from dropflow.declarations import load_datasets
from dropflow.errors import DatasetError
from dropflow.ledger import Ledger
from dropflow.objects import ObjectCreated, ObjectRef
from dropflow.receipts import Receipt, commit_receipt
from dropflow.settings import PROJECT, Settings, load_settings
from dropflow.storage import ObjectStore
from listeners.intake import Intake

KEYS = {"churn/1.csv", "churn/2.csv", "iris/1.csv", "iris/deep/2.csv", "iris/readme.txt"}
RECEIPT = {"dataset": "iris", "bucket": "raw", "fingerprint": "f", "fate": "rejected", "reason": "for a test"}


def shard(*names: str) -> Datasets:
    found = load_datasets(PROJECT / "datasets").by_name
    return Datasets({name: found[name] for name in names}, tuple(f"{name}/" for name in names))


@pytest.fixture
def shards(tmp_path: Path, store: ObjectStore) -> Iterator[dict[str, Listener]]:
    ledgers = {name: Ledger(f"sqlite:///{tmp_path}/{name}.sqlite") for name in ("churn", "iris")}
    yield {name: make_listener(ledger, store, shard(name)) for name, ledger in ledgers.items()}
    for ledger in ledgers.values():
        ledger.close()


def known(listener: Listener) -> set[str]:
    return {entry.ref.key for entry in listener.ledger.search()}


def test_each_sweep_lists_its_own_part_and_every_object_is_in_one(
    shards: dict[str, Listener], store: ObjectStore
) -> None:
    raw = {key: store.put("raw", key, b"content", "text/csv") for key in KEYS}
    receipt = Receipt(**RECEIPT, key="iris/1.csv", etag=raw["iris/1.csv"].etag)
    assert commit_receipt(store, shard("iris")["iris"], receipt, force=False)
    reports = {name: one.sweep() for name, one in shards.items()}
    assert known(shards["churn"]) == {"churn/1.csv", "churn/2.csv"}
    assert known(shards["iris"]) == {"iris/1.csv", "iris/deep/2.csv", "iris/readme.txt"}
    counted = {name: (one.objects, one.receipts) for name, one in reports.items()}
    assert counted == {"churn": (2, 0), "iris": (3, 1)}
    for name, one in shards.items():
        proof = audit(store, one.datasets, one.ledger)
        assert proof.clean
        assert (proof.objects, proof.receipts) == counted[name]


def test_a_notification_of_another_part_is_left_to_its_own_listener(shards: dict[str, Listener]) -> None:
    iris = shards["iris"]
    told = [ObjectCreated(ObjectRef("raw", key, "e" * 32, 7), "webhook") for key in KEYS]
    told += [
        ObjectCreated(
            ObjectRef("processed", f"_receipts/{name}/{name}/1.csv/e.f.json", "e" * 32, 7), "webhook"
        )
        for name in ("churn", "iris")
    ]

    async def record() -> Intake:
        intake = Intake(iris.ledger, iris.datasets)
        await intake.record(told)
        return intake

    assert list(asyncio.run(record()).receipts) == [("processed", "_receipts/iris/iris/1.csv/e.f.json")]
    assert known(iris) == {"iris/1.csv", "iris/deep/2.csv", "iris/readme.txt"}


def test_a_dataset_outside_is_refused_with_its_file() -> None:
    with pytest.raises(DatasetError, match=r"churn.yaml: match: raw/churn/.* lies outside DROPFLOW_PREFIXES"):
        load_datasets(PROJECT / "datasets", ["iris/"])


def test_a_prefix_below_another_is_not_listed_twice(settings: Settings) -> None:
    chosen = load_settings(settings.data_dir, prefixes="churn/2026/  churn iris/ taxi/")
    assert load_datasets(PROJECT / "datasets", chosen.raw_prefixes).prefixes == ("churn", "iris/", "taxi/")
    assert load_datasets(PROJECT / "datasets").prefixes == ("",)


def test_an_object_of_another_part_is_explained() -> None:
    assert shard("iris").find("raw", "churn/1.csv") == (
        None,
        "another Dropflow's: this one has what lies below iris/",
    )
