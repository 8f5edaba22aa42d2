"""Settings: `DROPFLOW_*` variables, then `.env`, then what `dropflow up` wrote into the data directory."""

import difflib
import os
import re
import ssl
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from dotenv import dotenv_values
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from dropflow.errors import SettingsError
from dropflow.logs import hide

PREFIX = "DROPFLOW_"
PROJECT = Path(__file__).resolve().parent.parent
WorkerStart = Literal["fork", "spawn"]
STACK_FILE = "stack.env"
"""Where `dropflow up` writes the addresses and credentials of what it started (mode 0600)."""

_REACHED_AT = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing is bound
"""What is bound to all addresses is on loopback, too; these two are nobody's own."""


class Settings(BaseModel):
    """Everything that can be set; field `x` is the variable `DROPFLOW_X`. An empty one is not set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data_dir: Path = Field(Path(".dropflow"), description="ledger, logs and the embedded stack's data")
    env_file: Path = Field(Path(".env"), description="more settings, one NAME=value a line")
    datasets_dir: Path = Field(PROJECT / "datasets", description="one YAML file per dataset")
    automations_dir: Path = Field(PROJECT / "automations", description="one YAML file per automation")
    ca_file: Path | None = Field(
        None,
        description="PEM file of the authorities that store and Prefect are trusted by [the usual]",
    )

    s3_endpoint: str | None = Field(None, description="http(s) address of the object store")
    s3_access_key: SecretStr | None = None
    s3_secret_key: SecretStr | None = None
    s3_region: str = "us-east-1"

    prefect_api_url: str | None = Field(None, description="Prefect API, ending in /api")
    prefect_ui_url: str | None = Field(
        None, description="the Prefect UI as people reach it, for links [the API's address, /v2 for /api]"
    )
    prefect_auth: SecretStr | None = Field(
        None,
        description="user:password of the Prefect server (its PREFECT_SERVER_API_AUTH_STRING); "
        "the server that `up` starts asks for it [a random one in stack.env]",
    )
    work_pool: str = Field("dropflow", min_length=1)
    worker_poll_seconds: float = Field(
        3, gt=0, le=60, description="runs that are due now are told of at once, and not waited for"
    )
    worker_limit: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1)

    batch_processes: int = Field(
        default_factory=lambda: min(os.cpu_count() or 1, 8), ge=1, description="that share a run's objects"
    )

    dask_scheduler: str | None = Field(
        None, description="tcp:// or tls:// address of a Dask scheduler whose workers share a run's objects"
    )

    worker_start: WorkerStart = Field(
        "fork", description="fork: from a process that has imported everything; spawn: a new Python a run"
    )
    run_memory_mib: float | None = Field(
        None, gt=0, description="a run that takes more is ended [three quarters of the machine's memory]"
    )

    large_file_mib: float = Field(
        256, gt=0, description="larger CSV and Parquet files are prepared part by part"
    )

    listen_stream: bool = Field(default=True, description="follow MinIO's notification stream")
    webhook_host: str = "127.0.0.1"
    webhook_port: int | None = Field(None, ge=1, le=65535, description="None: no webhook")
    webhook_token: SecretStr | None = Field(None, min_length=16)
    page_token: SecretStr | None = Field(
        None, min_length=16, description="asked for by the page; without one it is served on loopback only"
    )
    page_url: str | None = Field(None, description="the page's address where a proxy makes it another one")
    page_upload_mib: float = Field(1024, ge=0, description="largest file the page uploads; 0: none")
    sweep_seconds: float = Field(
        30, ge=1, description="between two sweeps; more where a sweep takes longer than a fifth of it"
    )
    prefixes: str | None = Field(
        None, description="of raw keys that are this Dropflow's, separated by spaces; None: all are"
    )
    ledger_url: SecretStr | None = Field(
        None, description="SQLAlchemy URL, postgresql+psycopg://… for several listeners [SQLite in data_dir]"
    )
    runs_per_dataset: int = Field(4, ge=1, description="events in flight at once; the rest gathers")
    worker_machines: int = Field(
        1,
        ge=1,
        description="machines with workers: so many runs of a dataset start without waiting for others",
    )
    receipt_seconds: float = Field(20, ge=1, description="without a receipt for so long, Prefect is asked")
    deliveries: int = Field(5, ge=1, description="events posted for an object before it is failed")
    run_minutes: float = Field(60, gt=0, description="a run that takes longer is ended")
    orphan_seconds: float = Field(600, ge=5, description="an output without receipt is removed after it")
    canary_dataset: str | None = Field(None, description="drop a canary into this dataset; None: no canary")
    canary_file: Path | None = Field(None, description="the canary's content, a good file of the dataset")
    canary_seconds: float = Field(300, ge=5, description="between two canaries, and the longest one may take")

    notify_urls: SecretStr | None = Field(
        None, description="Apprise URLs (https://appriseit.com), separated by spaces or newlines"
    )
    runbooks_url: str = Field(
        "docs/runbooks.md", min_length=1, description="where people find that page, for links in messages"
    )
    log_format: Literal["text", "json"] = Field("text", description="of up, listen and worker")
    mlflow_tracking_uri: SecretStr | None = Field(
        None, description="MLflow server or database that trained models are logged to; None: no MLflow"
    )

    @field_validator("ca_file")
    @classmethod
    def _certificates(cls, value: Path | None) -> Path | None:
        if value is None:
            return None
        file = value.expanduser().absolute()
        try:
            ssl.create_default_context(cafile=file)
        except OSError as error:
            why = "no certificates in PEM form" if isinstance(error, ssl.SSLError) else error.strerror
            raise ValueError(f"cannot be used: {why}") from error
        return file

    @field_validator("s3_endpoint", "prefect_api_url", "prefect_ui_url", "page_url")
    @classmethod
    def _http(cls, value: str | None) -> str | None:
        return _address(value, "http", "https").rstrip("/") if value else None

    @field_validator("dask_scheduler")
    @classmethod
    def _dask(cls, value: str | None) -> str | None:
        return _address(value, "tcp", "tls") if value else None

    @field_validator("prefect_auth")
    @classmethod
    def _user_and_password(cls, value: SecretStr | None) -> SecretStr | None:
        if value and ":" not in value.get_secret_value():
            raise ValueError("expected user:password, as PREFECT_SERVER_API_AUTH_STRING has it")
        return value

    @property
    def raw_prefixes(self) -> list[str]:
        return (self.prefixes or "").split() or [""]

    @property
    def ledger(self) -> str:
        """The ledger's URL."""
        if self.ledger_url:
            return self.ledger_url.get_secret_value()
        return f"sqlite:///{self.data_dir / 'ledger.sqlite'}"

    @property
    def stack_file(self) -> Path:
        return self.data_dir / STACK_FILE

    @property
    def prefect_api(self) -> str:
        """The Prefect API's address. Raises SettingsError when there is none."""
        if not self.prefect_api_url:
            raise SettingsError(
                "no Prefect API: start one with `dropflow up`, or set DROPFLOW_PREFECT_API_URL "
                "(for example http://127.0.0.1:4200/api)"
            )
        return self.prefect_api_url

    @property
    def prefect_ui(self) -> str:
        """Prefect's newer UI: its older one sends who is not signed in to a page that is not there."""
        return self.prefect_ui_url or f"{self.prefect_api.removesuffix('/api')}/v2"

    @property
    def listener(self) -> str:
        """The listener's address, as this machine reaches it; "" where it has no port."""
        if not self.webhook_port:
            return ""
        host = _REACHED_AT.get(self.webhook_host, self.webhook_host)
        return f"http://[{host}]:{self.webhook_port}" if ":" in host else f"http://{host}:{self.webhook_port}"

    @property
    def webhook(self) -> str:
        """What a store on this machine calls; "" where there is no webhook."""
        return self.listener and f"{self.listener}/notifications"

    @property
    def page(self) -> str:
        """The address of the page that shows every object; "" where the listener serves none."""
        return self.page_url or self.listener

    def run_url(self, flow_run_id: str) -> str:
        return f"{self.prefect_ui}/runs/flow-run/{flow_run_id}"


