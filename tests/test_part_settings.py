"""Settings of every selector, schedule and controller: checked by name, kept as Python's own, described."""

import inspect
from typing import Any

import numpy as np
import pytest
import torch

from dsenv.augment import CONTROLLERS, Magnitudes
from dsenv.augment.base import AugmentationController
from dsenv.catalogue import build_part
from dsenv.describe import describe
from dsenv.select.base import Selector
from dsenv.select.data_agent_config import DataAgentConfig
from dsenv.select.registry import SELECTORS
from dsenv.signals import SampleSignals
from dsenv.volume.base import VolumeSchedule
from dsenv.volume.registry import SCHEDULES

pytestmark = pytest.mark.fast

KINDS: dict[str, tuple[Any, type]] = {
    "selector": (SELECTORS, Selector),
    "volume": (SCHEDULES, VolumeSchedule),
    "augment": (CONTROLLERS, AugmentationController),
}
GIVEN: dict[str, dict[str, Any]] = {
    "selector": {},
    "volume": {"target": 0.5},
    "augment": {"size": 10, "classes": 3},
}
NEEDED: dict[str, dict[str, Any]] = {
    "rho_loss": {"irreducible": torch.arange(3.0)},
    "ada_augment": {"features": 4, "epochs": 3},
}
PARTS = [(kind, name) for kind, (registry, _) in KINDS.items() for name in registry]
WRONG = (True, "text", float("nan"), float("inf"), -1, 1j, [1], {}, torch.zeros(2), np.zeros(2), object())
NONE_ALLOWED = (
    "size",
    "features",
    "share",
    "swing",
    "low",
    "high",
    "high_length",
    "warm_up",
    "planned",
    "rate",
)
NUMBERS: dict[str, Any] = {  # each setting of a number, at a value that is allowed and not its default
    "beta": 0.5, "strata": 7, "batch": 9, "together": 3, "epsilon": 0.25, "alpha": 0.5, "budget": 0.5,
    "group": 2, "eta": 0.5, "keep": 0.25, "max_prune": 0.5, "share": 0.5, "visits": 3, "c": 2.0, "seed": 3,
    "size": 10, "features": 4, "target": 0.5, "swing": 0.25, "low": 0.25, "high": 0.75, "high_length": 2.0,
    "warmup": 2, "tail": 0.25, "stages": 4, "strength": 0.25, "ramp_epochs": 2, "ops_per_sample": 3,
    "warm_up": 5, "epochs": 5, "learning_rate": 0.5, "window": 5, "ema": 0.5, "clip": 0.25, "classes": 3,
    "rate": 0.25, "confident": 0.25, "least": 0.25,
}  # fmt: skip
CONFIG: dict[str, Any] = {
    "hidden": 8, "lr": 0.5, "weight_decay": 0.25, "clip": 0.5, "passes": 2, "rollout": 3, "entropy": 0.5,
    "quantile": 0.5, "explore": 0.25, "age_decay": 0.5, "warmup": 2, "planned": 7, "anneal": 0.5,
}  # fmt: skip
MAGNITUDES: dict[str, Any] = {
    "shear": 0.5, "translate": 0.5, "rotate": 45.0, "enhance": 0.5, "posterize": 2, "cutout": 0.25,
}  # fmt: skip


def build(kind: str, name: str, **settings: Any) -> Any:
    registry, base = KINDS[kind]
    table = {"name": name, **NEEDED.get(name, {}), **settings}
    return build_part(kind, registry, table, GIVEN[kind], base)


def arguments(kind: str, name: str) -> list[str]:
    """Constructor arguments of a part, without those that go on to its base."""
    parameters = inspect.signature(type(build(kind, name))).parameters.values()
    return [p.name for p in parameters if p.kind is not p.VAR_KEYWORD and p.name != "device"]


def numbers_of(kind: str, name: str) -> list[str]:
    named = {"keep"} if name in ("ranked", "el2n") else set()  # text there
    return [setting for setting in arguments(kind, name) if setting in NUMBERS and setting not in named]


CASES = [(kind, name, setting) for kind, name in PARTS for setting in numbers_of(kind, name)]


def test_every_setting_of_a_part_is_known_to_these_tests() -> None:
    others = {"by", "keep", "prototype", "bias", "recorded", "irreducible", "config", "estimator", "reverse"}
    others |= {"scores"}
    assert {setting for kind, name in PARTS for setting in arguments(kind, name)} <= others | set(NUMBERS)
    assert set(CONFIG) == set(DataAgentConfig.__dataclass_fields__) - {"variant"}
    assert set(MAGNITUDES) == set(Magnitudes.__dataclass_fields__)


