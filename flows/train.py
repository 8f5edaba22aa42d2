"""The train flow: prepared objects in; a registered model, its report and a verdict out."""

import io
from typing import Any

import pandas as pd
from prefect import flow, get_run_logger, runtime, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import SecretStr, ValidationError

from dropflow.datasets import Dataset, canary_prefix
from dropflow.declarations import load_datasets
from dropflow.errors import DropflowError, RejectedError, SettingsError, SupersededError, TransientError
from dropflow.objects import ObjectRef, printable
from dropflow.receipts import (
    PREFIX,
    Receipt,
    load_receipt,
    parse_receipt_key,
    read_receipt,
    receipt_key,
    receipt_prefix,
    stands,
)
from dropflow.settings import load_settings
from dropflow.storage import ObjectStore, connect
from dropflow.trainings import Training
from flows import models, tracking, training
from flows.model_report import to_html, to_markdown
from flows.models import ModelCard, Registered, Source
from flows.tasks import RETRIES, RETRY_DELAYS, RETRY_JITTER, as_subflow, retry_transient
from flows.training import Evaluation, Split

stage = task(
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAYS,
    retry_jitter_factor=RETRY_JITTER,
    retry_condition_fn=retry_transient,
    # Frames and models are handed on in memory.
    cache_policy=NO_CACHE,
    persist_result=False,
)

TRACKING_SECONDS = 30
"""MLflow may take so long in all, artifacts included."""


def run_name() -> str:
    """`churn · 2026-11.csv`, or `churn · 12 files`."""
    parameters = runtime.flow_run.parameters
    keys = parameters.get("keys") or []
    what = printable(str(keys[0]).rpartition("/")[2]) if len(keys) == 1 else f"{len(keys)} files"
    return f"{parameters['dataset']} · {what if keys else 'the latest file'}"


@flow(name="train", flow_run_name=run_name)
def train(
    dataset: str,
    keys: list[str] = [],  # noqa: B006 - never changed, and None makes a worse form in the UI
    test_size: float | None = None,
    select_top: int | None = None,
    seed: int | None = None,
) -> State[Any]:
    """Train the dataset's model on prepared objects, judge it, register it, and say whether it is better.

    Args:
        dataset: The dataset; leave as it is.
        keys: Raw keys whose prepared objects are learnt from together. Empty: the one prepared last.
        test_size: Share of rows held out, from 0 to 1, instead of the declared one.
        select_top: Number of features to keep, instead of the declared one.
        seed: Seed of everything random, instead of the declared one.
    """
    settings = load_settings()
    store = connect(settings)
    recipe = load_datasets(settings.datasets_dir)[dataset]
    if recipe.train is None or recipe.target is None:
        raise SettingsError(f"{dataset} declares no `train:` section and `target:`: add them to its YAML")
    chosen = with_parameters(recipe, test_size=test_size, select=select_top, seed=seed)
    try:
        frame, receipts = load_data(store, recipe, keys)
        split = as_subflow("select features", select_features, frame, recipe.target, chosen)
        estimator, evaluation = as_subflow("fit and evaluate", fit_and_evaluate, split, chosen)
        done = register_model(store, recipe, training.Trained(split, estimator, evaluation), chosen, receipts)
    except TransientError:
        raise
    except SupersededError as error:
        return Completed(name="Duplicate", message=str(error))
    except DropflowError as error:
        return Failed(name="Rejected" if isinstance(error, RejectedError) else None, message=str(error))
    if settings.mlflow_tracking_uri:
        # Its state, instead of its errors: none of them may change the verdict.
        track(settings.mlflow_tracking_uri, store, recipe, done, return_state=True)
    get_run_logger().info("%s: %s", done.card.name, done.reason)
    return Completed(name="Best" if done.is_best else "Trained", message=verdict(done))


def with_parameters(dataset: Dataset, **changes: float | None) -> Training:
    """The dataset's training with the parameters of one run. Raises SettingsError."""
    assert dataset.train
    given = {name: value for name, value in changes.items() if value is not None}
    if "test_size" in given and dataset.split:
        raise SettingsError(
            f"test_size: the `split:` of {dataset.name} divides the rows: give it to preprocess instead"
        )
    try:
        return Training.model_validate({**dataset.train.model_dump(exclude_unset=True), **given})
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise SettingsError(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}") from error


@stage
def load_data(store: ObjectStore, dataset: Dataset, keys: list[str]) -> tuple[pd.DataFrame, list[Receipt]]:
    """The prepared rows of the keys, and the receipts they came with.

    Raises RejectedError where one was not prepared, SupersededError where it is replaced already.
    """
    receipts = [_receipt(store, dataset, key) for key in keys] or [latest_receipt(store, dataset)]
    frames = [_prepared(store, receipt) for receipt in receipts]
    return pd.concat(frames, ignore_index=True), receipts


