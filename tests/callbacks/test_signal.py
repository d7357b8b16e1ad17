"""SignalCallback: read before the step, observe after it, one writer each, state that resumes."""

import sys
from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from statistics import mean

import pytest
import torch
from lightning import Trainer

from ceeh.callbacks.difficulty import RollingDifficulty
from ceeh.callbacks.difficulty_targets import DifficultyTargets
from ceeh.callbacks.optimal_length import OptimalLength
from ceeh.callbacks.signal import SignalCallback, check_signals
from ceeh.errors import ConfigError
from ceeh.types import Finish, GroupOutcome

CUT = (False, 3, Finish.LENGTH)
DONE = (True, 2)


class OftenTruncated(SignalCallback):
    """1 for prompts whose last group mostly ran into the token limit, else 0."""

    writes = ("often_truncated",)
    state = ("share",)

    def __init__(self) -> None:
        self.share: dict[str, float] = {}

    def read(self, uid: str) -> Mapping[str, float]:
        return {"often_truncated": float(self.share.get(uid, 0.0) > 0.5)}

    def observe(self, outcome: GroupOutcome) -> None:
        self.share[outcome.uid] = 1 - mean(outcome.finished)


class Recorder(OftenTruncated):
    """Writes down the order of calls."""

    writes = ("order",)
    state = ()

    def __init__(self) -> None:
        self.calls: list[str] = []

    def before_step(self, outcomes: list[GroupOutcome]) -> None:
        self.calls.append("before " + " ".join(outcome.uid for outcome in outcomes))

    def read(self, uid: str) -> Mapping[str, float]:
        self.calls.append(f"read {uid}")
        return {"order": len(self.calls)}

    def observe(self, outcome: GroupOutcome) -> None:
        self.calls.append(f"observe {outcome.uid}")

    def after_step(self, outcomes: list[GroupOutcome], probe: list[GroupOutcome]) -> None:
        uids, probed = (" ".join(outcome.uid for outcome in each) for each in (outcomes, probe))
        self.calls.append(f"after {uids}" + (f", probe {probed}" if probed else ""))

    def metrics(self) -> Mapping[str, float]:
        self.calls.append("metrics")
        return {"calls": float(len(self.calls))}


def test_prompts_are_read_before_the_step_and_observed_after_it(fit, batch, tiny_module):
    recorder = Recorder()
    step = tiny_module.training_step
    tiny_module.training_step = lambda *args: (recorder.calls.append("step"), step(*args))[1]
    trainer, _ = fit([recorder], [batch(("a", [DONE]), ("b", [DONE]))], module=tiny_module)
    before = ["before a b", "read a", "read b"]
    assert recorder.calls == [*before, "step", "observe a", "observe b", "after a b", "metrics"]
    assert trainer.callback_metrics["signal/calls"] == 8


def test_each_prompt_gets_its_own_reading_as_float32_in_the_batch(fit, batch):
    # Step 1 shows a cut off 2 of 3 times, b 1 of 3; step 2 comes in the other order.
    first = batch(("a", [CUT, CUT, DONE]), ("b", [CUT, DONE, DONE]))
    second = batch(("b", [DONE]), ("new", [DONE]), ("a", [DONE, DONE]))
    _, module = fit([OftenTruncated()], [first, second])
    assert module.seen == [{"often_truncated": [0, 0]}, {"often_truncated": [0, 0, 1]}]
    assert module.batch.signals["often_truncated"].dtype == torch.float32


