"""Labels and pools of the episodes on one data set."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

from torch import Tensor

from dsenv.env.context import NOISE, Context, mismatched, realise
from dsenv.env.rewards.base import Reward
from dsenv.task_kinds.base import check_fits
from dsenv.tasks.corruption import linear_scores
from dsenv.tasks.dataset import Dataset
from dsenv.tasks.task import Task

CLASSES_ONLY = ("imbalance", *NOISE[1:])
"""Context values that are about classes."""


class EpisodeLabels:
    """Makes the labels of episodes, which follow from the context and a seed.

    Args:
        dataset: the samples and their clean labels.
        noise: kind of `label_noise`, a name in `NOISES`.
    """

    def __init__(self, dataset: Dataset, noise: str) -> None:
        self._dataset, self._noise = dataset, noise

    @cached_property
    def _scores(self) -> list[Tensor]:
        """Scores (N, C) and (V, C) of a linear classifier on both splits, fitted on the training split."""
        train, validation = self._dataset.train, self._dataset.validation
        return linear_scores(train.images, train.labels, self._dataset.classes, validation.images)

    def __deepcopy__(self, memo: object) -> "EpisodeLabels":
        """The same object: it keeps nothing of an episode."""
        del memo
        return self

    def wrong(self, labels: Tensor) -> Tensor:
        """Which labels (N,) of the training split, as `train` gives them, are wrong, (N,) bool."""
        clean = self._dataset.train.labels
        if self._dataset.classes:
            return labels != clean
        return (clean[labels] != clean).flatten(1).any(1)

    def train(self, context: Context, seed: int) -> tuple[Tensor, Tensor]:
        """Labels (N,) of the training split, and the pool (N,) bool; see `realise`.

        For other kinds of task than classification, the samples whose targets they are; see `mismatched`.
        """
        return self._realised(context, 0, seed, self._dataset.trusted)

    def validation(self, context: Context, seed: int) -> Tensor:
        """Labels (V,) of the validation split, all of it, with the noise of the training labels."""
        return self._realised(replace(context, imbalance=1.0, subset=1.0), 1, seed)[0]

    def _realised(self, context: Context, number: int, seed: int, trusted: int = 0) -> tuple[Tensor, Tensor]:
        data = self._dataset
        if not data.classes:
            size = len((data.train, data.validation)[number])
            return mismatched(context, size, seed, trusted)
        labels = (data.train, data.validation)[number].labels
        scores = self._scores[number] if context.instance_noise else None
        return realise(context, self._noise, labels, data.classes, seed, trusted, scores)


def check_kind(task: Task, context: Mapping[str, Any], reward: Reward) -> None:
    """Check that an environment asks for nothing that its kind of task does not have.

    Args:
        task: what is trained.
        context: the values that the settings set.
        reward: what pays.

    Raises:
        ValueError: a context value is about classes, or the reward reads what the kind does not give.
    """
    kind, data = task.kind, task.dataset.name
    check_fits(kind, reward)
    if kind.classes is not None:
        return
    for name in CLASSES_ONLY:
        if name in context:
            raise ValueError(
                f"context.{name} is about classes, and {data} is a task of kind {kind.name}; leave it out "
                "(label_noise exchanges the targets of samples)"
            )
    if context.get("noise", "symmetric") != "symmetric":
        raise ValueError(
            f"context.noise = {context['noise']!r} is about classes, and {data} is a task of kind "
            f"{kind.name}, whose label_noise exchanges the targets of samples; leave noise out"
        )
