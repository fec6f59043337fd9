"""check_selector passes the selectors of the package and good ones of one's own, and names what is wrong."""

# ruff: noqa: ARG005 -- the parts take what the contract gives them

import random
import sys
import types

import numpy as np
import pytest
import torch

from dsenv import SampleSignals, Selection, Selector, VolumeSchedule, check_selector
from dsenv.select.registry import SELECTORS
from tests.checks.parts import LargestLoss, refused

SETTINGS = {"rho_loss": {"irreducible": torch.linspace(0, 1, 40)}}


@pytest.mark.parametrize("name", SELECTORS)
def test_selectors_of_the_package_pass(name):
    assert check_selector({"name": name, **SETTINGS.get(name, {})}) is None


class Remembering(Selector):
    """Good: learns from every batch, by logits, and saves what it has learnt."""

    needs_logits = True

    def __init__(self, size):
        self.score = torch.ones(size)

    def observe(self, batch):
        self.score[batch.index] = 0.5 * self.score[batch.index] + batch.logits.max(1).values

    def select(self, signals, count, generator):
        index = torch.multinomial(self.score.softmax(0), count, generator=generator)
        return Selection(index, 1 / self.score.softmax(0)[index])

    def state_dict(self):
        return {"score": self.score.clone()}

    def load_state_dict(self, state):
        self.score = state["score"].clone()


class Counting(LargestLoss):
    """Good: has a count of its own."""

    def own_count(self, signals):
        return int((signals.loss > 0.1).sum().clamp(min=1))


def test_good_selectors_pass_in_every_form(monkeypatch):
    module = types.ModuleType("my_parts")
    module.Mine = LargestLoss
    monkeypatch.setitem(sys.modules, "my_parts", module)
    for part in (
        LargestLoss,
        LargestLoss(),
        "my_parts:Mine",
        {"name": "my_parts:Mine"},
        Remembering,
        Counting,
    ):
        check_selector(part)
    check_selector(lambda size: Remembering(size))
    check_selector(Remembering(25), signals=SampleSignals(25, 3))
    for seed in range(3):
        check_selector(Remembering, seed=seed, classes=2, features=1)


def test_a_check_leaves_part_signals_and_streams_alone():
    part, signals = Remembering(30), SampleSignals(30, 3)
    before = torch.random.get_rng_state(), random.getstate(), str(np.random.get_state())  # noqa: NPY002
    check_selector(part, signals=signals)
    assert torch.equal(part.score, torch.ones(30)) and not signals.seen.any()
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert before[1:] == (random.getstate(), str(np.random.get_state()))  # noqa: NPY002


def selecting(function, **facts):
    """A selector class with that `select`."""
    return type("Mine", (Selector,), {"select": function, **facts})


def positions(change):
    """A selector that changes good positions."""
    return selecting(lambda self, s, count, g: Selection(*change(torch.arange(count), torch.ones(count), s)))


def drawn(draw):
    """A selector whose positions come out of `draw(size)`."""
    return selecting(lambda self, s, count, g: Selection(draw(s.size, g)[:count], torch.ones(count)))


def changing(self, signals, count, generator):
    signals.loss.zero_()
    return Selection(torch.arange(count), torch.ones(count))


def unweighted(self, signals, count, generator):
    return Selection(torch.arange(count), torch.ones(signals.size))


def with_python(size, generator):
    return torch.tensor(random.sample(range(size), size))


def with_numpy(size, generator):
    return torch.from_numpy(np.random.permutation(size))  # noqa: NPY002


def with_entropy(size, generator):
    return torch.from_numpy(np.random.default_rng().permutation(size))


