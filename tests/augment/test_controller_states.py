"""States of all controllers: plain data, checked as a whole, and nothing changes where one is refused."""

import copy
import io
from typing import Any

import pytest
import torch

from dsenv.augment import CONTROLLERS, SADA, AugmentationController, EntAugment, FixedStrength
from tests.augment.test_controllers import build, forward, rng, run, signals_after
from tests.select.test_selector_states import places, plain, with_part

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("name", CONTROLLERS)
def test_a_state_goes_through_a_file_and_anything_else_is_refused(name: str) -> None:
    controller, other = build(name), build(name)
    run(controller, 3)
    good, file = controller.state_dict(), io.BytesIO()
    before, fresh = plain(good), plain(other.state_dict())
    bad: list[Any] = [None, 3, [], {}, {**good, "unknown": 1}]

    for number, path in enumerate(places(good)):
        held = good
        for key in path:
            held = held[key]
        if path and (len(path) < 3 or not number % 5):
            wrong = [..., print, torch.zeros(2, 2, 2, dtype=torch.int16)]
            wrong += [held[..., None]] if isinstance(held, torch.Tensor) else []
            wrong += [-1, True] if path == ("epoch",) else []
            bad += [with_part(good, path, part) for part in wrong]

    for state in bad:
        for target, kept in ((controller, before), (other, fresh)):
            with pytest.raises(ValueError, match=f"this is no state of {type(controller).__name__}"):
                target.load_state_dict(copy.deepcopy(state))
            assert plain(target.state_dict()) == kept

    torch.save(good, file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert plain(other.state_dict()) == before


@pytest.mark.parametrize(
    ("one", "other", "key"),
    [
        (FixedStrength(0.5), FixedStrength(0.6), "strength"),
        (EntAugment(3), EntAugment(4), "warm_up"),
        (EntAugment(ops=["rotate"]), EntAugment(), "ops"),
        (SADA(3, 2, ema=0.5), SADA(3, 2), "ema"),
    ],
)
def test_a_state_of_other_settings_is_refused_by_name(
    one: AugmentationController, other: AugmentationController, key: str
) -> None:
    with pytest.raises(ValueError, match=rf"settings\.{key}"):
        other.load_state_dict(one.state_dict())


@pytest.mark.parametrize("name", CONTROLLERS)
def test_what_is_learnt_is_no_setting(name: str) -> None:
    controller = build(name)
    before = controller.settings()
    run(controller, 2)
    signals = signals_after(torch.randn(60, 5, generator=rng()))
    controller.strengths(signals, torch.arange(60), rng())
    assert controller.settings() == before == build(name).settings()


class Counting(EntAugment):
    """A controller of one's own that saves more than its base."""

    def __init__(self) -> None:
        super().__init__()
        self.last: torch.Tensor | None = None

    def observe(self, batch: Any) -> None:
        self.last = batch.loss

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), **({} if self.last is None else {"last": self.last.clone()})}

    def load_state_dict(self, state: Any) -> None:
        super().load_state_dict(state)
        self.last = state.get("last")


def test_what_a_subclass_saves_beside_is_left_to_it() -> None:
    one, other = Counting(), Counting()
    one.observe(forward(0))
    other.load_state_dict(one.state_dict())
    assert one.last is not None and other.last is not None and torch.equal(one.last, other.last)
    with pytest.raises(ValueError, match="'epoch' is missing"):
        other.load_state_dict({"settings": one.settings()})