@pytest.mark.parametrize(
    "signal",
    [
        OftenTruncated,
        RollingDifficulty,
        partial(DifficultyTargets, shortest=10, longest=100, interval=1, window=3),
        *(partial(OptimalLength, rule=rule, window=3) for rule in ("minimum", "ema", "median")),
    ],
    ids=str,
)
def test_a_resumed_run_reads_what_the_uninterrupted_run_reads(fit, batch, tmp_path, signal):
    cut = Finish.LENGTH
    batches = [
        batch(
            ("a", [(True, length), CUT, (length > 25, 30, cut if length == 70 else Finish.STOP)]),
            ("b", [(True, 50), (length > 45, 60), CUT]),
            (f"q{length}", [DONE]),
        )
        for length in (50, 20, 70, 30, 10, 90)
    ]
    _, whole = fit([signal()], batches)
    fit([signal()], batches, stop_after=3, checkpoints=tmp_path)
    _, resumed = fit([signal()], batches, checkpoints=tmp_path, resume=True)
    assert str(resumed.seen) == str(whole.seen[3:])  # NaN, too
    _, fresh = fit([signal()], batches[3:])
    assert str(fresh.seen) != str(resumed.seen), "the state makes no difference"


def test_a_second_writer_is_refused_before_the_first_batch(fit, batch):
    class Impostor(OftenTruncated):
        pass

    drawn = []
    with pytest.raises(
        ConfigError, match="'often_truncated' is written by OftenTruncated and by Imp"
    ):
        fit([OftenTruncated(), Impostor()], [batch(("a", [DONE]))], draw=lambda: drawn.append(1))
    assert not drawn


def test_a_signal_already_in_the_batch_is_not_overwritten(fit, batch):
    taken = batch(("a", [DONE]))
    taken.signals["often_truncated"] = torch.zeros(1)
    with pytest.raises(ValueError, match="OftenTruncated: the batch already holds a signal 'often"):
        fit([OftenTruncated()], [taken])


def test_a_needed_signal_that_nobody_writes_names_the_place_and_the_callback_to_add():
    needed = {"objective.hard_signal": "hard"}
    check_signals([OftenTruncated(), RollingDifficulty()], needed)
    with pytest.raises(ConfigError) as error:
        check_signals([OftenTruncated()], needed)
    assert str(error.value) == (
        "objective.hard_signal: no callback wrote the signal 'hard'; add one under callbacks, "
        "e.g. ceeh.callbacks.difficulty.RollingDifficulty (signals that are written: often_truncated)"
    )


def test_a_reading_other_than_declared_is_refused(fit, batch):
    class Misspelt(OftenTruncated):
        writes = ("truncated",)

    with pytest.raises(
        ValueError, match=r"Misspelt.read\('a'\) returned \['often_truncated'\], but"
    ):
        fit([Misspelt()], [batch(("a", [DONE]))])


def failing(method, body):
    """OftenTruncated whose `method` is `body`."""
    return type("Failing", (OftenTruncated,), {method: body, "writes": ("often_truncated",)})()


@pytest.mark.parametrize(
    ("method", "body", "message"),
    [
        (
            "read",
            lambda self, uid: {}[uid],
            "read('a') failed with KeyError: 'a', test_signal.py line ",
        ),
        ("observe", lambda self, outcome: 1 / 0, "observe('a') failed with ZeroDivisionError: div"),
        (
            "observe",
            lambda self, outcome: sys.exit(3),
            "observe('a') failed with SystemExit: 3, tes",
        ),
        (
            "before_step",
            lambda self, outcomes: outcomes[9],
            "before_step() failed with IndexError",
        ),
        (
            "after_step",
            lambda self, outcomes, probe: outcomes[9],
            "after_step() failed with IndexError",
        ),
        ("metrics", lambda self: {"x": "many"}, "metrics() failed with ValueError: could not conv"),
        ("read", lambda self, uid: 0.5, "read('a') returned 0.5, but the class declares writes"),
        ("read", lambda self, uid: None, "read('a') returned None, but the class declares writes"),
        (
            "read",
            lambda self, uid: {"often_truncated": None},
            "read('a') failed with TypeError: float() argument",
        ),
        (
            "read",
            lambda self, uid: {"often_truncated": float("nan")},
            "read('a') returned nan for 'often_truncated', which must be a finite number; declare",
        ),
        (
            "read",
            lambda self, uid: {"often_truncated": float("inf")},
            "read('a') returned inf for 'often_truncated', which must be a finite number",
        ),
    ],
)
def test_an_error_in_a_signal_stops_the_run_and_names_its_place(fit, batch, method, body, message):
    with pytest.raises(ConfigError) as error:
        fit([failing(method, body)], [batch(("a", [DONE]))])
    assert str(error.value).startswith(f"Failing.{message}")
    assert str(error.value).endswith("; fix it and resume with ckpt_path=last")


