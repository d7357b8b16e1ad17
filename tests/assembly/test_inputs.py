"""Inputs: prompts whose reference the verifier cannot read are dropped before any rollout."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ceeh.assembly.inputs import gather_inputs, set_apart
from ceeh.config.settings import Config, load
from ceeh.errors import ConfigError
from ceeh.types import Prompt
from tests.groups import make_prompt

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


def test_questions_with_several_answers_are_warned_of(tmp_path):
    settings = config(tmp_path, ["2", "3"], ["7"])
    for name, answers in (("train", ["10", "11", "12"]), ("held_out", ["10", "11"])):
        lines = (json.dumps({"question": f"{len(answers)}+9?", "answer": each}) for each in answers)
        with (tmp_path / f"{name}.jsonl").open("a") as file:
            file.writelines(f"\n{line}" for line in lines)
    with pytest.warns(UserWarning, match="^prompts") as warned:
        inputs = gather_inputs(settings)
    words = "questions repeat an earlier one with another answer, the first is"
    said = [str(each.message) for each in warned if words in str(each.message)]
    for message, place, count, prompts in zip(
        said,
        ("prompts.train", "prompts.held_out"),
        ("2 of 5", "1 of 3"),
        (inputs.train_prompts, inputs.held_out_prompts),
        strict=True,
    ):
        second = next(prompt.uid for prompt in prompts if prompt.answer == "11")
        assert message.startswith(f"{place}: {count} {words} '{second}'; unless")


def test_probe_questions_are_set_apart_alike_for_every_seed_and_order(tmp_path):
    def split(*overrides: str) -> tuple[list[Prompt], list[Prompt]]:
        settings = config(tmp_path, [str(n) for n in range(9)], ["8"], *overrides)
        with pytest.warns(UserWarning, match="1 of 1 questions are also in prompts.train"):
            inputs = gather_inputs(settings)
        return list(inputs.train_prompts), list(inputs.probe_prompts)

    everything, none = split()
    assert (len(everything), none) == (9, [])
    trained, probe = split("rollouts.probe.questions=3")
    assert (len(trained), len(probe)) == (6, 3)
    assert sorted([*trained, *probe], key=everything.index) == everything
    assert split("rollouts.probe.questions=3", "seed=4") == (trained, probe)
    assert set_apart(everything[::-1], 3) == (trained[::-1], probe[::-1])
    # A larger probe has the smaller one's questions.
    assert {p.uid for p in probe} < {p.uid for p in set_apart(everything, 5)[1]}


def test_a_duplicate_of_a_probe_question_is_not_trained_on():
    prompts = [replace(make_prompt(f"u{n}"), text=f"{n % 4} +  1?") for n in range(8)]
    prompts[7] = replace(prompts[7], text="3 + 1?")  # another spelling of u3's
    trained, probe = set_apart(prompts, 1)
    assert len(probe) == 2
    assert len({p.squeezed for p in probe}) == 1
    assert not {p.squeezed for p in trained} & {p.squeezed for p in probe}


def test_a_probe_must_leave_enough_to_train_on(tmp_path):
    with pytest.raises(
        ConfigError,
        match="prompts_per_step is 2, but prompts.train has only 1 prompts besides the 3 of the probe; "
        r"lower prompts_per_step, or rollouts\.probe\.questions, or add prompts",
    ):
        gather_inputs(config(tmp_path, list("1234"), ["8"], "rollouts.probe.questions=3"))


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


def test_the_link_to_the_newest_run_is_no_model_to_start_from(tmp_path):
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "latest").symlink_to("a")
    settings = config(tmp_path, list("1234"), ["8"], f"model.path={tmp_path}/runs/latest")
    with pytest.raises(ConfigError, match=r"this run will point at itself; give .*/runs/a'$"):
        gather_inputs(settings)
