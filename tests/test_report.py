"""The quality report: its figures against plain pandas, and pages that hostile data cannot change."""

import datetime
import decimal
import io
import re
import time
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dropflow.datasets import Dataset
from dropflow.errors import PermanentError
from dropflow.quality import (
    LONGEST_COLUMN,
    MOST_COLUMNS,
    MOST_KEPT,
    ColumnProfile,
    DriftLine,
    Figures,
    Frequent,
    Kind,
    Numbers,
    Quality,
    Quarantined,
    StepDone,
    kept_drift,
    kept_reasons,
    short,
)
from dropflow.receipts import Receipt, commit_receipt
from dropflow.report import report_of, table, to_html, to_markdown
from dropflow.samples import churn_csv
from dropflow.storage import ObjectStore
from flows.profiles import MOST_BINS, MOST_VALUES, profile

VOID = {"meta", "br"}
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</title></style></svg><iframe src=//evil.example>",
    "{{ 7 * 7 }}{% raw %}",
    "a|b\n# head\n- `x` <b>",
    "[x](javascript:alert(1)) ![](https://evil.example/i.png) www.evil.example a@evil.example",
    "\x1b[31m\u202egnp.exe\ud800\x00",
    "--share:1;background:url(//evil.example)",
]


class Page(HTMLParser):
    """A parsed page: its elements with their attributes, and the text in each."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    def count(self, tag: str, **attributes: str) -> int:
        wanted = {name.rstrip("_"): value for name, value in attributes.items()}
        return sum(tag == found and wanted.items() <= attrs.items() for found, attrs in self.elements)

    @property
    def shape(self) -> set[tuple[str, str]]:
        """Every pair of element and attribute."""
        return {(tag, name) for tag, attrs in self.elements for name in (*attrs, "")}

    @property
    def all_text(self) -> str:
        return "".join(self.text)


def quality(before: pd.DataFrame, after: pd.DataFrame | None = None, **changes: Any) -> Quality:
    prepared = before if after is None else after
    facts: dict[str, Any] = {
        "dataset": "small",
        "url": "s3://raw/small/a.csv",
        "rows_in": len(before),
        "rows_out": len(prepared),
        "before": profile(before),
        "after": profile(prepared),
    }
    return Quality(**facts | changes)


def named(*columns: tuple[str, pd.Series]) -> pd.DataFrame:
    """A frame of named columns. By way of an object index: pandas' own text holds no lone surrogates."""
    frame = pd.DataFrame({position: series for position, (_, series) in enumerate(columns)})
    return frame.set_axis(pd.Index([name for name, _ in columns], dtype=object), axis=1)


def full(text: str = "words") -> Quality:
    """A report with every part, in which whatever may be hostile says `text`."""
    words = pd.Series([text, None, "x", text], dtype=object)
    gaps = pd.Series([1.0, 2.0, 2.0, np.nan])
    return quality(
        named((f"{text}0", words), (f"{text}1", words), (text, gaps)),
        named((f"{text}0", words), (text, gaps), (f"{text}_made", gaps.notna().astype(int))),
        dataset=text,
        url=f"s3://raw/{text}",
        output_url=f"s3://out/{text}",
        run_id=text,
        quarantined=(Quarantined(text, 3, f"{text}\n{text}"),),
        filtered=2,
        steps=(StepDone(name=text, detail=text, seconds=0.25), StepDone(name=text, detail=text, seconds=0.0)),
        drift=(DriftLine(text, 0.5, None, flagged=True), DriftLine(f"{text}0", None, 0.1, flagged=False)),
        warnings=(text,),
        preprocessor=text,
        seconds=1.5,
    )


def of(values: Any, **how: Any) -> ColumnProfile:
    (column,) = profile(pd.DataFrame({"c": pd.Series(values, **how)})).columns
    return column


def numbers(column: ColumnProfile) -> Numbers:
    assert isinstance(column.distribution, Numbers)
    return column.distribution


@pytest.fixture(scope="module")
def churn_frame() -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(churn_csv()))


