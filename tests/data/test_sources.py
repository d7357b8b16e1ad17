"""Sources: what a row must hold, both layouts of a data set, the starter's disjoint splits."""

import json
import re

import pytest

from ceeh.component import Component, ConfigError
from ceeh.data.sources import HubDataset, Jsonl, StarterTask, num_chains
from ceeh.starter.task import apply

ROWS = [
    {"problem": "1+1?", "solution": "2", "id": "a", "level": 1},
    {"problem": "1/2?", "solution": 0.5, "id": "b", "level": 2},
    {"problem": "20+7?", "solution": 27.0, "id": "c", "level": 2},
]
COLUMNS = {"question": "problem", "answer": "solution"}


@pytest.fixture
def write(tmp_path):
    def write(*lines):
        path = tmp_path / "rows.jsonl"
        path.write_bytes(
            b"\n".join(x if isinstance(x, bytes) else json.dumps(x).encode() for x in lines)
        )
        return str(path)

    return write


def test_jsonl_maps_columns_and_turns_numbers_into_text(write):
    questions = list(Jsonl(write(*ROWS), uid="id", metadata=["level"], **COLUMNS))
    assert [(q.uid, q.text, q.answer, q.metadata) for q in questions] == [
        ("a", "1+1?", "2", {"level": 1}),
        ("b", "1/2?", "0.5", {"level": 2}),
        ("c", "20+7?", "27", {"level": 2}),
    ]


def test_jsonl_accepts_a_byte_order_mark_windows_line_ends_and_blank_lines(write):
    path = write(b'\xef\xbb\xbf{"question": "\xc3\xa4?", "answer": "1"}\r', b"", b"  \r")
    assert [q.text for q in Jsonl(path)] == ["ä?"]


def test_a_source_can_be_read_twice(write):
    source = Jsonl(write(*ROWS), **COLUMNS)
    assert list(source) == list(source)


def test_the_hash_uid_depends_on_question_and_answer_alone(write):
    one = [q.uid for q in Jsonl(write(*ROWS), **COLUMNS)]
    other = [
        q.uid for q in Jsonl(write(*({**row, "level": 9} for row in reversed(ROWS))), **COLUMNS)
    ]
    assert one == other[::-1]
    assert len(set(one)) == 3
    changed = [q.uid for q in Jsonl(write({**ROWS[0], "solution": "3"}), **COLUMNS)]
    assert changed[0] not in one


def test_a_list_of_one_answer_is_that_answer(write):
    assert [q.answer for q in Jsonl(write({"question": "?", "answer": ["7"]}))] == ["7"]


GOOD = {"question": "q", "answer": "1"}


