"""Model FLOPs utilization: the FLOP/s that an update needs, as a share of the device's peak."""

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from ceeh.modules.policy import Policy

PEAK_TFLOPS = {
    "B200": 2250,
    "GH200": 989,
    "H200": 989,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "L40": 181,
    "L4": 121,
    "A10G": 70,
    "A10": 125,
    "RTX 4090": 165,
    "RTX 3090": 71,
}
"""Dense bf16 with fp32 accumulation, from vendors' data sheets; longer names before their parts."""


def utilization(policy: Policy, totals: Int[Tensor, " R"], seconds: float) -> dict[str, float]:
    """`optimizer/mfu` of an update of `seconds` on the device of `totals`; empty for an unknown device."""
    if totals.device.type != "cuda":
        return {}
    name = torch.cuda.get_device_name(totals.device)
    peaks = [1e12 * peak for part, peak in PEAK_TFLOPS.items() if part in name]
    needed = update_flops(policy, totals.tolist())
    return {"optimizer/mfu": needed / (seconds * peaks[0])} if peaks else {}


def update_flops(policy: Policy, totals: list[int]) -> float:
    """FLOPs of one update over rows of `totals` tokens, without recomputation and padding.

        4 N + 2 N_trained  per token, and  3 x 2 layers A l^2  per row of l tokens for causal attention
        (6 N and 4 x with a reference pass)

    N: weights in matrix products, with the head and without the embedding; N_trained: those of them
    that are trained (all, or the adapter's); A: width of all heads together.
    PaLM, appendix B, https://arxiv.org/abs/2204.02311, without attention's masked half.
    """
    config: Any = policy.causal_lm.config
    embedding: Any = policy.causal_lm.get_input_embeddings()
    head: Any = policy.causal_lm.get_output_embeddings()
    packed = 2  # weights in a byte of a 4-bit base
    used = sum(
        p.numel() * (packed if p.dtype == torch.uint8 else 1)
        for p in policy.parameters()
        if p.dim() == 2
    )
    trained = sum(p.numel() for p in policy.trainable if p.dim() == 2)
    if head.weight is not embedding.weight:
        used -= embedding.weight.numel()
        trained -= embedding.weight.numel() if embedding.weight.requires_grad else 0
    per_token = (6 if policy.keeps_reference else 4) * used + 2 * trained
    head_size = getattr(config, "head_dim", None) or (
        config.hidden_size // config.num_attention_heads
    )
    attention = 2 * config.num_hidden_layers * config.num_attention_heads * head_size
    squares = sum(length**2 for length in totals)
    return per_token * sum(totals) + (4 if policy.keeps_reference else 3) * attention * squares
