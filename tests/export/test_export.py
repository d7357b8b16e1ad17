"""An export gives the trainer's log-probs in transformers and peft, and the run's settings beside them."""

import json
from pathlib import Path

import peft
import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel

from ceeh.export import main
from tests.conftest import FinishedRun

FP32 = 4e-6  # nats; float32 both, by another path through the model
HALF = {torch.bfloat16: 0.2, torch.float16: 0.02}  # nats; weights of 8 and 11 bits


def difference(model: PreTrainedModel, run: FinishedRun) -> float:
    """Largest distance in nats between a plain model's log-probs at temperature 0.7 and the trainer's."""
    with torch.no_grad():
        logits = model.float().eval()(input_ids=run.token_ids).logits[:, :-1] / 0.7
    logprobs = logits.log_softmax(-1).gather(-1, run.token_ids[:, 1:, None])[..., 0]
    return float(((logprobs - run.logprobs[:, 1:]) * run.response_mask[:, 1:]).abs().max())


@pytest.fixture(params=["full", "lora"])
def run(request: pytest.FixtureRequest) -> FinishedRun:
    return request.getfixturevalue(f"{request.param}_run")


@pytest.mark.parametrize("dtype", HALF)
def test_a_float32_export_gives_the_trainers_logprobs_and_a_half_one_is_it_rounded_once(
    run: FinishedRun, tmp_path: Path, dtype: torch.dtype, capsys: pytest.CaptureFixture[str]
) -> None:
    models = []
    for name in (str(dtype).removeprefix("torch."), "float32"):
        assert main([str(run.path), str(tmp_path / name), "--dtype", name]) == 0
        assert f"model of 'starter' after rollout step 2, {name}" in capsys.readouterr().out
        models.append(AutoModelForCausalLM.from_pretrained(tmp_path / name))
    half, full = models
    assert (half.dtype, full.dtype) == (dtype, torch.float32)
    for (name, rounded), exact in zip(half.named_parameters(), full.parameters(), strict=True):
        assert torch.equal(rounded, exact.to(dtype)), name
    assert difference(half, run) <= HALF[dtype]
    assert difference(full, run) <= FP32


def test_an_export_without_dtype_has_the_runs_weights_tokenizer_and_generation_settings(
    run: FinishedRun, tmp_path: Path
) -> None:
    folders = (tmp_path / "out", run.path / "model")
    assert main([str(run.path), str(folders[0])]) == 0
    exported, own = (AutoModelForCausalLM.from_pretrained(folder) for folder in folders)
    assert exported.dtype == own.dtype
    for one, other in zip(exported.parameters(), own.parameters(), strict=True):
        assert torch.equal(one, other)
    tokenizer, original = (AutoTokenizer.from_pretrained(folder) for folder in folders)
    assert tokenizer("4+3?").input_ids == original("4+3?").input_ids
    settings = GenerationConfig.from_pretrained(folders[0])
    assert (settings.do_sample, settings.temperature) == (True, 0.7)
    assert (settings.top_p, settings.top_k) == (1.0, 0)
    assert settings.eos_token_id == tokenizer.eos_token_id


def test_an_adapter_gives_the_trainers_logprobs_over_its_base(
    lora_run: FinishedRun, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert main([str(lora_run.path), str(out), "--adapter"]) == 0
    settings = json.loads((out / "adapter_config.json").read_text())
    base = AutoModelForCausalLM.from_pretrained(
        settings["base_model_name_or_path"], dtype=torch.float32
    )
    assert difference(base, lora_run) > 0.1  # the adapter has learned something
    model = peft.PeftModel.from_pretrained(base, out)
    assert difference(model, lora_run) <= FP32
    assert not (out / "model.safetensors").exists()
    card = ModelCard.load(out / "README.md")
    assert card.data.library_name == "peft"
    assert "AutoPeftModelForCausalLM" in card.text


def test_completions_are_those_of_the_exported_weights_and_the_card_names_them(
    full_run: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = full_run.copy(tmp_path), tmp_path / "out"
    assert main([str(run), str(tmp_path / "plain")]) == 0
    assert not (tmp_path / "plain" / "completions.parquet").exists()
    assert "completions.parquet" not in (tmp_path / "plain" / "README.md").read_text()
    assert main([str(run), str(out), "--completions"]) == 0
    written = run / "held_out" / "tuned.parquet"
    assert (out / "completions.parquet").read_bytes() == written.read_bytes()
    assert "(completions.parquet)" in (out / "README.md").read_text()
    written.unlink()
    assert main([str(run), str(tmp_path / "none"), "--completions"]) == 2
    assert "no responses of these weights" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_an_earlier_checkpoint_is_exported_as_not_measured(
    full_run: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = full_run.copy(tmp_path)
    file = run / "checkpoints" / "step-000002.ckpt"
    state = torch.load(file, weights_only=True) | {"rollout_step": 1}
    torch.save(state, run / "checkpoints" / "step-000001.ckpt")
    arguments = [str(run), str(tmp_path / "out"), "--checkpoint", "step-000001.ckpt"]
    assert main(arguments) == 0
    assert "'starter/step-000001' after rollout step 1" in capsys.readouterr().out
    card = (tmp_path / "out" / "README.md").read_text()
    assert "after rollout step 1 of 2, were not measured on held-out questions" in card
    assert not (tmp_path / "out" / "pareto.png").exists()
    # A summary that was measured on other weights is not quoted for the final ones.
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"rollout_step": 1}))
    assert main([str(run), str(tmp_path / "final")]) == 0
    assert "were not measured" in (tmp_path / "final" / "README.md").read_text()


def test_force_replaces_an_older_export_and_nothing_else(
    full_run: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out, notes = str(full_run.path), tmp_path / "out", tmp_path / "notes"
    notes.mkdir()
    (notes / "a.txt").write_text("mine")
    (notes / "config.json").write_text("{}")
    assert main([run, str(out)]) == 0
    (out / "stale").write_text("")
    assert main([run, str(out)]) == 2
    assert "already contains an export; --force replaces the folder" in capsys.readouterr().err
    assert main([run, str(out), "--force"]) == 0
    assert not (out / "stale").exists()
    assert main([run, str(notes), "--force"]) == 2
    assert "so --force does not replace it" in capsys.readouterr().err
    assert sorted(path.name for path in notes.iterdir()) == ["a.txt", "config.json"]
    (out / "more").mkdir()
    assert main([run, str(out), "--force"]) == 2
    assert (out / "more").is_dir()
