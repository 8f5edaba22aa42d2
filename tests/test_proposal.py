"""A sample file to the YAML of a dataset that works unedited."""

import gzip
import io
import itertools
import json
import random
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from memory_store import MemoryStore
from sklearn.datasets import load_iris

from dropflow.datasets import Dataset
from dropflow.errors import RejectedError, SettingsError
from dropflow.samples import churn_csv
from flows.preparation import Preparation
from flows.proposal import flow, keyed, propose, scalar, slug


def proposed(content: bytes, name: str, **options: Any) -> tuple[Dataset, str]:
    text = propose(content, name, **options)
    return Dataset.model_validate(yaml.safe_load(text)), text


def prepared(content: bytes, name: str) -> tuple[Dataset, str, pd.DataFrame]:
    """The proposal, carried out on the very file by a whole Preparation; nothing encoded has gaps."""
    dataset, text = proposed(content, name)
    store: Any = MemoryStore()
    key = f"{dataset.prefix}{name}"
    assert dataset.matches(dataset.bucket, key)
    store.put(dataset.bucket, key, content, "application/octet-stream")
    done = Preparation(store, dataset, "run").prepare(key)
    assert done.result == "processed", f"{done.message}\n{text}"
    output = pd.read_parquet(io.BytesIO(store.get(dataset.output_bucket, dataset.output_key(key))[1]))
    used = [
        n
        for step in dataset.steps
        for n in (*(step.scale.columns if step.scale else ()), *(step.encode or ()))
    ]
    for column in output.columns:
        if column in used or any(column.startswith(f"{name}_") for name in used):
            assert np.isfinite(output[column].to_numpy(dtype=float)).all(), f"{column}\n{text}"
    return dataset, text, output


def kinds(dataset: Dataset) -> dict[str, str]:
    return {name: column.type for name, column in dataset.columns.items()}


def steps_of(dataset: Dataset) -> dict[str, Any]:
    """What each kind of step does; the columns of several drops together."""
    found: dict[str, Any] = {}
    for step in dataset.steps:
        found[step.kind] = (*found.get("drop", ()), *step.options) if step.kind == "drop" else step.options
    return found


def csv(rows: list[list[Any]], delimiter: str = ",") -> bytes:
    return pd.DataFrame(rows[1:], columns=rows[0]).to_csv(index=False, sep=delimiter).encode()


def taxi_csv(rows: int = 600, seed: int = 1) -> bytes:
    rng = random.Random(seed)
    zones = [f"Zone {number}" for number in range(40)]
    table: list[list[Any]] = [
        ["pickup", "dropoff", "passengers", "fare", "payment", "pickup_zone", "borough"]
    ]
    for _ in range(rows):
        start = pd.Timestamp("2019-03-01") + pd.Timedelta(seconds=rng.randrange(30 * 86_400))
        end = start + pd.Timedelta(seconds=rng.randrange(60, 4000))
        zone = rng.choice(zones) if rng.random() > 0.05 else ""
        payment = rng.choice(["cash", "credit card", ""])
        table.append(
            [start, end, rng.randrange(7), round(rng.uniform(2, 80), 2), payment, zone, rng.choice("ABCD")]
        )
    return csv(table)


# The usual files


def test_iris() -> None:
    frame = load_iris(as_frame=True).frame
    dataset, text, output = prepared(frame.to_csv(index=False).encode(), "iris.csv")
    assert dataset.name == "iris"
    assert dataset.match == "raw/iris/**/*.csv"
    assert dataset.target == "target"
    assert set(kinds(dataset).values()) == {"number"}
    assert list(steps_of(dataset)) == ["scale"]
    assert "target" not in steps_of(dataset)["scale"].columns
    assert "4.3 to 7.9" in text
    assert sorted(output["target"].unique()) == [0, 1, 2]


def test_iris_with_species_by_name() -> None:
    iris = load_iris(as_frame=True)
    frame = iris.data.assign(species=iris.target_names[iris.target])
    dataset, _, output = prepared(frame.to_csv(index=False).encode(), "iris.csv")
    assert dataset.target == "species"
    assert dataset.columns["species"].values == ("setosa", "versicolor", "virginica")
    assert set(output["species"]) == {"setosa", "versicolor", "virginica"}


