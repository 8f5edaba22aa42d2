"""Files that nobody would send on purpose, each through a whole Preparation: right, or rejected with a reason.

Never "failed", and never a number that is silently none.
"""

import gzip
import io
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
from alone import Alone
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from memory_store import MemoryStore

from dropflow.datasets import Dataset
from dropflow.errors import RejectedError
from dropflow.receipts import Receipt, read_receipt
from dropflow.report import to_html
from flows import memory, steps
from flows.encoding import encode, to_readable_csv
from flows.preparation import Preparation
from flows.preprocessors import Preprocessor, cards, load

GENEROUS = {"max_share": 0.9}


def declared(columns: dict[str, Any], *steps: dict[str, Any], **changes: Any) -> Dataset:
    """A dataset; columns may be given as a type alone, with a ? where they may have gaps."""
    long = {
        name: {"type": kind.rstrip("?"), "nullable": kind.endswith("?")} if isinstance(kind, str) else kind
        for name, kind in columns.items()
    }
    fields = {"name": "h", "match": "raw/h/**/*.csv", "columns": long, "steps": list(steps)}
    return Dataset.model_validate({**fields, **changes})


@dataclass
class Done:
    """What became of one file."""

    result: str
    message: str
    receipt: Receipt | None
    store: MemoryStore

    @property
    def bytes(self) -> bytes:
        assert self.result == "processed", self.message
        assert self.receipt
        return self.store.get("processed", self.receipt.output_key)[1]

    @property
    def output(self) -> pd.DataFrame:
        read = pd.read_csv if self.receipt and self.receipt.output_key.endswith(".csv") else pd.read_parquet
        frame: pd.DataFrame = read(io.BytesIO(self.bytes))
        return frame

    @property
    def reason(self) -> str:
        """Why it was rejected: one line that a person can read."""
        assert self.result == "rejected", (self.result, self.message)
        assert self.receipt
        assert self.receipt.reason.isprintable()
        assert len(self.receipt.reason) < 600
        return self.receipt.reason

    @property
    def quarantine(self) -> str:
        assert self.result == "processed", self.message
        assert self.receipt
        return self.store.get("processed", self.receipt.quarantine_key)[1].decode()


@dataclass
class Desk:
    """A store of its own, and files dropped into it one after the other."""

    dataset: Dataset
    store: MemoryStore = field(default_factory=MemoryStore)

    def prepare(self, content: bytes | str, key: str = "h/a.csv") -> Done:
        body = content.encode() if isinstance(content, str) else content
        ref = self.store.put("raw", key, body, "text/csv")
        done = Preparation(self.store, self.dataset, "run").prepare(key)  # type: ignore[arg-type]
        receipt = read_receipt(self.store, self.dataset, ref)  # type: ignore[arg-type]
        return Done(done.result, done.message, receipt, self.store)

    @property
    def preprocessor(self) -> Preprocessor:
        known = list(cards(self.store, self.dataset))  # type: ignore[arg-type]
        return load(self.store, self.dataset, known[-1])  # type: ignore[arg-type]


def prepare(dataset: Dataset, content: bytes | str, key: str = "h/a.csv") -> Done:
    return Desk(dataset).prepare(content, key)


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


# Size


@pytest.fixture
def alone(tmp_path: Path) -> Alone:
    return Alone(tmp_path)


def test_ten_thousand_columns(alone: Alone) -> None:
    names = [f"c{number}" for number in range(10_000)]
    rows = (",".join(str(row * number % 7) for number in range(10_000)) for row in range(5))
    content = "\n".join((",".join(names), *rows)).encode()
    dataset = declared(dict.fromkeys(names, "number"), {"scale": {"columns": names[:50]}})
    result, message, mebibytes = alone(dataset, content)
    assert (result, "5 rows in, 5 out" in message) == ("processed", True)
    assert mebibytes < 1000


@pytest.mark.parametrize("kind", ["text", "number"])
def test_a_cell_of_fifty_megabytes(alone: Alone, kind: str) -> None:
    content = b"c,n\n" + b"1" * 50_000_000 + b",1\n"
    result, message, mebibytes = alone(declared({"c": kind, "n": "number"}), content)
    if kind == "text":
        assert result == "processed"
    else:
        assert result == "rejected"
        assert "column c: the value '11111" in message
        assert len(message) < 300
    assert mebibytes < 1500


def test_a_bad_row_with_a_cell_of_fifty_megabytes_is_set_aside(alone: Alone) -> None:
    content = b"c,n\n" + b"x" * 50_000_000 + b",bad\ny,1\n"
    result, message, mebibytes = alone(declared({"c": "text", "n": "number"}, quarantine=GENEROUS), content)
    assert (result, "1 quarantined" in message) == ("processed", True)
    assert mebibytes < 1500


def test_a_gzip_bomb_is_rejected_before_it_is_held(alone: Alone) -> None:
    content = gzip.compress(b"n\n" + b"1\n" * 2**23) * 64
    result, message, mebibytes = alone(declared({"n": "number"}, read={"max_bytes": "200MB"}), content)
    assert result == "rejected"
    assert "has more than 200,000,000 bytes once decompressed" in message
    assert mebibytes < 400


