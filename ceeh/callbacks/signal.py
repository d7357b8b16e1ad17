"""SignalCallback: numbers per prompt that the objective reads, learned from past rollouts.

A prompt's signals come from its history: every signal is read before the update and observes after it. That
order is enforced here only. `before_step` shows the step's own groups to rules that need them, e.g. for a
question without a history. Axis: P prompts.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from ceeh.data.batch import RolloutBatch
from ceeh.errors import ConfigError, describe_error
from ceeh.runtime.distributed import gather_objects
from ceeh.types import GroupOutcome

WRITERS = {
    "correctness_weight": "ceeh.callbacks.potential_weight.PotentialScaledWeight",
    "entropy_coefficient": "ceeh.callbacks.controllers.AnchoredEntropy",
    "length_coefficient": "ceeh.callbacks.controllers.LengthByAccuracy",
    "accuracy_history": "ceeh.callbacks.difficulty.RollingDifficulty",
    "hard": "ceeh.callbacks.difficulty.RollingDifficulty",
    "optimal_length": "ceeh.callbacks.optimal_length.OptimalLength",
    "target_length": "ceeh.callbacks.difficulty_targets.DifficultyTargets",
}
RESUME = "; fix it and resume with ckpt_path=last"
PLAIN = (bool, int, float, str, type(None), Tensor)


class SignalCallback(Callback, ABC):
    """One or more signals: a float per prompt and name, from earlier steps.

    A subclass declares `writes`, the names that `read` returns, and `state`, the attributes that a
    checkpoint keeps (plain containers; or it overrides `state_dict` and `load_state_dict`), and implements
    `read` and `observe`. The signals in `may_be_undefined` are NaN for a question of which nothing is known;
    their readers must handle it. Others must be finite. All ranks observe the outcomes of all ranks in the
    same order, so their tables agree. `observes_hard`: outcomes must carry `objective.hard_signal`. Raises
    TypeError when a subclass lacks a declaration.

    A signal is state: where a method fails, or returns an invalid value, the run stops with a ConfigError
    instead of continuing with a gap in the history. The last checkpoint is older than the failure.
    """

    writes: tuple[str, ...]
    state: tuple[str, ...]
    may_be_undefined: tuple[str, ...] = ()
    observes_hard: bool = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _check_declared(cls, "writes", "the signals that read() returns", 'writes = ("my_signal",)')
        if cls.state_dict is SignalCallback.state_dict:
            _check_declared(
                cls, "state", "the attributes that a checkpoint keeps", 'state = ("table",)'
            )

    @abstractmethod
    def read(self, uid: str) -> Mapping[str, float]:
        """The signals of prompt `uid` by its history; exactly the names in `writes`."""

    @abstractmethod
    def observe(self, outcome: GroupOutcome) -> None:
        """Adds one group to the history, after the step that sampled it."""

    def before_step(self, outcomes: Sequence[GroupOutcome]) -> None:
        """Called before the reads with the groups of all ranks, for questions without a history.

        The history must not change here.
        """

    def after_step(self, outcomes: Sequence[GroupOutcome], probe: Sequence[GroupOutcome]) -> None:
        """Called after the observations with the groups of all ranks, for what concerns the whole step.

        `probe` are those of the questions that are not trained on, empty without `rollouts.probe`.
        """

    def metrics(self) -> Mapping[str, float]:
        """Metrics of the table, logged after each step as `signal/<name>`."""
        return {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        check_signals(trainer.callbacks, {})  # type: ignore[attr-defined]

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: RolloutBatch, batch_idx: int
    ) -> None:
        # Also the groups that dynamic sampling dropped: without the solved ones every question looks hard.
        sampled = [*batch.outcomes, *batch.dropped]
        outcomes = [outcome for rank in gather_objects(sampled) for outcome in rank]
        with self._reporting("before_step"):
            self.before_step(outcomes)
        uids = [scored.group.prompt.uid for scored in batch.groups]
        for name, values in self.readings(uids).items():
            if name in batch.signals:
                raise ValueError(
                    f"{type(self).__name__}: the batch already holds a signal '{name}'"
                )
            batch.signals[name] = torch.tensor(
                values, dtype=torch.float32, device=batch.group.device
            )

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: RolloutBatch,
        batch_idx: int,
    ) -> None:
        with self._reporting("observe"):
            for outcome in outputs["outcomes"]:
                self._uid = outcome.uid
                self.observe(outcome)
        with self._reporting("after_step"):
            self.after_step(outputs["outcomes"], outputs["probe"])
        with self._reporting("metrics"):
            values = {f"signal/{name}": float(value) for name, value in self.metrics().items()}
        pl_module.log_dict(values, batch_size=1)

    def state_dict(self) -> dict[str, Any]:
        """The attributes named in `state`. Raises ValueError for one that could not be loaded again."""
        for name in self.state:
            _check_plain(getattr(self, name), f"{type(self).__name__}.{name}")
        return {name: getattr(self, name) for name in self.state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if missing := set(self.state) - state_dict.keys():
            raise ValueError(
                f"the checkpoint has no {', '.join(sorted(missing))} for {type(self).__name__}; "
                "resume with the class that wrote it"
            )
        for name in self.state:
            setattr(self, name, state_dict[name])

    def readings(self, uids: Sequence[str]) -> dict[str, list[float]]:
        """Each signal of each prompt. Raises ConfigError for invalid names or values of `read`."""
        expected = set(self.writes)
        columns: dict[str, list[float]] = {name: [] for name in self.writes}
        with self._reporting("read"):
            for uid in uids:
                self._uid = uid
                reading = self.read(uid)
                # An exact dict first: asking whether something is a Mapping takes as long as a read.
                if type(reading) is not dict and not isinstance(reading, Mapping):
                    raise ConfigError(self._misnamed(uid, reading))
                if reading.keys() != expected:
                    raise ConfigError(self._misnamed(uid, reading))
                for name, values in columns.items():
                    values.append(float(reading[name]))
        for name, values in columns.items():
            if all(map(math.isfinite, values)):
                continue
            for uid, value in zip(uids, values, strict=True):
                undefined = math.isnan(value) and name in self.may_be_undefined
                if not math.isfinite(value) and not undefined:
                    raise ConfigError(
                        f"{type(self).__name__}.read('{uid}') returned {value} for '{name}', which must be "
                        "a finite number; declare a signal that is NaN where nothing is known with "
                        f"may_be_undefined = ('{name}',){RESUME}"
                    )
        return columns

    def _misnamed(self, uid: str, reading: Any) -> str:
        names = sorted(map(str, reading)) if isinstance(reading, Mapping) else repr(reading)
        return (
            f"{type(self).__name__}.read('{uid}') returned {names}, but the class declares writes = "
            f"{self.writes}; they must be the same signals{RESUME}"
        )

    @contextmanager
    def _reporting(self, method: str) -> Iterator[None]:
        """Errors of the user's method become a ConfigError with the prompt in `_uid` and the line."""
        self._uid = ""
        try:
            yield
        except ConfigError:
            raise
        except (Exception, SystemExit) as error:
            call = f"{type(self).__name__}.{method}({repr(self._uid) if self._uid else ''})"
            raise ConfigError(f"{call} failed with {describe_error(error)}{RESUME}") from error


