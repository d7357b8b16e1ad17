"""The task of docs/external_evaluation.md asks what the starter benchmark asks; its snippet runs."""

import json
import re
from pathlib import Path

import pytest
import yaml

from ceeh.data.benchmarks import benchmark_questions, load_benchmark

PAGE = (Path(__file__).parent.parent / "docs" / "external_evaluation.md").read_text()


def block(language: str) -> str:
    [found] = re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)
    return found


def test_the_task_has_the_benchmarks_pattern_limit_and_prompt() -> None:
    task, starter = yaml.safe_load(block("yaml")), load_benchmark("starter")
    [extract, _] = task["filter_list"][0]["filter"]
    assert extract["regex_pattern"] == starter.verifier.init_args["pattern"]
    assert task["generation_kwargs"]["max_gen_toks"] == starter.max_response_tokens
    assert (task["doc_to_text"], starter.instruction) == ("{{question}}", None)


def test_the_snippet_writes_the_questions_that_the_task_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(block("python"), "page", "exec"), {})
    task = yaml.safe_load(block("yaml"))
    rows = Path(task["dataset_kwargs"]["data_files"]["test"]).read_text().splitlines()
    first = benchmark_questions(load_benchmark("starter"))[0]
    assert len(rows) == 200
    assert json.loads(rows[0]) == {"question": first.text, "answer": first.answer}
