"""RolloutLog: one row per completion, aligned with its prompt; any text; complete files only."""

import json
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch
from lightning import Trainer

from ceeh.callbacks.difficulty import RollingDifficulty
from ceeh.callbacks.rollout_log import HeldOutLog, RolloutLog
from ceeh.runtime.text import storable
from ceeh.starter.model import build_tokenizer
from ceeh.types import Finish
from tests.callbacks.conftest import Loader

ROWS_A = [(True, 2), (False, 4, Finish.LENGTH)]
ROWS_B = [(True, 3)]


def test_a_row_per_completion_with_its_own_prompt_reward_and_signals(fit, batch, tmp_path):
    step = batch(("a", ROWS_A), ("bb", ROWS_B))
    fit([RollingDifficulty(), RolloutLog(tmp_path / "new" / "rollouts", 1)], [step])
    rows = pq.read_table(tmp_path / "new" / "rollouts" / "step-000001.parquet").to_pylist()
    # Rewards are score - 0.01 length: 0.98, -0.04, 0.97, whose mean is 1.91 / 3.
    expected = [
        {"uid": "a", "response": "words 0", "length": 2, "finish": "stop", "correct": True},
        {"uid": "a", "response": "words 1", "length": 4, "finish": "length", "correct": False},
        {"uid": "bb", "response": "words 0", "length": 3, "finish": "stop", "correct": True},
    ]
    assert [{name: row[name] for name in expected[0]} for row in rows] == expected
    assert [row["reward"] for row in rows] == pytest.approx([0.98, -0.04, 0.97])
    assert [row["advantage"] for row in rows] == pytest.approx(
        [value - 1.91 / 3 for value in (0.98, -0.04, 0.97)]
    )
    assert [row["entropy"] for row in rows] == pytest.approx([0.2, 0.4, 0.3])
    assert [row["score"] for row in rows] == [1, 0, 1]
    assert [row["signal_accuracy_history"] for row in rows] == [0.5, 0.5, 1]
    assert [row["signal_hard"] for row in rows] == [1, 1, 0]
    assert [json.loads(row["metadata"]) for row in rows] == [
        {"level": 1},
        {"level": 1},
        {"level": 2},
    ]
    assert {(row["prompt"], row["outcome"], row["policy_version"]) for row in rows} == {
        ("words?", "ok", 0)
    }
    assert {row["rollout_step"] for row in rows} == {1}


def test_rows_find_their_prompt_when_groups_are_mixed(fit, batch, tmp_path):
    step, order = batch(("a", ROWS_A), ("bb", ROWS_B)), [2, 0, 1]
    rows = ("token_ids", "response_mask", "group", "scores", "correct", "lengths")
    mixed = replace(step, **{name: getattr(step, name)[order] for name in rows})
    fit([RolloutLog(tmp_path, 1)], [mixed])
    rows = pq.read_table(tmp_path / "step-000001.parquet").to_pylist()
    assert [(row["uid"], row["length"], row["finish"]) for row in rows] == [
        ("bb", 3, "stop"),
        ("a", 2, "stop"),
        ("a", 4, "length"),
    ]


def test_files_come_every_n_steps_and_continue_after_a_resume(fit, batch, tmp_path):
    def files():
        return sorted(path.name for path in (tmp_path / "rollouts").iterdir())

    steps = [batch(("a", ROWS_A)) for _ in range(6)]
    log = RolloutLog(tmp_path / "rollouts", 2)
    fit([log], steps, stop_after=3, checkpoints=tmp_path)
    assert files() == ["step-000002.parquet"]
    fit([log], steps, checkpoints=tmp_path, resume=True)
    assert files() == [f"step-{step:06d}.parquet" for step in (2, 4, 6)]
    last = pq.read_table(tmp_path / "rollouts" / "step-000006.parquet")
    assert set(last["rollout_step"].to_pylist()) == {6}


@pytest.mark.parametrize("text", ["lone \ud800 surrogate", "nul \0 inside", "", "四 ✓ \u202e\n"])
def test_any_text_a_model_may_write_is_stored(fit, batch, tmp_path, text):
    fit([RolloutLog(tmp_path, 1)], [batch(("a", ROWS_B), text=text)])
    (row,) = pq.read_table(tmp_path / "step-000001.parquet").to_pylist()
    assert row["response"] == f"{text} 0".replace("\ud800", "\\ud800")
    assert row["prompt"] == storable(f"{text}?")


def test_a_write_that_fails_leaves_the_earlier_file_whole(fit, batch, tmp_path, monkeypatch):
    steps = [batch(("a", ROWS_A))]
    fit([RolloutLog(tmp_path, 1)], steps)
    before = (tmp_path / "step-000001.parquet").read_bytes()

    def half(table, file):
        file.write(b"PAR1")
        raise OSError("disk full")

    monkeypatch.setattr(pq, "write_table", half)
    with pytest.warns(UserWarning, match=r"rollouts were not written .* \(disk full\)"):
        fit([RolloutLog(tmp_path, 1)], steps)
    assert (tmp_path / "step-000001.parquet").read_bytes() == before


def test_the_measurements_before_and_after_training_are_kept_and_those_within_are_not(
    fit, batch, tiny_module, tmp_path, monkeypatch
):
    tokenizer = build_tokenizer()
    log, held_out = (
        HeldOutLog(tmp_path, tokenizer),
        replace(batch(("a", ROWS_A), ("bb", ROWS_B)), question_indices=(0, 1)),
    )

    def files():
        return sorted(path.name for path in tmp_path.iterdir())

    fit([log], [batch(("a", ROWS_A))], validate=[held_out], module=tiny_module)
    assert files() == []
    trainer = Trainer(logger=False, callbacks=[log], enable_progress_bar=False, accelerator="cpu")
    for step, expected in ((0, ["base.parquet"]), (5, ["base.parquet", "tuned.parquet"])):
        monkeypatch.setattr(tiny_module, "rollout_step", step, raising=False)
        trainer.validate(tiny_module, dataloaders=Loader([held_out], lambda: None), verbose=False)
        assert files() == expected
    rows = pq.read_table(tmp_path / "tuned.parquet").to_pylist()
    assert [(row["uid"], row["sample"], row["response"], row["correct"]) for row in rows] == [
        ("a", 0, "words 0", True),
        ("a", 1, "words 1", False),
        ("bb", 0, "words 0", True),
    ]
    assert [row["entropy"] for row in rows] == [0.25] * 3


def test_other_ranks_than_zero_write_nothing(batch, tmp_path):
    class OtherRank:
        is_global_zero = False

    log, step = RolloutLog(tmp_path, 1), batch(("a", ROWS_B))
    outputs = {
        "rewards": torch.zeros(1),
        "advantages": torch.zeros(1),
        "entropy": torch.zeros(1),
        "skipped": torch.zeros(1).bool(),
    }
    log.on_train_batch_end.__wrapped__(log, OtherRank(), None, outputs, step, 0)
    assert not list(tmp_path.iterdir())
