"""Differences between engine and policy stop a run with their likely causes; equal ones do not."""

import copy
from pathlib import Path

import pytest
import torch

from ceeh.config.settings import LoRA, Model
from ceeh.errors import RunError
from ceeh.fit import fit
from ceeh.modules.canary import Difference, canary_difference, check_canary, check_first_ratio
from ceeh.modules.policy import Policy
from tests.test_fit import rows, small
from tests.torch_engine import TorchEngine

pytestmark = pytest.mark.usefixtures("without_figures")


def policy_of(model: Path, settings: Model | None = None) -> Policy:
    return Policy(settings or Model(), str(model), temperature=1.0, keep_reference=False)


def test_the_difference_is_that_of_the_canarys_tokens(tiny_model_dir: Path) -> None:
    engine, policy = TorchEngine(str(tiny_model_dir)), policy_of(tiny_model_dir)
    assert canary_difference(engine, policy, temperature=1.0).max < 1e-5
    with torch.no_grad():
        policy.causal_lm.get_parameter("model.norm.weight").mul_(1.5)
    prompt, completion = engine.canary(temperature=1.0)
    ids = torch.tensor([[*prompt, *completion.token_ids]])
    mask = torch.arange(ids.shape[1])[None] >= len(prompt)
    expected = (policy(ids, mask)[0][mask] - torch.tensor(completion.logprobs)).abs()
    found = canary_difference(engine, policy, temperature=1.0)
    assert found == (pytest.approx(float(expected.mean())), pytest.approx(float(expected.max())))
    assert found.mean > 1e-2


def test_the_mean_is_judged_and_one_token_may_differ_by_more(tiny_model_dir: Path) -> None:
    policy = policy_of(tiny_model_dir)
    check_canary(Difference(mean=0.09, max=1.9), policy, tolerance=0.1, when="then")
    for difference, message in (
        ((0.11, 0.2), r"^then engine .* by 0.11 nats on the canary \(at most 0.2\)"),
        ((0.05, 2.1), r"tolerance of 0.1 \(2 for one token\)"),
        ((float("nan"), float("nan")), "differ by nan"),
    ):
        with pytest.raises(RunError, match=message):
            check_canary(Difference(*difference), policy, tolerance=0.1, when="then")


def test_the_causes_are_those_that_this_policy_can_have(
    tiny_model_dir: Path, untied_model_dir: Path
) -> None:
    def said(policy: Policy) -> str:
        with pytest.raises(RunError) as raised:
            check_canary(Difference(1.0, 1.0), policy, tolerance=0.1, when="then")
        return str(raised.value).partition("Likely causes, in this order: ")[2]

    tied = said(policy_of(tiny_model_dir))
    order = ["Qwen3ForCausalLM", "dropout", "head tied", "dtype below"]
    assert sorted(order, key=tied.index) == order
    assert "target_modules" not in tied
    untied = said(policy_of(untied_model_dir, Model(lora=LoRA(rank=2))))
    assert "head tied" not in untied
    assert untied.index("dropout") < untied.index("lora.target_modules") < untied.index("dtype")


def test_a_first_ratio_within_the_tolerance_passes(tiny_model_dir: Path) -> None:
    policy = policy_of(tiny_model_dir)
    check_first_ratio(0.1, policy, tolerance=0.1, old="engine")
    check_first_ratio(float("nan"), policy, tolerance=0.1, old="engine")  # the update is skipped
    with pytest.raises(RunError, match=r"from the trainer's by 0.2 nats .* tolerance of 0.1"):
        check_first_ratio(0.2, policy, tolerance=0.1, old="trainer")


@pytest.mark.parametrize("old", ["engine", "trainer"])
@pytest.mark.parametrize("dropout", [0.0, 0.5], ids=["", "lora.dropout"])
def test_the_first_ratio_is_1_and_the_adapters_dropout_is_not_in_the_old_logprobs(
    old: str, dropout: float, tiny_model_dir: Path, tmp_path: Path
) -> None:
    adapter = ("model.lora.rank=2", f"model.lora.dropout={dropout}", "rollouts.steps=2")
    folder = fit(
        small(
            tiny_model_dir,
            tmp_path,
            *adapter,
            f"objective.old_logprobs={old}",
            "optimizer.prompts_per_minibatch=4",
        )
    )
    first, second = (row["loss/ratio"] for row in rows(folder) if "loss/ratio" in row)
    assert first == pytest.approx(1, abs=1e-4)  # B is 0, so that dropout has nothing to act on
    assert (abs(second - 1) < 1e-4) == (dropout == 0)


@pytest.mark.parametrize("old", ["engine", "trainer"])
def test_randomness_in_the_models_code_stops_the_run_at_the_first_step(
    old: str, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = Policy.loss

    def noisy(self: Policy, *, objective, **model_inputs):
        return loss(
            self,
            objective=lambda found, entropy, rows: objective(found * 1.1, entropy, rows),
            **model_inputs,
        )

    monkeypatch.setattr(Policy, "loss", noisy)
    message = rf"ratio must be 1 at the first .* {old}'s by .* Likely causes"
    with pytest.raises(RunError, match=message):
        fit(small(tiny_model_dir, tmp_path, f"objective.old_logprobs={old}"))


def test_an_engine_of_other_weights_stops_a_run_with_the_adapters_dropout(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = TorchEngine.generate

    def other(self: TorchEngine, prompts, sampling):
        kept = copy.deepcopy(self.model.state_dict())
        with torch.no_grad():
            self.model.model.norm.weight.mul_(1.5)
        groups = generate(self, prompts, sampling)
        self.model.load_state_dict(kept)
        return groups

    monkeypatch.setattr(TorchEngine, "generate", other)  # the canary alone sees the right weights
    given = ("model.lora.rank=2", "model.lora.dropout=0.1")
    with pytest.raises(RunError, match=r"ratio must be 1 at the first .* engine's by"):
        fit(small(tiny_model_dir, tmp_path, *given))
