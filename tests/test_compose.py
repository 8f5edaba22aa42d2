"""docker-compose.yaml: it is valid, keeps its secrets, and what it declares does the main job, natively."""

import json
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import pytest
from botocore.exceptions import ClientError
from composing import FILE, Composed, config, interpolate, load
from conftest import wait_until
from jsonschema.validators import validator_for

from dropflow.cli import app
from dropflow.declarations import load_datasets
from dropflow.first_run import ELSEWHERE, NEEDED_BY, PROFILES
from dropflow.receipts import read_receipt
from dropflow.samples import churn_csv
from dropflow.settings import FIELDS, PROJECT, Settings
from dropflow.storage import connect

SERVICES: dict[str, Any] = load()["services"]
FILES = 12


def first_run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dropflow.first_run", "--env-file", str(folder / ".env"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, check=False)


def variables_of(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    assert first_run(tmp_path).returncode == 0
    return variables_of(tmp_path / ".env")


def test_it_keeps_to_the_specification(variables: dict[str, str]) -> None:
    schema = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    specification = json.loads(schema.read_text())
    validator = validator_for(specification)(specification)
    for declared in (load(), interpolate(load(), variables)):
        assert [error.message for error in validator.iter_errors(declared)] == []


def test_every_service_is_bounded_checked_and_started_again() -> None:
    for name, service in SERVICES.items():
        assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}, name
        assert service["restart"] in ("no", "unless-stopped"), name
        is_job = service["restart"] == "no"
        assert is_job or "healthcheck" in service, name
        assert set(service["profiles"]) <= {*PROFILES, "mail"}, name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert "build" in service or re.search(r":[\w.-]+@sha256:[0-9a-f]{64}$", service["image"]), name
        for port in service.get("ports", []):
            assert port.startswith(("${BIND:-127.0.0.1}:", "127.0.0.1:")), port
        for needed in service.get("depends_on", {}).items():
            is_elsewhere = SERVICES[needed[0]]["profiles"] != service["profiles"]
            assert needed[1].get("required", True) is not is_elsewhere, (name, needed)


def test_no_secret_has_a_default_and_each_goes_only_where_it_is_used() -> None:
    used: dict[str, set[str]] = {}
    for service in SERVICES.values():
        for name in re.findall(r"\$\{(\w+):\?", json.dumps(service)):
            used.setdefault(name, set()).update(service["profiles"])
    assert used == NEEDED_BY
    with_root = [name for name, service in SERVICES.items() if "MINIO_ROOT" in json.dumps(service)]
    assert with_root == ["silo", "buckets"]
    assert not re.search(r"\$\{\w*(PASSWORD|SECRET|TOKEN|AUTH)\w*(:-|\})", FILE.read_text())


def test_no_secret_is_an_argument_of_what_is_declared() -> None:
    for name, service in SERVICES.items():
        told = [service.get(one, "") for one in ("entrypoint", "command")]
        told += [service.get("healthcheck", {}).get("test", "")]
        assert not [one for one in NEEDED_BY if f"${{{one}" in json.dumps(told)], name


