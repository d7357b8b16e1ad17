"""A folder that is written whole or not at all."""

from pathlib import Path

import pytest

from ceeh.run.atomic import atomic_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_folder_appears_complete(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with atomic_folder(out) as folder:
        (folder / "a").write_text("a")
        assert not out.exists()
    assert names(tmp_path / "deep") == ["out"]
    assert names(out) == ["a"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_folder(tmp_path: Path, error: type[BaseException]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("old")

    def write() -> None:
        with atomic_folder(out) as folder:
            (folder / "new").write_text("new")
            raise error

    with pytest.raises(error):
        write()
    assert names(tmp_path) == ["out"]
    assert names(out) == ["old"]


def test_the_new_folder_has_no_files_of_the_old_one_or_of_a_killed_writer(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for leftover in (out, tmp_path / ".out.partial", tmp_path / ".out.previous"):
        leftover.mkdir()
        (leftover / "old").write_text("old")
    with atomic_folder(out) as folder:
        (folder / "new").write_text("new")
    assert names(tmp_path) == ["out"]
    assert names(out) == ["new"]
