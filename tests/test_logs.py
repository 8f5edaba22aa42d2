"""What no log may hold, in whichever way a library comes to say it."""

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from pythonjsonlogger.json import JsonFormatter

from dropflow import logs
from dropflow.settings import load_settings

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
