"""check_controller passes the controllers of the package and good ones of one's own, and names faults."""

# ruff: noqa: ARG005 -- the parts take what the contract gives them

import numpy as np
import pytest
import torch

from dsenv import AugmentationController, check_controller
from dsenv.augment import CONTROLLERS
from tests.checks.parts import LargestLoss, refused


@pytest.mark.parametrize("name", CONTROLLERS)
def test_controllers_of_the_package_pass(name):
    assert check_controller(name) is None


@pytest.mark.parametrize("estimator", ["loss", "tdds", "projection"])
def test_every_estimator_of_sada_passes(estimator):
    check_controller({"name": "sada", "estimator": estimator})


class ByConfidence(AugmentationController):
    """Good: a pure function of the signals."""

    def strengths(self, signals, index, generator):
        return signals.confidence[index]


class ByLogits(AugmentationController):
    """Good: remembers, by logits."""

    needs_logits = True

    def __init__(self, size):
        super().__init__(ops=("rotate", "identity"))
        self._memory["strength"] = torch.zeros(size)

    def strengths(self, signals, index, generator):
        return self._memory["strength"][index]

    def observe(self, batch):
        self._memory["strength"][batch.index] = batch.logits.softmax(1).max(1).values


class TwoViews(AugmentationController):
    """Good: compares a further view."""

    extra_views = 1

    def __init__(self):
        super().__init__()
        self._memory["level"] = torch.tensor(0.5)

    def strengths(self, signals, index, generator):
        return self._memory["level"].expand(len(index)).clone()

    def views(self, images, signals, index, generator):
        return self.augment(images, signals, index, generator), images

    def observe_views(self, trained, views, generator):
        (plain,) = views
        self._memory["level"] = (trained.loss - plain.loss).mean().sigmoid()


class Told(AugmentationController):
    """Good: somebody else writes `strength`."""

    takes_strengths = True

    def __init__(self, size):
        super().__init__()
        self._memory["strength"] = torch.zeros(size)

    @property
    def strength(self):
        return self._memory["strength"]

    def strengths(self, signals, index, generator):
        return self.strength[index]


@pytest.mark.parametrize("part", [ByConfidence, ByConfidence(), ByLogits, TwoViews, Told])
def test_good_controllers_pass(part):
    assert check_controller(part) is None


def strong(function):
    """A controller class with those strengths."""
    return type("Mine", (AugmentationController,), {"strengths": function})


def augmenting(function, base=ByConfidence):
    """A controller class with that `augment`."""
    return type("Mine", (base,), {"augment": lambda self, images, signals, index, g: function(images, g)})


def in_place(images, generator):
    return images.fill_(0)


class NoSuper(ByConfidence):
    def __init__(self):
        pass


class Uncounted(ByConfidence):
    def end_epoch(self):
        pass


class Undeclared(ByLogits):
    needs_logits = False


class Lossy(ByLogits):
    def state_dict(self):
        return {"epoch": self.epoch}

    def load_state_dict(self, state):
        self.epoch = state["epoch"]


class OneView(TwoViews):
    def views(self, images, signals, index, generator):
        return (images,)


class FloatViews(TwoViews):
    def views(self, images, signals, index, generator):
        return images, images.float()


BAD_CONTROLLERS = {
    "too strong": (strong(lambda self, s, i, g: 1 + s.confidence[i]), r"in \[0, 1\], got 1.25 to 1.25; use"),
    "negative": (strong(lambda self, s, i, g: -s.confidence[i]), r"in \[0, 1\], got -0.25"),
    "nan": (strong(lambda self, s, i, g: s.confidence[i] / 0 * 0), r"in \[0, 1\], got nan"),
    "of all": (strong(lambda self, s, i, g: s.confidence), r"\(8,\), got \(40,\); .*take strength\[index\]"),
    "a number": (strong(lambda self, s, i, g: 0.5), "float32 tensor, got float"),
    "double": (strong(lambda self, s, i, g: s.confidence[i].double()), "float32 tensor, got torch.float64"),
    "global": (strong(lambda self, s, i, g: torch.rand(len(i))), "strengths draws from the global random"),
    "shape": (augmenting(lambda x, g: x[..., 1:]), r"changed the shape of the images from \(8, 3, 8, 8\) to"),
    "dtype": (augmenting(lambda x, g: x.float() / 255), "changed the dtype of the images from torch.uint8"),
    "range": (augmenting(lambda x, g: x if x.dtype == torch.uint8 else 2 * x - 1), r"out of \[0, 1\], to -1"),
    "in place": (augmenting(in_place), r"augment changed the images it was given; work on a copy"),
    "no images": (augmenting(lambda x, g: None), "must return a tensor of images, got NoneType"),
    "entropy": (
        augmenting(lambda x, g: x ^ int(np.random.default_rng().integers(1, 255))),
        "augments otherwise with",
    ),
    "no super": (NoSuper, r"must call super\(\).__init__\(\)"),
    "uncounted": (Uncounted, r"end_epoch must count the epoch, which it left at 0; call super"),
    "undeclared": (Undeclared, "observe raised AttributeError.*declare needs_logits = True"),
    "lossy": (Lossy, "a fresh Lossy with the state of another one augments otherwise"),
    "one view": (OneView, r"tuple of 1 \+ extra_views = 2 views, the one to train on first, got 1 of them"),
    "float views": (FloatViews, "views changed the dtype"),
    "no views": (
        type("Mine", (ByConfidence,), {"extra_views": -1}),
        "whole number of views, 0 or more, got -1",
    ),
    "a selector": (LargestLoss(), "derived from dsenv.AugmentationController, got LargestLoss"),
}


@pytest.mark.parametrize("name", BAD_CONTROLLERS)
def test_bad_controllers_are_named(name):
    part, message = BAD_CONTROLLERS[name]
    refused(check_controller, part, message)
