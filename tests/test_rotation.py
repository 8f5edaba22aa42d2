"""Keys that are replaced in their files while a process runs, against a real store that has replaced them."""

import asyncio
import time
from pathlib import Path

import httpx
import pytest
from command_line import LISTEN, started
from conftest import store_environment, wait_until
from test_stream import line, server, status, streaming
from weed import weed

from dropflow import retry
from dropflow.embedded.processes import answers, free_port
from dropflow.errors import PermanentError
from dropflow.rotation import TakenUp
from dropflow.settings import FileSecret, Settings, load_settings
from dropflow.storage import connect
from listeners import stream
from listeners.stream import open_stream

KEY, OLD, NEW = "the-key", "the-old-secret", "the-new-secret"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Both keys from files."""
    for name, content in (("S3_ACCESS_KEY", KEY), ("S3_SECRET_KEY", OLD)):
        (tmp_path / name).write_text(content)
        monkeypatch.setenv(f"DROPFLOW_{name}_FILE", str(tmp_path / name))
    return load_settings(tmp_path, env_file=tmp_path / ".env", s3_endpoint="http://127.0.0.1:9")


def test_a_client_goes_on_with_the_new_keys(settings: Settings, tmp_path: Path) -> None:
    with weed(tmp_path / "store", {(KEY, OLD): ["Admin"]}) as url:
        settings = settings.model_copy(update={"s3_endpoint": url})
        store = connect(settings)
        store.ensure_bucket("raw")
        store.put("raw", "a.csv", b"1", "text/csv")
    with weed(tmp_path / "store", {(KEY, NEW): ["Admin"]}, int(url.rpartition(":")[2])):
        for ask in (lambda: store.get("raw", "a.csv"), lambda: store.stat("raw", "a.csv")):
            with pytest.raises(
                PermanentError, match=r"403 .*check DROPFLOW_S3_ACCESS_KEY and DROPFLOW_S3_SEC"
            ):
                ask()
        (tmp_path / "S3_SECRET_KEY").write_text(f"{NEW}\n")
        assert store.get("raw", "a.csv")[1] == b"1"
        (tmp_path / "large").write_bytes(b"x" * 9 * 2**20)
        assert store.upload(tmp_path / "large", "raw", "b.csv", lambda _: None).size == 9 * 2**20
        # Whoever connected with the old ones, and was given them as they are, is left out.
        as_they_were = {"s3_access_key": KEY, "s3_secret_key": OLD, "s3_endpoint": url}
        with pytest.raises(PermanentError, match="SignatureDoesNotMatch"):
            connect(Settings.model_validate(as_they_were)).get("raw", "a.csv")


def test_files_that_are_being_replaced_are_waited_for(settings: Settings, tmp_path: Path) -> None:
    """The store has the new keys, and the files have them a moment later."""
    with weed(tmp_path / "store", {(KEY, NEW): ["Admin"]}) as url:
        store = connect(settings.model_copy(update={"s3_endpoint": url}))
        began = time.monotonic()
        asyncio.run(_while_replacing(tmp_path / "S3_SECRET_KEY", lambda: store.ensure_bucket("raw")))
        assert time.monotonic() - began < retry.LONGEST_WAIT


async def _while_replacing(file: Path, work: object) -> None:
    working = asyncio.create_task(asyncio.to_thread(work))  # type: ignore[arg-type]
    await asyncio.sleep(0.2)
    file.write_text(NEW)
    await working


def test_the_stream_is_opened_with_the_new_keys(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "FIRST_WAIT", 0.01)

    async def once(url: str) -> None:
        async with open_stream(settings.model_copy(update={"s3_endpoint": url}), "raw") as chunks:
            await anext(chunks)

    with server(status(403), streaming(line("a.csv"))) as (url, requests):
        with pytest.raises(PermanentError):
            asyncio.run(once(url))
        (tmp_path / "S3_ACCESS_KEY").write_text("another-key")
        asyncio.run(once(url))
    assert [f"Credential={key}/" in sent for key, sent in zip((KEY, "another-key"), requests, strict=True)]


def test_a_file_that_is_gone_or_empty_leaves_the_secret_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("one")
    secret = FileSecret(file, "DROPFLOW_S3_SECRET_KEY_FILE")
    file.write_text("")
    assert secret.get_secret_value() == "one"
    file.unlink()
    assert secret.get_secret_value() == "one"
    file.write_text("two")
    assert secret.get_secret_value() == "two"
    assert "two" not in f"{secret} {secret!r}"


def test_what_was_replaced_is_named_while_it_is_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("WEBHOOK_TOKEN", "PREFECT_AUTH"):
        (tmp_path / name).write_text("user:sixteen-or-more")
        monkeypatch.setenv(f"DROPFLOW_{name}_FILE", str(tmp_path / name))
    settings = load_settings(tmp_path, env_file=tmp_path / ".env")
    taken = TakenUp(settings, "webhook_token", "prefect_auth", "page_token")
    assert not taken.replaced()
    (tmp_path / "WEBHOOK_TOKEN").write_text("short")
    (tmp_path / "PREFECT_AUTH").write_text("user:another-password")
    assert not taken.replaced()
    assert not taken.replaced()
    (told,) = caplog.messages
    assert told.startswith("secrets stay as they were: DROPFLOW_WEBHOOK_TOKEN: ")
    assert "short" not in told
    (tmp_path / "WEBHOOK_TOKEN").write_text("another-of-sixteen-or-more")
    assert taken.replaced() == ["DROPFLOW_WEBHOOK_TOKEN", "DROPFLOW_PREFECT_AUTH"]
    (tmp_path / "WEBHOOK_TOKEN").unlink()
    assert taken.replaced() == ["DROPFLOW_WEBHOOK_TOKEN", "DROPFLOW_PREFECT_AUTH"], "as it was held last"


def test_a_running_listener_goes_on_with_replaced_secrets(tmp_path: Path) -> None:
    token, ledger, port = tmp_path / "token", tmp_path / "ledger", free_port()
    token.write_text("a-token-of-before")
    ledger.write_text(f"sqlite:///{tmp_path}/before.sqlite")
    environment = {
        **store_environment("http://127.0.0.1:9"),
        "DROPFLOW_DATA_DIR": str(tmp_path),
        "DROPFLOW_PREFECT_API_URL": "http://127.0.0.1:9/api",
        "DROPFLOW_LISTEN_STREAM": "false",
        "DROPFLOW_WEBHOOK_PORT": str(port),
        "DROPFLOW_WEBHOOK_TOKEN_FILE": str(token),
        "DROPFLOW_LEDGER_URL_FILE": str(ledger),
    }
    url = f"http://127.0.0.1:{port}"

    def answer(given: str) -> int:
        headers = {"Authorization": f"Bearer {given}"}
        return httpx.post(f"{url}/notifications", content=b"{}", headers=headers).status_code

    with started(LISTEN, environment, tmp_path / "log") as process:
        wait_until(lambda: answers(f"{url}/healthz"), 60, "the listener")
        assert (answer("a-token-of-before"), answer("a-token-of-after")) == (204, 401)
        token.write_text("a-token-of-after")
        ledger.write_text(f"sqlite:///{tmp_path}/after.sqlite")
        wait_until((tmp_path / "after.sqlite").exists, 30, "the ledger of after")
        wait_until(lambda: answers(f"{url}/healthz"), 30, "the listener again")
        assert (answer("a-token-of-before"), answer("a-token-of-after")) == (401, 204)
        assert process.poll() is None
    text = (tmp_path / "log").read_text()
    assert "replaced, and taken up" in text
    assert "a-token-of" not in text
