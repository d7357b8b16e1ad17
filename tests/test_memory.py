"""Plans of the shipped recipes on the models they name, and the advice where one does not fit."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
from transformers import Qwen2Config

from ceeh.config.settings import Config, load
from ceeh.dry_run import advise, with_value
from ceeh.errors import ConfigError
from ceeh.memory import (
    EVALUATION,
    GIB,
    ROLLOUTS,
    UPDATE,
    Devices,
    Plan,
    machine_memory,
    make_plan,
    parse_devices,
    present_devices,
    read_shapes,
)

CONFIGS = Path(__file__).parent.parent / "configs"
BASE = [CONFIGS / "ceeh.yaml", CONFIGS / "math.yaml"]
HARDWARE = {"1x24gb": "1x24GB", "1x80gb": "1x80GB", "8x80gb": "8x80GB"}
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


@pytest.mark.parametrize(
    ("text", "kind", "count", "gib"),
    [
        ("8x80GB", "cuda", 8, 80),
        ("1x24gib", "cuda", 1, 24),
        ("2x47.5GB", "cuda", 2, 47.5),
        ("cpu:24GB", "cpu", 1, 24),
    ],
)
def test_devices_are_read(text: str, kind: str, count: int, gib: float) -> None:
    assert parse_devices(text) == Devices(kind, count, int(gib * GIB))


@pytest.mark.parametrize(
    "text", ["8x", "0x80GB", "8x0GB", "8x80", "banana", "80GB", "-1x80GB", "cpu:"]
)
def test_invalid_devices_are_refused(text: str) -> None:
    message = f"with its unit, such as 8x80GB, or cpu:24GB, got '{text}'"
    with pytest.raises(ConfigError, match=message):
        parse_devices(text)


def test_processes_on_a_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    devices = present_devices("cpu")
    assert (devices.count, devices.size) == (4, machine_memory() // 2)
    assert devices.usable < devices.size


def test_shapes_are_those_of_the_model(distilled: Path) -> None:
    config = recipe(distilled.name, "me", "1x80gb")
    shapes = read_shapes(config.model, str(distilled))
    # 28 layers; 1.5B: 2 x 151,936 x 1,536 and 46.8M a layer; 7B: 2 x 152,064 x 3,584 and 233.1M.
    base, trained = {"1.5b": (1_777_088_000, 36_929_536), "7b": (7_615_616_512, 80_740_352)}[
        distilled.name
    ]
    assert (shapes.parameters - shapes.trained, shapes.trained) == (base, trained)
    assert not shapes.tied


@pytest.mark.parametrize(("method", "hardware"), list(product(["me", "ea"], HARDWARE)))
def test_recipes_fit_except_7b_on_24_gb(distilled: Path, method: str, hardware: str) -> None:
    config = recipe(distilled.name, method, hardware)
    plan = planned(config, distilled, HARDWARE[hardware])
    assert plan.fits == ((distilled.name, hardware) != ("7b", "1x24gb"))
    assert plan.engine is not None
    assert plan.engine.kv_tokens >= 3 * plan.engine.longest


@pytest.mark.parametrize("distilled", ["1.5b"], indirect=True)
def test_the_example_that_trains_all_weights_fits_one_gpu(distilled: Path) -> None:
    config = load([*BASE, CONFIGS / "examples/1.5b_1x80gb.yaml"])
    plan = planned(config, distilled, "1x80GB")
    assert plan.fits
    assert "reference policy" not in {name for name, size, _ in plan.items if size}
    assert plan.engine is not None
    assert plan.engine.kv_tokens >= 64 * plan.engine.longest


def test_items_follow_from_parameters_precision_and_devices(distilled: Path) -> None:
    lora = recipe(distilled.name, "me", "1x80gb")
    shapes = read_shapes(lora.model, str(distilled))
    held = sizes(make_plan(lora, shapes, parse_devices("1x80GB")))
    assert held["policy weights"] == 4 * shapes.parameters
    assert (held["gradients"], held["AdamW moments"]) == (4 * shapes.trained, 8 * shapes.trained)
    assert held["engine weights"] == 2 * (shapes.parameters - shapes.trained)
    assert not {"reference policy", "gradient buckets"} & held.keys()
    # In bf16: a key and a value, 28 layers, 2 or 4 heads of 128, 2 bytes: 28 or 56 KiB a token.
    engine = make_plan(lora, shapes, parse_devices("1x80GB")).engine
    assert engine is not None
    assert engine.bytes_per_token == {"1.5b": 28, "7b": 56}[distilled.name] * 1024
    several = sizes(make_plan(lora, shapes, parse_devices("8x80GB")))
    assert several["gradient buckets"] == held["gradients"]
    assert several["process"] > held["process"]
    full = changed(lora, {"model.lora.rank": 0, "objective.kl_coefficient": 0.001})
    shapes = read_shapes(full.model, str(distilled))
    held = sizes(make_plan(full, shapes, parse_devices("1x80GB")))
    assert held["reference policy"] == held["gradients"] == 4 * shapes.parameters
    # AdamW takes the roots of all moments at once on a GPU.
    assert held["activations or AdamW"] >= 4 * shapes.trained
    awake = changed(full, {"engine.init_args.sleep": False})
    on_cpu = sizes(make_plan(awake, shapes, parse_devices("cpu:80GB")))
    assert on_cpu["engine weights"] == 4 * (shapes.parameters + shapes.vocabulary * shapes.width)


def test_devices_that_share_an_engine_split_its_weights_and_cache(distilled: Path) -> None:
    config = recipe(distilled.name, "me", "8x80gb")
    shapes = read_shapes(config.model, str(distilled))
    heads = {"1.5b": 2, "7b": 4}[distilled.name]
    assert shapes.kv_heads == heads
    alone = make_plan(config, shapes, parse_devices("8x80GB"))
    for number in (2, 4):
        by = changed(config, {"engine.init_args.tensor_parallel": number})
        shared = make_plan(by, shapes, parse_devices("8x80GB"))
        assert sizes(shared)["engine weights"] == sizes(alone)["engine weights"] // number
        assert sizes(shared)["engine KV cache"] == sizes(alone)["engine KV cache"]
        assert alone.engine is not None
        assert shared.engine is not None
        # A key-value head is not split further.
        assert alone.engine.bytes_per_token / shared.engine.bytes_per_token == min(number, heads)


def test_a_sleeping_engine_releases_weights_and_cache_during_updates(distilled: Path) -> None:
    config = recipe(distilled.name, "me", "1x80gb")
    awake = changed(config, {"engine.init_args.sleep": False})
    asleep, awake = (planned(one, distilled, "1x80GB") for one in (config, awake))
    released = sizes(asleep)["engine weights"] + sizes(asleep)["engine KV cache"]
    for phase, less in ((ROLLOUTS, 0), (UPDATE, released), (EVALUATION, 0)):
        assert awake.held(phase) - asleep.held(phase) == less


def test_advice_keeps_the_training_and_ends_with_the_change_that_fits(distilled: Path) -> None:
    config, devices = load(BASE), {"1.5b": "1x24GB", "7b": "1x80GB"}[distilled.name]
    assert not planned(config, distilled, devices).fits
    changes = advise(config, str(distilled), parse_devices(devices))
    assert planned(changed(config, changes), distilled, devices).fits
    assert not any("lora" in key or key.startswith("rollouts") for key in changes)
    changes.popitem()
    assert not planned(changed(config, changes), distilled, devices).fits


def test_full_training_that_cannot_fit_gets_lora_first(distilled: Path) -> None:
    config = load(BASE, ["model.lora.rank=0"])
    changes = advise(config, str(distilled), parse_devices("1x24GB"))
    assert next(iter(changes.items())) == ("model.lora.rank", 32)
    assert changes["engine.init_args.sleep"] is True
    # Nothing makes 7B fit: policy and engine hold 14 GiB of weights each.
    fits = planned(changed(config, changes), distilled, "1x24GB").fits
    assert fits == (distilled.name == "1.5b")
    assert ("rollouts.max_response_tokens" in changes) != fits


def test_a_cache_below_one_sequence_is_refused_and_raised(distilled: Path) -> None:
    small = {"engine.init_args.kv_cache_gib": 0.25}
    config = changed(recipe(distilled.name, "me", "8x80gb"), small)
    plan = planned(config, distilled, "8x80GB")
    assert plan.peak < plan.devices.usable
    assert not plan.fits
    changes = advise(config, str(distilled), plan.devices)
    # 22,528 tokens of 28 KiB or 56 KiB: 0.60 or 1.20 GiB, in quarters.
    assert changes == {"engine.init_args.kv_cache_gib": {"1.5b": 0.75, "7b": 1.25}[distilled.name]}
    assert planned(changed(config, changes), distilled, "8x80GB").fits


@pytest.mark.parametrize(
    ("override", "devices", "message"),
    [
        ("model.attention=eager", "1x80GB", "model.attention: eager .* use sdpa"),
        ("engine.init_args.sleep=true", "cpu:80GB", "engine.init_args.sleep needs CUDA"),
        (
            "engine.init_args={options: {gpu_memory_utilization: 0.5}, kv_cache_gib: null}",
            "1x80GB",
            "set engine.init_args.kv_cache_gib instead",
        ),
        (
            "model.lora.target_modules=[q_proj, nowhere]",
            "1x80GB",
            "no matrix .* named nowhere; use",
        ),
        ("model.lora.target_modules=[lm_head]", "1x80GB", "no matrix .* named lm_head; use"),
    ],
)
def test_settings_without_a_plan_say_what_to_do(
    override: str, devices: str, message: str, tiny_model_dir: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        planned(load(BASE, [override]), tiny_model_dir, devices)


def test_a_model_with_other_layers_has_no_plan(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"model_type": "gpt2", "n_layer": 2, "n_embd": 8, "n_head": 2}'
    )
    with pytest.raises(ConfigError, match="no memory plan for GPT2LMHeadModel: "):
        read_shapes(load(BASE).model, str(tmp_path))


def test_an_engine_other_than_ceehs_is_left_out(tiny_model_dir: Path) -> None:
    config = load(BASE, ["engine.class_path=tests.torch_engine.TorchEngine"])
    plan = planned(config, tiny_model_dir, "1x24GB")
    assert plan.engine is None
    assert not any(name.startswith("engine") for name in sizes(plan))
