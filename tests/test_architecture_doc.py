"""The two lives of a training run in docs/architecture.md name what is called, in the order of the calls."""

import ast
import importlib
import re
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import dsenv
from tests.policy.policies import new_policy
from tests.test_house import FLOORS

pytestmark = pytest.mark.fast

FOLDER = Path(dsenv.__file__).parent
PAGE = FOLDER.parent / "docs" / "architecture.md"
TEXT = PAGE.read_text("utf-8")
PLAN, ENV = re.findall(r"```text\n(.*?)```", TEXT, flags=re.DOTALL)
NAME = re.compile(r"[A-Za-z_]\w*(?:\.\w+)+")


def phases(block):
    """The calls of each phase, by the line without indentation that it begins with.

    A phase is a table of names, each with the name that its line is indented under; None for the first one
    and below a line whose comment begins with "for ", which is a loop of the user's.
    """
    found, above = {}, []
    for line in block.splitlines():
        call, _, comment = line.partition("#")
        for name in NAME.findall(call):
            depth = len(line) - len(line.lstrip())
            above = [(other, place, is_loop) for other, place, is_loop in above if place < depth]
            if not depth:
                found[name] = phase = {}
            phase.setdefault(name, above[-1][0] if above and not above[-1][2] else None)
            above.append((name, depth, comment.strip().startswith("for ")))
    return found


# The names exist


@cache
def modules_of_classes():
    """Class name -> module, of all classes of dsenv."""
    found = {}
    for path in FOLDER.rglob("*.py"):
        module = ".".join(path.relative_to(FOLDER.parent).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef):
                found[node.name] = module
    return found


def lookup(name):
    """What a dotted name of the page means: `Class.method`, or `package.module.function`."""
    owner, _, attribute = name.rpartition(".")
    if owner[0].isupper():
        return getattr(getattr(importlib.import_module(modules_of_classes()[owner]), owner), attribute)
    return getattr(importlib.import_module(f"dsenv.{owner}"), attribute)


@pytest.mark.parametrize("block", [PLAN, ENV], ids=["plan", "environment"])
def test_every_dotted_name_exists(block):
    named = [name for names in phases(block).values() for name in names]
    assert len(named) > 40
    for name in named:
        assert callable(lookup(name)), name


def test_a_name_that_is_gone_is_found():
    with pytest.raises((AttributeError, KeyError)):
        lookup("DataPlan.look")


# The map is that of the packages


def test_the_floors_are_those_that_are_tested():
    floors, number = {}, ""
    for found, names in re.findall(r"^\| (\d?) ?\| ([`\w, ]+) \| .*\|$", TEXT, flags=re.MULTILINE):
        number = found or number
        floors.setdefault(int(number), set()).update(re.findall(r"`(\w+)`", names))
    assert floors == {number: set(names) for number, names in enumerate(FLOORS, 1)}


def test_the_modules_are_there():
    modules = re.findall(
        r"`([\w/]+(?:\.py|/))`", TEXT[TEXT.index("The main modules") : TEXT.index("## The life")]
    )
    assert len(modules) > 30
    assert [module for module in modules if not (FOLDER / module).exists()] == []


# The order is that of the calls


def calls(run):
    """First calls in `run()` of the functions of dsenv and of parts derived from its classes.

    Returns:
        By name the place of the first call, and the names of the functions that were running then.
    """
    first, running = {}, []

    def note(frame, event, _):
        module = frame.f_globals.get("__name__", "")
        if event == "return" and running and running[-1][0] is frame:
            running.pop()
        if event != "call" or not (module.startswith("dsenv.") or module == __name__):
            return
        code = frame.f_code
        if code.co_varnames[:1] in (("self",), ("cls",)):
            own = frame.f_locals[code.co_varnames[0]]
            owner = own if isinstance(own, type) else type(own)
            names = [f"{kind.__name__}.{code.co_name}" for kind in owner.__mro__]
        else:
            names = [f"{module.removeprefix('dsenv.')}.{code.co_qualname}"]
        outside = {name for _, outer in running for name in outer}
        for name in names:
            first.setdefault(name, (len(first), outside))
        running.append((frame, names))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(before)
    return first


def in_order(named, first, without=()):
    """Those of the named calls that happened; checks that they did in the order and places of the page.

    Args:
        named: the names of a phase, each with the name that it is indented under; None where that is a loop.
        first: see `calls`.
        without: names that are left out.
    """
    happened = [name for name in named if name in first and name not in without]
    assert happened == sorted(happened, key=lambda name: first[name][0])
    for name in happened:
        assert named[name] is None or named[name] in first[name][1], (name, named[name])
    return set(happened)


class OwnSelector(dsenv.Selector):
    """Ranks by a scoring pass, watches the training and sets its own number."""

    needs_pass = True

    def prepare(self, train, validation=None):
        pass

    def observe(self, batch):
        pass

    def own_count(self, signals):
        return signals.size // 2

    def select(self, signals, count, generator):
        index = signals.loss.topk(count).indices
        return dsenv.Selection(index, torch.ones(count))


class OwnController(dsenv.AugmentationController):
    """A mild augmentation that watches the training."""

    def strengths(self, signals, index, generator):
        return torch.full(index.shape, 0.1)

    def observe(self, batch):
        pass


