"""Label noise and long-tail imbalance; the clean labels are kept apart for analysis."""

from collections.abc import Callable

import torch
from torch import Tensor

from dsenv.errors import check_count, check_share, pick, shown
from dsenv.tasks.dataset import check_labels

MOST_SAMPLES = 1 << 32


def _noisy_positions(labels: Tensor, rate: float, classes: int, generator: torch.Generator) -> Tensor:
    """Exactly round(rate * N) positions, drawn uniformly."""
    rate = check_share("label_noise", rate, zero=True)
    check_labels("labels", labels, classes)
    _check_generator(generator)
    if rate > 0 and classes < 2:
        raise ValueError(f"label_noise = {rate:g} needs another class to name, and there is only {classes}")
    return torch.randperm(len(labels), generator=generator)[: round(rate * len(labels))]


def _check_generator(generator: torch.Generator) -> None:
    if not isinstance(generator, torch.Generator) or generator.device.type != "cpu":
        raise ValueError(
            f"generator must be a torch.Generator on the CPU, got {shown(generator)}; "
            "use torch.Generator().manual_seed(seed)"
        )


def symmetric_noise(labels: Tensor, rate: float, classes: int, generator: torch.Generator) -> Tensor:
    """Replace a share of the labels by another class, each other class equally likely.

    Args:
        labels: (N,) int64 clean labels, on the CPU.
        rate: share of labels that become wrong, [0, 1].
        classes: C.
        generator: draws which labels, and what they become.

    Returns:
        (N,) int64 given labels; exactly round(rate * N) of them are wrong.

    Raises:
        ValueError: a label is out of range, the rate is no share, or there is no other class.
    """
    where = _noisy_positions(labels, rate, classes, generator)
    noisy = labels.clone()
    shift = torch.randint(1, max(classes, 2), (len(where),), generator=generator)
    noisy[where] = (labels[where] + shift) % classes
    return noisy


def pair_flip_noise(labels: Tensor, rate: float, classes: int, generator: torch.Generator) -> Tensor:
    """Replace a share of the labels by the next class (Han et al., 2018, arXiv 1804.06872).

    Arguments and result are those of `symmetric_noise`.
    """
    where = _noisy_positions(labels, rate, classes, generator)
    noisy = labels.clone()
    noisy[where] = (labels[where] + 1) % classes
    return noisy


NOISES: dict[str, Callable[[Tensor, float, int, torch.Generator], Tensor]] = {
    "symmetric": symmetric_noise,
    "pair_flip": pair_flip_noise,
}


def add_noise(kind: str, labels: Tensor, rate: float, classes: int, generator: torch.Generator) -> Tensor:
    """Apply the label noise called `kind`: "symmetric" or "pair_flip"."""
    return NOISES[pick("label noise", kind, NOISES)](labels, rate, classes, generator)


def add_pair_flips(
    given: Tensor, clean: Tensor, share: float, classes: int, generator: torch.Generator
) -> Tensor:
    """Replace a share of the labels by the next class, on samples whose labels are still right.

    Args:
        given: (N,) int64 labels, some of them wrong already, on the CPU.
        clean: (N,) int64 clean labels.
        share: share of all N labels to flip, [0, 1].
        classes: C.
        generator: draws which ones; nothing is drawn for a share of 0.

    Returns:
        (N,) int64 labels; round(share * N) more of them are wrong, or all that were right.

    Raises:
        ValueError: a label is out of range, the share is none, or there is no other class.
    """
    share = check_share("pair_flip", share, zero=True)
    for name, labels in (("given", given), ("clean", clean)):
        check_labels(name, labels, classes)
    if len(given) != len(clean):
        raise ValueError(f"there are {len(given)} given labels and {len(clean)} clean ones")
    _check_generator(generator)
    if share == 0:
        return given
    if classes < 2:
        raise ValueError(f"pair_flip = {share:g} needs another class to name, and there is only {classes}")

    right = (given == clean).nonzero().squeeze(1)
    where = right[torch.randperm(len(right), generator=generator)[: round(share * len(clean))]]
    flipped = given.clone()
    flipped[where] = (clean[where] + 1) % classes
    return flipped


def long_tail(labels: Tensor, imbalance: float, classes: int, generator: torch.Generator) -> Tensor:
    """Which samples are kept so that class sizes fall off exponentially.

    Class c keeps imbalance^(c / (C - 1)) of the size of the smallest class that has samples, as in the
    long-tailed CIFAR of Cui et al. (2019, arXiv 1901.05555), so that the first class is 1 / imbalance times
    the last.

    Args:
        labels: (N,) int64 clean labels, on the CPU.
        imbalance: size of the last class over that of the first, (0, 1]; 1 keeps everything.
        classes: C.
        generator: draws which samples of a class are kept.

    Returns:
        (N,) bool.

    Raises:
        ValueError: a label is out of range, or the imbalance is no share.
    """
    imbalance = check_share("imbalance", imbalance)
    check_labels("labels", labels, classes)
    _check_generator(generator)
    if imbalance == 1:
        return torch.ones_like(labels, dtype=torch.bool)

    # How many samples of each class are kept
    sizes = torch.bincount(labels, minlength=classes)
    share = imbalance ** (torch.arange(classes) / max(classes - 1, 1))
    smallest = (
        sizes[sizes > 0].min() if len(labels) else 0
    )  # a class without samples must not empty the others
    keep = (smallest * share).round().long().clamp(min=1)

    # The first ones of each class in a random order
    order = torch.randperm(len(labels), generator=generator)
    by_class = order[labels[order].argsort(stable=True)]
    start = sizes.cumsum(0) - sizes
    position = torch.arange(len(labels)) - start[labels[by_class]]
    kept = torch.zeros_like(labels, dtype=torch.bool)
    kept[by_class] = position < keep[labels[by_class]]
    return kept


def random_subset(size: int, share: float, generator: torch.Generator) -> Tensor:
    """Keep exactly round(share * size) samples (at least one), drawn uniformly; (N,) bool.

    Raises:
        ValueError: the size is no count, or the share is none.
    """
    size, share = check_count("size", size, 0, MOST_SAMPLES), check_share("subset", share)
    _check_generator(generator)
    kept = torch.zeros(size, dtype=torch.bool)
    kept[torch.randperm(size, generator=generator)[: max(1, round(share * size))]] = True
    return kept