def test_figures_are_those_of_pandas(churn_frame: pd.DataFrame) -> None:
    figures = profile(churn_frame)
    assert figures.rows == 10_000
    assert [column.name for column in figures.columns] == list(churn_frame.columns)
    for column in figures.columns:
        series = churn_frame[column.name]
        assert column.missing == series.isna().sum()
        assert column.distinct == min(series.nunique(), 1_001)
        if isinstance(column.distribution, Numbers):
            shown = column.distribution
            wanted = series.agg(["min", "mean", "median", "max"])
            assert [shown.min, shown.mean, shown.median, shown.max] == pytest.approx(wanted.tolist())
            assert shown.counts == tuple(np.histogram(series.dropna(), shown.edges)[0])
        else:
            assert isinstance(column.distribution, Frequent)
            counts = series.value_counts()
            assert column.distribution.values == tuple(counts.head(MOST_VALUES).items())
            assert column.distribution.others == counts.iloc[MOST_VALUES:].sum()


def test_churn_is_profiled_and_rendered_quickly(churn_frame: pd.DataFrame) -> None:
    def best(work: Any) -> float:
        times = []
        for _ in range(7):
            started = time.perf_counter()
            work()
            times.append(time.perf_counter() - started)
        return min(times)

    report = quality(churn_frame)
    # Measured at 7 and 1.5 ms: what loops over rows is far slower than any busy machine makes that.
    assert best(lambda: profile(churn_frame)) < 0.1
    assert best(lambda: to_html(report)) < 0.05


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2], "number"),
        ([1.5, None], "number"),
        (pd.array([1, None], dtype="Int64"), "number"),
        (pd.array([1.5, None], dtype="float64[pyarrow]"), "number"),
        (pd.arrays.SparseArray([0.0, 0.0, 1.0]), "number"),
        (pd.Series([decimal.Decimal(1), None], dtype=object), "number"),
        ([True, False], "boolean"),
        (pd.Series([True, None], dtype=object), "boolean"),
        (pd.arrays.SparseArray([True, False]), "boolean"),
        (pd.to_datetime(["2026-01-01", None]), "datetime"),
        (pd.to_datetime(["2026-01-01"], utc=True), "datetime"),
        (pd.Series([datetime.date(2026, 1, 1)], dtype=object), "datetime"),
        (["a", "a", "b", "b"], "category"),
        (pd.Categorical(["a"], categories=["a", "b"]), "category"),
        (["a", "b"], "text"),
        ([1 + 2j, 1 + 3j], "text"),
        (pd.to_timedelta(["1s", "2s"]), "text"),
        (pd.Series([1, "a", None, 2.5, True], dtype=object), "text"),
        (pd.Series([], dtype=object), "text"),
        (pd.Series([None, None], dtype=object), "text"),
        (pd.Series([["a"], ["a"], {"b": 1}], dtype=object), "text"),
    ],
)
def test_kinds(values: Any, kind: Kind) -> None:
    column = of(values)
    assert column.kind == kind
    assert column.missing == pd.Series(values).isna().sum()
    to_html(quality(pd.DataFrame({"c": values})))


@pytest.mark.parametrize(
    "values",
    [
        [-1e308, 1e308],
        [1.7e308] * 4,
        [-1.7e308, 0.0, 1.7e308, 1.7e308],
        [5e-324, 1e-323],
        [1e16, 1e16 + 2],
        [0.0, 5e-324, 1e308],
    ],
)
def test_numbers_at_the_ends_of_the_range(values: list[float]) -> None:
    shown = numbers(of(values))
    assert np.isfinite([*shown.edges, shown.mean, shown.median]).all()
    assert list(shown.edges) == sorted(shown.edges)
    assert sum(shown.counts) == len(values)
    assert shown.min <= shown.mean <= shown.max
    assert "nan" not in to_html(quality(pd.DataFrame({"c": values})))