@pytest.mark.parametrize(
    ("lines", "arguments", "message"),
    [
        ([], {}, "rows.jsonl has no rows"),
        ([b"  "], {}, "rows.jsonl has no rows"),
        ([GOOD, b'{"question": '], {}, "line 2 is not valid JSON"),
        ([GOOD, b"[" * 100_000], {}, "line 2 is not valid JSON"),
        ([GOOD, b'{"question": "\xff"}'], {}, "line 2 is not UTF-8; convert"),
        ([GOOD, [1, 2]], {}, r"line 2 must be a JSON object with named columns, got list \[1, 2\]"),
        (
            [GOOD],
            {"question": "problem"},
            "line 1 has no column 'problem'; it has: question, answer;",
        ),
        ([GOOD], {"uid": "id"}, "line 1 has no column 'id'; it has: question, answer;"),
        ([GOOD], {"metadata": ["level"]}, "line 1 has no column 'level'"),
        (
            [GOOD, {"question": "q", "answer": None}],
            {},
            "line 2 has no answer in column 'answer'; fill",
        ),
        ([GOOD, {"question": "q", "answer": " "}], {}, "line 2 has no answer in column 'answer'"),
        ([b'{"question": "q", "answer": NaN}'], {}, "line 1: .* finite number, got float nan"),
        ([{"question": "q", "answer": True}], {}, "text or a finite number, got bool True"),
        ([{"question": "q", "answer": ["1", "2"]}], {}, "text or a finite number, got list"),
        (
            [{"question": " ", "answer": "1"}],
            {},
            "line 1: column 'question' must hold the question",
        ),
        ([{"question": ["m"], "answer": "1"}], {}, "must hold the question as text, got list"),
        ([{"question": "\ud800", "answer": "1"}], {}, "line 1 has half a surrogate pair"),
        ([GOOD | {"id": None}], {"uid": "id"}, "line 1 has no uid in column 'id'; fill it in"),
        (
            [GOOD | {"id": 1}, {"question": "r", "answer": "1", "id": 1}],
            {"uid": "id"},
            "line 2 has the uid '1' of line 1; give each row its own",
        ),
        ([GOOD, {}, GOOD], {}, "line 2 has no column"),
        ([GOOD, b"", GOOD], {}, "line 3 has the question and answer of line 1; remove one"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(write, lines, arguments, message):
    with pytest.raises(ConfigError, match=message) as caught:
        list(Jsonl(write(*lines), **arguments))
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused_at_once(tmp_path):
    with pytest.raises(ConfigError, match=r"no file 'none.jsonl'; paths are relative to /"):
        Jsonl("none.jsonl")
    with pytest.raises(ConfigError, match=r"is a folder, .* ceeh\.data\.sources\.HubDataset"):
        Jsonl(str(tmp_path))


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
    train = list(HubDataset(str(hub_folder), uid="id", metadata=["level"], **COLUMNS))
    assert [(q.uid, q.text, q.metadata) for q in train] == [
        ("b", "1/2?", {"level": 2}),
        ("c", "20+7?", {"level": 2}),
    ]
    streamed = list(
        HubDataset(
            str(hub_folder), streaming=True, limit=9, uid="id", metadata=["level"], **COLUMNS
        )
    )
    assert streamed == train
    assert [q.uid for q in HubDataset(str(hub_folder), split="test", uid="id", **COLUMNS)] == ["a"]
    for streaming in (False, True):
        first = HubDataset(str(hub_folder), limit=1, streaming=streaming, uid="id", **COLUMNS)
        assert [q.uid for q in first] == ["b"]
    with pytest.raises(
        ConfigError,
        match=r"split train\), row 0 has no column 'question'; it has: problem",
    ):
        list(HubDataset(str(hub_folder)))
    with pytest.raises(
        ConfigError, match=r"cannot load .* \(split dev\).*dev.*; check path, name and split"
    ):
        list(HubDataset(str(hub_folder), split="dev"))


def test_an_unreachable_hub_names_the_id_and_the_local_way(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"cannot reach the data set 'no/such' .*local folder"):
        list(HubDataset("no/such"))


def test_a_path_that_is_no_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot load the data set '/.*none' .*check path"):
        list(HubDataset(str(tmp_path / "none")))


def test_streaming_needs_a_limit_of_at_least_one():
    with pytest.raises(ConfigError, match="streaming: true needs limit"):
        HubDataset("x", streaming=True)
    with pytest.raises(ConfigError, match="limit must be at least 1, got 0"):
        HubDataset("x", limit=0)


def test_starter_questions_are_distinct_right_and_evenly_mixed():
    questions = list(StarterTask(80, seed=3))
    assert len({q.uid for q in questions}) == len(questions) == len(StarterTask(80)) == 80
    assert [q.metadata["level"] for q in questions[:9]] == [1, 2, 3, 4, 5, 6, 7, 8, 1]
    for q in questions:
        operations = [(sign, int(digit)) for sign, digit in re.findall(r"([-+*])(\d+)", q.text)]
        assert len(operations) == q.metadata["level"]
        assert q.answer == f"{apply(int(q.text[:2]), operations):02d}"
        assert q.uid == f"starter-{q.text[:-1]}"


def test_starter_questions_depend_on_the_seed_alone():
    assert list(StarterTask(20, seed=1)) == list(StarterTask(20, seed=1))
    assert list(StarterTask(20, seed=1)) != list(StarterTask(20, seed=2))


def test_starter_splits_are_disjoint_whatever_the_seeds():
    # Level 1 has 18 operations x 100 starts = 1,800 chains; 1,000 of the 1,440 training chains and
    # 200 of the 360 held out would overlap by a hundred if drawn freely.
    train = {q.uid for q in StarterTask(1_000, seed=0, levels=1)}
    held_out = {q.uid for q in StarterTask(200, seed=1, split="held_out", levels=1)}
    assert len(train) == 1_000
    assert len(held_out) == 200
    assert train.isdisjoint(held_out)


def test_the_number_of_chains_is_counted():
    # 100 * 18; 100 * 18^2; level 4 multiplies once by 2-9, at one of 4 places: 100 * 4 * 8 * 18^3
    assert [num_chains(level) for level in (1, 2, 4)] == [1_800, 32_400, 18_662_400]
    # Level 7: two places of 7 by 2-9, one of the other 5 by one of 16, 4 operations +-1-9.
    assert num_chains(7) == 100 * 21 * 5 * 8**2 * 16 * 18**4


def test_levels_are_a_range_a_number_or_a_list():
    for levels, expected in (("2-4", [2, 3, 4]), ("5", [5]), (5, [5]), ([1, 8], [1, 8])):
        assert [q.metadata["level"] for q in StarterTask(len(expected), levels=levels)] == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"levels": "0-3"}, "levels must be distinct levels from 1 to 8"),
        ({"levels": "3-1"}, "levels must be"),
        ({"levels": "easy"}, "got 'easy'"),
        ({"levels": []}, "levels must be"),
        ({"levels": [1, 1]}, "levels must be distinct"),
        ({"levels": [9]}, "levels must be"),
        ({"split": "test"}, "split must be one of train, held_out, got 'test'"),
        ({"questions": 0}, "questions must be at least 1, got 0"),
        ({"questions": 1_300, "levels": 1}, "asks for 1300 of level 1, which has about 1296"),
        ({"questions": 330, "levels": 1, "split": "held_out"}, "level 1, which has about 324"),
    ],
)
def test_the_starter_refuses_what_it_cannot_draw(arguments, message):
    with pytest.raises(ConfigError, match=message):
        StarterTask(**({"questions": 8} | arguments))


def test_sources_are_built_by_class_path():
    component = Component("ceeh.data.sources.StarterTask", {"questions": 2, "levels": "9"})
    with pytest.raises(
        ConfigError, match=r"^prompts.train \(ceeh.data.sources.StarterTask\): levels must"
    ):
        component.build("prompts.train")
