"""Bring datasets and automations to the Prefect server: what `dropflow apply` does."""

from collections.abc import Iterator

import httpx

from dropflow.changes import Change
from dropflow.declarations import load_datasets
from dropflow.prefect_api import refused
from dropflow.prefect_env import export_prefect_environment
from dropflow.settings import Settings
from dropflow.tls import unreachable


def apply(settings: Settings, *, dry_run: bool = False) -> Iterator[Change]:
    """Work pool, deployments, notification block, automations. Idempotent.

    `dry_run`: tell what would change, and touch nothing.
    Raises DatasetError, AutomationError or SettingsError before anything on the server is touched;
    TransientError or PermanentError where the server does not answer, or refuses.
    """
    try:
        yield from _apply(settings, dry_run=dry_run)
    except httpx.HTTPStatusError as error:
        asked = f"{error.request.method} {error.request.url.path}"
        raise refused(error.response, asked) from error
    except httpx.TransportError as error:
        raise unreachable("Prefect API", error) from error


def _apply(settings: Settings, *, dry_run: bool) -> Iterator[Change]:
    datasets = load_datasets(settings.datasets_dir, settings.raw_prefixes)
    export_prefect_environment(settings)
    # Only now: importing Prefect takes seconds and reads the environment.
    from automations.definitions import check_definitions, load_definitions, placeholders
    from automations.sync import sync
    from flows.deployments import ensure_work_pool, sync_deployments
    from notifications.block import check_urls, save_block

    definitions = load_definitions(settings.automations_dir)
    check_definitions(definitions, datasets.by_name)
    check_urls(settings.notify_urls)
    yield ensure_work_pool(settings.work_pool, dry_run=dry_run)
    deployments: dict[str, dict[str, str]] = {}
    for change, deployment_id in sync_deployments(datasets, settings.work_pool, dry_run=dry_run):
        yield change
        if change.action != "removed":
            flow, _, dataset = change.name.partition("/")
            deployments.setdefault(dataset, {})[flow] = deployment_id
    block_id, saved = save_block(settings.notify_urls, dry_run=dry_run)
    if saved:
        yield saved
    values = [
        placeholders(datasets[name], ids, block_id, settings.runbooks_url)
        for name, ids in deployments.items()
    ]
    yield from sync(definitions, values, dry_run=dry_run)
