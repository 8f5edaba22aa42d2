"""The policies of docs/security.md: whoever has no more can do its work, and nothing else."""

import asyncio
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, cast

import pytest
from botocore.awsrequest import AWSResponse
from test_listener import make_listener
from weed import Users, weed

from dropflow.datasets import Dataset, Datasets
from dropflow.declarations import load_datasets
from dropflow.errors import PermanentError
from dropflow.ledger import Fate, Ledger
from dropflow.objects import ObjectRef
from dropflow.receipts import read_receipt
from dropflow.samples import churn_csv
from dropflow.settings import PROJECT, Settings
from dropflow.storage import ObjectStore, connect
from dropflow.transport import Transport
from flows.preparation import Preparation
from listeners.canary import Canary

DOCUMENT = (PROJECT / "docs" / "security.md").read_text()
WORKER, LISTENER, CANARY = (
    json.loads(text) for text in re.findall(r"```json\n(.*?)```", DOCUMENT, re.DOTALL)
)
POLICIES = {"admin": None, "worker": [WORKER], "listener": [LISTENER], "singer": [LISTENER, CANARY]}
PERMISSIONS = {
    "CreateBucket": "s3:CreateBucket",
    "HeadBucket": "s3:ListBucket",
    "ListObjectsV2": "s3:ListBucket",
    "DeleteObject": "s3:DeleteObject",
    "HEAD": "s3:GetObject",
    "GET": "s3:GetObject",
    "PUT": "s3:PutObject",
}
"""What S3 asks for each request that we make."""
ACTIONS = {
    "s3:ListBucket": "List",
    "s3:GetObject": "Read",
    "s3:PutObject": "Write",
    "s3:DeleteObject": "Write",
    "s3:ListenBucketNotification": "List",
}
"""The same in SeaweedFS' words, which has none for deleting alone."""


