"""Verifiers: right, wrong, no answer, late, broken, hostile."""

import logging

import pytest

from ceeh.component import Component, ConfigError
from ceeh.data.verify import (
    ExactAnswer,
    MathAnswer,
    RewardFunction,
    as_number,
    boxed_answer,
    outcome_counts,
)
from ceeh.types import Finish, Outcome
from tests.data.scoring import ERROR, NO_ANSWER, RIGHT, WRONG, group, verdict


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("step 47+8=55;so 55", RIGHT),
        ("so 55;so 54", WRONG),
        ("so 54", WRONG),
        ("55", NO_ANSWER),
        ("so 55;", NO_ANSWER),
        ("", NO_ANSWER),
    ],
)
def test_the_starter_answer_is_what_ends_the_response(response, expected):
    assert verdict(ExactAnswer(), "55", response) == expected


@pytest.mark.parametrize(
    ("answer", "found", "expected"),
    [
        ("7", "007", RIGHT),
        ("-7", "-07", RIGHT),
        ("+7", "7", RIGHT),
        ("0", "-0", RIGHT),
        ("7", "-7", WRONG),
        ("7", "7.0", WRONG),
        ("yes", " yes ", RIGHT),
        ("yes", "Yes", WRONG),
        ("7", "9" * 5000, WRONG),
        ("7", "\u0667", WRONG),
    ],
)
def test_integers_compare_by_value_and_other_text_as_it_stands(answer, found, expected):
    assert verdict(ExactAnswer(pattern="answer:(.*)"), answer, f"answer:1 answer:{found}") == WRONG
    assert verdict(ExactAnswer(pattern="answer:([^:]*)$"), answer, f"answer:{found}") == expected


def test_patterns_without_a_group_or_meaning_are_refused():
    for pattern, message in (("so", "must have a group"), ("(", "is not a regular expression")):
        with pytest.raises(ConfigError, match=message):
            ExactAnswer(pattern=pattern)


def test_a_group_that_took_no_part_in_the_match_is_no_answer():
    assert verdict(ExactAnswer(pattern=r"so|is (\d)"), "1", "so") == NO_ANSWER


@pytest.mark.parametrize("finish", [Finish.LENGTH, Finish.ABORT])
def test_an_unfinished_response_is_no_answer_for_every_verifier(finish, mathematics):
    reward = RewardFunction("builtins.max")
    for verifier in (ExactAnswer(), mathematics, reward):
        assert verdict(verifier, "481", r"\boxed{481} so 481", finish) == NO_ANSWER


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"so \boxed{5}", "5"),
        (r"\boxed{4} no, \boxed{ 5 }.", "5"),
        (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{\left\{1, 2\right.} }", r"\left\{1, 2\right."),
        (r"\boxed{a\\}", r"a\\"),
        (r"\boxed{\boxed{3}}", "3"),
        (r"\boxed{1}</think> it is \boxed{2}", "2"),
        (r"<think>\boxed{1}</think> done", None),
        (r"<think>\boxed{1}", "1"),
        (r"\boxed{1} or \boxed{2", None),
        (r"\boxed{ }", None),
        (r"5", None),
        ("", None),
    ],
)
def test_the_last_box_after_a_closed_thinking_block_is_the_answer(response, answer):
    assert boxed_answer(response) == answer


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("27", "27.0"),
        ("1,234,567", "1234567"),
        (r"10\!000", "10{,}000"),
        (r"\frac{1}{2}", ".5"),
        (r"-\dfrac{3}{6}", "-1/2"),
        (r"\tfrac12", "2/4"),
        (r"\frac{-1}{2}", "\u22120.5"),
        ("$5$", "+5."),
    ],
)
def test_integers_decimals_and_fractions_are_exact_numbers(one, other):
    assert as_number(one) == as_number(other) is not None


