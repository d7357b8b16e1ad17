"""Values against annotations: what is accepted, what it becomes, and what is said of the rest."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import pytest

from ceeh.config.typed import typed
from ceeh.errors import ConfigError


@pytest.mark.parametrize(
    ("annotation", "value", "becomes"),
    [
        (float, 3, 3.0),
        (float | None, None, None),
        (int | float, 3, 3),
        (float | str, "x", "x"),
        (str, 7, "7"),
        (str | int, 7, 7),
        (Literal["a", 1], 1, 1),
        (Sequence[float], [1, 2.5], [1.0, 2.5]),
        (tuple[int, ...], [1, 2], (1, 2)),
        (str | int | Sequence[int], [1], [1]),
        (dict[str, Any] | None, {"a": [None]}, {"a": [None]}),
        (Mapping[str, float], {"a": 1}, {"a": 1.0}),
        (Any, object, object),
        (Callable[..., float], "file.py:f", "file.py:f"),  # what YAML cannot hold is not checked
        ("NotImported", 3, 3),
        ([int], 3, 3),
    ],
)
def test_a_value_of_the_type_is_accepted(annotation: Any, value: Any, becomes: Any) -> None:
    found = typed(value, annotation, "a.b")
    assert found == becomes
    assert type(found) is type(becomes)


@pytest.mark.parametrize(
    ("annotation", "value", "message"),
    [
        (float, "big", "a.b must be a number, got 'big'"),
        (float | None, "big", "a.b must be a number or null, got 'big'"),
        (float, True, "a.b must be a number, got true"),
        (int, 1e9, "a.b must be a whole number, got 1000000000.0; write 1000000000"),
        (int, 2**63, f"a.b must be a whole number, got {2**63}; it must fit 64 bits"),
        (bool, "no", "a.b must be true or false, got 'no'"),
        (bool, 0, "a.b must be true or false, got 0"),
        (str, 1.5, "a.b must be text, got 1.5; put it in quotes if it is text"),
        (str, None, "a.b must be text, got null"),
        (Literal["a", "b"], "c", "a.b must be one of a, b, got 'c'"),
        (Literal[1, 2], True, "a.b must be one of 1, 2, got true"),
        (list[str], "x", "a.b must be a list of text, got 'x'"),
        (Sequence[int], [1, "x"], "a.b[1] must be a whole number, got 'x'"),
        (Sequence[int] | None, [1, "x"], "a.b[1] must be a whole number, got 'x'"),
        (dict[str, Any], [1], "a.b must be a mapping, got [1]"),
        (Mapping[str, int], {"c": "x"}, "a.b.c must be a whole number, got 'x'"),
    ],
)
def test_another_is_refused_in_one_sentence(annotation: Any, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        typed(value, annotation, "a.b")
    assert str(caught.value) == message
