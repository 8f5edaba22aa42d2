"""Training: fair splits, sound models, clear refusals; versions that no two runs share; an honest report."""

import copy
import io
import json
import re
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
from memory_store import MemoryStore
from pydantic import ValidationError
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.metrics import f1_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import FunctionTransformer

from dropflow.datasets import Dataset
from dropflow.errors import (
    AlreadyExistsError,
    DatasetError,
    ObjectMissingError,
    PermanentError,
    RejectedError,
    SupersededError,
    TransientError,
)
from dropflow.samples import churn_csv
from dropflow.storage import ObjectStore
from dropflow.trainings import Training, is_better
from flows import archives, models
from flows.model_report import to_html, to_markdown
from flows.preparation import Preparation
from flows.train import load_data
from flows.training import Trained, evaluate, fit, predict, select, split, train

FOREST: dict[str, Any] = {"model": "random_forest", "options": {"n_estimators": 20}}


def iris(*, onehot: bool = False) -> pd.DataFrame:
    x, y = load_iris(return_X_y=True, as_frame=True)
    x.columns = ["sepal_length", "sepal_width", "petal_length", "petal_width"]
    frame = x.assign(species=np.array(["setosa", "versicolor", "virginica"])[y])
    return pd.get_dummies(frame, columns=["species"], dtype=float) if onehot else frame


def customers(rows: int = 2_000) -> pd.DataFrame:
    """The churn sample, prepared as datasets/churn.yaml says."""
    frame = pd.read_csv(io.BytesIO(churn_csv(rows))).drop(columns=["RowNumber", "CustomerId", "Surname"])
    frame["Age"] = frame["Age"].fillna(frame["Age"].median())
    frame["Gender"] = (frame["Gender"].fillna("Male") == "Male").astype(float)
    return pd.get_dummies(frame, columns=["Geography"], dtype=float)


def trips(rows: int = 1_500) -> pd.DataFrame:
    """Minutes from distance and an encoded pair of places, where each pair has a pace of its own."""
    rng = np.random.default_rng(7)
    pair, distance = rng.integers(0, 12, rows), rng.gamma(2.0, 2.0, rows)
    minutes = 3 + distance * (1.5 + pair % 4) ** 1.3 + rng.normal(0, 1, rows)
    frame = pd.DataFrame({"minutes": minutes, "distance": distance, "pair": pair.astype(str)})
    return pd.get_dummies(frame, columns=["pair"], dtype=float)


def dataset(name: str = "iris") -> Dataset:
    return Dataset.model_validate(
        {
            "name": name,
            "match": f"raw/{name}/*.csv",
            "columns": {"a": {"type": "number"}, "t": {"type": "text"}},
            "steps": [{"drop": ["t"]}],
        }
    )


def test_an_object_overwritten_meanwhile_is_left_to_its_successor() -> None:
    store: Any = MemoryStore()
    for key in ("iris/a.csv", "iris/b.csv"):
        store.put("raw", key, b"a,t\n1,x\n2,y\n", "text/csv")
    assert Preparation(store, dataset(), "run").prepare("iris/a.csv").result == "processed"
    frame, (receipt,) = load_data.fn(store, dataset(), ["iris/a.csv"])
    assert (len(frame), receipt.key) == (2, "iris/a.csv")
    with pytest.raises(RejectedError, match=r"iris/b\.csv has not been prepared"):
        load_data.fn(store, dataset(), ["iris/b.csv"])
    store.put("raw", "iris/a.csv", b"a,t\n3,x\n", "text/csv")
    with pytest.raises(SupersededError, match="was overwritten meanwhile"):
        load_data.fn(store, dataset(), ["iris/a.csv"])


def training(**changes: Any) -> Training:
    return Training.model_validate(FOREST | changes)


