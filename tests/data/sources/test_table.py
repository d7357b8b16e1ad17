"""Tables: the same questions from every kind of file and folder, and what cannot be read."""

import gzip
import json
import os

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub.errors import HFValidationError

from ceeh.data.sources.hub import arrow_rows
from ceeh.data.sources.table import Table
from ceeh.errors import ConfigError
from tests.data.sources.conftest import COLUMNS, ROWS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "none.jsonl"}, r"no file or folder 'none.jsonl'; paths are relative to /"),
        ({"path": "./none"}, r"no file or folder './none'"),
        ({"path": "a/b/c"}, r"no file or folder 'a/b/c'"),
        ({"path": __file__}, r"must be a \.jsonl, \.json, .*\.tsv file, or a folder of them"),
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


TEXT = [{name: str(value) for name, value in row.items()} for row in ROWS]


def csv_text(delimiter):
    cells = [list(TEXT[0]), *(row.values() for row in TEXT)]
    return "\n".join(delimiter.join(f'"{cell}"' for cell in row) for row in cells)


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def written(kind, folder):
    """The path of a table of ROWS, or of TEXT, of this kind in `folder`."""
    folder.mkdir()
    path = folder / f"train{kind}"
    if kind == ".json":
        path.write_text("\ufeff \n" + json.dumps(ROWS, indent=1), encoding="utf-8")
    elif kind == "pretty.json":
        path.write_text("\n".join(json.dumps(row, indent=1) for row in ROWS))
    elif kind == "wrapped.json":
        path.write_text(json.dumps({"version": 1, "data": ROWS}, indent=1))
    elif kind in (".csv", ".tsv"):
        path.write_text(csv_text("," if kind == ".csv" else "\t"))
    elif kind == ".csv.gz":
        path.write_bytes(gzip.compress(csv_text(",").encode()))
    elif kind == ".jsonl.gz":
        path.write_bytes(gzip.compress(lines(ROWS).encode()))
    elif kind == ".jsonl.zst":
        with pa.output_stream(str(path), compression="zstd") as file:
            file.write(lines(ROWS).encode())
    elif kind == "*.jsonl":
        for name, rows in (("b", ROWS[2:]), ("a", ROWS[:2])):
            (folder / f"train-{name}.jsonl").write_text(lines(rows))
    elif kind == "saved":
        datasets.Dataset.from_list(TEXT).save_to_disk(folder / "train")
        return str(folder / "train")
    elif kind == "saved splits":
        splits = {
            "train": datasets.Dataset.from_list(TEXT),
            "test": datasets.Dataset.from_list(TEXT[:1]),
        }
        datasets.DatasetDict(splits).save_to_disk(folder)
        return str(folder)
    elif kind == ".parquet":
        pq.write_table(pa.Table.from_pylist(TEXT), path)
    else:
        assert kind == ".jsonl"
        path.write_text(lines(ROWS))
    return str(path)


KINDS = (
    *(".jsonl", ".json", ".parquet", ".csv", ".tsv", ".jsonl.gz", ".jsonl.zst", ".csv.gz"),
    *("pretty.json", "wrapped.json", "*.jsonl", "saved", "saved splits"),
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_same_questions(tmp_path, kind):
    path = written(kind, tmp_path / "set")
    found = list(Table(path, uid="id", metadata=["level"], **COLUMNS))
    assert [(q.uid, q.text, q.answer, str(q.metadata["level"])) for q in found] == [
        ("a", "1+1?", "2", "1"),
        ("b", "1/2?", "0.5", "2"),
        ("c", "20+7?", "27", "2"),
    ]
    assert [q.uid for q in Table(path, uid="id", limit=2, **COLUMNS)] == ["a", "b"]
    columns = "(problem, solution, id, level|version, data)"
    missing = rf"(row 0|line [12]) has no column 'question'; it has: {columns};"
    with pytest.raises(ConfigError, match=missing):
        list(Table(path))


@pytest.mark.parametrize("kind", [".jsonl", ".csv"])
def test_text_in_a_folder_is_the_text_of_its_files(tmp_path, kind):
    folder, answers = tmp_path / "set", ["2020-01-02", "2021-03-04", "007", "1e5", "12.50"]
    folder.mkdir()
    rows = [{"question": str(n), "answer": answer} for n, answer in enumerate(answers)]
    text = (
        lines(rows)
        if kind == ".jsonl"
        else "question,answer\n" + "".join(f"{row['question']},{row['answer']}\n" for row in rows)
    )
    (folder / f"train{kind}").write_text(text)
    assert [q.answer for q in Table(str(folder))] == answers
    assert [q.answer for q in Table(str(folder / f"train{kind}"))] == answers


def test_a_home_folder_and_a_pattern_without_files_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "rows.jsonl").write_text(lines(ROWS))
    assert len(list(Table("~/rows.jsonl", uid="id", **COLUMNS))) == 3
    assert len(list(Table("~/*.jsonl", uid="id", **COLUMNS))) == 3
    with pytest.raises(ConfigError, match=rf"no file or folder '{tmp_path}/none.jsonl'"):
        Table("~/none.jsonl")
    with pytest.raises(
        ConfigError, match=r"no file matches 'data/\*.jsonl'; patterns are relative"
    ):
        Table("data/*.jsonl")
    with pytest.raises(ConfigError, match=r"'/dev/null' must be a \.jsonl, "):
        Table("/dev/null")


