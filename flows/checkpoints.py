"""Checkpoints: what the steps of an unfinished preparation have produced, for its next attempt.

Kept as Parquet in the output bucket, below a key that names the bytes, all that comes before the steps,
and the steps so far: changing one step's options leaves what came before it. Never needed: whatever
cannot be read is computed again.
"""

import hashlib
import io
import json
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa
import sklearn

from dropflow.datasets import Dataset
from dropflow.errors import DropflowError
from dropflow.objects import ObjectRef
from dropflow.storage import ObjectStore
from flows import steps

log = logging.getLogger(__name__)

PREFIX = "_cache/"
SMALLEST = 2**16
"""Bytes of a raw object that is worth one; less is computed sooner than the store has answered."""
LIFETIME = 24 * 3600.0
"""Seconds that a checkpoint is kept."""


@dataclass(frozen=True)
class Checkpoints:
    """Of one object under one recipe.

    `preprocessor`: the identity of the fitted one, or "". `there`: gives the keys of all checkpoints of the
    dataset; a run asks for them once, and not the store for each object.
    """

    store: ObjectStore
    dataset: Dataset
    ref: ObjectRef
    preprocessor: str
    there: Callable[[], Collection[str]]

    @property
    def _is_small(self) -> bool:
        return self.ref.size is not None and self.ref.size < SMALLEST

    @property
    def _folder(self) -> str:
        fields = {*steps.DECLARED, "column_order", "split", "unknown_categories"}
        before = self.dataset.model_dump(mode="json", include=fields)
        parts = [
            self.ref.bucket,
            self.ref.key,
            self.ref.etag,
            before,
            steps.code(self.dataset.prepare),
            self.preprocessor,
            pd.__version__,
            sklearn.__version__,
        ]
        return f"{PREFIX}{self.dataset.name}/{_digest(parts)}/"

    def _key(self, number: int) -> str:
        so_far = [step.model_dump(mode="json", exclude_unset=True) for step in self.dataset.steps[:number]]
        return f"{self._folder}{number:02}-{_digest(so_far)}.parquet"

    def latest(self) -> tuple[int, pd.DataFrame] | None:
        """How many steps need not be done again, and the frame after them."""
        if not self.dataset.steps or self._is_small:
            return None
        bucket = self.dataset.output_bucket
        try:
            there = self.there()
            for number in range(len(self.dataset.steps), 0, -1):
                if there and self._key(number) in there:
                    content = self.store.get(bucket, self._key(number))[1]
                    return number, pd.read_parquet(io.BytesIO(content))
        except (DropflowError, pa.ArrowException, ValueError) as error:
            log.warning("checkpoint of %s: %s; computing again", self.ref.url, error)
        return None

    def keep(self, number: int, frame: pd.DataFrame) -> None:
        """Keep the frame after so many steps; what is older than LIFETIME makes room."""
        if number == 0 or self._is_small or any(isinstance(dtype, pd.SparseDtype) for dtype in frame.dtypes):
            return
        bucket = self.dataset.output_bucket
        buffer = io.BytesIO()
        try:
            frame.to_parquet(buffer, index=True)
            kind = "application/vnd.apache.parquet"
            self.store.put(bucket, self._key(number), buffer.getvalue(), kind)
            self._forget_old()
        except (DropflowError, pa.ArrowException, ValueError) as error:
            log.warning("checkpoint of %s: %s", self.ref.url, error)

    def _forget_old(self) -> None:
        bucket = self.dataset.output_bucket
        old = pd.Timestamp.now("UTC") - pd.Timedelta(seconds=LIFETIME)
        for ref in self.store.list(bucket, f"{PREFIX}{self.dataset.name}/"):
            if ref.modified and ref.modified < old:
                self.store.delete(bucket, ref.key)


def keys(store: ObjectStore, dataset: Dataset) -> frozenset[str]:
    """Of all checkpoints of the dataset: some, as they live a day, and slow steps are few."""
    return frozenset(ref.key for ref in store.list(dataset.output_bucket, f"{PREFIX}{dataset.name}/"))


def _digest(parts: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:24]
