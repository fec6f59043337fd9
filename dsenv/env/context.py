"""Context: what is drawn anew for each episode, so that a policy must read the situation."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dsenv.errors import check_count, check_positive, check_share
from dsenv.tasks.corruption import (
    add_class_noise,
    add_instance_noise,
    add_noise,
    add_pair_flips,
    long_tail,
    random_subset,
)

MOST_DATASETS = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Context:
    """The situation of one episode.

    Raises:
        ValueError: a value is no number, or out of range.
    """

    label_noise: float = 0.0
    """Share of the training labels that are wrong, [0, 1]."""
    imbalance: float = 1.0
    """Size of the rarest class over that of the most frequent, (0, 1]."""
    subset: float = 1.0
    """Share of the training samples that exist, (0, 1]."""
    pair_flip: float = 0.0
    """Share of the training labels that are replaced by the next class, [0, 1]; on other samples than
    `label_noise`."""
    width: float = 1.0
    """Share of the model's hidden units that exist, (0, 1]."""
    lr: float = 1.0
    """Factor on the recipe's learning rate, > 0."""
    class_noise: float = 0.0
    """Share of the training labels that are wrong by a rate and a most likely wrong class of each class,
    [0, 1]; on other samples than the kinds of noise above."""
    instance_noise: float = 0.0
    """Share of the training labels that are wrong where a linear classifier finds samples hard, [0, 1]; on
    other samples than the kinds of noise above."""
    ratio: float | None = None
    """Target ratio, (0, 1]; None for that of the environment."""
    dataset: int = 0
    """Position of the data set among the environment's `datasets`."""

    def plain(self) -> dict[str, float]:
        """Its values by name, as plain numbers; those that are None are left out."""
        values = {name: float(getattr(self, name)) for name in VALUES if getattr(self, name) is not None}
        return {**values, "dataset": int(self.dataset)}

    def __post_init__(self) -> None:
        for name in VALUES:  # NumPy's numbers become plain ones
            if getattr(self, name) is not None or name not in UNSET:
                object.__setattr__(self, name, CHECKS.get(name, check_share)(name, getattr(self, name)))
        object.__setattr__(self, "dataset", check_count("dataset", self.dataset, 0, MOST_DATASETS))

        wrong = {name: float(getattr(self, name)) for name in NOISE if getattr(self, name)}
        if math.fsum(wrong.values()) > 1:
            *most, last = wrong
            raise ValueError(
                f"{', '.join(most)} and {last} fall on different samples and must not add up to more than 1, "
                f"got {', '.join(map(str, list(wrong.values())[:-1]))} and {wrong[last]}"
            )

    @property
    def wrong_labels(self) -> float:
        """Share of the training labels that are wrong, by all kinds of noise together, [0, 1]."""
        return math.fsum(getattr(self, name) for name in NOISE)


NOISE = ("label_noise", "pair_flip", "class_noise", "instance_noise")
"""Names of the kinds of label noise, each the share of the labels that it makes wrong."""
UNSET = ("ratio",)
"""Names of the values that may be None."""
CHECKS: dict[str, Callable[[str, Any], float]] = {
    "lr": check_positive,
    **dict.fromkeys(NOISE, partial(check_share, zero=True)),
}
VALUES = tuple(field.name for field in fields(Context) if field.name != "dataset")
"""Names of the values that are numbers, in the order in which they are drawn."""


def realise(
    context: Context,
    noise: str,
    labels: Tensor,
    classes: int,
    seed: int,
    trusted: int = 0,
    scores: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Make the training labels and the pool of one episode.

    Args:
        context: the situation.
        noise: kind of `label_noise`, a name in `NOISES`.
        labels: (N,) clean labels, on the CPU.
        classes: C.
        seed: decides which samples are kept and which labels are wrong.
        trusted: samples at the end that are kept, labels and all, whatever the context is.
        scores: (N, C) of a linear classifier, where the context has `instance_noise`.

    Returns:
        given: (N,) int64 labels to train on. Wrong labels fall on exactly the stated share of the pool,
            trusted samples apart.
        pool: (N,) bool, the samples that exist.
    """
    generator = torch.Generator().manual_seed(seed)
    own = len(labels) - trusted
    pool = long_tail(labels[:own], context.imbalance, classes, generator)
    members = pool.nonzero().squeeze(1)
    members = members[random_subset(len(members), context.subset, generator)]
    pool = torch.zeros_like(labels, dtype=torch.bool)
    pool[members] = True
    pool[own:] = True

    given = labels.clone()
    own_scores = None if scores is None else scores[members]
    given[members] = _noisy(context, noise, labels[members], classes, own_scores, generator)
    return given, pool


def mismatched(context: Context, size: int, seed: int, trusted: int = 0) -> tuple[Tensor, Tensor]:
    """Whose target each sample gets, and the pool, where a task is no classification.

    A share `label_noise` of the samples exchange their targets among each other, each with another one.

    Args:
        context: the situation; of noise it has `label_noise` alone.
        size: N.
        seed: decides which samples are kept and which targets are exchanged.
        trusted: samples at the end that are kept as they are.

    Returns:
        given: (N,) int64 sample whose target each one is trained on.
        pool: (N,) bool, the samples that exist.
    """
    generator = torch.Generator().manual_seed(seed)
    own = size - trusted
    members = random_subset(own, context.subset, generator).nonzero().flatten()
    pool = torch.zeros(size, dtype=torch.bool)
    pool[members] = True
    pool[own:] = True

    # The targets of the chosen ones go round, so that nobody keeps its own
    number = round(context.label_noise * len(members))
    chosen = members[torch.randperm(len(members), generator=generator)[:number]]
    given = torch.arange(size)
    if number > 1:
        given[chosen] = chosen.roll(1)
    return given, pool


def _noisy(
    context: Context,
    noise: str,
    clean: Tensor,
    classes: int,
    scores: Tensor | None,
    generator: torch.Generator,
) -> Tensor:
    """Labels after one kind of noise after another, each on labels that are still right."""
    noisy = add_noise(noise, clean, context.label_noise, classes, generator)
    noisy = add_pair_flips(noisy, clean, context.pair_flip, classes, generator)
    noisy = add_class_noise(noisy, clean, context.class_noise, classes, generator)
    if context.instance_noise:
        assert scores is not None
        noisy = add_instance_noise(noisy, clean, context.instance_noise, scores, generator)
    return noisy
