"""Reads one image file as 8-bit colour, whatever its mode; what has no known scale is refused by name."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

THINNEST = 100  # longer side over shorter one: such an image is resized to a strip before it is cropped
SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")


def read_image(path: Path) -> "Image":
    """Read an image as mode RGB.

    8-bit, 1-bit, palette and CMYK images become RGB as by PIL, transparency is dropped. 16-bit images are
    divided by 257, floats in 0..1 multiplied by 255.

    Raises:
        ValueError: the file is empty, cut short, damaged or no image; has several frames; or values of no
            known scale. The message names it.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            frames = getattr(image, "n_frames", 1) if image.format != "MPO" else 1  # phones add a preview
            image.load()
            found = _eight_bits(image)
    except Exception as error:
        raise ValueError(f"the image {path} cannot be read: {_reason(path, error)}") from error

    if frames > 1:
        raise ValueError(f"the image {path} has {frames} frames; save each as an image of its own")
    if max(found.size) > THINNEST * min(found.size):
        width, height = found.size
        raise ValueError(f"the image {path} is {width} x {height} pixels, too thin to be resized; crop it")
    return found


def _reason(path: Path, error: Exception) -> str:
    if path.is_file() and path.stat().st_size == 0:
        return "it is empty"
    return f"{error}" if str(error) else type(error).__name__


def _eight_bits(image: "Image") -> "Image":
    """The image as RGB, scaled from what its mode holds.

    Raises:
        ValueError: its values have no known scale.
    """
    from PIL import Image

    # A 16-bit grey image: PIL would cut it at 255
    if image.mode in SIXTEEN_BITS or (image.mode == "I" and image.format in ("PNG", "PPM")):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"its values are {values.min()} to {values.max()}, expected 16 bits")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")

    if image.mode == "I":
        raise ValueError("its values are 32-bit whole numbers, which have no known scale; save 8 or 16 bits")
    if image.mode == "F":
        floats = np.asarray(image).astype(np.float64)
        if not (np.isfinite(floats).all() and floats.min() >= 0 and floats.max() <= 1):
            low, high = floats.min(), floats.max()
            raise ValueError(f"its values are floats from {low:g} to {high:g}, expected 0 to 1; save 8 bits")
        return Image.fromarray(np.rint(floats * 255).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")
