"""Sharing questions out to ranks by length: equal counts, about equal sums."""

from collections.abc import Sequence


def balanced_shares(lengths: Sequence[float], ranks: int, *, block: int) -> list[list[int]]:
    """Places in `lengths` for each rank: equal numbers of each `block` of places, about equal sums.

    The longest is given first, to the rank with the smallest sum so far that has room in the block (LPT,
    Graham 1969, https://doi.org/10.1137/0117039, with equal counts). Equal lengths: rank r gets every
    `ranks`-th place, starting with the r-th.
    """
    shares: list[list[int]] = [[] for _ in range(ranks)]
    sums = [0.0] * ranks
    for start in range(0, len(lengths), block):
        places = range(start, min(start + block, len(lengths)))
        room = [len(places) // ranks] * ranks
        for place in sorted(places, key=lambda place: -lengths[place]):
            rank = min((r for r in range(ranks) if room[r]), key=lambda r: (sums[r], -room[r]))
            shares[rank].append(place)
            sums[rank] += lengths[place]
            room[rank] -= 1
    return [sorted(share) for share in shares]
