"""Secrets from configuration and environment appear in nothing that a run writes, prints or sends."""

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
    """A custom source that needs a key."""

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
    """Canaries in the environment; the tracking address is restored at the end."""
    for name in ENVIRONMENT:
        monkeypatch.setenv(name, CANARY)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    for name in ("TIMEOUT", "MAX_RETRIES", "BACKOFF_FACTOR"):
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", "1")
    monkeypatch.chdir(tmp_path)
    yield
    mlflow.set_tracking_uri(None)


def holding(folder: Path) -> list[str]:
    """Files under `folder` that hold the canary, compressed ones included."""
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
    exported = said(export.main, [str(run), str(tmp_path / "out")])
    assert exported.code == 0, exported.err
    evaluated = said(evaluate.main, [str(run), *QUICK, uri])
    assert evaluated.code == 0, evaluated.err
    # All expected files exist, so the search covered them.
    for name in ("mlflow.db", "mlartifacts", "out/README.md", "out/ceeh.yaml"):
        assert (tmp_path / name).exists(), name
    assert (run / "report.html").exists()
    assert len(list(run.rglob("*"))) > 15
    assert holding(tmp_path) == []
    for each in (answer, exported, evaluated):
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
    # The redacted address is useless: the tracking command and an evaluation of the run say so.
    answer = said(tracking.main, [str(tmp_path / "runs" / "starter")])
    assert answer.code == 2
    assert "held a secret, which" in answer.err
    assert "give it with --uri" in answer.err
    run = tmp_path / "runs" / "starter"
    evaluated = said(evaluate.main, [str(run), *QUICK])
    assert evaluated.code == 0, evaluated.err
    assert "not tracked: the address of the run's server held a secret" in evaluated.out


def test_settings_are_shown_without_secrets_and_a_redacted_file_is_refused(
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


def test_an_error_next_to_a_secret_does_not_show_it(tmp_path: Path) -> None:
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
def test_texts_that_look_like_secrets_are_hidden_anywhere(text: str) -> None:
    shown = str(redact({"note": [f"see {text} there"]}))
    assert HIDDEN in shown
    secret = text.rpartition("=")[2] if "access_token" in text else "p/w" if "p/w" in text else text
    assert secret not in shown


def test_secrets_are_hidden_by_their_key_and_ordinary_settings_are_not() -> None:
    secrets = {"api_key": "k", "password": 7, "parts": [{"client_secret": "s"}], "hub_token": "h"}
    hidden = {"api_key": HIDDEN, "password": HIDDEN, "parts": [{"client_secret": HIDDEN}]}
    assert redact({"init_args": secrets, "apiKey": "k"}) == {
        "init_args": hidden | {"hub_token": HIDDEN},
        "apiKey": HIDDEN,
    }
    assert redact("https://me:pw@host/x, http://host") == f"https://{HIDDEN}@host/x, http://host"
    paths = [
        *("sqlite:///mlflow.db", "http://127.0.0.1:5000", "/data/sk-learn/x.jsonl"),
        *("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", r"so (\d{2})$", "my_task.py:reward"),
    ]
    ordinary = {"max_prompt_tokens": 512, "tokenizer": "path", "secret": None, "paths": paths}
    assert redact(ordinary) == ordinary