LONG = "x" * 1000


def much_text(kind: str) -> bytes:
    """300 MB of it, as a file of this kind."""
    texts = [LONG] * 300_000
    if kind == "parquet":
        buffer = io.BytesIO()
        pd.DataFrame({"c": texts}).to_parquet(buffer)
        return buffer.getvalue()
    if kind == "jsonl":
        return lines({"c": LONG}).encode() * len(texts)
    content = b"c\n" + f"{LONG}\n".encode() * len(texts)
    return {"csv": content, "gzip": gzip.compress(content, 1), "latin-1": content + b"\xe9"}[kind]


@pytest.mark.parametrize("kind", ["csv", "gzip", "parquet", "jsonl", "latin-1"])
def test_a_file_that_takes_more_memory_than_a_run_can_have_is_rejected(tmp_path: Path, kind: str) -> None:
    reading = (
        {"encoding": "latin-1"} if kind == "latin-1" else {"format": "jsonl" if kind == "jsonl" else "auto"}
    )
    result, message, _ = Alone(tmp_path, spare=250 * 2**20)(
        declared({"c": "text"}, read=reading), much_text(kind)
    )
    assert (result, "s3://raw/h/a.csv takes more memory than a run can have" in message) == (
        "rejected",
        True,
    ), message
    assert message.endswith(
        "split it, or prepare it on a machine with more memory; a damaged file is to be sent again"
    )


@pytest.mark.parametrize(
    ("available", "own", "result"),
    [(4, 10, "interrupted"), (4, 60, "rejected"), (6, 10, "rejected")],
)
def test_memory_that_others_hold_is_no_fault_of_the_file(
    monkeypatch: pytest.MonkeyPatch, available: int, own: int, result: str
) -> None:
    """Per cent of the machine's memory: what is left, and what the run holds itself."""

    def refused(*_: object) -> pd.DataFrame:
        raise MemoryError("Unable to allocate 7 GiB")

    machine = SimpleNamespace(total=100, available=available, used=100 - available)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: machine)
    monkeypatch.setattr(memory, "taken_by", lambda _leader: own)
    monkeypatch.setattr(steps, "apply", refused)
    done = prepare(declared({"n": "number"}, {"scale": {"columns": ["n"]}}), "n\n1\n2\n")
    assert done.result == result
    assert "(Unable to allocate 7 GiB)" in done.message
    assert (done.receipt is None) == (result == "interrupted")


def distinct(number: int, values: Callable[[int], object] = lambda _: 1) -> bytes:
    return ("c,n\n" + "".join(f"k{i},{values(i)}\n" for i in range(number))).encode()


def test_a_hundred_thousand_sparse_categories_are_too_many(alone: Alone) -> None:
    dataset = declared({"c": "category", "n": "number"}, {"encode": {"c": "dict"}})
    result, message, mebibytes = alone(dataset, distinct(100_000))
    assert (result, "100,000 categories" in message) == ("rejected", True)
    assert mebibytes < 500


def test_a_hundred_thousand_one_hot_categories_are_too_many(alone: Alone) -> None:
    dataset = declared({"c": "category", "n": "number"}, {"encode": {"c": "onehot"}})
    result, message, mebibytes = alone(dataset, distinct(100_000))
    assert (result, "100,000 categories" in message) == ("rejected", True)
    assert mebibytes < 500


def test_a_hundred_thousand_categories_become_one_column_by_frequency() -> None:
    dataset = declared({"c": "category", "n": "number"}, {"encode": {"c": "frequency"}})
    assert prepare(dataset, distinct(100_000)).output["c"].unique() == pytest.approx([1e-5])


def test_neighbours_of_five_thousand_rows_are_found() -> None:
    values = np.random.default_rng(0).normal(size=(5000, 2))
    values[::10, 0] = np.nan
    dataset = declared({"a": "number?", "b": "number?"}, {"impute": {"a": "knn", "b": "knn"}})
    done = prepare(dataset, pd.DataFrame(values, columns=["a", "b"]).to_csv(index=False))
    assert done.output.notna().all(axis=None)


def test_a_long_category_is_a_value_like_any_other() -> None:
    dataset = declared({"c": "category", "n": "number"}, {"encode": {"c": "ordinal"}})
    assert prepare(dataset, f"c,n\n{'x' * 1_000_000},1\na,2\n").output["c"].tolist() == [1, 0]


def test_a_category_too_long_for_a_name_is_rejected() -> None:
    dataset = declared({"c": "category", "n": "number"}, {"encode": {"c": "onehot"}})
    assert "column c" in prepare(dataset, f"c,n\n{'x' * 100_000},1\na,2\n").reason


# Numbers


