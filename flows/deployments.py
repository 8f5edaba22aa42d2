"""Deployments: one `preprocess/<dataset>` per dataset, in the project's work pool."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterTags,
    FlowFilter,
    FlowFilterName,
)
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.types.entrypoint import EntrypointType

from dropflow.changes import Change
from dropflow.datasets import Dataset, Datasets
from flows.preprocess import preprocess
from flows.worker import WarmWorker

MANAGED = "dropflow"
PAGE = 100


def ensure_work_pool(name: str) -> Change:
    """Create the work pool unless it is there; its settings in the UI are left alone."""
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(name)
        except ObjectNotFound:
            client.create_work_pool(
                WorkPoolCreate(
                    name=name,
                    type=WarmWorker.type,
                    description="Workers of `dropflow worker`: warm processes for preprocessing.",
                    base_job_template=WarmWorker.get_default_base_job_template(),
                )
            )
            return Change("work pool", name, "created")
    return Change("work pool", name, "unchanged")


def sync_deployments(datasets: Datasets, work_pool: str) -> Iterator[tuple[Change, str]]:
    """Create or update a deployment per dataset and remove those of datasets that are gone.

    Yields each change with the deployment's id. What has not changed is left alone: applying again
    would delete its scheduled runs and undo a pause made in the UI.
    """
    with get_client(sync_client=True) as client:
        known = {d.name: d for d in _managed(client)}
        for name, dataset in datasets.by_name.items():
            version = _version(dataset, work_pool)
            old = known.pop(name, None)
            if old and old.version == version:
                yield Change("deployment", f"preprocess/{name}", "unchanged"), str(old.id)
                continue
            new = _apply(dataset, work_pool, version)
            yield Change("deployment", f"preprocess/{name}", "updated" if old else "created"), new
        for name, gone in known.items():
            client.delete_deployment(gone.id)
            yield Change("deployment", f"preprocess/{name}", "removed"), str(gone.id)


def _managed(client: SyncPrefectClient) -> list[DeploymentResponse]:
    tagged = DeploymentFilter(tags=DeploymentFilterTags(all_=[MANAGED]))
    ours = FlowFilter(name=FlowFilterName(any_=[preprocess.name]))
    found: list[DeploymentResponse] = []
    while page := client.read_deployments(
        flow_filter=ours, deployment_filter=tagged, limit=PAGE, offset=len(found)
    ):
        found += page
    return found


def _definition(dataset: Dataset) -> dict[str, Any]:
    description = f"{dataset.description}\n\n" if dataset.description else ""
    schedule = CronSchedule(cron=dataset.schedule, timezone=dataset.timezone) if dataset.schedule else None
    return {
        "name": dataset.name,
        "description": f"{description}Prepares `{dataset.match}` into `{dataset.output_bucket}`. "
        "Custom run: give keys and, if you like, another way to fill gaps.",
        "parameters": {"dataset": dataset.name},
        "tags": [MANAGED, f"dataset:{dataset.name}"],
        "schedule": schedule,
    }


def _version(dataset: Dataset, work_pool: str) -> str:
    definition = _definition(dataset)
    schedule = definition.pop("schedule")
    parts = [definition, schedule.model_dump() if schedule else None, preprocess.parameters.model_dump()]
    text = json.dumps([*parts, work_pool], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _apply(dataset: Dataset, work_pool: str, version: str) -> str:
    deployment = preprocess.to_deployment(
        version=version, entrypoint_type=EntrypointType.MODULE_PATH, **_definition(dataset)
    )
    assert isinstance(deployment, RunnerDeployment)  # a coroutine only where an event loop runs
    return str(deployment.apply(work_pool_name=work_pool))
