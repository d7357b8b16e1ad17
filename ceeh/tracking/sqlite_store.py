"""MLflow's database in a file: made whole or not at all, and a half-made one is named.

MLflow makes its tables in about a hundred steps, which take seconds. A process that stops within them
leaves a file that MLflow can neither finish nor read.
"""

import fcntl
from contextlib import suppress
from pathlib import Path

from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy import inspect, make_url, text
from sqlalchemy.exc import OperationalError

from ceeh.errors import RunError

HALF_MADE = ("already exists", "duplicate column")
"""What sqlite says where MLflow repeats a step of an interrupted creation or upgrade."""


def sqlite_file(uri: str) -> Path | None:
    """The file of a sqlite `uri`; None for a server, another database or one in memory."""
    if not uri.startswith("sqlite"):
        return None
    name = make_url(uri).database
    return None if name in (None, "", ":memory:") else Path(name)


def make_store(uri: str) -> None:
    """Makes the database of a sqlite `uri` if its file is missing: beside it, then renamed.

    Raises RunError for a half-made file, with the cure.
    """
    file = sqlite_file(uri)
    if file is None:
        return
    if _is_there(file):
        _open_store(uri, file)
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    with partial.open("a") as lock:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        if _is_there(file):  # another process made it meanwhile
            partial.unlink(missing_ok=True)
            return
        lock.truncate(0)  # what a killed process left
        partial.with_name(f"{partial.name}-journal").unlink(missing_ok=True)
        url = make_url(uri).set(database=str(partial)).render_as_string(hide_password=False)
        _open_store(url, partial)
        partial.rename(file)


def _is_there(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > 0


def _open_store(uri: str, file: Path) -> None:
    """Makes or upgrades the tables in `file`."""
    try:
        store = SqlAlchemyStore(uri, (file.parent / "mlartifacts").resolve().as_uri())
    except OperationalError as error:
        engine = SqlAlchemyStore._get_or_create_engine(uri)
        if not any(words in str(error) for words in HALF_MADE):
            raise
        with engine.connect() as connection:
            has_runs = (
                "runs" in inspect(engine).get_table_names()
                and connection.execute(text("SELECT count(*) FROM runs")).scalar_one()
            )
        engine.dispose()  # a connection would outlive the file
        cure = (
            f"restore the copy of '{file}' from before the upgrade"
            if has_runs
            else f"it holds no run: remove it ('{file}')"
        )
        raise RunError(
            f"the database is half made, because a process was stopped while it made or upgraded its "
            f"tables; {cure}, then send what is waiting with python -m ceeh.tracking RUN"
        ) from error
    store.engine.dispose()
