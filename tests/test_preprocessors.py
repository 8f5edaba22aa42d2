"""Fit and transform: stored preprocessors, drift, checkpoints, quarantine, on a whole Preparation."""

import copy
import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
from memory_store import MemoryStore
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from dropflow.datasets import Dataset
from dropflow.errors import PermanentError, RejectedError
from dropflow.receipts import Receipt, read_receipt
from dropflow.report import to_html
from dropflow.samples import churn_csv
from flows import preprocessors, steps
from flows.preparation import Preparation, Prepared
from flows.preprocessors import Preprocessor, cards, load, load_preprocessor


@dataclass
class Bench:
    """One dataset, and the store its objects are in."""

    dataset: Dataset
    store: Any

    def drop(self, name: str, content: bytes) -> str:
        key = f"{self.dataset.prefix}{name}"
        self.store.put(self.dataset.bucket, key, content, "text/csv")
        return key

    def prepare(self, name: str, content: bytes, **options: Any) -> Prepared:
        return Preparation(self.store, self.dataset, "run", **options).prepare(self.drop(name, content))

    def receipt(self, name: str) -> Receipt:
        ref = self.store.stat(self.dataset.bucket, f"{self.dataset.prefix}{name}")
        found = read_receipt(self.store, self.dataset, ref)
        assert found
        return found

    def output(self, name: str) -> pd.DataFrame:
        receipt = self.receipt(name)
        return pd.read_parquet(io.BytesIO(self.store.get(receipt.output_bucket, receipt.output_key)[1]))

    def preprocessor(self, version: int = -1) -> Preprocessor:
        known = list(cards(self.store, self.dataset))
        return load(self.store, self.dataset, known[version])

    def changed(self, **changes: Any) -> "Bench":
        fields = self.dataset.model_dump(mode="json", exclude_unset=True)
        return Bench(Dataset.model_validate({**fields, **changes}), self.store)


@pytest.fixture
def bench(churn: Dataset) -> Bench:
    return Bench(churn, MemoryStore())


@pytest.fixture
def reference(bench: Bench) -> Bench:
    return bench.changed(fit="reference")


FIRST, SECOND = churn_csv(rows=2000, seed=1), churn_csv(rows=500, seed=2)


def raw(content: bytes) -> pd.DataFrame:
    return pd.read_csv(
        io.BytesIO(content), keep_default_na=False, na_values={"Age": "", "Gender": "", "Surname": ""}
    )


def test_the_first_object_teaches_and_the_others_are_only_transformed(reference: Bench) -> None:
    assert reference.prepare("a.csv", FIRST).result == "processed"
    assert reference.prepare("b.csv", SECOND).result == "processed"
    assert [card.label for card in cards(reference.store, reference.dataset)] == ["v1"]
    assert reference.receipt("b.csv").preprocessor == "v1"
    ages = raw(FIRST)["Age"]
    filled = ages.fillna(ages.median())
    expected = (raw(SECOND)["Age"].fillna(ages.median()) - filled.mean()) / filled.std(ddof=0)
    np.testing.assert_allclose(reference.output("b.csv")["Age"], expected, atol=1e-12)


def test_serving_gives_exactly_what_the_pipeline_gave(reference: Bench) -> None:
    reference.prepare("a.csv", FIRST)
    reference.prepare("b.csv", SECOND)
    served = reference.preprocessor().transform(raw(SECOND))
    pd.testing.assert_frame_equal(served, reference.output("b.csv"), check_exact=True)


def test_serving_does_without_the_target(reference: Bench) -> None:
    reference.prepare("a.csv", FIRST)
    served = reference.preprocessor().transform(raw(SECOND).drop(columns="Exited"))
    pd.testing.assert_frame_equal(
        served, reference.preprocessor().transform(raw(SECOND)).drop(columns="Exited")
    )


def test_a_served_row_that_breaks_the_contract_is_told(reference: Bench) -> None:
    reference.prepare("a.csv", FIRST)
    with pytest.raises(RejectedError, match="Geography: the value 'Atlantis' in data row 1"):
        reference.preprocessor().transform(raw(SECOND).assign(Geography="Atlantis"))


