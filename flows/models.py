"""Models: numbered versions in a dataset's output bucket, each committed by its card. No Prefect here.

    _models/<dataset>/v0001/model.skops    taken with a conditional PUT: the version is ours
    _models/<dataset>/v0001/report.html
    _models/<dataset>/v0001/model.json     the card, written last: the commit
    _models/<dataset>/best.json            which version is best, changed by compare-and-swap

Nothing is ever unpickled: skops builds only what TYPES names, and that is compared with what training builds.
"""

import hashlib
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import uuid4

import numpy as np
import sklearn
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sklearn._loss._loss import (
    CyAbsoluteError,
    CyHalfBinomialLoss,
    CyHalfGammaLoss,
    CyHalfMultinomialLoss,
    CyHalfPoissonLoss,
    CyHalfSquaredError,
    CyPinballLoss,
)
from sklearn._loss.link import IdentityLink, Interval, LogitLink, LogLink, MultinomialLogit
from sklearn._loss.loss import (
    AbsoluteError,
    HalfBinomialLoss,
    HalfGammaLoss,
    HalfMultinomialLoss,
    HalfPoissonLoss,
    HalfSquaredError,
    PinballLoss,
)
from sklearn.base import BaseEstimator, clone
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.ensemble._hist_gradient_boosting.binning import _BinMapper
from sklearn.ensemble._hist_gradient_boosting.common import PREDICTOR_RECORD_DTYPE
from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import LabelEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.tree._tree import Tree

from dropflow.datasets import Dataset
from dropflow.errors import AlreadyExistsError, ObjectMissingError, PermanentError, TransientError
from dropflow.objects import printable
from dropflow.receipts import MOST_RACES
from dropflow.storage import ABSENT, ObjectStore
from dropflow.trainings import Metric, ModelKind, Task, Training, is_better
from flows import archives, structures
from flows.training import ESTIMATORS, Trained, build

log = logging.getLogger(__name__)

PREFIX = "_models/"
_FORESTS = (RandomForestClassifier, RandomForestRegressor)
_TREES = (DecisionTreeClassifier, DecisionTreeRegressor)
_BOOSTED = (HistGradientBoostingClassifier, HistGradientBoostingRegressor)
_LOSSES = (
    *(AbsoluteError, HalfBinomialLoss, HalfGammaLoss, HalfMultinomialLoss, HalfPoissonLoss),
    *(HalfSquaredError, PinballLoss),
)
_LINKS = (IdentityLink, Interval, LogitLink, LogLink, MultinomialLogit)
_LOSSES_IN_C = (
    *(CyAbsoluteError, CyHalfBinomialLoss, CyHalfGammaLoss, CyHalfMultinomialLoss, CyHalfPoissonLoss),
    *(CyHalfSquaredError, CyPinballLoss),
)
TYPES: archives.Types = archives.PLAIN | {
    "ObjectNode": archives.names(
        *(Pipeline, StandardScaler, *ESTIMATORS.values(), LabelEncoder),
        *(*_LOSSES, *_LINKS, _BinMapper, TreePredictor),
    ),
    "LossNode": archives.names(*_LOSSES_IN_C),
    "TreeNode": archives.names(Tree),
    "RandomGeneratorNode": archives.names(np.random.Generator),
}
"""All that our models may be made of.

Trees hold arrays of numbers only, but scikit-learn follows those without looking: see `_check_trees`.
"""
ATTEMPT = "attempt"
"""Metadata of a model: which call of `register` wrote it, should the answer to its PUT be lost."""
_VERSION = re.compile(r"v([0-9]{4}|[1-9][0-9]{4,})/(.+)")
Which = int | Literal["best", "latest"]


class Source(BaseModel):
    """A prepared object a model was trained on: its receipt, and the output's bytes."""

    model_config = ConfigDict(frozen=True)

    receipt_key: str
    etag: str


