"""The reference: which stored preprocessor a run transforms its objects with. No Prefect here."""

from collections.abc import Callable
from threading import Lock

from dropflow.datasets import Dataset, canary_prefix
from dropflow.errors import PermanentError, RejectedError
from dropflow.objects import ObjectRef, printable
from dropflow.storage import ObjectStore
from flows.preprocessors import Preprocessor, PreprocessorCard, cards, has_recipe, in_use, load


class Reference:
    """One preprocessor for all objects of a run, found or fitted once.

    `fit` makes and stores a new version from an object. With `refit` the first of the run's
    objects that can be fitted on teaches.
    """

    def __init__(
        self,
        store: ObjectStore,
        dataset: Dataset,
        fit: Callable[[ObjectRef], Preprocessor],
        *,
        refit: bool = False,
    ) -> None:
        self._store = store
        self._dataset = dataset
        self._fit = fit
        self._refit = refit
        self._found: Preprocessor | None = None
        self._lock = Lock()

    def preprocessor(self, ref: ObjectRef) -> Preprocessor:
        """The version to use; `ref` is fitted on where there is none yet.

        A changed recipe, or another scikit-learn, is fitted on the same object as the last version: it
        stays the reference. Raises PermanentError when that is gone, or a pinned version does not fit.
        """
        with self._lock:
            if self._found is None:
                self._found = self._fit(ref) if self._refit else self._resolve(ref)
            return self._found

    def is_settled(self) -> bool:
        """Whether it is clear which version is used, whatever the objects hold."""
        if self._refit or self._dataset.fit.mode == "each":
            return self._dataset.fit.mode == "each"
        known = cards(self._store, self._dataset)
        return bool(self._dataset.fit.version) or any(in_use(card, self._dataset) for card in known)

    def exists(self) -> bool:
        """Whether there is any version yet."""
        return self._found is not None or any(True for _ in cards(self._store, self._dataset))

    def _resolve(self, ref: ObjectRef) -> Preprocessor:
        known = list(cards(self._store, self._dataset))
        pinned = self._dataset.fit.version
        if pinned:
            return load(self._store, self._dataset, self._pinned(known, pinned))
        fitting = [card for card in known if in_use(card, self._dataset)]
        if fitting:
            return load(self._store, self._dataset, fitting[-1])
        return self._fit_again(known[-1]) if known else self._fit(ref)

    def _pinned(self, known: list[PreprocessorCard], version: int) -> PreprocessorCard:
        card = next((card for card in known if card.version == version), None)
        name = self._dataset.name
        if card is None:
            there = ", ".join(card.label for card in known) or "none"
            raise PermanentError(
                f"fit: reference v{version}: {name} has no such version that can be read (there are: {there})"
            )
        if not has_recipe(card, self._dataset):
            raise PermanentError(
                f"fit: reference v{version}: it was fitted with another recipe than {name} has now; undo the "
                f"change, or write `fit: reference` for a new version"
            )
        return card

    def _fit_again(self, card: PreprocessorCard) -> Preprocessor:
        ref = card.fitted_on
        url = printable(ref.url, 300)
        if self._may_teach(ref) and self._store.is_current(ref):
            try:
                return self._fit(ref)
            except RejectedError as error:
                raise PermanentError(f"{self._dataset.name}: the reference {url} {error}") from error
        raise PermanentError(
            f"{self._dataset.name}: recipe or scikit-learn has changed since {card.label} was fitted on "
            f"{url}, which is gone or overwritten: run preprocess/{self._dataset.name} with `refit` "
            "and a key"
        )

    def _may_teach(self, ref: ObjectRef) -> bool:
        """Whether it is one of the dataset's own: a forged card may name any that the worker can read."""
        is_canary = ref.key.startswith(canary_prefix(self._dataset))
        return self._dataset.matches(ref.bucket, ref.key) and not is_canary
