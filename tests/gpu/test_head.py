"""The head that CUDA compiles."""

import pytest
import torch
from torch import Tensor

from ceeh.modules.head import chunked_objective
from ceeh.modules.logits import LogitTransform
from tests.gpu.suite import BF16, DEVICE, GPU

pytestmark = GPU


@pytest.mark.parametrize("trained", [True, False], ids=["trained", "frozen"])
@pytest.mark.parametrize(("operands", "limit"), [(None, 1e-5), (BF16, 2e-2)], ids=["fp32", "bf16"])
@pytest.mark.parametrize("transform", [LogitTransform(), LogitTransform(scale=0.5, cap=3.0)])
def test_the_compiled_head_agrees_with_float64_on_the_cpu(
    transform: LogitTransform, operands: torch.dtype | None, limit: float, trained: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(700, 64, generator=generator)
    weight = torch.randn(5000, 64, generator=generator) / 4
    bias = torch.randn(5000, generator=generator) / 4
    targets = torch.randint(5000, (700,), generator=generator)

    def objective(logprobs: Tensor, entropy: Tensor, _: slice) -> Tensor:
        return -(logprobs.sum() + 0.1 * entropy.sum()) / 700

    found = []
    for device, dtype, of in (("cpu", torch.float64, None), (DEVICE, torch.float32, operands)):
        h, w, b = (x.to(device, dtype) for x in (hidden, weight, bias))
        h.requires_grad_()
        w.requires_grad_(trained)
        loss = chunked_objective(
            h,
            w,
            targets.to(device),
            objective,
            temperature=0.6,
            chunk_tokens=256,  # the last chunk is shorter: a second compilation
            bias=b,
            transform=transform,
            operands=of,
        )
        loss.backward()
        grads = [h.grad, w.grad] if trained else [h.grad]
        found.append([loss.detach(), *(grad for grad in grads if grad is not None)])
    for exact, got in zip(*found, strict=True):
        error = (got.double().cpu() - exact).norm() / exact.norm()
        assert error < limit
