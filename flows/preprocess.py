"""The preprocess flow: raw objects in, prepared Parquet, a receipt and a readable state out."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Literal

from prefect import flow, get_client, get_run_logger, runtime
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from dropflow.datasets import Dataset, canary_prefix
from dropflow.declarations import load_datasets
from dropflow.errors import DropflowError, SettingsError, TransientError
from dropflow.globs import Glob
from dropflow.objects import ObjectRef, printable
from dropflow.prefect_api import connect_prefect, dataset_processed_event, key_tag
from dropflow.receipts import PREFIX, object_prefix, receipt_prefix
from dropflow.recipes import StepKind
from dropflow.seen import Seen
from dropflow.settings import Settings, load_settings
from dropflow.storage import ObjectStore, connect
from flows import cluster, overrides
from flows.artifacts import harmlessly, show_progress, show_quality
from flows.execution import MOST_SHOWN
from flows.outcomes import Outcome
from flows.preparation import Log, Prepared, Result, Work
from flows.preparers import forked
from flows.tasks import as_task

MOST_TAGGED = 20
AT_ONCE = 4
"""Objects in work at once by a run without preparers: while one waits for the store, another computes."""
MOST_TOLD = 10
MOST_IN_EVENT = 500
"""Keys; an automation copies them into a run's parameters, of which Prefect takes 512 KB."""
SEVERITY: tuple[Result, ...] = (
    "interrupted",
    "failed",
    "rejected",
    "processed",
    "duplicate",
    "cached",
    "missing",
)
STATE_NAMES: dict[Result, str] = {
    "failed": "Failed",
    "interrupted": "Interrupted",
    "rejected": "Rejected",
    "processed": "Completed",
    "duplicate": "Duplicate",
    "cached": "Cached",
    "missing": "Failed",
}
NumericImputation = Literal["as declared", "mean", "median", "most_frequent", "knn"]


def run_name() -> str:
    """`churn · 2026-11.csv`, or `churn · 12 files`."""
    parameters = runtime.flow_run.parameters
    keys = parameters.get("keys") or []
    what = str(parameters.get("glob") or "all without a receipt")
    if keys:
        what = str(keys[0]).rpartition("/")[2] if len(keys) == 1 else f"{len(keys)} files"
    return f"{parameters['dataset']} · {printable(what)}"


@flow(name="preprocess", flow_run_name=run_name)
def preprocess(
    dataset: str,
    keys: list[str] = [],  # noqa: B006 - never changed, and None makes a worse form in the UI
    glob: str = "",
    force: bool = False,
    numeric_imputation: NumericImputation = "as declared",
    test_size: float | None = None,
    skip: list[StepKind] = [],  # noqa: B006
    refit: bool = False,
) -> State[Any]:
    """Prepare raw objects of one dataset: validate, carry out its steps, write the output and a receipt.

    A rejected object makes the run red with the reason; it never stops the other objects.

    Args:
        dataset: The dataset; leave as it is.
        keys: Object keys in the dataset's bucket, one each. Empty, and no glob: all without a receipt.
        glob: Every object of the dataset whose key is like this, as churn/2026-*.csv; ** spans folders.
        force: Prepare again although these bytes have a receipt under this recipe.
        numeric_imputation: How to fill gaps in numbers, instead of the way the dataset declares.
        test_size: Share of rows to test on, from 0 to 1, where the dataset declares a split.
        skip: Kinds of steps to leave out, this time.
        refit: With `fit: reference`: fit a new version of the preprocessor on the first of the keys.
    """
    settings = load_settings()
    store = connect(settings)
    recipe = load_datasets(settings.datasets_dir)[dataset]
    recipe = overrides.apply(recipe, numeric_imputation, test_size, skip)
    keys = [key for key in keys if key]  # the UI's form adds empty ones
    if refit and (recipe.fit.mode == "each" or recipe.fit.version or not keys):
        raise SettingsError("refit needs a key to fit on, and a dataset with `fit: reference`, not pinned")
    try:
        keys = _chosen(store, recipe, keys, glob)
    except TransientError as error:
        return Failed(name=STATE_NAMES["interrupted"], message=str(error))
    _tag(recipe, keys)
    log = get_run_logger()
    run_id = str(runtime.flow_run.id)
    work = Work(
        recipe,
        run_id,
        force=force,
        refit=refit,
        orphan_seconds=settings.orphan_seconds,
        large_bytes=settings.large_file_mib * 2**20,
    )
    if len(keys) <= MOST_SHOWN:
        shown = work.preparation(store, log=log, stage=as_task, told=show_quality)
        outcomes = [shown.prepare(key) for key in keys]
        _tell_processed(settings, recipe, outcomes, run_id)
        return _state(outcomes, quiet=all(key.startswith(canary_prefix(recipe)) for key in keys))
    outcomes = []
    show = show_progress(recipe.name, len(keys))
    for outcome in _in_batch(settings, store, work, keys, log):
        outcomes.append(outcome)
        if not outcome.is_done:
            own = {"bucket": recipe.bucket, "key": outcome.key}
            log.info("%s: %s", outcome.result, outcome.message, extra=own)
        if len(outcomes) % 100 == 0 or len(outcomes) == len(keys):
            log.info("%d of %d done", len(outcomes), len(keys))
            show(len(outcomes))
    _tell_processed(settings, recipe, outcomes, run_id)
    return _state(outcomes)