# --- the section


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        ({"model": "forest"}, "random_forest"),
        ({"model": "ridge", "task": "classification"}, "ridge does regression only"),
        ({"model": "ridge", "metrics": ["f1"]}, "f1 is no metric of regression"),
        ({"model": "random_forest", "metrics": ["f1", "rmse"]}, "of different tasks"),
        ({"model": "random_forest", "better_by": "rmse", "metrics": ["f1"]}, "of different tasks"),
        ({"model": "random_forest", "options": {"random_state": 1}}, "say seed"),
        ({"model": "random_forest", "select": 0}, "greater than or equal to 1"),
        ({"model": "random_forest", "test_size": 1}, "less than 1"),
        ({"model": "random_forest", "stratify": "yes"}, "valid boolean"),
        ({"model": "random_forest", "features": ["a"], "exclude": ["a"]}, "in features and in exclude"),
        ({"model": "random_forest", "colour": "red"}, "Extra inputs"),
    ],
)
def test_a_wrong_section_is_refused(section: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        Training.model_validate(section)


def test_metrics_and_what_decides() -> None:
    assert training().decisive("classification") == "f1"
    assert training().decisive("regression") == "rmse"
    assert training(metrics=["accuracy"]).metrics_of("classification") == ("accuracy",)
    by_auc = training(metrics=["accuracy"], better_by="roc_auc")
    assert by_auc.metrics_of("classification") == ("accuracy", "roc_auc")
    assert by_auc.decisive("classification") == "roc_auc"


def test_better_is_lower_for_errors_and_a_tie_is_not_better() -> None:
    assert is_better("rmse", 1.0, 2.0)
    assert is_better("f1", 0.6, 0.5)
    assert not is_better("f1", 0.5, 0.5)
    assert not is_better("f1", None, 0.5)
    assert is_better("f1", 0.1, None)


# --- split


def test_a_split_by_the_seed_keeps_the_shares_of_the_classes() -> None:
    frame = customers()
    one, two = split(frame, "Exited", training()), split(frame, "Exited", training())
    pd.testing.assert_frame_equal(one.train, two.train)
    assert len(one.test) == 660
    assert "Exited" not in one.features
    assert abs(one.train_target.mean() - one.test_target.mean()) < 0.002
    other = split(frame, "Exited", training(seed=1))
    assert list(other.train.index) != list(one.train.index)


def test_a_split_made_by_the_recipe_is_kept_and_is_no_feature() -> None:
    frame = iris().assign(split=["test" if i % 5 == 0 else "train" for i in range(150)])
    made = split(frame, "species", training())
    assert list(made.test.index) == list(range(0, 150, 5))
    assert "split" not in made.features
    assert len(made.features) == 4


def test_a_split_column_that_is_none_is_refused_and_can_be_excluded() -> None:
    frame = iris().assign(split=["val", *["train"] * 149])
    with pytest.raises(RejectedError, match=r"column split .* 'val' in row 1"):
        split(frame, "species", training())
    assert len(split(frame, "species", training(exclude=["split"])).test) == 50
    with pytest.raises(RejectedError, match="no row for testing"):
        split(iris().assign(split="train"), "species", training())


def test_a_one_hot_target_is_turned_back() -> None:
    plain, encoded = split(iris(), "species", training()), split(iris(onehot=True), "species", training())
    assert encoded.classes == ("setosa", "versicolor", "virginica")
    assert encoded.features == plain.features
    np.testing.assert_array_equal(encoded.train_target, plain.train_target)


def test_a_one_hot_target_without_a_value_is_refused() -> None:
    frame = iris(onehot=True)
    frame.loc[3, "species_setosa"] = 0.0
    with pytest.raises(RejectedError, match=r"species is spread over .* row 4 .*exactly one"):
        split(frame, "species", training())


def test_the_task_follows_from_the_target() -> None:
    assert split(customers(200), "Exited", training()).task == "classification"
    assert split(trips(200), "minutes", training()).task == "regression"
    assert split(customers(200), "Exited", training(task="regression")).task == "regression"
    assert split(customers(200), "Exited", training(model="ridge", options={})).task == "regression"


def test_features_and_exclude_take_the_names_before_encoding() -> None:
    places = ["Geography_France", "Geography_Germany", "Geography_Spain"]
    only = split(customers(200), "Exited", training(features=["Age", "Geography"]))
    assert list(only.features) == ["Age", *places]
    without = split(customers(200), "Exited", training(exclude=["Geography"]))
    assert not set(places) & set(without.features)
    with pytest.raises(DatasetError, match=r"exclude names the column 'Agge'.*did you mean 'Age'"):
        split(customers(200), "Exited", training(exclude=["Agge"]))


def gaps(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(Age=frame["Age"].where(frame.index != 7), Balance=np.inf)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f: f.drop(columns="Exited"), "no target column Exited"),
        (lambda f: f.assign(Exited=1), "every row has Exited = 1"),
        (lambda f: f.assign(Exited=[1, *[0] * (len(f) - 1)]), "class 1 of Exited has a single row"),
        (lambda f: f.assign(Exited=np.where(f.index == 2, np.nan, f["Exited"])), r"missing in row 3"),
        (lambda f: f.assign(Exited=[f"c{i}" for i in range(len(f))]), "200 classes in 200 rows"),
        (lambda f: f.assign(City=["A", "B"] * 100), r"City is not: add the step encode: \{City: onehot\}"),
        (lambda f: f.assign(Name=[f"n{i}" for i in range(200)]), r"Name is not: add the step drop: \[Name\]"),
        (
            gaps,
            r"Age \(1 rows\), Balance \(200 rows\): add the step impute: \{Age: median, Balance: median\}",
        ),
        (lambda f: f.head(9), "9 rows; training needs 10"),
        (lambda f: f[["Exited"]], "no column besides the target"),
        (lambda f: f.assign(split=["train"] * 199 + ["test"]), "199 rows to train on and 1 to test"),
    ],
)
def test_data_that_cannot_be_trained_on_is_rejected_with_the_reason(change: Any, reason: str) -> None:
    with pytest.raises(RejectedError, match=reason):
        split(change(customers(200)), "Exited", training())


