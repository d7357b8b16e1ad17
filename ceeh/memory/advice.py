"""What to change when a plan does not fit: the mildest settings that would make it fit, computed."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ceeh.config.settings import Config
from ceeh.memory.devices import GIB, Devices
from ceeh.memory.items import longest_row
from ceeh.memory.plan import KVCache, Plan, make_plan
from ceeh.memory.shapes import ModelShapes

Changes = dict[str, Any]
Remedies = list[tuple[str, Sequence[Any]]]
"""Keys and their values from mild to strong, the keys from those that cost least speed to most."""

MIN_CHUNK_TOKENS, MIN_SEQUENCES, RESPONSE_STEP = 256, 32, 1024
KV_STEP_GIB = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """Overrides and the plan with them. `same_training`: they change memory and speed alone.

    Where `plan` does not fit, they are those that save most without changing the training.
    """

    changes: Changes
    same_training: bool
    plan: Plan

    def __str__(self) -> str:
        return " ".join(f"{key}={written(value)}" for key, value in self.changes.items())


def advise(config: Config, shapes: ModelShapes, devices: Devices) -> Advice:
    """Changes of memory alone if any fit, else LoRA, else shorter responses too."""
    for training in ({}, *training_changes(config)):
        changed = with_changes(config, training)
        of = shapes.with_adapters(changed.model.lora.rank) if training else shapes
        remedies = memory_remedies(changed, make_plan(changed, of, devices))
        strongest = {key: values[-1] for key, values in remedies}
        if make_plan(with_changes(changed, strongest), of, devices).fits:
            memory = relaxed(changed, remedies, of, devices)
            plan = make_plan(with_changes(changed, memory), of, devices)
            return Advice(changes=training | memory, same_training=not training, plan=plan)
    remedies = memory_remedies(config, make_plan(config, shapes, devices))
    strongest = {key: values[-1] for key, values in remedies}
    plan = make_plan(with_changes(config, strongest), shapes, devices)
    return Advice(changes=strongest, same_training=True, plan=plan)


def relaxed(config: Config, remedies: Remedies, shapes: ModelShapes, devices: Devices) -> Changes:
    """Of the strongest values of `remedies`, each left out or made milder while the plan fits."""
    changes = {key: values[-1] for key, values in remedies}
    for key, values in reversed(remedies):
        for milder in ({}, *({key: value} for value in values)):
            trial = {name: value for name, value in changes.items() if name != key} | milder
            if make_plan(with_changes(config, trial), shapes, devices).fits:
                changes = trial
                break
    return {key: changes[key] for key, _ in remedies if key in changes}


def memory_remedies(config: Config, plan: Plan) -> Remedies:
    """What `config` can still give up in memory for time."""
    remedies: Remedies = [
        ("model.head_chunk_tokens", halves(config.model.head_chunk_tokens, MIN_CHUNK_TOKENS)),
        (
            "optimizer.tokens_per_microbatch",
            halves(config.optimizer.tokens_per_microbatch, longest_row(config)),
        ),
    ]
    if (engine := plan.engine) and (cache := plan.kv_cache):
        remedies += [
            (
                "engine.init_args.sleep",
                [] if engine.sleep or plan.devices.kind == "cpu" else [True],
            ),
            ("engine.init_args.kv_cache_gib", smaller_caches(cache)),
            (
                "engine.init_args.options.max_num_seqs",
                halves(engine.sequences, MIN_SEQUENCES),
            ),
        ]
    if not config.model.gradient_checkpointing:
        remedies.append(("model.gradient_checkpointing", [True]))
    return [(key, values) for key, values in remedies if values]


def smaller_caches(cache: KVCache) -> list[float]:
    """GiB, from the present size down to one sequence; just that where not even one fits."""
    least = math.ceil(cache.longest * cache.bytes_per_token / GIB / KV_STEP_GIB)
    present = math.ceil(cache.size / GIB / KV_STEP_GIB)
    steps = range(present - 1, least - 1, -1) if cache.whole_sequences else [least]
    return [step * KV_STEP_GIB for step in steps]


def halves(present: int, least: int) -> list[int]:
    """`present` halved again and again while above `least`, then `least`; nothing if not above it."""
    values = []
    while present > least:
        present = max(present // 2, least)
        values.append(present)
    return values


def training_changes(config: Config) -> Iterator[Changes]:
    """Changes of the training itself, the paper's LoRA first, then ever shorter responses."""
    lora: Changes = {} if config.model.lora.rank else {"model.lora.rank": 32}
    if lora:
        yield lora
    tokens = config.rollouts.max_response_tokens
    for blocks in range((tokens - 1) // RESPONSE_STEP, 0, -1):
        yield lora | {"rollouts.max_response_tokens": blocks * RESPONSE_STEP}


def with_changes(config: Config, changes: Mapping[str, Any]) -> Config:
    for key, value in changes.items():
        config = with_value(config, key.split("."), value)
    return config


def with_value(node: Any, keys: Sequence[str], value: Any) -> Any:
    """`node`, a dataclass or a mapping, with `value` at the path `keys`."""
    key, *rest = keys
    old = node.get(key) if isinstance(node, Mapping) else getattr(node, key)
    new = with_value(old or {}, rest, value) if rest else value
    return {**node, key: new} if isinstance(node, Mapping) else replace(node, **{key: new})


def written(value: Any) -> str:
    """As on the command line."""
    return str(value).lower() if isinstance(value, bool) else f"{value:g}"
