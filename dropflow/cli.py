"""The `dropflow` command. Commands parse, call and print; the work is done elsewhere."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import cyclopts
import httpx
import yaml
from cyclopts import Parameter
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table

from dropflow import __version__, audit_log
from dropflow.changes import Difference
from dropflow.declarations import load_datasets
from dropflow.errors import (
    DropflowError,
    PermanentError,
    SettingsError,
    TransientError,
    explained,
    naming,
)
from dropflow.logs import log_to_stderr
from dropflow.objects import ObjectRef, printable
from dropflow.prefect_api import connect_prefect
from dropflow.settings import Settings, StoreKind, load_settings
from dropflow.tls import unreachable

if TYPE_CHECKING:
    from dropflow import drops
    from dropflow.embedded.stack import Stack
    from dropflow.ledger import Ledger
    from dropflow.storage import ObjectStore

MOST_LISTED = 20
OK, BAD_OUTCOME, WRONG_USE, UNREACHABLE, TIMED_OUT = 0, 1, 2, 3, 4

EPILOGUE = """\
Exit codes: 0 done; 1 a bad outcome (rejected, failed, invalid); 2 wrong usage or settings,
or a file or port that cannot be used; 3 the store or Prefect cannot be reached; 4 no outcome in time.

Settings: DROPFLOW_* variables or a .env file, for example DROPFLOW_S3_ENDPOINT,
DROPFLOW_PREFECT_API_URL, DROPFLOW_NOTIFY_URLS; `dropflow settings` lists them all."""

app = cyclopts.App(
    name="dropflow",
    help="Drop a raw file into a bucket; get clean, model-ready data and a message, or a reason.",
    help_epilogue=EPILOGUE,
    help_format="plaintext",
    version=__version__,
    version_flags=["--version"],
)
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

DataDir = Annotated[
    Path | None,
    Parameter(help="Where `up` keeps everything and others find it (DROPFLOW_DATA_DIR) [.dropflow]."),
]
AsJson = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON for a script.")]


def main() -> NoReturn:
    """Run the command line; an error becomes one readable message and an exit code."""
    # A SIGTERM unwinds like Ctrl-C, so that whatever was started is stopped.
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = app(result_action="return_value")
    except KeyboardInterrupt:
        code = 130
    except (DropflowError, httpx.TransportError) as caught:
        error = unreachable("Prefect API", caught) if isinstance(caught, httpx.TransportError) else caught
        code = UNREACHABLE if isinstance(error, TransientError) else WRONG_USE
        text = "\n".join(_plain(line) for line in str(error).splitlines())
        err.print(f"[red]Error:[/] {text}", soft_wrap=True)
        if code == UNREACHABLE:
            err.print("Is the stack running? `dropflow up` starts one.")
    except OSError as error:
        code = WRONG_USE
        err.print(f"[red]Error:[/] {_plain(explained(error))}", soft_wrap=True)
    sys.exit(code or OK)


def _terminate(number: int, _frame: object) -> NoReturn:
    sys.exit(128 + number)


@app.command
def up(
    *,
    data_dir: DataDir = None,
    store: Annotated[
        StoreKind, Parameter(help="Embedded store: seaweedfs, or a minio/silo executable on PATH.")
    ] = "seaweedfs",
    s3_port: int | None = None,
    prefect_port: int | None = None,
    webhook_port: int | None = None,
) -> int:
    """Run the whole pipeline on this machine until Ctrl-C: store, Prefect, worker, listener.

    Nothing needs to be installed besides; everything listens on 127.0.0.1 only. With
    DROPFLOW_S3_ENDPOINT or DROPFLOW_PREFECT_API_URL set, that store or server is used instead.

    Parameters
    ----------
    s3_port
        Port of the store [free].
    prefect_port
        Port of the Prefect server and its UI [free].
    webhook_port
        Port of the listener's webhook [free].
    """
    from dropflow.embedded.stack import Ports, Stack

    chosen = load_settings(data_dir)
    log_to_stderr(as_json=chosen.log_format == "json")
    ports = Ports(s3_port, prefect_port, webhook_port)
    with Stack(chosen, store=store, ports=ports, report=_say) as stack:
        _apply(stack.settings, show=False)
        stack.listen()
        _where(stack)
        out.print("Drop a file: [bold]dropflow drop FILE --dataset NAME[/]. Ctrl-C stops everything.")
        try:
            threading.Event().wait()
        finally:
            out.print("Stopping.")
    return OK


@app.command
def drop(
    files: Annotated[list[Path], Parameter(help="Files to upload.")],
    /,
    *,
    dataset: Annotated[str, Parameter(name=["--dataset", "-d"], help="The dataset they belong to.")],
    key: Annotated[str | None, Parameter(help="Object key of a single file [folder/FILE].")] = None,
    wait: Annotated[bool, Parameter(negative="--no-wait", help="Wait for the outcome.")] = True,
    timeout: Annotated[float, Parameter(help="Seconds to wait for each file.")] = 300,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> int:
    """Upload files into a dataset's folder and wait for what becomes of each.

    Exits with 0 when all were processed, 1 when one was rejected or failed, 4 when time ran out.
    """
    from dropflow import drops

    settings = load_settings(data_dir)
    chosen = load_datasets(settings.datasets_dir)[dataset]
    if key and len(files) > 1:
        raise SettingsError("--key goes with a single file")
    for path in files:
        if not path.is_file():
            raise SettingsError(f"there is no file {path}")
    targets = [(path, drops.target_key(chosen, path, key)) for path in files]
    if len({target for _, target in targets}) < len(targets):
        raise SettingsError("several of these files have the same name and would overwrite each other")
    store = _store(settings)
    with _uploading() as progress:
        dropped = []
        for path, target in targets:
            name = _plain(path.name, 40)
            task = progress.add_task(f"Uploading {name}", total=path.stat().st_size)
            dropped.append(drops.upload(store, chosen, path, target, _advance(progress, task)))
        if not wait:
            return _print_dropped(dropped, as_json)
        prefect = connect_prefect(settings)
        outcomes = []
        for one in dropped:
            name = _plain(one.path.name, 40)
            task = progress.add_task(f"Waiting for the receipt of {name}", total=None)
            outcomes.append(drops.wait(store, prefect, chosen, one, timeout))
            progress.remove_task(task)
    return _print_outcomes(settings, outcomes, as_json)


@app.command
def status(
    *,
    watch: Annotated[bool, Parameter(negative="", help="Keep showing it until Ctrl-C.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> int:
    """Show where every object stands, by dataset, and whether the listener hears of new ones.

    unaccounted: objects that the last sweep saw in the bucket and that have no recorded fate.
    """
    from dropflow.status import read_status, render

    with _ledger(load_settings(data_dir)) as ledger:
        if as_json:
            _print_json(read_status(ledger).to_json())
        elif watch:
            with Live(render(read_status(ledger)), console=out, auto_refresh=False) as live:
                while True:
                    time.sleep(1)
                    live.update(render(read_status(ledger)), refresh=True)
        else:
            out.print(render(read_status(ledger)), soft_wrap=True)
    return OK


@app.command
def explain(object: str, /, *, data_dir: DataDir = None, as_json: AsJson = False) -> int:  # noqa: A002
    """Tell the whole story of one object, with times, and what happens next.

    Parameters
    ----------
    object
        s3://bucket/key, bucket/key, or just the key.
    """
    from dropflow import explain as explaining

    settings = load_settings(data_dir)
    datasets = load_datasets(settings.datasets_dir, settings.raw_prefixes)
    prefect = connect_prefect(settings) if settings.prefect_api_url else None
    place = explaining.locate(object, datasets)
    with _ledger(settings) as ledger:
        story = explaining.explain(settings, datasets, _store(settings), ledger, prefect, place)
    if as_json:
        _print_json(story.to_json())
        return OK
    out.print(f"[bold]{_plain(story.object, 1100)}[/]  {story.fate}", soft_wrap=True)
    for at, what in story.lines:
        out.print(f"  [dim]{at:%Y-%m-%d %H:%M:%S}[/] {_plain(what)}", soft_wrap=True)
    for line in story.now:
        out.print(f"  [dim]now[/] {_plain(line)}", soft_wrap=True)
    out.print(f"  [dim]next[/] {_plain(story.next)}", soft_wrap=True)
    return OK


@app.command
def report(
    object: str,  # noqa: A002
    /,
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    data_dir: DataDir = None,
) -> int:
    """Write the quality report of a prepared object as a page.

    Parameters
    ----------
    object
        s3://bucket/key, bucket/key, or just the key.
    output
        Where to write it; by default <name>.html here. An earlier one is replaced.
    """
    from dropflow.explain import locate
    from dropflow.report import report_of

    settings = load_settings(data_dir)
    datasets = load_datasets(settings.datasets_dir, settings.raw_prefixes)
    ref = ObjectRef(*locate(object, datasets))
    dataset, why_none = datasets.find(ref.bucket, ref.key)
    if dataset is None:
        raise SettingsError(f"{printable(ref.url, 400)}: {why_none}")
    page = report_of(_store(settings), dataset, ref)
    path = output or Path(f"{printable(ref.name, 200)}.html")
    with naming(path):
        path.write_bytes(page)
    out.print(f"[green]wrote[/] {escape(str(path))}: open it in a browser", soft_wrap=True)
    return OK


@app.command
def replay(
    *objects: str,
    dataset: Annotated[str | None, Parameter(name=["--dataset", "-d"])] = None,
    failed: Annotated[bool, Parameter(negative="")] = False,
    rejected: Annotated[bool, Parameter(negative="")] = False,
    quarantined: Annotated[bool, Parameter(negative="")] = False,
    since: datetime | None = None,
    until: datetime | None = None,
    force: Annotated[bool, Parameter(negative="")] = False,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> int:
    """Deliver objects again. What has a receipt under the present recipe is not prepared twice.

    Parameters
    ----------
    objects
        Keys, s3://bucket/key, or globs of either (quoted: "churn/2026-*/**").
    dataset
        Only objects of this dataset.
    failed
        Only those that failed.
    rejected
        Only those that were rejected.
    quarantined
        Only those of which rows were set aside: after the dataset has been mended.
    since
        Only those first seen at this time or later, in UTC (2026-11-21 or 2026-11-21T08:00).
    until
        Only those first seen before this time, in UTC.
    force
        Prepare again and replace output and receipt, although nothing has changed.
    dry_run
        Show what would be replayed, and do nothing.
    """
    from dropflow import replay as replaying
    from dropflow.ledger import Fate

    settings = load_settings(data_dir)
    datasets = load_datasets(settings.datasets_dir, settings.raw_prefixes)
    fates = [fate for fate, chosen in ((Fate.FAILED, failed), (Fate.REJECTED, rejected)) if chosen]
    with _ledger(settings) as ledger:
        chosen = list(
            replaying.choose(
                ledger,
                datasets,
                objects,
                dataset=dataset,
                fates=fates,
                quarantined=quarantined,
                since=_in_utc(since),
                until=_in_utc(until),
            )
        )
        if not dry_run:
            replaying.replay(ledger, chosen, force=force)
            urls = [entry.ref.url for entry in chosen]
            audit_log.record(settings, "replay", force=force, **audit_log.objects(urls))
    if as_json:
        _print_json({"replayed": not dry_run, "objects": [entry.ref.url for entry in chosen]})
        return OK
    for entry in chosen[:MOST_LISTED]:
        out.print(f"{entry.fate:9} {_plain(entry.ref.url, 400)}", soft_wrap=True)
    if len(chosen) > MOST_LISTED:
        out.print(f"… and {len(chosen) - MOST_LISTED:,} more")
    what = "would be replayed" if dry_run else "will be delivered by the listener: `dropflow status --watch`"
    out.print(f"{len(chosen):,} objects {what}" if chosen else "No object is like that.")
    return OK


@app.command
def run(
    deployment: str,
    /,
    *keys: str,
    params: Path | None = None,
    data_dir: DataDir = None,
) -> int:
    """Run a deployment by hand, as *Custom run* in the Prefect UI does.

    Parameters
    ----------
    deployment
        preprocess/<dataset> or train/<dataset>.
    keys
        Raw object keys; none: all without a receipt, or to train on, the latest.
    params
        A JSON file with more parameters: {"test_size": 0.2, "numeric_imputation": "mean"}.
    """
    settings = load_settings(data_dir)
    parameters = _read_json(params) if params else {}
    if keys:
        parameters["keys"] = list(keys)
    run_id = connect_prefect(settings).create_run(deployment, parameters)
    named = {**parameters, "keys": keys[: audit_log.MOST_NAMED]}
    audit_log.record(settings, "run", deployment=deployment, run_id=run_id, parameters=named)
    out.print(f"{deployment} runs: {settings.run_url(run_id)}", soft_wrap=True)
    return OK


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}: {error}") from error
    if not isinstance(found, dict):
        raise SettingsError(f"{path}: expected a JSON object of parameters")
    return found


@app.command
def audit(*, data_dir: DataDir = None, as_json: AsJson = False) -> int:
    """Prove that nothing is lost: list the buckets now and compare them with receipts and ledger.

    Exits with 1 when an object has neither receipt nor fate, when what is called processed has no
    output (not made), or an output has no receipt (orphans).
    """
    from dropflow.audit import audit as audit_all

    settings = load_settings(data_dir)
    datasets = load_datasets(settings.datasets_dir, settings.raw_prefixes)
    with _ledger(settings) as ledger, _counting() as progress:
        task = progress.add_task("Comparing", total=None)
        done = audit_all(
            _store(settings), datasets, ledger, settings.orphan_seconds, lambda n: progress.advance(task, n)
        )
    if as_json:
        _print_json(asdict(done))
        return OK if done.clean else BAD_OUTCOME
    fates = "".join(f", {number:,} {fate}" for fate, number in sorted(done.by_ledger.items()))
    out.print(f"objects      {done.objects:,}: {done.with_receipt:,} with a receipt{fates}")
    out.print(f"receipts     {done.receipts:,}")
    out.print(f"outputs      {done.outputs:,}")
    for name, number, examples in (
        ("unaccounted", done.unaccounted, done.unaccounted_objects),
        ("not made", done.without_output, done.objects_without_output),
        ("orphans", done.orphans, done.orphan_outputs),
    ):
        out.print(f"{name:12} [{'red' if number else 'green'}]{number:,}[/]")
        for url in examples:
            out.print(f"  {_plain(url, 400)}", soft_wrap=True)
    return OK if done.clean else BAD_OUTCOME


@app.command(name="new-dataset")
def new_dataset(
    file: Path,
    /,
    *,
    name: str | None = None,
    bucket: str = "raw",
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    show: Annotated[bool, Parameter(name="--print", negative="")] = False,
    data_dir: DataDir = None,
) -> int:
    """Look at a sample file and write a commented dataset file that works.

    Parameters
    ----------
    file
        CSV, Parquet, JSON lines or Excel; gz, zst or zip.
    name
        The dataset's name; by default after the file.
    bucket
        Where files of this kind will be dropped.
    output
        Where to write the YAML; by default <name>.yaml among the datasets.
    show
        Print the YAML instead of writing it.
    """
    from dropflow.declarations import load_dataset
    from flows.proposal import propose

    settings = load_settings(data_dir)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror}") from error
    text = propose(content, file.name, name, bucket)
    if show:
        print(text, end="")  # noqa: T201 - a file, as it is
        return OK
    path = output or settings.datasets_dir / f"{yaml.safe_load(text)['name']}.yaml"
    if path.exists():
        raise SettingsError(f"{path} is there already: give --name, or --output")
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path):
        path.write_text(text, encoding="utf-8")
    dataset = load_dataset(path)
    out.print(
        f"[green]wrote[/] {path}: {len(dataset.columns)} columns, {len(dataset.steps)} steps", soft_wrap=True
    )
    _say("Read it, then bring it to the server: dropflow check && dropflow apply")
    return OK


@app.command
def preprocessors(dataset: str | None = None, /, *, data_dir: DataDir = None, as_json: AsJson = False) -> int:
    """List the fitted preprocessors: versions, what they were fitted on, which one is in use."""
    from flows.preprocessors import cards, in_use

    settings = load_settings(data_dir)
    datasets = load_datasets(settings.datasets_dir)
    store = _store(settings)
    chosen = [datasets[dataset]] if dataset else list(datasets.by_name.values())
    found = [(card, in_use(card, one)) for one in chosen for card in cards(store, one)]
    if as_json:
        _print_json(
            [
                {**card.model_dump(mode="json", exclude={"dataset", "reference"}), "in_use": used}
                for card, used in found
            ]
        )
        return OK
    table = Table("dataset", "version", "fitted on", "rows", "fitted at", "scikit-learn", "", box=None)
    for card, used in found:
        fitted_on = _plain(card.fitted_on.url, 60)
        mark = "[green]fits the recipe[/]" if used else "another recipe or scikit-learn"
        table.add_row(
            _plain(card.name, 60),
            card.label,
            fitted_on,
            f"{card.rows:,}",
            f"{card.fitted_at:%Y-%m-%d %H:%M}",
            _plain(card.sklearn, 40),
            mark,
        )
    out.print(
        table if found else "None yet: a dataset with `fit: reference` is fitted on the first file dropped."
    )
    return OK


@app.command
def models(dataset: str | None = None, /, *, data_dir: DataDir = None, as_json: AsJson = False) -> int:
    """List the trained models: versions, metrics, which one is best."""
    from flows.models import versions

    settings = load_settings(data_dir)
    datasets = load_datasets(settings.datasets_dir)
    store = _store(settings)
    chosen = [datasets[dataset]] if dataset else list(datasets.by_name.values())
    found = [card for one in chosen for card in versions(store, one)]
    if as_json:
        _print_json([card.model_dump(mode="json") for card in found])
        return OK
    table = Table("dataset", "version", "model", "metrics on held-out rows", "trained at", "", box=None)
    for card in found:
        metrics = ", ".join(f"{_plain(name, 40)} {value:.4g}" for name, value in card.metrics.items())
        version, moment = f"v{card.version}", f"{card.trained_at:%Y-%m-%d %H:%M}"
        table.add_row(_plain(card.dataset, 60), version, card.model, metrics, moment, f"[green]{card.tag}[/]")
    out.print(
        table if found else "None yet: a dataset with a `train:` section is trained on each file dropped."
    )
    return OK


@app.command
def apply(
    *,
    diff: Annotated[bool, Parameter(negative="", help="Show what would change, and touch nothing.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> int:
    """Bring deployments and automations on the Prefect server in step with the files.

    Idempotent: only what changed is touched. Automations made in the Prefect UI are left alone, and so
    are those of ours that were changed there, until their file changes; what is disabled there stays
    disabled. --diff shows for what would be updated "-" the server's and "+" the files' value; it
    exits with 0 whether there are differences or not.
    """
    settings = load_settings(data_dir)
    changes = _apply(settings, show=not as_json, diff=diff)
    if as_json:
        _print_json([asdict(change) for change in changes])
    return OK


@app.command
def pause(dataset: str, /, *, data_dir: DataDir = None, as_json: AsJson = False) -> int:
    """Hold a dataset: its objects wait as pending, and nothing is lost. Its schedule stops, too.

    Runs that were created before go on; runs by hand stay possible. The same as pausing the
    deployment preprocess/DATASET in the Prefect UI.
    """
    changed = _set_paused(data_dir, dataset, paused=True, as_json=as_json)
    if not as_json:
        out.print(f"{dataset} is {'[yellow]paused[/]' if changed else 'paused already'}.")
        out.print(f"New objects wait as pending until [bold]dropflow resume {dataset}[/].")
    return OK


@app.command
def resume(dataset: str, /, *, data_dir: DataDir = None, as_json: AsJson = False) -> int:
    """Let the objects of a paused dataset leave; the listener sees to it within seconds."""
    changed = _set_paused(data_dir, dataset, paused=False, as_json=as_json)
    if not as_json:
        out.print(f"{dataset} is [green]resumed[/]." if changed else f"{dataset} is not paused.")
    return OK


def _set_paused(data_dir: Path | None, dataset: str, *, paused: bool, as_json: bool) -> bool:
    settings = load_settings(data_dir)
    name = load_datasets(settings.datasets_dir)[dataset].name
    changed = connect_prefect(settings).set_paused(name, paused=paused)
    audit_log.record(settings, "pause" if paused else "resume", dataset=name, changed=changed)
    if as_json:
        _print_json({"dataset": name, "paused": paused, "changed": changed})
    return changed


@app.command
def check(*, data_dir: DataDir = None, as_json: AsJson = False) -> int:
    """Say whether the dataset files are valid, and if not, where and what was expected."""
    settings = load_settings(data_dir)
    try:
        datasets = load_datasets(settings.datasets_dir, settings.raw_prefixes)
    except PermanentError as error:
        if as_json:
            _print_json({"valid": False, "problems": str(error).splitlines()})
        else:
            err.print("\n".join(map(_plain, str(error).splitlines())), style="red", soft_wrap=True)
        return BAD_OUTCOME
    if as_json:
        _print_json({"valid": True, "datasets": list(datasets.by_name)})
        return OK
    for name, dataset in datasets.by_name.items():
        steps = ", ".join(step.kind for step in dataset.steps)
        line = f"[green]ok[/] {name}: {escape(dataset.match)} -> {dataset.output_bucket} ({steps})"
        out.print(line, soft_wrap=True)
    return OK


@app.command
def doctor(*, data_dir: DataDir = None, as_json: AsJson = False) -> int:
    """Check store, permissions, clocks, Prefect, worker, automations, listener, notifications and channels.

    Puts a few small objects below _doctor/ and deletes them again. Exits with 1 when a check fails; each
    says what to do.
    """
    from dropflow.doctor import examine
    from dropflow.retry import hurry

    hurry(2)
    settings = load_settings(data_dir)
    findings = []
    for one in examine(settings):
        findings.append(one)
        if not as_json:
            _print_finding(one, settings.runbooks_url)
    failed = sum(one.state == "failed" for one in findings)
    if as_json:
        _print_json([{**asdict(one), "runbook": one.section} for one in findings])
    else:
        out.print(f"{failed} of {len(findings)} checks failed." if failed else "All is well.")
    return BAD_OUTCOME if failed else OK


def _print_finding(one: Any, runbooks: str) -> None:
    style = {"ok": "green", "warning": "yellow", "failed": "red"}.get(one.state, "dim")
    out.print(f"[{style}]{one.state:8}[/] {escape(one.name)}  {_plain(one.found, 600)}", soft_wrap=True)
    if one.to_do:
        out.print(f"         [bold]→[/] {_plain(one.to_do)}", soft_wrap=True)
    if one.state == "failed":
        out.print(f"           {escape(runbooks)}#{one.section}", soft_wrap=True)


@app.command
def backup(file: Path, /, *, data_dir: DataDir = None, as_json: AsJson = False) -> int:
    """Write one archive of what is in no bucket: ledger, dataset and automation files, audit log, settings.

    Everything may go on meanwhile. Secrets are not in it, nor are the buckets and Prefect's database.

    Parameters
    ----------
    file
        The archive, a zip that must not be there yet.
    """
    from dropflow.backup import back_up

    settings = load_settings(data_dir)
    with _ledger(settings) as ledger:
        made = back_up(settings, ledger, file)
    audit_log.record(settings, "backup", file=str(file.absolute()))
    if as_json:
        _print_json(made.model_dump())
        return OK
    out.print(f"[green]wrote[/] {escape(str(file))}: {_rows(made.rows)}", soft_wrap=True)
    return OK


@app.command
def restore(file: Path, /, *, data_dir: DataDir = None, as_json: AsJson = False) -> int:
    """Fill an empty ledger from an archive of `dropflow backup`, before the first listener starts.

    Files of datasets and automations and the audit log are put where there are none of that name. What
    has happened since the backup is found by the next sweep; what was told since may be told again.
    """
    from dropflow.backup import restore as bring_back

    settings = load_settings(data_dir)
    done = bring_back(settings, file)
    audit_log.record(settings, "restore", file=str(file.absolute()), made=done.made)
    if as_json:
        _print_json(asdict(done))
        return OK
    out.print(f"[green]restored[/] the ledger of {done.made}: {_rows(done.rows)}", soft_wrap=True)
    for path in done.written:
        out.print(f"wrote {escape(str(path))}", soft_wrap=True)
    for path in done.left:
        out.print(f"[yellow]left as it is[/] {escape(str(path))}: the backup has another", soft_wrap=True)
    return OK


def _rows(rows: dict[str, int]) -> str:
    return ", ".join(f"{rows.get(name, 0):,} {name}" for name in ("objects", "notices", "messages"))


@app.command
def settings(*, data_dir: DataDir = None) -> int:
    """List every setting with its value; secrets are hidden."""
    values = load_settings(data_dir)
    for name, field in type(values).model_fields.items():
        text = escape(f"DROPFLOW_{name.upper()}={getattr(values, name)}")
        out.print(text + (f"  [dim]# {escape(field.description)}[/]" if field.description else ""))
    return OK


notify = cyclopts.App(name="notify", help="Messages to people.")
app.command(notify)


@notify.command(name="test")
def notify_test(*, data_dir: DataDir = None, as_json: AsJson = False) -> int:
    """Send a test message to every channel, and tell which of them took it."""
    from notifications.channels import channels
    from notifications.messages import Message, Told

    settings = load_settings(data_dir)
    urls = settings.notify_urls or connect_prefect(settings).channel_urls()
    if urls is None:
        raise SettingsError("no channel: set DROPFLOW_NOTIFY_URLS (https://appriseit.com has the forms)")
    message = Message(
        kind="test", dataset="dropflow", count=1, told=(Told(url="this channel works", reason=""),)
    )
    problems: dict[str, str] = {}
    for channel in channels(urls):
        try:
            channel.deliver(message)
        except DropflowError as error:
            problems[channel.name] = str(error)
        else:
            problems[channel.name] = ""
    if as_json:
        _print_json([{"channel": name, "problem": problem} for name, problem in problems.items()])
    else:
        for name, problem in problems.items():
            out.print(f"{escape(name)}  {f'[red]{escape(problem)}[/]' if problem else '[green]took it[/]'}")
    return BAD_OUTCOME if any(problems.values()) else OK


@app.command
def listen(*, data_dir: DataDir = None) -> int:
    """Run the listener: object notifications into the ledger, and events to Prefect.

    Follows MinIO's stream, serves the webhook and sweeps the buckets, as the settings say.
    """
    import asyncio

    from listeners.service import serve

    chosen = load_settings(data_dir)
    log_to_stderr(as_json=chosen.log_format == "json")
    asyncio.run(serve(chosen))
    return OK


@app.command
def worker(*, data_dir: DataDir = None) -> int:
    """Run a worker: it needs the object store and the Prefect API, nothing else."""
    from dropflow.prefect_env import export_prefect_environment

    chosen = load_settings(data_dir)
    log_to_stderr(as_json=chosen.log_format == "json")
    export_prefect_environment(chosen)
    os.environ["DROPFLOW_DATA_DIR"] = str(chosen.data_dir)
    # One such answer would end Prefect's worker, or the run that gets it.
    os.environ.setdefault("PREFECT_CLIENT_RETRY_EXTRA_CODES", "500,504")
    from flows.worker import run_worker

    run_worker(chosen)
    return OK


@app.command
def demo(*, data_dir: DataDir = None, rows: int = 10_000) -> int:
    """Drop a sample file into an embedded stack and show what becomes of it.

    On a terminal everything then keeps running until Ctrl-C, for a look at the Prefect UI.

    Parameters
    ----------
    rows
        Rows of the sample.
    """
    from dropflow.demo import run_demo

    log_to_stderr()
    return run_demo(load_settings(data_dir or Path(".dropflow/demo")), rows, out)


def _store(settings: Settings) -> "ObjectStore":
    # With boto3 it takes 15 MiB, as much as the ledger with SQLAlchemy, that a worker can do without.
    from dropflow.storage import connect

    return connect(settings)


@contextmanager
def _ledger(settings: Settings) -> Iterator["Ledger"]:
    from dropflow.ledger import Ledger

    if settings.ledger_url is None and not (settings.data_dir / "ledger.sqlite").exists():
        raise SettingsError(f"no ledger in {settings.data_dir}: start the listener with `dropflow up`")
    ledger = Ledger(settings.ledger)
    try:
        yield ledger
    finally:
        ledger.close()


def _in_utc(moment: datetime | None) -> datetime | None:
    return moment.replace(tzinfo=moment.tzinfo or UTC) if moment else None


def _say(text: str) -> None:
    out.print(f"[dim]·[/] {escape(text)}", soft_wrap=True)


def _apply(settings: Settings, *, show: bool, diff: bool = False) -> list[Any]:
    from dropflow.apply import apply as changes_of

    changes: list[Any] = []
    try:
        for change in changes_of(settings, dry_run=diff):
            changes.append(change)
            if show:
                _print_change(change, diff=diff)
    finally:
        # Also of what an error has cut short.
        done = [f"{c.action} {c.kind} {c.name}" for c in changes if c.action != "unchanged"]
        if done and not diff:
            audit_log.record(settings, "apply", changes=done)
    if show and diff:
        number = sum(change.action != "unchanged" for change in changes)
        out.print(f"{number} would change; nothing was touched." if number else "Nothing would change.")
    if show and settings.notify_urls is None and not any(c.kind == "notification block" for c in changes):
        out.print("No messages are sent: set DROPFLOW_NOTIFY_URLS, for example to slack://… or mailto://…")
    return changes


def _print_change(change: Any, *, diff: bool) -> None:
    style = "dim" if change.action == "unchanged" else "green"
    note = f" ({change.note})" if change.note else ""
    out.print(f"[{style}]{change.action:9}[/] {change.kind} {escape(change.name)}{note}")
    for one in change.differences if diff else ():
        _print_difference(one)


def _print_difference(one: Difference) -> None:
    out.print(f"  {escape(one.field)}", soft_wrap=True)
    for line in one.lines():
        style = "red" if line.startswith("-") else "green"
        out.print(f"    {_plain(line, 400)}", style=style, soft_wrap=True)


def _where(stack: "Stack") -> None:
    settings = stack.settings
    if page := settings.page:
        out.print(f"Your files    {page}", soft_wrap=True)
    out.print(f"Prefect UI    {settings.prefect_ui}", soft_wrap=True)
    if sign_in := stack.sign_in(shown=out.is_terminal):
        out.print(f"  sign in by  {escape(sign_in)}", soft_wrap=True)
    out.print(f"Object store  {settings.s3_endpoint}", soft_wrap=True)
    out.print(f"Data          {settings.data_dir} (credentials in stack.env, logs in logs/)", soft_wrap=True)


def _uploading() -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    return Progress(*columns, console=err, transient=True)


def _counting() -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description}: {task.completed:,.0f} objects"))
    return Progress(*columns, console=err, transient=True)


def _advance(progress: Progress, task: Any) -> Callable[[int], None]:
    return lambda sent: progress.advance(task, sent)


def _print_dropped(dropped: "list[drops.Drop]", as_json: bool) -> int:
    if as_json:
        _print_json([{"file": str(d.path), "object": d.ref.url, "etag": d.ref.etag} for d in dropped])
        return OK
    for one in dropped:
        out.print(f"uploaded {_plain(one.ref.url, 400)}", soft_wrap=True)
    return OK


def _print_outcomes(settings: Settings, outcomes: "list[drops.Outcome]", as_json: bool) -> int:
    if as_json:
        _print_json([_outcome_json(settings, outcome) for outcome in outcomes])
    else:
        for outcome in outcomes:
            _print_outcome(settings, outcome)
    fates = {outcome.fate for outcome in outcomes}
    if fates & {"rejected", "failed"}:
        return BAD_OUTCOME
    return TIMED_OUT if "pending" in fates else OK


def _outcome_json(settings: Settings, outcome: "drops.Outcome") -> dict[str, Any]:
    receipt = outcome.receipt
    return {
        "file": str(outcome.drop.path),
        "object": outcome.drop.ref.url,
        "etag": outcome.drop.ref.etag,
        "fate": outcome.fate,
        "reason": outcome.reason,
        "repeated": outcome.drop.repeated is not None,
        "output": receipt.output_url if receipt else "",
        "rows_in": receipt.rows_in if receipt else None,
        "rows_out": receipt.rows_out if receipt else None,
        "steps": [step.model_dump() for step in receipt.steps] if receipt else [],
        "run_url": settings.run_url(outcome.flow_run_id) if outcome.flow_run_id else "",
        "seconds": round(outcome.seconds, 3),
    }


def _print_outcome(settings: Settings, outcome: "drops.Outcome") -> None:
    style = {"processed": "green", "pending": "yellow"}.get(outcome.fate, "red")
    name = _plain(outcome.drop.ref.url, 400)
    out.print(f"[{style}]{outcome.fate}[/] {name}", soft_wrap=True)
    if outcome.drop.repeated:
        out.print("  the same bytes had this receipt before: nothing was done again")
    if outcome.reason:
        out.print(f"  {_plain(outcome.reason)}", soft_wrap=True)
    if receipt := outcome.receipt:
        if receipt.output_url:
            out.print(f"  {_plain(receipt.summary, 400)}", soft_wrap=True)
            out.print(f"  {_plain(receipt.output_url, 400)}", soft_wrap=True)
        for step in receipt.steps:
            out.print(f"  {_plain(step.name)}: {_plain(step.detail)}", soft_wrap=True)
    if outcome.flow_run_id:
        out.print(f"  {_plain(settings.run_url(outcome.flow_run_id))}", soft_wrap=True)


def _plain(text: str, limit: int = 2000) -> str:
    """Text that somebody else may have written, a bucket's most of all: no markup, on one line."""
    return escape(printable(text, limit))


def _print_json(value: Any) -> None:
    # Not through rich, which would wrap long lines.
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    # JSON leaves some characters alone that terminals take for commands, U+009B among them.
    shown = (one if one.isprintable() or one == "\n" else json.dumps(one)[1:-1] for one in text)
    sys.stdout.write("".join(shown) + "\n")