def test_a_class_that_only_the_test_part_has_is_rejected() -> None:
    frame = iris().assign(split=["test" if i >= 100 or i % 2 else "train" for i in range(150)])
    with pytest.raises(RejectedError, match="class virginica of species is in the test part only"):
        split(frame, "species", training())


def test_a_text_target_is_no_regression() -> None:
    with pytest.raises(RejectedError, match="is text: regression needs numbers"):
        split(iris(), "species", training(task="regression"))


# --- select, fit, evaluate


@pytest.mark.parametrize("by", ["f_test", "mutual_info", "importance"])
def test_the_features_that_tell_are_selected(by: str) -> None:
    rng = np.random.default_rng(0)
    frame = iris().assign(**{f"noise{i}": rng.normal(size=150) for i in range(5)}, constant=1.0)
    chosen = select(split(frame, "species", training()), training(select=2, by=by))
    assert chosen.features == ("petal_length", "petal_width")
    assert list(chosen.test.columns) == list(chosen.train.columns)


def test_selection_never_sees_the_test_part() -> None:
    frame = iris().assign(split=["test" if i % 3 == 0 else "train" for i in range(150)])
    spoiled = frame.copy()
    spoiled.loc[spoiled["split"] == "test", "petal_length"] = 1e6
    how = training(select=2)
    one, two = (select(split(f, "species", how), how) for f in (frame, spoiled))
    assert one.scores == two.scores


def test_it_does_what_plain_scikit_learn_does() -> None:
    frame = customers()
    x, y = frame.drop(columns="Exited"), frame["Exited"]
    parts = train_test_split(x, y, test_size=0.33, random_state=42, stratify=y)
    x_train, x_test, y_train, y_test = parts
    best = SelectKBest(f_classif, k=6).fit(x_train, y_train)
    forest = RandomForestClassifier(20, random_state=42)
    forest.fit(best.transform(x_train)[np.argsort(x_train.index)], y_train.sort_index())
    expected = f1_score(y_test, forest.predict(best.transform(x_test)))
    found = train(frame, "Exited", training(select=6)).evaluation.metrics["f1"]
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "model", ["random_forest", "logistic_regression", "gradient_boosting", "decision_tree"]
)
def test_iris_is_learnt_by_every_classifier(model: Any) -> None:
    scores = [
        train(iris(onehot=True), "species", Training(model=model, seed=seed)).evaluation.metrics["accuracy"]
        for seed in range(5)
    ]
    assert np.mean(scores) >= 0.93


@pytest.mark.parametrize("model", ["random_forest", "gradient_boosting", "decision_tree", "ridge"])
def test_trips_are_learnt_by_every_regressor(model: Any) -> None:
    evaluation = train(trips(), "minutes", Training(model=model)).evaluation
    assert evaluation.baseline_name == "linear regression"
    assert evaluation.baseline
    factor = 1.02 if model == "ridge" else 0.9
    assert evaluation.metrics["rmse"] < evaluation.baseline["rmse"] * factor
    assert evaluation.importance[0][0] == "distance"
    assert sum(group.rows for group in evaluation.bins) == sum(n for *_, n in evaluation.residuals) == 495


def test_a_straight_line_is_compared_with_the_mean() -> None:
    evaluation = train(trips(), "minutes", Training(model="linear_regression")).evaluation
    assert evaluation.baseline_name == "mean"
    assert evaluation.baseline
    assert abs(evaluation.baseline["r2"]) < 0.05


def test_training_is_deterministic() -> None:
    how = training(select=6, by="mutual_info")
    one, two = (train(customers(), "Exited", how) for _ in range(2))
    assert one.evaluation == two.evaluation


def test_two_classes_are_judged_by_the_later_one() -> None:
    frame = customers(1_000)
    words = frame.assign(Exited=np.where(frame["Exited"] == 1, "yes", "no"))
    numbers = train(frame, "Exited", training()).evaluation
    named = train(words, "Exited", training()).evaluation
    assert named.metrics == numbers.metrics
    assert (named.classes, numbers.classes) == (("no", "yes"), ("0", "1"))
    assert numbers.baseline
    assert numbers.baseline["f1"] == 0