def test_infinite_numbers_are_told_and_left_out_of_the_histogram() -> None:
    column = of([np.inf, -np.inf, np.inf, 1.0, 2.0, np.nan])
    assert (column.infinite, column.missing, column.distinct) == (3, 1, 4)
    assert numbers(column).counts == (1, 1)
    only = of([np.inf])
    assert only.distribution is None
    assert "<b>1</b> infinite" in to_html(quality(pd.DataFrame({"c": [np.inf]})))


def test_integers_beyond_any_float_are_text() -> None:
    column = of([10**400, 10**5000], dtype=object)
    assert column.kind == "text"
    assert isinstance(column.distribution, Frequent)
    assert ("a huge int", 1) in column.distribution.values


@pytest.mark.parametrize("scale", [lambda x: x, lambda x: (x - x.mean()) / x.std(), lambda x: x / 7])
def test_whole_numbers_make_no_comb_scaled_or_not(scale: Any) -> None:
    every = np.repeat(np.arange(18, 93), 4).astype(float)
    counts = numbers(of(scale(every))).counts
    assert len(set(counts[:-1])) == 1
    assert len(counts) <= MOST_BINS
    assert numbers(of(scale(np.array([0.0, 1.0, 1.0])))).counts == (1, 2)


def test_wide_frames_say_how_many_columns_are_left_out() -> None:
    wide = pd.DataFrame(np.zeros((2, MOST_COLUMNS + 3)))
    figures = profile(wide)
    assert (len(figures.columns), figures.left_out) == (MOST_COLUMNS, 3)
    assert "3 more before, 3 more after" in to_html(quality(wide))


def test_pages_stay_small() -> None:
    rng = np.random.default_rng(1)
    values = [f"{'value' * 20} {number}" for number in range(40)]
    wide = pd.DataFrame(
        {
            f"{'name' * 30} {i}": rng.normal(size=2000) * 10.0 ** (5 * i)
            if i % 2
            else rng.choice(values, 2000)
            for i in range(MOST_COLUMNS)
        }
    )
    other = wide.rename(columns="other {}".format)
    assert len(to_html(quality(wide, other)).encode()) < 200_000
    long = full("x" * 50_000_000)
    assert len(to_html(long).encode()) < 60_000
    assert len(to_markdown(long).encode()) < 20_000
    many = full()
    lines = replace(
        many,
        warnings=("w",) * 100_000,
        quarantined=many.quarantined * 100_000,
        steps=many.steps * 1_000,
    )
    assert len(to_html(lines).encode()) < 60_000
    assert "99,970 more" in to_html(lines)
    assert "99,985 more reasons" in to_markdown(lines)


def test_the_page_has_every_part() -> None:
    html = to_html(full())
    page = Page(html)
    assert [tag for tag, attrs in page.elements if tag == "section"] == ["section"] * 5
    # Heads of five tables; two drift lines, one reason, two steps; three columns and one made of them.
    assert page.count("tr") == 4 + 2 + 1 + 2 + 4
    assert page.count("svg", class_="before") == 1
    assert page.count("svg", class_="after") == 2
    assert page.count("title") == 1 + 3
    assert page.count("li", style="--share:66.7%") == 3
    assert page.count("span", class_="badge") == 2
    for told in ("1.5 s", "Rows out", "made by a step", "not in the output", "preprocessor words", "250 ms"):
        assert told in page.all_text
    assert "content=\"default-src 'none'; style-src 'unsafe-inline'" in html
    assert "prefers-color-scheme: dark" in html
    assert "color-scheme: light dark" in html
    assert page.count("meta", name="viewport") == 1