def test_churn() -> None:
    dataset, text, output = prepared(churn_csv(rows=2000), "churn.csv")
    columns = dataset.columns
    assert dataset.target == "Exited"
    assert columns["RowNumber"].unique
    assert columns["Surname"].type == "text"
    assert columns["Geography"].values == ("France", "Germany", "Spain")
    assert columns["Gender"].nullable
    assert (columns["HasCrCard"].min, columns["HasCrCard"].max) == (0, 1)
    assert columns["Balance"].min is None
    assert (columns["Age"].min, columns["Age"].max) == (0, None)
    steps = steps_of(dataset)
    assert set(steps["drop"]) == {"RowNumber", "CustomerId", "Surname"}
    assert steps["impute"] == {"Gender": "most_frequent", "Age": "median"}
    assert not {"Exited", "HasCrCard", "IsActiveMember"} & set(steps["scale"].columns)
    assert "of 2,000 missing" in text
    assert not output.isna().any().any()


def test_taxis() -> None:
    dataset, text, output = prepared(taxi_csv(), "taxis.csv")
    steps = steps_of(dataset)
    assert kinds(dataset)["pickup"] == "datetime"
    assert dataset.target is None
    assert "# target: borough" in text
    assert set(steps["drop"]) == {"pickup", "dropoff"}
    assert steps["encode"]["pickup_zone"] == "frequency"
    assert steps["encode"]["payment"] == "onehot"
    assert dataset.columns["pickup_zone"].values is None
    assert {"pickup_weekday", "pickup_hour", "pickup_to_dropoff"} <= set(output.columns)
    assert not output.isna().any().any()


def test_times_with_gaps_are_imputed_after_they_are_derived() -> None:
    frame = pd.read_csv(io.BytesIO(taxi_csv()))
    frame.loc[3:20, "pickup"] = None
    dataset, _, output = prepared(frame.to_csv(index=False).encode(), "taxis.csv")
    assert steps_of(dataset)["impute"]["pickup_hour"] == "most_frequent"
    assert steps_of(dataset)["impute"]["pickup_to_dropoff"] == "median"
    assert not output.isna().any().any()


GERMAN = "Größe;Umsatz;Ort;Datum\n" + "".join(
    f"{number % 7},{number % 10};1.{number % 900 + 100},50;{['Köln', 'Bonn'][number % 2]};{number % 28 + 1:02}.{number % 12 + 1:02}.2024\n"
    for number in range(60)
)


@pytest.mark.parametrize(
    ("encoding", "written"),
    [
        ("utf-8", None),
        ("utf-8-sig", None),
        ("cp1252", "cp1252"),
        ("utf-16", None),
        ("utf-16-le", "utf-16-le"),
    ],
)
def test_a_german_file(encoding: str, written: str | None) -> None:
    dataset, _, _ = prepared(GERMAN.encode(encoding), "Umsätze 2024.csv")
    assert dataset.name == "umsatze"
    assert dataset.read.decimal == ","
    assert dataset.read.thousands == "."
    assert dataset.read.delimiter == "auto"
    assert dataset.read.encoding == (written or "utf-8")
    assert kinds(dataset) == {"Größe": "number", "Umsatz": "number", "Ort": "category", "Datum": "datetime"}
    assert dataset.columns["Datum"].format == "%d.%m.%Y"


def test_one_column_of_decimal_commas() -> None:
    dataset, _, _ = prepared(("x\n" + "".join(f"{n},5\n" for n in range(1, 9))).encode(), "x.csv")
    assert kinds(dataset) == {"x": "number"}


def test_thousands_in_a_file_of_commas() -> None:
    rows: list[list[Any]] = [["price", "n"], *([f"1,{n + 100}", n % 3] for n in range(50))]
    dataset, _, _ = prepared(csv(rows), "prices.csv")
    assert (dataset.read.decimal, dataset.read.thousands) == (".", ",")
    rows = [["price", "n"], *([f"1,{n + 100}", n % 3] for n in range(50))]
    dataset, _, _ = prepared(csv(rows, ";"), "prices.csv")
    assert (dataset.read.decimal, dataset.read.thousands) == (",", None)


def test_hard_spaces_as_thousands_are_seen_in_the_yaml() -> None:
    rows: list[list[Any]] = [["ville", "montant"]]
    rows += [[["Paris", "Lyon"][n % 2], f"{n % 9 + 1}\u202f{n % 900 + 100},{n % 10}"] for n in range(40)]
    dataset, text, _ = prepared(csv(rows, ";"), "ventes.csv")
    assert (dataset.read.decimal, dataset.read.thousands) == (",", "\u202f")
    assert "\\u202F" in text
    assert kinds(dataset)["montant"] == "number"


