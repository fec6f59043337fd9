"""CandidateSampler: the candidate samples that agents are shown before they act."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dsenv.control.base import Control
from dsenv.control.candidates import Candidates, CandidateScores
from dsenv.rng import Streams
from dsenv.signals import read_outputs
from dsenv.training.trainer import Trainer


class CandidateSampler:
    """Draws M candidates for each of K episodes, and looks at them where the control asks for it.

    Args:
        control: says how many, and whether a forward pass looks at them.
        trainer: trains the models.
        streams: random streams of the episodes.
    """

    def __init__(self, control: Control, trainer: Trainer, streams: Streams) -> None:
        self._control, self._trainer, self._streams = control, trainer, streams
        replicas = trainer.replicas.count
        blank = torch.full((replicas, control.candidates), trainer.size, device=trainer.device)
        self.shown = Candidates(blank)
        self.extra_forwards = np.zeros(replicas, np.int64)
        """(K,) samples looked at without training, in this episode."""
        self.embedding = 0
        """D, length of the features that are shown."""
        if control.embedding:
            self._score()
            assert self.shown.scores is not None and self.shown.scores.embedding is not None
            self.embedding = self.shown.scores.embedding.shape[2]

    def restart(self, replica: int) -> None:
        """Begin a new episode."""
        self.extra_forwards[replica] = 0

    def draw(self, rows: Sequence[int], pool: Tensor) -> None:
        """Show new candidates in the episodes `rows`, drawn uniformly from `pool` (K, N) bool."""
        most = self._control.candidates
        if not most or not rows:
            return
        size, device = self._trainer.size, self._trainer.device
        keys = torch.stack([torch.rand(size, generator=self._streams[k], device=device) for k in rows])
        where = torch.tensor(rows, device=device)
        keys.masked_fill_(~pool[where], -1.0)
        best = keys.topk(min(most, size), 1)
        index = self.shown.index.clone()
        index[where] = size
        index[where, : best.indices.shape[1]] = best.indices.masked_fill(best.values < 0, size)
        self.shown = Candidates(index)
        if self._control.rescores:
            self._score()

    def _score(self) -> None:
        found = self._trainer.score_candidates(self.shown.index, features=self._control.embedding)
        assert found.logits is not None
        scores = CandidateScores(found.loss, read_outputs(found.logits, found.labels), found.features)
        self.shown = Candidates(self.shown.index, scores)

    def book(self, running: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> None:
        """Count the looks that the running episodes' actions were based on."""
        if self._control.rescores:
            exists = (self.shown.index < self._trainer.size).sum(1).cpu().numpy()
            self.extra_forwards += exists * running
