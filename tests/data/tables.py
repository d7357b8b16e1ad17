"""Fixtures in the columns of each data set; the rows are invented."""

import json
from pathlib import Path

FIXTURES = Path(__file__).parent / "fixtures"


def fixture(name: str) -> Path:
    return FIXTURES / f"{name}.jsonl"


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in fixture(name).read_text(encoding="utf-8").splitlines()]