def test_parquet_and_json_lines_keep_their_types() -> None:
    frame = pd.DataFrame(
        {
            "when": pd.date_range("2024-01-01", periods=200, freq="7h"),
            "n": [None if n % 9 == 0 else n % 50 for n in range(200)],
            "price": np.linspace(0.5, 9, 200),
            "ok": [n % 3 == 0 for n in range(200)],
            "color": ["red", "blue", None, "green"] * 50,
        }
    )
    for name, content in [
        ("sales.parquet", frame.to_parquet(index=False)),
        (
            "sales.jsonl",
            frame.assign(when=frame["when"].astype(str)).to_json(orient="records", lines=True).encode(),
        ),
    ]:
        dataset, text, _ = prepared(content, name)
        expected = {
            "when": "datetime",
            "n": "number",
            "price": "number",
            "ok": "boolean",
            "color": "category",
        }
        assert kinds(dataset) == expected
        assert dataset.target is None
        assert "read:" not in text


def test_json_lines_under_another_name_and_compressed() -> None:
    lines = b"".join(json.dumps({"a": n, "b": n % 2 == 0}).encode() + b"\n" for n in [3, 1, 4, 1, 5])
    dataset, _, _ = prepared(gzip.compress(lines), "log.csv.gz")
    assert dataset.read.format == "jsonl"
    assert dataset.match == "raw/log/**/*.csv.gz"


# Single columns


def column(values: list[Any], name: str = "c") -> tuple[Any, str, Dataset]:
    """How the column is declared beside a plain one."""
    rows = [[name, "other"], *([value, number * 0.5] for number, value in enumerate(values))]
    dataset, text, _ = prepared(csv(rows), "file.csv")
    line = next(line for line in text.splitlines() if line.startswith(f"  {name}:"))
    return dataset.columns[name], line, dataset


@pytest.mark.parametrize(
    ("values", "kind", "form"),
    [
        (["yes", "no"] * 10, "boolean", None),
        (["True", "False", ""] * 10, "boolean", None),
        (["01", "02", "03"] * 10, "category", None),
        (["red", "blue"] * 10, "category", None),
        ([f"word {n}" for n in range(20)], "text", None),
        (["2024-01-02", "2024-03-04T05:06:07"] * 5, "datetime", None),
        (["31.12.2023", "01.02.2024"] * 5, "datetime", "%d.%m.%Y"),
        (["12/31/2023", "01/02/2024"] * 5, "datetime", "%m/%d/%Y"),
        (["31/12/2023 10:15", "01/02/2024 11:00"] * 5, "datetime", "%d/%m/%Y %H:%M"),
        (["5 Mar 2024", "6 Apr 2024"] * 5, "datetime", "%d %b %Y"),
        (["1", "NA", "2.5"] * 5, "number", None),
        (["1e3", "2e3"] * 5, "number", None),
        (["123456789012345678901", "123456789012345678902"] * 5, "category", None),
        (["inf", "1"] * 5, "category", None),
        ([""] * 4, "text", None),
    ],
)
def test_the_type_of_a_column(values: list[str], kind: str, form: str | None) -> None:
    found, _, _ = column(values)
    assert (found.type, found.format) == (kind, form)


def test_compact_dates_only_under_a_name_of_a_date() -> None:
    values = [20240101 + n for n in range(20)]
    assert column(values, "order_date")[0].format == "%Y%m%d"
    assert column(values, "amount")[0].type == "number"


def test_a_date_that_can_be_read_in_two_ways_says_so() -> None:
    assert "or is it %d/%m/%Y?" in column(["01/02/2024", "03/04/2024"] * 5)[1]


def test_numbers_with_question_marks_say_so() -> None:
    _, line, dataset = column([*(str(n) for n in range(30)), "?"])
    assert "numbers but for 1 such as '?'" in line
    assert steps_of(dataset)["drop"] == ("c",)


def test_what_is_no_use_is_dropped_and_says_why() -> None:
    rows: list[list[Any]] = [["", "user_id", "same", "gone", "email", "score"]]
    rows += [[n, f"u{n}", "x", "", f"{n % 3}@x.org", n % 7] for n in range(30)]
    dataset, text, output = prepared(csv(rows), "file.csv")
    assert set(steps_of(dataset)["drop"]) == {"Unnamed: 0", "user_id", "same", "gone", "email"}
    assert list(output.columns) == ["score"]
    assert "always 'x'" in text
    assert "no value at all" in text
    assert {name for name, c in dataset.columns.items() if c.unique} == {"Unnamed: 0", "user_id"}


def test_a_file_of_nothing_for_a_model_keeps_its_columns() -> None:
    dataset, text, output = prepared(b"id,note\n1,hello\n2,world\n3,again\n", "notes.csv")
    assert dataset.steps == ()
    assert list(output.columns) == ["id", "note"]
    assert "# - drop: note" in text


