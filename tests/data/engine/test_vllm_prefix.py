"""A group's common prompt is computed once: vLLM's own counters of its prefix cache."""

from pathlib import Path

import pytest

from ceeh.data.engine.base import Sampling
from ceeh.data.engine.vllm_engine import VLLMEngine
from ceeh.types import Prompt

pytestmark = pytest.mark.engine

BLOCK, COMPLETIONS = 128, 4
"""Tokens of a cache block on the CPU, and the size of a group."""


def counters(engine: VLLMEngine) -> tuple[int, int]:
    """Prompt tokens looked up so far, and those of them that were there already."""
    found = {
        metric.name: metric.value
        for metric in engine._live().get_metrics()
        if hasattr(metric, "value")
    }
    return int(found["vllm:prefix_cache_queries"]), int(found["vllm:prefix_cache_hits"])


@pytest.mark.parametrize("cached", [True, False], ids=["cache", "no cache"])
def test_a_groups_prompt_is_computed_once(tiny_model_dir: Path, cached: bool) -> None:
    options = {"disable_log_stats": False, "max_num_seqs": 16}
    if not cached:
        options["enable_prefix_caching"] = False
    with VLLMEngine(str(tiny_model_dir), 320, kv_cache_gib=0.25, options=options) as engine:
        assert engine._live().llm_engine.vllm_config.cache_config.block_size == BLOCK
        prompts = [
            Prompt(
                uid=str(first),
                text="",
                answer="",
                token_ids=tuple(2 + (first + place) % 50 for place in range(2 * BLOCK + 10)),
            )
            for first in (0, 7)
        ]
        sampling = Sampling(completions=COMPLETIONS, temperature=1.0, max_tokens=8)
        engine.generate(prompts, sampling)
        if not cached:
            assert counters(engine) == (0, 0)
            return
        # Two whole blocks of each prompt are found by all of its group but the first.
        looked_up = 2 * COMPLETIONS * (2 * BLOCK + 10)
        assert counters(engine) == (looked_up, 2 * (COMPLETIONS - 1) * 2 * BLOCK)
