"""Context: what is drawn anew for each episode, so that a policy must read the situation."""

from dataclasses import dataclass, fields
from functools import partial

import torch
from torch import Tensor

from dsenv.errors import check_count, check_positive, check_share
from dsenv.tasks.corruption import add_noise, add_pair_flips, long_tail, random_subset


@dataclass(frozen=True, kw_only=True)
class Context:
    """The situation of one episode."""

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
    dataset: int = 0
    """Position of the data set among the environment's `datasets`."""

    def plain(self) -> dict[str, float]:
        """Its values by name, as plain numbers."""
        values = {name: float(getattr(self, name)) for name in VALUES}
        return {**values, "dataset": int(self.dataset)}

    def __post_init__(self) -> None:
        for name in VALUES:  # NumPy's numbers become plain ones
            check = check_positive if name == "lr" else partial(check_share, zero=name in FROM_ZERO)
            object.__setattr__(self, name, check(name, getattr(self, name)))
        object.__setattr__(self, "dataset", check_count("dataset", self.dataset, 0))
        if self.label_noise + self.pair_flip > 1:
            raise ValueError(
                "label_noise and pair_flip fall on different samples and must not add up to more than 1, got "
                f"{self.label_noise} and {self.pair_flip}"
            )


FROM_ZERO = ("label_noise", "pair_flip")
VALUES = tuple(field.name for field in fields(Context) if field.name != "dataset")
"""Names of the values that are numbers, in the order in which they are drawn."""


def realise(
    context: Context, noise: str, labels: Tensor, classes: int, seed: int, trusted: int = 0
) -> tuple[Tensor, Tensor]:
    """Make the training labels and the pool of one episode.

    Args:
        context: the situation.
        noise: kind of `label_noise`, a name in `NOISES`.
        labels: (N,) clean labels, on the CPU.
        classes: C.
        seed: decides which samples are kept and which labels are wrong.
        trusted: samples at the end that are kept, labels and all, whatever the context is.

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
    given, clean = labels.clone(), labels[members]
    noisy = add_noise(noise, clean, context.label_noise, classes, generator)
    given[members] = add_pair_flips(noisy, clean, context.pair_flip, classes, generator)
    return given, pool
