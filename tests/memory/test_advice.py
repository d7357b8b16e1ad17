"""Advice where a recipe does not fit: what costs speed before what changes the training."""

from pathlib import Path

from ceeh.config.settings import load
from ceeh.memory.advice import advise
from ceeh.memory.devices import parse_devices
from tests.memory.recipes import BASE, changed, planned, recipe


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
