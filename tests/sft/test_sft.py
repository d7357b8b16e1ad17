"""Supervised runs through a real Trainer: learning, resume, LoRA, the folder that ceeh.fit takes, errors."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from ceeh.config.sft import SFTConfig, load_sft
from ceeh.errors import ConfigError
from ceeh.export.card import base_card, base_license
from ceeh.modules.policy_module import PolicyModule
from ceeh.pretrained.locate import open_trained
from ceeh.sft import main, sft
from tests.commands import assert_refused, said
from tests.endings import Killed, at_call, die
from tests.metric_table import differences
from tests.test_fit import rows, small, weights
from tests.test_resume import differing

EXAMPLES = [
    {"question": f"{n:02d}+1?", "answer": f"{n + 1:02d}", "how": f"so {n + 1:02d}"}
    for n in range(30)
]


@pytest.fixture(scope="module")
def config_file(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sft")
    for name, part in (("train", EXAMPLES[:24]), ("held_out", EXAMPLES[24:])):
        lines = "\n".join(map(json.dumps, part))
        (folder / f"{name}.jsonl").write_text(lines)
    source = "{{class_path: ceeh.data.sources.Table, init_args: {{path: {}, response: how}}}}"
    file = folder / "sft.yaml"
    file.write_text(
        f"""
steps: 4
model: {{path: {tiny_model_dir}}}
max_response_tokens: 16
prompts:
  max_prompt_tokens: 32
  train: {source.format(folder / "train.jsonl")}
  held_out: {source.format(folder / "held_out.jsonl")}