@dataclass
class Recorder:
    """Programs that do nothing but note what they are called with."""

    folder: Path

    def run(self, command: list[str], programs: list[str], environment: dict[str, str]) -> None:
        for name in programs:
            path = self.folder / name
            told = """printf '%s\\n' "$0 $*" >> {0}/arguments; [ -t 0 ] || cat >> {0}/inputs"""
            path.write_text("#!/bin/sh\n" + told.format(self.folder) + "\n")
            path.chmod(0o755)
        (self.folder / "inputs").touch()
        path = f"{self.folder}:/usr/bin:/bin"
        done = subprocess.run(
            command,
            env={**environment, "PATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def read(self, name: str) -> str:
        return (self.folder / name).read_text()


def declared(name: str, variables: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """Command and environment of a service, as its container has them."""
    service = interpolate(SERVICES[name], variables)
    return [*service["entrypoint"], *service["command"]], service["environment"]


@pytest.mark.parametrize(
    ("name", "program", "told"),
    [
        ("buckets", "mc", ["LISTENER_S3_SECRET_KEY", "WORKER_S3_SECRET_KEY"]),
        ("redis", "docker-entrypoint.sh", ["REDIS_PASSWORD"]),
        ("postgres", "psql", []),
    ],
)
def test_a_script_gives_its_secrets_by_input_or_environment(
    name: str, program: str, told: list[str], tmp_path: Path, variables: dict[str, str]
) -> None:
    if name == "postgres":
        command, environment = ["/bin/bash", "-ec", config("databases")], SERVICES[name]["environment"]
        environment = interpolate(environment, variables)
    else:
        command, environment = declared(name, variables)
    recorder = Recorder(tmp_path)
    recorder.run(command, [program], environment)
    arguments = recorder.read("arguments")
    assert program in arguments
    names = ("MINIO_ROOT_USER", "LISTENER_S3_ACCESS_KEY", "WORKER_S3_ACCESS_KEY")
    secrets = {one: value for one, value in variables.items() if one in NEEDED_BY and one not in names}
    assert not [one for one, value in secrets.items() if value in arguments]
    assert [one for one, value in secrets.items() if value in recorder.read("inputs")] == told


def test_every_root_is_read_only_and_ours_write_where_the_image_does() -> None:
    for name, service in SERVICES.items():
        assert service["read_only"] is True, name
        # Compose refuses to start it otherwise.
        assert all("file" in load()["configs"][one["source"]] for one in service.get("configs", [])), name
        if "build" in service:
            writable = [*service.get("tmpfs", []), *service.get("volumes", [])]
            assert {one.partition(":")[0] for one in writable} == {"/tmp", "/var/lib/dropflow"}, name  # noqa: S108


def test_what_grows_with_the_data_is_not_held_in_memory() -> None:
    for name in ("listener-1", "listener-2", "worker"):
        assert "tmpfs" not in SERVICES[name], name


def test_who_need_not_talk_shares_no_network() -> None:
    networks = {name: set(service["networks"]) for name, service in SERVICES.items()}

    def neighbours(name: str) -> set[str]:
        return {one for one in networks if one != name and networks[one] & networks[name]}

    listeners = {"listener-1", "listener-2"}
    assert neighbours("redis") == {"prefect"}
    assert neighbours("postgres") == {"prefect", "migrate", *listeners}
    assert neighbours("silo") == {"buckets", "worker", *listeners}
    assert neighbours("buckets") == {"silo", "worker", *listeners}
    assert neighbours("mail") == {"prefect", *listeners}
    assert neighbours("worker") == {"silo", "buckets", "prefect", "apply", *listeners}
    internal = {name for name, one in load()["networks"].items() if one.get("internal")}
    assert internal == {"database", "redis", "mail"}
    for name, service in SERVICES.items():
        assert not service.get("ports") or networks[name] - internal, f"{name}: its port cannot be published"


def test_it_runs_what_the_program_has() -> None:
    for service in SERVICES.values():
        if "build" in service and "entrypoint" not in service:
            assert service["command"][0] in app
        for variable in service.get("environment", {}):
            name = variable.removeprefix("DROPFLOW_")
            assert name == variable or name.lower() in FIELDS, variable


def test_the_first_run_writes_secrets_that_only_the_owner_reads_and_keeps_them(tmp_path: Path) -> None:
    assert first_run(tmp_path).returncode == 0
    path = tmp_path / ".env"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_text()
    values = variables_of(path)
    assert values.pop("COMPOSE_PROFILES") == "minio,server,listener,worker"
    assert values.keys() == NEEDED_BY.keys()
    assert len(set(values.values())) == len(values)
    again = first_run(tmp_path)
    assert again.returncode == 1
    assert f"{path} is there already and was left as it is" in again.stderr
    assert path.read_text() == before
    (tmp_path / "other").mkdir()
    first_run(tmp_path / "other")
    assert not set(values.values()) & set(variables_of(tmp_path / "other" / ".env").values())


def test_a_first_run_that_cannot_write_all_of_it_leaves_nothing_behind(tmp_path: Path) -> None:
    """Else the next one would keep half a file."""
    path = tmp_path / ".env"
    written = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); first_run.main()"
    command = [sys.executable, "-c", f"from dropflow import first_run; {written}", "--env-file", str(path)]
    full = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, check=False)
    assert (full.returncode, full.stderr) == (1, f"Error: {path} cannot be written: File too large\n")
    assert not path.exists()
    (tmp_path / "file").touch()
    within = first_run(tmp_path / "file")
    assert within.stderr == f"Error: {tmp_path / 'file' / '.env'} cannot be made: Not a directory\n"


def test_another_machine_is_given_its_own_secrets_alone(tmp_path: Path) -> None:
    assert "run it without --only first" in first_run(tmp_path, "--only", "worker", "--at", "10.0.0.5").stderr
    first_run(tmp_path)
    assert first_run(tmp_path, "--only", "worker", "--at", "10.0.0.5").returncode == 0
    path = tmp_path / ".env.worker"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    values, all_values = variables_of(path), variables_of(tmp_path / ".env")
    own = {"WORKER_S3_ACCESS_KEY", "WORKER_S3_SECRET_KEY", "DROPFLOW_PREFECT_AUTH"}
    assert {name for name in NEEDED_BY if values[name] == all_values[name]} == own
    assert {values[name] for name in NEEDED_BY if name not in own} == {ELSEWHERE}
    assert values["COMPOSE_PROFILES"] == "worker"
    worker = interpolate(SERVICES["worker"], values)["environment"]
    assert worker["DROPFLOW_S3_ENDPOINT"] == "http://10.0.0.5:9000"
    assert worker["DROPFLOW_PREFECT_API_URL"] == "http://10.0.0.5:4200/api"
    assert "--only and --at go together" in first_run(tmp_path, "--only", "worker").stderr


@pytest.fixture
def composed(variables: dict[str, str]) -> Iterator[Composed]:
    """Everything up, with two workers, and a mailbox."""
    # Not below pytest's own folder: where tests run as root, PostgreSQL runs under another account.
    folder = Path(tempfile.mkdtemp(prefix="dropflow-compose-"))
    variables["DROPFLOW_SWEEP_SECONDS"] = "5"
    variables["DROPFLOW_NOTIFY_URLS"] = (
        "mailto://mail:1025?from=dropflow@example.com&to=you@example.com&format=text"
    )
    found = Composed(folder, variables, {*PROFILES, "mail"}, {"worker": 2})
    try:
        found.up()
        yield found
    finally:
        found.down()
    shutil.rmtree(folder)


def settings_of(composed: Composed, name: str) -> Settings:
    prefix = "DROPFLOW_"
    found = {key: text for key, text in composed.environment(name).items() if key.startswith(prefix)}
    return Settings.model_validate({key.removeprefix(prefix).lower(): text for key, text in found.items()})


def command_lines() -> Iterator[str]:
    """Of every process that whoever lists them sees."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            yield path.read_text(errors="replace")


def forbidden(call: Any, **arguments: Any) -> bool:
    try:
        call(**arguments)
    except ClientError as error:
        return bool(error.response["Error"]["Code"] == "AccessDenied")
    return False


@pytest.mark.stack
@pytest.mark.timeout(1000)
def test_what_is_declared_does_the_main_job_whoever_is_killed(composed: Composed) -> None:
    dataset = load_datasets(PROJECT / "datasets")["churn"]
    sender = composed.client("s3", *composed.root)
    reader = connect(settings_of(composed, "listener-1"))

    def drop(what: str) -> list[str]:
        keys = [f"churn/{what}-{number}.csv" for number in range(FILES)]
        for number, key in enumerate(keys):
            sender.put_object(Bucket="raw", Key=key, Body=churn_csv(rows=200, seed=number))
        return keys

    def wait_for_receipts(keys: list[str]) -> None:
        refs = [reader.stat("raw", key) for key in keys]
        receipts = wait_until(
            lambda: all(found := [read_receipt(reader, dataset, ref) for ref in refs]) and found,
            100,
            "receipts",
        )
        assert {receipt.fate for receipt in receipts} == {"processed"}

    def status() -> dict[str, Any]:
        done = composed.run("listener-1", ["dropflow", "status", "--json"])
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def all_accounted_for(number: int) -> None:
        def accounted() -> bool:
            found = status()
            return (found["seen"], found["processed"], found["unaccounted"]) == (number, number, 0)

        wait_until(accounted, 60, f"{number} objects processed and none unaccounted")

    for name in ("listener-1", "listener-2", "worker.1", "worker.2"):
        composed.wait_healthy(name)
    secrets = [composed.variables[one] for one in NEEDED_BY if "USER" not in one and "ACCESS" not in one]
    assert not [line for line in command_lines() if any(one in line for one in secrets)]
    wait_for_receipts(drop("first"))
    all_accounted_for(FILES)
    assert len(status()["listeners"]) == 2

    # listener-1 is the one that the store calls.
    keys = drop("second")
    composed.kill("listener-1")
    composed.kill("worker.1")
    wait_for_receipts([*keys, *drop("third")])
    all_accounted_for(3 * FILES)
    assert {name: one.restarts for name, one in composed.supervisor.processes.items() if one.restarts} == {
        "listener-1": 1,
        "worker.1": 1,
    }
    outputs = sender.list_objects_v2(Bucket="processed", Prefix="churn/")
    assert outputs["KeyCount"] == 3 * FILES

    # Prefect lets in who has the password, and its events went through Redis.
    api = settings_of(composed, "listener-1").prefect_api
    assert httpx.post(f"{api}/flow_runs/filter", json={}).status_code == 401
    user, _, password = composed.variables["DROPFLOW_PREFECT_AUTH"].partition(":")
    assert httpx.post(f"{api}/flow_runs/filter", json={}, auth=(user, password)).status_code == 200
    assert composed.redis.xlen("events") > 0
    mails = composed.folder / "logs" / "mail.log"
    wait_until(lambda: "Ready=3A_churn" in mails.read_text(), 30, "a mail: its subject as it is sent")

    # Nobody has more than is needed.
    raw = {"Bucket": "raw", "Key": "churn/first-0.csv"}
    listener, worker = reader.client, connect(settings_of(composed, "worker.1")).client
    for client in (listener, worker):
        assert forbidden(client.delete_object, **raw)
        assert forbidden(client.put_object, **raw, Body=b"")
    output = {"Bucket": "processed", "Key": outputs["Contents"][0]["Key"]}
    assert forbidden(listener.delete_object, **output)
    assert forbidden(listener.put_object, **output, Body=b"")
    doctor = composed.run("listener-2", ["dropflow", "doctor", "--json"])
    findings = {one["name"]: one["state"] for one in json.loads(doctor.stdout)}
    assert "failed" not in findings.values(), doctor.stdout
