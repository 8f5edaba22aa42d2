"""Secrets with everything real: store, Prefect server, worker, listener."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from conftest import Running, wait_until
from test_notifier import service

from dropflow.declarations import load_datasets
from dropflow.demo import Mailbox
from dropflow.embedded.stack import Stack
from dropflow.prefect_api import connect_prefect
from dropflow.samples import churn_csv
from dropflow.settings import SECRETS, load_settings
from dropflow.storage import connect

pytestmark = pytest.mark.stack


EVERYTHING = "import logging\nlogging.Logger.isEnabledFor = lambda self, level: True\n"
"""As `sitecustomize`: every logger of every library says all that it can."""
GIVEN = {
    "notify_urls": "json://user:{canary}@127.0.0.1:9/{canary}?+X-Token={canary} "
    "json://user:{canary}@127.0.0.1:{port}/{canary}?+X-Token={canary}",
    "ledger_url": "postgresql+psycopg://user:{canary}@127.0.0.1:9/ledger",
    "mlflow_tracking_uri": "http://user:{canary}@127.0.0.1:9",
}
"""Secrets that have a form. Nobody answers at port 9: a channel, the ledger and MLflow are broken."""
CANARIES = {name: f"canary{number:02}x7f3a9c5e1b" for number, name in enumerate(sorted(SECRETS))}
STORES_OWN = ("logs/store.log", "s3_access_key")
"""SeaweedFS says who its users are; the key is a name, and their secrets it keeps."""
PRIVATE = ("stack.env", ".env")
"""Files that are there to hold secrets, for their owner only."""


def planted(name: str, port: int = 9) -> str:
    return GIVEN.get(name, "user:{canary}").format(canary=CANARIES[name], port=port)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A stack of its own, with a canary for every secret, that logs everything."""
    # Not below pytest's own folder, which other accounts cannot enter: PostgreSQL is one of them.
    data_dir = Path(tempfile.mkdtemp(prefix="dropflow-canaries-"))
    site = tmp_path_factory.mktemp("site")
    (site / "sitecustomize.py").write_text(EVERYTHING)
    with pytest.MonkeyPatch.context() as environment, service() as channel:
        for name in [name for name in os.environ if name.startswith(("DROPFLOW_", "PREFECT_"))]:
            environment.delenv(name)
        environment.setenv("PYTHONPATH", str(site))
        secrets = {
            f"DROPFLOW_{name.upper()}": planted(name, channel.server_port)
            for name in SECRETS - {"ledger_url"}
        }
        text = "".join(f"{name}={value}\n" for name, value in secrets.items())
        (data_dir / ".env").write_text(f"{text}DROPFLOW_SWEEP_SECONDS=5\n")
        with Stack(load_settings(data_dir, env_file=data_dir / ".env")) as stack:
            settings = stack.settings
            dataset = load_datasets(settings.datasets_dir)["churn"]
            running = Running(stack, Mailbox(), dataset, connect(settings), connect_prefect(settings))
            applied = running.cli("apply", PYTHONPATH=str(site))
            assert applied.returncode == 0, applied.stderr
            stack.listen()
            yield running
    shutil.rmtree(data_dir)


def test_no_secret_is_in_any_log_event_answer_or_file(watched: Running, tmp_path: Path) -> None:
    said = provoke(watched, tmp_path)
    found = dict(found_in(said))
    found |= dict(found_in(dict(answers(watched))))
    found |= dict(found_in(dict(files(watched.settings.data_dir))))
    found |= dict(found_in({f"arguments {pid}": text for pid, text in arguments()}))
    assert "CanonicalRequest:" in (watched.settings.data_dir / "logs" / "worker.log").read_text(), (
        "all is told"
    )
    assert not found, "\n\n".join(f"{place}\n{around}" for place, around in found.items())