def test_a_changed_recipe_is_fitted_anew_on_the_same_reference(reference: Bench) -> None:
    reference.prepare("a.csv", FIRST)
    changed = reference.changed(
        steps=[{"drop": ["Surname"]}, {"impute": {"Age": "mean", "Gender": "most_frequent"}}]
    )
    assert changed.prepare("b.csv", SECOND).result == "processed"
    card = changed.preprocessor().card
    assert (card.label, card.key) == ("v2", "churn/a.csv")
    gone = changed.changed(steps=[{"drop": ["Surname"]}])
    gone.store.put("raw", "churn/a.csv", b"other bytes", "text/csv")
    failed = gone.prepare("c.csv", SECOND)
    assert failed.result == "failed"
    assert "gone or overwritten: run preprocess/churn with `refit` and a key" in failed.message
    assert gone.prepare("c.csv", SECOND, refit=True).result == "processed"
    assert gone.receipt("c.csv").preprocessor == "v3"


def test_a_pinned_version_is_used_or_refused(reference: Bench) -> None:
    reference.prepare("a.csv", FIRST)
    reference.prepare("b.csv", SECOND, refit=True)
    pinned = reference.changed(fit="reference v1")
    assert pinned.prepare("c.csv", churn_csv(rows=300, seed=3)).result == "processed"
    assert pinned.receipt("c.csv").preprocessor == "v1"
    other = pinned.changed(steps=[{"drop": ["Surname"]}]).prepare("d.csv", SECOND)
    assert "fitted with another recipe" in other.message
    assert (
        "no such version that can be read (there are: v1, v2)"
        in reference.changed(fit="reference v9").prepare("d.csv", SECOND).message
    )


def test_a_refit_prepares_anew_what_was_prepared_with_the_version_before(reference: Bench) -> None:
    reference.prepare("a.csv", FIRST)
    assert reference.prepare("a.csv", FIRST).result == "cached"
    assert reference.prepare("b.csv", SECOND, refit=True).result == "processed"
    assert reference.prepare("a.csv", FIRST).result == "processed"
    assert reference.receipt("a.csv").preprocessor == "v2"


