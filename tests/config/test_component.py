"""Components: a class by import path or file, its arguments checked before it is built."""

import inspect
from dataclasses import dataclass
from pathlib import Path

import jaxtyping
import pytest

from ceeh.config.component import MOVED, Component
from ceeh.errors import ConfigError

HERE = f"{__name__}.Thing"
DIFFICULTY = "ceeh.callbacks.difficulty.RollingDifficulty"


@dataclass
class Thing:
    size: int
    color: str = "red"

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1, got {self.size}")


def test_a_class_path_of_version_0_1_names_its_new_place() -> None:
    for old, new in MOVED.items():
        with pytest.raises(
            ConfigError, match=f"^engine.class_path: {old} is now {new}; change it in"
        ):
            Component(old).build("engine")
        assert inspect.isclass(Component(new).imported("engine"))


def test_a_file_in_the_home_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "at_home.py").write_text("class Thing: pass")
    assert type(Component("~/at_home.py:Thing").build("engine")).__name__ == "Thing"


def test_arguments_come_from_yaml_then_from_the_context() -> None:
    built = Component(HERE, {"size": 3}).build("engine", color="blue", unknown=1)
    assert built == Thing(size=3, color="blue")
    # init_args win over the context.
    assert Component(HERE, {"size": 3, "color": "green"}).build("x", color="blue").color == "green"


def test_a_class_is_loaded_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("class Mine:\n    def __init__(self, n: int = 2):\n        self.n = n\n")
    assert Component(f"{file}:Mine", {"n": 5}).build("callbacks.mine").n == 5
    assert Component("fractions.Fraction", {"numerator": 3}).build("x") == 3


@pytest.mark.parametrize(
    ("class_path", "arguments", "message"),
    [
        ("", {}, r"engine\.class_path must be .*, got ''"),
        ("no_such.module.Thing", {}, r"engine\.class_path: cannot import 'no_such\.module'"),
        (
            "nowhere.py:Thing",
            {},
            r"cannot import 'nowhere\.py' \(no file nowhere\.py; paths are relative to /",
        ),
        (f"{__name__}.Think", {}, r"has no 'Think'; its classes are: Thing"),
        (HERE, {"size": 1, "sice": 2}, r"init_args\.sice is not an argument of .*size, color"),
        (HERE, {}, r"engine\.init_args lacks size, which .* needs"),
        ("logging.LogRecord", {"name": "a"}, "engine.init_args lacks level, pathname, lineno"),
        (HERE, {"size": 0}, r"engine \(.*Thing\): size must be at least 1, got 0"),
    ],
)
def test_a_mistake_names_its_place_and_the_cure(
    class_path: str, arguments: dict, message: str
) -> None:
    """More of them in tests/bad_input/test_user_classes.py."""
    with pytest.raises(ConfigError, match=message):
        Component(class_path, arguments).build("engine")


def test_an_argument_of_another_type_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^engine.init_args.size must be a whole number, got 'a'"
    ):
        Component(HERE, {"size": "a"}).build("engine")
    file = tmp_path / "later.py"
    file.write_text(
        "from __future__ import annotations\n"
        "class Known:\n    def __init__(self, n: int = 2): self.n = n\n"
        "class Unknown:\n    def __init__(self, n: Nowhere = 2): self.n = n\n"
    )
    with pytest.raises(ConfigError, match=r"init_args.n must be a whole number, got 'x'"):
        Component(f"{file}:Known", {"n": "x"}).build("engine")
    assert Component(f"{file}:Unknown", {"n": "x"}).build("engine").n == "x"


@pytest.mark.parametrize(
    ("base", "name", "words"),
    [
        (DIFFICULTY, "judged", "history, last_visit, own_group"),
        (DIFFICULTY, "threshold", "mean, median, quantile, fixed"),
        ("ceeh.callbacks.optimal_length.OptimalLength", "rule", "minimum, ema, median, own_group"),
        ("ceeh.modules.shaping.OptimalLengthPenalty", "floor_on", "scaled, unscaled"),
    ],
)
def test_an_unknown_option_is_refused_where_no_annotation_tells(
    base: str, name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # the tests check every call
    package, _, parent = base.rpartition(".")
    (tmp_path / "mine.py").write_text(
        f"from {package} import {parent}\n"
        f"class Mine({parent}):\n"
        "    def __init__(self, **given): super().__init__(**given)\n"
    )
    mine = Component(f"{tmp_path}/mine.py:Mine", {name: "min"})
    with pytest.raises(ConfigError, match=f"{name} must be one of {words}, got min"):
        mine.build("callbacks.mine")


def test_a_file_that_does_not_run_is_reported_and_not_left_half_imported(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text("import math\nvalue = math.no_such_thing\n")
    with pytest.raises(ConfigError, match=r"AttributeError.*no_such_thing"):
        Component(f"{file}:Mine").build("callbacks.mine")
    file.write_text("class Mine: pass\n")
    assert Component(f"{file}:Mine").build("callbacks.mine")
