"""Tables: the same questions from every kind of file and folder, and what cannot be read."""

import json
import os

import pytest
from huggingface_hub.errors import HFValidationError

from ceeh.data.sources.table import Table
from ceeh.errors import ConfigError
from tests.data.tables import COLUMNS, ROWS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "none.jsonl"}, r"no file or folder 'none.jsonl'; paths are relative to /"),
        ({"path": "./none"}, r"no file or folder './none'"),
        ({"path": "a/b/c"}, r"no file or folder 'a/b/c'"),
        ({"path": __file__}, r"must be a \.jsonl, \.json, \.parquet file, or a folder of them"),
        ({"streaming": True}, "streaming: true needs limit"),
        ({"limit": 0}, "limit must be at least 1, got 0"),
        (
            {"metadata": "level"},
            r"metadata must be a list of columns, got 'level'; write \[level\]",
        ),
        ({"answer_pattern": "("}, r"answer_pattern '\(' is not a regular expression"),
        ({"answer_pattern": "x"}, r"answer_pattern 'x' must have a group"),
    ],
)
def test_invalid_arguments_are_refused_at_once(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Table(**({"path": "some/data"} | arguments))


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet", ""])
def test_every_kind_of_file_gives_the_same_questions(tmp_path, write, suffix, monkeypatch):
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [row | {"solution": [str(row["solution"])], "extra": "x" * 9} for row in ROWS]
    path = tmp_path / f"table{suffix}"
    if suffix == ".jsonl":
        path = write(*rows)
    elif suffix == ".json":
        path.write_text("\ufeff \n" + json.dumps(rows, indent=1), encoding="utf-8")
    elif suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.mkdir()
        pq.write_table(pa.Table.from_pylist(rows), path / "train.parquet")
    table = Table(str(path), uid="id", metadata=["level"], **COLUMNS)
    assert [(q.uid, q.text, q.answer, q.metadata) for q in table] == [
        ("a", "1+1?", "2", {"level": 1}),
        ("b", "1/2?", "0.5", {"level": 2}),
        ("c", "20+7?", "27", {"level": 2}),
    ]
    assert [q.uid for q in Table(str(path), uid="id", limit=2, **COLUMNS)] == ["a", "b"]
    missing = (
        r"(row 0|line 1) has no column 'question'; it has: problem, solution, id, level, extra;"
    )
    with pytest.raises(ConfigError, match=missing):
        list(Table(str(path)))


def test_a_file_without_read_permission_is_named(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("{}")
    table = Table(str(file))
    if os.geteuid():
        file.chmod(0)
    else:  # root may read any file; this one nobody can read from its start
        file.unlink()
        file.symlink_to("/proc/self/mem")
    with pytest.raises(ConfigError, match=r"rows\.jsonl' cannot be read .*; check its permissions"):
        list(table)


@pytest.fixture(params=["parquet", "jsonl", "data"])
def hub_folder(request, tmp_path, monkeypatch):
    """A folder in each layout of the hub: data/*.parquet, loose files, files named by a card."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "dataset"
    (folder / "data").mkdir(parents=True)
    lines = "".join(json.dumps({**row, "solution": str(row["solution"])}) + "\n" for row in ROWS)
    if request.param == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(ROWS[1:]), folder / "data/train-00000-of-00001.parquet")
        pq.write_table(pa.Table.from_pylist(ROWS[:1]), folder / "data/test-00000-of-00001.parquet")
    elif request.param == "jsonl":
        (folder / "train.jsonl").write_text(lines.split("\n", 1)[1])
        (folder / "test.jsonl").write_text(lines.split("\n", 1)[0])
    else:
        (folder / "data/a.jsonl").write_text(lines.split("\n", 1)[1])
        (folder / "data/b.jsonl").write_text(lines.split("\n", 1)[0])
        (folder / "README.md").write_text(
            "---\nconfigs:\n- config_name: default\n  data_files:\n"
            "  - split: train\n    path: data/a.jsonl\n"
            "  - split: test\n    path: data/b.jsonl\n---\n"
        )
    return folder


def test_a_local_folder_is_read_in_every_layout_of_the_hub(hub_folder):
    train = list(Table(str(hub_folder), uid="id", metadata=["level"], **COLUMNS))
    assert [(q.uid, q.text, q.metadata) for q in train] == [
        ("b", "1/2?", {"level": 2}),
        ("c", "20+7?", {"level": 2}),
    ]
    streamed = list(
        Table(str(hub_folder), streaming=True, limit=9, uid="id", metadata=["level"], **COLUMNS)
    )
    assert streamed == train
    assert [q.uid for q in Table(str(hub_folder), split="test", uid="id", **COLUMNS)] == ["a"]
    for streaming in (False, True):
        first = Table(str(hub_folder), limit=1, streaming=streaming, uid="id", **COLUMNS)
        assert [q.uid for q in first] == ["b"]
    with pytest.raises(
        ConfigError, match=r"split train\), row 0 has no column 'question'; it has: problem"
    ):
        list(Table(str(hub_folder)))
    with pytest.raises(
        ConfigError, match=r"cannot load .* \(split dev\).*dev.*; check path, name and split"
    ):
        list(Table(str(hub_folder), split="dev"))


def test_an_offline_hub_names_the_id_and_the_local_way_and_no_variable_that_is_set(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        ConfigError, match=r"'no/such' is not in the cache, .*unset it, .*a local copy"
    ):
        list(Table("no/such"))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionRefusedError("refused"), r"cannot reach the data set 'no/such' .*\(refused\)"),
        (HFValidationError("bad id"), "no data set 'no/such' on the hub that you can read"),
    ],
)
def test_the_hub_is_asked_once_before_a_data_set_is_loaded(monkeypatch, error, message):
    asked = []

    def refuse(self, repo_id, timeout):
        asked.append((repo_id, timeout))
        raise error

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", refuse)
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: pytest.fail("not to be tried"))
    with pytest.raises(ConfigError, match=message):
        list(Table("no/such"))
    assert asked == [("no/such", 10)]
