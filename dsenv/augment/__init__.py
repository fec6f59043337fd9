"""HOW STRONGLY to augment: one strength and one op for each sample, in batches on the device."""

from dsenv.augment.ada_augment import AdaAugment
from dsenv.augment.base import AugmentationController
from dsenv.augment.ent_augment import EntAugment, ent_loss
from dsenv.augment.fixed import FixedStrength, NoAugmentation
from dsenv.augment.given import GivenStrength
from dsenv.augment.influence import (
    gradient_projection,
    influence_by_projection,
    parameter_snapshot,
    parameter_update,
)
from dsenv.augment.magnitudes import MODERATE, WIDE, Magnitudes
from dsenv.augment.ops import OPS, STANDARD_OPS, apply_drawn, apply_ops, draw_ops, op_codes
from dsenv.augment.rand_augment import RandAugment
from dsenv.augment.sada import SADA
from dsenv.augment.targets import move_boxes, move_masks
from dsenv.augment.trivial import TrivialAugment

__all__ = [
    "CONTROLLERS",
    "MODERATE",
    "OPS",
    "SADA",
    "STANDARD_OPS",
    "WIDE",
    "AdaAugment",
    "AugmentationController",
    "EntAugment",
    "FixedStrength",
    "GivenStrength",
    "Magnitudes",
    "NoAugmentation",
    "RandAugment",
    "TrivialAugment",
    "apply_drawn",
    "apply_ops",
    "draw_ops",
    "ent_loss",
    "gradient_projection",
    "influence_by_projection",
    "move_boxes",
    "move_masks",
    "op_codes",
    "parameter_snapshot",
    "parameter_update",
]

CONTROLLERS: dict[str, type[AugmentationController]] = {
    "none": NoAugmentation,
    "fixed": FixedStrength,
    "given": GivenStrength,
    "trivial": TrivialAugment,
    "rand_augment": RandAugment,
    "ent_augment": EntAugment,
    "ada_augment": AdaAugment,
    "sada": SADA,
}
"""Name -> class."""
