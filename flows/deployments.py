"""Deployments of the flows for each dataset, in the project's work pool."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from prefect import Flow
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

from dropflow.changes import NEW_ID, Change, Difference, differences
from dropflow.datasets import Dataset, Datasets
from flows.preprocess import preprocess
from flows.train import train
from flows.worker import WarmWorker

MANAGED = "dropflow"
PAGE = 100


def ensure_work_pool(name: str, *, dry_run: bool = False) -> Change:
    """Create the work pool unless it is there; its settings in the UI are left alone."""
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(name)
        except ObjectNotFound:
            pool = WorkPoolCreate(
                name=name,
                type=WarmWorker.type,
                description="Workers of `dropflow worker`: warm processes for preprocessing.",
                base_job_template=WarmWorker.get_default_base_job_template(),
            )
            if not dry_run:
                client.create_work_pool(pool)
            return Change("work pool", name, "created")
    return Change("work pool", name, "unchanged")


@dataclass(frozen=True)
class Wanted:
    """One deployment as it should be."""

    flow: Flow[..., Any]
    dataset: Dataset
    fields: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.flow.name}/{self.dataset.name}"

    def version(self, work_pool: str) -> str:
        schedule = self.fields.get("schedule")
        plain = {name: value for name, value in self.fields.items() if name != "schedule"}
        parts = [plain, schedule.model_dump() if schedule else None, self.flow.parameters.model_dump()]
        text = json.dumps([*parts, work_pool], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def deployment(self, work_pool: str, *, paused: bool) -> RunnerDeployment:
        deployment = self.flow.to_deployment(
            name=self.dataset.name,
            version=self.version(work_pool),
            paused=paused,
            parameters={"dataset": self.dataset.name},
            tags=[MANAGED, f"dataset:{self.dataset.name}"],
            entrypoint_type=EntrypointType.MODULE_PATH,
            **self.fields,
        )
        assert isinstance(deployment, RunnerDeployment)  # a coroutine only where an event loop runs
        return deployment


def wanted(datasets: Datasets) -> Iterator[Wanted]:
    """`preprocess/<name>` for each dataset, and `train/<name>` for those with a `train:` section."""
    for dataset in datasets.by_name.values():
        about = f"{dataset.description}\n\n" if dataset.description else ""
        schedule = None
        if dataset.schedule:
            schedule = CronSchedule(cron=dataset.schedule, timezone=dataset.timezone)
        text = (
            f"{about}Prepares `{dataset.match}` into `{dataset.output_bucket}`. Custom run: give keys and, "
            "if you like, another way to fill gaps, another split, or steps to leave out."
        )
        yield Wanted(preprocess, dataset, {"description": text, "schedule": schedule})
        if dataset.train:
            text = (
                f"{about}Trains a {dataset.train.model} for `{dataset.target}` on prepared objects, and says "
                "whether it is better than the best so far."
            )
            yield Wanted(train, dataset, {"description": text})


def sync_deployments(
    datasets: Datasets, work_pool: str, *, dry_run: bool = False
) -> Iterator[tuple[Change, str]]:
    """Create or update the deployments and remove those of datasets that are gone.

    Yields each change, named as `flow/dataset`, with the deployment's id. What has not changed is left
    alone: applying again would delete its scheduled runs. One that is paused stays paused.
    """
    with get_client(sync_client=True) as client:
        known = {
            f"{one.name}/{found.name}": found
            for one in (preprocess, train)
            for found in _managed(client, one)
        }
        for new in wanted(datasets):
            old = known.pop(new.name, None)
            if old and old.version == new.version(work_pool):
                yield Change("deployment", new.name, "unchanged"), str(old.id)
                continue
            deployment = new.deployment(work_pool, paused=bool(old and old.paused))
            what = tuple(_differences(old, deployment, work_pool)) if old else ()
            deployment_id = str(old.id) if old else NEW_ID
            if not dry_run:
                deployment_id = str(deployment.apply(work_pool_name=work_pool))
            action = "updated" if old else "created"
            yield Change("deployment", new.name, action, differences=what), deployment_id
        for name, gone in known.items():
            if not dry_run:
                client.delete_deployment(gone.id)
            yield Change("deployment", name, "removed"), str(gone.id)


def _differences(old: DeploymentResponse, new: RunnerDeployment, work_pool: str) -> Iterator[Difference]:
    def plain(found: DeploymentResponse | RunnerDeployment) -> dict[str, Any]:
        schedules = [one.schedule.model_dump(mode="json") for one in found.schedules or () if one.schedule]
        names = ("description", "entrypoint", "tags", "parameters")
        return {**{name: getattr(found, name) for name in names}, "schedules": schedules}

    schema = new._parameter_openapi_schema.model_dump(mode="json", exclude_unset=True)
    before = {"work_pool_name": old.work_pool_name, "parameter_openapi_schema": old.parameter_openapi_schema}
    after = {"work_pool_name": work_pool, "parameter_openapi_schema": schema}
    return differences({**plain(old), **before}, {**plain(new), **after})


def _managed(client: SyncPrefectClient, of: Flow[..., Any]) -> list[DeploymentResponse]:
    tagged = DeploymentFilter(tags=DeploymentFilterTags(all_=[MANAGED]))
    ours = FlowFilter(name=FlowFilterName(any_=[of.name]))
    found: list[DeploymentResponse] = []
    while page := client.read_deployments(
        flow_filter=ours, deployment_filter=tagged, limit=PAGE, offset=len(found)
    ):
        found += page
    return found
