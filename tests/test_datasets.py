"""Dataset files: what they match, and what wrong ones are told."""

from pathlib import Path

import pytest

from dropflow.datasets import Dataset
from dropflow.declarations import load_datasets
from dropflow.errors import DatasetError
from dropflow.settings import PROJECT

GOOD = (PROJECT / "datasets" / "churn.yaml").read_text()


@pytest.mark.parametrize(
    ("key", "matches"),
    [
        ("churn/x.csv", True),
        ("churn/2026/11/x.csv", True),
        ("churn/fäil+name a&b.csv", True),
        ("churn/line\nbreak.csv", True),
        ("churn/.hidden.csv", True),
        ("churn/x.CSV", False),
        ("churn/x.csv.gz", False),
        ("churnx/x.csv", False),
        ("other/churn/x.csv", False),
    ],
)
def test_match(churn: Dataset, key: str, matches: bool) -> None:
    assert churn.matches("raw", key) is matches
    assert not churn.matches("other", key)


@pytest.mark.parametrize(
    ("key", "output"),
    [
        ("churn/x.csv", "churn/x.parquet"),
        ("churn/a/b.csv", "churn/a/b.parquet"),
        ("churn/.csv", "churn/.parquet"),
        ("churn/x.csv.csv", "churn/x.csv.parquet"),
    ],
)
def test_output_key(churn: Dataset, key: str, output: str) -> None:
    assert churn.output_key(key) == output


def test_distinct_objects_never_share_an_output(churn: Dataset) -> None:
    both = churn.model_copy(update={"match": "raw/churn/*.{csv,tsv}"})
    assert both.output_key("churn/x.csv") != both.output_key("churn/x.tsv")


def test_an_object_of_no_dataset_is_told_the_patterns(churn: Dataset) -> None:
    found, reason = load_datasets(PROJECT / "datasets").find("raw", "elsewhere/x.csv")
    assert found is None
    assert reason.startswith("outside every dataset (churn: raw/churn/**/*.csv, churn_model: ")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            "target: Exited",
            "taget: Exited",
            "churn.yaml:{line}: taget: unknown field; did you mean 'target'?",
        ),
        ("Age: median", "Age: medium", "expected mean, median, most_frequent, knn; did you mean 'median'?"),
        (
            "Gender: ordinal",
            "Gander: ordinal",
            "names the column 'Gander', which is not there at that point; did you mean 'Gender'?",
        ),
        ("method: standard", "method: standart", "did you mean 'standard'?"),
        ("name: churn", "name: Churn!", "churn.yaml:{line}: name: String should match pattern"),
        ("match: raw/churn/**/*.csv", "match: '*/x'", "expected bucket/key-glob with a plain bucket"),
        ("output_bucket: processed", "output_bucket: raw", "outputs would trigger the pipeline again"),
        (
            "{type: number, min: 18,",
            "{type: numbr, min: 18,",
            "columns.Age.type: expected number, category, text, datetime, boolean; did you mean 'number'?",
        ),
        (
            "{type: text, nullable: true}",
            "{type: text, min: 1}",
            "min and max belong to columns of type number",
        ),
        ("Age: median", "Surname: median", "names the column 'Surname', which is not there"),
        ("Gender: most_frequent", "Gender: mean", "needs numbers, but 'Gender' is of type category"),
        ("target: Exited", "target: Surname", "target 'Surname' is no column of the output"),
        ("  - drop:", "  - dropp:", "unknown field; did you mean 'drop'?"),
        ("steps:", "steps: [", "while parsing"),
    ],
)
def test_a_wrong_file_is_told_where_and_what_was_expected(
    tmp_path: Path, old: str, new: str, told: str
) -> None:
    assert old in GOOD
    (tmp_path / "churn.yaml").write_text(GOOD.replace(old, new, 1))
    line = GOOD[: GOOD.index(old)].count("\n") + 1
    with pytest.raises(DatasetError) as raised:
        load_datasets(tmp_path)
    assert told.format(line=line) in str(raised.value)
    assert str(tmp_path / "churn.yaml") in str(raised.value)


def test_the_line_of_a_nested_field(tmp_path: Path) -> None:
    (tmp_path / "churn.yaml").write_text(GOOD.replace("Age: median", "Age: medium"))
    line = GOOD[: GOOD.index("Age: median")].count("\n") + 1
    with pytest.raises(DatasetError, match=f"churn.yaml:{line}: steps.1.impute.Age: "):
        load_datasets(tmp_path)


def test_outputs_never_land_in_another_datasets_input(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    again = GOOD.replace("name: churn", "name: again").replace("raw/churn", "processed/churn")
    (tmp_path / "b.yaml").write_text(again.replace("output_bucket: processed", "output_bucket: final"))
    with pytest.raises(DatasetError, match="where the dataset 'again' takes its input"):
        load_datasets(tmp_path)


def test_no_dataset_at_all_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="every dataset is one file there"):
        load_datasets(tmp_path)
    with pytest.raises(DatasetError, match="DROPFLOW_DATASETS_DIR"):
        load_datasets(tmp_path / "gone")