def test_what_is_no_finite_number_is_set_aside() -> None:
    done = prepare(
        declared({"n": "number?", "k": "text"}, quarantine=GENEROUS),
        "n,k\n1,a\ninf,b\n-Infinity,c\nNaN,d\n1e309,e\n1e308,f\n",
    )
    assert done.output["k"].tolist() == ["a", "d", "f"]
    assert done.output["n"].tolist() == pytest.approx([1, np.nan, 1e308], nan_ok=True)
    assert done.quarantine.count("n is not finite") == 3


OVERFLOWING = ["1", "2", "1e308", "-1.7e308", "1.7e308"]


@pytest.mark.parametrize("method", ["standard", "minmax", "robust", "power"])
def test_scaling_numbers_near_the_largest_is_right_or_rejected(method: str) -> None:
    dataset = declared({"n": "number", "k": "text"}, {"scale": {"method": method, "columns": ["n"]}})
    for values in (OVERFLOWING, ["1e308", "1.5e308", "1e308"]):
        done = prepare(dataset, "n,k\n" + "".join(f"{value},x\n" for value in values))
        if done.result == "processed":
            scaled = done.output["n"]
            assert scaled.abs().max() < 1000
            assert scaled.max() - scaled.min() > 0.5
        else:
            assert "column n" in done.reason


@pytest.mark.parametrize("way", ["mean", "median", "knn"])
def test_filling_with_numbers_near_the_largest_is_right_or_rejected(way: str) -> None:
    dataset = declared({"n": "number?", "m": "number"}, {"impute": {"n": way}})
    done = prepare(dataset, "n,m\n1e308,1\n1.7e308,2\n,3\n")
    if done.result == "processed":
        assert np.isfinite(done.output["n"]).all()
    else:
        assert "column n" in done.reason


@pytest.mark.parametrize("how", ["difference", "ratio"])
def test_deriving_from_numbers_near_the_largest_is_right_or_rejected(how: str) -> None:
    dataset = declared({"n": "number", "m": "number"}, {"derive": {"q": {how: ["n", "m"]}}})
    assert "column q" in prepare(dataset, "n,m\n1.7e308,-1.7e308\n1e308,1e-10\n").reason


def test_a_cast_to_numbers_takes_finite_ones_only() -> None:
    assert "column c" in prepare(declared({"c": "text"}, {"cast": {"c": "number"}}), "c\ninf\n1\n").reason


@pytest.mark.parametrize("method", ["standard", "minmax", "robust", "power"])
def test_a_column_constant_in_the_reference_is_scaled(method: str) -> None:
    dataset = declared(
        {"n": "number", "k": "text"}, {"scale": {"method": method, "columns": ["n"]}}, fit="reference"
    )
    desk = Desk(dataset)
    assert desk.prepare("n,k\n5,a\n5,b\n").output["n"].tolist() == [0, 0]
    later = desk.prepare("n,k\n5,a\n7,b\n", "h/b.csv")
    assert later.output["n"].tolist() == pytest.approx([0, 2])


def test_whole_numbers_above_2_53_stay_as_text_and_are_rounded_as_numbers() -> None:
    content = "i,n\n9007199254740993,9007199254740993\n9007199254740992,1\n"
    output = prepare(declared({"i": "text", "n": "number"}), content).output
    assert output["i"].tolist() == ["9007199254740993", "9007199254740992"]
    assert output["n"].tolist() == [2.0**53, 1]


def test_ids_above_2_53_that_differ_are_unique() -> None:
    done = prepare(
        declared({"i": {"type": "number", "unique": True}}), "i\n9007199254740993\n9007199254740992\n"
    )
    assert done.receipt
    assert done.receipt.quarantined == 0
    assert done.result == "processed" or "exact" in done.reason


def test_booleans_in_many_spellings() -> None:
    done = prepare(
        declared({"b": "boolean?", "n": "number"}, quarantine=GENEROUS),
        "b,n\ntrue,1\nFALSE,2\nyes,3\nN,4\n1,5\n0.0,6\n,7\nmaybe,8\n",
    )
    assert done.output["b"].tolist() == pytest.approx([1, 0, 1, 0, 1, 0, np.nan], nan_ok=True)
    assert "b is neither true nor false" in done.quarantine


@pytest.mark.parametrize(
    "gap",
    ["maybe", ""],
)
def test_true_is_no_number(gap: str) -> None:
    dataset = declared({"n": "number?", "k": "text"})
    assert "True" in prepare(dataset, f"n,k\nTrue,a\n{gap},b\nFalse,c\n").reason


# Shape and contents


def test_mixed_types_in_a_column_are_told_or_text() -> None:
    done = prepare(
        declared({"n": "number", "t": "text"}, quarantine=GENEROUS),
        "n,t\n1,1\nx,x\n2026-01-01,2026-01-01\n2.5,2.50\nTrue,True\n",
    )
    assert done.output["n"].tolist() == [1, 2.5]
    assert done.output["t"].tolist() == ["1", "2.50"]


def test_two_columns_of_one_name_are_told() -> None:
    assert "columns of the same name: n" in prepare(declared({"n": "number"}), "n,m,n\n1,2,3\n").reason


