"""The fixtures as every kind of table: invented rows in the columns of each data set."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

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


def copy(name: str, kind: str, split: str, folder: Path) -> str:
    """A copy as one file, or as a folder with a file of parquet for `split`."""
    if kind == "jsonl":
        return str(fixture(name))
    path = folder / "set" / f"{split}-00000-of-00001.parquet"
    path.parent.mkdir()
    pq.write_table(pa.Table.from_pylist(rows(name)), path)
    return str(path if kind == "parquet" else path.parent)
