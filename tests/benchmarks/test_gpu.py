"""`benchmarks.gpu` on a CPU at tiny sizes, without the parts beside TRL; no part takes the others down."""

import json
from pathlib import Path

import pytest

from benchmarks.gpu import __main__ as gpu


def parts_of(folder: Path) -> dict[str, dict]:
    content = json.loads((folder / "gpu.json").read_text())
    return {part["part"]: part for part in content["parts"]}


def measured(part: dict) -> dict[str, float]:
    return {row["what"]: row["value"] for row in part["rows"]}


@pytest.mark.slow
def test_head_and_update_are_measured(tmp_path: Path, capsys) -> None:
    assert gpu.main(["--tiny", "--into", str(tmp_path), "head", "update-1.5b", "update-7b"]) == 0
    parts = parts_of(tmp_path)
    assert {part["ended"] for part in parts.values()} == {"passed"}
    head = measured(parts["head"])
    assert (
        head["fp32 operands, log-prob error"] < 1e-5 < head["bf16 operands, log-prob error"] < 1e-2
    )
    update = measured(parts["update-1.5b"])
    kinds = ("all weights, sdpa", "LoRA of rank 32, sdpa", "LoRA of rank 32, varlen")
    assert {name.removeprefix("qwen2-1.5b, ") for name in update} == {
        f"{kind}, {what}" for kind in kinds for what in ("update", "padding")
    }
    assert update["qwen2-1.5b, LoRA of rank 32, sdpa, padding"] > 0.05
    assert update["qwen2-1.5b, LoRA of rank 32, varlen, padding"] == 0
    assert "tokens/s" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.engine
def test_agreement_and_engine_are_measured(tmp_path: Path) -> None:
    assert gpu.main(["--tiny", "--into", str(tmp_path), "agreement", "engine"]) == 0
    parts = parts_of(tmp_path)
    assert set(measured(parts["agreement"])) == {"tiny, eager, disk", "tiny, eager, push"}
    assert max(measured(parts["agreement"]).values()) < 1e-2
    assert set(measured(parts["engine"])) == {
        "tiny, engine built",
        "tiny, push",
        "tiny, rollouts of 4",
    }


@pytest.mark.slow
@pytest.mark.engine
def test_a_whole_run_is_measured_and_earlier_parts_are_kept(tmp_path: Path) -> None:
    assert gpu.main(["--tiny", "--into", str(tmp_path), "head"]) == 0
    assert gpu.main(["--tiny", "--into", str(tmp_path), "run-1.5b"]) == 0
    parts = parts_of(tmp_path)
    assert [part["ended"] for part in parts.values()] == ["passed", "passed"]
    run = measured(parts["run-1.5b"])
    assert 0 < run["tiny, canary, largest of 3 steps"] < 1e-3
    assert run["tiny, step of 32 tokens"] > 0


def test_a_part_out_of_time_is_recorded_and_the_next_one_runs(tmp_path: Path, monkeypatch) -> None:
    slow, head = (0, gpu.PARTS["engine"][1]), gpu.PARTS["head"]
    monkeypatch.setattr(gpu, "PARTS", {"engine": slow, "head": head})
    assert gpu.main(["--tiny", "--into", str(tmp_path)]) == 1
    parts = parts_of(tmp_path)
    assert parts["engine"]["ended"] == "stopped after its 0 s"
    assert parts["head"]["ended"] == "passed"
    assert len(parts["head"]["rows"]) == 6


def test_all_parts_together_have_less_than_eight_minutes() -> None:
    assert sum(limit for limit, _ in gpu.PARTS.values()) < 8 * 60
    assert next(iter(gpu.PARTS)) == "agreement"


def test_an_unknown_part_is_refused(capsys) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["heads"])
    assert "no part heads; there are agreement, head" in capsys.readouterr().err
