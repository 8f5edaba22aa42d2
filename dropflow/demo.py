"""The demo: the main job on embedded defaults, shown step by step."""

import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.header import decode_header, make_header
from email.message import Message
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message as MessageHandler
from pydantic import SecretStr
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from dropflow import drops
from dropflow.apply import apply
from dropflow.declarations import load_datasets
from dropflow.embedded.processes import LOOPBACK, free_port
from dropflow.embedded.stack import Stack
from dropflow.errors import SettingsError, naming
from dropflow.prefect_api import connect_prefect
from dropflow.samples import churn_csv
from dropflow.settings import Settings
from dropflow.storage import connect

DATASET = "churn"
OUTCOME_SECONDS = 120
MAIL_SECONDS = 60


class Mailbox(MessageHandler):
    """Keeps every message a real SMTP server on loopback receives."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[Message] = []
        self._arrived = threading.Condition()

    def handle_message(self, message: Message) -> None:
        with self._arrived:
            self.messages.append(message)
            self._arrived.notify_all()

    def wait_for(self, text: str, seconds: float) -> Message | None:
        """The first message with `text` in its subject or body, or None when time runs out."""
        deadline = time.monotonic() + seconds
        with self._arrived:
            while True:
                for message in self.messages:
                    if text in subject_of(message) or text in body_of(message):
                        return message
                if not self._arrived.wait(max(0.0, deadline - time.monotonic())):
                    return None


class Letters(MessageHandler):
    """Shows every message as people read it: `python -m aiosmtpd --class dropflow.demo.Letters`."""

    def __init__(self) -> None:
        super().__init__()
        sys.stdout.write("Every message is shown here, and goes nowhere else.\n\n")
        sys.stdout.flush()

    def handle_message(self, message: Message) -> None:
        text = f"Subject: {subject_of(message)}\n\n{body_of(message)}\n\n"
        # What a message tells came from files, and is not to write to a terminal.
        sys.stdout.write("".join(c if c.isprintable() or c == "\n" else "·" for c in text))
        sys.stdout.flush()


def subject_of(message: Message) -> str:
    return str(make_header(decode_header(message.get("Subject", ""))))


def body_of(message: Message) -> str:
    """The plain-text part, decoded."""
    for part in message.walk():
        if part.get_content_type() == "text/plain":
            content = part.get_payload(decode=True)
            assert isinstance(content, bytes)
            return (
                content.decode(part.get_content_charset() or "utf-8", errors="replace")
                .replace("\r\n", "\n")
                .strip()
            )
    return ""


@contextmanager
def smtp_server() -> Iterator[tuple[Mailbox, SecretStr]]:
    """A real SMTP server on a free port; its mailbox and the Apprise URL that sends there."""
    mailbox = Mailbox()
    port = free_port()
    controller = Controller(mailbox, hostname=LOOPBACK, port=port)
    controller.start()
    try:
        yield (
            mailbox,
            SecretStr(f"mailto://{LOOPBACK}:{port}?from=dropflow@example.com&to=you@example.com&format=text"),
        )
    finally:
        controller.stop()


def run_demo(settings: Settings, rows: int, out: Console) -> int:
    """Start a stack, drop a sample, show everything; the exit code."""
    started = time.monotonic()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with (
        smtp_server() as (mailbox, url),
        Progress(*columns, console=out, disable=not out.is_terminal) as progress,
    ):
        steps = _Steps(progress)
        theirs = settings.notify_urls.get_secret_value() if settings.notify_urls else ""
        urls = SecretStr(f"{theirs} {url.get_secret_value()}".strip())
        settings = settings.model_copy(update={"notify_urls": urls})
        steps.begin("Starting the embedded stack (the first time takes some 30 s)")
        stack = Stack(settings, report=steps.begin)
        if not stack.embedded:
            raise SettingsError(
                "the demo writes to its own store and server only: unset DROPFLOW_S3_ENDPOINT and "
                "DROPFLOW_PREFECT_API_URL"
            )
        with stack:
            steps.begin("Applying deployments and automations to Prefect")
            settings = stack.settings.model_copy(update={"notify_urls": urls})
            for change in apply(settings):
                if change.action != "unchanged":
                    progress.console.print(f"  {change.action} {change.kind} {escape(change.name)}")
            stack.listen()
            outcome = _drop_sample(settings, rows, steps)
            name = outcome.drop.path.name
            steps.begin("Waiting for the mail")
            mail = mailbox.wait_for(name, MAIL_SECONDS)
            steps.end()
            progress.stop()
            _show(settings, outcome, mail, stack.sign_in(shown=out.is_terminal), out)
            out.print(f"\nDone in {time.monotonic() - started:.0f} s.")
            if sys.stdout.isatty():
                _keep_running(stack.settings, out)
    return 0 if outcome.fate == "processed" and mail else 1


class _Steps:
    """One line a step: on a terminal with a spinner and its time, elsewhere printed as it begins."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: Any = None

    def begin(self, text: str) -> None:
        self.end()
        if not self._progress.console.is_terminal:
            self._progress.console.print(escape(text), soft_wrap=True)
            return
        self._task = self._progress.add_task(escape(text), total=1)

    def end(self) -> None:
        if self._task is not None:
            self._progress.update(self._task, completed=1)


