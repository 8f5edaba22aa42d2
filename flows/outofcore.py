"""A file too large for memory: read, fitted and transformed part by part. No Prefect here.

    spool      each part is parsed and validated; its good rows wait on disk
    fit        the steps, one after the other, on what those before them make of the parts
    transform  every part by all steps, written as a row group

Memory holds a few parts and what the learners keep (flows/learners.py), whatever the file's size.
"""

import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from dropflow.datasets import Dataset
from dropflow.errors import RejectedError, TransientError
from dropflow.quality import FrameProfile, StepDone
from dropflow.recipes import Step
from flows import contract, reading, steps
from flows.ahead import ahead, mapped
from flows.encoding import PARQUET, to_readable_csv
from flows.learners import BOUND, learner
from flows.profiles import profile
from flows.pruning import reduced, sources
from flows.reading.disk import check_room
from flows.transformers import LARGEST_WHOLE, Columnwise

log = logging.getLogger(__name__)

PART_BYTES = 16 * 2**20
"""Of the raw file; a part's frame takes some ten times that."""
MOST_SHOWN_ROWS = 50_000
SWITCH_SECONDS = 0.0005
ROOM = 4
"""Times the file's size on disk: parts take up to two and a half, where cells are single letters."""


def why_not(dataset: Dataset, fitted: bool) -> str:
    """Why files of this dataset must be in memory whole; "" where they need not."""
    is_reference = dataset.fit.mode != "each"
    reasons = (
        (dataset.prepare, f"prepare: {dataset.prepare} takes whole files"),
        (dataset.split, "split: draws from all rows"),
        (dataset.output.format != "parquet", f"output: {dataset.output.format} is written whole"),
        (is_reference and not fitted, "fit: reference: the reference is fitted on a whole file"),
        (is_reference and dataset.drift.then != "ignore", "drift: compares whole columns"),
        (any(c.unique for c in dataset.columns.values()), "unique: values of all rows are compared"),
        *((told, told) for told in map(_why_not_step, dataset.steps)),
    )
    return next((told for applies, told in reasons if applies), "")


def _why_not_step(step: Step) -> str:
    if step.select:
        return "select: compares whole columns"
    if "knn" in (step.impute or {}).values():
        return "impute: knn compares all rows"
    if "dict" in (step.encode or {}).values():
        return "encode: dict makes sparse columns"
    return ""


@dataclass
class Shown:
    """Rows drawn evenly, for the quality report's figures of columns: every first, second, fourth, … row."""

    frames: list[pd.DataFrame] = field(default_factory=list)
    rows: int = 0
    every: int = 1

    def add(self, frame: pd.DataFrame) -> None:
        # Few of a part from the start: rows that are dropped again take as long to copy.
        while len(frame) > self.every * MOST_SHOWN_ROWS / 4:
            self._thin_out()
        # A copy: a view would keep all the rows.
        self.frames.append(frame.iloc[:: self.every].copy())
        self.rows += len(self.frames[-1])
        while self.rows > MOST_SHOWN_ROWS:
            self._thin_out()

    def _thin_out(self) -> None:
        self.every *= 2
        self.frames = [one.iloc[::2].copy() for one in self.frames]
        self.rows = sum(map(len, self.frames))

    def profile(self) -> FrameProfile:
        return profile(pd.concat(self.frames))


class _Counted:
    """Chunks, and how many bytes of them were asked for."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks
        self.bytes = 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self.bytes += len(chunk)
            yield chunk


@dataclass
class Spool:
    """What the file held. `good`: the parts' good rows on disk, in order, with their place as index."""

    rows: int = 0
    good: list[Path] = field(default_factory=list)
    good_rows: int = 0
    bad_rows: int = 0
    quarantine: Path | None = None
    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    sample: Shown = field(default_factory=Shown)

    def parts(self, columns: Collection[str] | None = None) -> Iterator[pd.DataFrame]:
        """The good rows, of these columns as far as they are there."""
        for path in self.good:
            yield _loaded(path, columns)


