"""The Prefect block behind every message: can be picked in the UI, used by any automation."""

import asyncio

from prefect.blocks.abstract import NotificationBlock, NotificationError
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import BlockDocument
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_UI_URL
from pydantic import Field, SecretStr

from dropflow.changes import NEW_ID, Change, Difference
from dropflow.errors import DropflowError
from dropflow.prefect_api import NOTIFICATION_BLOCK, NOTIFICATION_BLOCK_TYPE
from notifications.channels import Channel, channels, chosen, open_channel, split_urls


class DropflowNotifications(NotificationBlock):
    """Send messages to any number of Apprise channels: Slack, e-mail and over 100 more."""

    _block_type_name = "Dropflow Notifications"
    _block_type_slug = NOTIFICATION_BLOCK_TYPE

    urls: SecretStr = Field(
        title="Apprise URLs",
        description="Where messages go, separated by spaces or newlines: slack://…, mailto://…; "
        "the forms are listed at https://appriseit.com",
    )

    async def notify(self, body: str, subject: str | None = None) -> None:
        """Send to every channel without a tag; one that fails does not keep the others from being told.

        Nothing in it is markup: an automation's template has put texts into it that come from files.
        Raises NotificationError (which marks the automation's action as failed) naming each
        channel that did not take the message.
        """
        to = chosen(channels(self.urls), ())
        sends = (asyncio.to_thread(_send, channel, subject or "", body) for channel in to)
        results = await asyncio.gather(*sends)
        problems = [problem for problem in results if problem]
        if problems:
            raise NotificationError("; ".join(problems))


def _send(channel: Channel, subject: str, body: str) -> str:
    """Send to one channel; the problem in words, or "" when it was delivered."""
    try:
        channel.deliver_text(subject, body, PREFECT_UI_URL.value() or "")
    except DropflowError as error:
        return str(error)
    return ""


def check_urls(urls: SecretStr | None) -> None:
    """Raises SettingsError for a URL that Apprise does not understand."""
    for url in split_urls(urls):
        open_channel(url)


def save_block(urls: SecretStr | None, *, dry_run: bool = False) -> tuple[str | None, Change | None]:
    """Store the URLs in the server's block unless they are there; its id and what was done.

    Without URLs the block stays as it is on the server (someone may have filled it in the UI); the
    id is None when there is none.
    """
    known = _known_block()
    if urls is None:
        if known is None:
            return None, None
        return str(known.id), Change(
            "notification block", NOTIFICATION_BLOCK, "unchanged", "as it is on the server"
        )
    if known and known.data["urls"] == urls.get_secret_value():
        return str(known.id), Change("notification block", NOTIFICATION_BLOCK, "unchanged")
    block_id = str(known.id) if known else NEW_ID
    if not dry_run:
        block_id = str(DropflowNotifications(urls=urls).save(NOTIFICATION_BLOCK, overwrite=True))
    what = (Difference("urls", "(secret)", "(another secret)"),) if known else ()
    action = "updated" if known else "created"
    return block_id, Change("notification block", NOTIFICATION_BLOCK, action, differences=what)


def _known_block() -> BlockDocument | None:
    with get_client(sync_client=True) as client:
        try:
            return client.read_block_document_by_name(NOTIFICATION_BLOCK, NOTIFICATION_BLOCK_TYPE)
        except ObjectNotFound:
            return None
