"""DivBS: within each batch, samples that together represent the batch's mean gradient."""

import math

import torch
from torch import Tensor

from dsenv.errors import check_count
from dsenv.outputs import ModelOutputs
from dsenv.select.ranking import StaticSelector, need
from dsenv.task_kinds.classification import label_errors

EXHAUSTED = 1e-5  # of the largest squared gradient; what is left of a gradient below it is rounding error


def divbs(features: Tensor, errors: Tensor) -> Tensor:
    """Place (G, B) of each sample in its batch's greedy order, 0 first; B once nothing is left to explain.

    Each pick is the sample whose gradient g = error x feature has the largest |<g, r>|, r being what
    is left of the batch's mean gradient; then r loses its part along g, made orthogonal to the
    earlier picks. Only inner products are needed, <g_i, g_j> = <e_i, e_j> <f_i, f_j>, so this is a
    pivoted Cholesky factorisation of the Gram matrix.

    Args:
        features: (G, B, D) inputs of the last layer, for G batches.
        errors: (G, B, C) gradients of the losses by the logits; all 0 marks padding.
    """
    batches, size, _ = features.shape
    gram = (features @ features.mT) * (errors @ errors.mT)  # (G, B, B)
    squares = gram.diagonal(dim1=1, dim2=2)
    left, tolerance = squares.clone(), EXHAUSTED * squares.amax(1, keepdim=True)  # (G, B), (G, 1)

    inner = gram.mean(2)  # (G, B) of each gradient with r
    axes = gram.new_zeros(batches, size, size)  # (G, pick, B) of each gradient with each axis
    place = torch.full((batches, size), size, device=gram.device)

    for k in range(size):
        score = inner.abs().masked_fill((left <= tolerance) | (place < size), -1.0)
        best = score.argmax(1, keepdim=True)  # (G, 1)
        usable = score.gather(1, best) >= 0

        # The pick's gradient, made orthogonal to the earlier picks
        column = best[:, :, None].expand(-1, size, 1)
        explained = (axes[:, :k].mT @ axes[:, :k].gather(2, column[:, :k])).squeeze(2)
        length = left.gather(1, best).clamp(min=torch.finfo(gram.dtype).tiny).sqrt()
        axis = (gram.gather(2, column).squeeze(2) - explained) / length * usable

        # Take its direction out of the batch's mean gradient and of every gradient
        inner = inner - axis * (inner.gather(1, best) / length)
        axes[:, k], left = axis, left - axis.square()
        place.scatter_(1, best, torch.where(usable, k, place.gather(1, best)))

    return place


class DivBS(StaticSelector):
    """Keeps, of each batch of a pass, the samples whose gradients together span its mean gradient.

    Picks are made orthogonal to each other, so that two similar ones are not both kept. The ranking has
    the first pick of every batch first, then the second of every batch. Call `prepare` with a fresh pass
    before each epoch for the published dynamic method; called once, the choice is static. Signals are not
    used, so unseen samples are treated like all others.

    Helps: redundant data at small ratios (published at 0.1). Does not help: high ratios; where a
    fresh forward of the pool costs more than the backward passes it saves.

    Cost: N B (C + D + B) multiplications and 8 N B bytes for N samples in batches of B, `together` batches
    at a time. State: 16 bytes a sample. Needs logits and features.
    Source: Hong et al., 2024, arXiv 2406.04872.
    Differs from the published code (at 33ae106): takes the largest inner product, as the paper says, where
    the code draws in proportion to it; no sample is taken twice, which the code may do once nothing is left
    to explain; batches are fixed strides through the data set; all samples are ranked.

    Args:
        batch: samples that are compared with each other, at least 2.
        together: batches worked on at once, at least 1; 2 x batch^2 floats of memory each.
    """

    needs_logits = True
    needs_features = True
    score_dtype = torch.int64

    def __init__(self, batch: int = 320, together: int = 64) -> None:
        self.batch = check_count("batch", batch, 2)
        self.together = check_count("together", together)
        super().__init__()

    def score_pass(self, train: ModelOutputs, validation: ModelOutputs | None) -> Tensor:
        """Minus the place (N,) in its batch's greedy order."""
        del validation
        features, logits = need(train, "features", self), need(train, "logits", self)
        position = train.index.argsort()  # where in the pass each sample is
        groups = math.ceil(len(position) / self.batch)

        score = torch.empty_like(position)
        for start in range(0, groups, self.together):
            rows = [position[g::groups] for g in range(start, min(start + self.together, groups))]

            # One call for several batches, padded to the same length
            padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)  # (G, B)
            member = padded >= 0
            shape = (*padded.shape, -1)
            where = padded.clamp(min=0).flatten()

            # Padding has no error and is never picked
            errors = label_errors(logits[where], train.labels[where]).view(shape) * member[:, :, None]
            places = divbs(features[where].float().view(shape), errors)
            score[padded[member]] = -places[member]

        return score