@pytest.mark.parametrize(
    "text",
    ["", ".", "1,2", "1/0", r"\frac{1}{0}", "1e5", "x", "\u0667", "1 2", "9" * 101, "-", ",123"],
)
def test_what_is_not_plainly_a_number_is_left_to_math_verify(text):
    assert as_number(text) is None


@pytest.mark.parametrize(
    ("answer", "box", "expected"),
    [
        ("27", "27.0", RIGHT),
        ("10000", "10001", WRONG),
        (r"\frac13", "0.333333", WRONG),  # numbers are compared exactly
        (r"\boxed{7}", "7", RIGHT),
        ("$7$", "8", WRONG),
        ("7", "x" * 2001, WRONG),
    ],
)
def test_plain_numbers_and_endless_answers_need_no_worker(answer, box, expected):
    verifier = MathAnswer()
    assert verdict(verifier, answer, f"\\boxed{{{box}}}") == expected
    assert verifier.pool.workers == []


@pytest.mark.parametrize(
    ("answer", "box", "expected"),
    [
        (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt2}", RIGHT),
        ("x^2+1", "1+x^2", RIGHT),
        ("x^2+1", "x^2-1", WRONG),
        (r"\{1,2\}", r"\{2,1\}", RIGHT),
        ("(1,2)", "(2,1)", WRONG),
        (r"\text{Tuesday}", r"\text{Monday}", WRONG),
        ("5", r"x=5", RIGHT),
        ("5", r"5\text{ cm}", RIGHT),
        (r"2\pi", "6.283185", RIGHT),
        (r"9\%", "0.09", RIGHT),
        ("1-1/e", "1+1/e", WRONG),
        (r"\frac{1}{2^{99}}", r"\frac{1}{2^{98}}", WRONG),  # a difference of 1.6e-30
        (r"\frac{1}{2^{99}}", r"2^{-99}", RIGHT),
        ("x", "???", WRONG),
        ("???", "x", ERROR),  # an unreadable reference never rewards
        ("", "x", ERROR),
    ],
)
def test_mathematics_is_compared_as_mathematics(mathematics, answer, box, expected):
    assert verdict(mathematics, answer, f"\\boxed{{{box}}}") == expected


HOSTILE = {
    "tower": "9^{9^9}",
    "factorial": "100000000!",
    "braces": "{" * 900 + "}" * 900,
    "brackets": "(" * 900 + "x" + ")" * 900,
    "digits": "9" * 2000,
    "megabyte": "7" * 2**20,
    "import": "__import__('os').mkdir('evaluated')",
    "text": r"\text{__import__('os').mkdir('evaluated')}",
    "nul": "\x00\x01",
    "surrogate": "\ud800",
    "newlines": "1\n+\n\r1",
}


def test_hostile_answers_neither_hang_nor_cost_the_others(mathematics, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    boxes = [f"\\boxed{{{text}}}" for text in HOSTILE.values()]
    mixed = [text for box in boxes for text in (box, r"\boxed{1+x}")]
    (scored,) = mathematics([group("x+1", *mixed)])
    assert [v.score for v in scored.verdicts] == [0.0, 1.0] * len(HOSTILE)
    outcomes = dict(zip(HOSTILE, [v.outcome for v in scored.verdicts[::2]], strict=True))
    assert outcomes["tower"] is Outcome.TIMEOUT
    assert outcomes["megabyte"] is Outcome.OK
    assert list(tmp_path.iterdir()) == []
    assert verdict(mathematics, "x+1", r"\boxed{1+x}") == RIGHT


def test_a_slow_answer_stalls_no_other(mathematics):
    groups = [
        group(r"\sqrt2", r"\boxed{9^{9^9}}"),
        *(group("x+1", f"\\boxed{{{n}+x}}") for n in range(9)),
    ]
    scored = mathematics(groups)
    assert [s.group for s in scored] == groups
    expected = {"ok": 9, "no_answer": 0, "timeout": 1, "error": 0}
    assert outcome_counts(scored) == expected
    assert [s.verdicts[0].score for s in scored] == [0.0, 0.0, 1.0] + [0.0] * 7


def test_equal_answers_are_judged_once(mathematics, monkeypatch):
    asked = []
    judge = mathematics.pool.judge
    monkeypatch.setattr(
        mathematics.pool, "judge", lambda pairs: asked.extend(pairs) or judge(pairs)
    )
    scored = mathematics([group("x+1", *[r"\boxed{1+x}"] * 9), group("x+1", r"\boxed{1+x}")])
    assert [v.score for s in scored for v in s.verdicts] == [1.0] * 10
    assert asked == [("x+1", "1+x")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"timeout_seconds": 0}, "timeout_seconds must be greater than 0, got 0"),
        ({"timeout_seconds": float("nan")}, "timeout_seconds must be"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"memory_mib": 64}, "memory_mib must be at least 256"),
    ],
)
def test_math_answer_refuses_what_cannot_work(arguments, message):
    with pytest.raises(ConfigError, match=f"^verifier .*MathAnswer.: {message}"):
        Component("ceeh.data.verify.MathAnswer", arguments).build("verifier")