class ModelCard(BaseModel):
    """What a stored model is, where it comes from and what it is worth. Times are UTC.

    `metrics` are of the rows held out; `version` is 0 until one is taken. `tag` is not stored but said by
    the pointer best.json.
    """

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    dataset: str
    version: int = Field(0, ge=0)
    task: Task
    model: ModelKind
    estimator: str
    options: dict[str, Any] = Field(default_factory=dict)
    seed: int
    target: str
    features: tuple[str, ...]
    classes: tuple[str, ...] = ()
    better_by: Metric
    metrics: dict[str, float]
    baseline_name: str = ""
    baseline_metrics: dict[str, float] | None = None
    rows_train: int
    rows_test: int
    data: tuple[Source, ...] = ()
    preprocessor_version: str = ""
    sklearn_version: str = sklearn.__version__
    model_sha256: str = ""
    flow_run_id: str = ""
    trained_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    tag: Literal["best", ""] = ""

    @property
    def name(self) -> str:
        return f"{self.dataset} v{self.version:04d}"

    @property
    def decisive(self) -> float | None:
        """The metric models are compared by; None where the test rows left it undefined."""
        return self.metrics.get(self.better_by)


def describe(
    trained: Trained,
    training: Training,
    dataset: Dataset,
    *,
    data: tuple[Source, ...] = (),
    preprocessor_version: str = "",
    flow_run_id: str = "",
) -> ModelCard:
    """The card of a model just trained, without a version yet."""
    split, evaluation = trained.split, trained.evaluation
    return ModelCard(
        dataset=dataset.name,
        task=split.task,
        model=training.model,
        estimator=_estimator_name(trained.estimator),
        options=training.options,
        seed=training.seed,
        target=split.target,
        features=split.features,
        classes=split.classes,
        better_by=evaluation.decisive,
        metrics=evaluation.metrics,
        baseline_name=evaluation.baseline_name,
        baseline_metrics=evaluation.baseline,
        rows_train=len(split.train),
        rows_test=len(split.test),
        data=data,
        preprocessor_version=preprocessor_version,
        flow_run_id=flow_run_id,
    )


def _estimator_name(estimator: BaseEstimator) -> str:
    """The class, of a pipeline its last step's."""
    return type(estimator.steps[-1][1] if isinstance(estimator, Pipeline) else estimator).__name__


class _Pointer(BaseModel):
    model_config = ConfigDict(frozen=True)

    version: int = Field(ge=1)
    metric: Metric
    value: float | None


@dataclass(frozen=True)
class Registered:
    """A committed model. `last` was the best before it, if there was one; `reason` compares the two."""

    card: ModelCard
    last: ModelCard | None
    reason: str

    @property
    def is_best(self) -> bool:
        return self.card.tag == "best"


Render = Callable[[ModelCard, ModelCard | None], str]
"""Called as render(card, last best): the report, in HTML."""


def folder(dataset: Dataset, version: int | None = None) -> str:
    """Where a version lies in the output bucket; without one, where all do."""
    return f"{PREFIX}{dataset.name}/" + (f"v{version:04d}/" if version else "")


def register(
    store: ObjectStore, dataset: Dataset, estimator: BaseEstimator, card: ModelCard, render: Render
) -> Registered:
    """Store a model under a version of its own, and make it the best if it beats the best so far.

    A run that is tried again after its card was committed takes that version up instead of another.
    Raises TransientError, or PermanentError where the model is of types that could not be loaded again.
    """
    card = card.model_copy(update={"dataset": dataset.name, "tag": ""})
    committed = _of_run(store, dataset, card)
    if committed is None:
        body = _dump(estimator)
        digest = hashlib.sha256(body).hexdigest()
        version = _take_version(store, dataset, body)
        committed = card.model_copy(update={"version": version, "model_sha256": digest})
        last = _pointed(store, dataset)[1]
        where = folder(dataset, version)
        page = render(committed, last).encode()
        store.put(dataset.output_bucket, f"{where}report.html", page, "text/html; charset=utf-8")
        _commit(store, dataset, committed)
    return _compete(store, dataset, committed)


