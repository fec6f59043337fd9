"""Controllers by name, for the samples of some signals."""

from typing import Any

from dsenv.augment import CONTROLLERS, AugmentationController
from dsenv.catalogue import build_part
from dsenv.signals import SampleSignals


def controller_for(signals: SampleSignals, name: str, **settings: Any) -> AugmentationController:
    """As an environment builds it for one replica."""
    known = {"size": signals.size, "classes": signals.classes, "device": signals.device}
    choice = {"name": name, **settings}
    controller: AugmentationController = build_part(
        "augment", CONTROLLERS, choice, known, AugmentationController
    )
    return controller
