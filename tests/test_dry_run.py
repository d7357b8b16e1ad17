"""`--dry-run`: its output and exit status; it starts and writes nothing."""

import json
import re
import shutil
from pathlib import Path

import pytest

from ceeh.fit import main

ROOT = Path(__file__).parent.parent
SHIPPED = ["--config", str(ROOT / "configs/ceeh.yaml")]
SHARED = "engine.init_args.tensor_parallel"
FEW = ["prompts.train.init_args.questions=64", "prompts.held_out.init_args.questions=8"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working directory, and engines that must not be built."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in ("ceeh.data.engine.VLLMEngine", "tests.torch_engine.TorchEngine"):
        monkeypatch.setattr(f"{name}.__init__", lambda *args, **kwargs: pytest.fail("started"))


def test_a_run_that_fits_is_planned_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*FEW, "optimizer.lr=0.5", "prompts.max_prompt_tokens=16"]
    assert main([*SHIPPED, *given, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "\n  optimizer.lr=0.5\n" in out
    assert "optimizer.beta1" not in out, "a default"
    assert "starter: 164.48 k parameters; 100 steps of 32 prompts x 12 responses" in out
    assert "prompts.train: dropped " in out
    assert re.search(r"prompts.train: \d+ questions, the longest prompt has 1[0-6] tokens", out)
    assert "probe" not in out
    assert "verifier: ceeh.data.verify.ExactAnswer answers ('starter-" in out
    assert out.splitlines()[-1].startswith("yes: ")
    assert list((tmp_path / "here").iterdir()) == []


def test_a_probe_is_in_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    given = [*FEW, "rollouts.probe={questions: 16, samples: 3}"]
    assert main([*SHIPPED, *given, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "32 prompts x 12 responses and 16 probe questions x 3, 4 optimizer steps each" in out
    assert "rollouts.probe: 16 questions, the longest prompt has " in out


def test_the_changes_that_are_printed_make_the_run_fit(capsys: pytest.CaptureFixture[str]) -> None:
    given = [*FEW, "--dry-run", "--devices", "cpu:2.5GB"]
    assert main([*SHIPPED, *given]) == 3
    out = capsys.readouterr().out
    assert re.search(r"no: 2\.[5-9] GiB in \w+, more than the 2\.4 usable", out)
    changes = re.findall(r"^  (\S+=\S+) +saves \d", out, re.MULTILINE)
    assert out.splitlines()[-1].startswith("With these changes, made in this order, it fits in ")
    assert main([*SHIPPED, *changes, *given]) == 0
    capsys.readouterr()
    assert main([*SHIPPED, *FEW, "--dry-run", "--devices", "cpu:1GB"]) == 3
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("No setting makes it fit: 1.")
    assert last.endswith("Take devices of 2 GiB or more, or a smaller model.")


def test_a_config_json_alone_is_enough_for_a_plan_of_other_devices(
    tmp_path: Path, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(tiny_model_dir / "config.json", tmp_path)
    given = [*SHIPPED, *FEW, f"model.path={tmp_path}", "--dry-run"]
    assert main([*given, "--devices", "8x80GB"]) == 0
    assert "has no weights, only memory is planned" in capsys.readouterr().out
    # On this machine's devices the run would fail: both the plan and the error are printed.
    assert main(given) == 2
    printed = capsys.readouterr()
    assert "memory of each device" in printed.out
    assert "has no weights (*.safetensors)" in printed.err


def test_what_needs_cuda_is_planned_for_cuda_and_refused_here(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The inputs are read on this machine; its accelerator must not decide for the other's."""
    given = [*FEW, "model.lora.rank=4", "model.lora.base=nf4", "optimizer.moments=8bit"]
    assert main([*SHIPPED, *given, "--dry-run", "--devices", "1x24GB"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("yes: ")
    assert main([*SHIPPED, *given, "--dry-run", "--devices", "cpu:24GB"]) == 2
    assert "model.lora.base is nf4, which needs CUDA" in capsys.readouterr().err


@pytest.mark.parametrize("devices", [[], ["--devices", "1x24GB"]], ids=["here", "elsewhere"])
def test_missing_data_is_an_error_after_the_plan(
    devices: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["prompts.train.class_path=ceeh.data.sources.Table"]
    given += ["prompts.train.init_args={path: none.jsonl}"]
    assert main([*SHIPPED, *given, "--dry-run", *devices]) == 2
    printed = capsys.readouterr()
    assert "invalid: see the error below" in printed.out
    assert "yes: " not in printed.out
    assert (
        "error: prompts.train (ceeh.data.sources.Table): no file or folder 'none.jsonl'"
        in printed.err
    )


def test_what_a_run_hardly_is_meant_to_do_is_a_warning_of_the_plan(
    capsys: pytest.CaptureFixture[str],
) -> None:
    same = [
        f"prompts.{name}.init_args={{questions: 9, split: train}}" for name in ("train", "held_out")
    ]
    small = ["rollouts.prompts_per_step=8", "rollouts.steps=2"]
    assert main([*SHIPPED, *same, *small, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "warning: optimizer.warmup_steps is 3, but the run has only 2 optimizer steps" in out
    assert "warning: prompts.held_out: 9 of 9 questions are also in prompts.train, the first" in out
    assert out.splitlines()[-1].startswith("yes: ")


def test_a_verifier_that_fails_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.py").write_text("def reward(prompt, response):\n    return 7.0\n")
    given = [
        "verifier.class_path=ceeh.data.verify.RewardFunction",
        f"verifier.init_args.class_path={tmp_path}/broken.py:reward",
    ]
    assert main([*SHIPPED, *FEW, *given, "--dry-run"]) == 2
    assert "ended in invalid; check verifier.class_path" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--devices", "8x80"], "with its unit, such as 8x80GB, or cpu:24GB, got '8x80'"),
        (["--devices", "3x80GB"], "must be a multiple of their number (3), got 32"),
        (
            ["--devices", "1x80GB", "hardware.accelerator=cpu"],
            "hardware.accelerator is cpu, but --devices names 1 x 80 GiB (cuda)",
        ),
        (["output=/dev/null/x"], "output: cannot create a folder in '/dev/null/x'"),
        (["output=/proc/x"], "output: cannot create a folder in '/proc/x'"),
        (["ckpt_path=none.ckpt"], "ckpt_path: no checkpoint 'none.ckpt'"),
        (["tracking.mlflow_uri=nonsense"], "tracking.mlflow_uri must be an address of MLflow"),
        (["tracking.mlflow_uri=foo://bar"], "tracking.mlflow_uri must be an address of MLflow"),
        (
            ["optimizer.prompts_per_minibatch=12"],
            "(32) must be a multiple of optimizer.prompts_per",
        ),
        (["model.lora.alpha=16"], "model.lora.rank is 0, which trains all weights"),
        (["seed=99999999999999999999"], "seed must be a whole number"),
        (["objective.hard_signal=harsh"], "no callback wrote the signal 'harsh'"),
        (["model.path=./nowhere"], "model.path: no folder './nowhere'"),
        (["optimizer.tokens_per_microbatch=9"], "must hold one longest row"),
        ([f"{SHARED}=0"], f"{SHARED} must be a whole number, at least 1, got 0"),
        (
            [f"{SHARED}=2"],
            f"{SHARED} is 2, but the number of processes, 1, is not a multiple of it",
        ),
        (
            ["--devices", "8x80GB", f"{SHARED}=4"],
            f"{SHARED} is 4, but the 2 attention heads of the model cannot be split",
        ),
        (
            [
                "--devices",
                "8x80GB",
                f"{SHARED}=2",
                "engine.init_args.options.tensor_parallel_size=2",
            ],
            "options.tensor_parallel_size cannot be set here: set engine.init_args.tensor_parallel",
        ),
    ],
)
def test_invalid_settings_have_no_plan(
    given: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SHIPPED, *given, "--dry-run"]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.out == ""


def test_devices_need_dry_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*SHIPPED, "--devices", "8x80GB"])
    assert "--devices goes with --dry-run" in capsys.readouterr().err


def test_an_unreachable_hub_id_and_a_broken_config_json_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no such"}))
    assert main([*SHIPPED, f"model.path={tmp_path}", "--dry-run"]) == 2
    assert (
        f"model.path: cannot load model or tokenizer from '{tmp_path}'" in capsys.readouterr().err
    )

    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("We couldn't connect to 'https://huggingface.co'\nand more")

    monkeypatch.setattr("ceeh.pretrained.loading.AutoConfig.from_pretrained", offline)
    monkeypatch.setattr("ceeh.pretrained.loading.constants.HF_HUB_OFFLINE", True)
    assert main([*SHIPPED, "model.path=some/model", "--dry-run", "--devices", "1x80GB"]) == 2
    error = capsys.readouterr().err
    assert "cannot load model or tokenizer from 'some/model' (OSError: We couldn't" in error
    assert "and more" not in error


def test_an_engine_other_than_ceehs_is_said_to_be_left_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ["engine.class_path=tests.torch_engine.TorchEngine"]
    assert main([*SHIPPED, *FEW, *given, "--dry-run"]) == 0
    assert "The engine is not ceeh's own" in capsys.readouterr().out
