"""Configuration: files and overrides merge in order, and every mistake names place, rule, value, cure."""

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from ceeh.config.component import Component
from ceeh.config.settings import Config, load, to_yaml
from ceeh.errors import ConfigError

SHIPPED = Path(__file__).parents[2] / "configs" / "ceeh.yaml"


def written(folder: Path, text: str) -> Path:
    path = folder / "overlay.yaml"
    path.write_text(text)
    return path


def test_later_files_and_then_overrides_win(tmp_path: Path) -> None:
    overlay = written(tmp_path, "optimizer: {lr: 0.5}\nseed: 3\n")
    config = load([SHIPPED, overlay], ["seed=4"])
    assert (config.optimizer.lr, config.seed, config.rollouts.steps) == (0.5, 4, 100)


@pytest.mark.parametrize(
    "overlay",
    [
        path
        for path in SHIPPED.parent.rglob("*.yaml")
        if path != SHIPPED and path.parent.name not in ("benchmarks", "data")
    ],
    ids=lambda p: p.stem,
)
def test_every_shipped_overlay_fits_on_the_shipped_configuration(overlay: Path) -> None:
    # One that says what is trained names the run; hardware goes with any.
    named = "starter" if overlay.parent.name == "hardware" else overlay.stem
    assert load([SHIPPED, overlay]).name == named


def test_another_class_does_not_inherit_arguments(tmp_path: Path) -> None:
    other = ["verifier.class_path=mine.py:Other", "verifier.init_args.a=1"]
    assert load([SHIPPED], other).verifier.init_args == {"a": 1}
    same = ["verifier.class_path=ceeh.data.verify.ExactAnswer"]
    assert "pattern" in load([SHIPPED], same).verifier.init_args
    overlay = written(tmp_path, "verifier: {class_path: mine.py:Other}")
    assert load([SHIPPED, overlay]).verifier.init_args == {}


def test_printed_configuration_reads_back_to_the_same(tmp_path: Path) -> None:
    config = load([SHIPPED])
    assert load([written(tmp_path, to_yaml(config))]) == config


def test_configuration_is_frozen() -> None:
    config = load([SHIPPED])
    with pytest.raises(AttributeError):
        config.seed = 1  # type: ignore[misc]


def test_callbacks_can_be_added_and_changed_from_the_command_line() -> None:
    config = load(
        [SHIPPED],
        ["callbacks.mine.class_path=a.py:B", "callbacks.difficulty.init_args.rise=0.5"],
    )
    assert config.callbacks["mine"].class_path == "a.py:B"
    assert config.callbacks["difficulty"].init_args == {"rise": 0.5, "fall": 0.05}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("objective.clip_lo=0.1", "clip_low"),
        ("objective.clip_low=3.0", r"objective.clip_low must be in \(0, 1\), got 3.0"),
        ("optimizer.lr=nan", "optimizer.lr must be a finite number, got nan"),
        ("optimizer.lr=quick", "optimizer.lr"),
        ("rollouts.top_p=0.9", "rollouts.top_p must be 1.0: .* temperature only, got 0.9"),
        ("hardware.precision=bf16-true", "hardware.precision must be auto, 32-true or bf16-mixed"),
        ("hardware.precision=16-true", "rounds the weights' small updates away"),
        ("objective.entropy.method=max", "objective.entropy.method must be one of me, ea"),
        ("rollouts.completions_per_prompt=1", "completions_per_prompt must be at least 2, got 1"),
        (
            "prompts.instruction=' '",
            "prompts.instruction must be a text, or null for none, got ' '",
        ),
        ("name=../x", "name must be letters"),
        ("+a=1", "is not an override; write key=value"),
        ("a.b[0]=3", "is not an override; write key=value"),
        ("seed", "is not an override; write key=value"),
        ("optimizer.prompts_per_minibatch=0", "must be greater than 0, got 0"),
    ],
)
def test_a_wrong_override_is_named_with_its_rule(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load([SHIPPED], [override])


def test_every_broken_rule_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        load([SHIPPED], ["objective.clip_low=3.0", "optimizer.lr=-1"])
    assert len(str(error.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimizer: {lrr: 1}", "Did you mean: 'lr'"),
        ("optimizer: [", "is not valid YAML"),
        ("optimizer: 3", "optimizer"),
        ("- 1", "overlay.yaml must hold a mapping of keys, got a list"),
        ("seed: !!python/object/apply:os.getcwd []", "is not valid YAML"),
    ],
)
def test_a_wrong_file_is_named_with_the_fault(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load([SHIPPED, written(tmp_path, text)])


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no file 'nowhere\.yaml'"):
        load(["nowhere.yaml"])


def test_every_key_is_explained_or_has_a_default() -> None:
    shipped = OmegaConf.to_container(OmegaConf.load(SHIPPED))
    assert isinstance(shipped, dict)
    assert shipped.keys() == Config.__dataclass_fields__.keys() - {"ignored"}


def test_component_builds_from_a_file_and_from_a_package(tmp_path: Path) -> None:
    source = tmp_path / "mine.py"
    source.write_text("class Mine:\n    def __init__(self, a, b=2):\n        self.sum = a + b\n")
    assert Component(f"{source}:Mine", {"a": 1}).build("callbacks.mine").sum == 3
    assert Component(f"{source}:Mine", {"b": 1}).build("callbacks.mine", a=5, c=9).sum == 6
    assert Component("fractions.Fraction", {"numerator": 3}).build("x") == 3


@pytest.mark.parametrize(
    ("class_path", "init_args", "message"),
    [
        ("", {}, "callbacks.x.class_path must be package.module.Class or path/to/file.py:Class"),
        ("nowhere.at.All", {}, "callbacks.x.class_path: cannot import 'nowhere.at'"),
        ("missing.py:A", {}, "cannot import 'missing.py'"),
        ("fractions.Fractoin", {}, "'fractions' has no 'Fractoin'; its classes are: Fraction"),
        ("fractions.Fraction", {"n": 1}, "callbacks.x.init_args.n is not an argument of"),
        ("fractions.Fraction", {"denominator": 0.5}, r"callbacks.x \(fractions.Fraction\): "),
        ("logging.LogRecord", {"name": "a"}, "callbacks.x.init_args lacks level, pathname, lineno"),
    ],
)
def test_a_component_that_does_not_fit_says_why(
    class_path: str, init_args: dict, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Component(class_path, init_args).build("callbacks.x")


def test_an_argument_called_class_path_can_be_overridden() -> None:
    given = [
        "verifier.class_path=ceeh.data.verify.RewardFunction",
        "verifier.init_args.class_path=a.py:f",
        "verifier.init_args.class_path=b.py:g",
    ]
    assert load([], given).verifier.init_args == {"class_path": "b.py:g"}


def test_every_key_is_read_by_something() -> None:
    source = "".join(
        path.read_text()
        for path in (SHIPPED.parent.parent / "ceeh").rglob("*.py")
        if path.name != "config.py"
    )

    def keys(node: object) -> Iterator[str]:
        for item in fields(node):  # type: ignore[arg-type]
            yield item.name
            if is_dataclass(value := getattr(node, item.name)):
                yield from keys(value) if not isinstance(value, Component) else ()

    unread = [key for key in keys(Config()) if not re.search(rf"\.{key}\b", source)]
    assert unread == []