def _address(value: str, *schemes: str) -> str:
    """The value, if it is an address that may be shown. Raises ValueError, which never repeats it."""
    try:
        parts = urlsplit(value)
    except ValueError:
        raise ValueError("expected an address, for example http://127.0.0.1:9000") from None
    if parts.scheme not in schemes or not parts.netloc:
        expected = " or ".join(f"{scheme}://" for scheme in schemes)
        raise ValueError(f"expected an address that starts with {expected}")
    if "@" in parts.netloc:
        raise ValueError(
            "expected an address without user and password, since addresses are shown: "
            "remove what stands before the @, and give credentials by their own settings"
        )
    return value


FIELDS = Settings.model_fields
SECRETS = {name for name, field in FIELDS.items() if "SecretStr" in str(field.annotation)}
FILE = "_FILE"
"""`DROPFLOW_X_FILE` names a file that holds the secret `DROPFLOW_X`, as Docker and Kubernetes mount them."""


LONG_WORD = 16
"""Characters of a word in a secret address that is no name any more, but a token."""


class FileSecret(SecretStr):
    """A secret in a file, read whenever it is asked for: who replaces the file has replaced the secret."""

    def __init__(self, path: Path, name: str) -> None:
        """Raises SettingsError."""
        self._path, self._name = path, name
        super().__init__(_secret_in(path, name))

    def get_secret_value(self) -> str:
        """While the file is being replaced, or is gone, what it held last."""
        with suppress(SettingsError):
            value = _secret_in(self._path, self._name)
            if value != self._secret_value:
                self._secret_value = value
                hide(_parts(self._name.removeprefix(PREFIX).removesuffix(FILE).lower(), self))
        return self._secret_value