def test_a_split_that_was_not_saved_is_refused_with_those_that_were(tmp_path):
    path = written("saved splits", tmp_path / "set")
    assert [q.uid for q in Table(path, split="test", uid="id", **COLUMNS)] == ["a"]
    with pytest.raises(ConfigError, match="has no split 'dev'; it has: train, test"):
        list(Table(path, split="dev"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.json", b'[{"question": 1}, ', "is not JSON in UTF-8"),
        ("rows.json", b"[1]", "row 0 must be a JSON object with named columns, got int 1"),
        ("rows.json", b"[]", "has no rows"),
        ("rows.json", b'["q"]', "row 0 must be a JSON object with named columns, got str 'q'"),
        ("rows.parquet", b"PAR1", "cannot read .* as parquet"),
        ("rows.csv", b"question,answer\na?,1,2\n", "line 2 has not as many cells as .* names, 2"),
        ("rows.csv", b"question,answer\na?\n", "line 2 has not as many cells"),
        ("rows.csv", b'question,answer\n"a?,1\n', "rows.csv, line 1 is not valid CSV"),
        ("rows.csv", b"question,answer\n\xff,1\n", "is not UTF-8; convert the file"),
        ("rows.jsonl.gz", b'{"question": "a?"}', "rows.jsonl.gz' cannot be read .* it is whole"),
    ],
)
def test_files_that_cannot_be_read_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        list(Table(str(tmp_path / name)))


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
def hub_folder(request, tmp_path):
    """A folder in each layout of the hub: data/*.parquet, loose files, files named by a card."""
    folder = tmp_path / "dataset"
    (folder / "data").mkdir(parents=True)
    text = lines({**row, "solution": str(row["solution"])} for row in ROWS)
    if request.param == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS[1:]), folder / "data/train-00000-of-00001.parquet")
        pq.write_table(pa.Table.from_pylist(ROWS[:1]), folder / "data/test-00000-of-00001.parquet")
    elif request.param == "jsonl":
        (folder / "train.jsonl").write_text(text.split("\n", 1)[1])
        (folder / "test.jsonl").write_text(text.split("\n", 1)[0])
    else:
        (folder / "data/a.jsonl").write_text(text.split("\n", 1)[1])
        (folder / "data/b.jsonl").write_text(text.split("\n", 1)[0])
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
    slices = {"train[:1]": ["b"], "train+test": ["b", "c", "a"]}  # read by `datasets`
    for split, uids in slices.items():
        assert [q.uid for q in Table(str(hub_folder), split=split, uid="id", **COLUMNS)] == uids
    for streaming in (False, True):
        first = Table(str(hub_folder), limit=1, streaming=streaming, uid="id", **COLUMNS)
        assert [q.uid for q in first] == ["b"]
    with pytest.raises(
        ConfigError,
        match=r"split train\), (row 0|line 1) has no column 'question'; it has: problem",
    ):
        list(Table(str(hub_folder)))
    with pytest.raises(
        ConfigError, match=r"cannot load .* \(split dev\).*dev.*; check path, name and split"
    ):
        list(Table(str(hub_folder), split="dev"))


def test_a_streamed_data_set_gives_the_same_rows(hub_folder):
    for streaming in (False, True):
        data = datasets.load_dataset(str(hub_folder), split="train", streaming=streaming)
        assert [row["id"] for row in arrow_rows(data)] == ["b", "c"]


def test_an_unreachable_hub_names_the_id_and_the_local_way(monkeypatch):
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
