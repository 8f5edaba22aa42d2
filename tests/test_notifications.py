"""Channels and the block, against a real SMTP server."""

import asyncio
from collections.abc import Iterator

import pytest
import tenacity
from prefect.blocks.abstract import NotificationError
from pydantic import SecretStr

from dropflow import retry
from dropflow.demo import Mailbox, body_of, smtp_server, subject_of
from dropflow.errors import SettingsError
from notifications.block import DropflowNotifications
from notifications.channels import open_channel, split_urls

DEAD = "mailto://127.0.0.1:9?from=a@example.com&to=b@example.com"


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    # Apprise itself waits seconds between messages to one host.
    monkeypatch.setattr(retry.retrying, "stop", tenacity.stop_after_attempt(2))
    monkeypatch.setattr(retry.retrying, "wait", tenacity.wait_none())


@pytest.fixture
def smtp() -> Iterator[tuple[Mailbox, SecretStr]]:
    with smtp_server() as found:
        yield found


def test_a_message_arrives_as_it_was_written(smtp: tuple[Mailbox, SecretStr]) -> None:
    mailbox, url = smtp
    text = "s3://raw/churn/<img src=x onerror=alert(1)> {{ 7*7 }} ü.csv\n\nRun: http://127.0.0.1/runs"
    asyncio.run(DropflowNotifications(urls=url).notify(text, "Ready: churn · ü {{ 7*7 }}.csv"))
    (mail,) = mailbox.messages
    assert subject_of(mail) == "Ready: churn · ü {{ 7*7 }}.csv"
    assert body_of(mail).splitlines() == text.splitlines()


def test_a_dead_channel_is_named_and_does_not_silence_the_others(smtp: tuple[Mailbox, SecretStr]) -> None:
    mailbox, url = smtp
    block = DropflowNotifications(urls=SecretStr(f"{DEAD}\n{url.get_secret_value()}"))
    with pytest.raises(NotificationError) as raised:
        asyncio.run(block.notify("body", "subject"))
    assert "mailto" in raised.value.log
    assert "example.com" not in raised.value.log, "the rest of the URL is secret"
    assert len(mailbox.messages) == 1


@pytest.mark.parametrize("scheme", ["slak", "slack", "tgram"])
def test_a_url_that_apprise_does_not_take_is_named_by_scheme_only(
    scheme: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(SettingsError, match=scheme) as raised:
        open_channel(SecretStr(f"{scheme}://hush"))
    printed = capfd.readouterr()
    assert "hush" not in f"{raised.value}{caplog.text}{printed.out}{printed.err}"


def test_urls_are_separated_by_any_space() -> None:
    urls = split_urls(SecretStr(" mailto://a \n\t slack://b "))
    assert [url.get_secret_value() for url in urls] == ["mailto://a", "slack://b"]
    assert split_urls(None) == []


def test_the_urls_do_not_show() -> None:
    assert "hush" not in repr(DropflowNotifications(urls=SecretStr("slack://hush")))
