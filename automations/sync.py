"""Keep the server's automations in step with the files: create, update only what changed, remove."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.schemas.automations import Automation, AutomationCore

from automations.definitions import (
    MANAGED,
    Definition,
    changed_since,
    file_hash,
    plain,
)
from dropflow.changes import Change, differences

PAGE = 100


def sync(
    definitions: list[Definition], datasets: Iterable[Mapping[str, str]], *, dry_run: bool = False
) -> Iterator[Change]:
    """Apply the definitions for every dataset (`datasets`: the placeholders of each).

    An automation whose file and placeholders have not changed is left alone, for two reasons: an
    update resets its trigger's state, and someone may have adjusted it in the UI. What is disabled
    there stays so in an update, too.
    """
    wanted = [found for values in datasets for one in definitions if (found := one.fill(values))]
    with get_client(sync_client=True) as client:
        managed = _managed(client)
        # By hash first: in the UI it may have been given another name.
        known = [_take(managed, _made_as(automation)) for automation in wanted]
        for automation, same in zip(wanted, known, strict=True):
            found = same or _take(managed, _named_as(automation))
            yield _bring(client, automation, found, dry_run=dry_run)
        names = {automation.name for automation in wanted}
        for extra in managed:
            if not dry_run:
                client.delete_automation(extra.id)
            note = "there was another of this name" if extra.name in names else ""
            yield Change("automation", extra.name, "removed", note)


def _managed(client: SyncPrefectClient) -> list[Automation]:
    found: dict[str, Automation] = {}
    offset = 0
    while page := client.read_automations(limit=PAGE, offset=offset):
        found |= {str(automation.id): automation for automation in page if MANAGED in automation.tags}
        offset += len(page)
    return list(found.values())


def _made_as(wanted: AutomationCore) -> Callable[[Automation], bool]:
    return lambda known: file_hash(known) == file_hash(wanted)


def _named_as(wanted: AutomationCore) -> Callable[[Automation], bool]:
    return lambda known: known.name == wanted.name


def _take(managed: list[Automation], fits: Callable[[Automation], bool]) -> Automation | None:
    found = next(filter(fits, managed), None)
    if found:
        managed.remove(found)
    return found


def _bring(
    client: SyncPrefectClient, wanted: AutomationCore, known: Automation | None, *, dry_run: bool
) -> Change:
    if known is None:
        if not dry_run:
            client.create_automation(wanted)
        return Change("automation", wanted.name, "created")
    if file_hash(known) == file_hash(wanted):
        return Change("automation", wanted.name, "unchanged")
    # Every field is given, for Prefect keeps those that are not.
    values = {name: getattr(wanted, name) for name in AutomationCore.model_fields if name != "owner_resource"}
    values["enabled"] = wanted.enabled and known.enabled
    if not dry_run:
        client.update_automation(known.id, wanted.model_copy(update=values))
    note = "was changed in the UI" if changed_since(known) else ""
    what = tuple(differences(plain(known), plain(wanted)))
    return Change("automation", wanted.name, "updated", note, what)
