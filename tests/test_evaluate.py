"""python -m ceeh.evaluate with an engine in plain torch: results, resume, ranks, errors."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ceeh.config.component import Component
from ceeh.evaluate import main
from ceeh.evaluate.engine import engine_alone
from ceeh.evaluate.run import other_prompt
from ceeh.evaluation.config import load_evaluation_config
from ceeh.evaluation.results import read_results
from ceeh.evaluation.store import SCHEMA
from ceeh.fit import fit
from ceeh.pretrained.locate import open_trained
from tests.endings import interrupt
from tests.test_fit import small
from tests.torch_engine import TorchEngine

ROOT = Path(__file__).parent.parent
SMALL = [
    "engine.class_path=tests.torch_engine.TorchEngine",
    "questions.init_args.questions=10",
    "expected_questions=null",
    "verifier.init_args.pattern=([0-9])",
    "samples=3",
    "max_response_tokens=8",
    "questions_per_batch=4",
    "bootstrap_draws=100",
    "hardware.accelerator=cpu",
    "tracking.mlflow=false",
]


def interrupted_at_second_batch(patch: pytest.MonkeyPatch, engine: Any) -> list[int]:
    """From here on Ctrl-C comes in the second batch that `engine` samples; the sizes of all batches."""
    generate, batches = engine.generate, []

    def stopping(self, prompts, sampling):
        batches.append(len(prompts))
        if len(batches) == 2:
            interrupt()
        return generate(self, prompts, sampling)

    patch.setattr(engine, "generate", stopping)
    return batches


def run(model: Path | str, output: Path, *more: str, benchmarks: str = "starter") -> int:
    given = [str(model), "--benchmarks", benchmarks, "--output", str(output)]
    return main([*given, *SMALL, *more])


def test_an_evaluation_writes_samples_metrics_and_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The shipped model: at 40 tokens it answers the easy levels and is truncated on the others.
    more = ["max_response_tokens=40", r"verifier.init_args.pattern=so (\d{2})$"]
    assert run("starter", tmp_path / "out", *more) == 0
    printed = capsys.readouterr().out
    assert "starter: 10 questions x 3 samples, temperature 1, top-p 1, at most 40 tokens" in printed
    assert "starter  4/10 questions  accuracy " in printed
    assert "starter  10/10 questions" in printed
    rows = pq.read_table(tmp_path / "out" / "samples.parquet")
    assert rows.schema.names == SCHEMA.names
    assert len(rows) == 10 * 3
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    starter = found["benchmarks"]["starter"]
    correct, tokens = rows["correct"].to_pylist(), rows["tokens"].to_pylist()
    assert 0 < sum(correct) < 30, "a test in which nothing varies"
    value = {name: metric and metric["value"] for name, metric in starter["metrics"].items()}
    assert value["accuracy"] == pytest.approx(sum(correct) / 30)
    assert value["tokens"] == pytest.approx(sum(tokens) / 30)
    cut = [finish == "length" for finish in rows["finish"].to_pylist()]
    assert value["truncated_fraction"] == pytest.approx(sum(cut) / 30)
    assert not any(c and r for c, r in zip(cut, correct, strict=True))
    answers = rows["answer"].to_pylist()
    assert all((answer is None) == c for answer, c in zip(answers, cut, strict=True))
    assert value["pass_at_1"] <= value["pass_at_2"] <= value["pass_at_3"]
    assert value["maj_at_1"] == pytest.approx(value["accuracy"])
    assert starter["outcomes"] == {"no_answer": sum(cut), "ok": 30 - sum(cut)}
    assert list(starter["levels"]) == [str(level) for level in range(1, 7)]
    assert sum(level["questions"] for level in starter["levels"].values()) == 10
    assert starter["settings"]["samples"] == 3
    assert found["versions"]["version.torch"]
    assert (tmp_path / "out" / "report.png").stat().st_size > 10_000
    assert not list((tmp_path / "out" / "parts").iterdir())
    read = read_results(str(tmp_path / "out")).benchmarks["starter"]
    assert read.levels == tuple("1234561234")
    assert read.table.correct.shape == (10, 3)
    assert read.table.lengths.flatten().tolist() == tokens


@pytest.mark.parametrize(
    ("init_args", "accelerator", "share"),
    [
        ({}, "cuda", 0.9),
        ({}, "cpu", None),
        ({"kv_cache_gib": 4}, "cuda", None),
        ({"options": {"gpu_memory_utilization": 0.5, "max_num_seqs": 8}}, "cuda", 0.5),
        ({"options": {"max_num_seqs": 8}}, "cuda", 0.9),
    ],
)
def test_an_engine_without_a_trainer_takes_most_of_the_device(
    init_args: dict, accelerator: str, share: float | None
) -> None:
    component = Component("ceeh.data.engine.VLLMEngine", init_args)
    options = engine_alone(component, accelerator).init_args.get("options", {})
    assert options.get("gpu_memory_utilization") == share
    assert options.get("max_num_seqs") == init_args.get("options", {}).get("max_num_seqs")


def test_a_run_is_evaluated_in_its_folder_and_a_checkpoint_through_a_push(
    tiny_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = fit(small(tiny_model_dir, tmp_path / "runs", "model.lora.rank=2"))
    more = ["--benchmarks", "starter", *SMALL, "limit=4"]
    monkeypatch.chdir(tmp_path)
    TorchEngine.events.clear()
    assert main([str(folder), *more]) == 0
    assert TorchEngine.events == ["generate -1"]
    assert "another prompt" not in capsys.readouterr().out
    assert main([str(folder / "checkpoints" / "step-000004.ckpt"), *more]) == 0
    assert TorchEngine.events == ["generate -1", "load 0", "generate 0"]
    merged, pushed = (
        pq.read_table(place / "samples.parquet")
        for place in (folder / "evaluation", tmp_path / "evaluations" / "starter--step-000004")
    )
    # The same weights, merged in the file's dtype (fp32 here) or pushed: the same samples.
    assert merged["response"].equals(pushed["response"])
    # `starter` asks as the run was trained, GSM8K does not.
    source = open_trained(str(folder))
    chosen = load_evaluation_config(["starter", "gsm8k"], [], [])[1]
    assert other_prompt(source, chosen["starter"]) is None
    said = "chat_template is true, there false; instruction is 'Please reason step by step, "
    assert (other_prompt(source, chosen["gsm8k"]) or "").startswith(said)
    assert other_prompt(open_trained(str(tiny_model_dir)), chosen["gsm8k"]) is None


def test_two_processes_share_the_work_and_give_the_results_of_one(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    assert run(tiny_model_dir, tmp_path / "one") == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    given = [str(tiny_model_dir), "--benchmarks", "starter", "--output", str(tmp_path / "two")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, "-m", "ceeh.evaluate", *given, *SMALL],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = ((tmp_path / name / "results.json").read_bytes() for name in ("one", "two"))
    assert one == two


def test_the_metrics_reach_mlflow(tiny_model_dir: Path, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    more = ["limit=4", "tracking.mlflow=true", f"tracking.mlflow_uri={uri}"]
    assert run(tiny_model_dir, tmp_path / "out", *more) == 0
    client = MlflowClient(uri)
    (found,) = client.search_runs([client.get_experiment_by_name("ceeh").experiment_id])
    expected = json.loads((tmp_path / "out" / "results.json").read_text())
    accuracy = expected["benchmarks"]["starter"]["metrics"]["accuracy"]["value"]
    assert found.data.metrics["eval/starter/accuracy"] == pytest.approx(accuracy)
    assert found.data.params["protocol.seed"] == "0"
    names = [file.path for file in client.list_artifacts(found.info.run_id, "evaluation")]
    assert "evaluation/results.json" in names
