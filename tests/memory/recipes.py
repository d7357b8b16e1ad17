"""The shipped recipes, the models that they name, and their plans."""

from pathlib import Path
from typing import Any

import pytest
from transformers import Qwen2Config

from ceeh.config.settings import Config, load
from ceeh.memory.advice import with_value
from ceeh.memory.devices import parse_devices
from ceeh.memory.plan import Plan, make_plan
from ceeh.memory.shapes import read_shapes

CONFIGS = Path(__file__).parents[2] / "configs"
BASE = [CONFIGS / "ceeh.yaml", CONFIGS / "math.yaml"]
R1_DISTILL_QWEN = {"1.5b": (1536, 12, 2, 8960, 151936), "7b": (3584, 28, 4, 18944, 152064)}
"""Hidden size, heads, key-value heads, MLP size, vocabulary."""


@pytest.fixture(scope="session", params=R1_DISTILL_QWEN)
def distilled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with only the config.json of DeepSeek-R1-Distill-Qwen, named like the recipes."""
    folder = tmp_path_factory.mktemp("models") / request.param
    folder.mkdir()
    hidden, heads, kv_heads, mlp, vocabulary = R1_DISTILL_QWEN[request.param]
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=28,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
    )
    config.architectures = ["Qwen2ForCausalLM"]
    config.save_pretrained(folder)
    return folder


def recipe(model: str, method: str, hardware: str) -> Config:
    return load(
        [*BASE, CONFIGS / f"paper/{model}_{method}.yaml", CONFIGS / f"hardware/{hardware}.yaml"]
    )


def changed(config: Config, changes: dict[str, Any]) -> Config:
    for key, value in changes.items():
        config = with_value(config, key.split("."), value)
    return config


def planned(config: Config, folder: Path, devices: str) -> Plan:
    return make_plan(config, read_shapes(config.model, str(folder)), parse_devices(devices))


def sizes(plan: Plan) -> dict[str, int]:
    return {name: size for name, size, _ in plan.items}
