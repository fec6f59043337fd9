"""Labels and pools of the episodes on one data set."""

from dataclasses import replace
from functools import cached_property

from torch import Tensor

from dsenv.env.context import Context, realise
from dsenv.tasks.corruption import linear_scores
from dsenv.tasks.dataset import Dataset


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

    def train(self, context: Context, seed: int) -> tuple[Tensor, Tensor]:
        """Labels (N,) of the training split, and the pool (N,) bool; see `realise`."""
        return self._realised(context, 0, seed, self._dataset.trusted)

    def validation(self, context: Context, seed: int) -> Tensor:
        """Labels (V,) of the validation split, all of it, with the noise of the training labels."""
        return self._realised(replace(context, imbalance=1.0, subset=1.0), 1, seed)[0]

    def _realised(self, context: Context, number: int, seed: int, trusted: int = 0) -> tuple[Tensor, Tensor]:
        data = self._dataset
        labels = (data.train, data.validation)[number].labels
        scores = self._scores[number] if context.instance_noise else None
        return realise(context, self._noise, labels, data.classes, seed, trusted, scores)