class OwnViews(OwnController):
    """Compares a second view of each batch."""

    extra_views = 1

    def views(self, images, signals, index, generator):
        return (*super().views(images, signals, index, generator), images)

    def observe_views(self, trained, views, generator):
        pass


class OwnReward(dsenv.Reward):
    """The fall of the training loss."""

    def measure(self, inputs):
        return inputs.signals.loss.mean(1, keepdim=True)

    def compute(self, transition):
        return (transition.before - transition.after)[:, 0]


PLANS = {
    "selector and views": ({"selector": OwnSelector, "augment": OwnViews, "ratio": 0.5}, ()),
    "guarded": ({"selector": OwnSelector, "guard": True, "ratio": 0.5}, ()),
    "own count": ({"selector": OwnSelector, "augment": OwnController}, ()),
    "strength policy": ({"policy": "strength", "ratio": 0.5}, ()),
    # the runner of a policy that says how many is asked by `LearnedVolume.count` already
    "ratio policy": ({"policy": "ratio", "selector": OwnSelector, "ratio": 0.5}, ("PolicyRunner.decide",)),
}


def life_of_a_plan(choice):
    """First calls in every phase: built, second epoch, state saved, state loaded."""
    images = torch.randint(256, (40, 1, 4, 4), generator=torch.Generator().manual_seed(0)).byte()
    if "policy" in choice:
        choice = {**choice, "policy": new_policy(choice["policy"])}
    plans, kept = [], []

    def build():
        plans.append(
            dsenv.DataPlan((images, torch.arange(40) % 4), epochs=4, batch_size=8, uniform_epochs=1, **choice)
        )

    def forward(inputs):
        return torch.zeros(len(inputs), 4), torch.zeros(len(inputs), 3)

    def epoch():
        plan = plans[0]
        if plan.epoch == 1 and plan.selector.needs_pass:
            plan.score(forward)
        for batch in plan.batches():
            logits = forward(batch.inputs)[0]
            losses = F.cross_entropy(logits, batch.labels, reduction="none")
            plan.loss(batch, losses, logits=logits, forward=forward)
        plan.report_validation(0.5)

    def second_epoch():
        kept.append(plans[0].epochs_left())
        for _ in range(2):  # the body of the second epoch, and its end
            if next(kept[0]) == 1:
                epoch()

    built = calls(build)
    next(plans[0].epochs_left())
    epoch()
    plans[0].start_epoch(1)
    trained, state = calls(second_epoch), {}
    assert len(plans[0].sampler) > 0  # chooses the samples of the third epoch
    saved = calls(lambda: state.update(plans[0].state_dict()))
    build()
    loaded = calls(lambda: plans[1].load_state_dict(state))
    return [built, trained, saved, loaded]


def test_a_plan_calls_its_hooks_in_the_order_of_the_page():
    named = phases(PLAN)
    found = {phase: set() for phase in named}
    for choice, without in PLANS.values():
        for phase, first in zip(named, life_of_a_plan(choice), strict=True):
            found[phase] |= in_order(named[phase], first, without)
    for phase, names in named.items():
        assert set(names) - found[phase] == set(), phase


ENVS = {
    "Tiny-Ratio-v0": {
        "selector": OwnSelector,
        "augment": OwnController,
        "reward": OwnReward,
        "trusted_validation": False,
    },
    "Tiny-Mask-v0": {"reward": OwnReward},
}


def life_of_an_environment(name, settings):
    """First calls in every phase: built, reset, second step, snapshot taken and restored, state as data."""
    envs, states = [dsenv.load("envs", name, device="cpu", **settings)], []  # imports what is imported once
    built = calls(lambda: envs.append(dsenv.load("envs", name, device="cpu", **settings)))
    env = envs[1]
    begun = calls(lambda: env.reset(seed=0))
    action = np.zeros(env.action_space.shape, np.float32)
    env.step(action)
    stepped = calls(lambda: env.step(action))
    saved = calls(lambda: states.append(env.save_state()))
    restored = calls(lambda: env.restore_state(states[0]))
    written = calls(lambda: states.append(env.state_dict()))
    return [built, begun, stepped, saved, restored, written, calls(lambda: env.load_state_dict(states[1]))]


def test_an_environment_calls_its_hooks_in_the_order_of_the_page():
    named = phases(ENV)
    found = {phase: set() for phase in named}
    for name, settings in ENVS.items():
        for phase, first in zip(named, life_of_an_environment(name, settings), strict=True):
            found[phase] |= in_order(named[phase], first)
    for phase, names in named.items():
        assert set(names) - found[phase] == set(), phase


def test_a_page_in_another_order_is_found():
    first = {"Selector.select": (3, set()), "Selector.observe": (7, {"DataPlan.observe"})}
    page = {"Selector.select": None, "Selector.observe": "DataPlan.observe"}
    assert in_order(page, first) == set(first)
    with pytest.raises(AssertionError):
        in_order(dict(reversed(page.items())), first)
    with pytest.raises(AssertionError):
        in_order({**page, "Selector.observe": "DataPlan.loss"}, first)
