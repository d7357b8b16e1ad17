"""The starter task: correct arithmetic, traces that end with the answer, mistakes that are not learned."""

import random
import re

import pytest

from ceeh.starter.model import build_tokenizer
from ceeh.starter.task import LEVELS, MULTIPLICATIONS, STYLES, Chain, apply, sample_chain, trace

CHAIN = Chain(47, (("+", 8), ("*", 3), ("*", 16), ("-", 5)))


def text(chain: Chain, style: str, seed: int = 0) -> str:
    return "".join(piece.text for piece in trace(chain, style, random.Random(seed)))  # type: ignore[arg-type]


def test_a_chain_is_evaluated_from_left_to_right_modulo_100() -> None:
    # 47 + 8 = 55; 55 * 3 = 165 -> 65; 65 * 16 = 1040 -> 40; 40 - 5 = 35.
    assert CHAIN.text == "47+8*3*16-5"
    assert CHAIN.answer == 35
    assert apply(3, [("-", 5)]) == 98


def test_the_short_styles_are_as_documented() -> None:
    assert text(CHAIN, "so") == "so 35"
    assert text(CHAIN, "leap") == "leap 47+8*3=65;65*16-5=35;so 35"
    assert text(CHAIN, "step") == "step 47+8=55;55*3=65;65*16=40;40-5=35;so 35"


@pytest.mark.parametrize("style", STYLES)
def test_every_learned_equation_of_every_style_is_correct(style: str) -> None:
    rng = random.Random(1)
    for index in range(200):
        chain = sample_chain(rng, LEVELS[index % 8])
        pieces = trace(chain, style, rng)  # type: ignore[arg-type]
        whole = "".join(piece.text for piece in pieces)
        assert whole.endswith(f"so {chain.answer:02d}")
        # A mistake is the only thing not learned: blanked, its equation disappears.
        learned = "".join(piece.text if piece.learn else "?" for piece in pieces)
        for start, chained, result in re.findall(r"(\d\d)((?:[-+*]\d+)+)=(\d\d)", learned):
            operations = [(sign, int(n)) for sign, n in re.findall(r"([-+*])(\d+)", chained)]
            assert apply(int(start), operations) == int(result), whole  # type: ignore[arg-type]


def test_checks_find_wrong_leaps_and_repair_them() -> None:
    texts = [text(CHAIN, "test", seed) for seed in range(50)]
    assert any("fix" in t for t in texts)
    assert any("ok " in t for t in texts)
    for fixed in (t for t in texts if "fix" in t):
        # What `fix` names is the last result of the check before it.
        for check, repaired in re.findall(r"check ([^a-z]*)fix (\d\d);", fixed):
            assert check.endswith(f"={repaired};")


def test_levels_have_the_documented_operations() -> None:
    rng = random.Random(2)
    for level in LEVELS:
        for _ in range(20):
            chain = sample_chain(rng, level)
            assert chain.level == level
            factors = [operand for sign, operand in chain.operations if sign == "*"]
            by_two = sum(factor > 9 for factor in factors)
            assert (len(factors) - by_two, by_two) == MULTIPLICATIONS[level]


def test_the_tokenizer_knows_every_symbol_and_round_trips() -> None:
    tokenizer = build_tokenizer()
    for style in STYLES:
        whole = f"{CHAIN.text}?" + text(CHAIN, style)
        ids = tokenizer.encode(whole)
        assert tokenizer.pad_token_id not in ids
        assert tokenizer.decode(ids) == whole
