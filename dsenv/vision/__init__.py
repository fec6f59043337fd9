"""Detection and segmentation with torchvision: the loss of each image, boxes and masks."""

from dsenv.vision.losses import detection_losses

__all__ = ["detection_losses"]
