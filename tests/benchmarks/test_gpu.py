"""`benchmarks.gpu` on a CPU at tiny sizes, without the parts beside TRL; no part takes the others down."""

import json
import signal
import subprocess
from pathlib import Path

import pytest

from benchmarks.gpu import __main__ as gpu


def parts_of(folder: Path) -> dict[str, dict]:
    content = json.loads((folder / "gpu.json").read_text())
    return {part["part"]: part for part in content["parts"]}


def measured(part: dict) -> dict[str, float]:
    return {row["what"]: row["value"] for row in part["rows"]}


def rows_of(name: str) -> dict[str, float]:
    """A part in this process."""
    _, measure = (gpu.PARTS | gpu.BY_NAME)[name]
    return measured({"rows": list(measure(True))})


@pytest.mark.slow
def test_head_and_update_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    head = rows_of("head")
    assert (
        head["fp32 operands, log-prob error"] < 1e-5 < head["bf16 operands, log-prob error"] < 1e-2
    )
    monkeypatch.setattr("ceeh.modules.policy.load_model", None)  # the part replaces it
    update = rows_of("update-1.5b")
    kinds = ("all weights, sdpa", "LoRA of rank 32, sdpa", "LoRA of rank 32, varlen")
    assert {name.removeprefix("qwen2-1.5b, ") for name in update} == {
        f"{kind}, {what}" for kind in kinds for what in ("update", "padding")
    }
    assert update["qwen2-1.5b, LoRA of rank 32, sdpa, padding"] > 0.05
    assert update["qwen2-1.5b, LoRA of rank 32, varlen, padding"] == 0
    assert len(rows_of("update-7b")) == 2


@pytest.mark.slow
@pytest.mark.engine
def test_agreement_and_engine_are_measured() -> None:
    agreement = rows_of("agreement")
    assert set(agreement) == {"tiny, eager, disk", "tiny, eager, push"}
    assert max(agreement.values()) < 1e-2
    assert set(rows_of("engine")) == {"tiny, engine built", "tiny, push", "tiny, rollouts of 4"}


@pytest.mark.slow
@pytest.mark.engine
def test_a_whole_run_is_measured(without_figures: None) -> None:
    run = rows_of("run-1.5b")
    assert 0 < run["tiny, canary, largest of 3 steps"] < 1e-3
    assert run["tiny, step of 32 tokens"] > 0


def test_parts_that_were_measured_before_are_kept(tmp_path: Path, monkeypatch, capsys) -> None:
    for name in ("head", "engine", "head"):
        monkeypatch.setattr(gpu, "run_part", lambda name, *_: done(name))
        assert gpu.main(["--tiny", "--into", str(tmp_path), name]) == 0
    assert list(parts_of(tmp_path)) == ["head", "engine"]
    assert gpu.main(["--into", str(tmp_path), "head"]) == 0  # of other sizes
    assert list(parts_of(tmp_path)) == ["head"]
    assert "7 ms" in capsys.readouterr().out


def done(name: str) -> dict:
    row = {"what": name, "value": 7.0, "unit": "ms", "of": ""}
    return {"part": name, "ended": "passed", "seconds": 1.0, "rows": [row]}


def test_a_part_out_of_time_is_recorded_and_the_next_one_runs(tmp_path: Path, monkeypatch) -> None:
    slow, head = (0, gpu.PARTS["engine"][1]), gpu.PARTS["head"]
    monkeypatch.setattr(gpu, "PARTS", {"engine": slow, "head": head})
    assert gpu.main(["--tiny", "--into", str(tmp_path)]) == 1
    parts = parts_of(tmp_path)
    assert parts["engine"]["ended"] == "stopped after its 0 s"
    assert parts["head"]["ended"] == "passed"
    assert len(parts["head"]["rows"]) == 6


def test_an_interrupt_ends_the_part_which_the_terminal_does_not_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait, ended = subprocess.Popen.wait, []

    def interrupted(self, timeout: float | None = None) -> int:
        if timeout is not None:
            raise KeyboardInterrupt
        ended.append(wait(self))
        return ended[-1]

    monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        gpu.run_part("head", 60, True, tmp_path)
    assert ended == [-signal.SIGKILL]


def test_all_parts_together_have_less_than_eight_minutes() -> None:
    assert sum(limit for limit, _ in gpu.PARTS.values()) < 8 * 60
    assert next(iter(gpu.PARTS)) == "agreement"


def test_an_unknown_part_is_refused(capsys) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["heads"])
    assert "no part heads; there are agreement, head" in capsys.readouterr().err
