"""Small data for rehearsals."""

import torch


def blobs(size=120, classes=3, features=6, noise=0.0, seed=0):
    """Well-separated classes, a share of whose labels is another class: inputs, given and right labels."""
    draw = torch.Generator().manual_seed(seed)
    right = torch.arange(size) % classes
    centres = 4 * torch.eye(classes, features)
    inputs = centres[right] + torch.randn(size, features, generator=draw)
    wrong = torch.rand(size, generator=draw) < noise
    shift = torch.randint(1, classes, (size,), generator=draw)
    return inputs, torch.where(wrong, (right + shift) % classes, right), right


MLP = {"name": "mlp", "hidden": [8]}
RECIPE = {"lr": 0.1, "batch_size": 16}
