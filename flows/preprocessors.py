"""Preprocessors: recipes fitted on data, in numbered versions in the output bucket. No Prefect here.

    from flows.preprocessors import load_preprocessor
    load_preprocessor("churn").transform(df)

gives exactly what the pipeline makes of the same rows. Stored with skops, never pickled.

Whoever may write the bucket may forge any of it. So a card decides nothing: what is carried out, and where
things lie, is said by the dataset as it is declared here; and what is loaded is compared with what its
steps would build.
"""

import hashlib
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import sklearn
from pydantic import Field, ValidationError
from sklearn.feature_extraction import DictVectorizer
from sklearn.preprocessing import (
    OneHotEncoder,
    OrdinalEncoder,
    PowerTransformer,
    StandardScaler,
    TargetEncoder,
)

from dropflow.columns import Strict
from dropflow.datasets import Dataset
from dropflow.declarations import load_datasets
from dropflow.errors import AlreadyExistsError, ObjectMissingError, PermanentError, TransientError
from dropflow.objects import ObjectRef, printable
from dropflow.recipes import DICT_SEPARATOR
from dropflow.settings import load_settings
from dropflow.storage import ABSENT, ObjectStore, connect
from flows import archives, contract, steps, structures
from flows.drift import ColumnReference
from flows.transformers import Columnwise, Encoder, SparseOneHot

log = logging.getLogger(__name__)

PREFIX = "_preprocessors/"
TYPES: archives.Types = archives.PLAIN | {
    "ObjectNode": archives.names(
        *steps.TRANSFORMERS,
        # What these hold.
        *(DictVectorizer, OneHotEncoder, OrdinalEncoder, TargetEncoder),
    )
}
"""All that a stored preprocessor may be made of."""
MOST_RACES = 100
_CARD = re.compile(r"v([0-9]{4,})\.json")


class PreprocessorCard(Strict):
    """What is known of one version. Written last, with a conditional PUT: it is the commit."""

    name: str
    version: int = Field(ge=1)
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
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    reference: dict[str, ColumnReference] = Field(default_factory=dict)

    @property
    def label(self) -> str:
        return f"v{self.version}"

    @property
    def fitted_on(self) -> ObjectRef:
        return ObjectRef(self.bucket, self.key, self.etag)


