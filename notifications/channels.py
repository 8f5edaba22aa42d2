"""Apprise channels: one URL each, whose text is a secret."""

import logging

import apprise
from pydantic import SecretStr

from dropflow.errors import SettingsError, TransientError
from dropflow.retry import retry

# Apprise logs a URL it cannot read in full, with its secrets.
logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)


def split_urls(urls: SecretStr | None) -> list[SecretStr]:
    """The single URLs of a setting that separates them by spaces or newlines."""
    return [SecretStr(url) for url in urls.get_secret_value().split()] if urls else []


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
    return channel


def send(channel: apprise.Apprise, subject: str, body: str) -> None:
    """Deliver one plain-text message. Raises TransientError when the channel keeps refusing it.

    A URL with several targets is tried once: those that took the message must not get it again.
    """
    if len(channel) == 1 and len(channel[0]) <= 1:
        retry(_send)(channel, subject, body)
    else:
        _send(channel, subject, body)


def _send(channel: apprise.Apprise, subject: str, body: str) -> None:
    if not channel.notify(body=body, title=subject, body_format=apprise.NotifyFormat.TEXT):
        scheme = channel[0].secure_protocol or channel[0].protocol
        raise TransientError(f"the notification channel {scheme} did not take the message")
