"""Code shipped with a model runs only where the user allows it."""

import shutil
from pathlib import Path

import pytest

from ceeh import evaluate, fit
from ceeh.config.settings import Prompts
from ceeh.errors import ConfigError
from ceeh.export import __main__ as export
from ceeh.pretrained.loading import load_config, load_tokenizer
from tests.commands import assert_refused, fit_arguments, no_engine, said
from tests.conftest import FinishedRun
from tests.evil import change, with_own_code


@pytest.fixture
def model(tiny_model_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))


def test_a_model_that_brings_code_is_refused_and_its_code_not_run(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_engine(monkeypatch)
    victim, runs = tmp_path / "victim", tmp_path / "runs"
    with_own_code(model, victim, part="config")
    given = [str(model), "--benchmarks", "starter", "--output", str(runs)]
    for main, arguments in (
        (fit.main, fit_arguments(model, runs)),
        (fit.main, [*fit_arguments(model, runs), "--dry-run"]),
        (evaluate.main, given),
    ):
        answer = said(main, arguments)
        assert_refused(answer, "model.path", "its own code", "model.trust_remote_code=true")
        assert not victim.exists()
    assert not runs.exists()


def test_tokenizer_code_is_not_run_where_a_standard_tokenizer_works(
    model: Path, tmp_path: Path
) -> None:
    with_own_code(model, tmp_path / "victim", part="tokenizer")
    assert len(load_tokenizer(str(model), trust_remote_code=False)) > 0
    assert not (tmp_path / "victim").exists()


def test_the_payload_runs_when_remote_code_is_allowed(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "c"))
    with_own_code(model, tmp_path / "victim", part="config")
    load_config(str(model), trust_remote_code=True)
    assert (tmp_path / "victim").exists()


@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation"])
def test_kernels_from_the_hub_are_refused(
    model: Path, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(
        "transformers.modeling_utils.lazy_import_flash_attention", lambda *a, **k: asked.append(a)
    )
    change(model / "config.json", **{key: "stranger/kernels"})
    for more in ([], ["--dry-run"]):
        answer = said(fit.main, [*fit_arguments(model, tmp_path / "runs"), *more])
        assert_refused(answer, "asks for foreign kernels", "stranger/kernels", "remove that line")
    assert asked == []


def test_export_ignores_the_remote_code_setting_of_an_untrusted_run(
    full_run: FinishedRun, tmp_path: Path
) -> None:
    run = full_run.copy(tmp_path)
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("remote_code: false", "remote_code: true"))
    with_own_code(run / "model", tmp_path / "victim", part="config")
    answer = said(export.main, [str(run), str(tmp_path / "out")])
    assert_refused(answer, "its own code", "--trust-remote-code")
    assert not (tmp_path / "victim").exists()
    assert not (tmp_path / "out").exists()


def test_a_chat_template_cannot_reach_out_of_its_sandbox(model: Path, tmp_path: Path) -> None:
    from ceeh.data.prompts import PromptBuilder
    from ceeh.types import Question

    tokenizer = load_tokenizer(str(model), trust_remote_code=False)
    question = Question(uid="q", text="1+1?", answer="2")
    victim = str(tmp_path / "victim")
    for template in (
        f"{{{{ cycler.__init__.__globals__.os.mkdir({victim!r}) }}}}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        f"{{{{ lipsum.__globals__['os'].mkdir({victim!r}) }}}}",
        "{% for i in range(999999999) %}x{% endfor %}",
        "{{ 1 / 0 }}",
        "{{ messages[9].content }}",
        "{% if %}",
    ):
        tokenizer.chat_template = template
        builder = PromptBuilder(tokenizer, Prompts(chat_template=True))
        with pytest.raises(ConfigError, match=r"the chat template of .* rejects the messages"):
            builder(question)
        assert not Path(victim).exists()
