"""CandidateSampler: the candidate samples that agents are shown before they act."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsenv.control.base import Control
from dsenv.control.state import Candidates, CandidateScores
from dsenv.rng import Streams
from dsenv.task_kinds.classification import read_outputs
from dsenv.training.trainer import Trainer


class CandidateSampler:
    """Draws M candidates for each of K episodes, and scores them where the control asks for it.

    Args:
        control: says how many, and whether a forward pass scores them.
        trainer: trains the models.
        streams: random streams of the episodes.
    """

    def __init__(self, control: Control, trainer: Trainer, streams: Streams) -> None:
        self._control, self._trainer, self._streams = control, trainer, streams
        replicas = trainer.replicas.count
        self.extra_forwards = np.zeros(replicas, np.int64)
        """(K,) samples of forward passes without training, in this episode."""
        padding = torch.full((replicas, control.candidates), trainer.size, device=trainer.device)
        self.blank = Candidates(padding)
        """Candidates before the first episode: padding alone."""
        self.embedding = 0
        """D, length of the features that are shown."""
        if control.embedding:
            self.blank = self._scored(padding)
            assert self.blank.scores is not None and self.blank.scores.embedding is not None
            self.embedding = self.blank.scores.embedding.shape[2]

    def restart(self, replica: int) -> None:
        """Begin a new episode."""
        self.extra_forwards[replica] = 0

    def draw(self, shown: Candidates, rows: Sequence[int], pool: Tensor) -> Candidates:
        """New candidates in the episodes `rows`, drawn uniformly from `pool` (K, N) bool.

        The other episodes keep those of `shown`.
        """
        if not rows:
            return shown
        size, device = self._trainer.size, self._trainer.device
        keys = torch.stack([torch.rand(size, generator=self._streams[k], device=device) for k in rows])
        where = torch.tensor(rows, device=device)
        keys.masked_fill_(~pool[where], -1.0)
        best = keys.topk(min(self._control.candidates, size), 1)

        index = shown.index.clone()
        index[where] = size
        index[where, : best.indices.shape[1]] = best.indices.masked_fill(best.values < 0, size)
        return self._scored(index) if self._control.rescores else Candidates(index)

    def _scored(self, index: Tensor) -> Candidates:
        """The candidates (K, M) with what the models say of them now."""
        found = self._trainer.score_candidates(index, features=self._control.embedding)
        said = dict(found.readings or {})
        if found.logits is not None:
            said = read_outputs(found.logits, found.labels)
        return Candidates(index, CandidateScores(found.loss, said, found.features))

    def book(self, shown: Candidates, running: NDArray[np.bool_]) -> None:
        """Count the forward passes that the running episodes' actions were based on."""
        if self._control.rescores:
            exists = (shown.index < self._trainer.size).sum(1).cpu().numpy()
            self.extra_forwards += exists * running