BAD_SELECTORS = {
    "a list": (selecting(lambda self, s, count, g: list(range(count))), "must return a Selection, got list"),
    "weights of all": (unweighted, r"weight \(40,\); both must have the shape \(M,\) = \(20,\)"),
    "int32": (positions(lambda i, w, s: (i.int(), w)), r"int64 tensor of positions, got torch.int32; use"),
    "a mask": (positions(lambda i, w, s: (i > 3, w)), r"got torch.bool; .*nonzero"),
    "double weights": (positions(lambda i, w, s: (i, w.double())), "float32 tensor, got torch.float64; use"),
    "matrices": (positions(lambda i, w, s: (i[None], w[None])), r"shape \(M,\), got \(1, 20\)"),
    "too few": (positions(lambda i, w, s: (i[1:], w[1:])), "asked for count=20 samples and chose 19"),
    "beyond": (positions(lambda i, w, s: (i + s.size - 3, w)), r"must be in 0..N-1 = 0..39, got 37..56"),
    "below": (positions(lambda i, w, s: (i - 1, w)), r"0..39, got -1..18"),
    "twice": (positions(lambda i, w, s: (i // 2, w)), r"more than once \(20 positions, 10 different ones\)"),
    "negative": (positions(lambda i, w, s: (i, -w)), r"finite and not negative, got -1.0 to -1.0"),
    "infinite": (positions(lambda i, w, s: (i, w / 0)), "finite and not negative, got inf"),
    "torch's stream": (drawn(lambda size, g: torch.randperm(size)), "global random stream of torch; draw by"),
    "numpy's stream": (drawn(with_numpy), "global random stream of numpy"),
    "python's stream": (drawn(with_python), "global random stream of random"),
    "own entropy": (drawn(with_entropy), "chose otherwise in epoch 0 with an equal generator"),
    "changed signals": (selecting(changing), r"changed the signals.loss it was given; work on a copy"),
    "two arguments": (lambda self, signals, count: None, r"TypeError.*called as select\(signals, count, gen"),
    "no flag": (selecting(LargestLoss.select, needs_logits=1), "needs_logits must be True or False, got 1"),
    "own count": (
        selecting(LargestLoss.select, own_count=lambda self, s: 0.5),
        "own_count must give None or",
    ),
    "large count": (selecting(LargestLoss.select, own_count=lambda self, s: 41), "1..N = 1..40, got 41"),
}


@pytest.mark.parametrize("name", BAD_SELECTORS)
def test_bad_selectors_are_named(name):
    part, message = BAD_SELECTORS[name]
    part = part if isinstance(part, type) else selecting(part)
    refused(check_selector, part, "Mine.*" + message)


class NeedsLogits(Remembering):
    needs_logits = False


class NeedsFeatures(LargestLoss):
    def observe(self, batch):
        batch.features.mean()


class NeedsBoth(LargestLoss):
    def observe(self, batch):
        return batch.features.mean() + batch.logits.mean()


class NeedsPass(LargestLoss):
    def prepare(self, train, validation=None):
        self.score = train.loss[train.index.argsort()]

    def select(self, signals, count, generator):
        return Selection(self.score.topk(count).indices, torch.ones(count))

    def state_dict(self):
        return {"score": self.score}

    def load_state_dict(self, state):
        self.score = state["score"]


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (NeedsLogits, r"NeedsLogits.observe raised AttributeError.*declare needs_logits = True in the class"),
        (NeedsFeatures, r"declare needs_features = True"),
        (NeedsBoth, r"declare needs_logits = True and needs_features = True"),
        (NeedsPass, r"NeedsPass.select raised AttributeError.*declare needs_pass = True"),
    ],
)
def test_undeclared_needs_are_named(part, message):
    refused(check_selector, part, message)
    facts = {fact: True for fact in ("needs_pass", "needs_logits", "needs_features") if fact in message}
    assert check_selector(type("Declared", (part,), facts)) is None


def test_an_error_that_no_output_heals_is_told_as_it_is():
    refused(
        check_selector, selecting(lambda self, s, c, g: 1 / 0), r"Mine.select raised ZeroDivisionError: .*\)$"
    )


class Forgetful(Remembering):
    def load_state_dict(self, state):
        pass


class Silent(Remembering):
    def state_dict(self):
        return {}


class Shared(Remembering):
    def state_dict(self):
        return {"score": self.score}


class Strange(Remembering):
    def state_dict(self):
        return {"score": self.score.clone(), "self": self}


class NoTable(Remembering):
    def state_dict(self):
        return [self.score]


class NoLoad(Remembering):
    load_state_dict = Selector.load_state_dict


class Globally(LargestLoss):
    def __init__(self):
        self.net = torch.nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (
            Forgetful,
            "with the state of another one selects otherwise: .* load_state_dict does not take it in",
        ),
        (Silent, "raised KeyError.* cannot load what state_dict gave"),
        (NoLoad, r"load_state_dict raised ValueError.*write load_state_dict\(state\)"),
        (Shared, r"state_dict\(\)\['score'\] changed when the part went on; return a copy"),
        (Strange, r"what torch.load\(weights_only=True\) does not read"),
        (NoTable, "must return a table, got list"),
        (Globally, "building Globally draws from the global random stream of torch"),
    ],
)
def test_bad_states_are_named(part, message):
    refused(check_selector, part, message)


class NoSelect(Selector):
    pass


class OwnArgument(LargestLoss):
    def __init__(self, threshold):
        self.threshold = threshold


class Uncopied(LargestLoss):
    def __init__(self):
        self.lines = (line for line in "ab")


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (3, "a selector must be of a class derived from dsenv.Selector, got int; give such an"),
        (VolumeSchedule, "a selector must be of a class derived from dsenv.Selector, got VolumeSchedule"),
        ([LargestLoss], "a selector must be of a class derived from dsenv.Selector, got list"),
        ("ifobatch", "Did you mean 'infobatch'"),
        ("no_such_module:Mine", "is its folder on PYTHONPATH"),
        (NoSelect, "NoSelect cannot be built.*abstract"),
        (OwnArgument, r"needs the argument 'threshold'.*check_selector\(OwnArgument\(threshold=...\)\)"),
        (Uncopied(), "Uncopied cannot be copied"),
        (lambda: 3, "must be a Selector, got int"),
    ],
)
def test_what_is_no_selector_is_named(part, message):
    refused(check_selector, part, message)


def test_signals_of_replicas_are_refused():
    refused(
        check_selector,
        LargestLoss,
        r"those of 2; give signals.of_replica\(0\)",
        signals=SampleSignals(9, 3, 2),
    )
