"""Preprocessors: recipes fitted on data, in numbered versions in the output bucket. No Prefect here.

    from flows.preprocessors import load_preprocessor
    load_preprocessor("churn").transform(df)

gives exactly what the pipeline makes of the same rows. Stored with skops, never pickled: only known types
are loaded.
"""

import hashlib
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import sklearn
from pydantic import Field, ValidationError

from dropflow.columns import Strict
from dropflow.datasets import Dataset
from dropflow.declarations import load_datasets
from dropflow.errors import AlreadyExistsError, ObjectMissingError, PermanentError, TransientError
from dropflow.objects import ObjectRef, printable
from dropflow.settings import load_settings
from dropflow.storage import ABSENT, ObjectStore, connect
from flows import archives, contract, steps
from flows.drift import ColumnReference

log = logging.getLogger(__name__)

PREFIX = "_preprocessors/"
_OURS = (
    *("Cast", "ClipOutliers", "Columnwise", "Derive", "Drop", "Encoder", "Filter", "FixedBins", "Rename"),
    *("Select", "SparseOneHot"),
)
TRUSTED = ["numpy.dtype", *(f"flows.transformers.{name}" for name in _OURS)]
"""All that a stored preprocessor may hold besides what skops trusts: scikit-learn's and numpy's own."""
MOST_RACES = 100
_CARD = re.compile(r"v([0-9]{4,})\.json")


class PreprocessorCard(Strict):
    """What is known of one version. Written last, with a conditional PUT: it is the commit."""

    name: str
    version: int
    recipe: str
    dataset: Dataset
    sklearn: str
    bucket: str
    key: str
    etag: str
    rows: int
    run_id: str = ""
    fitted_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    content_key: str
    sha256: str
    reference: dict[str, ColumnReference] = Field(default_factory=dict)

    @property
    def label(self) -> str:
        return f"v{self.version}"

    @property
    def fitted_on(self) -> ObjectRef:
        return ObjectRef(self.bucket, self.key, self.etag)


