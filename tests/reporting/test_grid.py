"""Tables of text: they fit a terminal, and groups are named once."""

import pytest

from ceeh.reporting.grid import Grid, cell

WIDE = Grid(
    title="t",
    header=["level", "policy", *(f"metric {number}" for number in range(8))],
    rows=[
        [level, policy, *["10382.4 [10102.4, 10662.9]"] * 8]
        for level in ("all", "1")
        for policy in ("base", "a policy with a name")
    ],
    labels=2,
)


@pytest.mark.parametrize("width", [80, 100])
def test_columns_that_do_not_fit_follow_below_with_the_names_again(width: int) -> None:
    lines = WIDE.text(width).splitlines()
    assert max(map(len, lines)) <= width
    headers = [line for line in lines if "metric" in line]
    assert " ".join(headers).split().count("policy") == len(headers) > 1
    assert [number for line in headers for number in line.split() if number.isdigit()] == [
        str(number) for number in range(8)
    ]
    assert sum(line.startswith("base ") for line in lines) == 2 * len(headers)
    assert sum(line.startswith("-- all -") for line in lines) == len(headers)


def test_a_column_wider_than_the_terminal_is_shown_whole() -> None:
    assert WIDE.text(20).count("[10102.4, 10662.9]") == 4 * 8


def test_rows_without_a_shared_first_cell_keep_it() -> None:
    grid = Grid(title="t", header=["policy", "x"], rows=[["base", "1"], ["tuned", "2"]])
    assert grid.text() == "t\npolicy  x\n---------\nbase    1\ntuned   2"


def test_an_interval_without_width_is_not_printed() -> None:
    assert cell({"value": 1.0, "low": 1.0, "high": 1.0}, scale=100) == "100.0"
    assert cell({"value": 1.0, "low": 0.9996, "high": 1.0}, scale=100) == "100.0 [100.0, 100.0]"
    assert cell({"value": 1.0, "low": 0.996, "high": 1.0}, scale=100) == "100.0 [99.6, 100.0]"
    zero = dict.fromkeys(("value", "low", "high"), 0.0)
    assert cell(zero, signed=True, unit=" %") == "+0.0 %"
    assert cell(None) == "-"
