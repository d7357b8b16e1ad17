"""A file of rows."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Writes rows.jsonl: rows as JSON, bytes as they are."""

    def write(*lines: object) -> str:
        path = tmp_path / "rows.jsonl"
        encoded = (x if isinstance(x, bytes) else json.dumps(x).encode() for x in lines)
        path.write_bytes(b"\n".join(encoded))
        return str(path)

    return write
