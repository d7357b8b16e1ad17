"""Each kind of model source gives the trainer's log-probs; anything else is a clear error."""

import shutil
from pathlib import Path

import pytest
import torch

from ceeh.errors import ConfigError
from ceeh.modules.restore import load_policy
from ceeh.pretrained.locate import ModelSource, open_trained
from ceeh.run.checkpoint import read_checkpoint
from tests.conftest import FinishedRun

FP32 = 1e-6  # nats; the same weights through the same code
BF16 = 0.2  # nats; weights of 8 bits under logits far from uniform


def difference(trained: ModelSource, run: FinishedRun) -> float:
    """Largest distance in nats between a policy's log-probs and the trainer's."""
    policy = load_policy(trained, temperature=0.7)
    assert not policy.training  # dropout would add noise
    logprobs = policy(run.token_ids, run.response_mask)[0].detach()
    return float((logprobs - run.logprobs).abs().max())


@pytest.mark.parametrize(("kind", "tolerance"), [("full", FP32), ("lora", BF16)])
def test_checkpoints_and_finished_runs_give_the_trainers_logprobs(
    kind: str, tolerance: float, request: pytest.FixtureRequest
) -> None:
    run: FinishedRun = request.getfixturevalue(f"{kind}_run")
    checkpoint = run.path / "checkpoints" / "step-000002.ckpt"
    trained = open_trained(str(checkpoint))
    assert (trained.checkpoint, trained.name) == (checkpoint, "starter/step-000002")
    assert trained.config is not None
    assert trained.model_path == trained.config.model.path
    assert difference(trained, run) <= FP32
    trained = open_trained(str(run.path))
    assert (trained.checkpoint, trained.name) == (None, "starter")
    assert trained.model_path == str(run.path / "model")
    assert difference(trained, run) <= tolerance


def test_a_stopped_run_is_its_newest_checkpoint_even_with_an_older_model_folder(
    lora_run: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = lora_run.copy(tmp_path)
    newest = run / "checkpoints" / "step-000002.ckpt"
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("steps: 2\n", "steps: 9\n", 1))
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"rollout_step": 3}\n{"rollout_st')  # killed during a write
    assert open_trained(str(run)).checkpoint == newest
    said = capsys.readouterr().out
    assert "stopped at rollout step 3 of 9; using its newest checkpoint" in said
    shutil.rmtree(run / "model")
    trained = open_trained(str(run))
    assert trained.checkpoint == newest
    assert difference(trained, lora_run) <= FP32


def test_base_models_are_opened_by_name_folder_and_hub_id(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ceeh.pretrained.loading.constants.HF_HUB_OFFLINE", True)
    starter = open_trained("starter")
    assert starter.name == "starter"
    assert (Path(starter.model_path) / "model.safetensors").is_file()
    assert open_trained(str(tiny_model_dir)).model_path == str(tiny_model_dir)
    hub = open_trained("some-user/some-model")
    assert (hub.name, hub.model_path, hub.run) == ("some-user/some-model",) * 2 + (None,)


def test_an_adapter_goes_over_its_base_and_is_disabled_for_the_reference(
    lora_run: FinishedRun, tmp_path: Path
) -> None:
    from ceeh.export import main

    assert main([str(lora_run.path), str(tmp_path / "adapter"), "--adapter"]) == 0
    trained = open_trained(str(tmp_path / "adapter"))
    assert trained.adapter == tmp_path / "adapter"
    assert difference(trained, lora_run) <= FP32
    policy = load_policy(trained, temperature=0.7, keep_reference=True)
    base = load_policy(open_trained(trained.model_path), temperature=0.7)
    arguments = (lora_run.token_ids, lora_run.response_mask)
    torch.testing.assert_close(policy.reference_logprobs(*arguments), base(*arguments)[0])


def test_a_run_cannot_grant_itself_remote_code(full_run: FinishedRun, tmp_path: Path) -> None:
    run = full_run.copy(tmp_path)
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(
        config.replace("trust_remote_code: false", "trust_remote_code: true")
    )
    assert not open_trained(str(run)).trust_remote_code
    assert open_trained(str(run), trust_remote_code=True).trust_remote_code


def test_anything_else_is_refused_with_what_is_there(full_run: FinishedRun, tmp_path: Path) -> None:
    run = full_run.copy(tmp_path)
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("path: /", "path: /gone/", 1))
    outside = tmp_path / "folder" / "step-000002.ckpt"
    outside.parent.mkdir()
    shutil.copy(run / "checkpoints" / "step-000002.ckpt", outside)
    (tmp_path / "notes.txt").write_text("x")
    for place, message in (
        (outside.parent, r"it contains step-000002\.ckpt; give 'starter', a hub id"),
        (tmp_path / "notes.txt", "is a file but not a .ckpt; give 'starter'"),
        (tmp_path / "nothing", "nothing' does not exist; give 'starter'"),
        (tmp_path / "x.ckpt", r"the checkpoint '.*x\.ckpt' does not exist"),
        (outside, r"outside a run folder: .*config\.yaml, which .* does not exist"),
        (
            run / "checkpoints" / "step-000002.ckpt",
            r"no folder '/gone/.*correct it in .*config\.yaml",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            open_trained(str(place))


class Evil:
    """A pickle that creates a file when it is loaded."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self):
        return Path.touch, (self.victim,)


def test_a_checkpoint_that_would_run_code_does_not(full_run: FinishedRun, tmp_path: Path) -> None:
    run, victim = full_run.copy(tmp_path), tmp_path / "victim"
    state = read_checkpoint(full_run.path / "checkpoints" / "step-000002.ckpt")
    evil = run / "checkpoints" / "evil.ckpt"
    torch.save({"state_dict": state["state_dict"], "rollout_step": Evil(victim)}, evil)
    with pytest.raises(ConfigError, match=r"evil\.ckpt' cannot be read .* nothing in it was run"):
        load_policy(open_trained(str(evil)))
    assert not victim.exists()
    # The pickle is real: an unsafe load runs it.
    torch.load(evil, weights_only=False)
    assert victim.exists()


def test_damaged_and_foreign_checkpoints_are_refused(
    full_run: FinishedRun, lora_run: FinishedRun, tmp_path: Path
) -> None:
    run = full_run.copy(tmp_path)
    folder = run / "checkpoints"
    whole = (folder / "step-000002.ckpt").read_bytes()
    (folder / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.ckpt").write_bytes(b"")
    torch.save({"weights": {}}, folder / "other.ckpt")
    shutil.copy(lora_run.path / "checkpoints" / "step-000002.ckpt", folder / "lora.ckpt")
    state = read_checkpoint(folder / "step-000002.ckpt")
    name = "policy.model.model.norm.weight"
    for file, values in (
        ("shape.ckpt", {name: torch.zeros(3)}),
        ("more.ckpt", {"policy.model.more": torch.zeros(3)}),
    ):
        changed = state["state_dict"] | values
        torch.save({"state_dict": changed, "rollout_step": 2}, folder / file)
    for file, message in (
        ("cut.ckpt", "cannot be read"),
        ("empty.ckpt", "cannot be read"),
        ("other.ckpt", "does not contain the weights of a run"),
        ("lora.ckpt", r"lora\.ckpt' does not belong to .*: it lacks \d+ weights"),
        ("shape.ckpt", r"has 1 weights of another shape, e\.g\. 'model\.model\.norm\.weight'"),
        ("more.ckpt", r"has 1 unknown weights, e\.g\. 'model\.more'"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_policy(open_trained(str(folder / file)))