def test_a_metric_that_is_undefined_is_left_out() -> None:
    frame = customers(200).sort_values("Exited", ignore_index=True)
    frame["split"] = ["test" if i < 20 else "train" for i in range(200)]
    how = training()
    made = split(frame, "Exited", how)
    assert "roc_auc" not in evaluate(fit(made, how), made, how)


def test_options_are_checked_against_the_estimator() -> None:
    made = split(iris(), "species", training())
    with pytest.raises(DatasetError, match=r"no option 'n_estimator'; did you mean 'n_estimators'"):
        fit(made, training(options={"n_estimator": 5}))
    with pytest.raises(DatasetError, match="'n_estimators' parameter"):
        fit(made, training(options={"n_estimators": -1}))
    numbers = split(trips(100), "minutes", training())
    with pytest.raises(DatasetError, match=r"logistic_regression cannot do regression"):
        fit(numbers, Training(model="logistic_regression"))


def test_prediction_takes_columns_by_name() -> None:
    trained = train(iris(), "species", training(select=2))
    shuffled = trained.split.test[["petal_width", "petal_length"]].assign(other="x")
    expected = predict(trained.estimator, trained.split.test)
    np.testing.assert_array_equal(predict(trained.estimator, shuffled), expected)
    with pytest.raises(RejectedError, match="lacks the columns petal_width"):
        predict(trained.estimator, shuffled.drop(columns="petal_width"))


# --- the registry


@pytest.fixture(scope="module")
def trained() -> Trained:
    return train(iris(), "species", training())


def register(store: Any, trained: Trained, run: str = "", **changes: Any) -> models.Registered:
    card = models.describe(trained, training(), dataset(), flow_run_id=run).model_copy(update=changes)
    return models.register(
        store, dataset(), trained.estimator, card, lambda card, last: to_html(card, trained.evaluation, last)
    )


def test_a_registered_model_is_loaded_again(store: ObjectStore, trained: Trained) -> None:
    source = models.Source(receipt_key="_receipts/iris/a.csv/e.f.json", etag="abc")
    done = register(store, trained, "run-1", data=(source,))
    assert done.is_best
    assert done.reason == "the first model"
    keys = [ref.key for ref in store.list("processed")]
    assert keys == ["_models/iris/best.json"] + [
        f"_models/iris/v0001/{name}" for name in ("model.json", "model.skops", "report.html")
    ]
    for which in ("best", "latest", 1):
        card, estimator = models.load_model(store, dataset(), which)  # type: ignore[arg-type]
        assert card == done.card
        assert card.data == (source,)
        expected = predict(trained.estimator, trained.split.test)
        np.testing.assert_array_equal(predict(estimator, trained.split.test), expected)


def check_stored(frame: pd.DataFrame, target: str, how: Training) -> None:
    """Trained, registered and loaded, it predicts what it did before."""
    made, store = train(frame, target, how), MemoryStore()
    card = models.describe(made, how, dataset())
    models.register(store, dataset(), made.estimator, card, lambda *_: "")  # type: ignore[arg-type]
    _, estimator = models.load_model(store, dataset(), "best")  # type: ignore[arg-type]
    np.testing.assert_array_equal(
        predict(estimator, made.split.test), predict(made.estimator, made.split.test)
    )


@pytest.mark.parametrize(
    "model", ["random_forest", "logistic_regression", "gradient_boosting", "decision_tree"]
)
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_every_model_can_be_stored(model: str, task: str) -> None:
    if (model, task) == ("logistic_regression", "regression"):
        model = "ridge"
    frame, target = (iris(), "species") if task == "classification" else (trips(200), "minutes")
    how = Training.model_validate({"model": model, "task": task})
    check_stored(frame, target, how)


def test_only_a_better_model_becomes_the_best(store: ObjectStore, trained: Trained) -> None:
    def scored(f1: float) -> models.Registered:
        return register(store, trained, metrics={"f1": f1})

    assert scored(0.90).is_best
    worse, tie = scored(0.80), scored(0.90)
    assert not worse.is_best
    assert worse.reason == "f1 0.8000 does not beat v0001: 0.9000"
    assert not tie.is_best
    better = scored(0.95)
    assert better.is_best
    assert better.last
    assert better.last.version == 1
    assert [card.tag for card in models.versions(store, dataset())] == ["", "", "", "best"]
    assert models.find_card(store, dataset(), "best").version == 4


