"""Keep the server's automations in step with the files: create, update only what changed, remove."""

from collections.abc import Iterator

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.schemas.automations import Automation, AutomationCore

from automations.definitions import MANAGED, NOTIFICATION_BLOCK, TRAIN_DEPLOYMENT, Definition
from dropflow.changes import Change

PAGE = 100


def sync(
    definitions: list[Definition], deployments: dict[str, dict[str, str]], block_id: str | None
) -> Iterator[Change]:
    """Apply the definitions for every dataset (`deployments`: by dataset, the flows' deployment ids).

    An automation whose file and placeholders have not changed is left alone, for two reasons: an
    update resets its trigger's state, and someone may have adjusted it in the UI.
    """
    wanted = {a.name: a for a in _wanted(definitions, deployments, block_id)}
    with get_client(sync_client=True) as client:
        managed = {a.name: a for a in _managed(client)}
        for name, automation in wanted.items():
            yield Change("automation", name, _bring(client, automation, managed.get(name)))
        for name, extra in managed.items():
            if name not in wanted:
                client.delete_automation(extra.id)
                yield Change("automation", name, "removed")


def _wanted(
    definitions: list[Definition], deployments: dict[str, dict[str, str]], block_id: str | None
) -> Iterator[AutomationCore]:
    for dataset, ids in deployments.items():
        values = {"dataset": dataset, "deployment_id": ids["preprocess"]}
        if "train" in ids:
            values[TRAIN_DEPLOYMENT] = ids["train"]
        if block_id:
            values[NOTIFICATION_BLOCK] = block_id
        for definition in definitions:
            if definition.optional <= values.keys():
                yield definition.fill(values)


def _managed(client: SyncPrefectClient) -> Iterator[Automation]:
    offset = 0
    while page := client.read_automations(limit=PAGE, offset=offset):
        yield from (automation for automation in page if MANAGED in automation.tags)
        offset += len(page)


def _bring(client: SyncPrefectClient, wanted: AutomationCore, known: Automation | None) -> str:
    if known is None:
        client.create_automation(wanted)
        return "created"
    if set(wanted.tags) <= set(known.tags):
        return "unchanged"
    client.update_automation(known.id, wanted)
    return "updated"