def _receipt(store: ObjectStore, dataset: Dataset, key: str) -> Receipt:
    ref = store.stat(dataset.bucket, key)
    receipt = read_receipt(store, dataset, ref)
    if receipt and receipt.fate == "processed":
        return receipt
    url = f"s3://{dataset.bucket}/{printable(key, 200)}"
    older = receipt_prefix(dataset, ref).rpartition("/")[0]
    if receipt is None and any(True for _ in store.list(dataset.output_bucket, f"{older}/")):
        raise SupersededError(f"{url} was overwritten meanwhile: what it holds now is trained on next")
    raise RejectedError(f"{url} has not been prepared: nothing to train on")


def latest_receipt(store: ObjectStore, dataset: Dataset) -> Receipt:
    """The receipt of the object prepared last. Raises RejectedError when there is none."""
    found = sorted(
        store.list(dataset.output_bucket, f"{PREFIX}{dataset.name}/"),
        key=lambda ref: (ref.modified is not None, ref.modified),
        reverse=True,
    )
    for own in found:
        name = parse_receipt_key(own.key)
        if name and not name.key.startswith(canary_prefix(dataset)):
            receipt = load_receipt(store, dataset.output_bucket, own.key)[1]
            if receipt.fate == "processed" and stands(store, receipt):
                return receipt
    raise RejectedError(f"{dataset.name} has no prepared object yet: drop a file first")


def _prepared(store: ObjectStore, receipt: Receipt) -> pd.DataFrame:
    there, content = store.get(receipt.output_bucket, receipt.output_key)
    if there.etag != receipt.output_etag:
        raise SupersededError(
            f"{printable(receipt.output_url, 300)} was replaced meanwhile: its successor is trained on next"
        )
    body = io.BytesIO(content)
    if receipt.output_key.endswith(".csv"):
        return pd.read_csv(body)
    return pd.read_feather(body) if receipt.output_key.endswith(".arrow") else pd.read_parquet(body)


def select_features(frame: pd.DataFrame, target: str, chosen: Training) -> Split:
    """Split the rows, and keep the features that tell most about the target."""
    return stage(training.select)(stage(training.split)(frame, target, chosen), chosen)


def fit_and_evaluate(split: Split, chosen: Training) -> tuple[Any, Evaluation]:
    """Fit on the train rows; predict the others and measure."""
    estimator = stage(training.fit)(split, chosen)
    return estimator, stage(training.examine)(estimator, split, chosen)


@stage
def register_model(
    store: ObjectStore,
    dataset: Dataset,
    trained: training.Trained,
    chosen: Training,
    receipts: list[Receipt],
) -> Registered:
    """Store the model with its report, and show both; best is the one that beats all before."""
    card = models.describe(
        trained,
        chosen,
        dataset,
        data=tuple(Source(receipt_key=_own_key(dataset, r), etag=r.output_etag) for r in receipts),
        preprocessor_version=", ".join(sorted({r.preprocessor for r in receipts if r.preprocessor})),
        flow_run_id=str(runtime.flow_run.id or ""),
    )

    def render(card: ModelCard, last: ModelCard | None) -> str:
        return to_html(card, trained.evaluation, last)

    done = models.register(store, dataset, trained.estimator, card, render)
    text = to_markdown(done.card, trained.evaluation, done.last)
    create_markdown_artifact(
        text, key=f"model-{dataset.name}".replace("_", "-"), description=done.reason[:200]
    )
    return done


def _own_key(dataset: Dataset, receipt: Receipt) -> str:
    return receipt_key(dataset, ObjectRef(receipt.bucket, receipt.key, receipt.etag), receipt.fingerprint)


@task(timeout_seconds=TRACKING_SECONDS, cache_policy=NO_CACHE, persist_result=False)
def track(uri: SecretStr, store: ObjectStore, dataset: Dataset, done: Registered) -> None:
    """Log the model to MLflow, too; what prevents that is only told in the run's log."""
    try:
        tracking.record(uri.get_secret_value(), store, dataset, done)
    except DropflowError as error:
        get_run_logger().warning("%s is not, or not wholly, in MLflow: %s", done.card.name, error)


def verdict(done: Registered) -> str:
    """What the notification says."""
    card = done.card
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in card.metrics.items())
    kept = "it is the best now" if done.is_best else "the best stays as it was"
    return f"{card.name}: {metrics}; {done.reason}: {kept}"
