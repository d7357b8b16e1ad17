"""Names that become file names stay inside the intended folder."""

import shutil
from pathlib import Path

import pytest

from ceeh import evaluate, fit
from ceeh.config.settings import load
from ceeh.run.folder import RunFolder
from tests.commands import assert_refused, contents, fit_arguments, no_engine, said
from tests.conftest import FinishedRun
from tests.test_fit import SHIPPED


@pytest.mark.parametrize(
    "name",
    [
        *("../x", "/abs", "a/b", "..", ".", ".hidden", "-rf", "--help", "a\\b", "a b", "latest"),
        *("a\x1b[31m", "a\nb", "\u202egnp", "x" * 101, "\U00010400" * 30, "", "~", "$HOME", "a:b"),
    ],
)
def test_a_run_cannot_be_called(name: str, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(f"name: {ascii_yaml(name)}\noutput: {tmp_path / 'runs'}\n")
    answer = said(fit.main, ["--config", str(SHIPPED), "--config", str(overlay)])
    assert_refused(answer, "name must be letters, digits", "not starting with '.' or '-'")
    assert not (tmp_path / "runs").exists()


def ascii_yaml(text: str) -> str:
    escaped = "".join(f"\\U{ord(character):08x}" for character in text)
    return f'"{escaped}"'


@pytest.mark.parametrize("name", ["a", "run-1", "Übung_2.b", "0", "x" * 100])
def test_a_run_can_be_called(name: str) -> None:
    assert load([SHIPPED], [f"name='{name}'"]).name == name


@pytest.mark.parametrize("output", ["a\x00b", "a\x1b[2Jb", "a\nb", " "])
def test_an_output_with_control_characters_is_refused(output: str, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(f"output: {ascii_yaml(output)}\n")
    answer = said(fit.main, ["--config", str(SHIPPED), "--config", str(overlay)])
    assert_refused(answer, "output must be non-empty text without control characters")


def test_an_output_that_is_a_file_is_refused_before_any_engine(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_engine(monkeypatch)
    (tmp_path / "file").write_text("mine")
    for output in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere")):
        answer = said(fit.main, fit_arguments(tiny_model_dir, output))
        assert_refused(answer, "output: cannot create a folder in", str(output), "writable folder")
    assert (tmp_path / "file").read_text() == "mine"


def test_links_in_place_of_a_run_folder_are_not_followed(tmp_path: Path) -> None:
    elsewhere, runs = tmp_path / "elsewhere", tmp_path / "runs"
    elsewhere.mkdir()
    runs.mkdir()
    (runs / "mine").symlink_to(elsewhere)
    (runs / "mine-2").symlink_to(tmp_path / "nothing")
    (runs / "latest").symlink_to(elsewhere)
    folder = RunFolder.create(str(runs), "mine")
    assert folder.path == runs / "mine-3"
    assert not folder.path.is_symlink()
    assert (runs / "latest").readlink() == Path("mine-3")
    assert list(elsewhere.iterdir()) == []
    assert not (tmp_path / "nothing").exists()


def test_a_folder_called_latest_is_left_unchanged(tmp_path: Path) -> None:
    (tmp_path / "latest").mkdir()
    (tmp_path / "latest" / "mine").write_text("x")
    answer = said(fit.main, fit_arguments("starter", tmp_path))
    assert_refused(answer, "output: cannot create a folder in")
    assert (tmp_path / "latest" / "mine").read_text() == "x"


def test_a_checkpoint_outside_a_run_folder_is_refused(
    full_run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_engine(monkeypatch)
    downloads = tmp_path / "home" / "downloads"
    downloads.mkdir(parents=True)
    shutil.copy(full_run.path / "checkpoints" / "step-000002.ckpt", downloads / "got.ckpt")
    before = contents(tmp_path)
    given = f"ckpt_path={downloads / 'got.ckpt'}"
    answer = said(fit.main, fit_arguments("starter", tmp_path / "runs", given))
    assert_refused(
        answer, "ckpt_path", "is not in a run folder", "put it into checkpoints/ of its run"
    )
    assert contents(tmp_path) == before


@pytest.mark.parametrize("link", ["config.yaml", "rollouts"])
def test_a_resumed_run_does_not_write_through_a_link(
    full_run: FinishedRun, tmp_path: Path, link: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_engine(monkeypatch)
    run = full_run.copy(tmp_path / "runs")
    target = tmp_path / "target"
    shutil.move(run / link, target)
    (run / link).symlink_to(target)
    before = contents(tmp_path)
    for checkpoint in ("last", run / "checkpoints" / "step-000002.ckpt"):
        given = [f"output={tmp_path / 'runs'}", f"ckpt_path={checkpoint}"]
        answer = said(fit.main, ["--config", str(run / "config.yaml"), *given])
        assert_refused(answer, "ckpt_path", f"{run / link}' in the run folder is a link")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("file", ["...yaml", "x/..yaml", "-rf.yaml", "a b.yaml", "latest.yaml"])
def test_the_samples_of_a_benchmark_cannot_leave_their_folder(file: str, tmp_path: Path) -> None:
    source = SHIPPED.parent / "benchmarks" / "starter.yaml"
    benchmark = tmp_path / file
    benchmark.parent.mkdir(exist_ok=True)
    shutil.copy(source, benchmark)
    given = ["starter", "--benchmarks", str(benchmark), "--output", str(tmp_path / "out")]
    answer = said(evaluate.main, given)
    assert_refused(answer, "--benchmarks: a benchmark's name", str(benchmark), "rename the file")
    assert not (tmp_path / "out").exists()