def test_text_true_nan_and_the_like_are_refused_by_name() -> None:
    for kind, name, setting in CASES:
        allowed = [-1] if setting in ("swing",) else []
        for value in (*WRONG, *(() if setting in NONE_ALLOWED else (None,))):
            if any(value is one for one in allowed):
                continue
            with pytest.raises(ValueError, match=rf"\b{setting}\b"):
                build(kind, name, **{setting: value})
                pytest.fail(f"{name}({setting}={value!r}) is taken")


def test_flags_names_and_tables_are_refused_by_name() -> None:
    for kind, name, setting in [
        ("selector", "grand", "bias"),
        ("augment", "sada", "reverse"),
        ("augment", "sada", "estimator"),
        ("selector", "moderate", "prototype"),
        ("selector", "ranked", "keep"),
        ("selector", "ranked", "by"),
        ("selector", "small_loss", "by"),
        ("selector", "infobatch", "scores"),
        ("selector", "data_agent", "config"),
        ("selector", "forgetting", "recorded"),
        ("selector", "rho_loss", "irreducible"),
        ("augment", "trivial", "ops"),
        ("augment", "trivial", "magnitudes"),
        ("augment", "given", "device"),
    ]:
        word = {"by": "to rank by", "keep": "end to keep"}.get(setting, setting)
        for value in (1, "nonsense", object(), float("nan"), [object()], np.array(["a", "b"])):
            if setting == "device" and isinstance(value, int):  # the number of a GPU
                continue
            with pytest.raises(ValueError, match=word if setting != "ops" else r"op"):
                build(kind, name, **{setting: value})
                pytest.fail(f"{name}({setting}={value!r}) is taken")


@pytest.mark.parametrize(("make", "table"), [(DataAgentConfig, CONFIG), (Magnitudes, MAGNITUDES)])
def test_tables_of_settings_are_checked_and_kept_alike(make: Any, table: dict[str, Any]) -> None:
    for setting, value in table.items():
        for wrong in (*WRONG, *(() if setting == "planned" else (None,))):
            with pytest.raises(ValueError, match=rf"\b{setting}\b"):
                make(**{setting: wrong})
                pytest.fail(f"{setting}={wrong!r} is taken")
        kept = getattr(make(**{setting: np.array(value)[()]}), setting)
        assert kept == value and type(kept) is type(value)


def test_numbers_of_numpy_become_pythons_own() -> None:
    for kind, name, setting in CASES:
        value = NUMBERS[setting]
        kept = getattr(build(kind, name, **{setting: np.array(value)[()]}), setting)
        assert kept == value and type(kept) is type(value), (name, setting)


def test_an_irreducible_loss_that_is_not_finite_is_named() -> None:
    losses = torch.tensor([0.0, float("nan"), 1.0, float("inf")])
    with pytest.raises(ValueError, match=r"2 samples, at positions \[1, 3\]"):
        build("selector", "rho_loss", irreducible=losses)


def test_settings_hold_every_argument_by_value() -> None:
    for kind, name in PARTS:
        part = build(kind, name)
        assert set(arguments(kind, name)) <= set(part.settings()), name
        assert part.settings() == build(kind, name).settings()
        assert describe(part) == {
            "type": f"{type(part).__module__}.{type(part).__qualname__}",
            **part.settings(),
        }

    for kind, name, setting in CASES:
        other = build(kind, name, **{setting: NUMBERS[setting]}).settings()
        assert other[setting] == NUMBERS[setting], (name, setting)


def test_settings_tell_tensors_tables_and_signals_apart() -> None:
    def rho(last: float) -> Any:
        return build("selector", "rho_loss", irreducible=torch.tensor([0.0, 1.0, last])).settings()

    assert rho(2.0) == rho(2.0) != rho(3.0)

    def recorded(events: int) -> Any:
        signals = SampleSignals(3, 2)
        signals.forgetting_events[0] = events
        return build("selector", "forgetting", recorded=signals).settings()

    assert recorded(1) == recorded(1) != recorded(2)
    strong, weak = (build("augment", "sada", magnitudes=Magnitudes(rotate=r)) for r in (30.0, 60.0))
    assert strong.settings() == build("augment", "sada").settings() != weak.settings()
    assert build("augment", "trivial", ops=["rotate"]).settings()["ops"] == ["rotate"]