@pytest.mark.parametrize("share", [0.05, 1])
def test_a_file_of_bad_rows_alone_is_rejected(share: float) -> None:
    reason = prepare(declared({"n": "number"}, quarantine={"max_share": share}), "n\nx\ny\n").reason
    assert "column n: the value 'x' in data row 1 is no number (and 1 more rows); 2 of 2 rows" in reason


STEPS: list[dict[str, Any]] = [
    *(
        {"scale": {"method": method, "columns": ["n"]}}
        for method in ("standard", "minmax", "robust", "power")
    ),
    {"bin": {"n": {"bins": 3}}},
    {"clip": {"n": {"iqr": 1.5}}},
    {"encode": {"c": "onehot"}},
    {"encode": {"c": "target"}},
    {"encode": {"c": "frequency"}},
]


@pytest.mark.parametrize("step", STEPS, ids=json.dumps)
@pytest.mark.parametrize("rows", [1, 3])
def test_a_single_row_or_a_constant_column_is_prepared(step: dict[str, Any], rows: int) -> None:
    dataset = declared({"n": "number", "c": "category", "y": "number"}, step, target="y")
    output = prepare(dataset, "n,c,y\n" + "5,a,1\n" * rows).output
    assert len(output) == rows
    assert np.isfinite(output.select_dtypes("number")).all(axis=None)


def test_a_single_row_cannot_be_split() -> None:
    assert "split: " in prepare(declared({"n": "number"}, split={}), "n\n1\n").reason


def test_a_single_column() -> None:
    dataset = declared({"n": "number"}, {"scale": {"columns": ["n"]}})
    assert prepare(dataset, "n\n1\n2\n3\n").output["n"].mean() == pytest.approx(0)


@pytest.mark.parametrize("how", ["onehot", "frequency", "target"])
def test_categories_of_gaps_alone_are_told_or_those_declared(how: str) -> None:
    content = "p,y\n,1\n,2\n"
    dataset = declared({"p": "category?", "y": "number"}, {"encode": {"p": how}}, target="y")
    assert "column p has no value at all: nothing to encode" in prepare(dataset, content).reason
    some = {"type": "category", "values": ["a", "b"], "nullable": True}
    dataset = declared({"p": some, "y": "number"}, {"encode": {"p": how}}, target="y")
    output = prepare(dataset, content).output
    assert list(output.columns) == (["p_a", "p_b", "y"] if how == "onehot" else ["p", "y"])
    assert output.notna().all(axis=None)


def test_a_target_of_whole_numbers_is_a_number() -> None:
    dataset = declared({"c": "category", "n": "number"}, {"encode": {"c": "target"}}, target="n")
    assert list(prepare(dataset, distinct(60, lambda i: i * 100)).output.columns) == ["c", "n"]


def test_numbers_are_the_same_categories_in_every_file() -> None:
    desk = Desk(declared({"n": "number"}, {"encode": {"n": "onehot"}}, fit="reference"))
    desk.prepare("n\n1\n2\n1.5\n")
    assert desk.prepare("n\n1\n2\n", "h/b.csv").output.sum(axis=1).tolist() == [1, 1]


def test_a_huge_number_is_a_category_too() -> None:
    done = prepare(declared({"c": "category"}), lines({"c": 1e300}, {"c": 2.0}), "h/a.jsonl")
    assert len(done.output) == 2


@pytest.mark.parametrize(
    "value",
    [
        "\0",
        "",
    ],
)
def test_a_gap_is_not_a_category(value: str) -> None:
    dataset = declared({"c": "category?"}, {"encode": {"c": "onehot"}})
    output = prepare(dataset, lines({"c": value}, {"c": None}, {"c": "x"}), "h/a.jsonl").output
    assert output.sum(axis=1).tolist() == [1, 0, 1]


@pytest.mark.parametrize(("kind", "value"), [("number", 0), ("category", "none")])
def test_a_constant_fills_a_column_of_gaps_alone(kind: str, value: float | str) -> None:
    dataset = declared({"c": f"{kind}?", "n": "number"}, {"impute": {"c": {"constant": value}}})
    assert prepare(dataset, "c,n\n,1\n,2\n").output["c"].tolist() == [value, value]


def test_unknown_sparse_categories_are_rejected_where_that_is_declared() -> None:
    dataset = declared(
        {"c": "category"}, {"encode": {"c": "dict"}}, fit="reference", unknown_categories="reject"
    )
    desk = Desk(dataset)
    desk.prepare("c\na\nb\n")
    assert "not known to the reference" in desk.prepare("c\na\nz\n", "h/b.csv").reason


def test_dates_in_three_formats_are_read_by_the_declared_one() -> None:
    content = "d,n\n2026-01-31,1\n31.01.2026,2\n01/31/2026,3\n"
    for form, row in ((None, 1), ("%d.%m.%Y", 2), ("%m/%d/%Y", 3)):
        dataset = declared({"d": {"type": "datetime", "format": form}, "n": "number"}, quarantine=GENEROUS)
        done = prepare(dataset, content)
        assert done.output["d"].tolist() == [pd.Timestamp("2026-01-31")]
        assert done.output["n"].tolist() == [row]
        assert done.quarantine.count("d is no date and time") == 2