def test_an_undefined_metric_never_wins_and_another_question_always_does(trained: Trained) -> None:
    store = MemoryStore()
    register(store, trained, metrics={"f1": 0.9})
    assert not register(store, trained, metrics={}).is_best
    assert register(store, trained, metrics={"rmse": 5.0}, task="regression", better_by="rmse").is_best


def test_trainings_at_once_share_no_version(store: ObjectStore, trained: Trained) -> None:
    start = threading.Barrier(6)

    def one(f1: float) -> models.Registered:
        start.wait()
        return register(store, trained, metrics={"f1": f1})

    with ThreadPoolExecutor(6) as pool:
        done = list(pool.map(one, [0.5, 0.6, 0.7, 0.8, 0.9, 0.4]))
    assert sorted(each.card.version for each in done) == [1, 2, 3, 4, 5, 6]
    best = models.find_card(store, dataset(), "best")
    assert best.metrics == {"f1": 0.9}
    assert len(models.versions(store, dataset())) == 6


class Raced(MemoryStore):
    """Lets another training of a given worth end just before the PUT of some key."""

    at, other = "", None

    def put(self, bucket: str, key: str, *arguments: Any, **options: Any) -> Any:
        if self.at and key.endswith(self.at):
            self.at = ""
            register(self, self.other, metrics={"f1": 0.9})  # type: ignore[arg-type]
        return super().put(bucket, key, *arguments, **options)


@pytest.mark.parametrize("name", ["model.skops", "model.json", "best.json"])
@pytest.mark.parametrize("first", [True, False])
def test_who_is_overtaken_takes_nothing_away(trained: Trained, name: str, first: bool) -> None:
    store: Any = Raced()
    if not first:
        register(store, trained, metrics={"f1": 0.1})
    store.at, store.other = name, trained
    assert not register(store, trained, metrics={"f1": 0.8}).is_best
    assert models.find_card(store, dataset(), "best").metrics == {"f1": 0.9}
    assert len({card.version for card in models.versions(store, dataset())}) == (2 if first else 3)


class Flaky(MemoryStore):
    """Loses the answer to the first PUT of some key: it was done, and is done again, as a retry does."""

    lost = ""

    def put(self, bucket: str, key: str, *arguments: Any, **options: Any) -> Any:
        if self.lost and key.endswith(self.lost):
            self.lost = ""
            super().put(bucket, key, *arguments, **options)
        return super().put(bucket, key, *arguments, **options)


@pytest.mark.parametrize("name", ["model.skops", "report.html", "model.json", "best.json"])
def test_a_lost_answer_makes_no_second_version(trained: Trained, name: str) -> None:
    store = Flaky()
    store.lost = name
    assert register(store, trained).is_best
    assert [card.version for card in models.versions(store, dataset())] == [1]  # type: ignore[arg-type]


class Dying(MemoryStore):
    """Fails at the PUT of some key."""

    at = ""

    def put(self, bucket: str, key: str, *arguments: Any, **options: Any) -> Any:
        if self.at and key.endswith(self.at):
            raise TransientError("the store is away")
        return super().put(bucket, key, *arguments, **options)


@pytest.mark.parametrize(
    ("name", "committed", "then"),
    [("report.html", [], 2), ("model.json", [], 2), ("best.json", [1], 1)],
)
def test_a_training_cut_short_is_no_version_and_one_tried_again_goes_on(
    trained: Trained, name: str, committed: list[int], then: int
) -> None:
    store: Any = Dying()
    store.at = name
    with pytest.raises(TransientError):
        register(store, trained, "run-1")
    assert [card.version for card in models.versions(store, dataset())] == committed
    store.at = ""
    again = register(store, trained, "run-1")
    assert (again.card.version, again.is_best) == (then, True)
    assert models.load_model(store, dataset(), "latest")[0].version == then


def test_no_model_is_an_error_that_says_so() -> None:
    store: Any = MemoryStore()
    for which in ("best", "latest", 3):
        with pytest.raises(ObjectMissingError):
            models.load_model(store, dataset(), which)  # type: ignore[arg-type]


def replaced(store: MemoryStore, name: str, body: bytes) -> None:
    key = f"_models/iris/v0001/{name}"
    store.put("processed", key, body, "")


def signed(store: MemoryStore, body: bytes) -> None:
    """Put the model in place together with a card that vouches for it, as an intruder would."""
    card = json.loads(store.get("processed", "_models/iris/v0001/model.json")[1])
    card["model_sha256"] = models.hashlib.sha256(body).hexdigest()
    replaced(store, "model.skops", body)
    replaced(store, "model.json", json.dumps(card).encode())


