"""evaluate, compare, export and mixture on invalid input: exit code 2, the cure, nothing written."""

import json
import shlex
import shutil
from pathlib import Path

import pytest

from ceeh import compare, evaluate
from ceeh.data.mixture import __main__ as mixture
from ceeh.export import __main__ as export
from ceeh.tracking import __main__ as tracking
from tests.commands import assert_refused, contents, said
from tests.conftest import FinishedRun
from tests.test_compare import write

ROOT = Path(__file__).parent.parent.parent
STARTER = "ceeh.data.sources.StarterTask"
MAINS = {
    "evaluate": evaluate.main,
    "compare": compare.main,
    "export": export.main,
    "mixture": mixture.main,
    "tracking": tracking.main,
}


@pytest.fixture(scope="module")
def place(full_run: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with valid and invalid files."""
    here = tmp_path_factory.mktemp("place")
    write(here / "good", 0.5, 90, benchmarks=("sums",), questions=6)
    write(here / "fewer", 0.5, 90, benchmarks=("sums",), questions=3)
    for name, file, content in (
        ("short", "samples.parquet", (here / "good" / "samples.parquet").read_bytes()[:300]),
        ("swapped", "samples.parquet", b"PAR1"),
        ("listed", "settings.json", b"[1]"),
        ("empty", "results.json", b""),
        ("utf16", "results.json", "{}".encode("utf-16")),
        ("binary", "results.json", bytes(range(256))),
        ("deep", "results.json", b"[" * 100_000),
        ("future", "results.json", b'{"format": 9, "name": "f", "benchmarks": {}}'),
        ("shape", "results.json", b'{"format": 2, "name": [], "benchmarks": []}'),
    ):
        shutil.copytree(here / "good", here / name)
        (here / name / file).write_bytes(content)
    shutil.copytree(here / "good", here / "unsampled")
    (here / "unsampled" / "samples.parquet").unlink()
    shutil.copytree(full_run.path, here / "run")
    summary = (full_run.path / "summary.json").read_text()
    for name, file, content in (
        ("cutsummary", "summary.json", summary[: len(summary) // 2]),
        ("listedsummary", "summary.json", "[1]"),
        ("othersummary", "summary.json", summary.replace('"easy"', '"medium"')),
        ("textsummary", "summary.json", summary.replace('"value": 0', '"value": "0')),
        ("cutresults", "evaluation/results.json", '{"format": 2, "name": "a'),
        ("otherresults", "evaluation/results.json", '{"format": 2, "benchmarks": {}}'),
        ("oldresults", "evaluation/results.json", '{"format": 1, "benchmarks": {}}'),
        ("cutmixture", "mixture.json", '{"parts": ['),
        ("othermixture", "mixture.json", '{"parts": [{"name": "a"}]}'),
        ("cutstate", "mlflow.json", '{"key": "a", "uri'),
        ("listedstate", "mlflow.json", "[1]"),
        ("otherstate", "mlflow.json", '{"uri": "sqlite:///mlflow.db"}'),
        ("textstate", "mlflow.json", STATE.replace('"offset": 0', '"offset": "0"')),
        ("entrystate", "mlflow.json", STATE.replace("[]", "[1]")),
        ("rowstate", "mlflow.json", STATE.replace("{}", '{"rollout_step": "1"}')),
    ):
        shutil.copytree(full_run.path, here / name)
        (here / name / file).parent.mkdir(exist_ok=True)
        (here / name / file).write_text(content)
    for name, content in (("nokeys", "seed: 1\nsed: 2\n"), ("notyaml", "["), ("list", "- 1\n")):
        (here / name).mkdir()
        (here / name / "config.yaml").write_text(content)
    (here / "adapter").mkdir()
    (here / "adapter" / "adapter_config.json").write_text("{")
    (here / "file").write_text("mine")
    (here / "bench.yaml").write_text("title: x\n")
    (here / "tag.yaml").write_text("title: !!python/name:os.mkdir\n")
    for name, part in (
        ("part", {"class_path": "nowhere.A"}),
        ("few", {"class_path": STARTER, "init_args": {"questions": 3}, "questions": 9}),
    ):
        train = {"class_path": "ceeh.data.mixture.Mixture", "init_args": {"parts": {"a": part}}}
        (here / f"{name}.yaml").write_text(json.dumps({"prompts": {"train": train}}))
    return here


STATE = json.dumps(
    dict.fromkeys(("key", "uri", "experiment", "run_name"), "sqlite:///mlflow.db")
    | {"entries": [], "delivered": 0, "offset": 0, "row": {}}
)
"""An mlflow.json that can be read."""
ON = "--benchmarks starter"
TWO = "prompts.train.init_args.parts.a.questions=2"
CASES = {
    f"evaluate ./none {ON}": "'./none' does not exist ... give 'starter'",
    f"evaluate file {ON}": "'file' is a file",
    f"evaluate '' {ON}": "''",
    f"evaluate nokeys {ON}": "sed ... nokeys",
    f"evaluate notyaml {ON}": "notyaml/config.yaml is not valid YAML",
    f"evaluate list {ON}": "list/config.yaml must hold a mapping of keys",
    f"evaluate adapter {ON}": "adapter_config.json",
    "evaluate starter --benchmarks none": "no benchmark 'none' ... starter",
    "evaluate starter --benchmarks gsm9k": "did you mean 'gsm8k'",
    "evaluate starter --benchmarks gsm8k max_prompt_tokens=9 max_response_tokens=9": "benchmark gsm8k: "
    "... cannot reach",
    "evaluate starter --benchmarks ,": "--benchmarks is empty",
    "evaluate starter --benchmarks starter,starter": "names 'starter' twice",
    "evaluate starter --benchmarks bench.yaml": "questions is missing and ... verifier is missing",
    "evaluate starter --benchmarks tag.yaml": "tag.yaml is not valid YAML",
    "evaluate starter --benchmarks none.yaml": "no file 'none.yaml'",
    f"evaluate starter {ON} samples=0": "samples must be at least 1, got 0",
    f"evaluate starter {ON} limit=0": "limit must be at least 1, or null, got 0",
    f"evaluate starter {ON} top_p=2": "top_p must be in (0, 1], got 2",
    f"evaluate starter {ON} temperature=nan": "temperature must be a number",
    f"evaluate starter {ON} nope=2": "'nope=2' is not a setting of an evaluation",
    f"evaluate starter {ON} gsm8k.samples=2": "NAME from --benchmarks",
    f"evaluate starter {ON} chat_template=true": "benchmark starter: chat_template is true ... no chat",
    f"evaluate starter {ON} hardware.accelerator=cuda": "no CUDA device",
    f"evaluate starter {ON} max_prompt_tokens=2": "are longer than max_prompt_tokens (2)",
    f"evaluate starter {ON} samples=1 max_response_tokens=6000": "starter.max_prompt_tokens + "
    "starter.max_response_tokens must be at most 512",
    f"evaluate starter {ON} limit=1 --output file": "'file' is a file; give a folder",
    f"evaluate starter {ON} limit=1 --output run": "is the folder of a run (config.yaml), whose report",
    f"evaluate starter {ON} limit=1 --output listed": "settings.json ... another --output",
    f"evaluate starter {ON} limit=1 --output swapped": "samples.parquet ... --output",
    "compare good": "give at least two results",
    "compare good good": "two results are called 'good'; label them",
    "compare good none": "'none' does not exist; give the output folder",
    "compare good fewer": "it has 3 questions and lacks 3 of the 6 of good",
    "compare good x=shape": "shape/results.json' is not a file of",
    "compare good x=future": "has format 9, this version reads 2",
    "compare good x=short": "short/samples.parquet cannot be read as samples",
    "compare good x=swapped": "swapped/samples.parquet cannot be read as samples",
    "compare good x=unsampled": "unsampled/samples.parquet cannot be read as samples",
    "compare good x=empty": "empty/results.json' is not a file of ... evaluate again",
    "compare good x=utf16": "utf16/results.json' is not a file of",
    "compare good x=binary": "binary/results.json' is not a file of",
    "compare good x=deep": "deep/results.json' is not a file of",
    "compare good x=good --output file/below": "--output: ... is a file; give a folder",
    "compare good x=good --output run": "--output: 'run' is the folder of a run ... another folder",
    "compare good x=good --output good": "the folder of an evaluation (settings.json), whose report",
    "compare good x=good --margin -1": "--margin must be between 0 and 100 points",
    "compare good x=good --margin nan": "--margin must be between 0 and 100 points",
    "compare good x=good --draws 5": "--draws must be at least 100",
    "export none out": "the run 'none' does not exist",
    "export file out": "'file' is a file",
    "export good out": "'good' is not a model: it contains",
    "export notyaml out": "notyaml/config.yaml is not valid YAML",
    "export run file": "is a file; give a folder",
    "export run file/below": "OUT ... file",
    "export run good": "is not empty and not an export",
    "export run run/out": "is inside the run folder",
    "export run out --checkpoint none.ckpt": "no such file; checkpoints of 'run': step-000002.ckpt",
    "export run out --adapter": "has no adapter",
    "export run out --push-to-hub a/b/c": "write user/name",
    "export cutsummary out": "cutsummary/summary.json' is not a file of ... resume the run",
    "export listedsummary out": "listedsummary/summary.json' ... it is not a mapping",
    "export othersummary out": "othersummary/summary.json' ... KeyError: 'easy'",
    "export textsummary out": "textsummary/summary.json' is not a file of",
    "export cutresults out": "evaluation/results.json' is not a file of ... evaluate again",
    "export otherresults out": "evaluation/results.json' is not a file of ... KeyError: 'name'",
    "export oldresults out": "evaluation/results.json has format 1, this version reads 2",
    "export cutmixture out": "cutmixture/mixture.json' is not a file of ... or remove it",
    "export othermixture out": "othermixture/mixture.json' ... KeyError: 'source'",
    "tracking cutstate": "cutstate/mlflow.json' is not a file of ... or remove it",
    "tracking listedstate": "listedstate/mlflow.json' ... it is not a mapping",
    "tracking otherstate": "otherstate/mlflow.json' ... KeyError: 'key'",
    "tracking textstate": "textstate/mlflow.json' ... str '0' where int is expected",
    "tracking entrystate": "entrystate/mlflow.json' ... int 1 where dict is expected",
    "tracking rowstate": "rowstate/mlflow.json' ... str '1' where int is expected",
    f"evaluate cutstate {ON} limit=1": "cutstate/mlflow.json' is not a file of",
    f"evaluate run {ON} limit=1 --output cutstate": "cutstate/mlflow.json' is not a file of",
    "mixture --config none.yaml": "no file 'none.yaml'",
    "mixture --config list/config.yaml": "must hold a mapping of keys",
    f"mixture --config {ROOT}/configs/ceeh.yaml": "which is not a mixture",
    "mixture --config part.yaml": "parts.a.class_path: cannot import 'nowhere'",
    "mixture --config few.yaml": "parts.a.questions is 9, but only 3 are left",
    f"mixture --config few.yaml {TWO} --out good": "--out: 'good' is a folder",
    f"mixture --config few.yaml {TWO} --out file/x.jsonl": "--out: ... file",
}
"""Command line -> what the message says."""


@pytest.mark.parametrize("case", CASES)
def test_an_invalid_command(case: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(place)
    monkeypatch.setattr("ceeh.evaluate.run.open_engine", lambda *a: pytest.fail("engine started"))
    before = contents(place)
    command, *arguments = shlex.split(case)
    assert_refused(said(MAINS[command], arguments), CASES[case])
    assert contents(place) == before