# Text


def test_latin_1_is_told_and_read_where_declared() -> None:
    content = "c\nMüller\n".encode("latin-1")
    assert "read: {encoding: latin-1}" in prepare(declared({"c": "text"}), content).reason
    dataset = declared({"c": "text"}, read={"encoding": "latin-1"})
    assert prepare(dataset, content).output["c"].tolist() == ["Müller"]


def test_utf_16_with_a_mark_is_read() -> None:
    done = prepare(declared({"c": "text", "n": "number"}), "c,n\r\nMüller 😀,1\r\n".encode("utf-16"))
    assert done.output["c"].tolist() == ["Müller 😀"]


BROKEN = ["a\r\nb", "c\nd", '"', "x,y", "=cmd|' /C calc'!A0"]


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_line_ends_quotes_and_formulas_come_out_as_they_went_in(form: str) -> None:
    content = pd.DataFrame({"c": BROKEN, "n": range(5)}).to_csv(index=False, lineterminator="\r\n")
    done = prepare(declared({"c": "text", "n": "number"}, output=form), content)
    assert done.output["c"].tolist() == BROKEN


def test_a_lone_carriage_return_comes_out_as_it_went_in() -> None:
    done = prepare(declared({"c": "text", "n": "number"}, output="csv"), 'c,n\n"x\ry",1\nz,2\n')
    assert done.output["c"].tolist() == ["x\ry", "z"]


FORMULAS = ["=cmd|' /C calc'!A0", "+1+1", "-1+1", "@SUM(A1)", "\t=1"]


def test_formulas_in_the_quarantine_are_disarmed() -> None:
    content = pd.DataFrame({"c": [*FORMULAS, "ok"], "n": ["bad"] * 5 + ["1"]}).to_csv(index=False)
    done = prepare(declared({"c": "text", "n": "number"}, quarantine=GENEROUS), content)
    shown = pd.read_csv(io.StringIO(done.quarantine))
    assert shown["c"].tolist() == [f"'{text}" for text in FORMULAS]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\n=cmd|x", "'\n'=cmd|x"),
        ("ok\n=cmd|x", "ok\n'=cmd|x"),
        (" =cmd|x", "' =cmd|x"),
        ("\u00a0\t@x", "'\u00a0\t@x"),
        ("＝cmd|x", "'＝cmd|x"),
        ("＋1", "'＋1"),
        ("－1", "'－1"),
        ("＠x", "'＠x"),
        ("a=b", "a=b"),
        ("a - b\nc", "a - b\nc"),
    ],
)
def test_formulas_are_disarmed_wherever_a_spreadsheet_begins_one(text: str, shown: str) -> None:
    content = to_readable_csv(pd.DataFrame({"c": [text]}))
    assert pd.read_csv(io.BytesIO(content), keep_default_na=False)["c"].tolist() == [shown]


def test_no_row_of_the_quarantine_begins_with_a_formula() -> None:
    done = prepare(
        declared({"c": "text", "n": "number"}, quarantine=GENEROUS), 'c,n\n"x\r=cmd|x",bad\nok,1\n'
    )
    assert pd.read_csv(io.StringIO(done.quarantine)).shape == (1, 4)


def test_names_in_the_quarantine_are_disarmed() -> None:
    dataset = declared({"n": "number"}, unknown_columns="keep", quarantine=GENEROUS)
    assert ",=cmd|x" not in prepare(dataset, "n,=cmd|x\nbad,1\n2,3\n").quarantine


@pytest.mark.parametrize(
    "name",
    [
        *(
            "ü \n\x1b[31m",
            "a?b#c%2F&+",
            "..",
            "",
            "'\"<script>alert(1)</script>",
            "a\u202eb",
            "😀",
            "x" * 1000,
        ),
        *("../../etc/passwd", "a/b//c", "_quarantine/x", " "),
    ],
)
def test_keys_with_odd_characters(name: str) -> None:
    done = prepare(declared({"n": "number"}, quarantine=GENEROUS), "n\n1\nx\n", f"h/{name}.csv")
    assert done.result == "processed"
    assert done.receipt
    assert done.receipt.output_key == f"h/{name}.parquet"
    assert "n is no number" in done.quarantine
    assert done.receipt.quality
    report = to_html(done.receipt.quality)
    assert "<script>alert" not in report


def test_a_message_of_an_odd_key_is_one_printable_line() -> None:
    assert prepare(declared({"n": "number"}), "n\n1\n", "h/a\n\x1b[31m.csv").message.isprintable()


# Names that are ours


