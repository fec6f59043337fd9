"""HOW STRONGLY to augment: one strength and one op for each sample, in batches on the device."""

import inspect
from typing import Any

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
from dsenv.augment.ops import OPS, STANDARD_OPS, apply_ops, draw_ops, op_codes
from dsenv.augment.rand_augment import RandAugment
from dsenv.augment.sada import SADA
from dsenv.augment.trivial import TrivialAugment
from dsenv.errors import check_keywords, pick
from dsenv.signals import SampleSignals

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
    "apply_ops",
    "draw_ops",
    "ent_loss",
    "gradient_projection",
    "influence_by_projection",
    "make_controller",
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


def make_controller(name: str, signals: SampleSignals, **settings: Any) -> AugmentationController:
    """Build a controller by name, for the samples of `signals`.

    Args:
        name: a key of `CONTROLLERS`.
        signals: gives size, classes and device to the controllers that remember samples.
        settings: the controller's other keyword arguments.
    """
    kind = CONTROLLERS[pick("augmentation controller", name, CONTROLLERS)]
    known = {"size": signals.size, "classes": signals.classes, "device": signals.device}
    taken = inspect.signature(kind).parameters
    given: dict[str, Any] = {key: value for key, value in known.items() if key in taken} | settings
    check_keywords(name, kind, given)
    return kind(**given)
