"""The whole story of one object: bucket, ledger, receipts, runs, and what happens next."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from dropflow.clock import utc_now
from dropflow.datasets import Dataset, Datasets
from dropflow.errors import DropflowError, ObjectMissingError
from dropflow.ledger import Entry, Fate, Ledger
from dropflow.objects import ObjectRef, printable
from dropflow.prefect_api import PrefectApi, key_tag
from dropflow.receipts import Receipt, latest_receipt
from dropflow.settings import Settings
from dropflow.storage import ObjectStore

ADVICE = {
    Fate.PROCESSED: "nothing: it is done. `dropflow replay` prepares it again under a changed recipe",
    Fate.REJECTED: "mend the file and drop it again, or mend the dataset and `dropflow replay` it",
    Fate.FAILED: "mend the cause, then `dropflow replay --failed`",
    Fate.IGNORED: "name it so that a dataset matches, or change a dataset's match",
}
RUNS_SINCE = timedelta(days=30)


@dataclass
class Story:
    """Lines with their time, the oldest first; then what is so now, and what comes."""

    object: str
    lines: list[tuple[datetime, str]] = field(default_factory=list)
    now: list[str] = field(default_factory=list)
    runs: list[dict[str, str]] = field(default_factory=list)
    fate: str = "unknown"
    next: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "object": self.object,
            "fate": self.fate,
            "story": [{"at": at, "what": what} for at, what in self.lines],
            "now": self.now,
            "runs": self.runs,
            "next": self.next,
        }


def locate(text: str, datasets: Datasets) -> tuple[str, str]:
    """Bucket and key of s3://bucket/key, bucket/key, or a key: of the raw bucket a dataset takes it from."""
    path = text.removeprefix("s3://")
    bucket, slash, key = path.partition("/")
    if text.startswith("s3://") or (slash and bucket in datasets.raw_buckets):
        return bucket, key
    taking = (bucket for bucket in datasets.raw_buckets if datasets.find(bucket, text)[0])
    return next(taking, datasets.raw_buckets[0]), text


def explain(
    settings: Settings,
    datasets: Datasets,
    store: ObjectStore,
    ledger: Ledger,
    prefect: PrefectApi | None,
    place: tuple[str, str],
) -> Story:
    """Tell what is known, also where a part of it cannot be reached."""
    bucket, key = place
    story = Story(f"s3://{bucket}/{key}")
    dataset, why_none = datasets.find(bucket, key)
    entries = ledger.find(bucket, key)
    current = _bucket(store, bucket, key, story)
    if dataset:
        story.now.append(f"belongs to the dataset {dataset.name} ({dataset.match})")
    else:
        story.now.append(why_none)
    for entry in entries:
        _ledger(ledger, entry, story)
    if not entries:
        story.now.append("the ledger does not know it: no notification yet, and no sweep since")
    if dataset:
        etags = {current.etag: current} if current else {}
        etags |= {e.ref.etag: e.ref for e in entries if e.ref.etag}
        for ref in etags.values():
            _receipt(store, dataset, ref, story)
    if prefect:
        _runs(settings, prefect, key, story)
    newest = next((e for e in entries if current is None or e.ref.etag == current.etag), None)
    story.fate = newest.fate.value if newest else "unknown"
    story.next = _next(newest, current)
    story.lines.sort(key=lambda line: line[0])
    return story


def _bucket(store: ObjectStore, bucket: str, key: str, story: Story) -> ObjectRef | None:
    try:
        ref = store.stat(bucket, key)
    except ObjectMissingError:
        story.now.append("it is not in the bucket")
        return None
    except DropflowError as error:
        story.now.append(str(error))
        return None
    if ref.modified:
        story.lines.append((ref.modified, f"written to the bucket: {ref.size:,} bytes, etag {ref.etag}"))
    return ref


def _ledger(ledger: Ledger, entry: Entry, story: Story) -> None:
    etag = f" (etag {entry.ref.etag})" if entry.ref.etag else ""
    story.lines.append((entry.first_seen, f"first seen by the {entry.source}{etag}"))
    story.lines += [(at, printable(what, 1000)) for at, what in ledger.story(entry)]
    reason = printable(entry.reason, 1000) or "no more to say"
    story.now.append(f"{entry.fate}{etag}: {reason}, {entry.updated:%F %T} UTC")


def _receipt(store: ObjectStore, dataset: Dataset, ref: ObjectRef, story: Story) -> None:
    try:
        found = latest_receipt(store, dataset, ref)
    except DropflowError as error:
        story.now.append(str(error))
        return
    if found:
        story.lines.append((found[1].written_at, _told(found[1])))


def _told(receipt: Receipt) -> str:
    what = f"receipt: {receipt.fate} under recipe {receipt.fingerprint}"
    if receipt.output_key:
        what += f", {receipt.summary}: {receipt.output_url}"
    return (
        what
        + (f": {printable(receipt.reason, 1000)}" if receipt.reason else "")
        + f" (run {receipt.flow_run_id})"
    )


def _runs(settings: Settings, prefect: PrefectApi, key: str, story: Story) -> None:
    try:
        runs = prefect.runs_tagged(key_tag(key), datetime.now(UTC) - RUNS_SINCE)
    except DropflowError as error:
        story.now.append(f"runs are not known: {error}")
        return
    for run in runs:
        url, state = settings.run_url(run["id"]), str(run.get("state_name"))
        story.runs.append({"id": run["id"], "name": run["name"], "state": state, "url": url})
        if run.get("start_time"):
            retries = int(run.get("run_count") or 1) - 1
            again = f", started again {retries} times" if retries > 0 else ""
            at = datetime.fromisoformat(run["start_time"])
            story.lines.append((at, f"run {run['name']}: {state}{again}, {url}"))


def _next(entry: Entry | None, current: ObjectRef | None) -> str:
    if entry is None:
        return "the next sweep finds it" if current else "nothing: there is no such object"
    match entry.fate:
        case Fate.PENDING:
            return _next_of_pending(entry)
        case Fate.DISPATCHED:
            due = f"; without a receipt by {entry.due:%T} UTC Prefect is asked why" if entry.due else ""
            return f"its receipt is awaited{due}"
        case Fate.IGNORED if entry.dataset or not current:
            return "nothing: these bytes are gone"
        case settled:
            return ADVICE[settled]


def _next_of_pending(entry: Entry) -> str:
    if entry.held:
        return f"it leaves within seconds of `dropflow resume {entry.dataset}`"
    if entry.dataset and entry.ready_at is None:
        return "it is prepared once its marker is in the folder"
    if entry.ready_at and entry.ready_at > utc_now():
        return f"it is ready at {entry.ready_at:%F %T} UTC"
    return "an event is posted for it as soon as Prefect takes one and a run may start"
