"""Channels and the block, against a real SMTP server."""

import asyncio
import json
import re
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser

import pytest
import tenacity
from apprise.plugins.discord import NotifyDiscord
from apprise.plugins.slack import NotifySlack
from markdown import markdown
from prefect.blocks.abstract import NotificationError
from prefect.settings import PREFECT_UI_URL, temporary_settings
from pydantic import SecretStr
from test_notifier import service

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


UI = "http://127.0.0.1:4200/runs/flow-run/1"
FROM_A_FILE = [
    "@channel @everyone <!channel> <!here> <@U123> <@&4>",
    "[click](https://evil.example) <https://evil.example|click> <a href=//evil.example>click</a>",
    "![x](https://evil.example/x.png) <img src=https://evil.example/x.png>",
    "*x* _y_ ~z~ `a` ``` ``b`` # not a heading & &lt;",
]
SUBJECT, LINES = f"Failed: {FROM_A_FILE[0]}", [*FROM_A_FILE, "", f"Run it again from its page: {UI}"]


class Page(HTMLParser):
    """What a reader of HTML sees, and what can be followed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str | None] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value for _, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


def sent_by_an_automation(url: str) -> None:
    """As the server does: template and content are one text by then."""
    with temporary_settings({PREFECT_UI_URL: "http://127.0.0.1:4200"}):
        asyncio.run(DropflowNotifications(urls=SecretStr(url)).notify("\n".join(LINES), SUBJECT))


def test_what_a_file_says_is_inert_in_slack(monkeypatch: pytest.MonkeyPatch) -> None:
    with service() as chat:
        monkeypatch.setattr(NotifySlack, "webhook_url", f"http://127.0.0.1:{chat.server_address[1]}")
        sent_by_an_automation("slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/#team")
    ((_, posted),) = chat.received
    assert posted["mrkdwn"] is False
    (shown,) = posted["attachments"]
    assert shown["title"] == ""
    assert not re.search("[<>]|&(?!(amp|lt|gt);)", shown["text"]), "Slack reads what stands in <…> only"
    assert unescape(shown["text"]).splitlines() == [SUBJECT, "", *LINES]


@pytest.mark.parametrize("kind", ["discord", "mattermost"])
def test_what_a_file_says_is_inert_where_markdown_is_read(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with service() as chat:
        monkeypatch.setattr(NotifyDiscord, "notify_url", f"http://127.0.0.1:{chat.server_address[1]}")
        discord = f"discord://{'4' * 18}/{'a' * 60}"
        sent_by_an_automation(discord if kind == "discord" else chat.url(kind))
    ((_, posted),) = chat.received
    assert not re.search("@(?!\u200b)|<!", json.dumps(posted, ensure_ascii=False)), "nobody is called"
    assert not posted.keys() & {"content", "allow_mentions"}, "Discord's ways to call somebody"
    text = posted["text"] if kind == "mattermost" else posted["embeds"][0]["description"]
    page = Page(markdown(text))
    assert page.tags <= {"p", "br", "code", "a"}
    assert page.links == [UI]
    shown = [line.strip() for line in page.text.replace("\u200b", "").splitlines() if line.strip()]
    assert shown == [line for line in (SUBJECT, *LINES) if line]


@pytest.mark.parametrize("form", ["html", "markdown", "text"])
def test_what_a_file_says_is_inert_in_a_mail(form: str, smtp: tuple[Mailbox, SecretStr]) -> None:
    mailbox, url = smtp
    sent_by_an_automation(url.get_secret_value().replace("format=text", f"format={form}"))
    (mail,) = mailbox.messages
    parts = {part.get_content_type(): part.get_payload(decode=True) for part in mail.walk()}
    if form != "markdown":
        assert subject_of(mail) == SUBJECT
    if form != "html":
        assert "text/html" not in parts
        return
    page = Page(parts["text/html"].decode())  # type: ignore[union-attr]
    assert page.tags <= {"html", "head", "body", "br", "a"}
    assert page.links == [UI]
    assert "".join(LINES) in page.text


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