def provoke(watched: Running, folder: Path) -> dict[str, str]:
    """Use everything, well and wrongly; what commands have said."""
    settings = watched.settings
    good, bad = watched.put("churn/canaries.csv", churn_csv(20)), watched.put("churn/bad.csv", b"a,b\n1,2\n")
    base = f"http://127.0.0.1:{settings.webhook_port}"
    for token in ("wrong", planted("webhook_token")):
        headers = {"Authorization": f"Bearer {token}"}
        httpx.post(f"{base}/notifications", content=b"{}", headers=headers)
    for token in ("wrong", planted("page_token")):
        httpx.post(f"{base}/login", json={"token": token}, headers={"X-Dropflow": "1"})
    site = {"PYTHONPATH": os.environ["PYTHONPATH"]}
    said: dict[str, str] = {}
    (folder / "secret").write_text("another-secret")
    commands: list[tuple[str, dict[str, str]]] = [
        ("settings", {}),
        ("doctor", {}),
        ("status", {}),
        ("notify test", {}),
        ("doctor", {"DROPFLOW_S3_SECRET_KEY": "another-secret"}),
        ("status", {"DROPFLOW_LEDGER_URL": planted("ledger_url")}),
        ("settings", {"DROPFLOW_LEDGER_URL": planted("ledger_url")}),
        ("settings", {"DROPFLOW_NOTIFY_URLS_FILE": planted("notify_urls"), "DROPFLOW_ENV_FILE": "none"}),
        ("apply", {"DROPFLOW_NOTIFY_URLS": f"nothing://{CANARIES['notify_urls']}"}),
        ("apply", {"DROPFLOW_DATASETS_DIR": str(folder)}),
    ]
    for number, (command, more) in enumerate(commands):
        done = watched.cli(*command.split(), **site, **more)
        said[f"{number} {command}"] = done.stdout + done.stderr
    assert watched.outcome(good).fate == "processed"
    assert watched.outcome(bad).fate == "rejected"
    wait_until(lambda: "did not take" in log_of(watched, "listener"), what="the channel's failure")
    wait_until(lambda: '"POST /' in log_of(watched, "listener"), what="the other channel's success")
    return said


def test_pauses_and_changes_are_in_the_audit_log(watched: Running) -> None:
    for command in ("pause", "pause", "resume"):
        assert watched.cli(command, "churn").returncode == 0
    assert watched.cli("apply").returncode == 0, "nothing to change, and nothing to note"
    assert watched.cli("run", "preprocess/churn", "churn/no-such.csv").returncode == 0
    lines = (watched.settings.data_dir / "audit.log").read_text().splitlines()
    applied, *others = [json.loads(line) for line in lines]
    assert applied["what"] == "apply"
    assert "created deployment preprocess/churn" in applied["changes"]
    assert [(one["what"], one.get("dataset"), one.get("changed")) for one in others] == [
        ("pause", "churn", True),
        ("pause", "churn", False),
        ("resume", "churn", True),
        ("run", None, None),
    ]
    assert others[-1]["parameters"]["keys"] == ["churn/no-such.csv"]


def log_of(watched: Running, name: str) -> str:
    return (watched.settings.data_dir / "logs" / f"{name}.log").read_text(errors="replace")


def answers(watched: Running) -> Iterator[tuple[str, str]]:
    """What Prefect's API and the listener tell anybody who asks."""
    for kind in (
        "flow_runs",
        "task_runs",
        "deployments",
        "events",
        "logs",
        "block_documents",
        "automations",
        "artifacts",
        "variables",
    ):
        yield f"{kind} of Prefect", json.dumps(watched.api("POST", f"/{kind}/filter", json={}))
    yield (
        "workers",
        json.dumps(watched.api("POST", f"/work_pools/{watched.settings.work_pool}/workers/filter", json={})),
    )
    base = f"http://127.0.0.1:{watched.settings.webhook_port}"
    for path in ("/", "/metrics", "/readyz", "/setup", "/objects"):
        yield path, httpx.get(f"{base}{path}").text


def files(folder: Path) -> Iterator[tuple[str, str]]:
    """Everything on disk but the store's own folder, which is the store's business."""
    for path in folder.rglob("*"):
        if path.is_file() and path.name not in PRIVATE and "seaweedfs" not in path.relative_to(folder).parts:
            yield str(path.relative_to(folder)), path.read_bytes().decode("latin-1")


def arguments() -> Iterator[tuple[str, str]]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            yield path.parent.name, path.read_bytes().decode("latin-1")


def found_in(texts: dict[str, str]) -> Iterator[tuple[str, list[str]]]:
    """Where a canary sings, with what is around it."""
    for place, text in texts.items():
        for name, canary in CANARIES.items():
            if (at := text.find(canary)) >= 0 and (place, name) != STORES_OWN:
                yield f"{place}: {name}", [text[max(0, at - 300) : at + 60]]