def _in_batch(
    settings: Settings, store: ObjectStore, work: Work, keys: list[str], log: Log
) -> Iterator[Prepared]:
    """Prepare many objects: by a cluster or the run's preparers, or where it has none, in a few threads."""
    preparation = work.preparation(store, log=log)
    if shared := _sharing(settings):
        one_teaches = not preparation.reference.is_settled()
        for prepared, lines in shared(work, keys, one_teaches=one_teaches):
            for level, text in lines:
                log.log(level, "%s", text, extra={"bucket": work.dataset.bucket, "key": prepared.key})
            yield prepared
        return
    # The context carries the run to its threads: their log lines belong to it.
    contexts = (copy_context() for _ in keys)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield from pool.map(lambda context, key: context.run(preparation.prepare, key), contexts, keys)


def _sharing(settings: Settings) -> Callable[..., Iterator[Outcome]] | None:
    """Who shares the objects of a batch: a Dask cluster, or this run's preparers."""
    if settings.dask_scheduler:
        return partial(cluster.prepare, settings.dask_scheduler)
    preparers = forked()
    return preparers.prepare if preparers else None


def _chosen(store: ObjectStore, dataset: Dataset, keys: list[str], pattern: str) -> list[str]:
    if not keys and not pattern:
        return list(_without_receipt(store, dataset))
    found = _matching(store, dataset, pattern) if pattern else ()
    chosen = list(dict.fromkeys([*keys, *found]))
    if not chosen:
        raise SettingsError(f"glob: {dataset.name} has no object like {pattern!r}")
    return chosen


def _matching(store: ObjectStore, dataset: Dataset, pattern: str) -> Iterator[str]:
    like = Glob(pattern)
    for ref in store.list(dataset.bucket, dataset.prefix):
        if ref.key.startswith(canary_prefix(dataset)) or not dataset.matches(ref.bucket, ref.key):
            continue
        if like.matches(ref.key):
            yield ref.key


def _without_receipt(store: ObjectStore, dataset: Dataset) -> Iterator[str]:
    """Keys whose current bytes have no receipt under any recipe."""
    with Seen() as receipts:
        there = store.list(dataset.output_bucket, f"{PREFIX}{dataset.name}/")
        receipts.update(object_prefix(receipt.key) for receipt in there)
        marked: dict[str, bool] = {}
        for ref in store.list(dataset.bucket, dataset.prefix):
            if (
                dataset.matches(ref.bucket, ref.key)
                and receipt_prefix(dataset, ref) not in receipts
                and _is_ready(store, dataset, ref, marked)
            ):
                yield ref.key


def _is_ready(store: ObjectStore, dataset: Dataset, ref: ObjectRef, marked: dict[str, bool]) -> bool:
    """Whether the dataset's readiness lets the object be prepared; `marked` keeps which markers are there."""
    quiet = timedelta(seconds=dataset.ready.quiet_seconds)
    if quiet and ref.modified and datetime.now(UTC) - ref.modified < quiet:
        return False
    if not dataset.ready.marker:
        return True
    marker = dataset.marker_key(ref.key)
    if marker not in marked:
        marked[marker] = store.exists(ref.bucket, marker)
    return marked[marker]


def _tell_processed(settings: Settings, dataset: Dataset, outcomes: list[Prepared], run_id: str) -> None:
    """Post events of what this run has prepared, where a training is to follow."""
    canary = canary_prefix(dataset)
    keys = [o.key for o in outcomes if o.result == "processed" and not o.key.startswith(canary)]
    if dataset.train and keys:
        parts = [keys[first : first + MOST_IN_EVENT] for first in range(0, len(keys), MOST_IN_EVENT)]
        events = [dataset_processed_event(dataset.name, part, run_id) for part in parts]
        try:
            connect_prefect(settings).post_events(events)
        except DropflowError as error:
            # The objects are prepared all the same; a training can be run by hand.
            get_run_logger().warning("no training was started: %s", error)


def _tag(dataset: Dataset, keys: list[str]) -> None:
    """Tag the run, so that the UI and `dropflow drop` find it by dataset and key."""
    found = [f"dataset:{dataset.name}", *(key_tag(key) for key in keys[:MOST_TAGGED])]
    tags = list(dict.fromkeys([*runtime.flow_run.tags, *found]))
    with get_client(sync_client=True) as client:
        harmlessly(client.update_flow_run, runtime.flow_run.id, tags=tags)


def _state(outcomes: list[Prepared], *, quiet: bool = False) -> State[Any]:
    """The worst outcome names the state; its message is what the notification carries.

    `quiet`: success is named so that nobody is told.
    """
    if not outcomes:
        return Completed(message="Nothing to do: every object has a receipt.")
    count = Counter(outcome.result for outcome in outcomes)
    worst = next(result for result in SEVERITY if count[result])
    told = [outcome.message for outcome in outcomes if outcome.result == worst]
    message = "\n".join(told[:MOST_TOLD])
    if len(told) > MOST_TOLD:
        message += f"\n… and {len(told) - MOST_TOLD:,} more: each is in the run's log"
    if len(outcomes) > 1:
        message = ", ".join(f"{n} {result}" for result, n in count.items()) + f"\n{message}"
    state = Failed if worst in ("failed", "interrupted", "rejected", "missing") else Completed
    name = "Canary" if quiet and worst == "processed" else STATE_NAMES[worst]
    return state(name=name, message=message)