def _dump(estimator: BaseEstimator) -> bytes:
    body = archives.dumps(estimator)
    try:
        archives.check(body, TYPES)
    except archives.ArchiveError as error:
        raise PermanentError(f"the model just trained {error}") from error
    return body


def _of_run(store: ObjectStore, dataset: Dataset, card: ModelCard) -> ModelCard | None:
    """What an earlier attempt of the same flow run has committed, if it is the same model."""
    if not card.flow_run_id:
        return None
    own = {"version", "trained_at", "model_sha256", "tag"}
    wanted = card.model_dump(mode="json", exclude=own)
    same = (c for c in versions(store, dataset) if c.model_dump(mode="json", exclude=own) == wanted)
    return next((found.model_copy(update={"tag": ""}) for found in same), None)


def _take_version(store: ObjectStore, dataset: Dataset, body: bytes) -> int:
    """Write the model where no other is. Numbers of trainings that never ended are not given again."""
    bucket, attempt = dataset.output_bucket, uuid4().hex
    first = max((number for number, _ in _listed(store, dataset)), default=0) + 1
    for version in range(first, first + MOST_RACES):
        key = f"{folder(dataset, version)}model.skops"
        try:
            store.put(
                bucket,
                key,
                body,
                "application/octet-stream",
                metadata={ATTEMPT: attempt},
                instead_of=ABSENT,
            )
        except AlreadyExistsError:
            if store.head(bucket, key).metadata.get(ATTEMPT) != attempt:
                continue
        return version
    raise TransientError(f"no free version for a model of {dataset.name}: other runs take them all")


def _commit(store: ObjectStore, dataset: Dataset, card: ModelCard) -> None:
    key = f"{folder(dataset, card.version)}model.json"
    body = card.model_dump_json(indent=1, exclude={"tag"}).encode()
    try:
        store.put(dataset.output_bucket, key, body, "application/json", instead_of=ABSENT)
    except AlreadyExistsError:
        # Ours, if only the answer to an earlier attempt was lost: nobody else has this version.
        if store.get(dataset.output_bucket, key)[1] != body:
            raise


# --- the best


def _compete(store: ObjectStore, dataset: Dataset, card: ModelCard) -> Registered:
    """Point best.json at the card if it beats the one that is there."""
    key = f"{folder(dataset)}best.json"
    pointer = _Pointer(version=card.version, metric=card.better_by, value=card.decisive)
    for _ in range(MOST_RACES):
        etag, last = _pointed(store, dataset)
        if last and last.version == card.version:
            return Registered(card.model_copy(update={"tag": "best"}), None, "it is the best already")
        better, reason = compare(card, last)
        if not better:
            return Registered(card, last, reason)
        try:
            body = pointer.model_dump_json().encode()
            store.put(dataset.output_bucket, key, body, "application/json", instead_of=etag)
        except AlreadyExistsError:
            continue
        return Registered(card.model_copy(update={"tag": "best"}), last, reason)
    raise TransientError(f"the best model of {dataset.name} keeps changing: other runs train it, too")


def compare(card: ModelCard, last: ModelCard | None) -> tuple[bool, str]:
    """Whether the card's model is better than the last best, by the card's own metric, and why."""
    metric, value = card.better_by, card.decisive
    if last is None:
        return True, "the first model"
    if (last.task, last.target) != (card.task, card.target):
        question = f"{last.task} of {printable(last.target, 60)}"
        return True, f"v{last.version:04d} answers another question: {question}"
    than = last.metrics.get(metric)
    if value is None:
        return False, f"{metric} is undefined on the rows held out"
    if than is None:
        return True, f"v{last.version:04d} was not measured by {metric}"
    better = is_better(metric, value, than)
    verb = "beats" if better else "does not beat"
    return better, f"{metric} {value:.4f} {verb} v{last.version:04d}: {than:.4f}"