def test_a_signal_that_may_be_undefined_is_nan_in_the_batch(fit, batch):
    signal = failing("read", lambda self, uid: {"often_truncated": float("nan")})
    type(signal).may_be_undefined = ("often_truncated",)
    _, module = fit([signal], [batch(("a", [DONE]))])
    assert module.batch.signals["often_truncated"].isnan().all()


def test_a_run_resumes_before_the_step_in_which_a_signal_failed(fit, batch, tmp_path, monkeypatch):
    def batches():
        return [batch(("a", [CUT])), batch(("b", [DONE])), batch(("a", [DONE]))]

    def observe(self, outcome):
        self.share[outcome.uid] = 7.0  # half of what it does, and then
        if outcome.uid == "b":
            raise OSError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(OftenTruncated, "observe", observe)
        with pytest.raises(ConfigError, match=r"observe\('b'\) failed with OSError: no room"):
            fit([OftenTruncated()], batches(), checkpoints=tmp_path)
    signal = OftenTruncated()
    _, resumed = fit([signal], batches(), checkpoints=tmp_path, resume=True)
    assert len(resumed.seen) == 2
    assert signal.share == {"a": 0.0, "b": 0.0}  # of the second step nothing is left


@pytest.mark.parametrize("writes", [None, "hard", ("a", 1)])
def test_a_class_without_a_proper_declaration_is_refused_when_it_is_defined(writes):
    body = {"state": ()} if writes is None else {"state": (), "writes": writes}
    with pytest.raises(TypeError, match="Nameless must declare the signals that read"):
        type("Nameless", (SignalCallback,), body)


def test_a_class_that_declares_no_state_is_refused_unless_it_saves_it_itself():
    with pytest.raises(TypeError, match="Forgetful must declare the attributes that a checkpoint"):
        type("Forgetful", (SignalCallback,), {"writes": ("a",)})
    type("Saves", (SignalCallback,), {"writes": ("a",), "state_dict": lambda self: {}})


@pytest.mark.parametrize("share", [defaultdict(float), {"a": [mean], "b": 1.0}, {("a", mean): 1.0}])
def test_state_that_could_not_be_loaded_again_is_refused_when_it_is_saved(share):
    signal = OftenTruncated()
    signal.share = share
    with pytest.raises(ValueError, match=r"OftenTruncated.share has a \w+|a key of OftenTrunc"):
        signal.state_dict()


def test_a_checkpoint_without_the_declared_state_is_refused():
    with pytest.raises(ValueError, match="the checkpoint has no share for OftenTruncated"):
        OftenTruncated().load_state_dict({"other": {}})


def test_outcomes_of_all_ranks_are_observed_in_rank_order(monkeypatch, batch, tiny_module):
    signal, here = Recorder(), batch(("mine", [DONE]))
    other = batch(("theirs", [DONE])).outcomes

    def all_gather_object(gathered, value):
        gathered[:] = [other, value]

    monkeypatch.setattr("torch.distributed.all_gather_object", all_gather_object)
    monkeypatch.setattr("ceeh.runtime.distributed.world_size", lambda: 2)
    monkeypatch.setattr(tiny_module, "log_dict", lambda *args, **kwargs: None)
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    signal.on_train_batch_start(trainer, tiny_module, here, 0)
    both = {"outcomes": [*other, *here.outcomes], "probe": batch(("unseen", [DONE])).outcomes}
    signal.on_train_batch_end(trainer, tiny_module, both, here, 0)
    after = ["observe theirs", "observe mine", "after theirs mine, probe unseen", "metrics"]
    assert signal.calls == ["before theirs mine", "read mine", *after]
    assert here.signals["order"].shape == (1,)
