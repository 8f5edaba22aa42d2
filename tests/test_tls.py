"""TLS to the store and to Prefect: real handshakes, with an authority that nobody else knows."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from authority import Authority, in_front_of
from conftest import store_environment
from test_stream import line, server, streaming

from dropflow.errors import PermanentError, SettingsError
from dropflow.prefect_api import connect_prefect
from dropflow.prefect_env import prefect_environment
from dropflow.settings import Settings, load_settings
from dropflow.storage import ObjectStore, connect
from dropflow.tls import ELSEWHERE
from listeners.stream import open_stream

LOOPBACK = "127.0.0.1"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ours")


@pytest.fixture
def others(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "theirs")


@pytest.fixture
def over_tls(settings: Settings, store: ObjectStore, authority: Authority) -> Iterator[Settings]:
    """The store behind TLS."""
    assert settings.s3_endpoint
    port = int(settings.s3_endpoint.rpartition(":")[2])
    with in_front_of(port, authority.server()) as secure:
        yield settings.model_copy(
            update={"s3_endpoint": f"https://{LOOPBACK}:{secure}", "ca_file": authority.file}
        )


def refused(error: BaseException) -> bool:
    return "certificate is not accepted" in str(error) and "DROPFLOW_CA_FILE" in str(error)


def test_a_store_is_trusted_by_the_authority_in_the_file(over_tls: Settings) -> None:
    store = connect(over_tls)
    ref = store.put("raw", "churn/a.csv", b"1", "text/csv")
    assert store.get("raw", "churn/a.csv") == (store.stat("raw", "churn/a.csv"), b"1")
    assert [found.key for found in store.list("raw")] == [ref.key]


@pytest.mark.parametrize("given", ["theirs", None])
def test_a_store_of_another_authority_is_refused_at_once(
    over_tls: Settings, others: Authority, given: str | None
) -> None:
    began = time.monotonic()
    store = connect(over_tls.model_copy(update={"ca_file": others.file if given else None}))
    with pytest.raises(PermanentError) as raised:
        store.stat("raw", "churn/a.csv")
    assert refused(raised.value)
    assert "\n" not in str(raised.value)
    assert time.monotonic() - began < 5, "no trying again"


def test_a_certificate_of_another_address_is_refused(
    settings: Settings, store: ObjectStore, authority: Authority
) -> None:
    assert settings.s3_endpoint
    port = int(settings.s3_endpoint.rpartition(":")[2])
    with in_front_of(port, authority.server("127.0.0.2")) as secure:
        changed = {"s3_endpoint": f"https://{LOOPBACK}:{secure}", "ca_file": authority.file}
        with pytest.raises(PermanentError, match=f"not accepted: .*; {ELSEWHERE}"):
            connect(settings.model_copy(update=changed)).stat("raw", "churn/a.csv")
        changed["prefect_api_url"] = f"{changed['s3_endpoint']}/api"
        with pytest.raises(PermanentError, match=f"not accepted: .*; {ELSEWHERE}"):
            connect_prefect(settings.model_copy(update=changed)).version()


def test_a_certificate_that_has_expired_is_refused(
    settings: Settings, store: ObjectStore, authority: Authority
) -> None:
    assert settings.s3_endpoint
    port = int(settings.s3_endpoint.rpartition(":")[2])
    with in_front_of(port, authority.server(until=-timedelta(hours=1))) as secure:
        changed = {"s3_endpoint": f"https://{LOOPBACK}:{secure}", "ca_file": authority.file}
        with pytest.raises(PermanentError, match="certificate has expired; have it renewed"):
            connect(settings.model_copy(update=changed)).stat("raw", "churn/a.csv")


def test_the_stream_is_trusted_by_the_authority_in_the_file(
    settings: Settings, authority: Authority, others: Authority
) -> None:
    async def first(ca_file: Path) -> bytes:
        chosen = {"s3_endpoint": f"https://{LOOPBACK}:{secure}", "ca_file": ca_file}
        async with open_stream(settings.model_copy(update=chosen), "raw") as chunks:
            return await anext(chunks)

    with (
        server(streaming(line("a.csv"))) as (url, _),
        in_front_of(int(url.rpartition(":")[2]), authority.server()) as secure,
    ):
        assert json.loads(asyncio.run(first(authority.file)).split(b"\r\n")[-1] or line("a.csv"))
        with pytest.raises(PermanentError) as raised:
            asyncio.run(first(others.file))
        assert refused(raised.value)


def test_prefect_of_another_authority_is_refused(
    over_tls: Settings, authority: Authority, others: Authority
) -> None:
    # Whatever answers: the certificate comes first.
    settings = over_tls.model_copy(update={"prefect_api_url": f"{over_tls.s3_endpoint}/api"})
    with pytest.raises(PermanentError) as raised:
        connect_prefect(settings.model_copy(update={"ca_file": others.file})).version()
    assert refused(raised.value)
    with pytest.raises(PermanentError) as raised:
        connect_prefect(settings).version()
    assert not refused(raised.value), "the handshake went well"


def test_prefect_itself_is_told_of_the_authority(over_tls: Settings, authority: Authority) -> None:
    secure = over_tls.model_copy(update={"prefect_api_url": "https://prefect.example.com/api"})
    assert prefect_environment(secure)["PREFECT_API_SSL_CERT_FILE"] == str(authority.file)
    usual = secure.model_copy(update={"ca_file": None})
    assert "PREFECT_API_SSL_CERT_FILE" not in prefect_environment(usual)
    plain = over_tls.model_copy(update={"prefect_api_url": "http://prefect.example.com/api"})
    assert prefect_environment(plain)["PREFECT_API_SSL_CERT_FILE"].endswith("nobody.pem")


@pytest.mark.parametrize("command", ["worker", "apply", "pause churn"])
def test_commands_end_with_what_to_do(over_tls: Settings, others: Authority, command: str) -> None:
    assert over_tls.s3_endpoint
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(over_tls.data_dir),
        "DROPFLOW_DATA_DIR": str(over_tls.data_dir),
        **store_environment(over_tls.s3_endpoint),
        "DROPFLOW_PREFECT_API_URL": f"{over_tls.s3_endpoint}/api",
        "DROPFLOW_CA_FILE": str(others.file),
    }
    ended = subprocess.run(
        [str(Path(sys.executable).with_name("dropflow")), *command.split()],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 2, ended.stderr
    assert "DROPFLOW_CA_FILE" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("content", "told"), [(None, "No such file"), ("hush", "no certificates in PEM form")]
)
def test_a_file_without_certificates_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, told: str
) -> None:
    if content:
        (tmp_path / "ca.pem").write_text(content)
    monkeypatch.setenv("DROPFLOW_CA_FILE", str(tmp_path / "ca.pem"))
    with pytest.raises(SettingsError, match=f"DROPFLOW_CA_FILE: cannot be used: {told}"):
        load_settings(tmp_path)