def _pointed(store: ObjectStore, dataset: Dataset) -> tuple[str, ModelCard | None]:
    """The pointer's etag (ABSENT without one) and the card it points at, if that is still there."""
    key = f"{folder(dataset)}best.json"
    try:
        ref, body = store.get(dataset.output_bucket, key)
    except ObjectMissingError:
        return ABSENT, None
    try:
        version = _Pointer.model_validate_json(body).version
    except ValidationError as error:
        raise PermanentError(
            f"s3://{dataset.output_bucket}/{key} names no version: delete it, and the next training is best"
        ) from error
    try:
        return ref.etag, _card(store, dataset, version)
    except ObjectMissingError:
        return ref.etag, None


# --- reading


def versions(store: ObjectStore, dataset: Dataset) -> list[ModelCard]:
    """The cards of all committed versions that can be read, oldest first."""
    best = _pointed(store, dataset)[1]
    found = []
    for number in sorted(number for number, name in _listed(store, dataset) if name == "model.json"):
        try:
            found.append(_tagged(_card(store, dataset, number), best))
        except PermanentError as error:
            log.warning("%s", error)
    return found


def _tagged(card: ModelCard, best: ModelCard | None) -> ModelCard:
    is_best = best is not None and best.version == card.version
    return card.model_copy(update={"tag": "best" if is_best else ""})


def _listed(store: ObjectStore, dataset: Dataset) -> Iterator[tuple[int, str]]:
    """(version, name) of every object that belongs to a version, committed or not."""
    prefix = folder(dataset)
    for ref in store.list(dataset.output_bucket, prefix):
        if found := _VERSION.fullmatch(ref.key.removeprefix(prefix)):
            yield int(found[1]), found[2]


def find_card(store: ObjectStore, dataset: Dataset, which: Which) -> ModelCard:
    """The card of a version, of the best or of the latest. Raises ObjectMissingError where there is none."""
    best = _pointed(store, dataset)[1]
    if which == "best":
        if best is None:
            raise ObjectMissingError(f"{dataset.name} has no best model: train one")
        return _tagged(best, best)
    if which == "latest":
        done = [number for number, name in _listed(store, dataset) if name == "model.json"]
        if not done:
            raise ObjectMissingError(f"{dataset.name} has no model: train one")
        return _tagged(_card(store, dataset, max(done)), best)
    return _tagged(_card(store, dataset, which), best)


def load_model(store: ObjectStore, dataset: Dataset, which: Which) -> tuple[ModelCard, BaseEstimator]:
    """A stored model and its card.

    Raises ObjectMissingError where there is none, PermanentError where it was made by another
    scikit-learn, has been changed since it was registered, or holds a type that is not trusted.
    """
    card = find_card(store, dataset, which)
    if _minor(card.sklearn_version) != _minor(sklearn.__version__):
        raise PermanentError(
            f"{card.name} was made by scikit-learn {printable(card.sklearn_version, 40)}, and this is "
            f"{sklearn.__version__}: train it again, or load it where that version is"
        )
    key = f"{folder(dataset, card.version)}model.skops"
    body = store.get(dataset.output_bucket, key)[1]
    url = f"s3://{dataset.output_bucket}/{key}"
    if hashlib.sha256(body).hexdigest() != card.model_sha256:
        raise PermanentError(f"{url} is not what was registered (its bytes have changed): train it again")
    return card, _load(body, url, card)


def _load(body: bytes, url: str, card: ModelCard) -> BaseEstimator:
    try:
        estimator: BaseEstimator = archives.loads(body, TYPES)
    except archives.ArchiveError as error:
        raise PermanentError(f"{url} {error}") from error
    try:
        wanted = build(Training(model=card.model, options=card.options, seed=card.seed), card.task)
        where = structures.unlike(estimator, wanted, _held)
        same = not where and tuple(map(str, estimator.feature_names_in_)) == card.features
        sound = same and _check_trees(estimator, len(card.features))
    except Exception as error:
        # Something is missing, or the card's options are of no such model.
        raise PermanentError(f"{url} is incomplete: {printable(str(error), 200)}") from error
    if not same:
        raise PermanentError(
            f"{url} is not the model its card tells of ({printable(where) or 'features'}): train it again"
        )
    if not sound:
        raise PermanentError(f"{url} holds a tree that leads nowhere: not used")
    return estimator


