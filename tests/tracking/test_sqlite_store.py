"""A database file is there whole or not at all, whenever a process is stopped."""

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ceeh.errors import RunError
from ceeh.tracking.__main__ import main
from ceeh.tracking.sqlite_store import make_store, sqlite_file
from tests.tracking.conftest import Run

ROOT = Path(__file__).parents[2]
KILLED = """
import os, sys
import ceeh.tracking
import alembic.operations.ops as steps
import alembic.op
from ceeh.tracking.sqlite_store import make_store
import mlflow.store.db.utils as tables
create = alembic.op.create_table
def dying(name, *rest, **options):
    create(name, *rest, **options)
    if name == "mcp_servers":
        os._exit(9)
alembic.op.create_table = dying
{call}
"""


def killed(call: str, uri: str) -> None:
    """Runs `call` in a process that dies between two steps of making the tables."""
    program = KILLED.format(call=call)
    done = subprocess.run(
        [sys.executable, "-c", program, uri], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 9, done.stderr


def test_a_kill_while_the_tables_are_made_leaves_no_database(
    tmp_path: Path, run: Callable[..., Run]
) -> None:
    file = tmp_path / "mlflow.db"
    killed("make_store(sys.argv[1])", f"sqlite:///{file}")
    assert [path.name for path in tmp_path.glob("*.db")] == []
    tracked = run(f"sqlite:///{file}")
    tracked.log(1)
    assert tracked.history() == [(1, 0.5)]
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_a_half_made_database_is_told_with_its_cure_which_works(
    tmp_path: Path, run: Callable[..., Run], caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "mlflow.db"
    half = "from mlflow import MlflowClient; MlflowClient(sys.argv[1]).search_experiments()"
    killed(half, f"sqlite:///{file}")  # as version 0.1 made it
    assert sqlite3.connect(file).execute("SELECT count(*) FROM runs").fetchone() == (0,)
    tracked = run(f"sqlite:///{file}")
    tracked.log(1)
    tracked.mlflow.finish()
    assert "cannot be used: the database is half made, because a process was stopped" in caplog.text
    assert f"it holds no run: remove it ('{file}'), then send" in caplog.text
    tracked.mlflow.close()
    file.unlink()
    assert main([str(tracked.folder)]) == 0
    assert run(f"sqlite:///{file}", resume_from=1).history() == [(1, 0.5)]


def test_a_half_upgraded_database_with_runs_is_not_to_be_removed(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    half = "from mlflow import MlflowClient; MlflowClient(sys.argv[1]).search_experiments()"
    killed(half, f"sqlite:///{file}")
    with sqlite3.connect(file) as database:
        database.execute("INSERT INTO runs (run_uuid) VALUES ('r')")
    with pytest.raises(
        RunError, match=r"restore the copy of '.*mlflow.db' from before the upgrade"
    ):
        make_store(f"sqlite:///{file}")


@pytest.mark.parametrize(
    ("uri", "file"),
    [
        ("sqlite:///mlflow.db", "mlflow.db"),
        ("sqlite:////a/b.db", "/a/b.db"),
        ("sqlite+pysqlite:///c/b.db?timeout=5", "c/b.db"),
        ("sqlite://", None),
        ("http://host/sqlite", None),
        ("postgresql://host/name", None),
    ],
)
def test_the_file_of_an_address(uri: str, file: str | None) -> None:
    assert sqlite_file(uri) == (None if file is None else Path(file))
