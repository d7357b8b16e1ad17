"""QuestionTable: what it knows, and that a checkpoint gives back just that."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ceeh.runtime.table import QuestionTable

UIDS = st.text(st.characters(exclude_characters="\0"), max_size=8)  # surrogates included
VALUES = st.floats(allow_nan=True, allow_infinity=False)


def filled(entries: dict[str, float]) -> QuestionTable:
    table = QuestionTable()
    for uid, value in entries.items():
        table[uid] = value
    return table


@given(entries=st.dictionaries(UIDS, VALUES, max_size=20))
def test_a_loaded_table_is_the_saved_one(entries: dict[str, float]) -> None:
    table, loaded = filled(entries), QuestionTable()
    loaded.load_state_dict(table.state_dict())
    assert list(loaded.index.items()) == list(table.index.items())
    assert (len(loaded), loaded.num_known) == (len(table), table.num_known)
    assert all(
        loaded[uid] == value or (math.isnan(loaded[uid]) and math.isnan(value))
        for uid, value in entries.items()
    )
    loaded["new"] = 0.5  # more entries can follow
    assert loaded["new"] == 0.5


@given(entries=st.dictionaries(UIDS, st.floats(0, 1) | st.just(math.nan), max_size=20))
def test_a_histogram_has_each_known_entry_in_one_bin(entries: dict[str, float]) -> None:
    known = [value for value in entries.values() if not math.isnan(value)]
    below = sum(value < 0.25 for value in known)
    found = filled(entries).histogram((0.0, 0.25, 1.0))
    if known:
        assert found == [below / len(known), (len(known) - below) / len(known)]
    else:
        assert all(map(math.isnan, found))


def test_the_state_is_two_tensors_that_the_safe_loader_takes(tmp_path: Path) -> None:
    torch.save(filled({"a": 0.5, "bc": math.nan}).state_dict(), tmp_path / "state")
    state = torch.load(tmp_path / "state", weights_only=True)
    assert bytes(state["uids"].tolist()) == b"a\0bc\0"
    assert state["values"].tolist()[0] == 0.5


def test_a_uid_with_a_nul_is_named() -> None:
    with pytest.raises(ValueError, match=r"the uid 'a\\x00b' has a NUL character"):
        filled({"a": 1.0, "a\0b": 1.0}).state_dict()


def test_quantiles_are_of_the_known_values():
    table = filled({"a": 0.0, "b": math.nan, "c": 1.0, "d": 0.5})
    assert [table.quantile(level) for level in (0.25, 0.5, 1.0)] == [0.25, 0.5, 1.0]
    assert math.isnan(QuestionTable().quantile(0.5))


def test_means_ignore_unknown_values() -> None:
    table = filled({"a": 1.0, "b": math.nan, "c": 4.0})
    assert (table.mean(), table.fraction_below(2.0), len(table)) == (2.5, 0.5, 3)
    assert math.isnan(QuestionTable().mean())
