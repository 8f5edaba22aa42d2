"""The command line: help, exit codes, and messages for what can go wrong before anything runs."""

import errno
import json
import os
import socket
import subprocess
import sys
from http.server import ThreadingHTTPServer
from pathlib import Path

import command_line
import pytest
from conftest import store_environment
from fake_prefect import fake_prefect
from serving import QuietHandler, serving

from dropflow import cli
from dropflow.datasets import Dataset
from dropflow.drops import Drop, Outcome
from dropflow.errors import PermanentError, explained, naming
from dropflow.objects import ObjectRef
from dropflow.quality import StepDone
from dropflow.receipts import Receipt
from dropflow.settings import PROJECT, Settings
from dropflow.storage import ObjectStore
from flows.models import ModelCard
from flows.preprocessors import PreprocessorCard

DROPFLOW = str(Path(sys.executable).with_name("dropflow"))
COMMANDS = [
    "up",
    "drop",
    "status",
    "apply",
    "pause",
    "resume",
    "check",
    "listen",
    "worker",
    "demo",
    "report",
    "settings",
    "backup",
    "restore",
]


def run(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(cwd),
        "LANG": "C.UTF-8",
        "COLUMNS": "100",
        **variables,
    }
    return command_line.run(list(arguments), cwd, environment)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_that_teaches(tmp_path: Path, command: str) -> None:
    done = run(command, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert f"dropflow {command}" in done.stdout
    assert "--data-dir" in done.stdout
    assert "Exit codes" in done.stdout


def test_the_first_help_of_the_installed_program_names_every_command(tmp_path: Path) -> None:
    done = subprocess.run([DROPFLOW, "--help"], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert all(command in done.stdout for command in COMMANDS)


def test_check_says_that_the_datasets_are_valid(tmp_path: Path) -> None:
    done = run("check", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == (
        "ok churn: raw/churn/**/*.csv -> processed (drop, impute, encode, scale)"
    )
    names = ["churn", "churn_model", "iris", "taxi"]
    assert json.loads(run("check", "--json", cwd=tmp_path).stdout) == {"valid": True, "datasets": names}


def test_a_new_dataset_is_proposed_from_a_file_and_valid(tmp_path: Path) -> None:
    (tmp_path / "Quarterly Sales.csv").write_text("region,amount,sold\nnorth,1.5,yes\nsouth,2,no\n" * 20)
    datasets = tmp_path / "datasets"
    datasets.mkdir()
    done = run("new-dataset", "Quarterly Sales.csv", cwd=tmp_path, DROPFLOW_DATASETS_DIR=str(datasets))
    assert done.returncode == 0, done.stderr
    assert "dropflow check && dropflow apply" in done.stdout
    checked = run("check", "--json", cwd=tmp_path, DROPFLOW_DATASETS_DIR=str(datasets))
    assert json.loads(checked.stdout)["valid"] is True
    again = run("new-dataset", "Quarterly Sales.csv", cwd=tmp_path, DROPFLOW_DATASETS_DIR=str(datasets))
    assert again.returncode == 2
    assert "is there already" in again.stderr
    shown = run("new-dataset", "Quarterly Sales.csv", "--print", cwd=tmp_path)
    assert shown.stdout.startswith("# Proposed by")


def test_check_exits_with_1_and_the_line_of_a_mistake(tmp_path: Path) -> None:
    text = (PROJECT / "datasets" / "churn.yaml").read_text().replace("Age: median", "Age: medium")
    (tmp_path / "churn.yaml").write_text(text)
    done = run("check", cwd=tmp_path, DROPFLOW_DATASETS_DIR=str(tmp_path))
    assert done.returncode == 1
    assert "did you mean 'median'?" in done.stderr
    assert not json.loads(run("check", "--json", cwd=tmp_path, DROPFLOW_DATASETS_DIR=str(tmp_path)).stdout)[
        "valid"
    ]


FAILURES = [
    (["status"], {}, 2, "no ledger in"),
    (["drop", "x.csv", "-d", "churn"], {}, 2, "there is no file x.csv"),
    (["drop", "x.csv", "-d", "chrun"], {}, 2, "there is no dataset 'chrun'; did you mean 'churn'?"),
    (["drop", "here.png", "-d", "churn"], {}, 2, "it would not belong to the dataset 'churn'"),
    (["drop", "here.csv", "-d", "churn", "--key", "churn/a//b.csv"], {}, 2, "an empty, . or .. part"),
    (["drop", "here.csv", "-d", "churn", "--key", "churn/a\\b.csv"], {}, 2, "has a backslash"),
    (["drop", "here.csv", "here.png", "-d", "churn", "--key", "k"], {}, 2, "--key goes with a single file"),
    (["drop", "here.csv", "-d", "churn"], {}, 2, "no object store: start one with `dropflow up`"),
    (["drop", "here.csv", "there/here.csv", "-d", "churn"], {}, 2, "would overwrite each other"),
    (["demo"], {"DROPFLOW_S3_ENDPOINT": "http://127.0.0.1:9"}, 2, "its own store and server only"),
    (["apply"], {"DROPFLOW_PREFECT_API_URL": "http://127.0.0.1:9/api"}, 3, "Is the stack running?"),
    (["apply", "--diff"], {}, 2, "no Prefect API: start one with `dropflow up`"),
    (["pause", "chrun"], {}, 2, "there is no dataset 'chrun'; did you mean 'churn'?"),
    (["resume", "chrun"], {}, 2, "there is no dataset 'chrun'; did you mean 'churn'?"),
    (["pause", "churn"], {}, 2, "no Prefect API: start one with `dropflow up`"),
    (["apply"], {}, 2, "no Prefect API: start one with `dropflow up`"),
    (["listen"], {}, 2, "no object store"),
    (["check"], {"DROPFLOW_SWEEP_SECS": "1"}, 2, "did you mean DROPFLOW_SWEEP_SECONDS?"),
    (["up", "--data-dir", "here.csv/data"], {}, 2, "here.csv/data: Not a directory: check the path"),
    (["demo", "--data-dir", "here.csv/data"], {}, 2, "here.csv/data: Not a directory: check the path"),
    (["new-dataset", "sample.csv", "-o", "here.csv/x.yaml"], {}, 2, "here.csv: File exists: check the path"),
]


@pytest.mark.parametrize(("arguments", "variables", "code", "told"), FAILURES)
def test_what_is_wrong_is_told_with_an_exit_code(
    tmp_path: Path, arguments: list[str], variables: dict[str, str], code: int, told: str
) -> None:
    (tmp_path / "here.csv").write_text("x")
    (tmp_path / "here.png").write_text("x")
    (tmp_path / "sample.csv").write_text("a,b\n1,2\n")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "here.csv").write_text("x")
    done = run(*arguments, cwd=tmp_path, **variables)
    assert done.returncode == code, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_told_with_what_to_do(tmp_path: Path, moto_endpoint: str) -> None:
    with fake_prefect() as prefect, socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run(
            "listen",
            cwd=tmp_path,
            **store_environment(moto_endpoint),
            DROPFLOW_PREFECT_API_URL=prefect.url,
            DROPFLOW_LISTEN_STREAM="false",
            DROPFLOW_WEBHOOK_PORT=str(port),
            DROPFLOW_WEBHOOK_TOKEN="a-token-for-the-tests",
        )
    assert done.returncode == 2, done.stderr
    assert f"Error: DROPFLOW_WEBHOOK_PORT: 127.0.0.1 port {port}: " in done.stderr
    assert "address already in use: stop what listens there, or choose another port" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is always full")
def test_a_full_disk_is_told_with_the_file_and_what_to_do() -> None:
    full = Path("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught, naming(full):
        full.write_text("x")
    assert explained(caught.value) == (
        "/dev/full: No space left on device: make room on its disk, or choose another place"
    )


def test_a_file_without_permission_is_told_with_what_to_do() -> None:
    error = PermissionError(errno.EACCES, "Permission denied", "/data/x.html")
    assert explained(error) == (
        "/data/x.html: Permission denied: let the user who runs this read and write it, or choose another place"
    )


def test_a_store_that_cannot_be_reached_exits_with_3(tmp_path: Path) -> None:
    (tmp_path / "here.csv").write_text("x")
    done = run(
        "drop",
        "here.csv",
        "-d",
        "churn",
        cwd=tmp_path,
        DROPFLOW_S3_ENDPOINT="http://127.0.0.1:9",
        DROPFLOW_S3_ACCESS_KEY="key",
        DROPFLOW_S3_SECRET_KEY="hush-hush",
    )
    assert done.returncode == 3
    assert "Is the stack running?" in done.stderr
    assert "hush" not in done.stderr


@pytest.mark.parametrize(
    ("status", "code", "told"),
    [
        (500, 3, "Prefect API answered 500 to GET /api/"),
        (401, 2, "DROPFLOW_PREFECT_AUTH"),
        (418, 2, "Prefect API answered 418 to GET /api/"),
    ],
)
def test_a_prefect_server_that_refuses_is_told_by_apply_and_doctor(
    tmp_path: Path, status: int, code: int, told: str
) -> None:
    class Refusing(QuietHandler):
        def do_GET(self) -> None:
            # As a server does that has lost its database: these need none.
            self.send_response(200 if self.path.endswith(("/version", "/health")) else status)
            self.send_header("Content-Length", "8")
            self.end_headers()
            self.wfile.write(b'"3.8.8"\n')

        do_POST = do_GET

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Refusing)) as server:
        api = f"http://127.0.0.1:{server.server_port}/api"
        done = run("apply", cwd=tmp_path, DROPFLOW_PREFECT_API_URL=api)
        looked = run("doctor", "--json", cwd=tmp_path, DROPFLOW_PREFECT_API_URL=api)
    assert done.returncode == code, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    findings = {one["name"]: one for one in json.loads(looked.stdout)}
    assert findings["deployments and automations"]["state"] == "failed"
    assert told in findings["deployments and automations"]["found"]


ESCAPES = "\x1b]0;owned\x07\x9b31m[bold]"
"""Sets a terminal's title and colour, were it printed as it is; and rich's markup."""


def _is_plain(text: str) -> bool:
    return all(one.isprintable() or one == "\n" for one in text)


def test_forged_cards_write_no_control_sequences_into_a_terminal(
    store: ObjectStore, moto_endpoint: str, churn: Dataset, tmp_path: Path
) -> None:
    fitted = PreprocessorCard(
        name="churn",
        version=1,
        recipe=ESCAPES,
        dataset=churn,
        sklearn=ESCAPES,
        bucket="raw",
        key=f"churn/{ESCAPES}.csv",
        etag=ESCAPES,
        rows=1,
        run_id=ESCAPES,
        content_key=f"_preprocessors/churn/{'0' * 64}.skops",
        sha256="0" * 64,
    )
    model = ModelCard(
        dataset="churn",
        version=1,
        task="classification",
        model="random_forest",
        estimator=ESCAPES,
        seed=1,
        target=ESCAPES,
        features=(ESCAPES,),
        better_by="f1",
        metrics={"f1": 1.0, ESCAPES: 0.5},
        rows_train=1,
        rows_test=1,
    )
    other = fitted.model_copy(update={"name": ESCAPES})
    for key, card in (
        ("_preprocessors/churn/v0001.json", fitted),
        ("_preprocessors/churn/v0002.json", other),
        ("_models/churn/v0001/model.json", model),
        ("_models/churn/v0002/model.json", model.model_copy(update={"dataset": ESCAPES})),
    ):
        store.put("processed", key, card.model_dump_json().encode(), "application/json")
    for command, skipped, said in (
        ("preprocessors", "v0002.json", ESCAPES),
        ("models", "v0002/model.json", ESCAPES),
    ):
        shown = run(command, "churn", cwd=tmp_path, **store_environment(moto_endpoint))
        as_json = run(command, "churn", "--json", cwd=tmp_path, **store_environment(moto_endpoint))
        assert (shown.returncode, as_json.returncode) == (0, 0), shown.stderr + as_json.stderr
        assert _is_plain(shown.stdout + shown.stderr + as_json.stdout + as_json.stderr)
        assert "]0;owned" in shown.stdout
        assert skipped in shown.stderr
        (one,) = json.loads(as_json.stdout)
        assert said in (one.get("sklearn"), one.get("target")), "a script gets it as it is"


def test_a_forged_receipt_writes_no_control_sequences_into_a_terminal(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    receipt = Receipt(
        dataset="churn",
        bucket="raw",
        key="churn/a.csv",
        etag="e",
        fingerprint="f",
        fate="processed",
        output_bucket="processed",
        output_key=f"churn/{ESCAPES}.parquet",
        warnings=(ESCAPES,),
        steps=(StepDone(name=ESCAPES, detail=ESCAPES, seconds=1),),
        flow_run_id=ESCAPES,
    )
    dropped = Drop(Path("a.csv"), ObjectRef("raw", "churn/a.csv"), None, receipt.written_at)
    cli._print_outcome(settings, Outcome(dropped, receipt.fate, ESCAPES, 1.0, receipt, receipt.flow_run_id))
    printed = capsys.readouterr().out
    assert printed.count("]0;owned") == 6
    assert printed.count("[bold]") == 6
    assert _is_plain(printed)


def test_an_error_writes_no_control_sequences_into_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(**_: object) -> None:
        raise PermanentError(f"{ESCAPES}\nand a second line")

    monkeypatch.setattr(cli, "app", refuse)
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit):
        cli.main()
    printed = capsys.readouterr().err
    assert printed.splitlines() == ["Error: %1B]0;owned%07%C2%9B31m[bold]", "and a second line"]
