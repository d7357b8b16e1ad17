"""The formulae against bytes counted in the real policy, forward, backward and optimizer step."""

from pathlib import Path

import pytest
import torch
from live_memory import LiveMemory, kept_for_backward
from torch import Tensor
from torch.optim import AdamW
from transformers import LlamaConfig, Qwen2Config, Qwen3Config

from ceeh.config.settings import LoRA, Model
from ceeh.memory import formulas
from ceeh.memory.shapes import ModelShapes, read_shapes
from ceeh.modules.policy import Policy
from tests.memory.conftest import save_small

CHUNK = 128
QWEN2, QWEN3, LLAMA = Qwen2Config, Qwen3Config, LlamaConfig
CASES = {
    "full": (QWEN2, {}, {}),
    "lora": (QWEN2, {}, {"rank": 4}),
    "full, tied, normed heads": (QWEN3, {"tie_word_embeddings": True}, {}),
    "lora, normed heads": (QWEN3, {}, {"rank": 4}),
    "lora, llama": (LLAMA, {}, {"rank": 4}),
    "full, large vocabulary": (QWEN2, {"vocab_size": 10_000}, {}),
    "lora, two matrices": (QWEN2, {}, {"rank": 4, "target_modules": ["q_proj", "down_proj"]}),
    "lora, dropout": (QWEN2, {}, {"rank": 4, "dropout": 0.1}),
}


class Measured:
    """A policy on `rows` x `width` tokens; its gradients are there already, as in later updates."""

    def __init__(self, folder: Path, settings: Model, precision: str, rows: int, width: int):
        torch.manual_seed(0)
        self.shapes: ModelShapes = read_shapes(settings, str(folder))
        self.policy = Policy(settings, str(folder), temperature=1.0, keep_reference=False)
        self.bf16 = precision == "bf16-mixed"
        self.tokens = rows * width
        self.token_ids = torch.randint(self.shapes.vocabulary, (rows, width))
        self.mask = torch.ones(rows, width, dtype=torch.bool)
        self.mask[:, 0] = False
        self.backward(self.forward())
        gradients = [weight.grad for weight in self.policy.trainable]
        self.there: list[Tensor] = [self.token_ids, self.mask, *self.policy.parameters()]
        self.there += [*self.policy.buffers(), *(g for g in gradients if g is not None)]

    def forward(self) -> Tensor:
        """The loss of one micro-batch; without gradient the evaluation's log-probs."""
        # As Lightning's bf16-mixed: no cache of casts.
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16, cache_enabled=False):
            if not torch.is_grad_enabled():
                return self.policy(self.token_ids, self.mask)[0]
            return self.policy.loss(self.token_ids, self.mask, lambda a, b, _: a.sum() + b.sum())

    def backward(self, loss: Tensor) -> None:
        loss.backward()


def measured(
    folder: Path, case: str, precision: str, checkpointing: bool = False, width: int = 128
) -> Measured:
    kind, dims, lora = CASES[case]
    settings = Model(
        gradient_checkpointing=checkpointing, head_chunk_tokens=CHUNK, lora=LoRA(**lora)
    )
    return Measured(save_small(folder, kind, **dims), settings, precision, rows=2, width=width)


@pytest.mark.parametrize("case", CASES)
def test_weights_gradients_and_moments_are_exact(tmp_path: Path, case: str) -> None:
    model = measured(tmp_path, case, "32-true", width=4)
    policy, shapes = model.policy, model.shapes
    optimizer = AdamW(policy.trainable)
    optimizer.step()
    assert formulas.master_weights(shapes) == sum(w.nbytes for w in policy.parameters())
    gradients = [weight.grad for weight in policy.trainable if weight.grad is not None]
    assert formulas.gradients(shapes) == sum(gradient.nbytes for gradient in gradients)
    moments = [
        state[name] for state in optimizer.state.values() for name in state if name != "step"
    ]
    assert formulas.adamw_states(shapes) == sum(moment.nbytes for moment in moments)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("case", CASES)
def test_activations_are_within_6_percent(
    tmp_path: Path, case: str, precision: str, checkpointing: bool
) -> None:
    model = measured(tmp_path, case, precision, checkpointing)
    check_activations(model, precision, checkpointing, kept_tolerance=0.03, peak_tolerance=0.06)


@pytest.mark.parametrize("case", ["full", "lora"])
def test_activations_follow_the_token_budget(tmp_path: Path, case: str) -> None:
    small, large = (measured(tmp_path, case, "bf16-mixed", True, width) for width in (64, 256))
    check_activations(small, "bf16-mixed", True, kept_tolerance=0.03, peak_tolerance=0.06)
    check_activations(large, "bf16-mixed", True, kept_tolerance=0.03, peak_tolerance=0.06)


def check_activations(
    model: Measured,
    precision: str,
    checkpointing: bool,
    *,
    kept_tolerance: float,
    peak_tolerance: float,
) -> None:
    """What is kept for the backward pass, and the most that lives at once in forward and backward."""
    shapes, tokens = model.shapes, model.tokens
    compute = 2 if precision == "bf16-mixed" else 4
    with kept_for_backward(model.there) as kept:
        loss = model.forward()
    kept_bytes = kept()
    model.backward(loss)
    del loss, kept
    with LiveMemory(model.there) as live:
        model.backward(model.forward())
    layers = formulas.layers_kept(
        shapes, tokens, compute=compute, gradient_checkpointing=checkpointing
    )
    head = formulas.head_kept(shapes, tokens)
    assert layers + head == pytest.approx(kept_bytes, rel=kept_tolerance)
    backward = formulas.backward_workspace(
        shapes, tokens, compute=compute, gradient_checkpointing=checkpointing
    )
    head += formulas.head_workspace(shapes, tokens, chunk_tokens=CHUNK)
    assert layers + max(head, backward) == pytest.approx(live.peak, rel=peak_tolerance)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("case", ["full", "lora", "full, large vocabulary"])
def test_a_forward_pass_without_gradient_is_within_6_percent(
    tmp_path: Path, case: str, precision: str
) -> None:
    model = measured(tmp_path, case, precision)
    with LiveMemory(model.there) as live, torch.no_grad():
        model.forward()
    planned = formulas.forward_workspace(
        model.shapes,
        model.tokens,
        compute=2 if precision == "bf16-mixed" else 4,
        chunk_tokens=CHUNK,
    )
    assert planned == pytest.approx(live.peak, rel=0.06)


@pytest.mark.parametrize("case", ["full", "lora"])
def test_the_optimizer_on_the_cpu_takes_at_most_three_of_the_largest_weight(
    tmp_path: Path, case: str
) -> None:
    model = measured(tmp_path, case, "32-true", width=4)
    optimizer = AdamW(model.policy.trainable)
    optimizer.step()
    states = [value for state in optimizer.state.values() for value in state.values()]
    with LiveMemory([*model.there, *states]) as live:
        optimizer.step()
    # Two, and a third where the weight before it was as large.
    planned = formulas.adamw_workspace(model.shapes, cuda=False)
    assert 2 / 3 * planned <= live.peak <= planned


def test_the_optimizer_for_all_weights_at_once_takes_as_much_as_they(tmp_path: Path) -> None:
    model = measured(tmp_path, "full", "32-true", width=4)
    optimizer = AdamW(model.policy.trainable, foreach=True)
    optimizer.step()
    states = [value for state in optimizer.state.values() for value in state.values()]
    with LiveMemory([*model.there, *states]) as live:
        optimizer.step()
    assert formulas.adamw_workspace(model.shapes, cuda=True) == pytest.approx(live.peak, rel=0.01)
