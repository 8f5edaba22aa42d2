"""Apprise channels: one URL each, whose text is a secret; a tag in front (`ops=slack://…`) names it."""

import hashlib
import html
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apprise
from apprise.attachment.memory import AttachMemory
from pydantic import SecretStr

from dropflow.errors import SettingsError, TransientError
from dropflow.retry import retry
from notifications.messages import Format, Message, render, render_text

# Apprise logs a URL it cannot read in full, with its secrets; and below that, at TRACE, every one.
logging.getLogger("apprise").addFilter(lambda _: False)
MAIL = {"mailto", "mailtos", "ses", "sendgrid", "mailgun", "office365"}
MARKDOWN = {"mmost", "mmosts", "rocket", "rockets", "wxteams", "zulip", "discord"}
"""Services that read what they are sent as Markdown, but are sent plain text unless told otherwise."""
READ_SECONDS = 60.0
"""Apprise gives up after 4: a service that is slow would be sent, and show, the same again and again."""
_TAGGED = re.compile(r"(?:([A-Za-z0-9][A-Za-z0-9_-]{0,62})=)?([A-Za-z][A-Za-z0-9+.-]*://.*)", re.DOTALL)


@dataclass(frozen=True)
class Channel:
    """Where messages go. `tag`: "" for those that every dataset tells which names none."""

    url: SecretStr
    tag: str = ""

    @property
    def scheme(self) -> str:
        """Nothing but a scheme: a mistyped URL is all secret."""
        found = _TAGGED.fullmatch(self.url.get_secret_value())
        return found[2].partition("://")[0][:20] if found and not found[1] else "unreadable"

    @property
    def targets(self) -> int:
        """To how many places one message goes. Raises SettingsError."""
        return sum(len(service) for service in open_channel(self.url))

    @property
    def name(self) -> str:
        """Tells channels apart, shows nothing of the secret."""
        digest = hashlib.sha256(self.url.get_secret_value().encode()).hexdigest()[:4]
        return f"{self.tag or self.scheme}-{digest}"

    def deliver(self, message: Message, report: bytes = b"") -> None:
        """Send once, in the form that the service likes. Raises TransientError.

        `report`: HTML to be attached where files are taken.
        """
        opened = self._opened()
        # Apprise turns HTML into Slack's own markup; that of Slack is no Markdown.
        form: Format = "html" if self.scheme == "slack" else opened[0].notify_format.value
        subject, body = render(message, form, short_title=self.scheme not in MAIL)
        attached: Any = None
        if report and all(service.attachment_support for service in opened):
            attached = AttachMemory(  # type: ignore[no-untyped-call]
                report.decode(), name="quality.html", mimetype="text/html"
            )
        _send(opened, subject, body, form, attached)

    def deliver_text(self, subject: str, body: str, ui_url: str = "") -> None:
        """Send a finished text, in which nothing is markup. Raises TransientError when it is not taken.

        `ui_url`: only addresses below it can be followed.
        """
        opened = self._opened()
        form: Format = opened[0].notify_format.value
        is_slack = self.scheme == "slack"
        has_title = form == "html" and all(service.title_maxlen > 0 for service in opened)
        if is_slack or not (has_title or form == "text"):
            # Nobody knows how a service shows a title: as markup, it may be.
            subject, body = "", f"{subject}\n\n{body}".strip()
        if is_slack:
            # In plain text Slack still calls and links what stands in <…>; it has no other escapes.
            form, body = "text", html.escape(body, quote=False)
            for service in opened:
                service.notify_format = apprise.NotifyFormat.TEXT
        send(opened, subject, render_text(body, form, ui_url), form)

    def _opened(self) -> apprise.Apprise:
        opened = open_channel(self.url)
        if self.scheme in MARKDOWN:
            for service in opened:
                service.notify_format = apprise.NotifyFormat.MARKDOWN
        return opened


def channels(urls: SecretStr | None) -> list[Channel]:
    """The channels of a setting that separates them by spaces or newlines."""
    return list(_channels(urls.get_secret_value())) if urls else []


def _channels(text: str) -> Iterator[Channel]:
    for word in text.split():
        found = _TAGGED.fullmatch(word)
        tag, url = (found[1] or "", found[2]) if found else ("", word)
        yield Channel(SecretStr(url), tag)


def chosen(known: Sequence[Channel], tags: Sequence[str]) -> list[Channel]:
    """Those of the tags; all without one where none is given, or none of that tag is there."""
    tagged = [channel for channel in known if channel.tag in tags]
    return tagged or [channel for channel in known if not channel.tag] or list(known)


def split_urls(urls: SecretStr | None) -> list[SecretStr]:
    """The single URLs, without tags."""
    return [channel.url for channel in channels(urls)]


def open_channel(url: SecretStr) -> apprise.Apprise:
    """Raises SettingsError, which names the scheme but never the rest of the URL."""
    channel = apprise.Apprise(asset=apprise.AppriseAsset(app_id="Dropflow", app_desc="Dropflow"))
    text = url.get_secret_value()
    if not channel.add(text):
        scheme = text.partition("://")[0] if "://" in text else "(none)"
        raise SettingsError(
            f"a notification URL with the scheme {scheme[:20]!r} is not one Apprise understands; "
            "see https://appriseit.com for the forms"
        )
    for service in channel:
        service.socket_read_timeout = max(service.socket_read_timeout, READ_SECONDS)
    return channel


def send(channel: apprise.Apprise, subject: str, body: str, form: Format) -> None:
    """Deliver one message. Raises TransientError when the channel keeps refusing it.

    A URL with several targets is tried once: those that took the message must not get it again.
    """
    if len(channel) == 1 and len(channel[0]) <= 1:
        retry(_send)(channel, subject, body, form)
    else:
        _send(channel, subject, body, form)


def _send(channel: apprise.Apprise, subject: str, body: str, form: Format, attach: Any = None) -> None:
    if not channel.notify(body=body, title=subject, body_format=apprise.NotifyFormat(form), attach=attach):
        scheme = channel[0].secure_protocol or channel[0].protocol
        raise TransientError(f"the notification channel {scheme} did not take the message")