optimizer: {{lr: 0.01, prompts_per_minibatch: 4, tokens_per_microbatch: 48}}
checkpoints: {{every_n_steps: 1}}
tracking: {{mlflow: false}}
hardware: {{accelerator: cpu}}
"""
    )
    return file


def config(file: Path, output: Path, *overrides: str) -> SFTConfig:
    return load_sft([file], [f"output={output}", *overrides])


@pytest.fixture(scope="module")
def whole(config_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sft(config(config_file, tmp_path_factory.mktemp("whole"), "ckpt_path=last"))


def test_a_run_learns_and_measures_itself_before_and_after(
    config_file: Path, tmp_path: Path
) -> None:
    lines = rows(sft(config(config_file, tmp_path, "steps=30")))
    assert [line["rollout_step"] for line in lines] == list(range(31))
    before, after = lines[0]["eval/nats_per_token"], lines[-1]["eval/nats_per_token"]
    assert after < before / 2
    # `so `, two digits and the end token of each of 4 examples.
    assert {line["loss/tokens"] for line in lines[1:]} == {16.0}


def test_a_run_logs_the_metrics_of_the_table_and_no_other(config_file: Path, whole: Path) -> None:
    assert differences(whole, "sft", load_sft([config_file])) == []


@pytest.mark.parametrize("call", [1, 3])
def test_a_killed_run_goes_on_to_the_numbers_of_one_that_never_stopped(
    config_file: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    resumed = config(config_file, tmp_path, "ckpt_path=last")
    with monkeypatch.context() as patch:
        at_call(patch, PolicyModule, "take_step", call, die)
        with pytest.raises(Killed):
            sft(resumed)
    assert differing(sft(resumed), whole) == []


def test_the_run_folder_is_a_model_for_fit_and_for_evaluate(whole: Path, tmp_path: Path) -> None:
    from ceeh.fit import fit

    source = open_trained(str(whole))
    assert (source.model_path, source.run) == (str(whole / "model"), None)
    folder = fit(small(whole, tmp_path, "rollouts.steps=1"))
    assert (folder / "model" / "config.json").is_file()


def test_the_license_and_origin_go_from_card_to_card(
    config_file: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    """From the start model over the supervised run to what is exported of a run on it."""
    base = Path(shutil.copytree(tiny_model_dir, tmp_path / "base"))
    (base / "README.md").write_text("---\nlicense: apache-2.0\nbase_model: org/tiny\n---\n")
    folder = sft(config(config_file, tmp_path, f"model.path={base}", "steps=1"))
    card = base_card(str(folder))
    assert (card["license"], card["base_model"]) == ("apache-2.0", "org/tiny")
    assert base_license(str(folder)) == {"license": "apache-2.0"}
    assert "Steps: 1." in (folder / "model" / "README.md").read_text()


def test_a_lora_run_merges_its_adapter_into_the_model_folder(
    config_file: Path, whole: Path, tmp_path: Path
) -> None:
    from ceeh.modules.policy import Policy

    given = config(config_file, tmp_path, "model.lora.rank=4", "steps=2")
    folder = sft(given)
    assert all(".lora_" in name for name in weights(folder))
    trained = Policy(
        load_sft([config_file]).model,
        str(folder / "model"),
        temperature=1.0,
        keep_reference=False,
    )
    names = dict(trained.causal_lm.named_parameters())
    assert not any("lora" in name for name in names)
    start = Policy(
        load_sft([config_file]).model, given.model.path, temperature=1.0, keep_reference=False
    )
    moved = {
        name
        for name, value in start.causal_lm.named_parameters()
        if not torch.equal(value, names[name])
    }
    assert moved
    assert all("_proj" in name for name in moved)


def test_an_unfinished_run_is_not_taken_for_a_model(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_call(monkeypatch, PolicyModule, "take_step", 2, die)
    with pytest.raises(Killed):
        sft(config(config_file, tmp_path))
    with pytest.raises(ConfigError, match=r"has no model/ yet; finish it with python -m ceeh.sft"):
        open_trained(str(tmp_path / "sft"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps=0", "steps must be greater than 0"),
        (
            "optimizer.tokens_per_microbatch=40",
            "prompts.max_prompt_tokens + max_response_tokens = 48",
        ),
        ("optimizer.prompts_per_minibatch=99", "prompts.train has only 24 examples"),
        (
            "prompts.train.init_args.response=null",
            "prompts.train: ... has no response to learn from",
        ),
        ("max_response_tokens=2", "24 of 24 demonstrations are longer"),
        ("rollouts.steps=3", "rollouts"),
        ("seed=4294967296", "seed must be from 0 to 4294967295"),
        ("model.lora.base=nf4", "needs model.lora.rank above 0"),
        ("optimizer.moments=8bit", "optimizer.moments is 8bit, which needs CUDA"),
        (
            "max_response_tokens=5000 optimizer.tokens_per_microbatch=9999",
            "prompts.max_prompt_tokens + max_response_tokens must be at most",
        ),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    config_file: Path, tmp_path: Path, override: str, message: str
) -> None:
    output = tmp_path / "runs"
    answer = said(main, ["--config", str(config_file), f"output={output}", *override.split()])
    assert_refused(answer, message)
    assert not output.exists()


def test_help_and_print_config_describe_the_command(config_file: Path) -> None:
    assert "Demonstrations with longer responses are dropped" in said(main, ["--help-config"]).out
    printed = said(main, ["--config", str(config_file), "--print-config", "steps=7"])
    assert re.search(r"^steps: 7$", printed.out, re.M)


def test_a_rank_without_held_out_examples_is_refused(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would skip the evaluation in which the others wait for it."""
    monkeypatch.setattr("ceeh.assembly.examples.world_size", lambda: 8)
    monkeypatch.setattr("ceeh.assembly.inputs.world_size", lambda: 8)
    monkeypatch.setattr("ceeh.assembly.examples.join_processes", lambda *_, **__: None)
    few = "prompts.held_out.init_args.limit=3"
    with pytest.raises(ConfigError, match=r"held_out: 3 questions are fewer than the 8 processes"):
        sft(config(config_file, tmp_path, few, "optimizer.prompts_per_minibatch=8"))


def test_the_policy_has_the_precision_of_the_run(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {}

    def policy(*_: object, **settings: object) -> None:
        given.update(settings)
        raise Killed

    monkeypatch.setattr("ceeh.sft.train.Policy", policy)
    with pytest.raises(Killed):
        sft(config(config_file, tmp_path, "hardware.precision=bf16-mixed"))
    assert given["precision"] == "bf16-mixed"
