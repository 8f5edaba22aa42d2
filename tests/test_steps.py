"""Every step alone against plain scikit-learn or pandas; any order of steps works or is refused."""

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.impute import KNNImputer
from sklearn.preprocessing import (
    KBinsDiscretizer,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PowerTransformer,
    RobustScaler,
    StandardScaler,
    TargetEncoder,
)

from dropflow.datasets import Dataset
from dropflow.errors import RejectedError
from flows import archives, contract, preprocessors
from flows.steps import apply
from flows.transformers import FEW_VALUES, Columnwise, Encoder

COLUMNS: dict[str, Any] = {
    "n": {"type": "number", "nullable": True},
    "m": {"type": "number"},
    "c": {"type": "category", "nullable": True},
    "d": {"type": "category", "values": ["x", "y", "z"]},
    "t": {"type": "text"},
    "start": {"type": "datetime"},
    "end": {"type": "datetime"},
    "b": {"type": "boolean"},
    "y": {"type": "number"},
}


def dataset(*steps: dict[str, Any], **changes: Any) -> Dataset:
    fields = {"name": "s", "match": "raw/s/*.csv", "columns": COLUMNS, "target": "y", "steps": list(steps)}
    return Dataset.model_validate({**fields, **changes})


def sample(rows: int = 60, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    start = pd.Timestamp("2026-01-31 23:50") + pd.to_timedelta(rng.integers(0, 10_000, rows), "min")
    frame = pd.DataFrame(
        {
            "n": rng.normal(10, 3, rows),
            "m": rng.normal(0, 1, rows) ** 2,
            "c": rng.choice(["a", "b", "c"], rows),
            "d": rng.choice(["x", "y", "z"], rows),
            "t": [f"text {i}" for i in range(rows)],
            "start": start,
            "end": start + pd.to_timedelta(rng.integers(1, 90, rows), "min"),
            "b": rng.choice(["true", "no", "1"], rows),
            "y": rng.integers(0, 2, rows),
        }
    )
    frame.loc[::7, "n"] = np.nan
    frame.loc[::9, "c"] = None
    return frame


def checked(frame: pd.DataFrame, of: Dataset) -> pd.DataFrame:
    return contract.check(frame, of, max_share=0).good


def carried_out(frame: pd.DataFrame, of: Dataset) -> pd.DataFrame:
    """All steps, each also stored and restored by skops: the restored one must do the same."""
    done = checked(frame, of)
    for step in of.steps:
        after, fitted, told = apply(done, step, of)
        assert told
        restored = archives.loads(archives.dumps(fitted), preprocessors.TYPES)
        assert preprocessors._fitted((restored,), of.model_copy(update={"steps": (step,)})) == (restored,)
        again, _, _ = apply(done, step, of, fitted=restored)
        pd.testing.assert_frame_equal(after, again, check_exact=True)
        done = after
    return done


FULL = sample()
RAW = checked(FULL, dataset())
TEXTS = RAW[["c", "d"]]


def one(*steps: dict[str, Any]) -> pd.DataFrame:
    return carried_out(FULL, dataset(*steps))


def test_drop_and_rename() -> None:
    frame = one({"drop": ["t", "b"]}, {"rename": {"n": "number", "c": "kind"}})
    assert list(frame.columns) == ["number", "m", "kind", "d", "start", "end", "y"]
    pd.testing.assert_series_equal(frame["number"], RAW["n"], check_names=False)


def test_cast() -> None:
    frame = one({"cast": {"m": "text", "b": "number", "y": "category", "start": "number"}})
    assert frame["m"].tolist() == [str(value) for value in RAW["m"]]
    assert set(frame["y"]) == {"0", "1"}
    assert frame["start"].iloc[0] == RAW["start"].iloc[0].timestamp()
    with pytest.raises(RejectedError, match="column t: 'text 0' in data row 1 is no number"):
        one({"cast": {"t": "number"}})


def test_derive() -> None:
    frame = one(
        {
            "derive": {
                "duration": {"difference": ["end", "start"], "unit": "minutes"},
                "gap": {"difference": ["n", "m"]},
                "share": {"ratio": ["m", "y"]},
                "pair": {"concat": ["d", "c"], "separator": "-"},
                "on": {"parts": ["month", "weekday", "hour"], "of": "start"},
            }
        }
    )
    expected = (FULL["end"] - FULL["start"]).dt.total_seconds() / 60
    np.testing.assert_allclose(frame["duration"], expected)
    pd.testing.assert_series_equal(frame["gap"], RAW["n"] - RAW["m"], check_names=False)
    assert frame["share"].isna().equals(RAW["y"] == 0)
    assert frame["pair"].dropna().tolist() == [
        f"{d}-{c}" for d, c in zip(RAW["d"], RAW["c"], strict=True) if isinstance(c, str)
    ]
    assert frame["on_weekday"].tolist() == RAW["start"].dt.day_of_week.tolist()
    assert list(frame.columns[-3:]) == ["on_month", "on_weekday", "on_hour"]


def test_filter() -> None:
    frame = one({"filter": {"m": {"min": 0.1, "max": 1}, "d": {"values": ["x", "y"]}, "n": {"gaps": "keep"}}})
    keep = RAW["m"].between(0.1, 1) & RAW["d"].isin(["x", "y"])
    assert frame.index.tolist() == RAW.index[keep].tolist()
    with pytest.raises(RejectedError, match="leaves none of the 60 rows"):
        one({"filter": {"m": {"min": 1e9}}})


@pytest.mark.parametrize("way", ["mean", "median", "most_frequent"])
def test_impute(way: str) -> None:
    frame = one({"impute": {"n": way, "c": "most_frequent"}})
    value = RAW["n"].mode()[0] if way == "most_frequent" else RAW["n"].agg(way)
    np.testing.assert_allclose(frame["n"], RAW["n"].fillna(value))
    assert frame["c"].tolist() == RAW["c"].fillna(RAW["c"].mode()[0]).tolist()


def test_impute_by_neighbours_and_constants() -> None:
    frame = one({"impute": {"n": "knn", "m": "knn", "c": {"constant": "none"}}})
    np.testing.assert_allclose(frame[["n", "m"]], KNNImputer().fit_transform(RAW[["n", "m"]]))
    assert frame["c"].tolist() == RAW["c"].fillna("none").tolist()


def test_encode_onehot_and_ordinal() -> None:
    frame = one({"encode": {"d": "onehot"}}, {"impute": {"c": "most_frequent"}}, {"encode": {"c": "ordinal"}})
    np.testing.assert_array_equal(
        frame[["d_x", "d_y", "d_z"]], OneHotEncoder(sparse_output=False).fit_transform(RAW[["d"]])
    )
    filled = RAW[["c"]].fillna(RAW["c"].mode()[0])
    np.testing.assert_array_equal(frame[["c"]], OrdinalEncoder().fit_transform(filled))


@pytest.mark.parametrize("how", ["onehot", "ordinal"])
def test_files_are_encoded_alike_whatever_was_encoded_before(how: str) -> None:
    """What few values are encoded as is remembered; of many it is not."""
    few, many = ["x", "y", "new", None], [f"v{number}" for number in range(FEW_VALUES + 5)]
    encoder = Encoder(how, ["x", "y", "z"]).fit(pd.DataFrame({"c": ["x"]}))
    for values in (few, few[::-1], many + few, few):
        frame = encoder.transform(pd.DataFrame({"c": values}))
        assert list(frame.columns) == (["c_x", "c_y", "c_z"] if how == "onehot" else ["c"])
        place = {"x": 0, "y": 1}
        expected = [
            [float(place.get(value) == one) for one in range(3)]
            if how == "onehot"
            else [place.get(value, -1.0)]
            for value in values
        ]
        assert frame.to_numpy().tolist() == expected


def test_a_gap_is_no_category() -> None:
    frame = one({"encode": {"c": "onehot"}})
    assert [name for name in frame.columns if name.startswith("c_")] == ["c_a", "c_b", "c_c"]
    assert (frame.filter(like="c_").sum(axis=1) == RAW["c"].notna()).all()


def test_encode_by_target_and_frequency() -> None:
    frame = one({"encode": {"d": "target", "c": "frequency"}})
    expected = TargetEncoder().fit(RAW[["d"]], RAW["y"]).transform(RAW[["d"]])
    np.testing.assert_allclose(frame[["d"]], expected)
    shares = RAW["c"].value_counts(dropna=False, normalize=True)
    np.testing.assert_allclose(frame["c"], [shares[value] for value in RAW["c"]])


def test_encode_numbers_by_their_order() -> None:
    numbers = sample().assign(m=np.resize([2, 10, 1], 60))
    frame = carried_out(numbers, dataset({"encode": {"m": "ordinal"}}))
    assert frame["m"].tolist()[:3] == [1, 2, 0]


def test_encode_many_categories_sparsely() -> None:
    frame = one({"encode": {"d": "dict"}})
    assert list(frame.filter(like="d=").columns) == ["d=x", "d=y", "d=z"]
    assert all(isinstance(dtype, pd.SparseDtype) for dtype in frame.filter(like="d=").dtypes)
    np.testing.assert_array_equal(
        frame.filter(like="d="), OneHotEncoder(sparse_output=False).fit_transform(RAW[["d"]])
    )


@pytest.mark.parametrize(
    ("method", "plain"),
    [
        ("standard", StandardScaler),
        ("minmax", MinMaxScaler),
        ("robust", RobustScaler),
        ("power", PowerTransformer),
    ],
)
def test_scale(method: str, plain: Any) -> None:
    frame = one({"scale": {"method": method, "columns": ["n", "m"]}})
    np.testing.assert_allclose(frame[["n", "m"]], plain().fit_transform(RAW[["n", "m"]]), atol=1e-9)


def test_clip() -> None:
    frame = one({"clip": {"n": {"min": 8, "max": 12}, "m": {"quantiles": [0.1, 0.9]}}})
    pd.testing.assert_series_equal(frame["n"], RAW["n"].clip(8, 12))
    pd.testing.assert_series_equal(frame["m"], RAW["m"].clip(RAW["m"].quantile(0.1), RAW["m"].quantile(0.9)))
    low, high = RAW["m"].quantile(0.25), RAW["m"].quantile(0.75)
    expected = RAW["m"].clip(low - 1.5 * (high - low), high + 1.5 * (high - low))
    pd.testing.assert_series_equal(one({"clip": {"m": {"iqr": 1.5}}})["m"], expected)


@pytest.mark.parametrize("strategy", ["quantile", "uniform", "kmeans"])
def test_bin(strategy: str) -> None:
    frame = one({"bin": {"m": {"bins": 4, "strategy": strategy}}})
    options = {"quantile_method": "averaged_inverted_cdf"} if strategy == "quantile" else {}
    plain = KBinsDiscretizer(4, encode="ordinal", strategy=strategy, **options)
    np.testing.assert_array_equal(frame[["m"]], plain.fit_transform(RAW[["m"]]))


def test_bin_by_edges() -> None:
    frame = one({"bin": {"m": {"edges": [0.5, 1]}}})
    assert frame["m"].tolist() == [float((v >= 0.5) + (v >= 1)) for v in RAW["m"]]


def test_select() -> None:
    assert list(one({"select": ["m", "d"]}).columns) == ["m", "d", "y"]
    told = FULL.assign(m=FULL["y"] * 10 + FULL["m"])
    steps = [{"drop": ["c", "d", "t", "start", "end"]}, {"impute": {"n": "mean"}}, {"select": {"top": 1}}]
    assert list(carried_out(told, dataset(*steps)).columns) == ["m", "y"]
    steps[-1] = {"select": {"top": 1, "by": "mutual_info"}}
    assert list(carried_out(told, dataset(*steps)).columns) == ["m", "y"]


def test_all_gaps_leave_nothing_to_learn_from() -> None:
    empty = FULL.assign(n=np.nan)
    for step in ({"impute": {"n": "knn"}}, {"scale": {"columns": ["n"]}}, {"clip": {"n": {"iqr": 1}}}):
        with pytest.raises(RejectedError, match="column n has no value at all"):
            carried_out(empty, dataset(step))


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ([{"scale": {"columns": ["c"]}}], r"step 1 \(scale\) needs numbers, but 'c' is of type category"),
        ([{"bin": {"n": {"bins": 3}}}], "cannot take gaps, and 'n' may have some: impute it before"),
        (
            [{"drop": ["n"]}, {"impute": {"n": "mean"}}],
            "step 2 .impute. names the column 'n', which is not there",
        ),
        ([{"derive": {"m": {"ratio": ["n", "y"]}}}], "derives 'm', which is there already"),
        ([{"derive": {"x": {"parts": ["hour"], "of": "t"}}}], "needs a datetime, but 't' is of type text"),
        ([{"derive": {"x": {"difference": ["start", "n"]}}}], "from a datetime and a number"),
        ([{"rename": {"n": "m"}}], "makes two columns of the name 'm'"),
        ([{"rename": {"y": "z"}}], "renames the target 'y'"),
        ([{"encode": {"start": "onehot"}}], "encodes the datetime 'start'"),
        ([{"encode": {"y": "target"}}], "encodes the target 'y' as target"),
        ([{"impute": {"n": {"constant": "none"}}}], "fills 'n', which is of type number, with 'none'"),
        ([{"select": {"top": 3}}], "cannot take gaps, and 'n' may have some"),
        ([{"drop": ["y"]}], "target 'y' is no column of the output"),
        ([{"clip": {"n": {"min": 3, "max": 1}}}], "min is above max"),
        ([{"bin": {"m": {"bins": 3, "edges": [1]}}}], "either bins or edges"),
        (
            [{"encode": {"c": "onehot"}}, {"scale": {"columns": ["c"]}}],
            "names the column 'c', which is not there",
        ),
        ([{"cast": {"c": "datetime"}}, {"impute": {"c": "most_frequent"}}], "cannot fill the datetime 'c'"),
    ],
)
def test_what_cannot_be_is_refused_before_a_file_arrives(steps: list[dict[str, Any]], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        dataset(*steps)


ANY_STEP: list[dict[str, Any]] = [
    {"drop": ["t"]},
    {"rename": {"m": "p"}},
    {"cast": {"b": "text"}},
    {"derive": {"x": {"difference": ["end", "start"]}, "on": {"parts": ["day"], "of": "start"}}},
    {"filter": {"m": {"min": 0.05}}},
    {"impute": {"n": "median", "c": "most_frequent"}},
    {"encode": {"c": "onehot", "d": "ordinal"}},
    {"scale": {"columns": ["n", "m"], "method": "robust"}},
    {"clip": {"n": {"quantiles": [0.05, 0.95]}}},
    {"bin": {"m": {"bins": 3}}},
    {"select": ["n", "m", "d", "b"]},
]


@given(st.permutations(ANY_STEP), st.integers(1, len(ANY_STEP)), st.integers(0, 5), st.integers(5, 40))
@hypothesis_settings(max_examples=80, deadline=None)
def test_any_order_of_steps_works_or_is_refused(
    order: list[dict[str, Any]], length: int, seed: int, rows: int
) -> None:
    try:
        of = dataset(*order[:length])
    except ValidationError:
        return
    frame = sample(rows, seed)
    try:
        done = carried_out(frame, of)
    except RejectedError as error:
        if "no value at all" in str(error) or "leaves none" in str(error):
            return
        raise
    if not any("filter" in step for step in order[:length]):
        assert len(done) == rows
    kinds = [next(iter(step)) for step in order[:length]]
    if "impute" in kinds and "n" in done:
        assert done["n"].notna().all()


def test_every_pair_of_steps_works_or_is_refused() -> None:
    for pair in itertools.permutations(ANY_STEP, 2):
        try:
            of = dataset(*pair)
        except ValidationError:
            continue
        carried_out(FULL, of)


LABELLED = pd.DataFrame(
    {
        "c": ["x", "z", "x", "z", "x", None, "x", "z"],
        "self": ["1", "2", None, "4", "5", "6", "7", "8"],
        "n": ["3", "1", "4", "1", "5", "9", "2", "6"],
        "y": ["yes", "no", "yes", "no", "yes", "no", "yes", "no"],
    },
    dtype="str",
)


def labelled(*steps: dict[str, Any]) -> Dataset:
    columns = {
        "c": {"type": "category", "nullable": True},
        "self": {"type": "number", "nullable": True},
        "n": {"type": "number"},
        "y": {"type": "category"},
    }
    declared = {"name": "labelled", "match": "raw/l/*.csv", "columns": columns, "target": "y"}
    return Dataset.model_validate({**declared, "steps": list(steps)})


@pytest.mark.parametrize(
    "steps",
    [
        [{"encode": {"c": "target"}}],
        [
            {"impute": {"self": "mean"}},
            {"encode": {"c": "frequency"}},
            {"select": {"top": 1, "by": "f_test"}},
        ],
        [{"impute": {"self": "knn"}}, {"drop": ["c"]}, {"select": {"top": 1, "by": "mutual_info"}}],
        [{"scale": {"columns": ["self", "n"]}}],
    ],
)
def test_targets_may_be_texts_and_columns_have_any_name(steps: list[dict[str, Any]]) -> None:
    of = labelled(*steps)
    frame = carried_out(LABELLED, of)
    assert frame["y"].tolist() == LABELLED["y"].tolist()
    assert len(frame) == len(LABELLED)


@pytest.mark.parametrize("way", ["mean", "median", "most_frequent", "knn", {"constant": 1}])
@pytest.mark.parametrize("dtype", ["boolean", "Int64", "Float64", "int64", "bool"])
def test_numbers_of_any_type_are_imputed_and_are_floats(way: Any, dtype: str) -> None:
    """A dataset's own function may return any."""
    values = (
        [True, False, None, True] if dtype[0] in "bIF" and dtype != "bool" else [True, False, False, True]
    )
    frame = pd.DataFrame({"n": pd.Series(values, dtype=dtype), "m": [1.0, 2.0, 3.0, 4.0]})
    ways = {"n": way} if way != "knn" else {"n": way, "m": way}
    of = dataset({"impute": ways})
    after, fitted, _ = apply(frame, of.steps[0], of)
    assert after["n"].notna().all()
    assert after["n"].iloc[[0, 1, 3]].astype(float).tolist() == [1.0, 0.0, 0.0 + values[3]]
    pd.testing.assert_frame_equal(apply(frame, of.steps[0], of, fitted=fitted)[0], after)
    if way in ("mean", "median"):
        assert after["n"].dtype == float


def test_what_was_stored_with_frames_is_applied_by_place() -> None:
    """Fitted by an earlier version: scikit-learn then gives a frame whose index is its own."""
    frame = pd.DataFrame({"n": [1.0, 2.0, 3.0], "c": ["x", "z", "x"]}, index=[7, 3, 9])
    scaler = StandardScaler().set_output(transform="pandas").fit(frame[["n"]])
    stored = Columnwise([(["n"], scaler)])
    stored.fitted_ = [scaler]
    after = stored.transform(frame)
    assert after.index.tolist() == [7, 3, 9]
    assert after["n"].round(6).tolist() == [-1.224745, 0.0, 1.224745]
    encoder = Encoder("onehot", ["x", "z"])
    encoder.categories_ = ["x", "z"]
    encoder.encoder_ = OneHotEncoder(categories=[["x", "z"]], sparse_output=False, handle_unknown="ignore")
    encoder.encoder_.set_output(transform="pandas").fit(frame[["c"]].astype(object))
    assert encoder.transform(frame[["c"]]).to_numpy().tolist() == [[1, 0], [0, 1], [1, 0]]
