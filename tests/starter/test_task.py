"""The starter task: correct arithmetic, and demonstrations that end with the answer."""

import random
import re

import pytest

from ceeh.starter.model import build_tokenizer
from ceeh.starter.task import (
    LEVELS,
    MULTIPLICATIONS,
    PRACTICED,
    STYLES,
    Chain,
    Style,
    apply,
    demonstration,
    sample_chain,
    sample_style,
)

CHAIN = Chain(47, (("+", 8), ("*", 3), ("*", 31), ("-", 5)))


def text(chain: Chain, style: Style, seed: int = 0) -> str:
    return demonstration(chain, style, random.Random(seed))


def test_a_chain_is_evaluated_from_left_to_right_modulo_100() -> None:
    # 47 + 8 = 55; 55 * 3 = 165 -> 65; 65 * 31 = 2015 -> 15; 15 - 5 = 10.
    assert CHAIN.text == "47+8*3*31-5"
    assert CHAIN.answer == 10
    assert apply(3, [("-", 5)]) == 98


def test_the_styles_are_as_documented() -> None:
    assert text(CHAIN, "so") == "so 10"
    assert text(CHAIN, "leap") == "leap 47+8*3=65;65*31-5=10;so 10"
    assert text(CHAIN, "step") == "step 47+8=55;55*3=65;65*31=15;15-5=10;so 10"
    # 50 * 3 = 150 and 5 * 3 = 15; 65 * 30 = 1950 and 65 * 1 = 65.
    assert text(CHAIN, "long") == (
        "long 47+8=55;50*3=50;5*3=15;50+15=65;65*30=50;65*1=65;50+65=15;15-5=10;so 10"
    )


@pytest.mark.parametrize("style", STYLES)
def test_every_equation_of_every_style_is_correct(style: Style) -> None:
    rng = random.Random(1)
    for index in range(200):
        chain = sample_chain(rng, LEVELS[index % len(LEVELS)], PRACTICED)
        whole = demonstration(chain, style, rng)
        assert whole.endswith(f"so {chain.answer:02d}")
        for start, chained, result in re.findall(r"(\d+)((?:[-+*]\d+)+)=(\d\d)", whole):
            operations = [(sign, int(n)) for sign, n in re.findall(r"([-+*])(\d+)", chained)]
            assert apply(int(start), operations) == int(result), whole  # type: ignore[arg-type]


def test_a_wasteful_response_is_a_careful_one_with_restating_repetitions_and_restarts() -> None:
    responses = [text(CHAIN, "read", seed) for seed in range(200)]
    careful = text(CHAIN, "long").removeprefix("long ").removesuffix("so 10")
    for response in responses:
        body = response.removeprefix("read ").removeprefix(f"{CHAIN.text}?").removesuffix("so 10")
        attempts = re.sub(r"again [^;]*;", "", body).split("redo ")
        assert set(attempts) == {careful}
    for waste in (f"{CHAIN.text}?", "again ", "redo "):
        assert 0 < sum(waste in response for response in responses) < 200


def test_levels_have_the_documented_operations() -> None:
    rng = random.Random(2)
    for level in LEVELS:
        for _ in range(20):
            chain = sample_chain(rng, level)
            assert chain.level == level
            factors = [operand for sign, operand in chain.operations if sign == "*"]
            by_two = sum(factor > 9 for factor in factors)
            assert (len(factors) - by_two, by_two) == MULTIPLICATIONS[level]


def test_short_styles_are_more_frequent_on_short_chains_and_long_ones_on_long() -> None:
    rng = random.Random(3)
    given = {"so": 0.1, "long": 0.9}
    drawn = {
        level: [sample_style(rng, level, given) for _ in range(2000)] for level in (1, 2, 4, 6)
    }
    shares = {level: styles.count("so") / 2000 for level, styles in drawn.items()}
    # 0.1 * 16 / (1.6 + 0.9) = 0.64; 0.3 / 1.2 = 0.25; 0.1; 0.1 / (0.1 + 1.8) = 0.053.
    # Three standard errors are at most 0.034.
    assert shares == pytest.approx({1: 0.64, 2: 0.25, 4: 0.1, 6: 0.053}, abs=0.034)


def test_the_tokenizer_knows_every_symbol_and_round_trips() -> None:
    tokenizer = build_tokenizer()
    for style in STYLES:
        whole = f"{CHAIN.text}?" + text(CHAIN, style)
        ids = tokenizer.encode(whole)
        assert tokenizer.pad_token_id not in ids
        assert tokenizer.decode(ids) == whole
