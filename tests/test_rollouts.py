"""`ceeh.rollouts`: the rows asked for, in a table that a terminal can show."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ceeh.rollouts import main

ROWS = [
    # uid, response, length, finish, correct
    ("a", "short and right", 3, "stop", True),
    ("a", "long \x1b[31mand right", 9, "stop", True),
    ("b", "wrong", 5, "stop", False),
    ("b", "cut " + "x" * 400 + " off", 12, "length", False),
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    names = ("uid", "response", "length", "finish", "correct")
    columns = dict(zip(names, map(list, zip(*ROWS, strict=True)), strict=True))
    table = pa.table(
        columns
        | {
            "rollout_step": [10] * 4,
            "prompt": ["6*7?"] * 4,
            "answer": ["42"] * 4,
            "reward": [1.0, 0.9, 0.0, 0.0],
            "advantage": [0.5, 0.4, -0.4, -0.5],
            "entropy": [0.1, 0.2, 0.3, 0.4],
        }
    )
    folder = tmp_path / "rollouts"
    folder.mkdir()
    pq.write_table(table, folder / "step-000010.parquet")
    pq.write_table(table.slice(0, 1), folder / "step-000005.parquet")
    return tmp_path


def shown(run: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main([str(run), *arguments]) == 0
    return capsys.readouterr().out


def test_the_last_step_is_summed_up(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # (3 + 9 + 5 + 12) / 4 = 7.25
    line = "rollout step 10: 4 responses to 2 questions, 50.0 % correct, 7.2 tokens on average (3 to 12)"
    assert line in " ".join(shown(run, capsys).split())


@pytest.mark.parametrize(
    ("arguments", "tokens"),
    [
        (["--step", "5"], [3]),
        (["--right", "--sort=-length"], [9, 3]),
        (["--wrong"], [5, 12]),
        (["--incorrect", "--sort=-entropy"], [12, 5]),
        (["--truncated"], [12]),
        (["--uid", "a", "--sort", "length", "--rows", "1"], [3]),
    ],
)
def test_rows_are_selected_and_sorted(
    arguments: list[str], tokens: list[int], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (line.split() for line in shown(run, capsys, *arguments).splitlines())
    results = ("right", "wrong", "truncated")
    assert [
        int(words[2]) for words in lines if words and words[1:2] and words[1] in results
    ] == tokens


def test_a_table_of_any_width_fits_the_terminal_and_names_its_columns(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for width in (80, 100):
        monkeypatch.setenv("COLUMNS", str(width))
        lines = shown(run, capsys).splitlines()
        assert max(map(len, lines)) <= width
        assert any("advantage  entropy  prompt [reference], response" in line for line in lines)


def test_one_response_is_shown_in_full_with_all_that_is_known_of_it(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shown(run, capsys, "--number", "4")
    assert out.count("x") >= 400
    words = [line.split() for line in out.splitlines()]
    assert ["result", "truncated"] in words
    assert ["advantage", "-0.5"] in words
    assert "\x1b" not in shown(run, capsys, "--number", "2")


def test_a_long_response_keeps_its_end_and_no_control_character_reaches_the_terminal(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short, full = shown(run, capsys), shown(run, capsys, "--full")
    assert "\x1b" not in short
    assert short.count("x") < 200 < full.count("x")
    assert "off" in short


def test_no_row_is_said(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no rows match" in shown(run, capsys, "--uid", "c")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--step", "7"], "--step 7 was not logged; logged: 5, 10"),
        (["--rows", "0"], "--rows must be at least 1"),
        (["--number", "5"], "--number must be 1 to 4, got 5"),
    ],
)
def test_a_step_that_is_not_there_is_an_error(
    arguments: list[str], words: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(run), *arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_folder_without_rollouts_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path)]) == 2
    assert "tracking.rollouts_every_n_steps" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["cut", "empty", "other columns", "text that is not UTF-8"])
def test_a_damaged_file_is_named_and_the_other_steps_are_shown(
    damage: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run / "rollouts" / "step-000010.parquet"
    table = pq.read_table(file)
    if damage == "other columns":
        pq.write_table(table.drop_columns(["reward", "uid"]), file)
    elif damage == "text that is not UTF-8":
        uids = pa.array([b"\xff"] * 4).view(pa.string())
        pq.write_table(table.set_column(table.column_names.index("uid"), "uid", uids), file)
    else:
        file.write_bytes(file.read_bytes()[:-100] if damage == "cut" else b"")
    assert main([str(run)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: '{file}' cannot be read as responses of a run (")
    assert "remove it, or show another step with --step" in said
    assert "1 responses to 1 questions" in shown(run, capsys, "--step", "5")


def test_files_of_other_names_are_left_alone(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("step-old.parquet", "step-999999-copy.parquet"):
        (run / "rollouts" / name).touch()
    assert "rollout step 10" in shown(run, capsys)