def test_another_scikit_learn_is_refused(reference: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    reference.prepare("a.csv", FIRST)
    monkeypatch.setattr(preprocessors.sklearn, "__version__", "99.0")
    with pytest.raises(PermanentError, match=r"fitted with scikit-learn .*, and this is 99.0"):
        reference.preprocessor()


def test_a_file_that_cannot_be_fitted_on_is_rejected_and_the_next_one_teaches(reference: Bench) -> None:
    assert reference.prepare("bad.csv", b"nonsense\n1\n").result == "rejected"
    assert reference.prepare("a.csv", FIRST).result == "processed"
    assert reference.receipt("a.csv").preprocessor == "v1"


def card_of(bench: Bench) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(bench.store.get("processed", "_preprocessors/churn/v0001.json")[1])
    return found


def forge(bench: Bench, content: bytes | None = None, **fields: Any) -> None:
    """Put v2 in place: a content, and a card that vouches for it, with these fields set."""
    card = card_of(bench) | {"version": 2}
    if content is not None:
        digest = preprocessors.hashlib.sha256(content).hexdigest()
        card |= {"sha256": digest, "content_key": f"_preprocessors/churn/{digest}.skops"}
        bench.store.put("processed", card["content_key"], content, "application/zip")
    body = json.dumps(card | fields).encode()
    bench.store.put("processed", "_preprocessors/churn/v0002.json", body, "application/json")


class Foreign:
    def __init__(self) -> None:
        self.harm = 1


def test_tampered_content_is_not_loaded(reference: Bench) -> None:
    reference.prepare("a.csv", FIRST)
    card = reference.preprocessor().card
    evil = skops.io.dumps((Foreign(),))
    reference.store.put("processed", card.content_key, evil, "application/zip")
    with pytest.raises(PermanentError, match="was changed since it was stored"):
        reference.preprocessor()
    forge(reference, evil)
    with pytest.raises(PermanentError, match=r"holds the type .*Foreign.* not trusted"):
        reference.preprocessor()
    forge(reference, b"PK\x03\x04 nonsense")
    with pytest.raises(PermanentError, match="cannot be read"):
        reference.preprocessor()


RAN: list[str] = []


def planted(frame: pd.DataFrame) -> pd.DataFrame:
    """Stands for any importable function: what a forged card names as `prepare`."""
    RAN.append("planted")
    return frame


@pytest.fixture
def declared(reference: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A dataset with v1 in its bucket, as `load_preprocessor` finds both."""
    reference.prepare("a.csv", FIRST)
    monkeypatch.setattr(preprocessors, "load_datasets", lambda _: {"churn": reference.dataset})
    return reference


def test_a_forged_card_runs_no_function(declared: Bench) -> None:
    RAN.clear()
    evil = {**card_of(declared)["dataset"], "prepare": f"{__name__}:planted"}
    forge(declared, dataset=evil)
    served = load_preprocessor("churn", store=declared.store)
    served.transform(raw(SECOND))
    assert (served.card.label, RAN) == ("v1", [])
    with pytest.raises(PermanentError, match=r"churn has no v2 that fits its recipe"):
        load_preprocessor("churn", 2, store=declared.store)
    pinned = declared.changed(fit="reference v2").prepare("b.csv", SECOND)
    assert "it was fitted with another recipe" in pinned.message


def test_what_a_card_says_besides_its_recipe_decides_nothing(declared: Bench) -> None:
    changes = {"output_bucket": "elsewhere", "unknown_columns": "drop", "quarantine": {"max_share": 1.0}}
    forge(declared, dataset={**card_of(declared)["dataset"], **changes})
    served = load_preprocessor("churn", store=declared.store)
    assert (served.card.label, served.dataset) == ("v2", declared.dataset)
    pd.testing.assert_frame_equal(
        served.transform(raw(SECOND)), declared.preprocessor(0).transform(raw(SECOND)), check_exact=True
    )


def test_a_card_that_names_a_recipe_it_was_not_fitted_with_is_not_used(declared: Bench) -> None:
    other = declared.changed(steps=[{"drop": ["Surname"]}])
    forge(declared, dataset=other.dataset.model_dump(mode="json"), recipe=steps.recipe_id(declared.dataset))
    assert load_preprocessor("churn", store=declared.store).card.label == "v1"
    other.prepare("b.csv", SECOND)
    assert other.receipt("b.csv").preprocessor == "v3", "nor is it one of that other recipe"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "other"),
        ("version", 7),
        ("version", -1),
        ("content_key", "other/secret.skops"),
        ("content_key", "_preprocessors/churn/../../other/secret.skops"),
        ("sha256", "../../other"),
        ("dataset", {"name": "other", "match": "raw/other/*.csv"}),
        ("name", "\x1b]0;owned\x07\x9b31m[bold]"),
    ],
)
def test_a_card_of_another_place_is_as_good_as_none(
    declared: Bench, caplog: pytest.LogCaptureFixture, field: str, value: Any
) -> None:
    if field == "dataset":
        value = {**card_of(declared)["dataset"], **value}
    forge(declared, **{field: value})
    assert [card.label for card in cards(declared.store, declared.dataset)] == ["v1"]
    (warning,) = caplog.messages
    assert warning.startswith("s3://processed/_preprocessors/churn/v0002.json is ")
    assert warning.endswith(": delete it, or refit")
    assert warning.isprintable()
    with pytest.raises(PermanentError, match="delete it, or refit"):
        preprocessors.read_card(declared.store, declared.dataset, "_preprocessors/churn/v0002.json")
    assert declared.prepare("b.csv", SECOND, refit=True).result == "processed"
    assert declared.receipt("b.csv").preprocessor == "v3"


@pytest.mark.parametrize("name", ["v00001.json", "below/v0001.json"])
def test_a_copy_of_a_card_beside_its_place_is_as_good_as_none(declared: Bench, name: str) -> None:
    body = declared.store.get("processed", "_preprocessors/churn/v0001.json")[1]
    declared.store.put("processed", f"_preprocessors/churn/{name}", body, "application/json")
    assert [card.label for card in cards(declared.store, declared.dataset)] == ["v1"]


@pytest.mark.parametrize("key", ["other/secret.csv", "churn/_canary/x.csv"])
def test_nothing_is_fitted_on_what_a_forged_card_names(declared: Bench, key: str) -> None:
    """A changed recipe is fitted again on what the last version was fitted on, if that is the dataset's."""
    secret = declared.store.put("raw", key, FIRST, "text/csv")
    forge(declared, key=key, etag=secret.etag)
    changed = declared.changed(steps=[{"drop": ["Surname"]}])
    done = changed.prepare("b.csv", SECOND)
    assert done.result == "failed"
    assert "which is gone or overwritten: run preprocess/churn with `refit` and a key" in done.message
    assert len(list(cards(changed.store, changed.dataset))) == 2


def _replaced(fitted: list[Any]) -> None:
    fitted[3] = CountVectorizer(input="filename").fit([__file__])


def _another_trusted_one(fitted: list[Any]) -> None:
    fitted[3].fitted_[0] = MinMaxScaler().fit([[0.0], [1.0]])


def _another_step(fitted: list[Any]) -> None:
    fitted[0] = fitted[2]


def _one_less(fitted: list[Any]) -> None:
    fitted.pop()


def _other_options(fitted: list[Any]) -> None:
    fitted[3].fitted_[0].with_mean = False


def _other_columns(fitted: list[Any]) -> None:
    fitted[3].parts[0][0][0] = "Exited"


def _a_method_replaced(fitted: list[Any]) -> None:
    fitted[3].fitted_[0].transform = np.float64


def _an_object_for_a_value(fitted: list[Any]) -> None:
    fitted[3].fitted_[0].mean_ = StandardScaler()


def _an_object_in_an_array(fitted: list[Any]) -> None:
    fitted[3].fitted_[0].mean_ = np.array([StandardScaler()], dtype=object)


def _a_function(fitted: list[Any]) -> None:
    fitted[3].fitted_[0].mean_ = np.exp


def _a_path_out_of_memory(fitted: list[Any]) -> None:
    fitted[2].fitted_[0].encoder_._n_features_outs = [1]


def _other_categories(fitted: list[Any]) -> None:
    fitted[2].fitted_[0].categories_ = [StandardScaler()]


FORGERIES = [
    (_replaced, r"holds the type .*CountVectorizer .*, which is not trusted"),
    (_a_function, r"holds the type numpy\.exp \(FunctionNode\)"),
    (_another_trusted_one, r"something else in step 4 than its recipe makes \(Columnwise\.fitted_\)"),
    (_another_step, r"something else in step 1 than its recipe makes \(Drop\)"),
    (_one_less, "does not have the 4 steps of its recipe"),
    (_other_options, r"in step 4 .*fitted_\.with_mean"),
    (_other_columns, r"in step 4 .*Columnwise\.parts"),
    (_a_method_replaced, r"in step 4 .*fitted_\.transform"),
    (_an_object_for_a_value, r"in step 4 .*fitted_\.mean_"),
    (_an_object_in_an_array, r"in step 4 .*fitted_\.mean_"),
    (_a_path_out_of_memory, r"in step 3 .*encoder_\._n_features_outs"),
    (_other_categories, r"in step 3"),
]


@pytest.mark.parametrize(("change", "told"), FORGERIES)
def test_an_archive_of_anything_but_the_steps_is_not_used(declared: Bench, change: Any, told: str) -> None:
    """Each is of types that skops trusts, and a card vouches for it."""
    fitted = copy.deepcopy(list(declared.preprocessor(0).steps))
    change(fitted)
    forge(declared, skops.io.dumps(tuple(fitted)))
    with pytest.raises(PermanentError, match=rf"preprocessor v2 of churn .*{told}.*; refit it"):
        load_preprocessor("churn", store=declared.store)
    assert declared.prepare("b.csv", SECOND).result == "failed"


def test_a_vocabulary_that_leads_out_of_memory_is_not_used(reference: Bench) -> None:
    """scipy writes where it says, without looking."""
    sparse = reference.changed(steps=[{"drop": ["Surname"]}, {"encode": {"Geography": "dict"}}])
    sparse.prepare("a.csv", FIRST)
    fitted = copy.deepcopy(sparse.preprocessor().steps)
    fitted[1].fitted_[0].vectorizer_.vocabulary_["Geography=France"] = 10**9
    forge(sparse, skops.io.dumps(fitted))
    with pytest.raises(PermanentError, match=r"something else in step 2 .*vectorizer_\.vocabulary_"):
        sparse.preprocessor()


def test_two_first_objects_at_once_have_one_reference(reference: Bench) -> None:
    runs = [Preparation(reference.store, reference.dataset, f"run{number}") for number in range(2)]
    refs = [
        reference.store.put("raw", f"churn/{seed}.csv", churn_csv(rows=300, seed=seed), "text/csv")
        for seed in (1, 2)
    ]
    made = [run._fit(ref) for run, ref in zip(runs, refs, strict=True)]
    assert [one.card.label for one in made] == ["v1", "v1"]
    assert [card.key for card in cards(reference.store, reference.dataset)] == ["churn/1.csv"]


def test_a_card_of_another_release_is_never_used_and_never_overwritten(reference: Bench) -> None:
    reference.store.put(
        "processed", "_preprocessors/churn/v0007.json", b'{"name": "churn"}', "application/json"
    )
    assert reference.prepare("a.csv", FIRST).result == "processed"
    assert reference.receipt("a.csv").preprocessor == "v8"


def test_an_experiment_is_not_served(
    reference: Bench, monkeypatch: pytest.MonkeyPatch, churn: Dataset
) -> None:
    reference.prepare("a.csv", FIRST)
    reference.changed(steps=[{"drop": ["Surname"]}]).prepare("b.csv", SECOND)
    monkeypatch.setattr(preprocessors, "load_datasets", lambda _: {"churn": reference.dataset})
    assert load_preprocessor("churn", store=reference.store).card.label == "v1"
    with pytest.raises(PermanentError, match=r"churn has no v2 that fits its recipe .*there are: v1, v2"):
        load_preprocessor("churn", 2, store=reference.store)


def test_nothing_is_learnt_from_a_canary(reference: Bench) -> None:
    assert reference.prepare("_canary/x.csv", FIRST).result == "processed"
    assert list(cards(reference.store, reference.dataset)) == []
    reference.prepare("a.csv", FIRST)
    assert reference.prepare("_canary/y.csv", FIRST).result == "processed"
    assert reference.receipt("_canary/y.csv").preprocessor == "v1"


def drifted(content: bytes) -> bytes:
    frame = raw(content)
    frame["CreditScore"] = (frame["CreditScore"] + 150).clip(upper=1000)
    return frame.to_csv(index=False).encode()


def test_drift_warns_or_rejects(reference: Bench) -> None:
    reference.prepare("a.csv", FIRST)
    assert reference.prepare("b.csv", SECOND).result == "processed"
    assert reference.receipt("b.csv").warnings == ()
    done = reference.prepare("c.csv", drifted(SECOND))
    assert done.result == "processed"
    (warning,) = reference.receipt("c.csv").warnings
    assert warning.startswith("drifted from the reference v1: CreditScore (PSI ")
    assert warning in done.message
    strict = reference.changed(drift={"then": "reject"})
    assert strict.prepare("d.csv", drifted(SECOND)).result == "rejected"
    assert "drifted from the reference" in strict.receipt("d.csv").reason


def test_small_files_do_not_drift_by_chance(reference: Bench) -> None:
    reference.prepare("a.csv", FIRST)
    flagged = 0
    for seed in range(20):
        reference.prepare(f"{seed}.csv", churn_csv(rows=25, seed=100 + seed))
        flagged += len(reference.receipt(f"{seed}.csv").warnings)
    assert flagged <= 4, "fourteen columns each, at one in a hundred"


def test_categories_that_the_reference_does_not_know(reference: Bench) -> None:
    columns = {**reference.dataset.model_dump(mode="json")["columns"], "Geography": {"type": "category"}}
    open_ended = reference.changed(columns=columns, drift={"then": "ignore"})
    open_ended.prepare("a.csv", FIRST)
    strange = SECOND.replace(b"Spain", b"Malta")
    assert open_ended.prepare("b.csv", strange).result == "processed"
    (warning,) = open_ended.receipt("b.csv").warnings
    assert "column Geography" in warning
    assert "categories not known to the reference" in warning
    rows = raw(strange)["Geography"] == "Malta"
    encoded = open_ended.output("b.csv").filter(like="Geography_")
    assert (encoded[rows.to_numpy()] == 0).all(axis=None)
    strict = open_ended.changed(unknown_categories="reject")
    assert strict.prepare("c.csv", strange).result == "rejected"


def test_bad_rows_are_set_aside_each_with_its_reason(bench: Bench) -> None:
    frame = raw(SECOND).astype(object)
    frame.loc[3, "Geography"] = "Atlantis"
    frame.loc[7, "Age"] = "=cmd|' /C calc'!A0"
    frame.loc[7, "CreditScore"] = -5
    done = bench.prepare("a.csv", frame.to_csv(index=False).encode())
    assert done.result == "processed"
    receipt = bench.receipt("a.csv")
    assert (receipt.rows_in, receipt.rows_out, receipt.quarantined) == (500, 498, 2)
    assert "498 out, 2 quarantined" in done.message
    bad = pd.read_csv(io.BytesIO(bench.store.get("processed", receipt.quarantine_key)[1]))
    assert bad["_row"].tolist() == [4, 8]
    assert bad["_reason"].tolist() == [
        "Geography is none of France, Germany, Spain",
        "CreditScore is below 0; Age is no number",
    ]
    assert bad["Age"].tolist()[1].startswith("'=cmd")
    assert receipt.quality
    report = to_html(receipt.quality)
    assert "is none of France, Germany, Spain" in report


def test_above_the_declared_share_the_file_is_rejected(bench: Bench) -> None:
    frame = raw(SECOND)
    frame.loc[:24, "Geography"] = "Atlantis"
    assert bench.prepare("a.csv", frame.to_csv(index=False).encode()).result == "processed"
    frame.loc[25, "Geography"] = "Atlantis"
    done = bench.prepare("b.csv", frame.to_csv(index=False).encode())
    assert done.result == "rejected"
    assert "26 of 500 rows are bad, more than 5% may be set aside" in done.message
    generous = bench.changed(quarantine={"max_share": 0.5})
    assert generous.prepare("b.csv", frame.to_csv(index=False).encode()).result == "processed"


def test_everything_is_fitted_on_the_train_rows_only(bench: Bench) -> None:
    split = bench.changed(split={"test_size": 0.25, "stratify": "Exited"})
    split.prepare("a.csv", FIRST)
    output = split.output("a.csv")
    train = output[output["split"] == "train"]
    assert len(train) == 1500
    np.testing.assert_allclose(train["Age"].mean(), 0, atol=1e-9)
    np.testing.assert_allclose(train["Age"].std(ddof=0), 1, atol=1e-9)
    assert abs(output["Age"].mean()) > 1e-6
    shares = output.groupby("split")["Exited"].mean()
    np.testing.assert_allclose(shares["train"], shares["test"], atol=2e-3)


class CountedSteps:
    """Steps that note what they did, one of which fails as often as told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
        self.done: list[str] = []
        self.failing = failing
        self._apply = steps.apply
        monkeypatch.setattr(steps, "apply", self)

    def __call__(self, frame: pd.DataFrame, step: Any, *arguments: Any, **named: Any) -> Any:
        if step.kind == self.failing:
            raise RuntimeError("what nobody foresaw")
        self.done.append(step.kind)
        return self._apply(frame, step, *arguments, **named)


def test_a_run_that_failed_at_scale_reuses_what_impute_and_encode_made(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = CountedSteps(monkeypatch, failing="scale")
    assert bench.prepare("a.csv", FIRST).result == "failed"
    assert counted.done == ["drop", "impute", "encode"]
    counted.failing, counted.done = "", []
    assert bench.prepare("a.csv", FIRST).result == "processed"
    assert counted.done == ["scale"]
    assert [step.detail for step in bench.receipt("a.csv").steps[:3]] == ["taken from an earlier attempt"] * 3
    clean = Bench(bench.dataset, MemoryStore())
    clean.prepare("a.csv", FIRST)
    pd.testing.assert_frame_equal(bench.output("a.csv"), clean.output("a.csv"), check_exact=True)


def test_changing_a_step_computes_again_from_that_step_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = CountedSteps(monkeypatch, failing="scale")
    bench.prepare("a.csv", FIRST)
    counted.failing, counted.done = "", []
    fields = bench.dataset.model_dump(mode="json", exclude_unset=True)["steps"]
    scaled = [*fields[:3], {"scale": {"method": "minmax", "columns": ["Age"]}}]
    assert bench.changed(steps=scaled).prepare("a.csv", FIRST).result == "processed"
    assert counted.done == ["scale"]
    counted.done = []
    ordinal = [*fields[:2], {"encode": {"Geography": "ordinal", "Gender": "ordinal"}}, fields[3]]
    assert bench.changed(steps=ordinal).prepare("a.csv", FIRST).result == "processed"
    assert counted.done == ["drop", "impute", "encode", "scale"], "only the last frame of a failure is kept"


def test_other_bytes_reuse_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = CountedSteps(monkeypatch, failing="scale")
    bench.prepare("a.csv", FIRST)
    counted.failing, counted.done = "", []
    bench.prepare("a.csv", SECOND)
    assert counted.done == ["drop", "impute", "encode", "scale"]


@pytest.mark.parametrize("output", ["csv", "arrow"])
def test_other_output_formats(bench: Bench, output: str) -> None:
    other = bench.changed(output=output)
    assert other.prepare("a.csv", SECOND).result == "processed"
    receipt = other.receipt("a.csv")
    assert receipt.output_key == f"churn/a.{output}"
    body = io.BytesIO(other.store.get("processed", receipt.output_key)[1])
    frame = pd.read_csv(body) if output == "csv" else pd.read_feather(body)
    bench.prepare("a.csv", SECOND)
    np.testing.assert_allclose(frame.to_numpy(dtype=float), bench.output("a.csv").to_numpy(dtype=float))