@dataclass(frozen=True)
class Done:
    """A prepared file on disk, and all there is to tell about how it came about."""

    output: Path
    rows: int
    spool: Spool
    steps: tuple[StepDone, ...]
    before: FrameProfile
    after: FrameProfile
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class OutOfCore:
    """One object, prepared in `folder`. `told`: called with what is done, in words."""

    dataset: Dataset
    folder: Path
    told: Callable[[str], None] = log.info
    part_bytes: int = PART_BYTES

    def prepare(self, content: Iterable[bytes], size: int, fitted: tuple[Any, ...] | None = None) -> Done:
        """Raises RejectedError, and TransientError where the disk has no room.

        `content` is iterated over a second time where a quick look does not do. `size`: its bytes;
        `fitted`: a transformer a step, where they are not to be learnt.
        """
        check_room(self.folder, ROOM * size)
        with _threads_that_alternate():
            return self._prepare(content, size, fitted)

    def _prepare(self, content: Iterable[bytes], size: int, fitted: tuple[Any, ...] | None) -> Done:
        try:
            spool = self._spool_fast(content, size) or self._spool(content, size, reading.stream)
            warnings: list[str] = []
            if fitted is None:
                return self._transform(spool, self._fit(spool, warnings), warnings)
            return self._transform(spool, fitted, warnings, is_reference=True)
        except OSError as error:
            raise TransientError(f"the disk below {self.folder.parent}: {error}") from error

    @property
    def _never_used(self) -> list[str]:
        """Columns that the first step drops."""
        return list(self.dataset.steps[0].drop or ()) if self.dataset.steps else []

    def _spool_fast(self, content: Iterable[bytes], size: int) -> Spool | None:
        """None where that does not do."""
        try:
            return self._spool(content, size, reading.stream_fast)
        except reading.NotPlainError as error:
            self.told(f"read anew, more slowly: {error}")
            return None

    def _spool(self, content: Iterable[bytes], size: int, stream: reading.Stream) -> Spool:
        spool = Spool()
        read, next_told = _Counted(content), 0.1
        for checked, rows in ahead(self._checked(read, stream)):
            self._keep(spool, checked, rows)
            if read.bytes >= next_told * size:
                self.told(f"read {read.bytes / size:.0%}: {spool.rows:,} rows")
                next_told += 0.1
        if not spool.rows:
            raise RejectedError("has a header but no rows: nothing to prepare")
        self._check_share(spool)
        return spool

    def _checked(
        self, content: Iterable[bytes], stream: reading.Stream
    ) -> Iterator[tuple[contract.Checked, int]]:
        """Of each part the rows checked, and their number."""
        numbers = [name for name, column in self.dataset.columns.items() if column.type == "number"]
        before = 0
        for frame in ahead(stream(content, self.dataset.read, numbers, self.part_bytes)):
            if not frame.empty:
                checked = contract.check(frame, self.dataset, first_row=before)
                yield replace(checked, bad=_as_written(checked.bad, frame)), len(frame)
            before += len(frame)

    def _keep(self, spool: Spool, checked: contract.Checked, rows: int) -> None:
        if not checked.good.empty:
            good = checked.good.set_axis(checked.good.index + spool.rows, axis=0)
            spool.sample.add(good)
            path = self.folder / f"{len(spool.good):06}.arrow"
            _save(good.drop(columns=self._never_used, errors="ignore"), path)
            spool.good.append(path)
        for reason, number in checked.reasons.items():
            spool.reasons[reason] += number
            spool.examples.setdefault(reason, checked.examples[reason])
        if not checked.bad.empty:
            bad = checked.bad.copy()
            bad.iloc[:, 0] += spool.rows
            is_first = spool.quarantine is None
            spool.quarantine = self.folder / "quarantine.csv"
            with spool.quarantine.open("wb" if is_first else "ab") as file:
                file.write(to_readable_csv(bad, header=is_first))
        spool.rows += rows
        spool.good_rows += len(checked.good)
        spool.bad_rows += len(checked.bad)

    def _check_share(self, spool: Spool) -> None:
        share = self.dataset.quarantine.max_share
        if spool.bad_rows > share * spool.rows or not spool.good_rows:
            told = [spool.examples[reason] for reason in list(spool.examples)[: contract.MOST_PROBLEMS]]
            if share:
                told.append(
                    f"{spool.bad_rows:,} of {spool.rows:,} rows are bad, more than {share:.0%} may be set "
                    "aside"
                )
            raise RejectedError("; ".join(told))

    def _fit(self, spool: Spool, warnings: list[str]) -> tuple[Any, ...]:
        fitted: list[Any] = []
        for step in self.dataset.steps:
            fitted.append(self._fit_step(step, spool, fitted, warnings))
            self.told(f"fitted {steps.title(step)}")
        return tuple(fitted)

    def _fit_step(self, step: Step, spool: Spool, before: list[Any], warnings: list[str]) -> Any:
        made = steps.build(step, self.dataset)
        if not isinstance(made, Columnwise):
            return made.fit(pd.DataFrame())
        learners = [learner(names, transformer) for names, transformer in made.parts]
        goal = self.dataset.target if steps.needs_target(step) else None
        needed = {*step.columns, *([goal] if goal else [])}
        for frame in ahead(
            self._reduced(spool, before, needed) if any(o.needs_rows for o in learners) else ()
        ):
            steps.check_size(frame, step)
            rows = frame[frame[goal].notna()] if goal else frame
            with steps.fitting(step):
                for one in learners if len(rows) else ():
                    one.add(rows, rows[goal] if goal else None)
        with steps.fitting(step):
            made.fitted_ = [one.fitted() for one in learners]
        if not all(one.is_exact for one in learners):
            warnings.append(
                f"step {steps.title(step)} was fitted on rows drawn from {spool.good_rows:,}: the share of "
                f"rows below what it has learnt is off by {BOUND:.3f} at most"
            )
        return made

    def _reduced(self, spool: Spool, fitted: list[Any], needed: set[str]) -> Iterator[pd.DataFrame]:
        """The parts after the steps that are fitted, with the columns that are needed alone."""
        left: list[tuple[Step, Any]] = []
        for step, one in reversed(list(zip(self.dataset.steps, fitted, strict=False))):
            left.insert(0, (step, reduced(one, needed)))
            needed = sources(step, needed)
        for part in spool.parts(needed):
            frame = part
            for step, one in left:
                # A filter may leave no row of a part, which scikit-learn does not take.
                if not frame.empty:
                    frame = steps.apply(frame, step, self.dataset, fitted=one, is_part=True)[0]
            if not frame.empty:
                yield frame

    def _transform(
        self, spool: Spool, fitted: tuple[Any, ...], warnings: list[str], *, is_reference: bool = False
    ) -> Done:
        output = self.folder / "output.parquet"
        shown = Shown()
        rows, unknown, seconds = 0, Counter[str](), [0.0] * len(fitted)
        writer: pq.ParquetWriter | None = None

        def made(path: Path) -> _Part:
            return self._apply(_loaded(path), fitted, tell_unknown=is_reference)

        try:
            for part in mapped(made, spool.good):
                frame = part.frame
                seconds = [sum(pair) for pair in zip(seconds, part.seconds, strict=True)]
                unknown.update(part.unknown)
                if frame.empty:
                    continue
                rows += len(frame)
                shown.add(frame)
                plain = frame.reset_index(drop=True)
                if writer is None:
                    writer = pq.ParquetWriter(output, _schema(plain, spool), **PARQUET)
                writer.write_table(pa.Table.from_pandas(plain, writer.schema, preserve_index=False))
        except pa.ArrowException as error:
            raise RejectedError(
                f"cannot be written as parquet: {str(error).splitlines()[0][:200]}"
            ) from error
        finally:
            if writer:
                writer.close()
        if not rows:
            raise RejectedError(f"its steps leave none of the {spool.good_rows:,} rows")
        warnings += self._told_unknown(unknown)
        before, after = spool.sample.profile(), shown.profile()
        if before.rows < spool.good_rows:
            warnings.append(f"the figures of columns are of {before.rows:,} of {spool.good_rows:,} rows")
        done = tuple(
            StepDone(name=step.kind, detail=_detail(step), seconds=round(taken, 4))
            for step, taken in zip(self.dataset.steps, seconds, strict=True)
        )
        return Done(output, rows, spool, done, before, after, tuple(warnings))

    def _apply(self, frame: pd.DataFrame, fitted: Sequence[Any], *, tell_unknown: bool) -> "_Part":
        seconds, unknown = [0.0] * len(fitted), Counter[str]()
        for number, (step, one) in enumerate(zip(self.dataset.steps, fitted, strict=True)):
            if frame.empty:
                break
            began = time.perf_counter()
            if tell_unknown and hasattr(one, "unknown"):
                unknown.update(one.unknown(frame))
            frame = steps.apply(frame, step, self.dataset, fitted=one, is_part=True)[0]
            seconds[number] = time.perf_counter() - began
        return _Part(frame, seconds, unknown)

    def _told_unknown(self, unknown: Counter[str]) -> list[str]:
        told = [
            f"column {name}: {count:,} values of categories not known to the reference"
            for name, count in unknown.items()
        ]
        if told and self.dataset.unknown_categories == "reject":
            raise RejectedError("; ".join(told))
        return told


