"""The split into train and test: decided before anything is fitted, which is on train only. Pure."""

import pandas as pd
from sklearn.model_selection import train_test_split

from dropflow.datasets import Dataset
from dropflow.errors import RejectedError

COLUMN = "split"


def train_rows(frame: pd.DataFrame, dataset: Dataset) -> pd.Index | None:
    """The index of the rows to learn from; None without a split. Raises RejectedError.

    The same rows for the same frame, options and seed.
    """
    split = dataset.split
    if split is None:
        return None
    stratify = frame[split.stratify] if split.stratify else None
    if stratify is not None and stratify.isna().any():
        raise RejectedError(f"split: column {split.stratify} has gaps: rows cannot be stratified by it")
    try:
        train: pd.Index
        train, _ = train_test_split(
            frame.index, test_size=split.test_size, random_state=split.seed, stratify=stratify
        )
    except ValueError as error:
        raise RejectedError(f"split: {str(error).splitlines()[0][:200]}") from error
    return train


def with_split(frame: pd.DataFrame, train: pd.Index | None) -> pd.DataFrame:
    """The frame with a last column that says train or test. Raises RejectedError where one is there."""
    if train is None:
        return frame
    if COLUMN in frame.columns:
        raise RejectedError(f"split: has a column {COLUMN} already: rename it, or drop it")
    parts = pd.Series("test", index=frame.index, dtype=object)
    parts[frame.index.isin(train)] = "train"
    return frame.assign(**{COLUMN: parts})
