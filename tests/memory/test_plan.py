"""Plans of the shipped recipes on the models they name, and the advice where one does not fit."""

from itertools import product
from pathlib import Path

import pytest

from ceeh.config.settings import Config, load
from ceeh.errors import ConfigError
from ceeh.memory import formulas
from ceeh.memory.advice import advise, with_changes
from ceeh.memory.devices import GIB, parse_devices
from ceeh.memory.items import EVALUATION, ROLLOUTS, STEP, UPDATE
from ceeh.memory.plan import Plan, make_plan
from ceeh.memory.shapes import ModelShapes, read_shapes

CONFIGS = Path(__file__).parent.parent.parent / "configs"
BASE = [CONFIGS / "ceeh.yaml", CONFIGS / "math.yaml"]
HARDWARE = {"1x24gb": "1x24GB", "1x80gb": "1x80GB", "8x80gb": "8x80GB"}


def recipe(model: str, method: str, hardware: str) -> Config:
    return load(
        [*BASE, CONFIGS / f"paper/{model}_{method}.yaml", CONFIGS / f"hardware/{hardware}.yaml"]
    )


def planned(config: Config, folder: Path, devices: str) -> Plan:
    return make_plan(config, read_shapes(config.model, str(folder)), parse_devices(devices))


def test_the_shapes_are_those_of_the_models(distilled: Path) -> None:
    config = recipe(distilled.name, "me", "1x80gb")
    shapes = read_shapes(config.model, str(distilled))
    # 28 layers; 1.5B: 2 x 151,936 x 1,536 and 46.8M a layer; 7B: 2 x 152,064 x 3,584 and 233.1M.
    base, trained = {"1.5b": (1_777_088_000, 36_929_536), "7b": (7_615_616_512, 80_740_352)}[
        distilled.name
    ]
    assert (shapes.parameters - shapes.trainable, shapes.trainable) == (base, trained)
    assert not shapes.tied


@pytest.mark.parametrize(("method", "hardware"), list(product(["me", "ea"], HARDWARE)))
def test_recipes_fit_but_for_7b_on_24_gb(distilled: Path, method: str, hardware: str) -> None:
    config = recipe(distilled.name, method, hardware)
    plan = planned(config, distilled, HARDWARE[hardware])
    assert plan.fits == ((distilled.name, hardware) != ("7b", "1x24gb"))
    assert plan.kv_cache is not None
    assert plan.kv_cache.whole_sequences >= 3


def test_7b_on_24_gb_is_refused_for_its_weights_whatever_the_settings(distilled: Path) -> None:
    config = recipe(distilled.name, "me", "1x24gb")
    shapes = read_shapes(config.model, str(distilled))
    advice = advise(config, shapes, parse_devices("1x24GB"))
    assert advice.plan.fits == (distilled.name == "1.5b")
    if distilled.name == "7b":
        assert formulas.master_weights(shapes) > 28 * GIB


def test_a_sleeping_engine_gives_its_weights_and_cache_back_while_training(distilled: Path) -> None:
    config = recipe(distilled.name, "me", "1x80gb")
    awake = with_changes(config, {"engine.init_args.sleep": False})
    asleep, awake = (planned(one, distilled, "1x80GB") for one in (config, awake))
    given_back = sum(
        i.size for i in asleep.items if i.name in ("engine weights", "engine KV cache")
    )
    for phase, less in ((ROLLOUTS, 0), (UPDATE, given_back), (STEP, given_back), (EVALUATION, 0)):
        assert awake.held(phase) - asleep.held(phase) == less


def test_the_advice_is_the_mildest_that_fits(distilled: Path) -> None:
    config = load([*BASE])
    shapes = read_shapes(config.model, str(distilled))
    for devices in ("1x24GB", "1x80GB"):
        advice = advise(config, shapes, parse_devices(devices))
        if not advice.plan.fits:
            assert (distilled.name, devices) == ("7b", "1x24GB")
            continue
        assert advice.same_training
        assert not any("lora" in key or key.startswith("rollouts") for key in advice.changes)
        # Without any one of the changes it fits no more.
        for key in advice.changes:
            fewer = {name: value for name, value in advice.changes.items() if name != key}
            changed = with_changes(config, fewer)
            assert not make_plan(changed, shapes, parse_devices(devices)).fits, key


def test_full_training_that_cannot_fit_is_told_of_lora(distilled: Path) -> None:
    if distilled.name == "7b":
        pytest.skip("nothing makes 7B fit")
    config = load(BASE, ["model.lora.rank=0"])
    shapes = read_shapes(config.model, str(distilled))
    advice = advise(config, shapes, parse_devices("1x24GB"))
    assert advice.plan.fits
    assert not advice.same_training
    assert advice.changes["model.lora.rank"] == 32
    assert "model.lora.rank=32 " in str(advice)
    assert "engine.init_args.sleep=true" in str(advice)
    # What is said of LoRA without the model at hand is what the model itself says.
    lora = load(BASE, ["model.lora.rank=32"])
    assert shapes.with_adapters(32) == read_shapes(lora.model, str(distilled))


def test_a_cache_below_one_sequence_is_refused_and_raised(distilled: Path) -> None:
    config = with_changes(
        recipe(distilled.name, "me", "8x80gb"), {"engine.init_args.kv_cache_gib": 0.25}
    )
    plan = planned(config, distilled, "8x80GB")
    assert plan.peak < plan.devices.usable
    assert not plan.fits
    advice = advise(config, read_shapes(config.model, str(distilled)), plan.devices)
    # 22,528 tokens of 28 KiB or 56 KiB: 0.60 or 1.20 GiB, in quarters.
    assert advice.changes == {
        "engine.init_args.kv_cache_gib": {"1.5b": 0.75, "7b": 1.25}[distilled.name]
    }
    assert advice.plan.fits


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
        ("model.lora.target_modules=[nowhere]", "1x80GB", "target_modules: .* has no nowhere"),
        ("model.lora.target_modules=[lm_head]", "1x80GB", "must not name the output head"),
    ],
)
def test_settings_without_a_plan_say_what_to_do(
    tmp_path: Path, override: str, devices: str, message: str, tiny_model_dir: Path
) -> None:
    config = load(BASE, [override])
    with pytest.raises(ConfigError, match=message):
        planned(config, tiny_model_dir, devices)


def test_a_model_of_another_build_has_no_plan(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"model_type": "gpt2", "n_layer": 2, "n_embd": 8, "n_head": 2}'
    )
    with pytest.raises(ConfigError, match="no memory plan for GPT2LMHeadModel: "):
        read_shapes(load(BASE).model, str(tmp_path))


def test_an_engine_of_ones_own_is_left_out(tiny_model_dir: Path) -> None:
    config = load(BASE, ["engine.class_path=tests.torch_engine.TorchEngine"])
    shapes: ModelShapes = read_shapes(config.model, str(tiny_model_dir))
    plan = make_plan(config, shapes, parse_devices("1x24GB"))
    assert plan.engine is None
    assert not any(item.name.startswith("engine") for item in plan.items)
