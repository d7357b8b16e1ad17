"""Supervised training: its loss against float64, what carries none, micro-batches, padding."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from ceeh.config.settings import Model, Optimizer
from ceeh.config.sft import SFTConfig
from ceeh.data.examples import ExampleBatch
from ceeh.modules import sft
from ceeh.modules.policy import Policy
from ceeh.modules.sft import SFTModule
from tests.modules.test_update_waits import Waits


class Trained(SFTModule):
    """Outside a Trainer: gradients stay in the weights, and what is logged in `logged`."""

    def __init__(self, config: SFTConfig, policy: Policy) -> None:
        super().__init__(config, policy)
        self.logged: dict[str, float] = {}

    def optimizers(self, use_pl_optimizer: bool = True) -> torch.optim.Optimizer:  # type: ignore[override]
        return torch.optim.SGD(self.policy.trainable, lr=0.1)

    def lr_schedulers(self):  # type: ignore[override]
        return torch.optim.lr_scheduler.ConstantLR(self.optimizers(), factor=1.0)

    def total(self, value: Tensor) -> Tensor:
        return value.clone().float()

    def backward_of(self, loss: Tensor, last: bool) -> None:
        loss.backward()

    def take_step(self, loss: float) -> tuple[float, bool]:
        return 0.0, True

    def log_dict(self, metrics, **_: object) -> None:  # type: ignore[override]
        self.logged |= metrics


def batch(rows: int, width: int, seed: int = 0) -> ExampleBatch:
    """Ragged rows: a prompt of 2 to 4 tokens, then a response some tokens of which are not learned."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, 20, (rows, width), generator=generator)
    totals = torch.randint(6, width + 1, (rows,), generator=generator)
    prompts = torch.randint(2, 5, (rows, 1), generator=generator)
    places = torch.arange(width)
    learned = (places >= prompts) & (places < totals[:, None])
    learned &= torch.rand(rows, width, generator=generator) < 0.8
    ids[places >= totals[:, None]] = 0
    return ExampleBatch(
        token_ids=ids, response_mask=learned, totals=totals, timings={}, ready_at=0.0
    )


def trained(
    model: Path,
    given: ExampleBatch,
    *,
    tokens_per_microbatch: int = 4096,
    attention: Literal["sdpa", "varlen"] = "sdpa",
) -> Trained:
    settings = Optimizer(tokens_per_microbatch=tokens_per_microbatch)
    policy = Policy(Model(attention=attention), str(model), temperature=1.0, keep_reference=False)
    module = Trained(SFTConfig(optimizer=settings), policy)
    module.training_step(given, 0)
    return module


def gradients(module: Trained) -> dict[str, Tensor]:
    return {name: weight.grad for name, weight in module.policy.named_parameters()}  # type: ignore[misc]


def reference(model: Path, given: ExampleBatch) -> tuple[float, dict[str, Tensor]]:
    """Token by token over rows without padding, in float64."""
    policy = Policy(Model(), str(model), temperature=1.0, keep_reference=False).double()
    total, count = torch.zeros((), dtype=torch.float64), int(given.response_mask.sum())
    for row in range(len(given.totals)):
        ids = given.token_ids[row, : int(given.totals[row])]
        logits = policy.causal_lm(input_ids=ids[None]).logits[0]  # type: ignore[operator]
        for place in given.response_mask[row].nonzero().flatten().tolist():
            total = total - logits[place - 1].log_softmax(0)[ids[place]]
    (total / count).backward()
    weights = policy.named_parameters()
    return total.item() / count, {name: weight.grad for name, weight in weights}  # type: ignore[misc]


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name].double(), other[name].double(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_loss_and_gradient_are_those_of_a_float64_loop(untied_model_dir: Path, seed: int) -> None:
    given = batch(5, 14, seed)
    module = trained(untied_model_dir, given)
    loss, expected = reference(untied_model_dir, given)
    assert module.logged["loss/nats_per_token"] == pytest.approx(loss, rel=1e-5)
    assert module.logged["loss/tokens"] == int(given.response_mask.sum())
    assert_equal(gradients(module), expected)


def test_micro_batches_and_packing_change_nothing(tiny_model_dir: Path) -> None:
    given = batch(6, 14)
    whole = trained(tiny_model_dir, given)
    assert whole.logged["optimizer/padding_fraction"] > 0
    for attention in ("sdpa", "varlen"):
        module = trained(tiny_model_dir, given, tokens_per_microbatch=14, attention=attention)
        assert_equal(gradients(whole), gradients(module))
        assert module.logged["loss/nats_per_token"] == pytest.approx(
            whole.logged["loss/nats_per_token"]
        )
    assert module.logged["optimizer/padding_fraction"] == 0


def test_micro_batches_read_nothing_back(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU each number read makes the host wait; a step reads its losses, all at once."""
    given, counts = batch(6, 14), []
    find = sft.index_microbatches
    for budget in (14, 1000):
        module = trained(tiny_model_dir, given, tokens_per_microbatch=budget, attention="varlen")
        micro, once = module.microbatches(given), find(module.microbatches(given), given)
        monkeypatch.setattr(SFTModule, "microbatches", lambda *_, micro=micro: micro)
        monkeypatch.setattr(sft, "index_microbatches", lambda *_, once=once: once)
        with Waits() as waits:
            module.training_step(given, 1)
        waits.counts["_local_scalar_dense"] -= len(micro)  # `padding_fraction` sums on the host
        counts.append(waits.counts)
        monkeypatch.undo()
    assert counts[0] == counts[1]  # of three micro-batches and of one


def test_padding_and_row_order_change_nothing(tiny_model_dir: Path) -> None:
    given = batch(5, 12)
    rows = torch.tensor([3, 1, 4, 0, 2])
    wide = torch.nn.functional.pad
    padded = replace(
        given,
        token_ids=wide(given.token_ids, (0, 7), value=5)[rows],
        response_mask=wide(given.response_mask, (0, 7), value=False)[rows],
        totals=given.totals[rows],
    )
    assert_equal(
        gradients(trained(tiny_model_dir, given)), gradients(trained(tiny_model_dir, padded))
    )


def test_a_token_that_is_not_learned_has_no_gradient_of_its_own(untied_model_dir: Path) -> None:
    """The head's row of a token that is only ever read moves as the softmax moves it, never toward it."""
    given = batch(4, 10)
    first = replace(given, response_mask=torch.zeros_like(given.response_mask))
    first.response_mask[:, 5] = True
    other = replace(first, token_ids=first.token_ids.clone())
    other.token_ids[:, 6:] = 3  # after the one learned token: neither its input nor its target
    assert_equal(
        gradients(trained(untied_model_dir, first)), gradients(trained(untied_model_dir, other))
    )
