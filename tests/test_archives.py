"""Archives that skops would load, or die of, and that are refused before it builds anything."""

import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import skops.io

from flows import archives

VALUES = {"text": "ä", "numbers": np.arange(3.0), "mixed": [1, (True, None)], "same": [1, 1]}


def changed(content: bytes, change: Callable[[Any], Any]) -> bytes:
    """The archive with another schema."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(out, "w") as target:
        for item in source.infolist():
            body = source.read(item)
            if item.filename == "schema.json":
                body = json.dumps(change(json.loads(body))).encode()
            target.writestr(item, body)
    return out.getvalue()


def refused(content: bytes, told: str) -> None:
    with pytest.raises(archives.ArchiveError, match=told):
        archives.loads(content, archives.PLAIN)


def test_values_come_back() -> None:
    found = archives.loads(archives.dumps(VALUES), archives.PLAIN)
    np.testing.assert_array_equal(found.pop("numbers"), VALUES["numbers"])
    assert found == {name: value for name, value in VALUES.items() if name != "numbers"}


@pytest.mark.parametrize(
    "value", [np.exp, [np.sin], {"a": slice(1)}, b"raw", {1, 2}, np.random.default_rng(0)]
)
def test_what_skops_trusts_and_we_do_not_make(value: Any) -> None:
    content = skops.io.dumps(value)
    assert not skops.io.get_untrusted_types(data=content)
    refused(content, "holds the type .*, which is not trusted")


def test_a_type_that_is_to_be_built_in_another_way() -> None:
    def swapped(schema: Any) -> Any:
        return schema | {"__loader__": "ObjectNode"}

    refused(changed(archives.dumps([1]), swapped), r"holds the type builtins\.list \(ObjectNode\)")


def test_an_earlier_protocol_of_skops() -> None:
    refused(
        changed(archives.dumps([1]), lambda schema: schema | {"protocol": 0}), "another protocol of skops"
    )


def test_a_reference_without_a_type() -> None:
    """skops takes what else has the number: here the whole list, which would hold itself."""

    def circular(schema: Any) -> Any:
        return schema | {"content": [{"__id__": schema["__id__"]}]}

    refused(changed(archives.dumps([1]), circular), r"holds the type None\.None \(None\)")


def test_few_bytes_that_make_many_objects() -> None:
    """Thirty lists, each of the one before twice: a thousand million objects for whoever looks at each."""

    def grown(schema: Any) -> Any:
        one = schema["content"][0]
        for number in range(1, 31):
            shell = {**schema, "__id__": number}
            one = {**shell, "content": [one, {**one, "content": []}]}
        return schema | {"content": [one]}

    refused(changed(archives.dumps([[]]), grown), "says two things of one object")


@pytest.mark.parametrize("number", [0, None, True, "5", -5, 5.0])
def test_an_array_that_is_read_again_and_again(number: Any) -> None:
    """skops reads it once for each number, and each time where there is none."""

    def repeated(schema: Any) -> Any:
        return schema | {"__id__": number, "file": f"{number}.npy"}

    refused(changed(archives.dumps(np.arange(3.0)), repeated), "without a number of its own")


def test_an_array_of_another() -> None:
    refused(
        changed(archives.dumps(np.arange(3.0)), lambda schema: schema | {"file": "schema.json"}),
        "without a number of its own",
    )


def test_a_compressed_archive() -> None:
    content = skops.io.dumps(np.zeros(100_000), compression=zipfile.ZIP_DEFLATED)
    assert len(content) < 10_000
    refused(content, "is compressed, which none of ours is")


def test_a_large_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MOST_BYTES", 10_000)
    refused(archives.dumps(np.zeros(10_000)), "would take 0.0 GiB of memory: too large")


@pytest.mark.parametrize("schema", [[], {}, None, "text", {"protocol": 2, "__loader__": []}])
def test_a_schema_that_is_none(schema: Any) -> None:
    refused(changed(archives.dumps([1]), lambda _: schema), "cannot be read|another protocol|not trusted")


def test_a_schema_too_deep_to_be_followed() -> None:

    out = io.BytesIO()
    text = '{"a":' * 100_000 + "1" + "}" * 100_000
    with zipfile.ZipFile(out, "w") as target:
        target.writestr("schema.json", text)
    refused(out.getvalue(), "cannot be read: it is no skops file")