def check_signals(callbacks: Iterable[Callback], needed: Mapping[str, str]) -> None:
    """Raises ConfigError for a signal with two writers, or a `needed` one (config path -> signal) without."""
    writers: dict[str, str] = {}
    for callback in callbacks:
        if not isinstance(callback, SignalCallback):
            continue
        for name in callback.writes:
            if name in writers:
                raise ConfigError(
                    f"callbacks: the signal '{name}' is written by {writers[name]} and by "
                    f"{type(callback).__name__}; remove one of them or rename its signal"
                )
            writers[name] = type(callback).__name__
    for place, name in needed.items():
        if name in writers:
            continue
        cure = f", e.g. {WRITERS[name]}" if name in WRITERS else " that does"
        raise ConfigError(
            f"{place}: no callback wrote the signal '{name}'; add one under callbacks{cure} "
            f"(signals that are written: {', '.join(sorted(writers)) or 'none'})"
        )


def _check_declared(cls: type, attribute: str, meaning: str, example: str) -> None:
    value = getattr(cls, attribute, None)
    names = isinstance(value, tuple) and all(isinstance(name, str) for name in value)
    if not names and not isinstance(value, property):
        raise TypeError(
            f"{cls.__name__} must declare {meaning} as a tuple of names, e.g. {example}; "
            f"its {attribute} is {value!r}"
        )


def _check_plain(value: Any, place: str) -> None:
    # The exact type: torch's safe unpickler refuses subclasses, such as defaultdict or np.float64.
    if type(value) is dict:
        for key, item in value.items():
            _check_plain(key, f"a key of {place}")
            _check_plain(item, place)
    elif type(value) in (list, tuple):
        for item in value:
            _check_plain(item, place)
    elif type(value) not in PLAIN:
        raise ValueError(
            f"{place} has a {type(value).__name__}, with which a checkpoint cannot be loaded; use "
            "dict, list, tuple, str, numbers and tensors only"
        )
