"""The gradient of an optimizer step: chunks and micro-batches against full logits and one backward."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from ceeh.config.objective import Entropy, Objective
from ceeh.config.settings import LoRA, Model
from ceeh.data.batch import RolloutBatch
from ceeh.errors import RunError
from ceeh.modules.aggregation import denominator_shares, row_weights
from ceeh.modules.batching import microbatches
from ceeh.modules.objective import SampledTokens, policy_objective
from ceeh.modules.policy import Policy
from ceeh.modules.timing import StepClock
from ceeh.modules.update import (
    GradientResult,
    UpdateInputs,
    accumulate_gradients,
    update_inputs,
)

TEMPERATURE, MOST = 0.7, 16


def ragged(seed: int = 0) -> RolloutBatch:
    """Five rows of two prompts, of 3 to 12 tokens, in no order of length."""
    generator = torch.Generator().manual_seed(seed)
    prompt, total = torch.tensor([2, 2, 3, 3, 3]), torch.tensor([9, 3, 12, 5, 7])
    places = torch.arange(12)
    mask = (places >= prompt[:, None]) & (places < total[:, None])
    logprobs = -torch.rand(5, 12, generator=generator) - 2
    return RolloutBatch(
        token_ids=torch.randint(2, 60, (5, 12), generator=generator) * (places < total[:, None]),
        response_mask=mask,
        engine_logprobs=torch.where(mask, logprobs, 0.0),
        group=torch.tensor([0, 0, 1, 1, 1]),
        scores=torch.zeros(5),
        correct=torch.zeros(5).bool(),
        lengths=mask.sum(1),
        groups=(),
        policy_version=0,
    )


def denominator(batch: RolloutBatch, settings: Objective) -> Tensor:
    shares = denominator_shares(batch.lengths, settings.aggregation, max_response_tokens=MOST)
    return shares.sum().float()


def inputs(batch: RolloutBatch, settings: Objective) -> UpdateInputs:
    """Old log-probs and entropies as a forward pass before the update might give them."""
    generator = torch.Generator().manual_seed(1)
    before = (
        batch.engine_logprobs + 0.1 * batch.response_mask,
        torch.rand(batch.engine_logprobs.shape, generator=generator),
    )
    return update_inputs(
        batch,
        torch.tensor([0.7, -0.4, 1.2, -0.9, 0.3]),
        torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0]),
        settings=settings,
        progress=0.5,
        forward=lambda: before,
        total=lambda value: value,
    )


def make(folder: Path, rank: int, chunk_tokens: int) -> Policy:
    torch.manual_seed(0)
    settings = Model(lora=LoRA(rank=rank), head_chunk_tokens=chunk_tokens)
    policy = Policy(settings, str(folder), temperature=TEMPERATURE, keep_reference=True)
    with torch.no_grad():
        for weight in policy.trainable:
            weight.add_(0.02 * torch.randn(weight.shape))
    return policy


def updated(
    policy: Policy, batch: RolloutBatch, settings: Objective, budget: int
) -> tuple[GradientResult, list[Tensor]]:
    micro = microbatches(batch.totals, torch.arange(5), budget, packed=policy.packs)
    found = accumulate_gradients(
        policy,
        batch,
        micro,
        inputs(batch, settings),
        denominator=denominator(batch, settings),
        backward=lambda loss, last: loss.backward(),
        clock=StepClock(),
    )
    return found, [weight.grad for weight in policy.trainable if weight.grad is not None]


def reference_update(
    policy: Policy, start: Path, batch: RolloutBatch, settings: Objective
) -> tuple[dict[str, float], Tensor, list[Tensor]]:
    """All logits of all rows at once, a token at a time from Python, one backward pass.

    Returns the sums, the entropy of each row, and the gradients.
    """
    ids = batch.token_ids
    places = batch.response_mask.nonzero().tolist()
    row = torch.tensor([r for r, _ in places])

    def log_softmax(model: torch.nn.Module) -> Tensor:
        logits = model(input_ids=ids).logits / TEMPERATURE
        return torch.stack([logits[r, t - 1].log_softmax(-1) for r, t in places])

    def pick(values: Tensor) -> Tensor:
        return torch.stack([values[r, t] for r, t in places])

    def of_tokens(log_p: Tensor) -> Tensor:
        return log_p.gather(-1, pick(ids)[:, None])[:, 0]

    log_p = log_softmax(policy.model)
    with torch.no_grad():
        reference = of_tokens(log_softmax(AutoModelForCausalLM.from_pretrained(start)))
    given = inputs(batch, settings)
    everywhere = torch.ones_like(batch.engine_logprobs)
    old, bonus = pick(given.old_logprobs), given.bonus_mask
    chosen = pick(everywhere if bonus is None else bonus.float())
    mean_log_ratio = None
    if settings.ratio == "sequence":
        log_ratio = of_tokens(log_p).detach() - old
        mean_log_ratio = torch.stack([log_ratio[row == r].mean() for r in row])
    sampled = SampledTokens(
        old_logprobs=old,
        engine_logprobs=pick(batch.engine_logprobs),
        reference_logprobs=reference if settings.kl_coefficient > 0 else None,
        mean_log_ratio=mean_log_ratio,
        importance=pick(everywhere if given.importance is None else given.importance),
        advantages=given.advantages[row],
        hard=given.hard[row],
        entropy_weights=given.entropy_weights[row] * chosen,
        ea_mask=given.ea_mask[row] * chosen,
        weights=row_weights(batch.lengths, settings.aggregation)[row],
    )
    entropy = -(log_p.exp() * log_p).sum(-1)
    terms = policy_objective(
        of_tokens(log_p),
        entropy,
        sampled,
        denominator=denominator(batch, settings),
        settings=settings,
    )
    terms.loss.backward()
    gradients = [weight.grad for weight in policy.trainable if weight.grad is not None]
    sums = {name: float(value) for name, value in terms.metrics.items()}
    of_rows = torch.stack([entropy[row == each].sum() for each in range(5)]).detach()
    return sums | {"loss": float(terms.loss.detach())}, of_rows, gradients


OBJECTIVES = {
    "me": Objective(entropy=Entropy(method="me", coefficient=0.05), kl_coefficient=0.1),
    "ea": Objective(entropy=Entropy(method="ea"), kl_coefficient=0.0),
    "grpo": Objective(
        entropy=Entropy(method="none"), aggregation="sequence_mean", kl_coefficient=0.1
    ),
    "constant, trainer's": Objective(
        entropy=Entropy(method="uniform"), aggregation="constant", old_logprobs="trainer"
    ),
    "gspo": Objective(
        entropy=Entropy(method="none"), aggregation="sequence_mean", ratio="sequence", clip_high=5.0,
        dual_clip=None, kl_coefficient=0.0,
    ),
    "cispo, masked": Objective(
        policy_loss="cispo", old_logprobs="trainer", importance="sequence_mask",
        entropy=Entropy(method="hard_only", coefficient=0.05), kl_coefficient=0.0,
    ),
    "top tokens": Objective(
        entropy=Entropy(method="uniform_mean", coefficient=0.05, top_fraction=0.4), kl_coefficient=0.0,
    ),
    "ea on all top tokens": Objective(
        entropy=Entropy(method="ea_all", top_fraction=0.4), kl_coefficient=0.0
    ),
}  # fmt: skip


@pytest.mark.parametrize("rank", [0, 2], ids=["full", "lora"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_chunks_and_micro_batches_give_the_gradient_of_full_logits(
    tiny_model_dir: Path, name: str, rank: int
) -> None:
    batch, settings = ragged(), OBJECTIVES[name]
    expected, of_rows, gradients = reference_update(
        make(tiny_model_dir, rank, 99), tiny_model_dir, batch, settings
    )
    assert max(gradient.abs().max() for gradient in gradients) > 1e-4
    for budget, chunk_tokens in ((1000, 1000), (24, 5), (12, 1)):
        found, got = updated(make(tiny_model_dir, rank, chunk_tokens), batch, settings, budget)
        torch.testing.assert_close(got, gradients, rtol=1e-4, atol=1e-6)
        sums = found.sums | {"loss": found.loss}
        assert sums == pytest.approx(expected, rel=1e-4, abs=1e-5)
        torch.testing.assert_close(found.entropy, of_rows, rtol=1e-4, atol=1e-5)
        assert not found.not_finite.any()
        assert float(found.entropy.sum()) == pytest.approx(found.sums["entropy"], rel=1e-5)


def test_the_entropy_of_a_row_is_the_sum_over_its_tokens(tiny_model_dir: Path) -> None:
    batch, policy = ragged(), make(tiny_model_dir, 0, 4)
    found, _ = updated(policy, batch, OBJECTIVES["me"], 24)
    of_tokens = policy(batch.token_ids, batch.response_mask)[1]
    torch.testing.assert_close(found.entropy, of_tokens.sum(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("filler", [float("nan"), float("inf")])
def test_prompts_and_padding_change_no_result(tiny_model_dir: Path, filler: float) -> None:
    batch, pad = ragged(), torch.nn.functional.pad
    mask = pad(batch.response_mask, (0, 4))
    padded = replace(
        batch,
        token_ids=pad(batch.token_ids, (0, 4), value=7),
        response_mask=mask,
        engine_logprobs=pad(batch.engine_logprobs, (0, 4)).masked_fill(~mask, filler),
    )
    (whole, gradients), (found, got) = (
        updated(make(tiny_model_dir, 0, 5), each, OBJECTIVES["me"], 24) for each in (batch, padded)
    )
    torch.testing.assert_close((found.sums, found.loss, got), (whole.sums, whole.loss, gradients))
    assert not found.not_finite.any()


def test_rows_whose_numbers_are_not_finite_are_named(tiny_model_dir: Path) -> None:
    batch = ragged()
    engine_logprobs = batch.engine_logprobs.clone()
    engine_logprobs[3, 4] = float("nan")
    broken = replace(batch, engine_logprobs=engine_logprobs)
    policy = make(tiny_model_dir, 0, 4)
    found, _ = updated(policy, broken, Objective(kl_coefficient=0.0), budget=24)
    assert found.not_finite.tolist() == [False, False, False, True, False]


def test_each_micro_batch_is_one_backward_pass_and_the_last_is_marked(
    tiny_model_dir: Path,
) -> None:
    batch, marks, clock = ragged(), [], StepClock()
    accumulate_gradients(
        make(tiny_model_dir, 0, 4),
        batch,
        microbatches(batch.totals, torch.arange(5), 12),
        inputs(batch, Objective(kl_coefficient=0.0)),
        denominator=torch.tensor(1.0),
        backward=lambda loss, last: marks.append(last),
        clock=clock,
    )
    assert marks == [False, False, False, True]  # 12, 9, 7, and 5 with 3
    assert set(clock.take()) == {"forward", "backward"}


def test_a_gpu_out_of_memory_is_told_with_the_settings_that_help(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")

    monkeypatch.setattr(Policy, "loss", full)
    says = r"micro-batch of 1 x 12 tokens .*2 GiB.*optimizer\.tokens_per_microbatch"
    with pytest.raises(RunError, match=says):
        updated(make(tiny_model_dir, 0, 4), ragged(), Objective(kl_coefficient=0.0), budget=12)
