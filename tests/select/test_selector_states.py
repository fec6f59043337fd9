"""States of all selectors: plain data, checked as a whole, and nothing changes where one is refused."""

import copy
import inspect
import io
from typing import Any

import pytest
import torch
from torch import Tensor

from dsenv.catalogue import build_part
from dsenv.outputs import ModelOutputs
from dsenv.select.base import Selector
from dsenv.select.data_agent import DataAgent
from dsenv.select.glister import Glister
from dsenv.select.ranked import Ranked
from dsenv.select.registry import SELECTORS
from dsenv.select.ucb import UCB
from dsenv.signals import SampleSignals

pytestmark = pytest.mark.fast

SIZE, CLASSES, WIDTH = 24, 3, 4
NAMES = [*SELECTORS, "ranked by margin", "data_agent released"]
SETTINGS: dict[str, dict[str, Any]] = {
    "ranked by margin": {"name": "ranked", "by": "margin"},
    "data_agent released": {"name": "data_agent", "config": {"variant": "released", "rollout": 2}},
    "data_agent": {"name": "data_agent", "config": {"rollout": 2, "hidden": 4}},
    "rho_loss": {"name": "rho_loss", "irreducible": torch.linspace(0, 1, SIZE)},
}


def build(name: str, **more: Any) -> Selector:
    table = {"name": name, **SETTINGS.get(name, {}), **more}
    selector: Selector = build_part("selector", SELECTORS, table, {}, Selector)
    return selector


def outputs(seed: int, index: Tensor | None = None, size: int = SIZE) -> ModelOutputs:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(size, CLASSES, generator=generator)
    features = torch.randn(size, WIDTH, generator=generator)
    labels = torch.arange(size) % CLASSES
    loss = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    index = torch.arange(size) if index is None else index
    return ModelOutputs(index, labels[index], loss[index], logits[index], features[index])


def trained(name: str) -> Selector:
    selector, signals = build(name), SampleSignals(SIZE, CLASSES)
    if selector.needs_pass:
        selector.prepare(outputs(0), outputs(1, size=9))
    for step in range(3):
        chosen = selector.select(signals, SIZE // 2, torch.Generator().manual_seed(step)).index
        batch = outputs(step, chosen)
        selector.observe(batch)
        assert batch.logits is not None
        signals.update(chosen, batch.loss, batch.logits, batch.labels, step)
    return selector


def plain(value: Any) -> Any:
    """A state as text that tells every bit of it."""
    if isinstance(value, Tensor):
        return str(value.dtype), tuple(value.shape), value.cpu().numpy().tobytes()
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list | tuple) else value


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of everything inside a state."""
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list | tuple):
        inner = list(enumerate(value))
    else:
        return [path]
    return [path, *(place for key, part in inner for place in places(part, (*path, key)))]


def with_part(state: Any, path: tuple[Any, ...], part: Any) -> Any:
    """A copy of a state in which what lies at `path` is another; `...` takes it out."""
    if not path:
        return part
    key, *rest = path
    if isinstance(state, dict):
        found = dict(state)
        found[key] = with_part(state[key], tuple(rest), part)
        return {name: value for name, value in found.items() if value is not ...}
    rows = list(state)
    rows[key] = with_part(rows[key], tuple(rest), part)
    return [row for row in rows if row is not ...]


@pytest.mark.parametrize("name", NAMES)
def test_a_state_is_plain_data_and_goes_into_a_fresh_selector(name: str) -> None:
    selector, file = trained(name), io.BytesIO()
    torch.save(selector.state_dict(), file)
    file.seek(0)
    fresh = build(name)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert plain(fresh.state_dict()) == plain(selector.state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_a_state_with_anything_else_in_it_is_refused_and_changes_nothing(name: str) -> None:
    selector = trained(name)
    good = selector.state_dict()
    other = build(name)
    fresh, before = plain(other.state_dict()), plain(good)
    bad: list[Any] = [None, 3, "state", [], {**good, "unknown": 1}]

    for number, path in enumerate(places(good)):
        held = good
        for key in path:
            held = held[key]
        is_deep = path[:2] in (("learner", "networks"), ("learner", "optimizer"))
        if not path or (is_deep and (name == "data_agent released" or number % 4)):  # of many alike, some
            continue
        wrong = [print, torch.zeros(2, 2, 2, dtype=torch.int16)]
        wrong += [] if path[:2] == ("learner", "visits") and len(path) == 3 else [...]
        wrong += [held.double(), held[..., None]] if isinstance(held, Tensor) else []
        wrong += [-1, 0.5, True] if type(held) is int and path[0] != "settings" else []
        bad += [with_part(good, path, part) for part in wrong[: 1 if is_deep else None]]

    for state in bad:
        if isinstance(state, dict) and plain(state) == before:
            continue
        for target, kept in ((selector, before), (other, fresh)):
            with pytest.raises(ValueError, match=r"state|seen|samples|length"):
                target.load_state_dict(copy.deepcopy(state))
            assert plain(target.state_dict()) == kept


@pytest.mark.parametrize(
    ("one", "other", "key"),
    [
        (UCB(alpha=0.5), UCB(alpha=0.6), r"settings\.alpha"),
        (Glister(eta=0.1), Glister(eta=0.2), r"settings\.eta"),
        (Ranked("margin"), Ranked("margin", "easiest"), r"settings\.keep"),
        (Ranked("margin"), Ranked("loss"), "settings"),
        (DataAgent({"clip": 0.1}), DataAgent(), r"settings\.config\.clip"),
        (DataAgent(seed=1), DataAgent(), r"settings\.seed"),
    ],
)
def test_a_state_of_other_settings_is_refused_by_name(one: Selector, other: Selector, key: str) -> None:
    with pytest.raises(ValueError, match=key):
        other.load_state_dict(one.state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_settings_hold_every_argument_and_nothing_learnt(name: str) -> None:
    before, after = build(name).settings(), trained(name).settings()
    assert plain(before) == plain(after)
    assert set(inspect.signature(type(build(name))).parameters) == set(before)