@pytest.fixture
def reward(tmp_path):
    path = tmp_path / "mine.py"

    def reward(body):
        path.write_text(f"def score(prompt, response):\n    {body}\n")
        return RewardFunction(f"{path}:score")

    return reward


def test_a_users_function_scores_the_prompt_and_the_response(reward):
    half = reward("return 0.5 * (prompt.answer in response) + 0.5 * response.endswith('.')")
    (scored,) = half([group("7", "7", "7.", "8", ".")])
    assert [(v.score, v.outcome) for v in scored.verdicts] == [
        (0.5, Outcome.OK),
        (1.0, Outcome.OK),
        (0.0, Outcome.OK),
        (0.5, Outcome.OK),
    ]
    assert scored.outcome.correct == (False, True, False, False)
    assert verdict(reward("return response == '7'"), "7", "7") == RIGHT


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("return 1.5", r"a number in [0, 1], got float 1.5"),
        ("return -0.1", "got float -0.1"),
        ("return float('nan')", "got float nan"),
        ("return None", "got NoneType None"),
        ("return [1.0, 0.0]", "got list [1.0, 0.0]"),
        ("return '1'", "got str '1'"),
        ("raise KeyError('gold')", "KeyError: 'gold'"),
    ],
)
def test_a_users_faulty_score_is_an_error_logged_once(reward, caplog, body, told):
    verifier = reward(body)
    with caplog.at_level(logging.WARNING):
        scored = verifier([group("7", "a", "b"), group("7", "c")])
    assert outcome_counts(scored) == {"ok": 0, "no_answer": 0, "timeout": 0, "error": 3}
    assert all(v.score == 0 for s in scored for v in s.verdicts)
    (record,) = caplog.records
    assert "mine.py:score failed on prompt 'p'" in record.getMessage()
    assert told in caplog.text
    assert "Traceback" in caplog.text


def test_a_reward_function_that_is_not_there_is_refused(tmp_path):
    build = Component("ceeh.data.verify.RewardFunction", {"class_path": "ceeh.types.none"}).build
    with pytest.raises(
        ConfigError, match=r"^verifier .*init_args.class_path: 'ceeh.types' has no 'none'"
    ):
        build("verifier")
    with pytest.raises(ConfigError, match="must be a function of prompt and response"):
        RewardFunction("ceeh.data.verify.MAX_ANSWER_CHARACTERS")


def test_outcomes_are_counted_with_every_name():
    scored = ExactAnswer()([group("55", "so 55", "so 54", "what"), group("1")])
    assert outcome_counts(scored) == {"ok": 2, "no_answer": 1, "timeout": 0, "error": 0}
    assert outcome_counts([]) == {"ok": 0, "no_answer": 0, "timeout": 0, "error": 0}
