"""Wrong data files end with file, line, value and cure; what can be read is read."""

import gzip
import json
import os
from pathlib import Path

import pytest

from ceeh.data.sources.table import Table
from ceeh.errors import ConfigError
from tests.bad_input.conftest import Refused

GOOD = b'{"question": "1+1?", "answer": "02"}\n'
TABLE = "prompts.train={class_path: ceeh.data.sources.Table, init_args: {path: %s}}"
CASES = {
    "empty": ("rows.jsonl", b"", ["rows.jsonl has no rows"]),
    "blank lines": ("rows.jsonl", b"\n \n\n", ["rows.jsonl has no rows"]),
    "half a line": (
        "rows.jsonl",
        GOOD + b'{"question": "2+2?", "ans',
        ["line 2 is not valid JSON"],
    ),
    "a csv": ("rows.jsonl", b"question,answer\n1+1?,2\n", ["line 1 is not valid JSON"]),
    "a number": ("rows.jsonl", b"7\n", ["line 1 must be a JSON object", "got int 7"]),
    "utf-16": ("rows.jsonl", GOOD.decode().encode("utf-16"), ["line 1 is not UTF-8; convert"]),
    "gzip named jsonl": (
        "rows.jsonl",
        gzip.compress(GOOD),
        ["line 1 is not UTF-8; the file is compressed, unpack it"],
    ),
    "gzip": ("rows.jsonl.gz", gzip.compress(GOOD), ["must be a .jsonl, .json, .parquet file"]),
    "text": ("rows.txt", GOOD, ["must be a .jsonl, .json, .parquet file"]),
    "a long line": (
        "rows.jsonl",
        GOOD + b'{"question": "' + b"x" * 10 * 2**20 + b'", "answer": "1"}\n',
        ["line 2 is longer than 8 MiB", "one JSON object per line"],
    ),
    "a null answer": ("rows.jsonl", b'{"question": "q", "answer": null}', ["line 1 has no answer"]),
    "an answer NaN": (
        "rows.jsonl",
        b'{"question": "q", "answer": NaN}',
        ["line 1: column 'answer'", "finite number", "float nan"],
    ),
    "an answer 1e999": (
        "rows.jsonl",
        b'{"question": "q", "answer": 1e999}',
        ["finite number", "float inf"],
    ),
    "an answer object": ("rows.jsonl", b'{"question": "q", "answer": {"a": 1}}', ["got dict"]),
    "a number of 5,000 digits": (
        "rows.jsonl",
        b'{"question": "q", "answer": ' + b"9" * 5000 + b"}",
        ["line 1 is not valid JSON"],
    ),
    "a question number": (
        "rows.jsonl",
        b'{"question": 3, "answer": "1"}',
        ["must hold the question as text"],
    ),
    "an empty question": (
        "rows.jsonl",
        b'{"question": "", "answer": "1"}',
        ["must hold the question as text"],
    ),
    "twice the same": (
        "rows.jsonl",
        GOOD + GOOD,
        ["line 2 has the question and answer of line 1", "remove"],
    ),
    "other columns": (
        "rows.jsonl",
        b'{"q": "1", "a": "2"}',
        ["has no column 'question'; it has: q, a"],
    ),
    "half a surrogate pair": (
        "rows.jsonl",
        b'{"question": "\\ud83d", "answer": "1"}',
        ["line 1 has half a surrogate pair"],
    ),
    "an escape in JSON": (
        "rows.jsonl",
        b'{"question": "\x1b[2J", "answer": "1"}',
        ["line 1 is not valid JSON"],
    ),
    "deep nesting": ("rows.json", b"[" * 100_000, ["is not a JSON array"]),
    "an array cut off": ("rows.json", b'[{"question": "q"', ["is not a JSON array"]),
    "an array of texts": ("rows.json", b'["q"]', ["row 0 must be a JSON object", "got str 'q'"]),
    "no parquet": ("rows.parquet", b"PAR1 no more PAR1", ["cannot read", "as parquet"]),
    "parquet cut off": ("rows.parquet", b"PAR1", ["cannot read", "as parquet"]),
    "jsonl named parquet": ("rows.parquet", GOOD, ["cannot read", "as parquet"]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_file_of_questions(case: str, refused: Refused, tmp_path: Path) -> None:
    name, content, parts = CASES[case]
    (tmp_path / name).write_bytes(content)
    refused([TABLE % name], "prompts.train", *parts)


def test_places_that_are_no_file(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "loop.jsonl").symlink_to(tmp_path / "loop.jsonl")
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    refused([TABLE % "loop.jsonl"], "no file or folder 'loop.jsonl'", str(tmp_path))
    refused([TABLE % "gone.jsonl"], "no file or folder 'gone.jsonl'")
    refused([TABLE % "./empty/none.jsonl"], "no file or folder './empty/none.jsonl'")
    refused([TABLE % "''"], "prompts.train")
    refused([TABLE % "null"], "prompts.train")
    refused([TABLE % "[1]"], "prompts.train")


def test_a_folder_without_a_table_is_refused(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("x")
    refused([TABLE % "./folder"], "prompts.train", "./folder")


def test_a_file_that_may_not_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(GOOD)
    table = Table(str(file))
    if os.geteuid():
        file.chmod(0)
    else:  # who may read everything is refused by a file that nobody can read from its start
        file.unlink()
        file.symlink_to("/proc/self/mem")
    with pytest.raises(ConfigError, match=r"rows\.jsonl' cannot be read .*; check its permissions"):
        list(table)


def test_the_held_out_questions_are_checked_as_the_training_ones(
    refused: Refused, tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_bytes(GOOD + b"{")
    refused(
        [(TABLE % "rows.jsonl").replace("train", "held_out")],
        "prompts.held_out",
        "line 2 is not valid",
    )


def test_text_of_any_kind_is_a_prompt_as_it_stands(tmp_path: Path) -> None:
    texts = [
        "\x00",
        "a\x1b[2J",
        "\u202ereversed",
        "\ufeff1+1?",
        "x" * 100_000,
        "1+1?" * 1000,
        "\U0001f600",
        "<|im_end|>",
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"question": t, "answer": "1"}) + "\n" for t in texts))
    assert [question.text for question in Table(str(file))] == texts
