"""Before and after training: metrics.jsonl, the console and summary.json say the same."""

import json
from pathlib import Path

import pytest

from ceeh.config.settings import load
from ceeh.fit import fit
from ceeh.pretrained.locate import open_trained
from tests.run.test_metrics_file import FOREIGN, put_in
from tests.test_fit import rows, small

pytestmark = pytest.mark.usefixtures("without_figures")
NAMES = ("accuracy", "tokens", "pass_at_2", "entropy")
EVALUATED = (
    "evaluation.every_n_steps=1",
    "evaluation.split_samples=4",  # these two make some questions easy for a random model
    "rollouts.max_response_tokens=32",
)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def folder(output: Path, tiny_model_dir: Path, without_figures: None) -> Path:
    return fit(small(tiny_model_dir, output, "rollouts.steps=2", *EVALUATED))


def test_the_logged_figures_are_those_of_the_summary(folder: Path) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    lines = rows(folder)
    assert [line["rollout_step"] for line in lines] == [0, 1, 2]
    for policy, line in (("base", lines[0]), ("tuned", lines[-1])):
        for level in ("all", "easy", "hard"):
            suffix = "" if level == "all" else f"_{level}"
            for name in NAMES:
                expected = summary[policy][level][name]["value"]
                assert line[f"eval/{name}{suffix}"] == pytest.approx(expected, rel=1e-5), name
    assert {f"eval/{name}_hard" for name in NAMES} <= lines[1].keys()


def test_a_base_measured_again_leaves_the_lines_of_a_resumed_run(
    folder: Path, output: Path, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = rows(folder)
    (folder / "held_out" / "base.npz").unlink()
    settings = ("rollouts.steps=3", *EVALUATED, "ckpt_path=last")
    fit(small(tiny_model_dir, output, *settings))
    assert "measuring base" in capsys.readouterr().out
    assert rows(folder)[:3] == before
    assert rows(folder)[3]["rollout_step"] == 3


def test_a_finished_run_that_is_started_again_measures_its_last_step_again(
    folder: Path, output: Path, tiny_model_dir: Path
) -> None:
    before = rows(folder)
    settings = ("rollouts.steps=3", *EVALUATED, "ckpt_path=last")
    put_in(folder / "metrics.jsonl", FOREIGN, after=2)
    assert fit(small(tiny_model_dir, output, *settings)) == folder
    assert rows(folder) == before


def test_other_held_out_questions_replace_the_base_in_the_metrics(
    folder: Path, output: Path, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = rows(folder)
    other = "prompts.held_out.init_args.questions=4"
    settings = ("rollouts.steps=4", *EVALUATED, "ckpt_path=last", other)
    fit(small(tiny_model_dir, output, *settings))
    assert "metrics.jsonl: step 0 is the base as measured now" in capsys.readouterr().out
    after = rows(folder)
    assert after[1 : len(before)] == before[1:]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["questions"]["all"] == 4
    for policy, line in (("base", after[0]), ("tuned", after[-1])):
        for name in NAMES:
            expected = summary[policy]["all"][name]["value"]
            assert line[f"eval/{name}"] == pytest.approx(expected, rel=1e-5), (policy, name)
    assert after[0] != before[0]


def test_a_run_that_was_made_longer_is_its_last_model(folder: Path) -> None:
    assert load([folder / "config.yaml"]).rollouts.steps == 2
    source = open_trained(str(folder))
    assert source.checkpoint is None
    assert source.rollout_step == 4
    assert source.config is not None
    assert source.config.rollouts.steps == 4


def test_the_base_is_measured_again_under_other_conditions(
    output: Path, tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, answer in (("a.jsonl", "12"), ("b.jsonl", "13")):
        rows = [{"id": f"{n}", "question": f"{n}+9?", "answer": answer} for n in range(3)]
        (tmp_path / name).write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    def said(answers: str, *settings: str) -> str:
        arguments = f"{{uid: id, path: {tmp_path / answers}.jsonl}}"
        table = f"{{class_path: ceeh.data.sources.Table, init_args: {arguments}}}"
        given = (f"prompts.held_out={table}", *settings, "name=conditions", "rollouts.steps=1")
        fit(small(tiny_model_dir, output, *given, "ckpt_path=last"))
        return capsys.readouterr().out

    again = (
        "measured with other prompts or answers, another temperature, response limit or base model"
    )
    assert again not in said("a")
    assert "measuring base" not in said("a")
    assert again in said("b")
    assert again in said("b", "rollouts.temperature=0.7")
    assert again in said("b", "rollouts.temperature=0.7", "rollouts.max_response_tokens=6")
    assert again not in said("b", "rollouts.temperature=0.7", "rollouts.max_response_tokens=6")
