"""`metrics.jsonl`: what a run measured, one line per rollout step, whatever any tracking server does."""

import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch.loggers.logger import Logger
from lightning_utilities.core.rank_zero import rank_zero_only

from ceeh.errors import ConfigError
from ceeh.run.atomic import atomic_write

FILE = "metrics.jsonl"
ROLLOUT_STEP = "rollout/step"


class Line(NamedTuple):
    """A line of metrics.jsonl: where it begins in the file, its bytes, and its content."""

    offset: int
    content: bytes
    row: dict[str, Any]


def read_lines(file: Path, start: int = 0) -> Iterator[Line]:
    """The lines of a run's metrics.jsonl from offset `start` on; none where there is no file.

    Leaves out what is not a mapping of names to numbers, with a whole one as `rollout_step`: half a line,
    which a crash or a write leaves, two lines over each other, and what a run did not write. Raises
    ConfigError for a file that this user may not read.
    """
    if not file.is_file():
        return
    try:
        opened = file.open("rb")
    except PermissionError as error:
        raise ConfigError(
            f"'{file}' cannot be read ({error.strerror}); make it readable for this user"
        ) from error
    with opened as lines:
        offset = lines.seek(start)
        for content in lines:
            try:
                row = json.loads(content)
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict) and is_of_run(row):
                yield Line(offset, content, row)
            offset += len(content)


def is_of_run(row: Mapping[str, Any]) -> bool:
    numbers = all(value is None or type(value) in (int, float) for value in row.values())
    return numbers and type(row.get("rollout_step")) is int


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """What is in the metrics.jsonl of the run in `folder`, see `read_lines`."""
    return [line.row for line in read_lines(folder / FILE)]


def stable_name(name: str) -> str:
    """A metric's name as every store can hold it: `pass@8` is `pass_at_8`."""
    return name.replace("@", "_at_")


def finite(metrics: Mapping[str, int | float]) -> dict[str, int | float | None]:
    """`metrics` by their stable names; infinite and undefined values are None."""
    return {
        stable_name(name): value if math.isfinite(value) else None
        for name, value in metrics.items()
    }


class JSONLLogger(Logger):
    """`metrics.jsonl`: a line `{"rollout_step": n, "global_step": m, name: value}` per step.

    Lightning logs several times within a step. All of it goes into the step's line, which is rewritten in
    place, so the file is complete after every call. Metrics without `rollout/step` (an evaluation) belong to
    the last rollout step, to 0 before the first, and in `of_base` always to 0. `global_step` is the `step`
    that Lightning passes: finished batches, from 0, under manual optimization. Infinite and undefined
    values are null. A resume removes what `read_lines` leaves out. Lines that do not fit on a full disk are
    written later; one warning says so.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / FILE
        self._rows: list[dict[str, Any]] = []
        """The current step's, after those that are not on disk."""
        self._offset = 0
        """Where the first of them begins in the file."""
        self._failed = False
        self._base: dict[str, Any] | None = None
        """The base's line, while it is measured again."""
        self._new_base: dict[str, Any] | None = None
        """The base's line, until it has replaced the one in the file."""
        self._continue()

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run folder has the resolved configuration."""

    @rank_zero_only
    def resume_from_step(self, rollout_step: int, row: Mapping[str, Any] | None = None) -> None:
        """Drops the lines after the checkpoint's `rollout_step`, which will be measured again.

        `row` is that step's line from the checkpoint, for a run that was killed before it wrote it.
        """
        if self.path.exists():
            kept = self._whole(rollout_step)
            self._rewrite([line.content for line in kept])
            self._rows = [line.row for line in kept[-1:]]
        if row is not None and self._step < row["rollout_step"]:
            self._write(dict(row))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, int | float], step: int | None = None) -> None:
        if self._base is None:
            self._write(self.row(metrics, step))
        else:
            self._base = {"global_step": step} | self._base | finite(metrics)

    @contextmanager
    def of_base(self, tell: Callable[[dict[str, Any]], None]) -> Iterator[None]:
        """Inside, metrics are of the base. In a resumed run they replace the line of step 0 afterwards.

        It is measured again on other questions or samples, which are those of the later lines and of the
        summary. `tell` gets the new line, unless it equals the old one, before it is in the file: after a
        kill in between the lines still differ, and the next resume tells it again.
        """
        if self._step == 0:
            self._rows.clear()
            yield
            return
        self._base = {"rollout_step": 0}
        try:
            yield
            base = self._base
        finally:
            self._base = None
        if read_rows(self.path.parent)[:1] != [base]:
            tell(base)
            self._new_base = base
            self._flush()

    def row(self, metrics: Mapping[str, int | float], step: int | None) -> dict[str, Any]:
        """The line of the metrics' rollout step with `metrics` added."""
        rollout_step = int(metrics.get(ROLLOUT_STEP, self._step))
        known = self._rows[-1] if self._rows and rollout_step == self._step else {}
        return {"rollout_step": rollout_step, "global_step": step} | known | finite(metrics)

    @property
    def _step(self) -> int:
        return self._rows[-1]["rollout_step"] if self._rows else 0

    def _write(self, row: dict[str, Any]) -> None:
        if self._rows and row["rollout_step"] == self._step:
            self._rows.pop()
        self._rows.append(row)
        self._flush()

    def _flush(self) -> None:
        """Writes what is not in the file, or warns, once until it succeeds."""
        try:
            self._write_rows()
            self._replace_base()
        except OSError as error:
            if not self._failed:
                warnings.warn(
                    f"'{self.path}' cannot be written ({error.strerror or error}); training continues, and "
                    "its lines are written when there is space again",
                    stacklevel=3,
                )
            self._failed = True
        else:
            self._failed = False

    def _write_rows(self) -> None:
        lines = [json.dumps(each, allow_nan=False).encode() + b"\n" for each in self._rows]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # One write over the lines that are there: a kill during it leaves at worst a half line.
        with self.path.open("r+b" if self.path.exists() else "w+b") as file:
            file.seek(self._offset)
            file.write(b"".join(lines))
            file.truncate()
        self._offset += sum(map(len, lines[:-1]))
        del self._rows[:-1]

    def _replace_base(self) -> None:
        """Rewrites the file with `_new_base`, if any, in place of the line of step 0."""
        if self._new_base is None:
            return
        line = json.dumps(self._new_base, allow_nan=False).encode() + b"\n"
        # A run that was killed before the base's line was written has none of step 0.
        others = [each.content for each in read_lines(self.path) if each.row["rollout_step"] > 0]
        self._rewrite([line, *others])
        self._new_base = None

    @rank_zero_only
    def _continue(self) -> None:
        """The next line is the last one in the file, or comes after it."""
        for line in self._whole(math.inf)[-1:]:
            self._rows, self._offset = [line.row], line.offset

    def _whole(self, last_step: int | float) -> list[Line]:
        """The lines up to `last_step` that end."""
        return [
            line
            for line in read_lines(self.path)
            if line.content.endswith(b"\n") and line.row["rollout_step"] <= last_step
        ]

    def _rewrite(self, lines: Sequence[bytes]) -> None:
        """Replaces the file. The last of `lines` is that of the current step, which may still grow."""
        with atomic_write(self.path) as file:
            file.writelines(lines)
        self._offset = sum(map(len, lines[:-1]))
