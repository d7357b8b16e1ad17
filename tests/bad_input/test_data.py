"""Invalid data files end with file, line, value and cure; see tests/data/sources for each rule."""

import gzip
import itertools
from pathlib import Path

import pytest

from tests.bad_input.conftest import Refused

GOOD = b'{"question": "1+1?", "answer": "02"}\n'
LONG = b'{"question": "' + b"x" * 10 * 2**20 + b'", "answer": "1"}\n'
HUGE = b'{"question": "q", "answer": ' + b"9" * 5000 + b"}"
TABLE = "prompts.train={class_path: ceeh.data.sources.Table, init_args: {path: %s}}"
KINDS = "must be a .jsonl, .json, .parquet, .csv, .tsv file"


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("rows.jsonl", b"", "rows.jsonl has no rows"),
        ("rows.jsonl", b"question,answer\n1+1?,2\n", "line 1 is not valid JSON"),
        ("rows.jsonl", GOOD + b'{"question": "2+2?", "ans', "line 2 is not valid JSON"),
        ("rows.jsonl", b"7\n", "line 1 must be a JSON object ... got int 7"),
        ("rows.jsonl", GOOD.decode().encode("utf-16"), "line 1 is not UTF-8; convert"),
        ("rows.jsonl", gzip.compress(GOOD), "not UTF-8; it is compressed, name it .gz"),
        ("rows.jsonl.gz", gzip.compress(GOOD)[:-9], "rows.jsonl.gz' cannot be read"),
        ("rows.txt", GOOD, KINDS),
        ("rows.jsonl", GOOD + LONG, "line 2 is longer than 8 MiB ... one JSON object per line"),
        ("rows.jsonl", b'{"question": "q", "answer": 1e999}', "finite number ... float inf"),
        ("rows.jsonl", b'{"question": "q", "answer": {"a": 1}}', "got dict"),
        ("rows.jsonl", b'{"question": 3, "answer": "1"}', "must hold the question as text"),
        ("rows.jsonl", HUGE, "line 1 is not valid JSON"),
        ("rows.jsonl", b'{"question": "\x1b[2J", "answer": "1"}', "line 1 is not valid JSON"),
        ("rows.json", b"[" * 100_000, "is not JSON in UTF-8"),
        ("rows.parquet", b"PAR1 no more PAR1", "cannot read ... as parquet"),
        ("rows.parquet", GOOD, "cannot read ... as parquet"),
    ],
    ids=itertools.count(),
)
def test_an_invalid_file_of_questions(
    name: str, content: bytes, parts: str, refused: Refused, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    refused([TABLE % name], "prompts.train", parts)


def test_paths_that_are_not_files(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "loop.jsonl").symlink_to(tmp_path / "loop.jsonl")
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "nothing")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("x")
    refused([TABLE % "loop.jsonl"], "no file or folder 'loop.jsonl'", str(tmp_path))
    for path in ("gone.jsonl", "./folder/none.jsonl"):
        refused([TABLE % path], f"no file or folder '{path}'")
    for path in ("''", "null", "[1]"):
        refused([TABLE % path], "prompts.train")
    refused([TABLE % "./folder"], "prompts.train", "./folder")


def test_held_out_questions_are_checked_like_training_questions(
    refused: Refused, tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_bytes(GOOD + b"{")
    table = (TABLE % "rows.jsonl").replace("train", "held_out")
    refused([table], "prompts.held_out", "line 2 is not valid")
