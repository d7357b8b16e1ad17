"""Inputs: prompts whose reference the verifier cannot read are dropped before any rollout."""

import json
from pathlib import Path

import pytest

from ceeh.assembly.inputs import gather_inputs
from ceeh.config.settings import Config, load
from ceeh.errors import ConfigError

SHIPPED = Path(__file__).parents[2] / "configs" / "ceeh.yaml"


def config(folder: Path, train: list[str], held_out: list[str], *overrides: str) -> Config:
    """A run on questions 1+1?, 1+2?, ... with these references."""
    for name, answers in (("train", train), ("held_out", held_out)):
        rows = [{"question": f"1+{n}?", "answer": answer} for n, answer in enumerate(answers, 1)]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return load(
        [SHIPPED],
        [
            *(f"prompts.{n}.class_path=ceeh.data.sources.Table" for n in ("train", "held_out")),
            *(f"prompts.{n}.init_args.path={folder}/{n}.jsonl" for n in ("train", "held_out")),
            "verifier.class_path=ceeh.data.verify.MathAnswer",
            "rollouts.prompts_per_step=2",
            "optimizer.prompts_per_minibatch=2",
            "hardware.accelerator=cpu",
            *overrides,
        ],
    )


def test_unreadable_references_are_dropped_with_a_warning(tmp_path):
    with pytest.warns(UserWarning, match="^prompts") as warned:
        inputs = gather_inputs(config(tmp_path, ["7", "???", r"\sqrt2", "]"], ["$", "8"]))
    assert [p.answer for p in inputs.train_prompts] == ["7", r"\sqrt2"]
    assert [p.answer for p in inputs.held_out_prompts] == ["8"]
    train, held_out = (str(warning.message) for warning in warned)
    assert train.startswith(
        "prompts.train: dropped 2 of 4 prompts whose reference the verifier cannot read ("
    )
    assert train.endswith(" with the reference str '???')")
    assert held_out.startswith("prompts.held_out: dropped 1 of 2 prompts")
    assert inputs.verifier.pool.workers == []


def test_a_data_set_of_unreadable_references_is_refused_with_the_cure(tmp_path):
    with pytest.raises(
        ConfigError,
        match=r"^prompts.train: the verifier cannot read the reference of any of its 2 prompts .*"
        r"with the reference str '\?\?\?'\); map the column that holds only the final answer",
    ):
        gather_inputs(config(tmp_path, ["???", "]"], ["8"]))


def test_prompts_are_counted_after_the_unreadable_ones_are_dropped(tmp_path):
    with (
        pytest.warns(UserWarning, match="dropped 1 of 2"),
        pytest.raises(ConfigError, match="prompts_per_step is 2, but"),
    ):
        gather_inputs(config(tmp_path, ["7", "]"], ["8"]))


def test_a_class_that_is_not_a_verifier_is_refused(tmp_path):
    (tmp_path / "mine.py").write_text("class Mine:\n    def __call__(self, groups):\n        ...\n")
    with pytest.raises(
        ConfigError, match=r"^verifier: .*mine.py:Mine is not a Verifier .* unreadable"
    ):
        gather_inputs(
            config(tmp_path, ["7", "8"], ["8"], f"verifier.class_path={tmp_path}/mine.py:Mine")
        )