def test_the_page_loads_nothing() -> None:
    page = Page(to_html(full()))
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "a", "form", "base"}
    assert not {name for _, name in page.shape} & {"src", "href", "srcset", "action", "data"}
    assert not re.search(r"url\(|@import|https?:", to_html(full()))


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_adds_no_element_and_no_attribute(text: str) -> None:
    page, plain = Page(to_html(full(text))), Page(to_html(full()))
    # An example has as many lines as it says.
    tags, wanted = ([tag for tag, _ in each.elements if tag != "code"] for each in (page, plain))
    assert tags == wanted
    assert page.shape == plain.shape
    styles = [attrs["style"] for _, attrs in page.elements if "style" in attrs]
    assert all(re.fullmatch(r"--share:\d+\.\d%", style or "") for style in styles)
    assert short(text, 400) in page.all_text
    assert "\x1b" not in page.all_text
    assert "\u202e" not in page.all_text
    to_html(full(text)).encode()


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_in_its_markdown_cell(text: str) -> None:
    told, plain = to_markdown(full(text)), to_markdown(full())
    assert [line.count("|") for line in told.splitlines()] == [line.count("|") for line in plain.splitlines()]
    assert [line[:3] for line in told.splitlines() if line.startswith(("#", "- "))] == [
        "###",
        "- W",
        "###",
        "###",
        "###",
        "###",
    ]
    assert "<" not in told
    assert not re.search(r"(?<!\\)[`\[~!]", told)
    assert not re.search(r"(https?|ftp)://|www\.|@", told)
    told.encode()


def test_markdown_tells_the_essence() -> None:
    told = to_markdown(full())
    assert "**4 rows in → 4 out** · 3 quarantined · 2 filtered out · 1.5 s · preprocessor words" in told
    assert "| words0 | 1 (25 %) | 1 (25 %) |" in told
    assert "| words1 | 1 (25 %) | – |" in told
    assert "| words | 0.500 | – | **drifted** |" in told
    assert "| words | 3 |" in told
    assert "| words | words | 250 ms |" in told
    assert f"Full report: dropflow report {full().url}" in told
    complete = to_markdown(quality(pd.DataFrame({"n": [1]})))
    assert "#" not in complete


def test_new_columns_stand_below_what_they_were_made_of() -> None:
    before = pd.DataFrame([[1, "a", 2, 3]], columns=["x", "Geo_graphy", "y", "y"])
    after = pd.DataFrame(
        [[1, 0, 1, 2, 3, 9]], columns=["x", "Geo_graphy_a", "Geo_graphy_b_c", "y", "y", "else"]
    )
    rows = table(quality(before, after))
    assert [(row.column.name, bool(row.before), bool(row.after)) for row in rows] == [
        ("x", True, True),
        ("Geo_graphy", True, False),
        ("Geo_graphy_a", False, True),
        ("Geo_graphy_b_c", False, True),
        ("y", True, True),
        ("y", True, True),
        ("else", False, True),
    ]


def test_drift_is_marked_at_columns_with_very_long_names() -> None:
    frame = pd.DataFrame({"n" * 300: [1]})
    (row,) = table(quality(frame, drift=(DriftLine("n" * 300, 1.0, 1.0, flagged=True),)))
    assert row.drifted


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame(),
        pd.DataFrame({"n": pd.Series([], dtype=float), "t": pd.Series([], dtype=str)}),
        pd.DataFrame(index=range(3)),
    ],
)
def test_empty_frames(frame: pd.DataFrame) -> None:
    Page(to_html(quality(frame)))
    to_markdown(quality(frame))
    assert profile(frame).rows == len(frame)


def test_columns_without_any_value() -> None:
    frame = pd.DataFrame({"n": [np.nan, np.nan], "t": pd.Series([None, None], dtype=object), "e": ["", None]})
    n, t, e = profile(frame).columns
    assert (n.missing, n.distinct, n.distribution) == (2, 0, None)
    assert (t.missing, t.distinct, t.distribution) == (2, 0, None)
    assert e.distribution == Frequent((("", 1),), 0)
    page = Page(to_html(quality(frame)))
    assert page.all_text.count("no values") == 4
    assert "(empty)" in page.all_text


def test_a_page_without_an_output_has_one_side() -> None:
    page = Page(to_html(quality(pd.DataFrame({"n": [1, 2]}), pd.DataFrame())))
    assert page.count("svg") == 1
    assert "not in the output" not in page.all_text


