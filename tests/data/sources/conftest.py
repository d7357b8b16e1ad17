"""Rows of three questions, and a file of JSON lines."""

import json

import pytest

ROWS = [
    {"problem": "1+1?", "solution": "2", "id": "a", "level": 1},
    {"problem": "1/2?", "solution": 0.5, "id": "b", "level": 2},
    {"problem": "20+7?", "solution": 27.0, "id": "c", "level": 2},
]
COLUMNS = {"question": "problem", "answer": "solution"}


@pytest.fixture
def write(tmp_path):
    def write(*lines):
        path = tmp_path / "rows.jsonl"
        path.write_bytes(
            b"\n".join(x if isinstance(x, bytes) else json.dumps(x).encode() for x in lines)
        )
        return str(path)

    return write