def test_a_onehot_column_that_would_be_there_already() -> None:
    rows: list[list[Any]] = [["a", "a_x"], *([["x", "y"][n % 2], n % 5] for n in range(20))]
    dataset, _, _ = prepared(csv(rows), "file.csv")
    assert steps_of(dataset)["encode"] == {"a": "frequency"}


def test_years_in_a_row_are_not_the_number_of_the_row() -> None:
    rows: list[list[Any]] = [["year", "n", "sales"], *([2000 + n, n + 1, n % 5] for n in range(20))]
    assert steps_of(prepared(csv(rows), "file.csv")[0])["drop"] == ("n",)


def test_what_is_proposed_for_one_file_takes_the_next_one() -> None:
    dataset, _ = proposed(churn_csv(rows=500, seed=1), "churn.csv")
    store: Any = MemoryStore()
    store.put("raw", "churn/next.csv", churn_csv(rows=2000, seed=2), "text/csv")
    assert Preparation(store, dataset, "run").prepare("churn/next.csv").result == "processed"


def test_excel() -> None:
    pytest.importorskip("openpyxl")
    frame = pd.DataFrame({"when": pd.date_range("2024-01-01", periods=40), "kind": ["x", "y"] * 20})
    buffer = io.BytesIO()
    frame.to_excel(buffer, index=False)
    dataset, _, output = prepared(buffer.getvalue(), "book.xlsx")
    assert kinds(dataset) == {"when": "datetime", "kind": "category"}
    assert list(output.columns) == ["kind_x", "kind_y", "when_weekday"]


def test_names_of_signed_quantities_get_no_lower_bound() -> None:
    assert column([n % 7 + 0.5 for n in range(20)], "outdoor_temperature")[0].min is None
    assert column([n % 7 + 0.5 for n in range(20)], "height")[0].min == 0


def test_a_target_is_active_only_where_it_is_plausible() -> None:
    assert column([0, 1, 1] * 8, "label")[2].target == "label"
    rows: list[list[Any]] = [["x", "left"], *([n * 1.5, n % 2] for n in range(20))]
    assert prepared(csv(rows), "file.csv")[0].target == "left"
    rows = [["x", "y2"], *([n * 1.5, n * 2.5] for n in range(20))]
    dataset, text, _ = prepared(csv(rows), "file.csv")
    assert dataset.target is None
    assert "# target: y2" in text


def test_many_columns() -> None:
    rng = np.random.default_rng(1)
    frame = pd.DataFrame(rng.normal(size=(40, 300)), columns=[f"measure {n}" for n in range(300)])
    for n in range(300):
        frame[f"kind {n}"] = rng.choice([f"k{k}" for k in range(10)], 40)
    dataset, text, _ = prepared(frame.to_csv(index=False).encode(), "wide.csv")
    assert len(dataset.columns) == 600
    assert max(map(len, text.splitlines())) <= 110


# Names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Churn_Modelling.csv", "churn_modelling"),
        ("churn-2026-11.csv.gz", "churn"),
        ("2026-11 sales.parquet", "sales"),
        ("iris (1).csv", "iris"),
        ("data/a.b.csv", "a_b"),
        ("日本.csv", "dataset"),
        ("", "dataset"),
        ("x" * 100, "x" * 63),
    ],
)
def test_a_dataset_is_named_after_its_file(name: str, expected: str) -> None:
    assert slug(name) == expected


def test_names_and_buckets_can_be_given() -> None:
    dataset, _ = proposed(churn_csv(50), "x.csv", dataset="mine", bucket="processed")
    assert dataset.match == "processed/mine/**/*.csv"
    assert dataset.output_bucket == "prepared"
    with pytest.raises(SettingsError, match="no name of a dataset"):
        propose(churn_csv(50), "x.csv", dataset="My Data")
    with pytest.raises(SettingsError, match="plain bucket"):
        propose(churn_csv(50), "x.csv", bucket="No/Bucket")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "0 bytes"),
        (b"a,b\n", "no rows"),
        (b"a,a\n1,2\n", "same name"),
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        ("Grüße,b\n".encode() * 9 + b"\xff,1\n", "UTF-8"),
        (b"PAR1 is cut off", "Parquet"),
    ],
)
def test_what_is_no_table_says_why(content: bytes, reason: str) -> None:
    with pytest.raises(RejectedError, match=reason):
        propose(content, "x.csv")


