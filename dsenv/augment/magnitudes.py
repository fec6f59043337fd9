"""How far strength 1 goes, for each op."""

from dataclasses import dataclass

from dsenv.errors import check_count, check_number, check_share

ROTATE_LIMIT = 180.0  # degrees
BITS_LIMIT = 7  # posterize must leave one bit, or every image turns black


@dataclass(frozen=True, kw_only=True)
class Magnitudes:
    """What an op does at strength 1; at strength 0 every op is the identity, and between them it is linear.

    The defaults are RandAugment's ranges (arXiv 1909.13719; translations of 10 pixels of 32 as a share of the
    side, where torchvision takes 150/331 of it) with enhancements mirrored around 1, posterize counted from 8
    bits down and solarize's threshold from 256 down (torchvision: 255, which inverts white at strength 0), so
    that every op grows with strength. The space that the published code of
    EntAugment and AdaAugment uses does not: its weakest brightness is nearly black and its strongest
    posterize leaves 0 bits.
    """

    shear: float = 0.3
    """Shift of a pixel per pixel of distance from the edge, >= 0."""
    translate: float = 10 / 32
    """Share of the image's width or height, in [0, 1]."""
    rotate: float = 30.0
    """Degrees, in [0, 180]."""
    enhance: float = 0.9
    """Brightness, color, contrast and sharpness get the factor 1 +- this, in [0, 1]."""
    posterize: int = 4
    """Bits removed of 8, in 0..7."""
    cutout: float = 0.5
    """Side of the square as a share of the image's shorter side, in [0, 1]."""

    def __post_init__(self) -> None:
        checked: dict[str, float] = {
            "shear": check_number("shear", self.shear, 0),  # the direction is drawn at random
            "rotate": check_number("rotate", self.rotate, 0, ROTATE_LIMIT),
            "posterize": check_count("posterize", self.posterize, 0, BITS_LIMIT),
        }
        for name in ("translate", "enhance", "cutout"):
            checked[name] = check_share(name, getattr(self, name), zero=True)
        for name, value in checked.items():
            object.__setattr__(self, name, value)


MODERATE = Magnitudes()
WIDE = Magnitudes(shear=0.99, translate=1.0, rotate=135.0, enhance=0.99, posterize=6)
"""TrivialAugment's wide space (arXiv 2103.10158); 32 pixels of translation read as the whole width."""
