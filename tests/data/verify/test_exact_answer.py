"""ExactAnswer, and what all verifiers share: unfinished responses, answers for votes, counts."""

import pytest

from ceeh.data.verify.base import outcome_counts
from ceeh.data.verify.exact_answer import ExactAnswer
from ceeh.data.verify.reward_function import RewardFunction
from ceeh.errors import ConfigError
from ceeh.types import Finish, GradingOutcome
from tests.data.verify.scoring import (
    CORRECT,
    INCORRECT,
    NO_ANSWER,
    UNREADABLE,
    completion,
    group,
    prompt,
    verdict,
)


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        *(("step 47+8=55;so 55", CORRECT), ("so 55;so 54", INCORRECT), ("so 54", INCORRECT)),
        *(("55", NO_ANSWER), ("so 55;", NO_ANSWER), ("", NO_ANSWER)),
    ],
)
def test_the_starter_answer_ends_the_response(response, expected):
    assert verdict(ExactAnswer(), "55", response) == expected


@pytest.mark.parametrize(
    ("answer", "correct", "incorrect"),
    [
        ("7", ["007"], ["-7", "7.0", "9" * 5000, "\u0667"]),
        ("-7", ["-07"], []),
        ("+7", ["7"], []),
        ("0", ["-0"], []),
        ("yes", [" yes "], ["Yes"]),
    ],
)
def test_integers_compare_by_value_and_other_text_as_written(answer, correct, incorrect):
    verifier = ExactAnswer(pattern="answer:([^:]*)$")
    for expected, texts in ((CORRECT, correct), (INCORRECT, incorrect)):
        assert [verdict(verifier, answer, f"answer:{t}") for t in texts] == [expected] * len(texts)
    assert (
        verdict(ExactAnswer(pattern="answer:(.*)"), answer, f"answer:1 answer:{answer}")
        == INCORRECT
    )


def test_patterns_without_a_group_or_meaning_are_refused():
    for pattern, message in (("so", "must have a group"), ("(", "is not a regular expression")):
        with pytest.raises(ConfigError, match=message):
            ExactAnswer(pattern=pattern)


def test_a_group_that_took_no_part_in_the_match_is_no_answer():
    assert verdict(ExactAnswer(pattern=r"so|is (\d)"), "1", "so") == NO_ANSWER


@pytest.mark.parametrize("finish", [Finish.LENGTH, Finish.ABORT])
def test_an_unfinished_response_is_no_answer_for_every_verifier(finish, mathematics):
    reward = RewardFunction("fault_injection.faults.reward")
    for verifier in (ExactAnswer(), mathematics, reward):
        assert verdict(verifier, "481", r"\boxed{481} so 481", finish) == NO_ANSWER


def test_answers_for_a_vote_are_what_the_pattern_found_and_a_reward_function_has_none():
    exact = ExactAnswer()
    assert exact.answer(completion("so 54;so 07")) == "7"
    assert exact.answer(completion("so 54", Finish.LENGTH)) is None
    assert exact.answer(completion("54")) is None
    assert RewardFunction("fault_injection.faults.reward").answer(completion("so 54")) is None


def test_only_an_empty_reference_cannot_be_matched_exactly():
    prompts = [prompt("7"), prompt(" "), prompt("")]
    assert ExactAnswer().unreadable(prompts) == prompts[1:]
    assert verdict(ExactAnswer("so(.*)"), " ", "so ") == UNREADABLE
    assert RewardFunction("fault_injection.faults.reward").unreadable(prompts) == []


def test_outcomes_are_counted_with_every_name():
    counts = dict.fromkeys(map(str, GradingOutcome), 0)
    assert outcome_counts([]) == counts
    scored = ExactAnswer()([group("55", "so 55", "so 54", "what"), group("1")])
    assert outcome_counts(scored) == counts | {"ok": 2, "no_answer": 1}