def _drop_sample(settings: Settings, rows: int, steps: _Steps) -> drops.Outcome:
    dataset = load_datasets(settings.datasets_dir)[DATASET]
    store = connect(settings)
    with tempfile.TemporaryDirectory() as folder:
        # A new name each time: the same object twice would only say that it is done already.
        path = Path(folder) / f"sample-{datetime.now(UTC):%Y%m%d-%H%M%S}.csv"
        steps.begin(f"Making a sample of {rows:,} bank customers")
        with naming(path):
            path.write_bytes(churn_csv(rows))
        key = drops.target_key(dataset, path, None)
        steps.begin(f"Dropping it as s3://{dataset.bucket}/{key}")
        dropped = drops.upload(store, dataset, path, key, lambda _: None)
        steps.begin("Waiting for its receipt: event, automation, run, output")
        return drops.wait(store, connect_prefect(settings), dataset, dropped, OUTCOME_SECONDS)


def _show(
    settings: Settings, outcome: drops.Outcome, mail: Message | None, sign_in: str, out: Console
) -> None:
    receipt = outcome.receipt
    out.print(f"\nRaw object        {outcome.drop.ref.url}", soft_wrap=True)
    out.print(f"Fate              {outcome.fate} after {outcome.seconds:.1f} s {escape(outcome.reason)}")
    if receipt:
        out.print(f"Processed object  {receipt.output_url}", soft_wrap=True)
        out.print(f"Rows              {receipt.rows_in:,} in, {receipt.rows_out:,} out")
        out.print("Steps")
        for step in receipt.steps:
            detail = escape(step.detail)
            out.print(f"  {step.name:7} {detail} [dim]({step.seconds:.2f} s)[/]", soft_wrap=True)
    out.print(f"Run               {settings.run_url(outcome.flow_run_id)}", soft_wrap=True)
    if sign_in:
        out.print(f"  sign in by      {escape(sign_in)}", soft_wrap=True)
    if mail is None:
        out.print(f"[red]No mail within {MAIL_SECONDS} s:[/] see logs/prefect.log in {settings.data_dir}")
        return
    out.print("Mail received")
    out.print(f"  From: {mail['From']}\n  To: {mail['To']}\n  Subject: {escape(subject_of(mail))}\n")
    for line in body_of(mail).splitlines():
        out.print(f"  {escape(line)}", soft_wrap=True)


def _keep_running(settings: Settings, out: Console) -> None:
    out.print(f"\nEverything keeps running: have a look at {settings.prefect_ui}. Ctrl-C stops it.")
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        out.print("Stopping.")
