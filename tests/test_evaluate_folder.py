"""The folder of an evaluation: goes on where it stopped, takes more benchmarks, refuses to mix."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ceeh.evaluate import main
from tests.endings import interrupt
from tests.test_evaluate import ROOT, SMALL, run
from tests.torch_engine import TorchEngine


def second_benchmark(folder: Path) -> Path:
    """A benchmark file of the user's own: other questions of the starter task, without levels."""
    text = (ROOT / "configs/benchmarks/starter.yaml").read_text()
    file = folder / "other.yaml"
    file.write_text(text.replace("seed: 0", "seed: 1").replace("level: level", "level: null"))
    assert file.read_text().count("seed: 1") == 1
    return file


def test_an_interrupted_evaluation_goes_on_to_the_same_results(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(tiny_model_dir, tmp_path / "whole") == 0
    generate, batches = TorchEngine.generate, []

    def stopping(self: TorchEngine, prompts, sampling):
        batches.append(len(prompts))
        if len(batches) == 2:
            interrupt()
        return generate(self, prompts, sampling)

    monkeypatch.setattr(TorchEngine, "generate", stopping)
    assert run(tiny_model_dir, tmp_path / "stopped") == 130
    assert not (tmp_path / "stopped" / "results.json").exists()
    assert run(tiny_model_dir, tmp_path / "stopped") == 0
    assert batches == [4, 4, 4, 2], "the first batch was sampled once"
    one, other = ((tmp_path / name / "results.json").read_bytes() for name in ("whole", "stopped"))
    assert one == other
    tables = [pq.read_table(tmp_path / name / "samples.parquet") for name in ("whole", "stopped")]
    assert tables[0].equals(tables[1])


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
    generate, batches = TorchEngine.generate, []

    def stopping(self: TorchEngine, prompts, sampling):
        batches.append(len(prompts))
        if len(batches) == 2:
            interrupt()
        return generate(self, prompts, sampling)

    monkeypatch.setattr(TorchEngine, "generate", stopping)
    assert run(tiny_model_dir, out, benchmarks=str(other)) == 130
    assert run(tiny_model_dir, out) == 0
    assert list(json.loads((out / "results.json").read_text())["benchmarks"]) == ["starter"]
    batches.clear()
    batches.append(0)  # do not stop again
    batches.append(0)
    assert run(tiny_model_dir, out, benchmarks=str(other)) == 0
    assert batches[2:] == [4, 2], "the first batch of the stopped evaluation was kept"
    found = json.loads((out / "results.json").read_text())
    assert list(found["benchmarks"]) == ["starter", "other"]
    assert not list((out / "parts").iterdir())


def test_another_model_is_refused_for_another_benchmark_too(
    tiny_model_dir: Path, untied_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tiny_model_dir, tmp_path / "out", "limit=4") == 0
    other = str(second_benchmark(tmp_path))
    assert run(untied_model_dir, tmp_path / "out", "limit=4", benchmarks=other) == 2
    assert "model.digest: there" in capsys.readouterr().err


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
    assert "holds samples of starter that were drawn otherwise" in message
    assert what in message


def test_another_model_under_the_same_path_is_noticed(
    tiny_model_dir: Path, untied_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    model.symlink_to(tiny_model_dir)
    assert run(model, tmp_path / "out", "limit=4") == 0
    model.unlink()
    model.symlink_to(untied_model_dir)
    assert run(model, tmp_path / "out", "limit=4") == 2
    assert "model.digest: there" in capsys.readouterr().err


def test_the_same_model_under_another_path_goes_on(tiny_model_dir: Path, tmp_path: Path) -> None:
    assert run(tiny_model_dir, tmp_path / "out", "limit=4") == 0
    (tmp_path / "link").symlink_to(tiny_model_dir)
    TorchEngine.events.clear()
    assert run(tmp_path / "link", tmp_path / "out", "limit=4") == 0
    assert TorchEngine.events == []


def test_settings_of_an_evaluation_that_drew_nothing_bind_nobody(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: TorchEngine, *arguments: object) -> None:
        interrupt()

    with monkeypatch.context() as patch:
        patch.setattr(TorchEngine, "generate", broken)
        assert run(tiny_model_dir, tmp_path / "out", "limit=4") == 130
    assert run(tiny_model_dir, tmp_path / "out", "limit=4", "max_response_tokens=6") == 0


def test_a_corrected_reference_is_judged_anew(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = ["questions.class_path=ceeh.data.sources.Table", "level=null"]
    file = tmp_path / "q.jsonl"
    more = [*source, f"questions.init_args={{path: {file}}}"]
    for answer, code in (("1", 0), ("2", 2)):
        file.write_text(json.dumps({"question": "1+1?", "answer": answer}) + "\n")
        assert (
            main(
                [str(tiny_model_dir), "--benchmarks", "starter", "--output", str(tmp_path / "out")]
                + [word for word in SMALL if not word.startswith("questions.")]
                + more
            )
            == code
        )
    assert "settings.questions_digest: there" in capsys.readouterr().err
