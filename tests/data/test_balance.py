"""Questions shared out by length: equal counts in each block, and sums that are nearer than in turn."""

import random
from itertools import chain
from statistics import fmean

import pytest

from ceeh.data.balance import balanced_shares


@pytest.mark.parametrize(
    ("block", "shares"),
    [
        # 9 and 8 go first, to one rank each; then 2 where 8 is, then 1: sums of 10.
        (4, [[0, 1], [2, 3]]),
        # 9 and 1; then 8 goes where 1 is, and 2 where 9 is: 11 and 9.
        (2, [[0, 3], [1, 2]]),
    ],
)
def test_the_longest_question_goes_to_the_rank_with_the_least_so_far(block, shares):
    assert balanced_shares([9.0, 1.0, 8.0, 2.0], 2, block=block) == shares


@pytest.mark.parametrize("length", [0.0, 0.1])
def test_questions_of_equal_length_are_shared_as_without_balance(length):
    shares = balanced_shares([length] * 24, 4, block=12)
    assert shares == [list(range(rank, 24, 4)) for rank in range(4)]


def test_balanced_ranks_have_equal_counts_in_each_block_and_nearer_sums():
    generator = random.Random(0)
    spread = {"balanced": 0.0, "every w-th": 0.0}
    for _ in range(50):
        lengths = [generator.lognormvariate(0, 1) for _ in range(64)]
        shares = balanced_shares(lengths, 8, block=32)
        assert sorted(chain.from_iterable(shares)) == list(range(64))
        for share in shares:
            assert share == sorted(share)
            assert sum(place < 32 for place in share) == 4
        plain = [list(range(rank, 64, 8)) for rank in range(8)]
        for name, given in (("balanced", shares), ("every w-th", plain)):
            sums = [sum(lengths[place] for place in share) for share in given]
            spread[name] += max(sums) / fmean(sums) - 1
    assert spread["balanced"] < spread["every w-th"] / 4
