"""Settings: where they come from, and what wrong ones are told."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from dropflow.errors import SettingsError
from dropflow.settings import load_settings


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_variables_win_over_the_env_file_and_that_over_the_running_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".dropflow").mkdir()
    (tmp_path / ".dropflow" / "stack.env").write_text(
        "DROPFLOW_S3_REGION=one\nDROPFLOW_SWEEP_SECONDS=1\nDROPFLOW_WORK_POOL=one\n"
    )
    (tmp_path / ".env").write_text("DROPFLOW_S3_REGION=two\nDROPFLOW_SWEEP_SECONDS=2\nOTHER=x\n")
    monkeypatch.setenv("DROPFLOW_S3_REGION", "three")
    settings = load_settings()
    assert (settings.s3_region, settings.sweep_seconds, settings.work_pool) == ("three", 2, "one")


def test_another_store_does_not_get_the_embedded_ones_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = "DROPFLOW_S3_ENDPOINT=http://127.0.0.1:1\nDROPFLOW_S3_SECRET_KEY=embedded\n"
    (tmp_path / "stack.env").write_text(f"{stack}DROPFLOW_LISTEN_STREAM=false\n")
    monkeypatch.setenv("DROPFLOW_S3_ENDPOINT", "https://s3.example.com")
    settings = load_settings(tmp_path)
    assert settings.s3_secret_key is None
    assert settings.listen_stream is True


def test_another_server_does_not_get_the_embedded_ones_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = "DROPFLOW_PREFECT_API_URL=http://127.0.0.1:1/api\nDROPFLOW_PREFECT_AUTH=dropflow:embedded\n"
    (tmp_path / "stack.env").write_text(stack)
    assert load_settings(tmp_path).prefect_auth == SecretStr("dropflow:embedded")
    monkeypatch.setenv("DROPFLOW_PREFECT_API_URL", "http://127.0.0.1:1/api/")
    assert load_settings(tmp_path).prefect_auth == SecretStr("dropflow:embedded"), "it is the same one"
    monkeypatch.setenv("DROPFLOW_PREFECT_API_URL", "https://prefect.example.com/api")
    assert load_settings(tmp_path).prefect_auth is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DROPFLOW_S3_ENDPOINT", "https://key:hush-hush@s3.example.com"),
        ("DROPFLOW_PREFECT_API_URL", "http://hush-hush@prefect.example.com/api"),
        ("DROPFLOW_PREFECT_UI_URL", "http://user:hush-hush@prefect.example.com"),
        ("DROPFLOW_PAGE_URL", "https://:hush-hush@files.example.com"),
        ("DROPFLOW_DASK_SCHEDULER", "tls://user:hush-hush@dask.example.com:8786"),
        # Not even what is no address at all.
        ("DROPFLOW_S3_ENDPOINT", "https://user:hush-hush@[s3.example.com"),
        ("DROPFLOW_S3_ENDPOINT", "https://user:hush-hush@s3\u2100.example.com"),
        ("DROPFLOW_S3_ENDPOINT", "https:///user:hush-hush@s3.example.com"),
    ],
)
def test_an_address_with_a_password_is_refused_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"^{name}: expected an address") as raised:
        load_settings()
    assert "hush" not in str(raised.value)


def test_an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DROPFLOW_NOTIFY_URLS", "")
    monkeypatch.setenv("DROPFLOW_S3_ENDPOINT", "")
    settings = load_settings()
    assert (settings.notify_urls, settings.s3_endpoint) == (None, None)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("DROPFLOW_SWEEP_SECOND", "5", "did you mean DROPFLOW_SWEEP_SECONDS?"),
        ("DROPFLOW_SWEEP_SECONDS", "often", "DROPFLOW_SWEEP_SECONDS: Input should be a valid number"),
        ("DROPFLOW_SWEEP_SECONDS", "0", "greater than or equal to 1"),
        ("DROPFLOW_PREFECT_AUTH", "hush", "DROPFLOW_PREFECT_AUTH: expected user:password"),
        ("DROPFLOW_S3_ENDPOINT", "minio:9000", "expected an address that starts with http:// or https://"),
        (
            "DROPFLOW_WEBHOOK_PORT",
            "99999",
            "DROPFLOW_WEBHOOK_PORT: Input should be less than or equal to 65535",
        ),
        ("DROPFLOW_LISTEN_STREAM", "perhaps", "DROPFLOW_LISTEN_STREAM: Input should be a valid boolean"),
    ],
)
def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as raised:
        load_settings()
    assert told in str(raised.value)


def test_a_wrong_secret_is_named_but_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DROPFLOW_WEBHOOK_TOKEN", "too-short-hush")
    with pytest.raises(SettingsError, match="DROPFLOW_WEBHOOK_TOKEN") as raised:
        load_settings()
    assert "hush" not in str(raised.value)


def test_secrets_do_not_show_in_a_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DROPFLOW_S3_SECRET_KEY", "hush-hush")
    monkeypatch.setenv("DROPFLOW_NOTIFY_URLS", "slack://hush-hush")
    assert "hush" not in repr(load_settings())


def test_a_secret_is_read_from_the_file_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text("hush-hush\n")
    (tmp_path / ".env").write_text("DROPFLOW_S3_ACCESS_KEY=given\n")
    monkeypatch.setenv("DROPFLOW_S3_SECRET_KEY_FILE", str(tmp_path / "secret"))
    monkeypatch.setenv("DROPFLOW_S3_ACCESS_KEY_FILE", str(tmp_path / "secret"))
    settings = load_settings()
    assert settings.s3_secret_key
    assert settings.s3_secret_key.get_secret_value() == "hush-hush"
    assert settings.s3_access_key
    assert settings.s3_access_key.get_secret_value() == "hush-hush", "the environment goes before .env"
    monkeypatch.setenv("DROPFLOW_S3_SECRET_KEY", "itself")
    settings = load_settings()
    assert settings.s3_secret_key
    assert settings.s3_secret_key.get_secret_value() == "itself"


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"DROPFLOW_S3_SECRET_KEY_FILE": "hush/hush"}, "cannot read the file it names: FileNotFoundError"),
        ({"DROPFLOW_S3_SECRET_KEY_FILE": "empty"}, "DROPFLOW_S3_SECRET_KEY_FILE: the file it names is empty"),
        ({"DROPFLOW_S3_REGION_FILE": "empty"}, "is no setting of Dropflow"),
        ({"DROPFLOW_LOG_FORMAT": "yaml"}, "DROPFLOW_LOG_FORMAT: Input should be 'text' or 'json'"),
    ],
)
def test_a_wrong_secret_file_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], told: str
) -> None:
    (tmp_path / "empty").write_text(" \n")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as raised:
        load_settings()
    assert told in str(raised.value)
    assert "hush" not in str(raised.value)


def test_logs_can_be_json(tmp_path: Path) -> None:
    script = "import logging; from dropflow.logs import log_to_stderr as to; to(as_json=True); "
    script += "logging.getLogger('a.b').warning('två \\n \\x1b[31m')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    (line,) = done.stderr.splitlines()
    found = json.loads(line)
    assert (found["level"], found["logger"], found["message"]) == ("WARNING", "a.b", "två \n \x1b[31m")
    assert found["time"]


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:8808"),
        ("10.0.0.5", "http://10.0.0.5:8808"),
        ("0.0.0.0", "http://127.0.0.1:8808"),  # noqa: S104 - nothing is bound
        ("::", "http://[::1]:8808"),
        ("fd00::5", "http://[fd00::5]:8808"),
    ],
)
def test_the_listener_is_reached_where_it_listens(host: str, address: str) -> None:
    settings = load_settings(webhook_host=host, webhook_port=8808)
    assert settings.webhook == f"{address}/notifications"
    assert settings.page == address


def test_without_a_port_there_is_no_webhook() -> None:
    settings = load_settings()
    assert settings.webhook == settings.page == ""
