"""Who had what done: a line for every act, wherever it came from."""

import getpass
import json
import logging
import stat
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient
from test_page import HOSTILE, OWN, Make, datasets, make_site  # noqa: F401 - fixtures

from dropflow import audit_log, cli
from dropflow.ledger import Fate
from dropflow.settings import Settings


def lines(settings: Settings) -> list[dict[str, Any]]:
    text = (settings.data_dir / audit_log.FILE).read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_an_act_is_a_line_for_its_owner_only(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "dropflow.audit")
    audit_log.record(settings, "replay", **audit_log.objects([f"s3://raw/{key}" for key in HOSTILE * 10]))
    audit_log.record(settings, "pause", dataset="churn")
    replay, pause = lines(settings)
    assert (replay["what"], replay["number"]) == ("replay", 10 * len(HOSTILE))
    assert len(replay["objects"]) == audit_log.MOST_NAMED
    assert replay["who"].partition("@")[0] == getpass.getuser()
    assert (pause["what"], pause["dataset"]) == ("pause", "churn")
    file = settings.data_dir / audit_log.FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text().isascii()
    assert [json.loads(line.message) for line in caplog.records] == [replay, pause]


def test_what_cannot_be_written_is_told_and_stops_nothing(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    audit_log.record(settings.model_copy(update={"data_dir": tmp_path / "file"}), "pause")
    assert "audit.log in" in caplog.text


def test_what_is_done_on_the_page_names_the_address(make_site: Make, settings: Settings) -> None:  # noqa: F811
    site = make_site()
    client = TestClient(site.app, base_url="http://127.0.0.1", headers=OWN, client=("192.0.2.7", 1))
    ref = site.drop("churn/a.csv")
    site.settle(ref, Fate.REJECTED, "bad")
    assert client.post("/replay", json={"object": site.token(ref.key), "force": True}).status_code == 204
    assert client.post("/replay", json={"object": site.token(ref.key)}).status_code == 409, "pending by now"
    query = {"dataset": "churn", "key": "churn/b.csv"}
    assert client.put("/upload", params=query, content=b"x").status_code == 201
    rerun, upload = lines(settings)
    assert (rerun["who"], rerun["what"]) == ("page@192.0.2.7", "rerun")
    assert rerun["objects"] == [ref.url]
    assert (upload["what"], upload["objects"]) == ("upload", ["s3://raw/churn/b.csv"])


def test_a_replay_by_command_names_the_user(
    make_site: Make,  # noqa: F811
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = make_site()
    ref = site.drop("churn/a.csv")
    site.settle(ref, Fate.FAILED, "bad")
    there = settings.model_copy(update={"ledger_url": SecretStr(f"sqlite:///{tmp_path}/ledger.sqlite")})
    monkeypatch.setattr(cli, "load_settings", lambda _: there)
    assert cli.replay(failed=True, dry_run=True) == cli.OK
    assert cli.replay(failed=True) == cli.OK
    (told,) = lines(settings)
    assert (told["what"], told["objects"], told["force"]) == ("replay", [ref.url], False)