@dataclass(frozen=True)
class Preprocessor:
    """A fitted recipe. `steps`: one fitted transformer for each step of the dataset."""

    card: PreprocessorCard
    steps: tuple[Any, ...]

    def transform(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Raw rows as read from a file, with or without the target, to what the pipeline makes of them.

        The index is that of the frame given. Raises RejectedError where rows break the contract.
        """
        dataset = self.card.dataset
        done = contract.check(frame, dataset, max_share=0.0, serving=True).good
        done = steps.prepared(done, dataset)
        for step, fitted in zip(dataset.steps, self.steps, strict=True):
            done, _, _ = steps.apply(done, step, dataset, fitted=fitted)
        return done.set_axis(frame.index[done.index], axis=0)


def load_preprocessor(
    name: str, version: int | None = None, store: ObjectStore | None = None
) -> Preprocessor:
    """The latest (or one) version of a dataset's preprocessor, from the store that the settings name.

    Raises PermanentError when there is none, or it cannot be trusted, or was fitted by another scikit-learn.
    """
    settings = load_settings()
    store = store or connect(settings)
    dataset = load_datasets(settings.datasets_dir)[name]
    known = list(cards(store, dataset))
    chosen = [card for card in known if version in (None, card.version) and in_use(card, dataset)]
    if not chosen:
        there = ", ".join(card.label for card in known) or "none yet: it is fitted with `fit: reference`"
        which = "no preprocessor" if version is None else f"no v{version}"
        raise PermanentError(
            f"{name} has {which} that fits its recipe and this scikit-learn (there are: {there})"
        )
    return load(store, chosen[-1])


def cards(store: ObjectStore, dataset: Dataset) -> Iterator[PreprocessorCard]:
    """All versions that can be read, the oldest first; one of another release may not, and is never used."""
    for _, key in _numbered(store, dataset):
        try:
            yield read_card(store, dataset.output_bucket, key)
        except PermanentError as error:
            log.warning("%s", error)


def _numbered(store: ObjectStore, dataset: Dataset) -> list[tuple[int, str]]:
    """Versions that are taken, and the keys of their cards."""
    found = store.list(dataset.output_bucket, f"{PREFIX}{dataset.name}/")
    matches = [(_CARD.fullmatch(ref.key.rpartition("/")[2]), ref.key) for ref in found]
    return sorted((int(match[1]), key) for match, key in matches if match)


def in_use(card: PreprocessorCard, dataset: Dataset) -> bool:
    """Whether the version can transform for the dataset as it is declared now."""
    return card.recipe == steps.recipe_id(dataset) and card.sklearn == sklearn.__version__


def read_card(store: ObjectStore, bucket: str, key: str) -> PreprocessorCard:
    """Raises PermanentError when it cannot be read."""
    body = store.get(bucket, key)[1]
    try:
        return PreprocessorCard.model_validate_json(body)
    except ValidationError as error:
        raise PermanentError(
            f"s3://{bucket}/{printable(key)} is no preprocessor's card: delete it, or refit"
        ) from error


def save(
    store: ObjectStore, dataset: Dataset, fitted: Iterable[Any], *, another: bool, **facts: Any
) -> Preprocessor:
    """Store a fitted recipe as the next version. `facts`: fields of the card.

    Unless it is to be `another` one, a version of the same recipe that was stored meanwhile wins: two
    first files at once have one reference.
    """
    content = archives.dumps(tuple(fitted))
    digest = hashlib.sha256(content).hexdigest()
    content_key = f"{PREFIX}{dataset.name}/{digest}.skops"
    store.put(dataset.output_bucket, content_key, content, "application/zip")
    taken = _numbered(store, dataset)
    version = taken[-1][0] if taken else 0
    if not another and (first := _first_in_use(store, dataset)):
        return load(store, first)
    for _ in range(MOST_RACES):
        version += 1
        card = PreprocessorCard(
            name=dataset.name,
            version=version,
            recipe=steps.recipe_id(dataset),
            dataset=dataset,
            sklearn=sklearn.__version__,
            content_key=content_key,
            sha256=digest,
            **facts,
        )
        key = f"{PREFIX}{dataset.name}/v{version:04}.json"
        body = card.model_dump_json(indent=1).encode()
        try:
            store.put(dataset.output_bucket, key, body, "application/json", instead_of=ABSENT)
        except AlreadyExistsError:
            there = read_card(store, dataset.output_bucket, key)
            # Ours after all, if only the answer to an earlier attempt was lost.
            if there == card or (not another and in_use(there, dataset)):
                return load(store, there)
        else:
            return load(store, card)
    raise TransientError(f"no free version for a preprocessor of {dataset.name}: other runs take them all")


def _first_in_use(store: ObjectStore, dataset: Dataset) -> PreprocessorCard | None:
    return next((card for card in cards(store, dataset) if in_use(card, dataset)), None)


def load(store: ObjectStore, card: PreprocessorCard) -> Preprocessor:
    """Raises PermanentError when the content is not what the card says, or of types not known here."""
    what = f"preprocessor {card.label} of {card.name}"
    check_version(card)
    try:
        content = store.get(card.dataset.output_bucket, card.content_key)[1]
    except ObjectMissingError as error:
        raise PermanentError(f"{what}: its content is gone: refit it") from error
    if hashlib.sha256(content).hexdigest() != card.sha256:
        raise PermanentError(f"{what}: its content was changed since it was stored: not loaded; refit it")
    return Preprocessor(card, tuple(_trusted(content, what)))


def _trusted(content: bytes, what: str) -> Any:
    try:
        foreign = sorted(set(archives.untrusted_types(content)) - set(TRUSTED))
        found = None if foreign else archives.loads(content, TRUSTED)
    except Exception as error:
        # Whatever a tampered archive makes skops raise.
        raise PermanentError(f"{what} cannot be read ({type(error).__name__}): refit it") from error
    if foreign:
        raise PermanentError(f"{what} holds types that are not trusted: {', '.join(foreign)[:300]}")
    return found


def check_version(card: PreprocessorCard) -> None:
    """Raises PermanentError when another scikit-learn has fitted it."""
    if card.sklearn != sklearn.__version__:
        raise PermanentError(
            f"preprocessor {card.label} of {card.name} was fitted with scikit-learn {card.sklearn}, and this "
            f"is {sklearn.__version__}: the same numbers are not certain; refit it"
        )
