"""GraNd: samples with the largest gradient in the last linear layer."""

import torch
from torch import Tensor

from dsenv.errors import check_flag
from dsenv.outputs import ModelOutputs
from dsenv.select.ranking import StaticSelector, chunks, need
from dsenv.task_kinds.classification import label_errors


def last_layer_grad_norm(features: Tensor, logits: Tensor, labels: Tensor, bias: bool = True) -> Tensor:
    """Exact norm (B,) of each sample's cross-entropy gradient in the last linear layer.

    The gradient is the outer product of softmax - onehot and (feature, 1), so its norm is the
    product of their norms.

    Args:
        features: (B, D) inputs of the layer.
        logits: (B, C) its outputs.
        labels: (B,) int64.
        bias: the layer has a bias.
    """
    norms = [
        label_errors(logits[part], labels[part]).norm(dim=1)
        * (features[part].float().square().sum(1) + float(bias)).sqrt()
        for part in chunks(len(labels))
    ]
    return torch.cat(norms)


class GraNd(StaticSelector):
    """Keeps the samples with the largest loss gradient in the last layer.

    Helps: clean, redundant data at high ratios. Does not help: wrong labels, whose gradients are the
    largest, and small ratios, where it loses to random.

    Each call of `prepare` adds one pass to a mean. The paper averages passes of ten differently
    initialised models after a few epochs. Signals are not used, so unseen samples are treated like all
    others.

    Cost: O(N (C + D)) a pass. State: 16 bytes a sample. Needs logits and features.
    Source: Paul et al., 2021, arXiv 2107.07075; the last layer only, as in DeepCore (arXiv 2204.08499).
    Differs from DeepCore (at 74ec709): the caller decides when the pass is made, there it follows all
    pre-training epochs; each norm is that of one sample's loss, there it carries 1 / batch size, so that a
    short last batch ranks too high.

    Args:
        bias: the last linear layer has a bias.
    """

    needs_logits = True
    needs_features = True
    score_dtype = torch.float32
    averages_passes = True

    def __init__(self, bias: bool = True) -> None:
        self.bias = check_flag("bias", bias)
        super().__init__()

    def score_pass(self, train: ModelOutputs, validation: ModelOutputs | None) -> Tensor:
        """Gradient norm (N,) of each sample."""
        del validation
        features, logits = need(train, "features", self), need(train, "logits", self)
        return last_layer_grad_norm(features, logits, train.labels, self.bias)