def _held(found: Any, wanted: Any) -> dict[str, Any]:
    """What a fitted model holds besides values."""
    if isinstance(wanted, _FORESTS):
        trees = [_tree_of(wanted, one.random_state) for one in found.estimators_]
        return {"estimator_": wanted.estimator, "estimators_": trees}
    if isinstance(wanted, _TREES):
        return {"tree_": structures.Of([Tree])}
    if isinstance(wanted, _BOOSTED):
        return {
            "_label_encoder": LabelEncoder(),
            "_loss": structures.Of([*_LOSSES, *_LINKS, *_LOSSES_IN_C]),
            "_bin_mapper": structures.Of([_BinMapper]),
            "_predictors": structures.Of([TreePredictor]),
            "_feature_subsample_rng": structures.Of([np.random.Generator]),
        }
    return {}


def _tree_of(forest: Any, seed: Any) -> Any:
    """As the forest makes it; each has a seed of its own."""
    options = {name: getattr(forest, name) for name in forest.estimator_params}
    return clone(forest.estimator).set_params(**options | {"random_state": seed})


def _check_trees(estimator: Any, features: int) -> bool:
    """Whether every tree stays within its own nodes and the features, and ends.

    A made-up index would have scikit-learn read outside the array: at best the process dies.
    """
    if isinstance(estimator, _BOOSTED):
        trees = [tree for round_ in estimator._predictors for tree in round_]
        categories = estimator.is_categorical_ is not None or estimator._bin_mapper.is_categorical_.any()
        return not categories and all(_is_sound_record(tree, features) for tree in trees)
    if isinstance(estimator, _FORESTS):
        return all(_is_sound_tree(tree, features) for tree in estimator.estimators_)
    if isinstance(estimator, _TREES):
        return _is_sound_tree(estimator, features)
    return True


def _is_sound_tree(owner: Any, features: int) -> bool:
    if type(owner) not in _TREES or type(owner.tree_) is not Tree:
        return False
    tree = owner.tree_
    # First of all: the arrays below are views of as many nodes as the file says.
    if not 1 <= tree.node_count <= tree.capacity:
        return False
    return _leads_on(
        tree.children_left != -1, tree.children_left, tree.children_right, tree.feature, features
    )


def _is_sound_record(tree: Any, features: int) -> bool:
    nodes = tree.nodes
    if type(tree) is not TreePredictor or nodes.dtype != PREDICTOR_RECORD_DTYPE or not len(nodes):
        return False
    inner = nodes["is_leaf"] == 0
    plain = not nodes["is_categorical"].any()
    return plain and _leads_on(inner, nodes["left"], nodes["right"], nodes["feature_idx"], features)


def _leads_on(inner: Any, left: Any, right: Any, feature: Any, features: int) -> bool:
    """Children come after their parents and there are as many nodes; features are known ones."""
    own = np.flatnonzero(inner)
    left, right, feature = (array[own].astype(np.int64) for array in (left, right, feature))
    within = (left > own) & (right > own) & (left < len(inner)) & (right < len(inner))
    return bool((within & (feature >= 0) & (feature < features)).all())


def _card(store: ObjectStore, dataset: Dataset, version: int) -> ModelCard:
    key = f"{folder(dataset, version)}model.json"
    try:
        card = ModelCard.model_validate_json(store.get(dataset.output_bucket, key)[1])
    except ValidationError as error:
        raise PermanentError(f"s3://{dataset.output_bucket}/{key} is no model card: delete it") from error
    if (card.dataset, card.version) != (dataset.name, version):
        raise PermanentError(
            f"s3://{dataset.output_bucket}/{key} is the card of {printable(card.name, 60)}: delete it"
        )
    return card


def _minor(version: str) -> list[str]:
    return version.split(".")[:2]
