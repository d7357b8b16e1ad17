"""evaluate, compare, export and mixture on what they cannot use: exit code 2, cure, nothing written."""

import json
import shutil
from pathlib import Path

import pytest

from ceeh import compare, evaluate
from ceeh.data.mixture import __main__ as mixture
from ceeh.export import __main__ as export
from tests.commands import assert_refused, contents, said
from tests.conftest import FinishedRun
from tests.test_compare import write

ROOT = Path(__file__).parent.parent.parent
STARTER = ("--benchmarks", "starter")
MAINS = {
    "evaluate": evaluate.main,
    "compare": compare.main,
    "export": export.main,
    "mixture": mixture.main,
}


@pytest.fixture(scope="module")
def place(full_run: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with things good and bad in it."""
    here = tmp_path_factory.mktemp("place")
    write(here / "good", 0.5, 90, benchmarks=("sums",), questions=6)
    for name, file, content in (
        ("cut", "samples.parquet", (here / "good" / "samples.parquet").read_bytes()[:300]),
        ("swapped", "samples.parquet", b"PAR1"),
        ("told", "settings.json", b"[1]"),
        ("empty", "results.json", b""),
        ("utf16", "results.json", "{}".encode("utf-16")),
        ("binary", "results.json", bytes(range(256))),
        ("deep", "results.json", b"[" * 100_000),
    ):
        shutil.copytree(here / "good", here / name)
        (here / name / file).write_bytes(content)
    shutil.copytree(here / "good", here / "unsampled")
    (here / "unsampled" / "samples.parquet").unlink()
    shutil.copytree(full_run.path, here / "run")
    for name, content in (("nokeys", "seed: 1\nsed: 2\n"), ("notyaml", "["), ("list", "- 1\n")):
        (here / name).mkdir()
        (here / name / "config.yaml").write_text(content)
    (here / "adapter").mkdir()
    (here / "adapter" / "adapter_config.json").write_text("{")
    (here / "file").write_text("mine")
    (here / "bench.yaml").write_text("title: x\n")
    (here / "tag.yaml").write_text("title: !!python/name:os.mkdir\n")
    (here / "part.yaml").write_text(
        json.dumps(
            {
                "prompts": {
                    "train": {
                        "class_path": "ceeh.data.mixture.Mixture",
                        "init_args": {"parts": {"a": {"class_path": "nowhere.A"}}},
                    }
                }
            }
        )
    )
    (here / "few.yaml").write_text(
        (here / "part.yaml")
        .read_text()
        .replace(
            '"nowhere.A"',
            '"ceeh.data.sources.StarterTask", "init_args": {"questions": 3}, "questions": 9',
        )
    )
    return here


CASES = [
    ("evaluate", ["./none", *STARTER], ["'./none' does not exist; give 'starter'"]),
    ("evaluate", ["file", *STARTER], ["'file' is a file but not a .ckpt"]),
    ("evaluate", ["", *STARTER], ["''"]),
    ("evaluate", ["nokeys", *STARTER], ["sed", "nokeys"]),
    ("evaluate", ["notyaml", *STARTER], ["notyaml/config.yaml is not valid YAML"]),
    ("evaluate", ["list", *STARTER], ["list/config.yaml must hold a mapping of keys"]),
    ("evaluate", ["adapter", *STARTER], ["adapter_config.json is not an adapter configuration"]),
    ("evaluate", ["starter", "--benchmarks", "none"], ["no benchmark 'none'", "starter"]),
    ("evaluate", ["starter", "--benchmarks", ","], ["--benchmarks names none"]),
    ("evaluate", ["starter", "--benchmarks", "starter,starter"], ["names 'starter' twice"]),
    ("evaluate", ["starter", "--benchmarks", "bench.yaml"], ["is missing and must be given"]),
    ("evaluate", ["starter", "--benchmarks", "tag.yaml"], ["tag.yaml is not valid YAML"]),
    ("evaluate", ["starter", "--benchmarks", "none.yaml"], ["no file 'none.yaml'"]),
    ("evaluate", ["starter", *STARTER, "samples=0"], ["samples must be at least 1, got 0"]),
    ("evaluate", ["starter", *STARTER, "limit=0"], ["limit must be at least 1, or null, got 0"]),
    ("evaluate", ["starter", *STARTER, "top_p=2"], ["top_p must be in (0, 1], got 2"]),
    ("evaluate", ["starter", *STARTER, "nope=2"], ["'nope=2' is not for an evaluation"]),
    (
        "evaluate",
        ["starter", *STARTER, "limit=1", "--output", "file"],
        ["'file' is a file; give a folder"],
    ),
    (
        "evaluate",
        ["starter", *STARTER, "limit=1", "--output", "told"],
        ["settings.json", "another --output"],
    ),
    (
        "evaluate",
        ["starter", *STARTER, "limit=1", "--output", "swapped"],
        ["samples.parquet", "--output"],
    ),
    ("compare", ["good"], ["give at least two results"]),
    ("compare", ["good", "none"], ["'none' holds no results.json"]),
    ("compare", ["good", "x=cut"], ["cut/samples.parquet cannot be read as samples"]),
    ("compare", ["good", "x=swapped"], ["swapped/samples.parquet cannot be read as samples"]),
    ("compare", ["good", "x=unsampled"], ["unsampled/samples.parquet cannot be read as samples"]),
    ("compare", ["good", "x=empty"], ["empty/results.json is not what", "evaluate again"]),
    ("compare", ["good", "x=utf16"], ["utf16/results.json is not what"]),
    ("compare", ["good", "x=binary"], ["binary/results.json is not what"]),
    ("compare", ["good", "x=deep"], ["deep/results.json is not what"]),
    ("compare", ["good", "x=good", "--output", "file/below"], ["--output"]),
    ("export", ["none", "out"], ["the run 'none' does not exist"]),
    ("export", ["file", "out"], ["'file' is a file but not a .ckpt"]),
    ("export", ["good", "out"], ["'good' is not a model: it contains"]),
    ("export", ["notyaml", "out"], ["notyaml/config.yaml is not valid YAML"]),
    ("export", ["run", "file"], ["is a file; give a folder"]),
    ("export", ["run", "file/below"], ["OUT", "file"]),
    ("export", ["run", "good"], ["is not empty and does not contain a model"]),
    ("export", ["run", "run/out"], ["is inside the run folder"]),
    (
        "export",
        ["run", "out", "--checkpoint", "none.ckpt"],
        ["no such file; checkpoints of 'run': step-000002.ckpt"],
    ),
    ("export", ["run", "out", "--adapter"], ["and has no adapter"]),
    ("export", ["run", "out", "--push-to-hub", "a/b/c"], ["is not a hub id; write user/name"]),
    ("mixture", ["--config", "none.yaml"], ["no file 'none.yaml'"]),
    ("mixture", ["--config", "list/config.yaml"], ["must hold a mapping of keys"]),
    ("mixture", ["--config", str(ROOT / "configs" / "ceeh.yaml")], ["which is no mixture"]),
    ("mixture", ["--config", "part.yaml"], ["parts.a.class_path: cannot import 'nowhere'"]),
    ("mixture", ["--config", "few.yaml"], ["parts.a.questions is 9, but only 3 are left"]),
    (
        "mixture",
        ["--config", "few.yaml", "prompts.train.init_args.parts.a.questions=2", "--out", "good"],
        ["--out"],
    ),
    (
        "mixture",
        [
            "--config",
            "few.yaml",
            "prompts.train.init_args.parts.a.questions=2",
            "--out",
            "file/x.jsonl",
        ],
        ["--out"],
    ),
]


@pytest.mark.parametrize(
    ("command", "arguments", "parts"),
    CASES,
    ids=lambda v: " ".join(v)[-60:] if isinstance(v, list) else v,
)
def test_a_command_that_cannot_be_meant(
    command: str,
    arguments: list[str],
    parts: list[str],
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(place)
    monkeypatch.setattr("ceeh.evaluate.open_engine", lambda *a: pytest.fail("engine started"))
    before = contents(place)
    assert_refused(said(MAINS[command], arguments), *parts)
    assert contents(place) == before