@pytest.mark.parametrize(
    ("columns", "how", "content", "name"),
    [
        (
            {"Geography": "category", "Geography_France": "number"},
            "onehot",
            "France,1\nSpain,2\n",
            "Geography_France",
        ),
        ({"p": "category", "p=x": "number"}, "dict", "x,1\ny,2\n", "p=x"),
        ({"a": "category", "a_b": "category"}, "onehot", "b_c,c\nd,e\n", "a_b_c"),
    ],
)
def test_a_column_named_as_one_that_encoding_makes_is_told(
    columns: dict[str, str], how: str, content: str, name: str
) -> None:
    ways = {column: how for column, kind in columns.items() if kind == "category"}
    done = prepare(declared(columns, {"encode": ways}), f"{','.join(columns)}\n{content}")
    assert f"two columns of the name {name}" in done.reason


@pytest.mark.parametrize("unknown", ["drop", "keep"])
def test_columns_of_our_own_names_are_columns_like_others(unknown: str) -> None:
    columns = {"_row": "number", "_reason": "text", "n": "number"}
    done = prepare(declared(columns, unknown_columns=unknown), "_row,_reason,n,split\n1,x,1,a\n2,y,2,b\n")
    assert list(done.output.columns) == [*columns, *(["split"] if unknown == "keep" else [])]


@pytest.mark.parametrize("name", ["_row", "_reason"])
@pytest.mark.parametrize("is_declared", [True, False])
def test_bad_rows_with_columns_of_our_own_names_are_set_aside(name: str, is_declared: bool) -> None:
    columns = {"n": "number", **({name: "text"} if is_declared else {})}
    dataset = declared(columns, unknown_columns="keep", quarantine=GENEROUS)
    assert "n is no number" in prepare(dataset, f"n,{name}\nx,mine\n1,mine\n").quarantine


def test_a_column_named_split_is_not_replaced() -> None:
    dataset = declared({"n": "number"}, unknown_columns="keep", split={})
    assert "split" in prepare(dataset, "n,split\n1,a\n2,b\n3,c\n4,d\n").reason


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_a_column_renamed_to_one_that_is_kept_is_told(form: str) -> None:
    dataset = declared({"a": "number"}, {"rename": {"a": "q"}}, unknown_columns="keep", output=form)
    assert "two columns of the name q" in prepare(dataset, "a,q\n1,2\n").reason


# Somebody else's function


def raises(_frame: pd.DataFrame) -> pd.DataFrame:
    raise RuntimeError("boom \x1b[31m\nsecond line")


def leaves(_frame: pd.DataFrame) -> pd.DataFrame:
    sys.exit(3)


def nothing(_frame: pd.DataFrame) -> None:
    return None


def series(frame: pd.DataFrame) -> pd.Series:
    return frame["n"]


