"""Messages: what a person reads on a phone, as text, HTML or Markdown. Pure.

Names and reasons come from files: they are shown as what they are, never as markup.
"""

import html
import re
from typing import Literal

from pydantic import BaseModel, ConfigDict

from dropflow.objects import printable

MOST_TOLD = 10
"""Objects that a message names; the others are counted."""
Format = Literal["text", "html", "markdown"]
SECTIONS = {
    "failure": "failed",
    "waiting": "waiting",
    "rejected": "rejected",
    "missing": "missing",
    "canary": "canary",
    "channel": "channel",
}
"""Of docs/runbooks.md."""
TITLES = {
    "success": "Ready",
    "failure": "Failed",
    "waiting": "Waiting",
    "rejected": "Rejected",
    "recovered": "Recovered",
    "missing": "Missing",
    "late": "Late",
    "canary": "Canary",
    "channel": "Channel down",
    "test": "Test",
}
TO_DO = {
    "failure": "When the cause is mended, run it again: {again}",
    "waiting": "Nothing is lost, and it is tried on and on. What is in the way: dropflow doctor",
    "rejected": "Mend the file and drop it again; or mend the dataset, and run it again: {again}",
    "missing": "Ask whoever sends it; if it is not meant to come any more, change `expect` of the dataset.",
    "canary": "Something on the way from drop to receipt does not work: dropflow status",
    "channel": "What it has missed is told here, and tried there again: dropflow notify test",
}


class Told(BaseModel):
    """One object of a message."""

    model_config = ConfigDict(frozen=True)

    url: str
    reason: str
    seconds: float | None = None
    run_url: str = ""
    report_key: str = ""

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def key(self) -> str:
        return self.url.removeprefix("s3://").partition("/")[2]


class Message(BaseModel):
    """One message: what happened to how many objects of a dataset. `told`: at most MOST_TOLD of them."""

    model_config = ConfigDict(frozen=True)

    kind: str
    dataset: str
    count: int
    told: tuple[Told, ...]
    again: str = ""
    """Where the dataset is run by hand."""
    repeated: bool = False
    """Whether the same was told before."""
    runbooks: str = ""
    """The address of docs/runbooks.md."""

    @property
    def subject(self) -> str:
        title = TITLES[self.kind]
        if self.kind == "missing" and self.told:
            return f"{title}: {self.dataset} · {self.told[0].reason}"
        if self.count == 1 and self.told:
            return f"{title}: {self.dataset} · {printable(self.told[0].name, 80)}"
        more = "more " if self.repeated else ""
        return f"{title}: {self.dataset} · {self.count:,} {more}files"

    @property
    def to_do(self) -> str:
        """What to do about it, in one line; "" where there is nothing to do."""
        if self.kind not in TO_DO:
            return ""
        only = self.told[0].key if self.count == 1 and self.told else ""
        command = "dropflow replay " + (
            _quoted(only) if only else f"--{_fate(self.kind)} --dataset {self.dataset}"
        )
        return TO_DO[self.kind].format(again=command)

    @property
    def runbook(self) -> str:
        """The address of the section about it; "" where there is none."""
        return f"{self.runbooks}#{SECTIONS[self.kind]}" if self.runbooks and self.kind in SECTIONS else ""


def _fate(kind: str) -> str:
    return "failed" if kind == "failure" else "rejected"


def _quoted(key: str) -> str:
    """For a POSIX shell, and on one line: a hostile key must do nothing where it is pasted."""
    return "'" + printable(key, 500).replace("'", "'\\''") + "'"


def render(message: Message, form: Format, *, short_title: bool = False) -> tuple[str, str]:
    """Subject and body. `short_title`: without names, where nobody knows how a service shows a title."""
    body = {"text": _text, "html": _html, "markdown": _markdown}[form](message)
    many = f" · {message.count:,} files" if message.count > 1 else ""
    short = f"{TITLES[message.kind]}: {message.dataset}{many}"
    return short if short_title and form != "text" else message.subject, body


