"""Reading, contract and steps: pure pandas and scikit-learn, compared with plain computations."""

import io

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from memory_store import MemoryStore

from dropflow.columns import Column
from dropflow.datasets import Dataset, Output
from dropflow.errors import RejectedError, SettingsError
from dropflow.recipes import Step
from dropflow.samples import churn_csv
from flows import overrides
from flows.contract import validate
from flows.encoding import encode
from flows.preparation import Preparation
from flows.reading import read_csv
from flows.steps import apply, fingerprint


def small(**changes: object) -> Dataset:
    return Dataset.model_validate(
        {
            "name": "small",
            "match": "raw/small/*.csv",
            "columns": {
                "n": {"type": "number", "nullable": True},
                "c": {"type": "category", "values": ["a", "b"], "nullable": True},
                "t": {"type": "text", "nullable": True},
            },
            "steps": [
                {"drop": ["t"]},
                {"impute": {"n": "mean", "c": "most_frequent"}},
                {"encode": {"c": "onehot"}},
                {"scale": {"method": "standard", "columns": ["n"]}},
            ],
            **changes,
        }
    )


def read(text: str) -> pd.DataFrame:
    return read_csv(text.encode(), ["n"])


def test_text_stays_text() -> None:
    frame = read("n,c,t\n1,007,NA\nNA,0,Null\n,,\n")
    assert frame["c"].tolist()[:2] == ["007", "0"]
    assert frame["t"].tolist()[:2] == ["NA", "Null"]
    assert frame["t"].isna().tolist() == [False, False, True]
    assert frame["n"].isna().tolist() == [False, True, True]


def test_blank_lines_before_the_header_change_no_type() -> None:
    assert read("\n\r\nc,n\n007,1\n")["c"].tolist() == ["007"]


def test_a_byte_order_mark_and_windows_line_ends_are_read() -> None:
    frame = read("\ufeffn,c,t\r\n1,a,x\r\n")
    assert list(frame.columns) == ["n", "c", "t"]
    assert frame["t"].tolist() == ["x"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("n,c,t\n1,a,x,9\n2,b,y,9\n", "more values in its rows than names"),
        ("n,c,t\n1,a,x\n2,b,y,9\n", "is no readable CSV"),
        ('n,c,t\n1,"a,x\n', "is no readable CSV"),
        ("n,c,n\n1,a,2\n", "columns of the same name: n"),
        ("n,c,t\n\0,a,x\n", "NUL byte in line 2"),
        ("\n\n", "is blank"),
        ("\n\nn,n\n1,2\n", "columns of the same name"),
        ('"' + "x" * 200_000, "is no readable CSV"),
    ],
)
def test_what_is_no_table_is_rejected(text: str, told: str) -> None:
    with pytest.raises(RejectedError, match=told):
        read(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "n,c,t\n1,a,x\nfour,a,x\nfive,a,x\n",
            "column n: the value 'four' in data row 2 is no number (and 1 more rows)",
        ),
        ("n,c,t\nTrue,a,x\n", "the value True in data row 1 is no number"),
        ("n,c,t\ninf,a,x\n", "column n: the value inf in data row 1 is not finite"),
        ("n,c,t\n1,z,x\n", "column c: the value 'z' in data row 1 is none of a, b"),
        ("n,t\n1,x\n", "lacks the columns c"),
        ("n,C,t\n1,a,x\n", "lacks the columns c; it has n, C, t"),
    ],
)
def test_what_breaks_the_contract_is_told_with_column_row_and_value(text: str, told: str) -> None:
    with pytest.raises(RejectedError) as raised:
        validate(read(text), small())
    assert told in str(raised.value)


def test_a_hostile_value_is_shown_on_one_short_line() -> None:
    with pytest.raises(RejectedError) as raised:
        validate(read('n,c,t\n"\x1b[31m' + "x" * 500 + '",a,x\n'), small())
    assert "\x1b" not in str(raised.value)
    assert len(str(raised.value)) < 150


