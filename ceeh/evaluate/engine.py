"""The engine of an evaluation: checked, started with the model's weights, compared with the trainer."""

from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace

from ceeh.config.component import Component
from ceeh.config.hardware import CANARY_TOLERANCE
from ceeh.data.benchmarks import Benchmark
from ceeh.data.engine.base import RolloutEngine
from ceeh.data.engine.restartable import build_engine
from ceeh.data.engine.vllm_options import check_init_args
from ceeh.evaluation.config import EvaluationConfig
from ceeh.evaluation.runner import Task
from ceeh.modules.canary import canary_difference, check_canary
from ceeh.modules.restore import load_policy
from ceeh.pretrained.loading import check_length, load_config
from ceeh.pretrained.locate import ModelSource
from ceeh.runtime.distributed import processes_here, world_size

DEVICE_SHARE = 0.9


def check_engine(
    source: ModelSource,
    protocol: EvaluationConfig,
    benchmarks: Mapping[str, Benchmark],
    sampled: Container[str],
) -> None:
    """Raises ConfigError for what vLLM would refuse: its arguments, and too long responses to sample.

    Options that change the model's configuration may lengthen its context; vLLM judges those.
    """
    if protocol.engine.class_path != EvaluationConfig().engine.class_path:
        return
    arguments = protocol.engine.init_args
    model = load_config(source.model_path, source.trust_remote_code)
    check_init_args(arguments, model, processes=world_size(), here=processes_here())
    if "hf_overrides" in (arguments.get("options") or {}):
        return
    for name, benchmark in benchmarks.items():
        if name not in sampled:
            longest = benchmark.max_prompt_tokens + benchmark.max_response_tokens
            settings = f"{name}.max_prompt_tokens + {name}.max_response_tokens"
            check_length(model, source.model_path, longest, settings)


@contextmanager
def open_engine(
    source: ModelSource,
    protocol: EvaluationConfig,
    tasks: Sequence[Task],
    accelerator: str,
    dtype: str,
) -> Iterator[RolloutEngine]:
    """The engine with the model's weights in it, long enough for every task.

    For a run, checkpoint or adapter the canary must agree with the trainer's code on the same weights.
    """
    lengths = (t.benchmark.max_prompt_tokens + t.benchmark.max_response_tokens for t in tasks)
    context = {
        "model_path": source.model_path,
        "max_model_len": max(lengths),
        "trust_remote_code": source.trust_remote_code,
        "seed": protocol.seed,
        "accelerator": accelerator,
        "dtype": dtype,
    }
    component = engine_alone(protocol.engine, accelerator)
    over_it = source.checkpoint or source.adapter
    if not (over_it or source.run):
        with closing(build_engine(component, context, None)) as engine:
            yield engine
        return
    policy = load_policy(source)  # before the engine: its files may be damaged, or of another model
    weights = (lambda: load_policy(source).engine_weights()) if over_it else None
    with closing(build_engine(component, context, weights)) as engine:
        if over_it:
            engine.load_weights(policy.engine_weights(), policy_version=0)
        check_canary(
            canary_difference(engine, policy, temperature=policy.temperature),
            policy,
            tolerance=tolerance_of(protocol, component, dtype),
            when=f"'{source.name}' was not evaluated:",
            setting="canary_tolerance",
        )
        del policy
        yield engine


def tolerance_of(protocol: EvaluationConfig, component: Component, dtype: str) -> float:
    """Nats between engine and trainer, by the engine's dtype unless the evaluation sets it."""
    if protocol.canary_tolerance is not None:
        return protocol.canary_tolerance
    exact = component.init_args.get("dtype", dtype) in ("float32", "auto") and dtype == "float32"
    return CANARY_TOLERANCE["32-true" if exact else "bf16-mixed"]


def engine_alone(component: Component, accelerator: str) -> Component:
    """vLLM with most of the device's memory, since no trainer shares it."""
    given = component.init_args
    options = given.get("options") or {}
    sized = "kv_cache_gib" in given or "gpu_memory_utilization" in options
    is_ours = component.class_path == EvaluationConfig().engine.class_path
    if accelerator != "cuda" or sized or not is_ours:
        return component
    alone = {"gpu_memory_utilization": DEVICE_SHARE} | options
    return replace(component, init_args=given | {"options": alone})
