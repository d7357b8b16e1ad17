"""The plan: what lives in one device's memory in each phase of a run, and whether it fits."""

from dataclasses import dataclass

from ceeh.config.hardware import resolve_precision
from ceeh.config.settings import Config
from ceeh.errors import ConfigError
from ceeh.memory import formulas
from ceeh.memory.devices import Devices
from ceeh.memory.engine import KV_BLOCK_TOKENS, EngineSettings, engine_settings
from ceeh.memory.items import (
    PHASES,
    Item,
    engine_items,
    evaluation_items,
    longest_row,
    overhead,
    update_items,
    weights,
)
from ceeh.memory.shapes import ModelShapes


@dataclass(frozen=True, slots=True, kw_only=True)
class KVCache:
    """`size` bytes. `longest` are the tokens that one sequence can need, `wanted` the sequences that
    would run at once if the cache were no limit."""

    size: int
    bytes_per_token: int
    longest: int
    wanted: int

    @property
    def tokens(self) -> int:
        return self.size // self.bytes_per_token

    @property
    def whole_sequences(self) -> int:
        return self.tokens // self.longest


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Of one device; all hold the same. Nothing is known of an engine that is not ceeh's own."""

    devices: Devices
    items: tuple[Item, ...]
    engine: EngineSettings | None
    kv_cache: KVCache | None
    host_bytes: int
    """Of main memory, per process beside a GPU: what loading the weights takes."""

    def held(self, phase: str) -> int:
        return sum(item.size for item in self.items if phase in item.phases)

    @property
    def peak(self) -> int:
        return max(self.held(phase) for phase in PHASES)

    @property
    def one_sequence_fits(self) -> bool:
        """vLLM refuses to start with a KV cache that cannot hold one sequence of full length."""
        return self.kv_cache is None or self.kv_cache.whole_sequences >= 1

    @property
    def fits(self) -> bool:
        return self.peak <= self.devices.usable and self.one_sequence_fits


def make_plan(config: Config, shapes: ModelShapes, devices: Devices) -> Plan:
    """The plan of `config` for a model of `shapes`, a process per device.

    Raises ConfigError for settings whose memory cannot be planned, each with its cure.
    """
    if config.model.attention == "eager":
        raise ConfigError(
            "model.attention: eager keeps a score for each pair of tokens and has no memory plan; "
            "use sdpa or flash_attention_2"
        )
    precision = resolve_precision(config.hardware, devices.kind)
    compute = 2 if precision == "bf16-mixed" else 4
    engine = engine_settings(config, devices, precision)
    items = [
        *weights(config, shapes, devices),
        *overhead(devices, engine),
        *(engine_items(shapes, devices, engine) if engine else ()),
        *update_items(config, shapes, devices, compute=compute),
        *evaluation_items(config, shapes, devices, compute=compute),
    ]
    return Plan(
        devices=devices,
        items=tuple(item for item in items if item.size),
        engine=engine,
        kv_cache=kv_cache(config, shapes, devices, engine) if engine else None,
        host_bytes=formulas.master_weights(shapes),
    )


def kv_cache(
    config: Config, shapes: ModelShapes, devices: Devices, engine: EngineSettings
) -> KVCache:
    block, rollouts = KV_BLOCK_TOKENS[devices.kind], config.rollouts
    rows = rollouts.prompts_per_step // devices.count * rollouts.completions_per_prompt
    return KVCache(
        size=engine.kv_cache,
        bytes_per_token=formulas.kv_bytes_per_token(shapes, dtype=engine.dtype),
        longest=-(-longest_row(config) // block) * block,
        wanted=min(engine.sequences, rows),
    )
