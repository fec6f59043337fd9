"""Label noise and long-tail imbalance; the clean labels are kept apart for analysis."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from dsenv.errors import check_count, check_share, pick, shown
from dsenv.tasks.dataset import check_labels

MOST_SAMPLES = 1 << 32
FAVOURITE = 0.75  # probability of the most likely wrong class, in class-dependent noise
HARDNESS = 1.5  # log weight of a sample whose margin is one deviation smaller, in instance-dependent noise
RIDGE = 1e-3  # of the mean square of the inputs
CHUNK = 4096  # samples that become float64 at a time


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
    share = _checked_pair("pair_flip", given, clean, share, classes, generator)
    if share == 0:
        return given

    right = (given == clean).nonzero().squeeze(1)
    where = right[torch.randperm(len(right), generator=generator)[: round(share * len(clean))]]
    flipped = given.clone()
    flipped[where] = (clean[where] + 1) % classes
    return flipped


def _checked_pair(
    name: str, given: Tensor, clean: Tensor, share: float, classes: int, generator: torch.Generator
) -> float:
    """The share of labels to make wrong, once all arguments are found to be right."""
    share = check_share(name, share, zero=True)
    for what, labels in (("given", given), ("clean", clean)):
        check_labels(what, labels, classes)
    if len(given) != len(clean):
        raise ValueError(f"there are {len(given)} given labels and {len(clean)} clean ones")
    _check_generator(generator)
    if share and classes < 2:
        raise ValueError(f"{name} = {share:g} needs another class to name, and there is only {classes}")
    return share


def add_class_noise(
    given: Tensor, clean: Tensor, share: float, classes: int, generator: torch.Generator
) -> Tensor:
    """Make a share of the labels wrong at a rate of each class, mostly by one other class.

    The weight of a class, by which its samples are drawn, is log-normal (deviation 1 of the logarithm). A
    wrong label is the class's favourite other class with a probability of `FAVOURITE`, else any other one.
    Class-conditional noise in general: Natarajan et al. (2013), Learning with Noisy Labels.

    Args:
        given: (N,) int64 labels, some of them wrong already, on the CPU.
        clean: (N,) int64 clean labels.
        share: share of all N labels to make wrong, [0, 1].
        classes: C.
        generator: draws the rates, the favourites and the samples; nothing is drawn for a share of 0.

    Returns:
        (N,) int64 labels; round(share * N) more of them are wrong, or all that were right.

    Raises:
        ValueError: a label is out of range, the share is none, or there is no other class.
    """
    share = _checked_pair("class_noise", given, clean, share, classes, generator)
    if share == 0:
        return given

    # What is drawn of each class: its weight, and which other class it is mostly taken for
    weight = torch.randn(classes, generator=generator)
    favourite = torch.randint(1, classes, (classes,), generator=generator)
    where = _drawn(weight[clean], given == clean, round(share * len(clean)), generator)

    other = torch.randint(1, classes, (len(where),), generator=generator)
    is_favourite = torch.rand(len(where), generator=generator) < FAVOURITE
    shift = torch.where(is_favourite, favourite[clean[where]], other)
    noisy = given.clone()
    noisy[where] = (clean[where] + shift) % classes
    return noisy


def add_instance_noise(
    given: Tensor, clean: Tensor, share: float, scores: Tensor, generator: torch.Generator
) -> Tensor:
    """Make a share of the labels wrong, likelier where a classifier finds the sample hard.

    The log weight, by which samples are drawn, falls with the margin of the true class over the best other
    one, in standard deviations, times `HARDNESS`. The wrong label is drawn from the softmax of the scores of
    the other classes, in the same unit. In the spirit of Xia et al. (2020, arXiv 2006.07836), whose noise
    follows from the inputs by random projections; here it follows from what a class looks like.

    Args:
        given: (N,) int64 labels, some of them wrong already, on the CPU.
        clean: (N,) int64 clean labels.
        share: share of all N labels to make wrong, [0, 1].
        scores: (N, C) of a classifier on the samples, see `linear_scores`.
        generator: draws the samples and their labels; nothing is drawn for a share of 0.

    Returns:
        (N,) int64 labels; round(share * N) more of them are wrong, or all that were right.

    Raises:
        ValueError: a label is out of range, the share is none, or there is no other class.
    """
    classes = scores.shape[1]
    share = _checked_pair("instance_noise", given, clean, share, classes, generator)
    if share == 0:
        return given

    # The unit of all scores is the deviation of the margin
    own = scores.gather(1, clean[:, None])
    others = scores.scatter(1, clean[:, None], -torch.inf)
    margin = (own - others.amax(1, keepdim=True)).squeeze(1)
    unit = HARDNESS / margin.std(correction=0).clamp(min=1e-6)

    where = _drawn(-margin * unit, given == clean, round(share * len(clean)), generator)
    wrong = _gumbel(others[where].shape, generator) + others[where] * unit
    noisy = given.clone()
    noisy[where] = wrong.argmax(1)
    return noisy


def _drawn(log_weight: Tensor, allowed: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Positions of `count` allowed (N,) bool samples, or of all, drawn by weight without replacement."""
    key = (log_weight + _gumbel(log_weight.shape, generator)).masked_fill(~allowed, -torch.inf)
    return key.topk(min(count, int(allowed.sum()))).indices


def _gumbel(shape: torch.Size, generator: torch.Generator) -> Tensor:
    tiny = torch.finfo(torch.float64).tiny
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64).clamp_(min=tiny)
    return -(-uniform.log()).clamp_(min=tiny).log()


def linear_scores(inputs: Tensor, labels: Tensor, classes: int, *others: Tensor) -> list[Tensor]:
    """Scores of a linear classifier, fitted by ridge regression on one-hot labels.

    Args:
        inputs: (N, ...) uint8 or float samples to fit, on the CPU.
        labels: (N,) int64 clean labels.
        classes: C.
        others: (M, ...) further samples to score.

    Returns:
        Scores (N, C) float32 of `inputs`, then (M, C) of each of `others`.
    """
    size = inputs[0].numel() + 1
    square = torch.zeros(size, size, dtype=torch.float64)
    product = torch.zeros(size, classes, dtype=torch.float64)
    for part, wanted in zip(_chunks(inputs), _chunks(labels), strict=True):
        rows = _with_one(part)
        square += rows.T @ rows
        product += rows.T @ functional.one_hot(wanted, classes).double()

    ridge = RIDGE * square.diagonal().mean()
    weights = torch.linalg.solve(square + ridge * torch.eye(size, dtype=torch.float64), product)
    return [
        torch.cat([_with_one(part) @ weights for part in _chunks(samples)]).float()
        for samples in (inputs, *others)
    ]


def _chunks(samples: Tensor) -> list[Tensor]:
    return [samples[start : start + CHUNK] for start in range(0, len(samples), CHUNK)]


def _with_one(samples: Tensor) -> Tensor:
    """Samples as rows of float64, bytes on the scale 0..1, with a last column of ones."""
    flat = samples.flatten(1).double() / (255 if samples.dtype == torch.uint8 else 1)
    return torch.cat([flat, torch.ones(len(flat), 1, dtype=torch.float64)], 1)


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
    smallest = sizes[sizes > 0].min() if len(labels) else 0  # an empty class must not empty the others
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
