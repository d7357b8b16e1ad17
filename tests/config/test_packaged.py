"""The packaged configurations, and `ceeh COMMAND`."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import ceeh.__main__ as entry
from ceeh.config.packaged import CONFIGS, find_config, packaged_configs
from ceeh.config.settings import load
from ceeh.errors import ConfigError
from ceeh.init import copy_configs

ROOT = Path(__file__).parents[2]


def test_the_package_holds_every_configuration() -> None:
    """What `pip install` copies is listed by pattern; a new folder level would be left out."""
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    shipped = {
        path for each in patterns["package-data"]["ceeh"] for path in ROOT.glob(f"ceeh/{each}")
    }
    assert {path.resolve() for path in shipped} == set((ROOT / "configs").rglob("*.yaml"))


@pytest.mark.parametrize("name", ["paper/7b_me.yaml", "configs/paper/7b_me.yaml"])
def test_a_packaged_file_is_found_from_any_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config(name) == CONFIGS / "paper" / "7b_me.yaml"
    assert load(["ceeh.yaml"]).name == "starter"


def test_a_file_in_the_home_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").touch()
    assert find_config("~/mine.yaml") == tmp_path / "mine.yaml"


def test_a_file_at_hand_comes_before_the_packaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ceeh.yaml").write_text("name: mine\n")
    assert find_config("ceeh.yaml") == Path("ceeh.yaml")


def test_a_missing_file_names_the_nearest_packaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"no file 'paper/7b_mee.yaml'.*paper/7b_me.yaml"):
        find_config("paper/7b_mee.yaml")


def test_init_copies_all_and_replaces_nothing(tmp_path: Path) -> None:
    written = copy_configs(tmp_path / "mine")
    assert len(written) == len(packaged_configs())
    assert (tmp_path / "mine/ceeh.yaml").read_text() == (CONFIGS / "ceeh.yaml").read_text()
    (tmp_path / "mine/math.yaml").write_text("name: changed\n")
    with pytest.raises(ConfigError, match="exists already"):
        copy_configs(tmp_path / "mine")
    assert (tmp_path / "mine/math.yaml").read_text() == "name: changed\n"


def test_a_command_ends_with_the_status_of_its_module(tmp_path: Path) -> None:
    def ceeh(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ceeh", *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )

    assert ceeh("init", "mine").returncode == 0
    again = ceeh("init", "mine")
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert "usage: ceeh init" in ceeh("init", "--help").stdout


def test_an_unknown_command_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["fitt"]) == 2
    assert "no command 'fitt'; give one of init, sft, fit, evaluate" in capsys.readouterr().err
    assert entry.main([]) == 0
    assert "export     write a run's model" in capsys.readouterr().out
