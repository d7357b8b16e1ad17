"""Runs a command in this process, as a user gives it, and checks what a refused one says and leaves."""

import contextlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.test_fit import SHIPPED, SMALL
from tests.torch_engine import TorchEngine


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    code: int
    out: str
    err: str


def said(main: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> Said:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(arguments)
        except SystemExit as leaving:  # argparse
            code = int(leaving.code or 0)
    return Said(code=code, out=out.getvalue(), err=err.getvalue())


def fit_arguments(model: Path | str, output: Path, *overrides: str) -> list[str]:
    places = [f"model.path={model}", f"output={output}"]
    return ["--config", str(SHIPPED), *SMALL, *places, *overrides]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file, link and folder below `folder`, to compare before and after."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in sorted(folder.rglob("*"))
    }


def assert_refused(answer: Said, *parts: str) -> None:
    """Exit code 2 and one readable message that contains every part; "a ... b" is two parts."""
    assert answer.code == 2, answer
    assert answer.err.count("error: ") >= 1, answer.err
    assert "Traceback" not in answer.err + answer.out
    assert "\x1b" not in answer.err + answer.out
    for part in " ... ".join(parts).split(" ... "):
        assert part in answer.err, answer.err
    assert len(answer.err) < 2000, answer.err


def no_engine(patch: pytest.MonkeyPatch) -> None:
    """From here on, starting an engine fails the test."""
    patch.setattr(TorchEngine, "__init__", lambda *args, **kwargs: pytest.fail("engine started"))