def test_every_commented_option_is_valid_once_it_is_uncommented() -> None:
    text = propose(churn_csv(200), "churn.csv")
    examples = text.partition("# More, for when it is needed:\n")[2].splitlines()
    found = set()
    for line in examples:
        content = yaml.safe_load(f"{text}\n{line.removeprefix('# ')}\n")
        Dataset.model_validate(content)
        found.add(line.removeprefix("# ").partition(":")[0])
    assert found == {"split", "fit", "drift", "train", "ready", "schedule"}


# Hostile names and values

hostile = st.one_of(
    st.text(min_size=1, max_size=12),
    st.sampled_from(
        [
            *(
                "yes",
                "null",
                "1e3",
                "~",
                "#",
                "a: b",
                "a:",
                "- x",
                "? y",
                "'",
                '"',
                "[a, b]",
                "{a}",
                "*",
                "&a",
                "!t",
            ),
            *(
                "a\nb",
                "\x85",
                "\u2028",
                "\ufeffx",
                "\x07",
                "<<",
                "=",
                "0x1F",
                "1_000",
                "2024-01-01",
                "é",
                "日本",
                "🚕",
            ),
            *(
                " a ",
                "%",
                "@",
                "`",
                "|",
                ">",
                "a #b",
                "---",
                "...",
                "x" * 200,
                "é\n" * 300,
                "\\",
                "split",
                "id",
                "y",
            ),
            *("target", "_row", "a_b", "true", "nan", "NA", "\t", "\r\n", ",", ";"),
        ]
    ),
)


@given(hostile)
def test_any_text_comes_back_from_yaml_as_it_was(text: str) -> None:
    assert yaml.safe_load(f"a: {scalar(text)}  # why")["a"] == text
    assert yaml.safe_load(flow([text, text])) == [text, text]
    assert yaml.safe_load(flow({text: [text]})) == {text: [text]}
    assert yaml.safe_load(f"a:\n{keyed(text, '{b: 1}', 2)}  # why\n  zz zz: 1") == {
        "a": {text: {"b": 1}, "zz zz": 1}
    }
    assert len(scalar(text).splitlines()) == 1


def columns_of(rows: int) -> st.SearchStrategy[list[Any]]:
    """Columns of one kind or another, some with gaps."""
    some = st.lists(hostile, min_size=1, max_size=4)
    kind = st.one_of(
        st.just(st.integers(0, 1)),
        st.just(st.integers(-(2**70), 2**70)),
        st.just(st.floats(allow_nan=False)),
        st.just(st.floats(-100, 100).map(lambda x: round(x, 2))),
        st.just(st.booleans()),
        st.just(hostile),
        st.just(st.datetimes().map(str)),
        st.just(st.dates().map(lambda day: day.strftime("%d.%m.%Y"))),
        some.map(st.sampled_from),
    )
    values = kind.flatmap(lambda one: st.lists(one, min_size=rows, max_size=rows))
    gappy = st.tuples(values, st.lists(st.booleans(), min_size=rows, max_size=rows)).map(
        lambda pair: [None if gap else value for value, gap in zip(*pair, strict=True)]
    )
    return values | gappy


tables = st.integers(1, 12).flatmap(
    lambda rows: st.dictionaries(hostile, columns_of(rows), min_size=1, max_size=5)
)


def as_csv(table: dict[str, list[Any]], repeat: int) -> bytes:
    frame = pd.DataFrame({name: pd.Series(values * repeat, dtype=object) for name, values in table.items()})
    return frame.to_csv(index=False).encode("utf-8", "replace")


def as_jsonl(table: dict[str, list[Any]], repeat: int) -> bytes:
    rows = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    lines = (json.dumps(row) for row in itertools.chain.from_iterable(itertools.repeat(rows, repeat)))
    return "\n".join(lines).encode()


UNREADABLE = ("is empty", "is blank", "has ", "is no readable", "is no table", "is binary", "is not ")
"""How reasons begin that are about the file; what a proposal of ours cannot do begins otherwise."""


def proposal_or_reason(content: bytes, name: str) -> str:
    """ "", or why there is no proposal."""
    try:
        propose(content, name)
    except (RejectedError, SettingsError) as error:
        return str(error)
    return ""


# Shrinking would take minutes: each example is a whole preparation.
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(tables, st.sampled_from([1, 6]), st.sampled_from(["csv", "jsonl"]))
def test_a_proposal_always_works_or_says_why_there_is_none(
    table: dict[str, list[Any]], repeat: int, form: str
) -> None:
    content = (as_csv if form == "csv" else as_jsonl)(table, repeat)
    reason = proposal_or_reason(content, f"file.{form}")
    if reason:
        assert reason.startswith(UNREADABLE), reason
    else:
        prepared(content, f"file.{form}")