def file_values(path: Path) -> dict[str, str]:
    """The `DROPFLOW_*` lines of a settings file; none when there is no such file.

    Raises SettingsError when it cannot be read.
    """
    try:
        # What `up` writes is meant as it is; in a file of somebody's own ${NAME} is another variable.
        values = dotenv_values(path, interpolate=path.name != STACK_FILE) if path.is_file() else {}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read the settings file {path}: {error}") from error
    return {name: value for name, value in values.items() if name.startswith(PREFIX) and value}


def _by_field(values: dict[str, str], origin: str) -> dict[str, str | FileSecret]:
    fields: dict[str, str | FileSecret] = {}
    for name, value in values.items():
        field = name.removeprefix(PREFIX).lower()
        if (secret := field.removesuffix(FILE.lower())) in SECRETS and secret != field:
            # The secret itself goes before: `dropflow up` hands it on to what it starts.
            if name.removesuffix(FILE) not in values:
                fields[secret] = FileSecret(Path(value), name)
            continue
        if field not in FIELDS:
            near = difflib.get_close_matches(field, FIELDS, n=1)
            hint = f"; did you mean {PREFIX}{near[0].upper()}?" if near else ""
            raise SettingsError(f"{name} ({origin}) is no setting of Dropflow{hint}")
        fields[field] = value
    return fields


def _secret_in(path: Path, name: str) -> str:
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        # Not the error's own text, which could hold a secret that was given for a path.
        raise SettingsError(f"{name}: cannot read the file it names: {type(error).__name__}") from None
    if not secret:
        raise SettingsError(f"{name}: the file it names is empty")
    return secret


def explain(error: ValidationError) -> str:
    """What is wrong with which variables, never their values."""
    lines = []
    for problem in error.errors(include_input=False, include_url=False):
        name = PREFIX + ".".join(str(part) for part in problem["loc"]).upper()
        lines.append(f"{name}: {problem['msg'].removeprefix('Value error, ')}")
    return "\n".join(lines)


def _parts(name: str, secret: SecretStr) -> Iterator[str]:
    """The secret, and of addresses their passwords and tokens: libraries show them apart, and unquoted."""
    if name == "s3_access_key" and len(secret) < LONG_WORD:
        return  # a user's name, perhaps an ordinary word
    yield secret.get_secret_value()
    for address in secret.get_secret_value().split():
        yield address
        with suppress(ValueError):
            password = urlsplit(address).password or ""
            yield from (password, unquote(password))
        words = (word for word in re.split(r"[^\w.~%-]+", address) if len(word) >= LONG_WORD)
        yield from (form for word in words if "." not in word for form in (word, unquote(word)))


def load_settings(data_dir: Path | None = None, **overrides: Any) -> Settings:
    """Read the settings; `data_dir` and `overrides` win over every file and variable.

    Raises SettingsError, which names the variable and what was expected, never its value.
    """
    environment = _by_field(
        {name: value for name, value in os.environ.items() if name.startswith(PREFIX) and value},
        "environment",
    )
    env_file = Path(str(overrides.get("env_file") or environment.get("env_file", FIELDS["env_file"].default)))
    from_file = _by_field(file_values(env_file), str(env_file))
    chosen: dict[str, Any] = {**from_file, **environment, **overrides}
    if data_dir is not None:
        chosen["data_dir"] = data_dir
    stack_file = Path(chosen.get("data_dir", FIELDS["data_dir"].default)) / STACK_FILE
    stack = _by_field(file_values(stack_file), str(stack_file))
    # Another store or server than the embedded one: neither its credentials nor its abilities fit.
    if _is_another("s3_endpoint", chosen, stack):
        stack = _without(stack, "s3_", "listen_stream")
    if _is_another("prefect_api_url", chosen, stack):
        stack = _without(stack, "prefect_")
    try:
        settings = Settings(**{**stack, **chosen})
    except ValidationError as error:
        raise SettingsError(explain(error)) from error
    # Checked as the others are, but not copied: these follow their files.
    from_files = {name: value for name, value in chosen.items() if isinstance(value, FileSecret)}
    hide(part for name in SECRETS if (secret := getattr(settings, name)) for part in _parts(name, secret))
    return settings.model_copy(update={**from_files, "data_dir": settings.data_dir.expanduser().absolute()})


def _is_another(name: str, chosen: dict[str, Any], stack: dict[str, Any]) -> bool:
    """Whether an address is chosen that is not the one of the running stack."""
    return name in chosen and str(chosen[name]).rstrip("/") != stack.get(name)


def _without(values: dict[str, Any], *prefixes: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if not name.startswith(prefixes)}


StoreKind = Literal["seaweedfs", "minio"]