def edited(body: bytes, old: str, new: str) -> bytes:
    """A skops archive whose schema says `new` for `old`."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(body)) as source, zipfile.ZipFile(out, "w") as target:
        for item in source.infolist():
            content = source.read(item)
            target.writestr(item, content.replace(old.encode(), new.encode()))
    return out.getvalue()


def test_changed_bytes_are_refused(trained: Trained) -> None:
    store: Any = MemoryStore()
    register(store, trained)
    body = store.get("processed", "_models/iris/v0001/model.skops")[1]
    for changed in (b"", b"junk", body[:-40], body + b" "):
        replaced(store, "model.skops", changed)
        with pytest.raises(PermanentError, match="bytes have changed"):
            models.load_model(store, dataset(), 1)


@pytest.mark.parametrize("body", [b"", b"junk", b"PK\x05\x06" + 18 * b"\0", b"\x80\x04N."])
def test_what_is_no_model_is_refused_even_when_vouched_for(trained: Trained, body: bytes) -> None:
    store: Any = MemoryStore()
    register(store, trained)
    signed(store, body)
    with pytest.raises(PermanentError, match="is no skops file"):
        models.load_model(store, dataset(), 1)


def test_a_type_that_is_not_trusted_is_never_built(trained: Trained) -> None:
    store: Any = MemoryStore()
    register(store, trained)
    signed(store, skops.io.dumps(FunctionTransformer(partial(print, "owned"))))
    with pytest.raises(PermanentError, match=r"holds the type .*print.* not trusted"):
        models.load_model(store, dataset(), 1)
    body = skops.io.dumps(trained.estimator)
    signed(store, edited(body, '"__class__": "Tree"', '"__class__": "Popen"'))
    with pytest.raises(PermanentError, match=r"holds the type sklearn\.tree\._tree\.Popen"):
        models.load_model(store, dataset(), 1)


def test_a_trusted_object_that_is_another_model_is_refused(trained: Trained) -> None:
    store: Any = MemoryStore()
    register(store, trained)
    for other in ({"a": 1}, train(iris(), "species", training(select=2)).estimator):
        signed(store, skops.io.dumps(other))
        with pytest.raises(PermanentError, match=r"cannot be loaded|not the model its card tells of"):
            models.load_model(store, dataset(), 1)


def _other_options(estimator: Any) -> None:
    estimator.class_weight = {"setosa": 0.0}


def _a_method_replaced(estimator: Any) -> None:
    estimator.predict = np.float64


def _another_tree(estimator: Any) -> None:
    estimator.estimators_[0] = RandomForestClassifier()


def _other_options_of_a_tree(estimator: Any) -> None:
    estimator.estimators_[-1].criterion = "entropy"


def _an_object_for_a_value(estimator: Any) -> None:
    estimator.classes_ = [RandomForestClassifier()]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_other_options, r"RandomForestClassifier\.class_weight"),
        (_a_method_replaced, r"RandomForestClassifier\.predict"),
        (_another_tree, r"RandomForestClassifier\.estimators_"),
        (_other_options_of_a_tree, r"RandomForestClassifier\.estimators_\.criterion"),
        (_an_object_for_a_value, r"RandomForestClassifier\.classes_"),
    ],
)
def test_a_model_that_was_not_trained_here_is_refused(trained: Trained, change: Any, told: str) -> None:
    store: Any = MemoryStore()
    register(store, trained)
    forged = copy.deepcopy(trained.estimator)
    change(forged)
    signed(store, skops.io.dumps(forged))
    with pytest.raises(PermanentError, match=rf"is not the model its card tells of \({told}\)"):
        models.load_model(store, dataset(), 1)


def test_what_skops_trusts_is_no_model(trained: Trained) -> None:
    store: Any = MemoryStore()
    register(store, trained)
    forged: Any = copy.deepcopy(trained.estimator)
    forged.estimators_[0] = CountVectorizer(input="filename").fit([__file__])
    signed(store, skops.io.dumps(forged))
    with pytest.raises(PermanentError, match=r"holds the type .*CountVectorizer .* not trusted"):
        models.load_model(store, dataset(), 1)


def test_categories_that_lead_out_of_memory_are_refused() -> None:
    """scikit-learn sets bits where a boosted model's thresholds say, without looking."""
    how = Training(model="gradient_boosting")
    made, store = train(iris(), "species", how), MemoryStore()
    card = models.describe(made, how, dataset())
    models.register(store, dataset(), made.estimator, card, lambda *_: "")  # type: ignore[arg-type]
    forged: Any = copy.deepcopy(made.estimator)
    forged._bin_mapper.is_categorical_[0] = 1
    forged._bin_mapper.bin_thresholds_[0] = np.array([1e9])
    signed(store, skops.io.dumps(forged))
    with pytest.raises(PermanentError, match="leads nowhere"):
        models.load_model(store, dataset(), 1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("model", "task", "options"),
    [
        ("linear_regression", "regression", {"positive": True}),
        ("ridge", "regression", {"alpha": 0.5}),
        ("logistic_regression", "classification", {"C": 0.5, "class_weight": "balanced"}),
        ("decision_tree", "classification", {"class_weight": {0: 1, 1: 5}, "max_depth": 3}),
        ("random_forest", "classification", {"oob_score": True, "max_features": 0.5, "n_jobs": -1}),
        ("random_forest", "regression", {"criterion": "poisson", "max_samples": 0.5}),
        *(
            ("gradient_boosting", "regression", {"loss": loss, "early_stopping": True})
            for loss in ("squared_error", "absolute_error", "gamma", "poisson")
        ),
        ("gradient_boosting", "regression", {"loss": "quantile", "quantile": 0.9}),
        ("gradient_boosting", "classification", {"interaction_cst": [[0, 1], [2]], "max_leaf_nodes": 4}),
    ],
)
def test_a_model_of_other_options_can_be_stored(model: str, task: str, options: dict[str, Any]) -> None:
    frame, target = (customers(400), "Exited") if task == "classification" else (trips(200), "minutes")
    how = Training.model_validate({"model": model, "task": task, "options": options})
    check_stored(frame, target, how)


