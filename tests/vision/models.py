"""Torchvision's detection models on a tiny backbone, without weights."""

from typing import Any

import torch
from torch import nn


def backbone(levels: Any = 32) -> nn.Sequential:
    """Two convolutions of stride 2, 32 channels."""
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 32, 3, 2, 1), nn.ReLU()]
    found = nn.Sequential(*layers)
    found.out_channels = levels
    return found


def model(name: str, seed: int = 0, side: int = 64) -> nn.Module:
    """A model of two classes and background, in training mode; all proposals are taken, none is drawn."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return built(name, side)


def built(name: str, side: int) -> nn.Module:
    """The same, from torch's global stream."""
    from torchvision.models import detection
    from torchvision.models.detection import ssd
    from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
    from torchvision.models.detection.faster_rcnn import TwoMLPHead
    from torchvision.ops import MultiScaleRoIAlign

    sizes = {"min_size": side, "max_size": side, "num_classes": 3}
    anchors = AnchorGenerator(((8, 16, 32),), ((0.5, 1.0, 2.0),))
    rcnn = {
        "rpn_anchor_generator": anchors,
        "box_roi_pool": MultiScaleRoIAlign(["0"], 3, 2),
        "box_head": TwoMLPHead(32 * 9, 32),
        "rpn_pre_nms_top_n_train": 40,
        "rpn_post_nms_top_n_train": 20,
        "rpn_batch_size_per_image": 100_000,
        "box_batch_size_per_image": 100_000,
    }
    predictor = detection.faster_rcnn.FastRCNNPredictor(32, 3)
    masks = {
        "mask_roi_pool": MultiScaleRoIAlign(["0"], 6, 2),
        "mask_head": detection.mask_rcnn.MaskRCNNHeads(32, (16,), 1),
        "mask_predictor": detection.mask_rcnn.MaskRCNNPredictor(16, 16, 3),
    }
    open_sizes = {"min_size": side, "max_size": side, "box_predictor": predictor}
    defaults = DefaultBoxGenerator([[2]], scales=[0.2, 0.4])
    one = AnchorGenerator(((8,),), ((1.0,),))
    table = {
        "faster": lambda: detection.FasterRCNN(backbone(), None, **rcnn, **open_sizes),
        "mask": lambda: detection.MaskRCNN(backbone(), None, **rcnn, **open_sizes, **masks),
        "retina": lambda: detection.RetinaNet(backbone(), anchor_generator=anchors, **sizes),
        "fcos": lambda: detection.FCOS(backbone(), anchor_generator=one, **sizes),
        "ssd": lambda: ssd.SSD(backbone([32]), defaults, (side, side), 3),
    }
    return table[name]()


MODELS = ("faster", "mask", "retina", "fcos", "ssd")
