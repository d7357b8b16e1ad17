"""Reading an untrusted file never runs code from it."""

import ast
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import ceeh
from ceeh import compare, evaluate, fit
from ceeh.export import __main__ as export
from ceeh.fit.held_out import kept_table
from ceeh.pretrained.locate import open_trained
from tests.commands import assert_refused, contents, fit_arguments, no_engine, said
from tests.conftest import FinishedRun
from tests.evil import Evil, change, pickled
from tests.test_fit import rows

LOADERS = {"torch.load": "weights_only", "np.load": "allow_pickle", "numpy.load": "allow_pickle"}
NEVER = {
    *("eval", "exec", "compile", "__import__", "pickle.load", "pickle.loads", "yaml.load"),
    *("yaml.unsafe_load", "yaml.full_load", "sympify", "sympy.sympify", "parse_expr", "os.system"),
    *("os.popen", "marshal.loads", "shelve.open", "dill.loads", "joblib.load", "os.execv"),
}


def test_the_source_calls_no_loader_that_runs_what_it_loads() -> None:
    """`torch.load` and `np.load` are allowed only with their safe setting spelled out."""
    found = []
    for file in Path(ceeh.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            settings = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if name in NEVER or settings.get("shell") == "True":
                found.append(f"{file.name}:{node.lineno} {name}")
            if name in LOADERS:
                safe = {"weights_only": "True", "allow_pickle": "False"}[LOADERS[name]]
                if settings.get(LOADERS[name]) != safe:
                    found.append(f"{file.name}:{node.lineno} {name} without {LOADERS[name]}={safe}")
    # A worker unpickles tasks from the process that started it, through a private pipe.
    assert [place for place in found if not place.startswith("worker.py")] == []


@pytest.fixture
def victim(tmp_path: Path):
    """The file that a payload would create; the test fails if it exists at the end."""
    file = tmp_path / "victim"
    yield file
    assert not file.exists(), "the payload ran"


def test_the_payload_works(tmp_path: Path) -> None:
    pickle.loads(pickled(tmp_path / "made"))
    assert (tmp_path / "made").exists()


def test_a_malicious_checkpoint_is_refused_and_the_run_left_unchanged(
    full_run: FinishedRun, tmp_path: Path, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_engine(monkeypatch)
    run = full_run.copy(tmp_path / "runs")
    evil = run / "checkpoints" / "evil.ckpt"
    torch.save({"state_dict": {}, "rollout_step": Evil(victim)}, evil)
    bare = run / "checkpoints" / "bare.ckpt"
    bare.write_bytes(pickled(victim))
    before = contents(run)
    model = open_trained(str(run / "checkpoints" / "step-000002.ckpt")).model_path
    for file in (evil, bare):
        arguments = fit_arguments(model, tmp_path / "runs", f"ckpt_path={file}", "seed=3")
        assert_refused(
            said(fit.main, arguments), str(file), "nothing in it was run", "another file"
        )
    assert contents(run) == before
    monkeypatch.setattr(
        "ceeh.data.engine.vllm_engine.import_vllm", lambda: pytest.fail("engine started")
    )
    monkeypatch.chdir(tmp_path)
    for main, arguments in (
        (evaluate.main, [str(evil), "--benchmarks", "starter", "limit=2"]),
        (export.main, [str(evil), str(tmp_path / "out")]),
    ):
        assert_refused(said(main, [*arguments]), "nothing in it was run")


def test_hyper_parameters_and_class_names_in_a_checkpoint_are_ignored(
    full_run: FinishedRun, tmp_path: Path, victim: Path
) -> None:
    run = full_run.copy(tmp_path / "runs")
    last = run / "checkpoints" / "step-000002.ckpt"
    state = torch.load(last, weights_only=True)
    module = tmp_path / "payload_of_a_checkpoint.py"
    module.write_text(f"from pathlib import Path\nPath({str(victim)!r}).touch()\nclass Run: ...\n")
    path = f"{module}:Run"
    wanted = {"_class_path": path, "class_path": path, "_instantiator": path, "config": {"seed": 9}}
    state |= dict.fromkeys(("hyper_parameters", "datamodule_hyper_parameters"), wanted)
    state |= dict.fromkeys(("hparams_name", "hparams_type", "_class_path"), path)
    state["_instantiator"] = "payload_of_a_checkpoint.Run"
    torch.save(state, last)
    model = open_trained(str(last)).model_path
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        steps = ("rollouts.steps=3", "rollouts.temperature=0.7", "ckpt_path=last")
        answer = said(fit.main, fit_arguments(model, tmp_path / "runs", *steps))
    assert answer.code == 0, answer.err
    assert [row["rollout_step"] for row in rows(run) if "loss/policy" in row] == [1, 2, 3]


def test_pickled_weights_of_a_model_are_not_opened(
    tiny_model_dir: Path, tmp_path: Path, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_engine(monkeypatch)
    model = Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))
    weights = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickled(victim))
    parts = ("model.path", str(model), "pickles (pytorch_model.bin)", "write them as safetensors")
    runs = tmp_path / "runs"
    assert_refused(said(fit.main, fit_arguments(model, runs)), *parts)
    assert_refused(said(fit.main, [*fit_arguments(model, runs), "--dry-run"]), *parts)
    given = [str(model), "--benchmarks", "starter", "--output", str(runs)]
    assert_refused(said(evaluate.main, given), *parts)
    assert not runs.exists()
    # Next to safetensors it is ignored.
    (model / "model.safetensors").write_bytes(weights)
    assert said(fit.main, [*fit_arguments(model, runs), "--dry-run"]).code in (0, 3)


def test_a_pickled_adapter_is_not_opened(
    tiny_model_dir: Path, tmp_path: Path, victim: Path
) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    base = str(tiny_model_dir)
    change(tmp_path / "adapter_config.json", peft_type="LORA", base_model_name_or_path=base)
    (tmp_path / "adapter_model.bin").write_bytes(pickled(victim))
    answer = said(evaluate.main, [str(tmp_path), "--benchmarks", "starter"])
    assert_refused(answer, str(tmp_path), "no adapter_model.safetensors", "save the adapter again")


def test_malicious_and_damaged_base_samples_are_measured_again(
    tmp_path: Path, victim: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "base.npz"
    np.savez(file, uid=np.array([Evil(victim)], dtype=object), index=np.array([0]))
    objects = file.read_bytes()
    for content in (objects, pickled(victim), objects[:90], b"", b"hello"):
        file.write_bytes(content)
        assert kept_table(file, [], 1, "") is None
        said_so = r"base\.npz' cannot be read .* nothing in it was run.*; measuring again"
        assert re.search(said_so, capsys.readouterr().out)
        assert not victim.exists(), content


def test_a_malicious_results_folder_is_refused(tmp_path: Path, victim: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    for name in ("results.json", "samples.parquet", "settings.json"):
        (folder / name).write_bytes(pickled(victim))
    answer = said(compare.main, [str(folder), f"x={folder}", "--output", str(tmp_path / "out")])
    assert_refused(answer, "results.json", "evaluate again")
    answer = said(
        evaluate.main, ["starter", "--benchmarks", "starter", "limit=1", "--output", str(folder)]
    )
    assert_refused(answer, "settings.json", "another --output")
    assert not (tmp_path / "out").exists()
