"""Questions of reasoning-gym: its generators, our splits. A stand-in replaces the optional package."""

import re
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from ceeh.data.sources import ReasoningGym
from ceeh.errors import ConfigError


def create_dataset(name: str, *, size: int, seed: int, kinds: int = 1000, **options: Any) -> list:
    """As reasoning_gym.create_dataset: `size` rows that depend on the seed, with repetitions."""
    if name != "sums" or options:
        raise ValueError(f"Dataset {name} not registered")
    return [
        {
            "question": f" {(seed + n) % kinds}+1? ",
            "answer": str((seed + n) % kinds + 1),
            "metadata": {"source_index": n},
        }
        for n in range(size)
    ]


@pytest.fixture(autouse=True)
def _package(monkeypatch: pytest.MonkeyPatch) -> None:
    package = SimpleNamespace(create_dataset=create_dataset)
    monkeypatch.setitem(sys.modules, "reasoning_gym", package)


def test_questions_are_distinct_and_splits_disjoint_whatever_the_seeds() -> None:
    train = [q.text for q in ReasoningGym("sums", 60, seed=3)]
    held_out = [q.text for q in ReasoningGym("sums", 20, seed=5, split="held_out")]
    assert (len(set(train)), len(set(held_out))) == (60, 20)
    assert set(train) & set(held_out) == set()
    (first, *_) = ReasoningGym("sums", 5)
    assert first.text == first.text.strip()
    assert int(first.answer) == int(first.text.split("+")[0]) + 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"generator": "none", "questions": 4},
            "the generator 'none' of reasoning-gym: Dataset none",
        ),
        ({"generator": "sums", "questions": 0}, "questions must be at least 1"),
        ({"generator": "sums", "questions": 4, "split": "dev"}, "split must be one of"),
    ],
)
def test_a_wrong_setting_is_refused(given: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        ReasoningGym(**given)


def test_a_generator_with_too_few_questions_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"gave \d+ of 30 distinct questions .* lower questions"):
        list(ReasoningGym("sums", 30, options={"kinds": 20}))


def test_without_the_package_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(ConfigError, match=r'pip install "ceeh\[reasoning-gym\]"'):
        ReasoningGym("sums", 4)
