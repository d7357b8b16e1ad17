"""Fixtures in the columns of each data set; the rows are invented."""

import json
from pathlib import Path

FIXTURES = Path(__file__).parent / "fixtures"
KINDS = ("jsonl", "parquet", "folder")
ROWS = [
    {"problem": "1+1?", "solution": "2", "id": "a", "level": 1},
    {"problem": "1/2?", "solution": 0.5, "id": "b", "level": 2},
    {"problem": "20+7?", "solution": 27.0, "id": "c", "level": 2},
]
COLUMNS = {"question": "problem", "answer": "solution"}


def fixture(name: str) -> Path:
    return FIXTURES / f"{name}.jsonl"


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in fixture(name).read_text(encoding="utf-8").splitlines()]
