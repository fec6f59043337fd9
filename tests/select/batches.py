"""Random training batches for tests of selectors."""

import torch

from dsenv.outputs import ModelOutputs


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_batch(size: int = 64, classes: int = 7, features: int = 5, seed: int = 0) -> ModelOutputs:
    g = stream(seed)
    logits = 3 * torch.randn(size, classes, generator=g)
    labels = torch.randint(classes, (size,), generator=g)
    loss = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    index = torch.randperm(size, generator=g)
    return ModelOutputs(index, labels, loss, logits, torch.randn(size, features, generator=g))
