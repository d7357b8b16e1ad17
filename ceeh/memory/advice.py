"""Settings to change where a plan does not fit, those that cost least first."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ceeh.config.settings import Config
from ceeh.memory.devices import GIB, Devices
from ceeh.memory.plan import PHASES, Plan, make_plan
from ceeh.memory.rows import longest_row
from ceeh.memory.shapes import ModelShapes, read_shapes

LORA_RANK, RESPONSE_TOKENS = "model.lora.rank", "rollouts.max_response_tokens"
KV_CACHE_GIB, KV_STEP = "engine.init_args.kv_cache_gib", GIB // 4
MIN_CHUNK_TOKENS, MIN_SEQUENCES, MIN_RESPONSE_TOKENS = 256, 32, 1024


def advise(config: Config, path: str, devices: Devices) -> dict[str, Any]:
    """Settings that make the plan fit, in the order to change them; the strongest where none do.

    First those that only cost speed, then with LoRA, then with shorter responses too.
    """
    lora = {} if config.model.lora.rank else {LORA_RANK: 32}
    shorter = halves(config.rollouts.max_response_tokens, MIN_RESPONSE_TOKENS)
    changes: dict[str, Any] = {}
    for training in ({}, lora, *(lora | {RESPONSE_TOKENS: tokens} for tokens in shorter)):
        changed = config
        for key, value in training.items():
            changed = with_value(changed, key.split("."), value)
        memory, fits = memory_changes(changed, read_shapes(changed.model, path), devices)
        changes = training | memory
        if fits:
            break
    return changes


def memory_changes(
    config: Config, shapes: ModelShapes, devices: Devices
) -> tuple[dict[str, Any], bool]:
    """Each setting at the mildest value that makes the plan fit, else at the strongest if that helps."""
    changes: dict[str, Any] = {}
    plan = make_plan(config, shapes, devices)
    for key, values in memory_settings(config, plan):
        best = None
        for value in values:
            trial = with_value(config, key.split("."), value)
            best = value, trial, make_plan(trial, shapes, devices)
            if best[2].fits:
                break
        if best and excess(best[2]) < excess(plan):
            changes[key], config, plan = best
    return changes, plan.fits


def memory_settings(config: Config, plan: Plan) -> list[tuple[str, Sequence[Any]]]:
    """Keys with values from mild to strong, the cheapest in speed first."""
    optimizer, engine = config.optimizer, plan.engine
    settings: list[tuple[str, Sequence[Any]]] = [
        ("model.head_chunk_tokens", halves(config.model.head_chunk_tokens, MIN_CHUNK_TOKENS)),
        (
            "optimizer.tokens_per_microbatch",
            halves(optimizer.tokens_per_microbatch, longest_row(config)),
        ),
    ]
    if engine and plan.devices.kind == "cuda":
        settings.append(("engine.init_args.sleep", [True]))
    settings.append(("model.gradient_checkpointing", [True]))
    if engine:
        sequences = halves(engine.sequences, MIN_SEQUENCES)
        settings.append(("engine.init_args.options.max_num_seqs", sequences))
        least = math.ceil(engine.longest * engine.bytes_per_token / KV_STEP)
        if plan.one_sequence_fits:
            steps = halves(math.ceil(engine.kv_cache / KV_STEP), least)
            settings.append((KV_CACHE_GIB, [step * KV_STEP / GIB for step in steps]))
        else:
            settings.insert(0, (KV_CACHE_GIB, [least * KV_STEP / GIB]))
    return settings


def excess(plan: Plan) -> tuple[bool, int]:
    over = sum(max(0, plan.held(phase) - plan.devices.usable) for phase in PHASES)
    return not plan.one_sequence_fits, over


def halves(present: int, least: int) -> list[int]:
    """`present` halved until `least`; empty if it is not above `least`."""
    values = []
    while present > least:
        present = max(present // 2, least)
        values.append(present)
    return values


def with_value(node: Any, keys: Sequence[str], value: Any) -> Any:
    """A copy of `node`, a dataclass or a mapping, with `value` at the path `keys`."""
    key, *rest = keys
    old = node.get(key) if isinstance(node, Mapping) else getattr(node, key)
    new = with_value(old or {}, rest, value) if rest else value
    return {**node, key: new} if isinstance(node, Mapping) else replace(node, **{key: new})
