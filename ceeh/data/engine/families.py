"""Model families that vLLM loads and cannot train, refused before it starts."""

from typing import Any

from ceeh.errors import ConfigError

GATED_DELTA = "vLLM's CPU kernel for its linear attention takes bfloat16 alone"
IN_FLOAT32_ON_THE_CPU = {
    "deepseek_v2": "vLLM's CPU kernel for its latent attention does not take float32",
    "deepseek_v3": "vLLM's CPU kernel for its latent attention does not take float32",
    "lfm2": "its convolutions need chunked prefill, which on the CPU excludes a seed per request",
    "qwen3_5": GATED_DELTA,
    "qwen3_5_moe": GATED_DELTA,
    "qwen3_5_moe_text": GATED_DELTA,
    "qwen3_5_text": GATED_DELTA,
    "qwen3_next": GATED_DELTA,
}
ANYWHERE = {"gpt_oss": "vLLM loads its experts past the reload, so a push would leave the old ones"}
"""By `model_type`; tried with vLLM 0.32."""


def check_family(config: Any, *, accelerator: str, dtype: str) -> None:
    """Raises ConfigError for a model whose engine cannot start, or would keep old weights."""
    kind, place, reason = config.model_type, "", ANYWHERE.get(config.model_type)
    if accelerator == "cpu" and dtype == "float32" and reason is None:
        place, reason = " in float32 on the CPU", IN_FLOAT32_ON_THE_CPU.get(kind)
    if reason is not None:
        raise ConfigError(
            f"model.path: the family {kind} cannot be trained{place}: {reason}; take a model of a family "
            "that docs/models.md lists as trained"
        )
