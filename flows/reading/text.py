"""Bytes to text: encodings, byte order marks, and what is no text."""

import re
from codecs import BOM_UTF8

from dropflow.errors import RejectedError
from dropflow.formats import Reading
from flows.reading.rejections import said
from flows.reading.signatures import MAGIC

# UTF-32 first: its mark for little endian begins with that of UTF-16.
_MARKS = {
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
    BOM_UTF8: "utf-8-sig",
}

_BLANK_LINES = re.compile(rb"(?:[ \t]*[\r\n])+")


def utf8(content: bytes, reading: Reading, kind: str) -> bytes:
    """The text as valid UTF-8 without a mark, without NUL and without blank lines before the first.

    `kind` is what it should be. Raises RejectedError. Plain UTF-8 is checked, not copied.
    """
    for magic, other in MAGIC.items():
        if content.startswith(magic):
            raise RejectedError(f"is {other}, not {kind} text: export the table as {kind}")
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), reading.encoding)
    text = _decode(content, encoding)
    if text.isspace() or not text:
        raise RejectedError("is blank: it has no header and no rows")
    if encoding == "utf-8-sig":
        content = content[len(BOM_UTF8) :]
    elif encoding != "utf-8":
        try:
            content = text.encode()
        except UnicodeEncodeError as error:
            raise RejectedError(f"is not {encoding} text: it has half a character (a surrogate)") from error
    del text
    if b"\0" in content:
        line = content.count(b"\n", 0, content.index(b"\0")) + 1
        raise RejectedError(f"is binary, not {kind} text: it has a NUL byte in line {line}")
    # pandas skips blank lines before the header; so does delimited._header.
    blank = _BLANK_LINES.match(content)
    return content[blank.end() :] if blank else content


def _decode(content: bytes, encoding: str) -> str:
    shown = "UTF-8" if encoding.startswith("utf-8") else encoding
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        # Codecs may tell the place within what they were given, which is not the whole without the mark.
        start = error.start + len(content) - len(error.object)
        line = content[:start].decode(encoding, "replace").count("\n") + 1
        other = "latin-1" if shown == "UTF-8" else "utf-8"
        raise RejectedError(
            f"is not {shown} text: byte 0x{error.object[error.start]:02x} in line {line}; "
            f"save it as {shown}, or say in the dataset's file how it is written: read: {{encoding: {other}}}"
        ) from error
    except (UnicodeError, LookupError, ValueError) as error:
        raise RejectedError(f"is not {shown} text: {said(error)}") from error