def test_a_copy_of_a_card_beside_its_place_changes_nothing(trained: Trained) -> None:
    store: Any = MemoryStore()
    register(store, trained)
    body = store.get("processed", "_models/iris/v0001/model.json")[1]
    store.put("processed", "_models/iris/v00002/model.json", body, "")
    assert [card.version for card in models.versions(store, dataset())] == [1]
    assert models.find_card(store, dataset(), "latest").version == 1


def test_a_forged_best_writes_no_control_characters_into_the_verdict(trained: Trained) -> None:
    store: Any = MemoryStore()
    register(store, trained)
    card = json.loads(store.get("processed", "_models/iris/v0001/model.json")[1])
    replaced(store, "model.json", json.dumps(card | {"target": "\x1b]0;owned\x07"}).encode())
    assert register(store, trained).reason.isprintable()


def bent(body: bytes, **fields: int) -> bytes:
    """The archive with these fields of every tree's first node set."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(body)) as source, zipfile.ZipFile(out, "w") as target:
        for item in source.infolist():
            content = source.read(item)
            array = np.load(io.BytesIO(content)) if item.filename.endswith(".npy") else np.empty(0)
            if fields and set(fields) <= set(array.dtype.names or ()):
                array = array.copy()
                for name, value in fields.items():
                    array[name][0] = value
                changed = io.BytesIO()
                np.save(changed, array)
                content = changed.getvalue()
            target.writestr(item, content)
    return out.getvalue()


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("random_forest", {"left_child": 10**12}),
        ("decision_tree", {"right_child": -7}),
        ("decision_tree", {"left_child": 0}),
        ("decision_tree", {"feature": 4}),
        ("gradient_boosting", {"left": 2**31}),
        ("gradient_boosting", {"right": 0}),
        ("gradient_boosting", {"feature_idx": -1}),
        ("gradient_boosting", {"is_categorical": 1}),
    ],
)
def test_a_tree_that_leads_out_of_memory_is_refused(model: Any, fields: dict[str, int]) -> None:
    how = Training.model_validate({"model": model})
    made, store = train(iris(), "species", how), MemoryStore()
    card = models.describe(made, how, dataset())
    models.register(store, dataset(), made.estimator, card, lambda *_: "")  # type: ignore[arg-type]
    body = skops.io.dumps(made.estimator)
    signed(store, bent(body))
    models.load_model(store, dataset(), 1)  # type: ignore[arg-type]
    signed(store, bent(body, **fields))
    with pytest.raises(PermanentError, match="leads nowhere"):
        models.load_model(store, dataset(), 1)  # type: ignore[arg-type]


def test_more_nodes_than_there_are_is_refused() -> None:
    estimator: Any = train(iris(), "species", Training(model="decision_tree")).estimator
    assert models._check_trees(estimator, 4)
    # Not through a file: to dump such a tree would read outside its memory, too.
    state = estimator.tree_.__getstate__()
    estimator.tree_.__setstate__(state | {"node_count": estimator.tree_.capacity + 1})
    assert not models._check_trees(estimator, 4)
    estimator.tree_.__setstate__(state)


def test_an_archive_that_would_fill_the_memory_is_refused(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    store: Any = MemoryStore()
    register(store, trained)
    monkeypatch.setattr(archives, "MOST_BYTES", 1_000)
    with pytest.raises(PermanentError, match="too large"):
        models.load_model(store, dataset(), 1)


def test_a_model_of_unknown_types_is_not_registered(trained: Trained) -> None:
    store = MemoryStore()
    spoiled = Trained(trained.split, FunctionTransformer(partial(print)), trained.evaluation)
    with pytest.raises(PermanentError, match="not trusted"):
        register(store, spoiled)
    assert not store.buckets["processed"]


@pytest.mark.parametrize(("version", "fine"), [("0.24.1", False), ("99.0.0", False), ("same", True)])
def test_models_of_another_scikit_learn_are_refused(trained: Trained, version: str, fine: bool) -> None:
    store: Any = MemoryStore()
    own = models.sklearn.__version__.rpartition(".")[0] + ".99"
    register(store, trained, sklearn_version=own if fine else version)
    if fine:
        models.load_model(store, dataset(), 1)
        return
    with pytest.raises(PermanentError, match=f"made by scikit-learn {version}"):
        models.load_model(store, dataset(), 1)


@pytest.mark.parametrize("body", [b"", b"{}", b"\xff", b'{"version": 0, "metric": "f1", "value": 1}'])
def test_a_spoiled_pointer_or_card_is_named(trained: Trained, body: bytes) -> None:
    store: Any = MemoryStore()
    register(store, trained)
    store.put("processed", "_models/iris/best.json", body, "")
    with pytest.raises(PermanentError, match=r"best\.json names no version"):
        models.find_card(store, dataset(), "best")
    store.delete("processed", "_models/iris/best.json")
    replaced(store, "model.json", body)
    with pytest.raises(PermanentError, match=r"v0001/model\.json is no model card"):
        models.find_card(store, dataset(), 1)
    register(store, trained)
    assert [card.version for card in models.versions(store, dataset())] == [2], "the others are still told of"


def test_a_best_that_was_deleted_gives_way(trained: Trained) -> None:
    store: Any = MemoryStore()
    register(store, trained, metrics={"f1": 0.99})
    store.delete("processed", "_models/iris/v0001/model.json")
    assert register(store, trained, metrics={"f1": 0.5}).is_best


def test_the_pointer_gives_up_after_many_races(trained: Trained) -> None:
    class Busy(MemoryStore):
        def put(self, bucket: str, key: str, *arguments: Any, **options: Any) -> Any:
            if key.endswith("best.json"):
                raise AlreadyExistsError(key)
            return super().put(bucket, key, *arguments, **options)

    with pytest.raises(TransientError, match="keeps changing"):
        register(Busy(), trained)


# --- the report


class Page(HTMLParser):
    """What a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attributes


