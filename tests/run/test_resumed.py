"""A resume says what it changes of the configuration, refuses what it must not, keeps the old file."""

import shutil
from pathlib import Path

import pytest
import yaml

from ceeh import fit
from ceeh.config.settings import load
from ceeh.errors import ConfigError
from ceeh.run.resumed import check_resumed, write_config
from tests.commands import assert_refused, contents, fit_arguments, no_engine, said
from tests.conftest import FinishedRun

SHIPPED = Path(__file__).parents[2] / "configs" / "ceeh.yaml"
TABLE = "prompts.train={class_path: ceeh.data.sources.Table, init_args: {path: %s}}"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_config(tmp_path, load([SHIPPED], ["name=run"]))
    return tmp_path


def test_the_same_configuration_passes_without_a_word(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_resumed(run, load([SHIPPED], ["name=run", "ckpt_path=last", "output=elsewhere"]))
    assert capsys.readouterr().out == ""


def test_what_changed_is_said_in_one_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed = [
        "optimizer.lr=0.1",
        "rollouts.completions_per_prompt=8",
        "callbacks.optimal_length=null",
    ]
    check_resumed(run, load([SHIPPED], changed))
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert f"ckpt_path: resuming '{run}' with " in out
    assert "optimizer.lr=0.1 (was 0.0003)" in out
    assert "rollouts.completions_per_prompt=8 (was 12)" in out
    assert "callbacks.optimal_length.init_args.rule=null (was 'minimum')" in out


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.path=./other", r"model.path is './other', but .* started with 'starter'; resume with "
         r"model.path='starter', .* same model at another place, write that place into '.*config.yaml'"),
        ("model.lora.rank=4", "model.lora.rank is 4, but .* started with 0"),
        ("verifier.class_path=ceeh.data.verify.MathAnswer", "verifier.class_path is 'ceeh.data.verify.M"),
        ("verifier.init_args.pattern='(.)'", r"verifier.init_args.pattern is '\(.\)', but"),
        ("prompts.train.init_args.questions=9", "prompts.train.init_args.questions is 9, but"),
        ("rollouts.probe.questions=9", "rollouts.probe.questions is 9, but"),
        (TABLE % "a.jsonl", "prompts.train.class_path is 'ceeh.data.sources.Table', but"),
    ],
)  # fmt: skip
def test_another_model_lora_verifier_or_data_is_refused(
    run: Path, override: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=f"^ckpt_path: {message}"):
        check_resumed(run, load([SHIPPED], [override]))


def test_data_may_move_and_a_verifier_may_have_more_workers(tmp_path: Path) -> None:
    math = ["verifier={class_path: ceeh.data.verify.MathAnswer, init_args: {workers: %d}}"]
    write_config(tmp_path, load([SHIPPED], [TABLE % "a.jsonl", math[0] % 2]))
    check_resumed(tmp_path, load([SHIPPED], [TABLE % "b.jsonl", math[0] % 4]))


def test_the_configuration_of_the_start_is_kept(run: Path) -> None:
    for lr in ("0.1", "0.1", "0.2"):
        write_config(run, load([SHIPPED], ["name=run", "ckpt_path=last", f"optimizer.lr={lr}"]))
    rates = {
        file.name: yaml.safe_load(file.read_text())["optimizer"]["lr"]
        for file in run.glob("config*.yaml")
    }
    assert rates == {
        "config.yaml": 0.0003,
        "config.resumed-1.yaml": 0.1,
        "config.resumed-2.yaml": 0.2,
    }


@pytest.mark.filterwarnings("ignore:prompts.*characters that the tokenizer")
def test_other_prompts_to_the_same_questions_are_refused_before_the_engine(
    full_run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_engine(monkeypatch)
    run = full_run.copy(tmp_path)
    before = contents(run)
    given = ["--config", str(run / "config.yaml"), f"output={tmp_path}", "ckpt_path=last"]
    answer = said(fit.main, [*given, "rollouts.steps=3", "prompts.instruction=1+1?"])
    assert_refused(answer, "prompts or answers are not; resume with its prompts.system_prompt")
    assert "prompts.instruction='1+1?' (was null)" in answer.out
    assert contents(run) == before


def test_other_weights_at_the_same_place_are_refused_before_the_engine(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = shutil.copytree(tiny_model_dir, tmp_path / "model")
    arguments = fit_arguments(model, tmp_path, "rollouts.steps=2")
    assert said(fit.main, arguments).code == 0
    (file,) = model.glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    no_engine(monkeypatch)
    answer = said(fit.main, [*arguments, "rollouts.steps=3", "ckpt_path=last"])
    assert_refused(
        answer, f"ckpt_path: the weights in model.path '{model}' are not those ... restore"
    )
