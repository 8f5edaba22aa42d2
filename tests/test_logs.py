"""What no log may hold, in whichever way a library comes to say it."""

import io
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from memory_store import MemoryStore
from pythonjsonlogger.json import JsonFormatter
from test_listener import make_listener

from dropflow import logs
from dropflow.datasets import Dataset
from dropflow.declarations import load_datasets
from dropflow.ledger import Ledger
from dropflow.settings import PROJECT, load_settings
from flows import preparation
from listeners.settler import Patience

SECRET = "hush-hush-hush"


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What a logger of some library says, as text and as JSON."""
    monkeypatch.setattr(logs, "_hidden", set())
    before = logging.getLogRecordFactory()
    text = io.StringIO()
    log = logging.getLogger("some.client")
    handlers = [logging.StreamHandler(text), logging.StreamHandler(text)]
    handlers[1].setFormatter(JsonFormatter())
    for handler in handlers:
        log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    yield text
    logging.setLogRecordFactory(before)
    for handler in handlers:
        log.removeHandler(handler)


def test_a_secret_is_hidden_in_texts_arguments_and_tracebacks(said: io.StringIO) -> None:
    logs.hide([SECRET])
    log = logging.getLogger("some.client")
    log.debug("headers: %s", {"Authorization": f"Bearer {SECRET}"})
    log.debug(f"100 % {SECRET}")
    try:
        raise ValueError(SECRET)  # noqa: TRY301
    except ValueError:
        log.exception("it failed")
    log.info("all is well with %d of them", 3)
    assert SECRET not in said.getvalue()
    lines = said.getvalue().splitlines()
    assert "headers: {'Authorization': 'Bearer ***'}" in lines
    assert "ValueError: ***" in lines
    assert json.loads(lines[-1])["message"] == "all is well with 3 of them"


def test_short_words_are_left_alone(said: io.StringIO) -> None:
    logs.hide(["", "s3"])
    logging.getLogger("some.client").info("s3 is used")
    assert "s3 is used" in said.getvalue()


def test_every_secret_of_the_settings_is_hidden_with_its_parts(
    said: io.StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DROPFLOW_LEDGER_URL", "postgresql+psycopg://user:p%40ss-word@db.example.com/dropflow")
    monkeypatch.setenv("DROPFLOW_NOTIFY_URLS", "slack://T1/B1/TIiajkdnlazkcOXrIdevi7FQ json://host/path")
    (tmp_path / "secret").write_text(SECRET)
    monkeypatch.setenv("DROPFLOW_S3_SECRET_KEY_FILE", str(tmp_path / "secret"))
    monkeypatch.setenv("DROPFLOW_S3_ACCESS_KEY", "listener")
    load_settings(tmp_path)
    log = logging.getLogger("some.client")
    log.debug("POST /services/T1/B1/TIiajkdnlazkcOXrIdevi7FQ")
    log.debug("connecting to db.example.com as user with p@ss-word, or p%40ss-word")
    log.debug("the listener signed with %s", SECRET)
    lines = said.getvalue().splitlines()[::2]
    assert lines == [
        "POST /services/T1/B1/***",
        "connecting to db.example.com as user with ***, or ***",
        "the listener signed with ***",
    ]


def test_a_secret_that_is_replaced_in_its_file_is_hidden_too(
    said: io.StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "secret_key"
    file.write_text("the-first-of-them")
    monkeypatch.setenv("DROPFLOW_S3_SECRET_KEY_FILE", str(file))
    settings = load_settings(tmp_path, env_file=tmp_path / ".env")
    assert settings.s3_secret_key
    file.write_text("the-second-of-them")
    logging.getLogger("some.client").info(settings.s3_secret_key.get_secret_value())
    assert said.getvalue().splitlines()[0] == "***"


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """What the root logger says in JSON."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(logs.json_formatter())
    root = logging.getLogger()
    monkeypatch.setattr(root, "level", logging.INFO)
    root.addHandler(handler)
    yield lambda: [json.loads(line) for line in text.getvalue().splitlines()]
    root.removeHandler(handler)


def test_records_of_a_run_have_object_and_run_whoever_makes_them(
    lines: Callable[[], list[dict[str, Any]]],
) -> None:
    log = logging.getLogger("somebody.elses")
    with logs.about(run_id="run-1"):
        with logs.about(bucket="raw", key="churn/ä\x1b.csv"):
            log.warning("inside")
        log.warning("between")
    log.warning("after")
    inside, between, after = lines()
    assert (inside["run_id"], inside["bucket"], inside["key"]) == ("run-1", "raw", "churn/ä\x1b.csv")
    assert between["run_id"] == "run-1"
    assert "key" not in between
    assert not {"run_id", "key"} & set(after)


def test_a_preparation_names_its_object_in_every_record(
    lines: Callable[[], list[dict[str, Any]]], churn: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore()
    store.put("raw", "churn/a.csv", b"x", "text/csv")

    def fails(*_: object) -> None:
        raise RuntimeError("a library's own")

    monkeypatch.setattr(preparation, "read", fails)
    preparation.Work(churn, "run-1").preparation(store).prepare("churn/a.csv")  # type: ignore[arg-type]
    (line,) = lines()
    assert "RuntimeError" in line["exc_info"]
    named = {name: line[name] for name in ("bucket", "key", "dataset", "run_id")}
    assert named == {"bucket": "raw", "key": "churn/a.csv", "dataset": "churn", "run_id": "run-1"}


def test_the_listener_names_objects_and_runs_in_its_records(
    lines: Callable[[], list[dict[str, Any]]], ledger: Ledger
) -> None:
    listener = make_listener(ledger, MemoryStore(), load_datasets(PROJECT / "datasets"), patience=Patience())
    refs = [listener.put(f"churn/{name}.csv") for name in "ab"]
    ignored = listener.put("other/c.csv")
    listener.see(*refs, ignored)
    listener.dispatcher.dispatch()
    listener.receipt(refs[0], flow_run_id="run-1")
    listener.sweep()
    by_message = {line["message"].partition(" ")[0]: line for line in lines()}
    left = by_message["delivery"]
    assert (left["keys"], left["dataset"]) == ([ref.key for ref in refs], "churn")
    assert left["event_id"] == listener.prefect.events[0]["id"]
    assert by_message["ignored"]["key"] == ignored.key
    settled = by_message["processed"]
    assert (settled["bucket"], settled["key"], settled["run_id"]) == ("raw", refs[0].key, "run-1")
