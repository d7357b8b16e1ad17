"""One valid configuration for all cases, and a fixture that checks that a refusal leaves nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ceeh import fit
from ceeh.config.writing import to_yaml
from tests.commands import Said, assert_refused, contents, no_engine, said
from tests.test_fit import small

Refused = Callable[..., Said]


@pytest.fixture(scope="session")
def whole_config(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of a small run that works."""
    file = tmp_path_factory.mktemp("whole") / "whole.yaml"
    file.write_text(to_yaml(small(tiny_model_dir, Path("runs"))))
    return file


@pytest.fixture
def refused(whole_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refused:
    """Runs ceeh.fit with overrides: it must say `parts`, write no file and start no engine."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    no_engine(monkeypatch)
    monkeypatch.chdir(tmp_path)

    def refused(overrides: list[str], *parts: str, files: tuple[Path, ...] = ()) -> Said:
        before = contents(tmp_path)
        configs = [word for file in (whole_config, *files) for word in ("--config", str(file))]
        answer = said(fit.main, [*configs, *overrides])
        assert_refused(answer, *parts)
        assert contents(tmp_path) == before
        return answer

    return refused