def _facts(told: Told) -> list[str]:
    facts = [printable(told.reason, 500)] if told.reason else []
    if told.seconds is not None:
        facts.append(f"{told.seconds:.0f} s from drop to receipt")
    return facts


def _more(message: Message) -> str:
    rest = message.count - len(message.told)
    return f"and {rest:,} more: dropflow status, or its page" if rest > 0 else ""


def _text(message: Message) -> str:
    lines: list[str] = []
    for told in message.told:
        lines += [printable(told.url, 300), *_facts(told)]
        lines += [f"Run: {told.run_url}"] if told.run_url else []
        lines.append("")
    lines += [line for line in (_more(message), message.to_do) if line]
    lines += [f"{text}: {address}" for text, address in _links(message)]
    return "\n".join(lines).strip()


def _links(message: Message) -> list[tuple[str, str]]:
    """What is offered, with addresses."""
    form = message.again if message.kind in TO_DO else ""
    return [(text, at) for text, at in (("Run by hand", form), ("Runbook", message.runbook)) if at]


def _html(message: Message) -> str:
    parts: list[str] = []
    for told in message.told:
        facts = "<br>".join(html.escape(fact) for fact in _facts(told))
        link = f'<br><a href="{html.escape(told.run_url)}">the run</a>' if told.run_url else ""
        parts.append(f"<p><b>{html.escape(printable(told.url, 300))}</b><br>{facts}{link}</p>")
    parts += [f"<p>{html.escape(line)}</p>" for line in (_more(message), message.to_do) if line]
    for text, address in _links(message):
        link = f'<a href="{html.escape(address)}">{text}</a>'
        parts.append(f"<p>{link if _can_be_followed(address) else html.escape(f'{text}: {address}')}</p>")
    return "".join(parts)


def _markdown(message: Message) -> str:
    parts: list[str] = []
    for told in message.told:
        lines = [_code(printable(told.url, 300)), *(_code(fact) for fact in _facts(told))]
        lines += [f"[the run]({told.run_url})"] if told.run_url else []
        parts.append("  \n".join(lines))
    parts += [_code(line) for line in (_more(message), message.to_do) if line]
    for text, address in _links(message):
        parts.append(f"[{text}]({address})" if _can_be_followed(address) else f"{text}: {_code(address)}")
    return "\n\n".join(parts)


def render_text(text: str, form: Format, ui_url: str = "") -> str:
    """A finished text in which nobody can tell a template's words from a file's: shown as what it is.

    `ui_url`: only addresses below it can be followed.
    """
    if form == "text":
        return text
    as_html = form == "html"
    literal = html.escape if as_html else _code_within
    link = '<a href="{0}">{0}</a>' if as_html else "<{0}>"
    below = re.compile(f"({re.escape(ui_url.rstrip('/'))}/[\\w/.-]*)" if ui_url else "($^)")
    lines = []
    for line in text.splitlines():
        # What stands between the addresses, and every second time an address.
        parts = enumerate(below.split(line))
        lines.append("".join(link.format(part) if n % 2 else literal(part) for n, part in parts if part))
    return ("<br>" if as_html else "  \n").join(lines)


def _can_be_followed(address: str) -> bool:
    """Not a file's name."""
    return address.startswith(("http://", "https://"))


def _code_within(text: str) -> str:
    """Spaces around it stay out: in a code span they get lost."""
    return re.sub(r"\S(?:.*\S)?", lambda found: _code(found[0]), text)


def _code(text: str) -> str:
    """A CommonMark code span: nothing in it is markup. Backticks inside need a longer fence.

    Some services look for @everyone and the like even there: an invisible space parts them.
    """
    text = text.replace("@", "@\u200b").replace("<!", "<\u200b!")
    fence = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    padding = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{padding}{text}{padding}{fence}"