def granted(policies: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Each permission with each resource."""
    for policy in policies:
        for statement in policy["Statement"]:
            for resource in statement["Resource"]:
                for action in statement["Action"]:
                    yield action, resource.removeprefix("arn:aws:s3:::")


def actions(policies: list[dict[str, Any]] | None) -> list[str]:
    if policies is None:
        return ["Admin"]
    # A whole bucket is said without an asterisk.
    places = {
        (ACTIONS[a], place.removesuffix("/*") if place.count("/") == 1 else place)
        for a, place in granted(policies)
    }
    return sorted(f"{action}:{place}" for action, place in places)


@dataclass
class Noting:
    """A transport that remembers what was asked of it."""

    transport: Transport
    asked: set[tuple[str, str]]

    def send(self, method: str, bucket: str, key: str, *more: Any) -> AWSResponse:
        self.asked.add((PERMISSIONS[method], f"{bucket}/{key}"))
        return self.transport.send(method, bucket, key, *more)

    def list(self, bucket: str, *more: Any) -> AWSResponse:
        self.asked.add((PERMISSIONS["ListObjectsV2"], bucket))
        return self.transport.list(bucket, *more)


@dataclass
class User:
    """A store as one of the users has it, and what was asked of it."""

    store: ObjectStore
    asked: set[tuple[str, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.store.client.meta.events.register("provide-client-params.s3", self._note_call)
        client = self.store.client
        self.store = ObjectStore(cast("Transport", Noting(self.store.transport, self.asked)), lambda: client)

    def _note_call(self, params: dict[str, str], model: Any, **_: Any) -> None:
        place = params["Bucket"] + (f"/{params['Key']}" if "Key" in params else "")
        self.asked.add((PERMISSIONS[model.name], place))

    def beyond(self, policies: list[dict[str, Any]]) -> set[tuple[str, str]]:
        """What was asked for that the policies do not grant."""
        return {
            (permission, place)
            for permission, place in self.asked
            if not any(permission == action and fnmatchcase(place, to) for action, to in granted(policies))
        }


Who = dict[str, User]


@pytest.fixture(scope="module")
def who(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Who]:
    """Each user of one real store that knows their policies."""
    users: Users = {(name, f"{name}-secret"): actions(policies) for name, policies in POLICIES.items()}
    with weed(tmp_path_factory.mktemp("store"), users) as url:

        def user(name: str) -> User:
            keys = {"s3_access_key": name, "s3_secret_key": f"{name}-secret"}
            return User(connect(Settings.model_validate({"s3_endpoint": url, **keys})))

        found = {name: user(name) for name in POLICIES}
        for bucket in ("raw", "processed"):
            found["admin"].store.ensure_bucket(bucket)
        yield found


def drop(who: Who, dataset: Dataset, name: str, content: bytes) -> ObjectRef:
    return who["admin"].store.put(dataset.bucket, f"{dataset.prefix}{name}", content, "text/csv")


def forbidden(store: ObjectStore, bucket: str, key: str, *, delete: bool = True) -> None:
    with pytest.raises(PermanentError, match="403 AccessDenied"):
        store.put(bucket, key, b"mine", "text/plain")
    if delete:
        with pytest.raises(PermanentError, match="403 AccessDenied"):
            store.delete(bucket, key)


def test_the_worker_prepares_and_cannot_touch_what_is_raw(who: Who) -> None:
    worker, datasets = who["worker"], load_datasets(PROJECT / "datasets")
    for dataset in (datasets["churn"], datasets["churn_model"]):
        for name, content in (
            ("a.csv", churn_csv(200)),
            ("b.csv", churn_csv(200, seed=2)),
            ("c.csv", b"x\n1\n"),
        ):
            ref = drop(who, dataset, name, content)
            done = Preparation(worker.store, dataset, "run").prepare(ref.key)
            assert done.result == ("rejected" if name == "c.csv" else "processed"), done.message
            assert read_receipt(worker.store, dataset, ref)
        again = Preparation(worker.store, dataset, "run", force=True).prepare(f"{dataset.prefix}a.csv")
        assert again.result == "processed"
    assert {permission for permission, _ in worker.asked} >= {"s3:GetObject", "s3:PutObject", "s3:ListBucket"}
    assert worker.beyond([WORKER]) == set()
    forbidden(worker.store, "raw", "churn/a.csv")
    assert who["admin"].store.get("raw", "churn/a.csv")[1] == churn_csv(200)


def test_the_listener_brings_an_object_to_its_fate_and_writes_nothing(who: Who, ledger: Ledger) -> None:
    datasets = Datasets({"churn": load_datasets(PROJECT / "datasets")["churn"]})
    ref = drop(who, datasets["churn"], "listened.csv", churn_csv(50))
    listener = make_listener(ledger, who["listener"].store, datasets)
    listener.sweep()
    listener.dispatcher.dispatch()
    assert Preparation(who["worker"].store, datasets["churn"], "run").prepare(ref.key).result == "processed"
    listener.sweep()
    assert listener.fate(ref.key)[0] is Fate.PROCESSED
    who["listener"].store.ensure_bucket("raw")
    assert who["listener"].beyond([LISTENER]) == set()
    forbidden(who["listener"].store, "raw", ref.key)
    for key in ("churn/listened.parquet", "_receipts/churn/x"):
        forbidden(who["listener"].store, "processed", key)


def test_a_canary_is_dropped_and_removed_and_nothing_else(who: Who, ledger: Ledger) -> None:
    churn = load_datasets(PROJECT / "datasets")["churn"]
    canary = Canary(who["singer"].store, ledger, churn, churn_csv(20), seconds=30, listener="me")

    async def sing() -> None:
        singing = asyncio.create_task(canary._sing())
        found: list[ObjectRef] = []
        while not found and not singing.done():
            await asyncio.sleep(0.05)
            found = list(who["admin"].store.list("raw", f"{churn.prefix}_canary/"))
        prepare = partial(Preparation(who["worker"].store, churn, "run").prepare, found[0].key)
        assert (await asyncio.to_thread(prepare)).result == "processed"
        await singing

    asyncio.run(sing())
    assert list(who["admin"].store.list("raw", f"{churn.prefix}_canary/")) == []
    assert [ref.key for ref in who["admin"].store.list("processed") if "_canary" in ref.key] == []
    assert who["singer"].beyond([LISTENER, CANARY]) == set()
    forbidden(who["singer"].store, "raw", "churn/a.csv")
    forbidden(who["singer"].store, "processed", "churn/a.parquet")
