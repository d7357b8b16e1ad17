"""Secrets of the configuration and the environment are in nothing that a run leaves, prints or sends."""

import re
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pyarrow.parquet as pq
import pytest

from ceeh import evaluate, fit
from ceeh.data.sources.starter_task import StarterTask
from ceeh.export import __main__ as export
from ceeh.runtime.text import HIDDEN, redact
from ceeh.tracking import __main__ as tracking
from ceeh.types import Question
from tests.commands import assert_refused, fit_arguments, said

CANARY = "xyzzy-canary-31415"
ENVIRONMENT = (
    *("HF_TOKEN", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "AWS_SECRET_ACCESS_KEY"),
    *("OPENAI_API_KEY", "WANDB_API_KEY", "CEEH_CANARY"),
)


class Remote(StarterTask):
    """A source of the user's own that needs a key."""

    def __init__(self, questions: int, api_key: str, options: dict, address: str) -> None:
        assert api_key == options["headers"]["authorization"] == CANARY
        assert CANARY in address
        super().__init__(questions)

    def __iter__(self) -> Iterator[Question]:
        return super().__iter__()


SECRET = (
    f"prompts.train.class_path={__name__}.Remote",
    "prompts.train.init_args.questions=24",
    f"prompts.train.init_args.api_key={CANARY}",
    f"prompts.train.init_args.options={{headers: {{authorization: {CANARY}}}}}",
    f"prompts.train.init_args.address=https://me:{CANARY}@data.example/q?token={CANARY}",
    "rollouts.steps=1",
    "checkpoints.every_n_steps=1",
    "tracking.mlflow=true",
)

QUICK = (
    *("--benchmarks", "starter", "limit=2", "samples=1", "bootstrap_draws=100"),
    *("max_response_tokens=4", "engine.class_path=tests.torch_engine.TorchEngine"),
)


