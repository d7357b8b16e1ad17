"""Plans of the shipped recipes on the models they name."""

from itertools import product
from pathlib import Path

import pytest

from ceeh.config.settings import load
from ceeh.errors import ConfigError
from ceeh.memory.devices import parse_devices
from ceeh.memory.plan import EVALUATION, ROLLOUTS, UPDATE, make_plan
from ceeh.memory.shapes import read_shapes
from tests.memory.recipes import BASE, CONFIGS, changed, planned, recipe, sizes

HARDWARE = {"1x24gb": "1x24GB", "1x80gb": "1x80GB", "8x80gb": "8x80GB"}


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


def test_an_engine_other_than_ceehs_is_left_out(tiny_model_dir: Path) -> None:
    config = load(BASE, ["engine.class_path=tests.torch_engine.TorchEngine"])
    plan = planned(config, tiny_model_dir, "1x24GB")
    assert plan.engine is None
    assert not any(name.startswith("engine") for name in sizes(plan))
