"""Checks, seeds and runs vLLM's requests; turns its outputs into completions."""

import math
from collections.abc import Sequence
from itertools import count
from typing import Any

import numpy as np
import torch

from ceeh.data.engine.base import Sampling
from ceeh.errors import RunError
from ceeh.runtime.distributed import TensorParallelGroup
from ceeh.runtime.rng import derived_seed, rng_preserved
from ceeh.types import Completion, Finish, Prompt

CANARY_PROMPT_TOKENS, CANARY_TOKENS = 8, 16


def canary_prompt(vocabulary: int) -> tuple[int, ...]:
    """Tokens that are spread over the vocabulary."""
    return tuple(
        index * vocabulary // CANARY_PROMPT_TOKENS for index in range(CANARY_PROMPT_TOKENS)
    )


def check_space(prompts: Sequence[Prompt], max_tokens: int, max_model_len: int) -> None:
    """Raises ValueError for a prompt without space for `max_tokens` more."""
    for prompt in prompts:
        if len(prompt.token_ids) + max_tokens > max_model_len:
            raise ValueError(
                f"prompt '{prompt.uid}' has {len(prompt.token_ids)} tokens, with a response of "
                f"up to {max_tokens} more than the engine's {max_model_len}; "
                "shorten it, or raise max_prompt_tokens"
            )


def request_seed(sampling: Sampling, uid: str, n: int) -> int | None:
    """The seed of a request for `n` completions; None where the whole step is seeded.

    vLLM seeds the n children of a request with seed, seed + 1, ...: multiples of n keep the children
    of different prompts apart.
    """
    by_request = sampling.seeds == "request"
    return derived_seed(sampling.seed, uid) // n * n if by_request else None


def seed_unseeded_requests(seed: int) -> None:
    """Seeds both rngs from which vLLM may sample a request that has no seed.

    Its V1 model runner draws from torch's. The V2 runner, on CUDA, draws one seed per request from NumPy's
    (`vllm/v1/worker/gpu/sample/states.py`): with torch seeded only, every rollout step and every rank would
    sample the same text.
    """
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)


def run_requests(
    llm: Any,
    inputs: Sequence[Any],
    params: Sequence[Any],
    *,
    engine_seed: int,
    stopped_by: TensorParallelGroup | None,
) -> list[Any]:
    """vLLM's output for each input, in their order.

    With `stopped_by` a requested stop of that group takes effect between two engine steps.
    """
    finished: list[Any] = []
    with rng_preserved():
        seed_unseeded_requests(engine_seed)
        llm.enqueue(inputs, list(params), use_tqdm=False)
        steps = count()
        while llm.llm_engine.has_unfinished_requests():
            if stopped_by is not None:
                stopped_by.check_stop(at=next(steps))
            finished += [output for output in llm.llm_engine.step() if output.finished]
    # vLLM numbers requests in the order of the prompts; short ones finish first.
    return sorted(finished, key=lambda request: int(request.request_id))


def completion_of(output: Any, tokenizer: Any) -> Completion:
    """One output of a request, decoded. Raises RunError for log-probs that are not finite."""
    token_ids, flat = tuple(output.token_ids), output.logprobs
    logprobs = tuple(flat.logprobs[start] for start in flat.start_indices)
    assert tuple(flat.token_ids[start] for start in flat.start_indices) == token_ids
    if not all(math.isfinite(value) for value in logprobs):
        raise RunError(
            "the engine's log-probs are not finite: the pushed weights contain NaN or infinity, or its "
            "dtype overflows"
        )
    return Completion(
        text=tokenizer.decode(token_ids, skip_special_tokens=True),
        token_ids=token_ids,
        logprobs=logprobs,
        finish={"stop": Finish.STOP, "length": Finish.LENGTH}.get(
            output.finish_reason, Finish.ABORT
        ),
    )
