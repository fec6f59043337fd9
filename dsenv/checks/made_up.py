"""A small made-up training set and what a model says about it; needs and states that parts share."""

import copy
import io
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dsenv.checks.calls import RaisedError, call, same
from dsenv.select import ModelOutputs
from dsenv.signals import SampleSignals

SIZE, BATCH, VALIDATION, EPOCHS = 40, 8, 12, 12
TARGET = 0.5
Needs = frozenset[str]
"""Of "pass", "logits" and "features"."""


class MadeUp:
    """A training set and a model's outputs, all made of a seed.

    Args:
        signals: gives size, classes, device and the history to begin with; None for a new one.
        classes: C, where no signals are given.
        features: D, length of a feature vector.
        seed: decides all numbers.

    Raises:
        ValueError: the signals are those of K replicas.
    """

    def __init__(self, signals: SampleSignals | None, classes: int, features: int, seed: int) -> None:
        self._begin = SampleSignals(SIZE, classes) if signals is None else signals
        if self._begin.replicas is not None:
            raise ValueError(
                f"parts see the signals (N,) of one training run, got those of {self._begin.replicas}; give "
                "signals.of_replica(0)"
            )

        self.size, self.classes = self._begin.size, self._begin.classes
        self.device = self._begin.loss.device  # with its number, which the signals' own may lack
        self.seed, self.width = seed, features

        self._labels = torch.randint(
            self.classes, (self.size,), generator=self.generator(1), device=self.device
        )
        self._features = self._normal(2, self.size, features)

    def generator(self, step: int) -> torch.Generator:
        """A generator on the device of the signals; equal for equal steps."""
        return torch.Generator(self.device).manual_seed(1000 * self.seed + step)

    def _normal(self, step: int, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator(step), device=self.device)

    def uniform(self, step: int, size: int) -> Tensor:
        """Numbers (size,) in [0, 1)."""
        return torch.rand(size, generator=self.generator(step), device=self.device)

    def given(self) -> dict[str, Any]:
        """What a part's class may ask for."""
        return {
            "size": self.size,
            "classes": self.classes,
            "device": self.device,
            "seed": self.seed,
            "epochs": EPOCHS,
            "features": self.width,
            "target": TARGET,
        }

    def signals(self) -> SampleSignals:
        """The history to begin with, as a copy."""
        signals = SampleSignals(self.size, self.classes, device=self.device)
        signals.load_state_dict(self._begin.state_dict())
        return signals

    def everything(self) -> Tensor:
        """Positions (N,) of all samples, in a random order."""
        return torch.randperm(self.size, generator=self.generator(3), device=self.device)

    def outputs(self, index: Tensor, step: int, needs: Needs) -> ModelOutputs:
        """What the model says of the samples `index` (B,) in epoch `step`."""
        logits = 2 * self._normal(10 + step, self.size, self.classes)[index]
        return _outputs(index, self._labels[index], logits, self._features[index], needs)

    def validation(self, needs: Needs) -> ModelOutputs:
        """What the model says of a validation split."""
        labels = torch.arange(VALIDATION, device=self.device) % self.classes
        logits, features = self._normal(4, VALIDATION, self.classes), self._normal(5, VALIDATION, self.width)
        return _outputs(torch.arange(VALIDATION, device=self.device), labels, logits, features, needs)

    def update(self, signals: SampleSignals, index: Tensor, step: int) -> None:
        """Let the signals take in an epoch on the samples `index`."""
        seen = self.outputs(index, step, frozenset({"logits"}))
        assert seen.logits is not None
        signals.update(index, seen.loss, seen.logits, seen.labels, step)


def _outputs(index: Tensor, labels: Tensor, logits: Tensor, features: Tensor, needs: Needs) -> ModelOutputs:
    loss = F.cross_entropy(logits, labels, reduction="none")
    return ModelOutputs(
        index,
        labels,
        loss,
        logits if "logits" in needs else None,
        features if "features" in needs else None,
    )


def declared_needs(part: Any, names: tuple[str, ...]) -> Needs:
    """What a part says that it needs, of `names`."""
    return frozenset(name for name in names if getattr(part, f"needs_{name}"))


def run_as_declared(part: Any, names: tuple[str, ...], run: Callable[[Needs], Any]) -> Any:
    """Run a part with what it declares; where that fails, find out what it should have declared.

    Args:
        part: says what it needs.
        names: needs that its kind can declare.
        run: runs a fresh part, given certain things.

    Raises:
        ValueError: the part fails, or needs more than it declares.
    """
    declared = declared_needs(part, names)

    try:
        return run(declared)
    except RaisedError as error:
        missing = _undeclared(declared, names, run)
        if not missing:
            raise
        facts = " and ".join(f"needs_{name} = True" for name in missing)
        raise ValueError(f"{error}; with more given it runs: declare {facts} in the class") from error


def _undeclared(declared: Needs, names: tuple[str, ...], run: Callable[[Needs], Any]) -> tuple[str, ...]:
    """The fewest further needs with which a part runs; empty where nothing helps."""
    for more in _further(declared, names):
        try:
            run(declared | set(more))
        except RaisedError:
            continue
        except ValueError:  # it answers, if wrongly
            return more
        return more
    return ()


def _further(declared: Needs, names: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    left = [name for name in names if name not in declared]
    for count in range(1, len(left) + 1):
        yield from combinations(left, count)


def reloaded(part: Any, fresh: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Save the part's state and load it into a fresh one; returns the state, and as it was saved.

    Raises:
        ValueError: the state cannot be saved, read again or loaded.
    """
    name, state = type(part).__name__, call(part, "state_dict")
    if not isinstance(state, Mapping):
        raise ValueError(f"{name}.state_dict must return a table, got {type(state).__name__}; return a dict")

    # Through a file, as in a checkpoint
    file = io.BytesIO()
    try:
        torch.save(dict(state), file)
        file.seek(0)
        saved = torch.load(file, weights_only=True)
    except Exception as error:
        raise ValueError(
            f"{name}.state_dict gives what torch.load(weights_only=True) does not read "
            f"({str(error).splitlines()[0]}); return tensors, numbers and text, in dicts and lists"
        ) from error

    try:
        call(fresh, "load_state_dict", copy.deepcopy(saved))
    except RaisedError as error:
        raise ValueError(
            f"{error}: a fresh {name} cannot load what state_dict gave; write load_state_dict(state) for it"
        ) from error

    return state, saved


def check_copied(part: Any, state: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Check that a state that was taken stays as it was while the part goes on.

    Raises:
        ValueError: something in it has changed.
    """
    for key in saved:
        if not same(state[key], saved[key]):
            raise ValueError(
                f"{type(part).__name__}.state_dict()[{key!r}] changed when the part went on; return a copy: "
                "tensor.clone(), copy.deepcopy(...)"
            )