@pytest.fixture(autouse=True)
def _secrets_about(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Canaries in the environment, and the tracking address as it was in the end."""
    for name in ENVIRONMENT:
        monkeypatch.setenv(name, CANARY)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    for name in ("TIMEOUT", "MAX_RETRIES", "BACKOFF_FACTOR"):
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", "1")
    monkeypatch.chdir(tmp_path)
    yield
    mlflow.set_tracking_uri(None)


def holding(folder: Path) -> list[str]:
    """Files under `folder` that hold the canary, packed ones unpacked."""
    found = []
    for file in folder.rglob("*"):
        if not file.is_file():
            continue
        content = file.read_bytes()
        if file.suffix == ".parquet":
            content += str(pq.read_table(file).to_pylist()).encode()
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as arrays:
                content += str([arrays[name].tolist() for name in arrays]).encode()
        if CANARY.encode() in content:
            found.append(str(file.relative_to(folder)))
    return found


def test_a_whole_run_its_evaluation_and_its_export_hold_no_secret(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    uri = f"tracking.mlflow_uri=sqlite:///{tmp_path}/mlflow.db"
    answer = said(fit.main, fit_arguments(tiny_model_dir, tmp_path / "runs", *SECRET, uri))
    assert answer.code == 0, answer.err
    run = tmp_path / "runs" / "starter"
    assert f"api_key: '{HIDDEN}'" in (run / "config.yaml").read_text()
    said_by_export = said(export.main, [str(run), str(tmp_path / "out")])
    assert said_by_export.code == 0, said_by_export.err
    evaluated = said(
        evaluate.main,
        [str(run), *QUICK, uri],
    )
    assert evaluated.code == 0, evaluated.err
    # All that was meant to be there is: the search had something to find it in.
    for name in (
        "mlflow.db",
        "mlartifacts",
        "out/README.md",
        "out/ceeh.yaml",
        "runs/starter/report.html",
    ):
        assert (tmp_path / name).exists(), name
    assert len(list(run.rglob("*"))) > 15
    assert holding(tmp_path) == []
    for each in (answer, said_by_export, evaluated):
        assert CANARY not in each.out + each.err


def test_the_search_finds_a_secret_in_every_kind_of_file(tmp_path: Path) -> None:
    import pyarrow as pa

    (tmp_path / "a.txt").write_text(f"x{CANARY}y")
    pq.write_table(pa.table({"a": [CANARY] * 9}), tmp_path / "b.parquet", compression="zstd")
    np.savez_compressed(tmp_path / "c.npz", a=np.array([CANARY] * 9))
    assert sorted(holding(tmp_path)) == ["a.txt", "b.parquet", "c.npz"]


def test_a_server_that_is_down_is_named_without_its_password(
    tiny_model_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    uri = f"tracking.mlflow_uri=http://me:{CANARY}@127.0.0.1:9/?token={CANARY}"
    arguments = fit_arguments(tiny_model_dir, tmp_path / "runs", *SECRET, uri)
    answer = said(fit.main, arguments)
    assert answer.code == 0, answer.err
    assert re.search(r"MLflow at .* does not answer", caplog.text)
    assert CANARY not in caplog.text + answer.out + answer.err
    assert holding(tmp_path) == []
    # What is left of the address leads nowhere, which who sends the rest or evaluates the run is told.
    answer = said(tracking.main, [str(tmp_path / "runs" / "starter")])
    assert answer.code == 2
    assert "held a secret, which" in answer.err
    assert "give it with --uri" in answer.err
    run = tmp_path / "runs" / "starter"
    evaluated = said(
        evaluate.main,
        [str(run), *QUICK],
    )
    assert evaluated.code == 0, evaluated.err
    assert "not tracked: the address of the run's server held a secret" in evaluated.out


def test_settings_are_shown_without_secrets_and_a_shown_one_is_not_run(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    arguments = fit_arguments(tiny_model_dir, tmp_path / "runs", *SECRET, "tracking.mlflow=false")
    shown = said(fit.main, [*arguments, "--print-config"])
    planned = said(fit.main, [*arguments, "--dry-run"])
    assert CANARY not in shown.out + shown.err + planned.out + planned.err
    assert shown.out.count(HIDDEN) == 4
    assert planned.out.count(HIDDEN) == 4
    (tmp_path / "shown.yaml").write_text(shown.out)
    answer = said(fit.main, ["--config", str(tmp_path / "shown.yaml")])
    assert_refused(answer, "prompts.train.init_args.api_key holds '[redacted]'", "give it again")
    assert not (tmp_path / "runs").exists()


def test_a_mistake_beside_a_secret_does_not_show_it(tmp_path: Path) -> None:
    for override in (
        f"tracking.mlflow_url=postgresql://me:{CANARY}@db/x",
        f"tracking.mlflow_uri=[http://me:{CANARY}@db/x",
        f"optimizer.lr=http://x/?api_key={CANARY}",
    ):
        answer = said(fit.main, fit_arguments("starter", tmp_path, override))
        assert answer.code == 2
        assert CANARY not in answer.out + answer.err


@pytest.mark.parametrize(
    "text",
    [
        "hf_abcdefghijklmnopqrstuvwx",
        "sk-proj-abcdefghijklmnopqrstu",
        "ghp_abcdefghijklmnopqrstuvwx",
        "AKIAABCDEFGHIJKLMNOP",
        "xoxb-123456789012-abc",
        "eyJhbGciOiJIUzI1.eyJzdWIiOiIx.c2lnbmF0dXJl",
        "postgresql://me:p/w@db:5432/x",
        "http://host/path?x=1&access_token=abc",
    ],
)
def test_texts_with_the_shape_of_a_secret_are_hidden_wherever_they_stand(text: str) -> None:
    shown = str(redact({"note": [f"see {text} there"]}))
    assert HIDDEN in shown
    secret = text.rpartition("=")[2] if "access_token" in text else "p/w" if "p/w" in text else text
    assert secret not in shown


def test_ordinary_settings_are_not_hidden() -> None:
    for text in (
        "sqlite:///mlflow.db",
        "http://127.0.0.1:5000",
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
        r"so (\d{2})$",
        "tests.torch_engine.TorchEngine",
        "my_task.py:reward",
        "/data/sk-learn/x.jsonl",
    ):
        assert redact({"path": text}) == {"path": text}