@dataclass(frozen=True)
class _Part:
    """One part after all steps; `seconds`: of each; `unknown`: values by column that no reference knows."""

    frame: pd.DataFrame
    seconds: list[float]
    unknown: Counter[str]


@contextmanager
def _threads_that_alternate() -> Iterator[None]:
    """One that has read waits 5 ms for another that computes, by default, and does so thousands of times."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _as_written(bad: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    """The rows set aside, with whole numbers where the part has no others: people compare them."""
    if bad.empty:
        return bad
    floats = frame.select_dtypes("float64")
    whole = (floats % 1 == 0).all() & (floats.abs() < LARGEST_WHOLE).all()
    return bad.astype(dict.fromkeys(floats.columns[whole], "int64"))


_LZ4 = pa.ipc.IpcWriteOptions(compression="lz4")


def _save(frame: pd.DataFrame, path: Path) -> None:
    """As Arrow's file format: sooner written and read than Parquet."""
    table = pa.Table.from_pandas(frame)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema, options=_LZ4) as writer:
        writer.write_table(table)


def _loaded(path: Path, columns: Collection[str] | None = None) -> pd.DataFrame:
    """The frame, or these columns of it as far as they are there."""
    with pa.memory_map(str(path)) as file:
        schema = pa.ipc.open_file(file).schema
        index = [name for name in schema.pandas_metadata["index_columns"] if isinstance(name, str)]
        wanted = {*schema.names} if columns is None else {*columns, *index}
        places = [place for place, name in enumerate(schema.names) if name in wanted]
        options = pa.ipc.IpcReadOptions(included_fields=places)
        frame: pd.DataFrame = pa.ipc.open_file(file, options=options).read_all().to_pandas()
    return frame


def _schema(frame: pd.DataFrame, spool: Spool) -> pa.Schema:
    """Of the first part; a column that has nothing there yet is what it is in a later one, or text."""
    schema = pa.Schema.from_pandas(frame, preserve_index=False)
    for place, found in enumerate(schema):
        if pa.types.is_null(found.type):
            schema = schema.set(place, found.with_type(_later_type(found.name, spool)))
    return schema


def _later_type(name: str, spool: Spool) -> pa.DataType:
    for path in spool.good:
        with pa.memory_map(str(path)) as file:
            schema = pa.ipc.open_file(file).schema
        if name in schema.names and not pa.types.is_null(schema.field(name).type):
            return schema.field(name).type
    return pa.string()


def _detail(step: Step) -> str:
    return f"{', '.join(step.columns)}, part by part" if step.columns else "part by part"
