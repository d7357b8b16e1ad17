"""The folder of an evaluation: takes more benchmarks, keeps parts, refuses to mix samples."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ceeh.evaluate import main
from ceeh.run.places import claimed
from tests.commands import said
from tests.endings import interrupt
from tests.limits import bound_by_permissions
from tests.test_evaluate import ROOT, SMALL, interrupted_at_second_batch, run
from tests.torch_engine import TorchEngine


def second_benchmark(folder: Path) -> Path:
    """A benchmark file of the user's own: other questions of the starter task, without levels."""
    text = (ROOT / "configs/benchmarks/starter.yaml").read_text()
    file = folder / "other.yaml"
    file.write_text(text.replace("seed: 0", "seed: 1").replace("level: level", "level: null"))
    assert file.read_text().count("seed: 1") == 1
    return file


def test_a_finished_evaluation_is_not_sampled_again_and_takes_another_benchmark(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, other = tmp_path / "out", second_benchmark(tmp_path)
    assert run(tiny_model_dir, out) == 0
    first = json.loads((out / "results.json").read_text())
    TorchEngine.events.clear()
    assert run(tiny_model_dir, out) == 0
    assert TorchEngine.events == []
    assert json.loads((out / "results.json").read_text()) == first
    assert run(tiny_model_dir, out, benchmarks=f"starter,{other}") == 0
    assert TorchEngine.events == ["generate -1"] * 3
    both = json.loads((out / "results.json").read_text())
    assert both["benchmarks"]["starter"] == first["benchmarks"]["starter"]
    assert both["benchmarks"]["other"]["levels"] == {}
    accuracies = [told["metrics"]["accuracy"]["value"] for told in both["benchmarks"].values()]
    assert both["average"]["accuracy"]["value"] == pytest.approx(sum(accuracies) / 2)


def test_a_folder_keeps_its_other_benchmarks_and_their_unfinished_parts(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, other = tmp_path / "out", second_benchmark(tmp_path)
    batches = interrupted_at_second_batch(monkeypatch, TorchEngine)
    assert run(tiny_model_dir, out, benchmarks=str(other)) == 130
    assert run(tiny_model_dir, out) == 0
    assert list(json.loads((out / "results.json").read_text())["benchmarks"]) == ["starter"]
    before = len(batches)
    assert run(tiny_model_dir, out, benchmarks=str(other)) == 0
    assert batches[before:] == [4, 2], "the first batch of the stopped evaluation was kept"
    found = json.loads((out / "results.json").read_text())
    assert list(found["benchmarks"]) == ["starter", "other"]
    assert not list((out / "parts").iterdir())


@pytest.mark.parametrize("damage", ["cut", "empty", "foreign"])
def test_a_damaged_part_is_named_before_anything_is_sampled(
    damage: str,
    tiny_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    batches = interrupted_at_second_batch(monkeypatch, TorchEngine)
    assert run(tiny_model_dir, out) == 130
    (part,) = (out / "parts" / "starter").glob("*.parquet")
    whole = part.read_bytes()
    if damage == "foreign":
        pq.write_table(pa.table({"benchmark": ["starter"]}), part)
    else:
        part.write_bytes(whole[:-100] if damage == "cut" else b"")
    before = len(batches)
    assert run(tiny_model_dir, out) == 2
    assert len(batches) == before, "nothing was sampled"
    said = capsys.readouterr().err
    assert f"error: '{part}' cannot be read as samples of an evaluation (" in said
    assert "remove it and evaluate again: only what was in it is sampled again" in said
    part.unlink()
    assert run(tiny_model_dir, out) == 0
    assert batches[before:] == [4, 4, 2], "that part, and what the stop had left"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("temperature=0.5", "settings.temperature: there 1.0, now 0.5"),
        ("seed=3", "settings.seed: there 0, now 3"),
        ("limit=5", "settings.limit: there 4, now 5"),
    ],
)
def test_samples_drawn_otherwise_are_not_mixed(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str, what: str
) -> None:
    assert run(tiny_model_dir, tmp_path / "out", "limit=4") == 0
    assert run(tiny_model_dir, tmp_path / "out", "limit=4", change) == 2
    message = capsys.readouterr().err
    assert "holds samples of starter that were drawn with other settings" in message
    assert what in message


def test_the_model_is_known_by_its_weights_and_not_by_its_path(
    tiny_model_dir: Path, untied_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    link, out = tmp_path / "model", tmp_path / "out"
    assert run(tiny_model_dir, out, "limit=4") == 0
    link.symlink_to(tiny_model_dir)
    TorchEngine.events.clear()
    assert run(link, out, "limit=4") == 0
    assert TorchEngine.events == []
    link.unlink()
    link.symlink_to(untied_model_dir)
    for benchmark in ("starter", str(second_benchmark(tmp_path))):
        assert run(link, out, "limit=4", benchmarks=benchmark) == 2
        assert "model.digest: there" in capsys.readouterr().err


def test_settings_of_an_evaluation_without_samples_can_be_changed(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(TorchEngine, "generate", lambda *_: interrupt())
        assert run(tiny_model_dir, tmp_path / "out", "limit=4") == 130
    assert run(tiny_model_dir, tmp_path / "out", "limit=4", "max_response_tokens=6") == 0


def test_a_corrected_reference_is_not_mixed_with_old_grades(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = ["questions.class_path=ceeh.data.sources.Table", "level=null"]
    file = tmp_path / "q.jsonl"
    given = [str(tiny_model_dir), "--benchmarks", "starter", "--output", str(tmp_path / "out")]
    given += [word for word in SMALL if not word.startswith("questions.")]
    for answer, code in (("1", 0), ("2", 2)):
        file.write_text(json.dumps({"question": "1+1?", "answer": answer}) + "\n")
        assert main([*given, *source, f"questions.init_args={{path: {file}}}"]) == code
    assert "settings.questions_digest: there" in capsys.readouterr().err


def test_a_file_of_questions_at_home_is_evaluated_like_a_benchmark(
    tiny_model_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(f'{{"question": "{n}+1?", "answer": "{n + 1}"}}\n' for n in range(3)))
    own = ["chat_template=false", "instruction=null", "temperature=1.0", "verifier.init_args={}"]
    own += ["max_prompt_tokens=32"]
    given = [word for word in SMALL if not word.startswith(("questions.init", "verifier"))]
    arguments = [str(tiny_model_dir), "--benchmarks=~/mine.jsonl", "--output=~/out"]
    assert main([*arguments, *given, *own]) == 0
    assert "mine: 3 questions x 3 samples" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "results.json").read_text())["benchmarks"]["mine"]
    assert found["questions"] == 3


def test_two_evaluations_cannot_write_to_one_folder(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with claimed(out, "in use"):
        assert run(tiny_model_dir, out) == 2
    assert "is in use by another evaluation; wait for its end" in capsys.readouterr().err
    assert list(out.iterdir()) == []
    assert run(tiny_model_dir, out) == 0


def test_a_folder_that_may_not_be_written_ends_in_one_sentence(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir(mode=0o500)
    arguments = [str(tiny_model_dir), "--benchmarks", "starter", "--output", str(out), *SMALL]
    with bound_by_permissions():
        answer = said(main, arguments)
    assert answer.code == 1
    assert answer.err.startswith(f"error: Permission denied: '{out}/")
    assert "Traceback" not in answer.err
    assert said(main, arguments).code == 0
