"""Invalid settings end with config path, rule, value and cure before anything starts."""

from pathlib import Path

import pytest

from ceeh import fit
from tests.bad_input.conftest import Refused
from tests.commands import Said, said

FILES = {
    "a list": (b"- a\n- b\n", "must hold a mapping of keys, got a list"),
    "a scalar": (b"seed", "must hold a mapping of keys, got a str"),
    "a number": (b"3", "overlay.yaml"),
    "a null byte": (b"seed: \x00", "is not valid YAML ... #x0000"),
    "an escape character": (b"name: \x1b[2J", "is not valid YAML"),
    "utf-16": ("seed: 1".encode("utf-16"), "is not valid YAML ... utf-8"),
    "latin-1": (b"name: \xfcber", "is not valid YAML ... utf-8"),
    "tabs": (b"model:\n\tpath: x", "is not valid YAML ... line 2"),
    "a key twice": (b"seed: 1\nseed: 2", "is not valid YAML ... duplicate key seed"),
    "an open bracket": (b"optimizer: {lr: 1", "is not valid YAML"),
    "two documents": (b"seed: 1\n---\nseed: 2", "is not valid YAML"),
    "a broken date": (b"name: 2026-99-99T99:99:99", "name must be letters ... 2026-99"),
    "json lines": (b'{"question": "1+1", "answer": 2}', "overlay.yaml: question is not a setting"),
    "an integer as key": (b"1: 2", "overlay.yaml: 1 is not a setting"),
    "null for a section": (b"optimizer: null", "optimizer"),
    "a list for a section": (b"optimizer: [1, 2]", "overlay.yaml: optimizer"),
    "a section for a number": (b"seed: {a: 1}", "overlay.yaml: seed"),
    "a key in a class": (b"verifier: {class: x}", "verifier ... class_path"),
    "arguments as a list": (b"verifier: {init_args: [1]}", "verifier"),
    "a name for a callback": (b"callbacks: difficulty", "callbacks"),
}


@pytest.mark.parametrize("case", FILES)
def test_an_invalid_file(case: str, refused: Refused, tmp_path: Path) -> None:
    content, parts = FILES[case]
    overlay = tmp_path / "overlay.yaml"
    overlay.write_bytes(content)
    refused([], parts, files=(overlay,))


def test_a_file_with_a_byte_order_mark_is_read(whole_config: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_bytes(b"\xef\xbb\xbfseed: 41\r\n")
    answer = said(
        fit.main, ["--config", str(whole_config), "--config", str(overlay), "--print-config"]
    )
    assert "seed: 41" in answer.out


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("seed=-1", "seed must be from 0 to 4294967295, got -1"),
        ("seed=1.5", "seed must be a whole number, ... got 1.5"),
        ("seed=", "seed must be a whole number ... got null"),
        ("seed=" + "9" * 5000, "the value is not valid YAML"),
        ("optimizer.lr=.inf", "optimizer.lr must be a finite number, below 3e+38 in size, got inf"),
        ("optimizer.lr=1e-5x", "optimizer.lr must be a number, ... got '1e-5x'"),
        ("optimizer.lr=0", "optimizer.lr must be greater than 0 and at most 1, got 0"),
        ("optimizer..lr=1", "optimizer..lr=1"),
        ("optimizer.lr.x=1", "optimizer.lr must be a number ... got {'x': 1}"),
        ("rollouts.temperature=0", "rollouts.temperature must be greater than 0, got 0"),
        ("rollouts.steps=0", "rollouts.steps must be greater than 0"),
        ("rollouts.top_p=0.9", "rollouts.top_p must be 1.0: ... temperature only, got 0.9"),
        ("rollouts.completions_per_prompt=1", "completions_per_prompt must be at least 2, got 1"),
        ("rollouts.canary_tolerance=0", "rollouts.canary_tolerance must be greater than 0"),
        ("hardware.accelerator=tpu", "hardware.accelerator ... one of ... auto"),
        ("hardware.accelerator=cuda", "torch finds no CUDA device"),
        ("hardware.precision=bf16-true", "hardware.precision must be auto, 32-true or bf16-mixed"),
        ("hardware.precision=16-true", "rounds small weight updates away"),
        ("model.lora.rank=-2", "model.lora.rank must be at least 0"),
        ("model.lora.dropout=1", "model.lora.dropout must be in [0, 1)"),
        ("name=[1]", "name must be letters ... got [1]"),
        ("name={", "name={ ... the value is not valid YAML"),
        ("name='\x1b[2J'", "the value is not valid YAML"),
        ("callbacks.x=3", "callbacks.x must be a mapping of class_path, init_args, got 3"),
        ("prompts.max_prompt_tokens=null", "max_prompt_tokens must be a whole number ... got null"),
        ("evaluation.bootstrap_draws=1", "evaluation.bootstrap_draws must be at least 100, got 1"),
        ("a=b=c", "a is not a setting; the settings here are name, seed"),
        ("=1", "is not an override; write key=value"),
        ("verifier.init_args.class_path=${nope.nope}", "the interpolation cannot be resolved"),
        (
            "verifier.init_args.class_path=${nope",
            "class_path: the interpolation cannot be resolved",
        ),
        # Settings that do not fit together
        ("objective.hard_signal=harsh", "no callback wrote the signal 'harsh'"),
        ("ckpt_path=x.ckpt", "no checkpoint 'x.ckpt'"),
        ("model.lora.rank=2 model.lora.target_modules=[nope]", "lora.target_modules ... nope"),
        ("model.attention=flash_attention_2", "flash_attention_2, which needs CUDA"),
        ("rollouts.prompts_per_step=1000", "rollouts.prompts_per_step is 1000 ... 24 prompts"),
        ("prompts.max_prompt_tokens=1", "prompts.max_prompt_tokens (1) ... raise it to at least"),
        ("objective.shaping.class_path=ceeh.modules.shaping.Nothing", "has no 'Nothing'"),
        ("prompts.train.init_args.levels=9-8", "levels must be distinct levels ... '9-8'"),
        ("prompts.train.init_args.questions=many", "prompts.train ... questions"),
        ("prompts.train.init_args.split=test", "split must be one of train, held_out, got 'test'"),
        ("callbacks.difficulty.init_args.rise=2", "callbacks.difficulty"),
        ("engine.class_path=ceeh.data.engine.VLLMEngin", "engine.class_path ... VLLMEngin"),
        ("prompts.instruction='  '", "prompts.instruction must be non-empty text, or null"),
        ("prompts.system_prompt=x", "prompts.system_prompt needs prompts.chat_template: true"),
        ("prompts.chat_template=true", "prompts.chat_template is true ... has no chat template"),
        ("prompts.instruction=" + "again " * 300, "all 24 prompts are longer than"),
    ],
    ids=lambda value: value[:30].encode("unicode_escape").decode(),
)
def test_an_invalid_override(override: str, parts: str, refused: Refused) -> None:
    refused(override.split(" ") if " model." in override else [override], parts)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "--config FILE is needed"),
        (["--config"], "expected one argument"),
        (["--config", "nowhere.yaml"], "no file 'nowhere.yaml'"),
        (["--config", "."], "it is a folder"),
        (["--devices", "8x80GB", "--config", "x.yaml"], "--devices goes with --dry-run"),
        (["--nope", "--config", "x.yaml"], "unrecognized arguments: --nope"),
    ],
)
def test_an_invalid_command_line(arguments: list[str], part: str) -> None:
    answer: Said = said(fit.main, arguments)
    assert answer.code == 2
    assert part in answer.err
    assert "Traceback" not in answer.err
