"""An engine that fails is restarted once, with the current weights, and called again."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pytest
from torch import Tensor
from transformers import AutoModelForCausalLM

import ceeh.fit
from ceeh.data.engine.base import RolloutEngine, Sampling
from ceeh.data.engine.restartable import RestartableEngine
from ceeh.errors import RunError
from ceeh.runtime import shutdown
from ceeh.runtime.shutdown import Stopped
from ceeh.types import Completion, Prompt
from tests.endings import interrupt
from tests.test_fit import SHIPPED, SMALL, rows
from tests.torch_engine import TorchEngine

PROMPT = Prompt(uid="p", text="", answer="", token_ids=(3, 4, 5))
SAMPLING = Sampling(completions=2, temperature=1.0, max_tokens=6)
SOUND = 8
"""Calls before a run generates for its first step: the base takes wake, wake, push, canary and a generation,
the start of the training wake, push, canary."""
AGAIN = r"the engine failed while {doing} \(MemoryError: full\); restarting it .*\(restart 1 of this run\)"


class Failing(TorchEngine):
    """Raises the next of `errors`, which all engines share; None lets the call pass."""

    errors: Iterator[BaseException | None] = iter(())

    def _fail(self) -> None:
        error = next(self.errors, None)
        if error is not None:
            raise error

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list:
        self._fail()
        return super().generate(prompts, sampling)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], *, policy_version: int) -> None:
        self._fail()
        super().load_weights(weights, policy_version=policy_version)

    def canary(self, *, temperature: float) -> tuple[tuple[int, ...], Completion]:
        self._fail()
        return super().canary(temperature=temperature)

    def wake(self) -> None:
        self._fail()


@pytest.fixture
def built(tiny_model_dir: Path) -> Iterator[tuple[RestartableEngine, list[Failing]]]:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    model.get_parameter("model.norm.weight").data.mul_(3)  # not the weights of the folder
    engines: list[Failing] = []

    def build() -> RolloutEngine:
        assert all(engine.closed for engine in engines), "two at a time have no room"
        engines.append(Failing(str(tiny_model_dir)))
        return engines[-1]

    Failing.errors = iter(())
    engine = RestartableEngine(build, model.named_parameters)
    engine.load_weights(model.named_parameters(), policy_version=7)
    yield engine, engines
    Failing.errors = iter(())


CALLS: dict[str, Callable[[RestartableEngine], object]] = {
    "sampling 2 completions of 1 prompts": lambda engine: engine.generate([PROMPT], SAMPLING),
    "sampling the canary": lambda engine: engine.canary(temperature=1.0),
    "waking up": lambda engine: engine.wake(),
    "loading the weights of policy version 7": lambda engine: engine.load_weights(
        engine.weights() if engine.weights else (), policy_version=7
    ),
}


@pytest.mark.parametrize("doing", CALLS)
def test_the_restarted_engine_gives_the_same_rollouts(
    built: tuple[RestartableEngine, list[Failing]], doing: str
) -> None:
    engine, engines = built
    expected = engine.generate([PROMPT], SAMPLING)
    Failing.errors = iter([MemoryError("full")])
    with pytest.warns(UserWarning, match=AGAIN.format(doing=doing)):
        CALLS[doing](engine)
    assert [one.closed for one in engines] == [1, 0]
    assert engine.policy_version == 7
    assert engine.generate([PROMPT], SAMPLING) == expected


def test_a_second_failure_stops_and_says_what_to_do(
    built: tuple[RestartableEngine, list[Failing]],
) -> None:
    engine, engines = built
    Failing.errors = iter([MemoryError("full"), None, MemoryError("full again")])
    words = (
        r"failed twice, .* sampling 2 completions .*\(MemoryError: full again\).*kv_cache_gib.*last"
    )
    with pytest.warns(UserWarning, match="restarting it"), pytest.raises(RunError, match=words):
        engine.generate([PROMPT], SAMPLING)
    assert len(engines) == 2


def test_an_engine_may_fail_again_after_enough_good_calls(
    built: tuple[RestartableEngine, list[Failing]], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, engines = built
    monkeypatch.setattr("ceeh.data.engine.restartable.TRIED_AFTER", 3)
    for number in (1, 2):
        Failing.errors = iter([MemoryError("full")])
        with pytest.warns(UserWarning, match=rf"restart {number} of this run"):
            engine.generate([PROMPT], SAMPLING)
        for _ in range(2):
            engine.generate([PROMPT], SAMPLING)
    assert len(engines) == 3
    engine.generate([PROMPT], SAMPLING)
    Failing.errors = iter([MemoryError("full")])
    with pytest.warns(UserWarning, match="restart 3 of this run"):
        engine.generate([PROMPT], SAMPLING)
    Failing.errors = iter([None, MemoryError("full")])
    engine.generate([PROMPT], SAMPLING)
    with pytest.raises(RunError, match="failed twice"):
        engine.generate([PROMPT], SAMPLING)


def test_an_engine_of_several_processes_is_not_restarted(
    built: tuple[RestartableEngine, list[Failing]], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, engines = built
    monkeypatch.setenv("WORLD_SIZE", "2")
    Failing.errors = iter([MemoryError("full")])
    with pytest.raises(
        RunError, match=r"the engine failed while sampling .* \(MemoryError: full\)"
    ):
        engine.generate([PROMPT], SAMPLING)
    assert len(engines) == 1


def test_a_failed_restart_is_the_second_failure(
    built: tuple[RestartableEngine, list[Failing]], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, _ = built
    Failing.errors = iter([MemoryError("full")])

    def fails() -> RolloutEngine:
        raise ValueError("free memory on device is less than asked for")  # as vLLM says it

    monkeypatch.setattr(engine, "build", fails)
    words = r"failed while sampling .* could not be restarted \(ValueError: free memory .*\)"
    with pytest.warns(UserWarning, match="restarting it"), pytest.raises(RunError, match=words):
        engine.generate([PROMPT], SAMPLING)


@pytest.mark.parametrize("error", [ValueError("too long"), RunError("not finite"), Stopped(15)])
def test_an_error_that_a_restart_would_not_cure_passes_through(
    built: tuple[RestartableEngine, list[Failing]], error: BaseException
) -> None:
    engine, engines = built
    Failing.errors = iter([error])
    with pytest.raises(type(error), match=str(error)):
        engine.generate([PROMPT], SAMPLING)
    assert len(engines) == 1


def test_an_error_after_a_termination_signal_restarts_nothing(
    built: tuple[RestartableEngine, list[Failing]],
) -> None:
    engine, engines = built
    Failing.errors = iter([ConnectionError("gone")])

    def asked() -> None:
        interrupt()
        engine.generate([PROMPT], SAMPLING)

    with pytest.raises(ConnectionError), shutdown.signals_honored():
        asked()
    assert len(engines) == 1


def test_a_run_whose_engine_fails_gives_the_numbers_of_an_uninterrupted_one(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [
        *("--config", str(SHIPPED), *SMALL, f"model.path={tiny_model_dir}", "rollouts.steps=2"),
        f"engine.class_path={__name__}.Failing",
    ]
    Failing.errors = iter(())
    assert ceeh.fit.main([*given, f"output={tmp_path / 'whole'}"]) == 0
    Failing.errors = iter([*[None] * SOUND, MemoryError("full")])
    with pytest.warns(UserWarning, match="restarting it"):
        assert ceeh.fit.main([*given, f"output={tmp_path / 'failed'}"]) == 0
    assert rows(tmp_path / "failed" / "starter") == rows(tmp_path / "whole" / "starter")

    Failing.errors = iter([*[None] * SOUND, *[MemoryError("full"), None, MemoryError("full")]])
    capsys.readouterr()
    with pytest.warns(UserWarning, match="restarting it"):
        assert ceeh.fit.main([*given, f"output={tmp_path / 'twice'}"]) == 1
    said = capsys.readouterr().err
    assert "error: the engine failed twice" in said
    assert "Traceback" not in said