cells = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(HOSTILE),
    st.dates(),
    st.decimals(allow_nan=False),
    st.tuples(st.text(max_size=3)),
)
columns = st.one_of(
    st.lists(st.floats(), min_size=8, max_size=8).map(lambda values: pd.Series(values, dtype=float)),
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=8, max_size=8).map(
        lambda values: pd.Series(values, dtype="int64")
    ),
    st.lists(cells, min_size=8, max_size=8).map(lambda values: pd.Series(values, dtype=object)),
    st.lists(st.sampled_from([0.0, 1.0, np.nan]), min_size=8, max_size=8).map(
        lambda values: pd.Series(pd.arrays.SparseArray(values))
    ),
)
names = st.text(max_size=10) | st.sampled_from(HOSTILE)
frames = st.lists(st.tuples(names, columns), max_size=5).map(lambda listed: named(*listed))


@given(frames, frames)
@hypothesis_settings(max_examples=150, deadline=None)
def test_any_frame_has_a_report(before: pd.DataFrame, after: pd.DataFrame) -> None:
    report = quality(before, after)
    known = Page(to_html(full())).shape
    page = Page(to_html(report))
    assert page.shape <= known
    assert page.count("table") == 1
    to_markdown(report).encode()
    for position, column in enumerate(report.before.columns):
        series = before.iloc[:, position]
        shown = column.distribution
        if isinstance(shown, Numbers):
            assert sum(shown.counts) + column.missing + column.infinite == len(series)
            assert len(shown.edges) == len(shown.counts) + 1 <= MOST_BINS + 1
            assert np.isfinite([*shown.edges, shown.mean, shown.median]).all()
            assert list(shown.edges) == sorted(shown.edges)
            # A mean is rounded, also beyond its numbers when these are all the same.
            slack = 1e-9 * max(abs(shown.min), abs(shown.max))
            assert shown.min - slack <= shown.mean <= shown.max + slack
            assert shown.min <= shown.median <= shown.max
        elif shown:
            assert sum(rows for _, rows in shown.values) + shown.others + column.missing == len(series)
            assert all(value.isprintable() for value, _ in shown.values)


def test_without_a_report_it_is_said_why(store: ObjectStore, churn: Dataset) -> None:
    ref = store.put("raw", "churn/a.csv", b"x", "text/csv")
    with pytest.raises(
        PermanentError, match=r"has not been prepared: dropflow explain s3://raw/churn/a\.csv"
    ):
        report_of(store, churn, ref)
    own = {"dataset": "churn", "bucket": "raw", "key": ref.key, "etag": ref.etag}
    commit_receipt(store, churn, Receipt(**own, fingerprint="f", fate="processed"), force=False)
    with pytest.raises(PermanentError, match="before there were reports"):
        report_of(store, churn, ref)
    frame = profile(pd.DataFrame({"Age": [1, 2]}))
    told = Receipt(**own, fingerprint="f", fate="processed", figures=Figures(before=frame, after=frame))
    commit_receipt(store, churn, told, force=True)
    assert b"Age" in report_of(store, churn, ref)
    rejected = Receipt(**own, fingerprint="g", fate="rejected", reason="no column Age")
    commit_receipt(store, churn, rejected, force=False)
    with pytest.raises(PermanentError, match="was rejected, and has no report: no column Age"):
        report_of(store, churn, ref)


def test_a_receipt_keeps_the_worst_of_many_reasons_and_columns() -> None:
    reasons = {f"reason {number}": number + 1 for number in range(150)}
    kept = kept_reasons(reasons, dict.fromkeys(reasons, "x"))
    assert len(kept) == MOST_KEPT + 1
    assert kept[0] == Quarantined("reason 149", 150, "x")
    assert kept[-1] == Quarantined("50 other reasons", sum(range(1, 51)), "")
    assert sum(one.rows for one in kept) == sum(reasons.values())
    lines = [DriftLine("c" * 10_000, number / 1000, None, flagged=number > 100) for number in range(200)]
    drift = kept_drift(lines)
    assert [line.psi for line in drift[:2]] == [0.199, 0.198]
    assert len(drift) == MOST_KEPT
    assert max(len(line.column) for line in drift) <= LONGEST_COLUMN