@pytest.mark.parametrize(("policy", "kept"), [("drop", False), ("keep", True)])
def test_unknown_columns(policy: str, kept: bool) -> None:
    frame = validate(read("n,more,c,t\n1,x,a,t\n"), small(unknown_columns=policy))
    assert ("more" in frame.columns) is kept
    with pytest.raises(RejectedError, match="unknown columns: more"):
        validate(read("n,more,c,t\n1,x,a,t\n"), small(unknown_columns="reject"))


def prepare(frame: pd.DataFrame, dataset: Dataset) -> pd.DataFrame:
    for step in dataset.steps:
        frame, _, _ = apply(frame, step, dataset)
    return frame


def test_columns_keep_their_places() -> None:
    dataset = small(steps=[{"encode": {"c": "onehot"}}])
    frame = validate(read("t,c,n\nx,a,1\ny,b,2\n"), dataset)
    assert list(prepare(frame, dataset).columns) == ["t", "c_a", "c_b", "n"]


def test_declared_categories_make_the_same_columns_for_every_file() -> None:
    dataset = small()
    only_a = prepare(validate(read("n,c,t\n1,a,x\n2,a,y\n"), dataset), dataset)
    assert list(only_a.columns) == ["n", "c_a", "c_b"]
    assert only_a["c_b"].tolist() == [0.0, 0.0]


def test_a_column_without_any_value_cannot_be_imputed() -> None:
    dataset = small()
    with pytest.raises(RejectedError, match="column n has no value at all"):
        prepare(validate(read("n,c,t\n,a,x\n,b,y\n"), dataset), dataset)


def test_a_gap_that_no_step_fills_is_refused_before_a_file_arrives() -> None:
    with pytest.raises(ValueError, match=r"step 1 \(encode\) cannot take gaps, and 'c' may have some"):
        small(steps=[{"encode": {"c": "ordinal"}}])


numbers = st.one_of(st.none(), st.floats(-1e6, 1e6))
rows = st.lists(st.tuples(numbers, st.sampled_from(["a", "b", None])), min_size=2, max_size=30)


@given(rows)
@hypothesis_settings(max_examples=60, deadline=None)
def test_rows_are_kept_gaps_are_filled_and_numbers_are_standard(
    values: list[tuple[float | None, str | None]],
) -> None:
    n = pd.Series([row[0] for row in values], dtype=float)
    c = pd.Series([row[1] for row in values], dtype=object)
    if n.isna().all() or c.isna().all():
        return
    text = pd.DataFrame({"n": n, "c": c, "t": "x"}).to_csv(index=False)
    dataset = small()
    result = prepare(validate(read(text), dataset), dataset)
    assert len(result) == len(values)
    assert result.notna().all(axis=None)
    filled = n.fillna(n.mean())
    deviation = filled.std(ddof=0)
    if deviation > 1e-6 * (1 + filled.abs().max()):
        np.testing.assert_allclose(result["n"], (filled - filled.mean()) / deviation, atol=1e-6)
    assert (result["c_a"] + result["c_b"] == 1).all()


def test_the_fingerprint_changes_with_recipe_and_contract_only() -> None:
    dataset = small()
    assert fingerprint(dataset) == fingerprint(small(description="other words", schedule="0 1 * * *"))
    assert fingerprint(dataset) != fingerprint(overrides.apply(dataset, "median", None, []))
    stricter = dataset.columns | {"n": Column(type="number", nullable=True, max=5)}
    assert fingerprint(dataset) != fingerprint(dataset.model_copy(update={"columns": stricter}))


def test_overriding_the_imputation_changes_numbers_only() -> None:
    (step,) = (s for s in overrides.apply(small(), "median", None, []).steps if s.impute)
    assert step == Step(impute={"n": "median", "c": "most_frequent"})


def test_the_sample_has_the_real_files_shape_and_gaps(churn: Dataset) -> None:
    sample = churn_csv()
    assert sample == churn_csv()
    frame = pd.read_csv(io.BytesIO(sample))
    assert frame.shape == (10_000, 14)
    assert 1300 < frame["Age"].isna().sum() < 1700
    assert 800 < frame["Gender"].isna().sum() < 1200
    numeric = [name for name, column in churn.columns.items() if column.type == "number"]
    validate(read_csv(sample, numeric), churn)


