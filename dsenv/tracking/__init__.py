"""What a person sees of a training run: names of curves, pictures, and the layout in TensorBoard."""

from dsenv.tracking.constant import Changing
from dsenv.tracking.names import (
    BY_BIN,
    IMAGES,
    SHARE,
    STRENGTH,
    TRAIN_ACCURACY,
    VALIDATION_ACCURACY,
    WRONG,
)

__all__ = [
    "BY_BIN", "IMAGES", "SHARE", "STRENGTH", "TRAIN_ACCURACY", "VALIDATION_ACCURACY", "WRONG", "Changing",
]  # fmt: skip
