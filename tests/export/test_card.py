"""The model card: valid for the hub, true to the run, without secrets, with code that runs."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard

from ceeh.config.component import Component
from ceeh.config.settings import load
from ceeh.evaluation.summary import summarize
from ceeh.export import main
from ceeh.export.card import Export, base_license, hub_id, method, public, write_card
from ceeh.reporting.run_page import summary_grid
from tests.conftest import FinishedRun
from tests.reporting.test_run_page import held_out
from tests.test_fit import SHIPPED

HUB = ["model.path=some-user/some-model", "model.lora.rank=8"]


def export(overrides: list[str], **changes: Any) -> Export:
    return replace(
        Export(
            name="brief",
            repo="me/brief",
            config=load([SHIPPED], overrides),
            rollout_step=100,
            summary=None,
            evaluation=None,
            mixture=None,
            adapter=False,
            dtype="bfloat16",
            command="python -m ceeh.export runs/brief out",
        ),
        **changes,
    )


def card(folder: Path, overrides: list[str], **changes: Any) -> ModelCard:
    write_card(folder, export(overrides, **changes))
    return ModelCard.load(folder / "README.md")


@pytest.fixture(scope="module")
def summary() -> dict:
    hard = torch.arange(64) % 8 > 3
    return summarize(held_out(1.0, 0), held_out(0.6, 1), hard, k=4, draws=100, seed=0)


def test_metadata_names_base_library_and_tags(tmp_path: Path) -> None:
    data = card(tmp_path, HUB).data
    assert data.to_dict() == {
        "base_model": "some-user/some-model",
        "base_model_relation": "finetune",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["ceeh", "reasoning", "efficient-reasoning", "lora"],
    }
    data = card(tmp_path, HUB, adapter=True).data
    assert (data.library_name, data["base_model_relation"]) == ("peft", "adapter")


def test_metadata_names_the_data_sets_of_the_hub_and_no_local_files(tmp_path: Path) -> None:
    table = "prompts.train={class_path: ceeh.data.sources.Table, init_args: {path: %s}}"
    assert card(tmp_path, [*HUB, table % "some-user/questions"]).data.datasets == [
        "some-user/questions"
    ]
    for local in ("questions.jsonl", "data/questions.parquet", "/data/questions"):
        assert card(tmp_path, [*HUB, table % local]).data.datasets is None, local


def test_a_local_base_is_not_a_hub_id_and_its_path_is_not_published(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    found = card(tmp_path, [f"model.path={tiny_model_dir}"])
    assert found.data.base_model is None
    assert f"`{tiny_model_dir.name}` (a local folder)" in found.text
    for file in ("README.md", "ceeh.yaml"):
        assert str(tiny_model_dir.parent) not in (tmp_path / file).read_text()
    assert hub_id("some-user/some-model") == "some-user/some-model"
    for path in ("starter", str(tiny_model_dir), "/gone/model", "a/b/c"):
        assert hub_id(path) is None, path


def test_the_license_is_the_bases_or_left_out(tiny_model_dir: Path, tmp_path: Path) -> None:
    assert base_license("starter") == {"license": "apache-2.0"}
    assert base_license(str(tiny_model_dir)) == {}
    assert base_license("some-user/some-model") == {}
    (tmp_path / "README.md").write_text(
        "---\nlicense: other\nlicense_name: mine\nlicense_link: LICENSE\ntags: [x]\n---\n# Base\n"
    )
    assert base_license(str(tmp_path)) == {
        "license": "other",
        "license_name": "mine",
        "license_link": "LICENSE",
    }


def test_results_are_in_the_card_and_in_its_metadata(tmp_path: Path, summary: dict) -> None:
    found = card(tmp_path, HUB, summary=summary)
    lines = found.text.splitlines()
    for row in summary_grid(summary).rows:
        assert f"| {' | '.join(row)} |" in lines
    assert "64 held-out questions (32 easy, 32 hard), 4 samples each, 95 % intervals" in found.text
    assert "![Accuracy against tokens of base and tuned, with 95 % intervals](pareto" in found.text
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")
    measured = {result.metric_type: result for result in found.data.eval_results}
    assert set(measured) == {"accuracy", "tokens", "pass_at_4", "entropy"}
    accuracy, stated = measured["accuracy"], summary["tuned"]["all"]["accuracy"]
    assert accuracy.metric_value == pytest.approx(stated["value"], abs=1e-4)
    assert f"95 % interval [{stated['low']:.4g}, " in accuracy.metric_name
    assert accuracy.dataset_name == "StarterTask, 64 held-out questions"


def test_benchmarks_that_were_evaluated_are_in_the_metadata(tmp_path: Path) -> None:
    metric = {"value": 0.5, "low": 0.4, "high": 0.6}
    sampling = {"temperature": 0.6, "top_p": 0.95, "max_response_tokens": 16000}
    table = {"path": "openai/gsm8k", "name": "main", "split": "test"}
    questions = {"class_path": "ceeh.data.sources.Table", "init_args": table}
    benchmark = {
        "settings": sampling | {"title": "GSM8K", "questions": questions},
        "questions": 1319,
        "metrics": {"accuracy": metric, "tokens_wrong": None},
    }
    mine = {"class_path": "ceeh.data.sources.Table", "init_args": {"path": "/home/me/q.jsonl"}}
    other = benchmark | {"settings": benchmark["settings"] | {"title": "mine", "questions": mine}}
    evaluation = {"benchmarks": {"gsm8k": benchmark, "mine": other}}
    found = card(tmp_path, HUB, evaluation=evaluation)
    assert "/home/me" not in (tmp_path / "README.md").read_text()
    first, second = found.data.eval_results
    assert (first.dataset_type, first.dataset_config, first.dataset_split) == (
        *("openai/gsm8k", "main", "test"),
    )
    assert (first.metric_type, first.metric_value, first.dataset_args) == (
        "accuracy",
        0.5,
        sampling,
    )
    assert first.dataset_name == "GSM8K, 1319 questions"
    assert (second.dataset_type, second.dataset_name) == ("mine", "mine, 1319 questions")


def test_a_subset_without_questions_has_empty_cells(tmp_path: Path, summary: dict) -> None:
    empty = dict.fromkeys(summary["base"]["all"])
    changed = {
        policy: summary[policy] | {"hard": empty | {"tokens_relative": None}}
        for policy in ("base", "tuned", "difference")
    }
    text = card(tmp_path, HUB, summary=summary | changed).text
    assert "| hard | base | - | - | - | - |" in text


def test_an_unmeasured_model_has_no_results_but_citation_and_caution(tmp_path: Path) -> None:
    found = card(tmp_path, HUB, rollout_step=40)
    assert "These weights, after rollout step 40 of 100, were not measured" in found.text
    assert "pareto" not in found.text
    assert "40 rollout steps" in found.text
    assert found.data.eval_results is None
    for text in (
        "author = {Luo and Ren and Chen and Liu and Fang and Tan and Huang}",
        "eprint = {2602.22642}",
        "kept 63-69 % of the baseline's faithfulness in [arXiv 2607.09786](https://arxiv.org/abs/26",
    ):
        assert text in found.text


def test_the_settings_file_is_the_runs_and_no_secret_reaches_the_folder(tmp_path: Path) -> None:
    secrets = [
        "tracking.mlflow_uri=https://me:hunter2@host/x",
        "engine.init_args={api_key: hunter2}",
    ]
    source = Component("x.Source", {"token": "hunter2", "path": "/home/me/train.jsonl"})
    config = export([*HUB, *secrets]).config
    config = replace(config, prompts=replace(config.prompts, train=source))
    write_card(tmp_path, export(HUB, config=config))
    for file, source in (
        ("README.md", "`x.Source` (token: [redacted], path: train.jsonl)"),
        ("ceeh.yaml", "path: train.jsonl"),
    ):
        text = (tmp_path / file).read_text()
        assert "hunter2" not in text
        assert "/home/me" not in text
        assert source in text
    write_card(tmp_path, export([*HUB, "optimizer.lr=2e-5"]))
    assert load([tmp_path / "ceeh.yaml"]) == load([SHIPPED], [*HUB, "optimizer.lr=2e-5"])


def test_absolute_paths_are_shortened_and_other_texts_are_not() -> None:
    assert public({"path": "/home/me/a.jsonl", "class_path": "/x/my.py:Task"}) == {
        "path": "a.jsonl",
        "class_path": "my.py:Task",
    }
    kept = {"path": "runs/a", "system_prompt": "/think", "output": "runs", "items": ["a", 1, None]}
    assert public(kept) == kept


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "CEEH-ME"),
        (["objective.entropy.method=ea"], "CEEH-EA"),
        (
            ["objective.entropy.method=none"],
            "a comparison to CEEH (OptimalLengthPenalty, no entropy bonus)",
        ),
        (
            ["objective.shaping.class_path=ceeh.modules.shaping.NoShaping"],
            "a comparison to CEEH (NoShaping, the entropy bonus 'me')",
        ),
    ],
)
def test_a_run_is_called_ceeh_only_with_the_papers_settings(
    overrides: list[str], name: str
) -> None:
    assert method(load([SHIPPED], overrides)) == name


def test_the_code_has_the_system_prompt_and_instruction_of_the_run(tmp_path: Path) -> None:
    chat = ["prompts.chat_template=true", r"prompts.system_prompt='put it in \boxed{}'"]
    chat.append("prompts.instruction=Think.")
    text = card(tmp_path, [*HUB, *chat]).text
    assert r'{"role": "system", "content": ' + repr(r"put it in \boxed{}") in text
    assert r'"content": question.rstrip() + ' + repr("\n\nThink.") in text
    assert "tokenize=False, add_generation_prompt=True)" in text
    assert "add_special_tokens=False" in text


def test_a_mixture_states_what_it_drew_and_dropped(tmp_path: Path) -> None:
    table = {"class_path": "ceeh.data.sources.Table", "init_args": {"path": "/home/me/a.json"}}
    counts = {"read": 90, "duplicates": 7, "clean": 80, "drawn": 50}
    contaminated = {"math500": 2, "aime24": 1}
    part = counts | {"name": "mine", "source": table, "contaminated": contaminated}
    mixture = {"parts": [part], "benchmarks": {"math500": 500}, "ngram": 8, "coverage": 0.5}
    text = card(tmp_path, HUB, mixture=mixture).text
    assert (
        "| training questions | mine: 50 of 90, `ceeh.data.sources.Table` (path: a.json), without 7 "
        "duplicates and 3 that repeat a benchmark's; compared with math500 by 8-grams over 50% of a "
        "question |"
    ) in text
    text = card(tmp_path, HUB, mixture=mixture | {"benchmarks": {}}).text
    assert "not compared with any benchmark |" in text


@pytest.mark.parametrize("options", [[], ["--adapter"]], ids=["merged", "adapter"])
def test_the_code_of_the_card_runs(
    lora_run: FinishedRun,
    tmp_path: Path,
    options: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([str(lora_run.path), "out", *options]) == 0
    text = ModelCard.load(tmp_path / "out" / "README.md").text
    code, vllm = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    capsys.readouterr()
    exec(compile(code.replace('"..."', '"4+3?"'), "card", "exec"), {})
    assert capsys.readouterr().out.strip()
    compile(vllm, "card", "exec")
    assert ("LoRARequest" in vllm) == bool(options)
    assert f"python -m ceeh.export starter out{''.join(' ' + word for word in options)}" in text