EVIL = "<script>alert(1)</script>|[x](http://evil)\"'"


def pages() -> list[tuple[str, str]]:
    frame = iris().rename(columns={"petal_length": EVIL})
    frame["species"] = frame["species"].replace("setosa", EVIL)
    found = []
    for made in (train(frame, "species", training()), train(trips(), "minutes", training())):
        card = models.describe(made, training(), dataset(), flow_run_id=EVIL)
        last = card.model_copy(update={"version": 3})
        found.append((to_html(card, made.evaluation, last), to_markdown(card, made.evaluation, last)))
    return found


def test_the_page_is_whole_in_itself_and_runs_nothing() -> None:
    for html, _ in pages():
        page = Page(html)
        assert not {"script", "link", "img", "iframe", "object", "form", "a"} & set(page.tags)
        assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("src", "href")]
        assert "url(" not in html
        assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes


def test_the_page_shows_what_was_found() -> None:
    (classes, short), (numbers, brief) = pages()
    for text in (classes, numbers, short, brief):
        assert "v0003" in text
        assert "distance" in text or "petal" in text
    assert "most frequent class" in classes
    assert "What was taken for what" in classes
    assert "<svg" not in classes
    assert numbers.count("<svg") == 2
    assert numbers.count("<circle") == 20
    assert not re.search(r"=\"?(nan|inf)", numbers)
    assert "linear regression" in brief


def test_names_out_of_the_data_break_no_table() -> None:
    _, short = pages()[0]
    assert "<script>" not in short
    assert "](http" not in short
    tables = [line for line in short.splitlines() if line.startswith("| ")]
    unescaped = [len(re.findall(r"(?<!\\)\|", line)) for line in tables]
    assert set(unescaped) == {5}