@dataclass(frozen=True)
class Preprocessor:
    """A fitted recipe. `dataset`: as declared here; `steps`: a fitted transformer for each of its steps."""

    card: PreprocessorCard
    dataset: Dataset
    steps: tuple[Any, ...]

    def transform(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Raw rows as read from a file, with or without the target, to what the pipeline makes of them.

        The index is that of the frame given. Raises RejectedError where rows break the contract.
        """
        dataset = self.dataset
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
    return load(store, dataset, chosen[-1])


def cards(store: ObjectStore, dataset: Dataset) -> Iterator[PreprocessorCard]:
    """All versions that can be read, the oldest first; one of another release may not, and is never used."""
    for _, key in _numbered(store, dataset):
        try:
            yield read_card(store, dataset, key)
        except PermanentError as error:
            log.warning("%s", error)


def _numbered(store: ObjectStore, dataset: Dataset) -> list[tuple[int, str]]:
    """Versions that are taken, and the keys of their cards."""
    found = store.list(dataset.output_bucket, f"{PREFIX}{dataset.name}/")
    matches = [(_CARD.fullmatch(ref.key.rpartition("/")[2]), ref.key) for ref in found]
    return sorted((int(match[1]), key) for match, key in matches if match)


def in_use(card: PreprocessorCard, dataset: Dataset) -> bool:
    """Whether the version can transform for the dataset as it is declared now."""
    return has_recipe(card, dataset) and card.sklearn == sklearn.__version__


def has_recipe(card: PreprocessorCard, dataset: Dataset) -> bool:
    """Whether it was fitted with the recipe that the dataset has now.

    Computed anew, as a card may say what it likes; and as the card says, as another release may compute it
    otherwise.
    """
    declared = steps.recipe_id(dataset)
    return card.recipe == declared == steps.recipe_id(card.dataset)


def read_card(store: ObjectStore, dataset: Dataset, key: str) -> PreprocessorCard:
    """Raises PermanentError when it cannot be read, or is the card of another place."""
    url = f"s3://{dataset.output_bucket}/{printable(key)}"
    body = store.get(dataset.output_bucket, key)[1]
    try:
        card = PreprocessorCard.model_validate_json(body)
    except ValidationError as error:
        raise PermanentError(f"{url} is no preprocessor's card: delete it, or refit") from error
    named = (card.name, card.dataset.name, card.content_key, key)
    if named != (dataset.name, dataset.name, _content_key(dataset, card.sha256), _key(dataset, card.version)):
        raise PermanentError(
            f"{url} is the card of {printable(card.name, 40)} {card.label} with the content "
            f"{printable(card.content_key)}, which does not belong here: delete it, or refit"
        )
    return card


def _key(dataset: Dataset, version: int) -> str:
    return f"{PREFIX}{dataset.name}/v{version:04}.json"


def _content_key(dataset: Dataset, sha256: str) -> str:
    return f"{PREFIX}{dataset.name}/{sha256}.skops"


def save(
    store: ObjectStore, dataset: Dataset, fitted: Iterable[Any], *, another: bool, **facts: Any
) -> Preprocessor:
    """Store a fitted recipe as the next version. `facts`: fields of the card.

    Unless it is to be `another` one, a version of the same recipe that was stored meanwhile wins: two
    first files at once have one reference.
    """
    content = archives.dumps(tuple(fitted))
    digest = hashlib.sha256(content).hexdigest()
    content_key = _content_key(dataset, digest)
    store.put(dataset.output_bucket, content_key, content, "application/zip")
    taken = _numbered(store, dataset)
    version = taken[-1][0] if taken else 0
    if not another and (first := _first_in_use(store, dataset)):
        return load(store, dataset, first)
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
        key = _key(dataset, version)
        body = card.model_dump_json(indent=1).encode()
        try:
            store.put(dataset.output_bucket, key, body, "application/json", instead_of=ABSENT)
        except AlreadyExistsError:
            there = read_card(store, dataset, key)
            # Ours after all, if only the answer to an earlier attempt was lost.
            if there == card or (not another and in_use(there, dataset)):
                return load(store, dataset, there)
        else:
            return load(store, dataset, card)
    raise TransientError(f"no free version for a preprocessor of {dataset.name}: other runs take them all")


def _first_in_use(store: ObjectStore, dataset: Dataset) -> PreprocessorCard | None:
    return next((card for card in cards(store, dataset) if in_use(card, dataset)), None)


def load(store: ObjectStore, dataset: Dataset, card: PreprocessorCard) -> Preprocessor:
    """The version as the dataset's steps take it.

    Raises PermanentError when the content is not what the card says, or not what the steps would build.
    """
    what = f"preprocessor {card.label} of {dataset.name}"
    check_version(card)
    try:
        content = store.get(dataset.output_bucket, _content_key(dataset, card.sha256))[1]
    except ObjectMissingError as error:
        raise PermanentError(f"{what}: its content is gone: refit it") from error
    if hashlib.sha256(content).hexdigest() != card.sha256:
        raise PermanentError(f"{what}: its content was changed since it was stored: not loaded; refit it")
    try:
        return Preprocessor(card, dataset, _fitted(archives.loads(content, TYPES), dataset))
    except archives.ArchiveError as error:
        raise PermanentError(f"{what} {error}; refit it") from error


def _fitted(found: Any, dataset: Dataset) -> tuple[Any, ...]:
    """Raises ArchiveError where these are not the dataset's steps, fitted."""
    wanted = [steps.build(step, dataset) for step in dataset.steps]
    if type(found) is not tuple or len(found) != len(wanted):
        raise archives.ArchiveError(f"does not have the {len(wanted)} steps of its recipe: not used")
    for number, (one, other) in enumerate(zip(found, wanted, strict=True), start=1):
        try:
            where = structures.unlike(one, other, _held)
        except Exception as error:
            # Something is missing, or of another kind.
            raise archives.ArchiveError(f"is incomplete in step {number}: not used") from error
        if where:
            raise archives.ArchiveError(
                f"holds something else in step {number} than its recipe makes ({printable(where)}): not used"
            )
    return found


def _held(found: Any, wanted: Any) -> dict[str, Any]:
    """The transformers that a fitted one holds.

    Encoders are fitted anew on their categories: scikit-learn follows what else they say out of its memory.
    """
    if isinstance(wanted, Columnwise):
        return {"fitted_": [one for _, one in wanted.parts]}
    if isinstance(wanted, SparseOneHot):
        vectorizer = DictVectorizer(sparse=True, dtype=np.float32, separator=DICT_SEPARATOR)
        return {"vectorizer_": vectorizer.fit([dict.fromkeys(found.vectorizer_.feature_names_, 1)])}
    if isinstance(wanted, PowerTransformer):
        return {"_scaler": StandardScaler(copy=False)}
    if isinstance(wanted, Encoder) and wanted.how == "target":
        kind = "continuous" if found.encoder_.target_type == "continuous" else "auto"
        return {"encoder_": TargetEncoder(target_type=kind)}
    if isinstance(wanted, Encoder) and wanted.how != "frequency":
        anew = Encoder(wanted.how, list(found.categories_)).fit(pd.DataFrame({"": [None]}))
        return {"encoder_": anew.encoder_}
    return {}


def check_version(card: PreprocessorCard) -> None:
    """Raises PermanentError when another scikit-learn has fitted it."""
    if card.sklearn != sklearn.__version__:
        raise PermanentError(
            f"preprocessor {card.label} of {printable(card.name, 40)} was fitted with scikit-learn "
            f"{printable(card.sklearn, 40)}, and this is {sklearn.__version__}: the same numbers are not "
            "certain; refit it"
        )
