"""Order statistics and draws over millions of samples on a CPU, one cache-sized block at a time.

The fast forms behind `dsenv.kernels`, which says when they are used. A float32 becomes a 32-bit key with
the same order. The key at any rank follows from two histograms of 16 bits each, so that the largest
values are found without a sort or a copy of the values, however many of them are equal. A full ranking
sorts integers that hold the key in their upper half and the position in the lower, in place, with 8 bytes
a sample.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

BLOCK = 1 << 17  # samples at a time: their keys stay in the cache
HALF = np.uint32(16)
SIGN = np.uint32(1 << 31)
LEAST = np.uint32(0x007FFFFF)  # key of -inf before it is moved to 0
MIX = (0x85EBCA6B, 0xC2B2AE35)  # multipliers of MurmurHash3's last step
UNMIX = tuple(pow(factor, -1, 1 << 32) for factor in MIX)

Floats = NDArray[np.float32]
Keys = NDArray[np.uint32]
Positions = NDArray[np.int64]


def blocks(size: int) -> Iterator[slice]:
    """Slices of at most `BLOCK` that cover 0..size."""
    return (slice(start, min(start + BLOCK, size)) for start in range(0, size, BLOCK))


def key_blocks(values: Floats, mirror: bool = False) -> Iterator[tuple[slice, Keys]]:
    """Block after block, keys that order as the values (N,) do; 0.0 and -0.0 are equal, NaN is above all.

    The keys are valid until the next block is asked for, which reuses their memory: new arrays for each block
    would be returned to the operating system and requested again, and take four times as long as the work.

    Args:
        values: (N,).
        mirror: reverse the order, NaN first.
    """
    room, signs = np.empty(BLOCK, np.uint32), np.empty(BLOCK, np.int32)

    for block in blocks(len(values)):
        keys = room[: block.stop - block.start]
        sign = signs[: len(keys)]
        np.add(values[block], np.float32(0), out=keys.view(np.float32))
        np.right_shift(keys.view(np.int32), np.int32(31), out=sign)  # all ones for a negative value

        # Flip all bits of a negative value, whose order is reversed, and the sign bit of the others
        flip = sign.view(np.uint32)
        flip |= SIGN
        keys ^= flip
        keys -= LEAST  # negative NaNs wrap round to the top
        yield block, np.invert(keys, out=keys) if mirror else keys


def keys_at(values: Floats, ranks: Sequence[int]) -> list[tuple[int, int]]:
    """For each rank, 0 for the least value (N,): the key there, and how many keys are smaller."""
    high = np.zeros(1 << 16, np.int64)
    for _, keys in key_blocks(values):
        keys >>= HALF
        high += np.bincount(keys, minlength=1 << 16)
    ends = high.cumsum()

    # Lower halves of the keys that share the upper half of a rank asked for
    bins = np.searchsorted(ends, np.asarray(ranks), side="right")  # upper halves of the keys
    low = {int(upper): np.zeros(1 << 16, np.int64) for upper in bins}
    for _, keys in key_blocks(values):
        for upper, found in low.items():
            inside = keys[(keys >= upper << 16) & (keys <= (upper << 16) + 0xFFFF)]
            inside &= np.uint32(0xFFFF)
            found += np.bincount(inside, minlength=1 << 16)

    answers = []
    for rank, upper in zip(ranks, bins.tolist(), strict=True):
        inner = low[upper].cumsum()
        before = int(ends[upper] - high[upper])
        lower = int(np.searchsorted(inner, rank - before, side="right"))
        answers.append(((upper << 16) + lower, before + int(inner[lower] - low[upper][lower])))
    return answers


def largest(values: Floats, count: int, rng: np.random.Generator | None) -> Positions:
    """Positions (count,) of the largest values (N,), block after block.

    Args:
        values: (N,).
        count: how many, 0..N.
        rng: draws among values equal to the least chosen one; None takes the first of them.
    """
    if count == 0:
        return np.empty(0, np.int64)

    # How many of each block are above the least chosen value, and how many equal to it
    threshold = keys_at(values, [len(values) - count])[0][0]
    above, tied = [], []
    for _, keys in key_blocks(values):
        above.append(int(np.count_nonzero(keys > threshold)))
        tied.append(int(np.count_nonzero(keys == threshold)))

    take = shares(tied, count - sum(above), rng)
    chosen, end = np.empty(count, np.int64), 0
    for (block, keys), more, drawn in zip(key_blocks(values), above, take, strict=True):
        start, end = end, end + more + drawn
        np.add(np.flatnonzero(keys > threshold), block.start, out=chosen[start : start + more])
        if drawn:
            equal = np.flatnonzero(keys == threshold)
            equal = equal[:drawn] if rng is None else rng.choice(equal, drawn, replace=False, shuffle=False)
            np.add(equal, block.start, out=chosen[start + more : end])

    return chosen


def shares(sizes: Sequence[int], count: int, rng: np.random.Generator | None) -> list[int]:
    """How many of `count` samples drawn without replacement fall in parts of these sizes.

    With no `rng` the first parts are used up first.
    """
    if count == sum(sizes):
        return list(sizes)
    if rng is not None:
        drawn: list[int] = rng.multivariate_hypergeometric(sizes, count, method="marginals").tolist()
        return drawn

    ends = np.minimum(np.cumsum(sizes), count)
    taken: list[int] = np.diff(ends, prepend=0).tolist()
    return taken


def subset(size: int, count: int, rng: np.random.Generator) -> Positions:
    """`count` of `size` positions, (count,), each set equally likely; block after block."""
    parts = list(blocks(size))
    chosen, end = np.empty(count, np.int64), 0
    sizes = [part.stop - part.start for part in parts]

    for part, length, drawn in zip(parts, sizes, shares(sizes, count, rng), strict=True):
        start, end = end, end + drawn
        chosen[start:end] = rng.choice(length, drawn, replace=False, shuffle=False)
        chosen[start:end] += part.start
    return chosen


def ordered(keys: Iterable[tuple[slice, Keys]], size: int, rng: np.random.Generator | None) -> Positions:
    """Positions (size,) by rising key.

    Args:
        keys: of each block of positions.
        size: number of positions, below 2^32.
        rng: puts equal keys in random order; None puts them in the order of their positions.
    """
    secret = None if rng is None else rng.integers(1 << 32, size=4, dtype=np.uint32)
    packed = np.empty(size, np.uint64)

    # The key above, the position below; scrambled positions put ties in random order
    for block, key in keys:
        place = np.arange(block.start, block.stop, dtype=np.uint32)
        packed[block] = key
        packed[block] <<= np.uint64(32)
        packed[block] |= place if secret is None else scramble(place, secret)

    packed.sort()
    for block in blocks(size):
        place = packed[block].astype(np.uint32)
        packed[block] = place if secret is None else unscramble(place, secret)
    return packed.view(np.int64)


def random_keys(size: int, rng: np.random.Generator) -> Iterator[tuple[slice, Keys]]:
    """Block after block, uniform keys."""
    for block in blocks(size):
        yield block, rng.integers(1 << 32, size=block.stop - block.start, dtype=np.uint32)


def scramble(numbers: Keys, secret: Keys) -> Keys:
    """A bijection of 32-bit numbers (N,), decided by the secret ones: it gives ties a random order."""
    for part in secret:
        numbers = numbers ^ part
        numbers ^= numbers >> np.uint32(16)
        numbers *= np.uint32(MIX[0])
        numbers ^= numbers >> np.uint32(13)
        numbers *= np.uint32(MIX[1])
        numbers ^= numbers >> np.uint32(16)
    return numbers


def unscramble(numbers: Keys, secret: Keys) -> Keys:
    """The inverse of `scramble`."""
    for part in secret[::-1]:
        numbers = numbers ^ (numbers >> np.uint32(16))
        numbers *= np.uint32(UNMIX[1])
        numbers ^= (numbers >> np.uint32(13)) ^ (numbers >> np.uint32(26))
        numbers *= np.uint32(UNMIX[0])
        numbers ^= numbers >> np.uint32(16)
        numbers ^= part
    return numbers


def rank_bins(values: Floats, members: int, bins: int, result: Positions) -> None:
    """Write to `result` the bin (N,) of each value (N,): its rank * bins // members, at most bins - 1.

    Equal values are in the order of their positions.
    """
    edges = [-(-b * members // bins) for b in range(1, bins)]  # first rank of each bin
    starts = keys_at(values, [edge for edge in edges if edge < len(values)])
    split = dict(starts)  # values on which a bin may begin: key -> how many are smaller

    # A value above a start is in its bin or a later one; values equal to it are shared out by position
    for block, keys in key_blocks(values):
        found = result[block]
        found[:] = 0
        for start, _ in starts:
            found += keys > start
        for start, below in split.items():
            tied = np.flatnonzero(keys == start)
            rank = below + np.arange(len(tied))
            found[tied] = np.minimum(rank * bins // members, bins - 1)
            split[start] = below + len(tied)
