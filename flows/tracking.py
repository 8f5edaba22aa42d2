"""Registered models in MLflow, too: one run each. No Prefect here; MLflow is imported only when asked for.

Nothing depends on what is logged here, so a server that is slow or gone costs seconds and a warning.
"""

import os
from typing import TYPE_CHECKING
from urllib.parse import unquote

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError

from dropflow.datasets import Dataset
from dropflow.errors import PermanentError
from dropflow.objects import printable
from dropflow.storage import ObjectStore
from flows import models
from flows.models import ModelCard, Registered

if TYPE_CHECKING:
    from mlflow import MlflowClient

ENVIRONMENT = {
    # MLflow would try a dead server for minutes, and a run whose answer was lost would be made twice.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    # It would send usage data to its makers, and print the URI with its credentials.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""How MLflow is told to behave; what is set already stays."""
LONGEST_PARAM, LONGEST_TAG, MOST_PARAMS = 6000, 5000, 100
"""MLflow refuses more; tags of 5,000 characters suit older servers, too."""
IDENTITY = ("dropflow.model", "dropflow.flow_run_id")
"""Tags of one registration; the name alone is given again once the buckets are emptied."""
ARTIFACTS = ("model.json", "report.html")


def record(uri: str, store: ObjectStore, dataset: Dataset, done: Registered) -> None:
    """Log a registered model to the experiment named after its dataset, unless a run of it is there.

    Raises PermanentError, which shows no credentials of the URI; TransientError of the object store.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
    except ImportError as error:
        raise PermanentError("MLflow is not installed: pip install 'dropflow[mlflow]'") from error
    from sqlalchemy.exc import SQLAlchemyError

    try:
        _log(MlflowClient(uri), store, dataset, done)
    except (
        MlflowException,
        *(OSError, Boto3Error, BotoCoreError, ClientError),  # all of requests; artifacts on disk or in S3
        ImportError,  # the driver of a database or an artifact store
        SQLAlchemyError,  # a database that is away
        ValueError,  # a URI that is none
    ) as error:
        text = printable(_without_secrets(str(error), uri), 600)
        raise PermanentError(f"{type(error).__name__}: {text}") from None


def _log(client: "MlflowClient", store: ObjectStore, dataset: Dataset, done: Registered) -> None:
    """A run that an earlier attempt began is carried on; what it holds already is only said again."""
    from mlflow.entities import Metric, Param

    card, tags = done.card, _tags(dataset, done)
    moment = int(card.trained_at.timestamp() * 1000)
    experiment = _experiment(client, dataset.name)
    same = " and ".join(f"tags.`{name}` = '{tags[name]}'" for name in IDENTITY)
    run = next(iter(client.search_runs([experiment], same, max_results=1)), None)
    if run and run.info.status == "FINISHED":
        return
    run = run or client.create_run(experiment, moment, tags, card.name)
    baseline = {f"baseline_{name}": value for name, value in (card.baseline_metrics or {}).items()}
    client.log_batch(
        run.info.run_id,
        [Metric(name, value, moment, 0) for name, value in (card.metrics | baseline).items()],
        [Param(name, str(value)[:LONGEST_PARAM]) for name, value in _params(card).items()][:MOST_PARAMS],
    )
    try:
        for name in ARTIFACTS:
            body = store.get(dataset.output_bucket, models.folder(dataset, card.version) + name)[1]
            client.log_text(run.info.run_id, body.decode(), name)
    finally:
        # Without its artifacts, too: they may be forbidden.
        client.set_terminated(run.info.run_id, end_time=moment)


def _experiment(client: "MlflowClient", name: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name)
        except MlflowException:
            # Another training was quicker.
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return found.experiment_id


def _params(card: ModelCard) -> dict[str, object]:
    same = card.model_dump(
        include={"model", "task", "target", "seed", "rows_train", "rows_test", "better_by"}
    )
    options = {f"options.{name}": value for name, value in card.options.items()}
    return same | {"features": len(card.features)} | options


def _tags(dataset: Dataset, done: Registered) -> dict[str, str]:
    card = done.card
    tags = card.model_dump(include={"dataset", "version", "preprocessor_version", "flow_run_id"}) | {
        "model": card.name,
        # What it was then: later models do not change the runs before.
        "best_when_registered": "yes" if done.is_best else "no",
        "verdict": done.reason,
        "data": "\n".join(source.receipt_key for source in card.data),
        "url": f"s3://{dataset.output_bucket}/{models.folder(dataset, card.version)}",
    }
    return {f"dropflow.{name}": str(value)[:LONGEST_TAG] for name, value in tags.items()}


def _without_secrets(text: str, uri: str) -> str:
    before = uri.rpartition("@")[0]
    account = before.partition("//")[2] or before
    password = account.partition(":")[2]
    for secret in (account, password, unquote(password), uri.partition("?")[2]):
        text = text.replace(secret, "***") if secret else text
    return text
