"""Mixtures: seeded draws, no duplicates, no benchmark questions, settings, the report."""

import pytest

from ceeh.config.component import Component
from ceeh.data.mixture.mixture import Mixture
from ceeh.errors import ConfigError

pytestmark = pytest.mark.filterwarnings(r"ignore:benchmark '.*' has \d+ questions, not")


def uids(mixed):
    return [question.uid for question in mixed]


def parts_of(mixed):
    return mixed.draw.report["parts"]


def test_the_draw_depends_on_the_seed_and_not_on_the_order_of_rows(numbered):
    one = uids(Mixture({"a": numbered("a", 60, 20)}))
    assert one == uids(Mixture({"a": numbered("a", 60, 20, backwards=True)}))
    assert one != uids(Mixture({"a": numbered("a", 60, 20)}, seed=1))
    # A fair draw of 20 out of 60 keeps 20 / 3 of another on average.
    other = uids(Mixture({"a": numbered("a", 60, 20)}, seed=1))
    assert len(set(one) & set(other)) < 15


def test_another_part_does_not_change_the_draw_of_a_part(numbered):
    alone = uids(Mixture({"a": numbered("a", 30, 9)}))
    both = uids(Mixture({"b": numbered("b", 50, 5), "a": numbered("a", 30, 9)}))
    assert both[5:] == alone


def test_a_question_of_two_parts_belongs_to_the_first(numbered):
    parts = {"a": numbered("a", 6, 2, word="w"), "b": numbered("b", 10, None, word=" w ")}
    mixed = Mixture(parts)
    texts = [question.squeezed for question in mixed]
    assert len(texts) == len(set(texts)) == 2 + 4
    assert (parts_of(mixed)[1]["duplicates"], parts_of(mixed)[1]["drawn"]) == (6, 4)


def test_duplicates_and_contaminated_questions_are_dropped_before_the_draw(numbered, tmp_path):
    path = tmp_path / "bench.jsonl"
    # Ten of twelve questions are short ones of the benchmark: the two left are drawn whatever the seed.
    path.write_text(
        "".join(f'{{"question": "A {i} !", "answer": "1 #### 1"}}\n' for i in range(10))
    )
    rule = {"benchmarks": {"gsm8k": {"path": str(path)}}}
    for seed in range(3):
        mixed = Mixture({"a": numbered("a", 12, 2)}, seed=seed, decontaminate=rule)
        assert {question.text for question in mixed} == {"a 10?", "a 11?"}
        assert parts_of(mixed)[0]["contaminated"] == {"gsm8k": 10}
    with pytest.raises(
        ConfigError,
        match=r"parts.a.questions is 3, but only 2 are left: a 2 of 12 \(0 duplicates, 10"
        r" contaminated: gsm8k 10\); lower it",
    ):
        list(Mixture({"a": numbered("a", 12, 3)}, decontaminate=rule))


def test_without_benchmarks_the_line_says_so(numbered, capsys):
    list(Mixture({"a": numbered("a", 3, None)}))
    assert capsys.readouterr().out == (
        "mixture: a 3 of 3 (0 duplicates, 0 contaminated); not compared with any benchmark\n"
    )


def test_a_benchmark_that_cannot_be_read_is_never_skipped(numbered, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    mixed = Mixture({"a": numbered("a", 3, 1)}, decontaminate={"benchmarks": {"aime24": {}}})
    with pytest.raises(
        ConfigError,
        match=r"^decontaminate.benchmarks.aime24: the data set '.*' is not in the cache.*the"
        r" path of a local copy: .*a key of decontaminate.benchmarks.aime24, such as path, replaces",
    ):
        list(mixed)


def test_a_benchmark_copy_may_lack_the_level_column(numbered, tmp_path):
    path = tmp_path / "math.jsonl"
    path.write_text('{"problem": "a 1", "answer": "1"}')
    given = {"path": str(path), "uid": None, "metadata": []}
    rule = {"benchmarks": {"math500": given}}
    assert len(list(Mixture({"a": numbered("a", 3, None)}, decontaminate=rule))) == 2


TABLE = {"class_path": "ceeh.data.sources.Table", "init_args": {"path": "a/b"}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"parts": {}}, "parts must name at least one source"),
        ({"parts": {"a": 3}}, "parts.a must be a mapping, got 3"),
        (
            {"parts": {"a": TABLE | {"question": 3}}},
            r"parts.a.question is not a setting; did you mean parts.a.questions\?",
        ),
        (
            {"parts": {"a": TABLE | {"questions": 0}}},
            "parts.a.questions must be at least 1, or null, got 0",
        ),
        ({"parts": {"a": {"questions": 1}}}, "parts.a.class_path must be package.module.Class"),
        (
            {"decontaminate": {}},
            "decontaminate.benchmarks must be a mapping of benchmarks, at least",
        ),
        ({"decontaminate": {"benchmarks": ["gsm8k"]}}, "decontaminate.benchmarks"),
        (
            {"decontaminate": {"benchmarks": {"gsm8k": {}}, "coverage": 1.0}},
            r"decontaminate.coverage must be in \[0, 1\), got 1.0",
        ),
        (
            {"decontaminate": {"benchmarks": {"x": {}}, "ngram": 1}},
            "ngram must be at least 2, got 1",
        ),
    ],
)
def test_invalid_settings_are_refused_with_their_path(arguments, message):
    component = Component("ceeh.data.mixture.Mixture", {"parts": {"a": TABLE}} | arguments)
    with pytest.raises(
        ConfigError, match=rf"^prompts.train \(ceeh.data.mixture.Mixture\): .*{message}"
    ):
        component.build("prompts.train")


def test_the_report_hides_secrets(numbered, tmp_path):
    part = numbered("a", 3, None)
    key = "hf_" + "x" * 20
    part["init_args"]["where"] = {"question": ["a 1?", key]}
    Mixture({"a": part}).write_report(tmp_path)
    assert key not in (tmp_path / "mixture.json").read_text()