def renumbers(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.set_axis([f"r{number}" for number in range(len(frame))])


def two_levels(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.set_axis(pd.MultiIndex.from_arrays([frame.index, frame.index]))


def halves(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["n"] > 2]


def empties(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.iloc[:0]


def doubles(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([frame, frame])


def turns(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.iloc[::-1]


def adds(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(z=frame["n"] * 2)


def repeats_columns(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([frame, frame], axis=1)


def unprintable(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(z=[1 + 2j] * len(frame))


def infinite(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(n=np.inf)


def by(function: Callable[..., Any], *steps: dict[str, Any], **changes: Any) -> Done:
    dataset = declared(
        {"n": "number", "c": "category"}, *steps, prepare=f"{__name__}:{function.__name__}", **changes
    )
    return prepare(dataset, "n,c\n1,a\n2,b\n3,a\n4,b\n")


def test_a_function_that_raises_rejects_the_file_with_what_it_said() -> None:
    assert "RuntimeError: boom %1B[31m%0Asecond line" in by(raises).reason


@pytest.mark.parametrize("function", [nothing, series, renumbers])
def test_a_function_that_returns_no_such_frame_is_told(function: Callable[..., Any]) -> None:
    # The file is not to blame: no receipt, so that it is prepared once the function is mended.
    done = by(function)
    assert done.result == "failed"
    assert "must return a frame with the index of the one given" in done.message
    assert done.receipt is None


@pytest.mark.parametrize("function", [two_levels, doubles])
def test_a_function_that_returns_another_index_is_told(function: Callable[..., Any]) -> None:
    assert "must return a frame with the index of the one given" in by(function).message


def test_a_function_that_exits_ends_nothing_else() -> None:
    try:
        done = by(leaves)
    except SystemExit:
        pytest.fail("left")
    assert done.result in ("rejected", "failed")


def test_a_function_that_drops_rows_filters_them() -> None:
    done = by(halves)
    assert done.output["n"].tolist() == [3, 4]
    assert done.receipt
    assert (done.receipt.rows_in, done.receipt.rows_out, done.receipt.filtered) == (4, 2, 2)


def test_a_function_that_drops_all_rows_is_told() -> None:
    assert "rows" in by(empties).reason


def test_a_function_that_adds_columns_or_turns_the_rows_around() -> None:
    assert by(adds).output["z"].tolist() == [2, 4, 6, 8]
    done = by(turns, {"encode": {"c": "onehot"}})
    assert done.output[["n", "c_a"]].to_numpy().tolist() == [[4, 0], [3, 1], [2, 0], [1, 1]]


def test_a_function_that_repeats_columns_is_told() -> None:
    assert "two columns of the name" in by(repeats_columns, {"scale": {"columns": ["n"]}}).message


def test_a_function_that_makes_what_cannot_be_written_or_scaled_is_told() -> None:
    assert "cannot be written as parquet" in by(unprintable).reason
    assert "column n holds inf" in by(infinite, {"scale": {"columns": ["n"]}}).reason


# Properties


KINDS = {
    "n": "number?",
    "m": "number",
    "c": "category?",
    "b": "boolean?",
    "t": "text?",
    "d": "datetime?",
    "y": "number?",
}
RECIPES: list[list[dict[str, Any]]] = [
    [],
    [{"filter": {"m": {"min": -3}}}, {"scale": {"method": "robust", "columns": ["n", "m"]}}],
    [
        {"derive": {"p": {"parts": ["year", "weekday"], "of": "d"}, "q": {"ratio": ["n", "m"]}}},
        {"impute": {"n": "median", "c": "most_frequent", "b": "most_frequent", "q": "mean"}},
        {"encode": {"c": "onehot", "b": "ordinal"}},
        {"scale": {"columns": ["n", "q"]}},
        {"filter": {"m": {"max": 5}}},
    ],
    [
        {"impute": {"n": "knn", "c": "most_frequent"}},
        {"clip": {"n": {"quantiles": [0.1, 0.9]}}},
        {"bin": {"m": {"bins": 3}}},
        {"encode": {"c": "dict", "t": "frequency"}},
        {"drop": ["d"]},
    ],
    [{"encode": {"c": "target"}}, {"cast": {"d": "number"}}, {"select": ["c", "m", "d"]}],
]


def some(values: Iterable[Any]) -> st.SearchStrategy[Any]:
    return st.sampled_from(list(values))


ROW = st.fixed_dictionaries(
    {
        "n": some(["", "1", "2.5", "-1e6", "0.1", "7", "x", "inf"]),
        "m": some(["-5", "-1", "0", "3", "9", "12.75", "1e3", ""]),
        "c": some(["", "a", "b", "007", "=1", "a"]),
        "b": some(["", "true", "No", "1", "maybe"]),
        "t": some(["", "x", "y\r\nz", "1", "1.0"]),
        "d": some(["", "2026-01-31", "2026-03-04T05:06:07+02:00", "31.01.2026"]),
        "y": some(["", "0.5", "1.25", "2"]),
    }
)
TABLES = st.lists(ROW, min_size=4, max_size=25).map(pd.DataFrame)
EXAMPLES = hypothesis_settings(max_examples=40, deadline=None, derandomize=True)


def read_as_csv(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows as somebody's own program has them: numbers as numbers, gaps as gaps."""
    return pd.read_csv(
        io.StringIO(frame.to_csv(index=False)), dtype=str, keep_default_na=False, na_values=[""]
    )


@EXAMPLES
@given(TABLES, some(RECIPES), st.booleans(), st.booleans())
def test_every_row_comes_out_or_is_set_aside_or_filtered(
    frame: pd.DataFrame, recipe: list[dict[str, Any]], split: bool, reference: bool
) -> None:
    options = {"split": {"test_size": 0.4}} if split else {}
    fit = "reference" if reference else "each"
    dataset = declared(KINDS, *recipe, target="y", quarantine={"max_share": 1}, fit=fit, **options)
    done = prepare(dataset, frame.to_csv(index=False))
    assert done.result in ("processed", "rejected"), done.message
    if done.result == "rejected":
        assert done.reason
        return
    receipt = done.receipt
    assert receipt
    assert receipt.rows_in == len(frame) == len(done.output) + receipt.quarantined + receipt.filtered
    assert receipt.rows_out == len(done.output)
    assert receipt.filtered >= 0
    bad = len(pd.read_csv(io.StringIO(done.quarantine))) if receipt.quarantine_key else 0
    assert bad == receipt.quarantined


@EXAMPLES
@given(TABLES, some(RECIPES), st.booleans())
def test_a_stored_preprocessor_gives_what_fitting_anew_gave(
    frame: pd.DataFrame, recipe: list[dict[str, Any]], split: bool
) -> None:
    options = {"split": {"test_size": 0.4}} if split else {}
    common = {"target": "y", "quarantine": {"max_share": 1}, **options}
    content = frame.to_csv(index=False)
    each = prepare(declared(KINDS, *recipe, **common), content)
    stored = prepare(declared(KINDS, *recipe, fit="reference", **common), content)
    assert stored.result == each.result, stored.message
    if each.result == "processed":
        assert stored.bytes == each.bytes
    else:
        assert stored.reason == each.reason


def zoned(frame: pd.DataFrame) -> pd.DataFrame:
    times = pd.to_datetime(frame["d"], format="ISO8601", utc=True)
    return frame.assign(d=times.dt.as_unit("us").dt.tz_convert("Europe/Berlin"))


def with_numbers(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(**{name: pd.to_numeric(frame[name]) for name in "nmy"})


AS: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "text": lambda frame: frame,
    "numbers": with_numbers,
    "objects": lambda frame: with_numbers(frame).astype(object).where(frame.notna(), None),
    "nullable": lambda frame: with_numbers(frame).convert_dtypes(),
    "arrow": lambda frame: with_numbers(frame).convert_dtypes(dtype_backend="pyarrow"),
    "categoricals": lambda frame: frame.astype("category"),
    "zoned": zoned,
    "another index": lambda frame: frame.set_axis([f"r{number % 3}" for number in range(len(frame))]),
    "extra columns": lambda frame: frame.assign(extra=1),
}


@EXAMPLES
@given(TABLES, some(RECIPES), some(AS))
def test_serving_gives_what_the_pipeline_gave_whatever_the_types(
    frame: pd.DataFrame, recipe: list[dict[str, Any]], kind: str
) -> None:
    desk = Desk(declared(KINDS, *recipe, target="y", quarantine={"max_share": 1}, fit="reference"))
    done = desk.prepare(frame.to_csv(index=False))
    if done.result == "rejected":
        return
    rows = read_as_csv(frame)
    assert done.receipt
    if done.receipt.quarantined:
        with pytest.raises(RejectedError):
            desk.preprocessor.transform(rows)
        rows = rows.drop(index=pd.read_csv(io.StringIO(done.quarantine))["_row"] - 1)
    served = desk.preprocessor.transform(AS[kind](rows))
    assert served.index.isin(AS[kind](rows).index).all()
    written = pd.read_parquet(io.BytesIO(encode(served, desk.dataset.output)))
    pd.testing.assert_frame_equal(written, done.output, check_exact=True)


@EXAMPLES
@given(TABLES, some(RECIPES), st.permutations(list(KINDS)))
def test_serving_without_targets_and_in_another_order_changes_nothing_else(
    frame: pd.DataFrame, recipe: list[dict[str, Any]], order: list[str]
) -> None:
    desk = Desk(declared(KINDS, *recipe, target="y", quarantine={"max_share": 1}, fit="reference"))
    done = desk.prepare(frame.to_csv(index=False))
    if done.result == "rejected":
        return
    rows = read_as_csv(frame)
    assert done.receipt
    if done.receipt.quarantined:
        rows = rows.drop(index=pd.read_csv(io.StringIO(done.quarantine))["_row"] - 1)
    expected = desk.preprocessor.transform(rows).drop(columns="y")
    for other in (rows[order].drop(columns="y"), rows[order].assign(y=np.nan)):
        served = desk.preprocessor.transform(other).drop(columns="y", errors="ignore")
        pd.testing.assert_frame_equal(served[expected.columns], expected, check_exact=True)


# Serving


def test_a_date_served_as_a_number_is_rejected() -> None:
    desk = Desk(declared({"n": "number?"}, {"scale": {"columns": ["n"]}}, fit="reference"))
    desk.prepare("n\n1\n2\n")
    with pytest.raises(RejectedError, match="is no number"):
        desk.preprocessor.transform(pd.DataFrame({"n": pd.to_datetime(["2026-01-01", None])}))


@pytest.mark.parametrize("kind", ["boolean", "bool[pyarrow]", object])
def test_true_served_as_a_number_is_rejected(kind: Any) -> None:
    desk = Desk(declared({"n": "number?"}, {"scale": {"columns": ["n"]}}, fit="reference"))
    desk.prepare("n\n1\n2\n")
    with pytest.raises(RejectedError, match="is no number"):
        desk.preprocessor.transform(pd.DataFrame({"n": pd.array([True, None], dtype=kind)}))


@pytest.mark.parametrize("unit", ["us", "s", "ns"])
def test_datetimes_of_any_unit_are_served_alike(unit: str) -> None:
    desk = Desk(declared({"d": "datetime", "n": "number"}, {"scale": {"columns": ["n"]}}, fit="reference"))
    desk.prepare("d,n\n2026-01-31,1\n2026-02-01,2\n")
    times = pd.to_datetime(["2026-01-31"]).as_unit(unit)
    assert (
        str(desk.preprocessor.transform(pd.DataFrame({"d": times, "n": [1]})).dtypes["d"]) == "datetime64[us]"
    )


def test_a_row_is_served_alone_as_among_others() -> None:
    dataset = declared(
        {"n": "number", "t": "text"}, {"derive": {"q": {"concat": ["t", "n"]}}}, fit="reference"
    )
    desk = Desk(dataset)
    output = desk.prepare("n,t\n1,a\n2.5,b\n").output
    alone = desk.preprocessor.transform(pd.DataFrame({"n": [1], "t": ["a"]}))
    assert alone["q"].tolist() == output["q"].tolist()[:1]
