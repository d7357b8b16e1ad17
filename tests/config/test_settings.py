"""Configuration: files and overrides merge in order; every mistake names place, rule, value and cure."""

import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from ceeh.config.reference import entries
from ceeh.config.settings import Config, load, to_yaml
from ceeh.errors import ConfigError
from ceeh.runtime.text import flatten

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "configs" / "ceeh.yaml"
OVERLAYS = [
    path
    for path in SHIPPED.parent.rglob("*.yaml")
    if path != SHIPPED and path.parent.name not in ("benchmarks", "data")
]


def written(folder: Path, text: str) -> Path:
    path = folder / "overlay.yaml"
    path.write_text(text)
    return path


def test_later_files_and_then_overrides_win(tmp_path: Path) -> None:
    overlay = written(tmp_path, "optimizer: {lr: 0.5}\nseed: 3\n")
    config = load([SHIPPED, overlay], ["seed=4"])
    assert (config.optimizer.lr, config.seed, config.rollouts.steps) == (0.5, 4, 100)


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda p: p.stem)
def test_every_shipped_overlay_fits_on_the_shipped_configuration(overlay: Path) -> None:
    # An overlay that says what is trained names the run; hardware goes with any.
    named = "starter" if overlay.parent.name == "hardware" else overlay.stem
    assert load([SHIPPED, overlay]).name == named


def test_the_shipped_configuration_sets_only_what_differs_from_the_defaults() -> None:
    def leaves(values: object) -> dict:
        container = OmegaConf.to_container(OmegaConf.create(values))  # type: ignore[call-overload]
        return flatten(container)  # type: ignore[arg-type]

    defaults = leaves(OmegaConf.structured(Config))
    repeated = [
        key for key, value in leaves(OmegaConf.load(SHIPPED)).items() if defaults.get(key) == value
    ]
    assert repeated == []


def test_another_class_does_not_inherit_arguments(tmp_path: Path) -> None:
    other = ["verifier.class_path=mine.py:Other", "verifier.init_args.a=1"]
    assert load([SHIPPED], other).verifier.init_args == {"a": 1}
    same = ["verifier.class_path=ceeh.data.verify.ExactAnswer"]
    assert "pattern" in load([SHIPPED], same).verifier.init_args
    overlay = written(tmp_path, "verifier: {class_path: mine.py:Other}")
    assert load([SHIPPED, overlay]).verifier.init_args == {}


def test_printed_configuration_reads_back_to_the_same_and_is_frozen(tmp_path: Path) -> None:
    config = load([SHIPPED])
    assert load([written(tmp_path, to_yaml(config))]) == config
    with pytest.raises(AttributeError):
        config.seed = 1  # type: ignore[misc]


def test_callbacks_can_be_added_and_changed_from_the_command_line() -> None:
    given = ["callbacks.mine.class_path=a.py:B", "callbacks.difficulty.init_args.rise=0.5"]
    config = load([SHIPPED], given)
    assert config.callbacks["mine"].class_path == "a.py:B"
    assert config.callbacks["difficulty"].init_args == {"rise": 0.5, "fall": 0.05}


def test_an_argument_called_class_path_can_be_overridden() -> None:
    given = [
        "verifier.class_path=ceeh.data.verify.RewardFunction",
        "verifier.init_args.class_path=a.py:f",
        "verifier.init_args.class_path=b.py:g",
    ]
    assert load([], given).verifier.init_args == {"class_path": "b.py:g"}


def test_all_broken_rules_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        load([SHIPPED], ["objective.clip_low=3.0", "optimizer.lr=-1"])
    assert len(str(error.value).splitlines()) == 2


def test_every_setting_is_read_by_something() -> None:
    files = [file for file in (ROOT / "ceeh").rglob("*.py") if file.name != "settings.py"]
    source = "".join(file.read_text() for file in files)
    names = {entry.path.rpartition(".")[2] for entry in entries(Config)}
    assert {name for name in names if not re.search(rf"\.{name}\b", source)} == set()