def contract(text: str, **changes: object) -> pd.DataFrame:
    columns = {
        "id": {"type": "number", "unique": True},
        "at": {"type": "datetime", "format": "%d.%m.%Y %H:%M", "nullable": True},
        "ok": {"type": "boolean", "nullable": True},
    }
    dataset = small(columns=columns, steps=[], **changes)
    return validate(read_csv(text.encode(), ["id"]), dataset)


def test_datetimes_and_booleans_are_parsed() -> None:
    frame = contract("id,at,ok\n1,31.12.2025 23:59,yes\n2,,FALSE\n3,01.02.2026 00:00,\n")
    assert frame["at"].tolist()[0] == pd.Timestamp("2025-12-31 23:59")
    assert frame["at"].isna().tolist() == [False, True, False]
    assert frame["ok"].tolist()[:2] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "id,at,ok\n1,,\n1,,\n",
            "column id: the value 1 in data row 2 is there before: values must be unique",
        ),
        ("id,at,ok\n1,2026-01-01,\n", "column at: the value '2026-01-01' in data row 1 is no date and time"),
        ("id,at,ok\n1,,maybe\n", "column ok: the value 'maybe' in data row 1 is neither true nor false"),
    ],
)
def test_what_is_no_datetime_boolean_or_unique_is_told(text: str, told: str) -> None:
    with pytest.raises(RejectedError) as raised:
        contract(text)
    assert told in str(raised.value)


def test_missing_columns_are_rejected_or_filled_with_gaps() -> None:
    with pytest.raises(RejectedError, match="lacks the columns at"):
        contract("id,ok\n1,yes\n")
    assert contract("id,ok\n1,yes\n", missing_columns="fill")["at"].isna().all()
    with pytest.raises(RejectedError, match="lacks the columns id"):
        contract("ok\nyes\n", missing_columns="fill")


def test_reordered_columns_are_taken_or_rejected() -> None:
    assert list(contract("ok,id,at\nyes,1,\n").columns) == ["ok", "id", "at"]
    with pytest.raises(RejectedError, match="in another order than declared: ok, id, at"):
        contract("ok,id,at\nyes,1,\n", column_order="declared")


def test_a_run_may_leave_out_steps_and_split_otherwise() -> None:
    changed = overrides.apply(small(split={"test_size": 0.5}), "as declared", 0.2, ["scale", "encode"])
    assert [step.kind for step in changed.steps] == ["drop", "impute"]
    assert changed.split
    assert changed.split.test_size == 0.2
    with pytest.raises(SettingsError, match="small declares no `split:`"):
        overrides.apply(small(), "as declared", 0.2, [])
    cast = small(steps=[{"cast": {"t": "number"}}, {"drop": ["c"]}, {"scale": {"columns": ["t"]}}])
    with pytest.raises(SettingsError, match=r"step 2 .scale. needs numbers"):
        overrides.apply(cast, "as declared", None, ["cast"])


def test_numbers_that_hardly_repeat_get_no_dictionary(churn: Dataset) -> None:
    store = MemoryStore()
    store.put("raw", "churn/a.csv", churn_csv(rows=3_000), "text/csv")
    assert Preparation(store, churn, "run").prepare("churn/a.csv").is_done  # type: ignore[arg-type]
    output = store.get("processed", "churn/a.parquet")[1]
    columns = pq.ParquetFile(io.BytesIO(output)).metadata.row_group(0)
    described = [columns.column(place) for place in range(columns.num_columns)]
    dictionaries = {one.path_in_schema for one in described if one.has_dictionary_page}
    assert {"Age", "CreditScore", "Exited"} <= dictionaries
    assert {"EstimatedSalary", "Balance"}.isdisjoint(dictionaries)


def test_nested_columns_keep_their_dictionary() -> None:
    frame = pd.DataFrame({"tags": [["a", "b"]] * 100, "number": np.linspace(0, 1, 100)})
    columns = pq.ParquetFile(io.BytesIO(encode(frame, Output(), {"number"}))).metadata.row_group(0)
    assert columns.column(0).path_in_schema == "tags.list.element"
    assert columns.column(0).has_dictionary_page
