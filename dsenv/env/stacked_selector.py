"""Stacked selectors: which samples, of the decided number, an interval trains on, for K episodes."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dsenv.augment import CONTROLLERS, AugmentationController
from dsenv.catalogue import Choice, build_part, describe_part, part_type
from dsenv.control.base import Decision
from dsenv.env.state import state_of
from dsenv.errors import check_count, check_seed, check_share
from dsenv.rng import Streams
from dsenv.select.base import Selection, Selector, StackedSelection, checked
from dsenv.select.gumbel import gumbel_top_k, shuffled
from dsenv.select.registry import SELECTORS
from dsenv.states import listed
from dsenv.task_kinds.base import check_fits
from dsenv.training.hooks import BatchHooks
from dsenv.training.trainer import Trainer

SCORE_AFTER = 1  # intervals of random samples before a selector's pass over the data


class StackedSelector(ABC):
    """Turns a decision into samples.

    Args:
        replicas: K.
    """

    def __init__(self, replicas: int) -> None:
        self.extra_forwards = [0] * replicas
        """For each episode the samples of its forward passes without training."""

    def passes(self, trainer: Trainer) -> float:
        """Passes over the training set without training that an episode makes."""
        del trainer
        return 0.0

    def restart(self, replica: int, seed: int, pool: Tensor, noise_rate: float) -> None:
        """Begin a new episode on the samples of `pool`, (N,) bool, of which a share has wrong labels."""
        del replica, seed, pool, noise_rate

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on choosing."""
        return {"extra_forwards": list(self.extra_forwards)}

    def load_state_dict(self, state: Mapping[str, Any], pool: Tensor) -> None:
        """Continue from `state_dict()`, with the pools (K, N) bool of the episodes."""
        del pool
        counts = listed("extra_forwards", state["extra_forwards"], len(self.extra_forwards))
        self.extra_forwards = [check_count("extra_forwards", count, 0) for count in counts]

    @abstractmethod
    def choose(
        self, log_weight: Tensor, counts: Sequence[int], trainer: Trainer, streams: Streams
    ) -> StackedSelection:
        """Samples of the next interval, in training order, for each of K episodes.

        Args:
            log_weight: (K, N) log of the weights by which the control wants samples drawn.
            counts: how many.
            trainer: trains the models.
            streams: random streams of the episodes.
        """


class WeightedSelector(StackedSelector):
    """Draws by the decision's weights, without replacement."""

    def choose(
        self, log_weight: Tensor, counts: Sequence[int], trainer: Trainer, streams: Streams
    ) -> StackedSelection:
        del trainer
        return gumbel_top_k(log_weight, counts, streams)


class ReplicaSelectors(StackedSelector):
    """Leaves the choice to a selector of `dsenv.select`, one for each episode.

    A selector that needs a pass over the training set gets it after the first interval, from the model as
    it is then, over the validation split too; the budget pays for both. A selector whose constructor takes
    `noise_rate` is told the true share of wrong labels: a reference, which no other one sees.

    Args:
        choice: name or table of the selector.
        replicas: K.
        classes: C; None where the task is no classification.
        device: where the training runs take place.
    """

    def __init__(
        self, choice: Choice | Selector, replicas: int, classes: int | None, device: torch.device
    ) -> None:
        super().__init__(replicas)
        self._choice, self._classes, self._device = choice, classes, device
        self.selectors: list[Selector] = [self._build(0, 0.0) for _ in range(replicas)]
        self.positions: list[Tensor] = [torch.zeros(0, dtype=torch.int64, device=device)] * replicas
        self._intervals = [0] * replicas
        self._seeds = [0] * replicas
        self._noise_rates = [0.0] * replicas

    def _build(self, seed: int, noise_rate: float) -> Selector:
        given = {"seed": seed, "noise_rate": noise_rate, "classes": self._classes, "device": self._device}
        selector: Selector = build_part("selector", SELECTORS, self._choice, given, Selector, fresh=True)
        return selector

    def passes(self, trainer: Trainer) -> float:
        if not self.selectors[0].needs_pass:
            return 0.0
        return 1 + len(trainer.task.dataset.validation) / trainer.size

    def restart(self, replica: int, seed: int, pool: Tensor, noise_rate: float) -> None:
        self._seeds[replica], self._noise_rates[replica] = seed, noise_rate
        self.selectors[replica] = self._build(seed, noise_rate)
        self.positions[replica] = pool.nonzero().squeeze(1)
        self.extra_forwards[replica] = self._intervals[replica] = 0

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on choosing.

        Raises:
            ValueError: a selector remembers more than its `state_dict` says.
        """
        known = zip(self.selectors, self._seeds, self._noise_rates, strict=True)
        own = {
            "selectors": [state_of(part, partial(self._build, seed, rate)) for part, seed, rate in known],
            "seeds": list(self._seeds),
            "noise_rates": list(self._noise_rates),
            "intervals": list(self._intervals),
        }
        return super().state_dict() | own

    def load_state_dict(self, state: Mapping[str, Any], pool: Tensor) -> None:
        super().load_state_dict(state, pool)
        names = ("selectors", "seeds", "noise_rates", "intervals")
        states, seeds, rates, intervals = (listed(name, state[name], len(self._seeds)) for name in names)
        self._seeds = [check_seed("a seed", seed) for seed in seeds]
        self._noise_rates = [check_share("a noise rate", rate, zero=True) for rate in rates]
        self._intervals = [check_count("intervals", count, 0) for count in intervals]
        self.positions = [members.nonzero().squeeze(1) for members in pool]
        self.selectors = list(map(self._build, self._seeds, self._noise_rates))
        for selector, saved in zip(self.selectors, states, strict=True):
            selector.load_state_dict(saved)

    def choose(
        self, log_weight: Tensor, counts: Sequence[int], trainer: Trainer, streams: Streams
    ) -> StackedSelection:
        del log_weight
        self._score(counts, trainer)
        picks = [self._pick(k, count, trainer, streams) for k, count in enumerate(counts)]
        for k, count in enumerate(counts):
            self._intervals[k] += count > 0
        return shuffled(StackedSelection.of(picks, trainer.size), trainer.size, streams)

    def _pick(self, replica: int, count: int, trainer: Trainer, streams: Streams) -> Selection:
        where = self.positions[replica]
        if count == 0:
            return Selection(where[:0], where[:0].float())
        selector = self.selectors[replica]
        if selector.needs_pass and not self.extra_forwards[replica]:
            drawn = torch.randperm(len(where), generator=streams[replica], device=where.device)[:count]
            return Selection(where[drawn], torch.ones_like(drawn, dtype=torch.float32))
        found = selector.select(trainer.signals.of_replica(replica, where), count, streams[replica])
        found = checked(found, selector, count, len(where), where.device)
        return Selection(where[found.index], found.weight)

    def _score(self, counts: Sequence[int], trainer: Trainer) -> None:
        """Give the selectors that are due their pass over the training and the validation split."""
        due = [
            k
            for k, selector in enumerate(self.selectors)
            if selector.needs_pass
            and counts[k]
            and not self.extra_forwards[k]
            and self._intervals[k] >= SCORE_AFTER
        ]
        if not due:
            return
        train, validation = trainer.scoring_pass("train"), trainer.scoring_pass("validation")
        for k in due:
            self.selectors[k].prepare(train[k].at(self.positions[k]), validation[k])
            self.extra_forwards[k] += len(self.positions[k]) + len(validation[k].index)


def make_stacked_selector(selector: Choice | Selector | None, trainer: Trainer) -> StackedSelector:
    """What chooses samples: a selector, or the weights of the control where there is none."""
    replicas = trainer.replicas.count
    if selector is None:
        return WeightedSelector(replicas)
    kind = trainer.task.kind
    found = ReplicaSelectors(selector, replicas, kind.classes, trainer.device)
    check_fits(kind, found.selectors[0])
    return found


def evenly(pool: Tensor) -> Tensor:
    """Log weights (K, N) of a choice among all samples of `pool`, (K, N) bool."""
    return torch.zeros_like(pool, dtype=torch.float32).masked_fill_(~pool, -torch.inf)


def give_strengths(decision: Decision, controllers: Sequence[AugmentationController] | None) -> None:
    """Tell the augmentation the strength of each sample, where the control decides it."""
    if decision.strength is None or controllers is None:
        return
    for controller, strength in zip(controllers, decision.strength, strict=True):
        assert controller.takes_strengths, controller
        told: Any = controller  # that it has `strength` is what `takes_strengths` says
        told.strength.copy_(strength)


def make_hooks(
    stacked_selector: StackedSelector,
    controllers: Sequence[AugmentationController] | None,
    trainer: Trainer,
    streams: Streams,
) -> BatchHooks | None:
    """What works inside the training loop: selectors that watch it, and augmentation."""
    selectors, positions = None, []
    if isinstance(stacked_selector, ReplicaSelectors):
        watches = any(selector.observes for selector in stacked_selector.selectors)
        selectors, positions = (
            (stacked_selector.selectors, stacked_selector.positions) if watches else (None, [])
        )
    if selectors is None and controllers is None:
        return None
    return BatchHooks(trainer.signals, streams, selectors, controllers, positions)


def make_augmentation(
    choice: Choice | AugmentationController, trainer: Trainer, replica: int
) -> AugmentationController:
    """An augmentation controller for one episode.

    Raises:
        ValueError: the controller learns from more than the training forward, as `DataPlan` can show it.
    """
    signals = trainer.signals.of_replica(replica)
    given = {"size": signals.size, "classes": signals.kind.classes, "device": signals.device}
    kind = part_type("augment", CONTROLLERS, choice)
    controller: AugmentationController | None = None
    if not getattr(kind, "extra_views", 0):
        controller = build_part("augment", CONTROLLERS, choice, given, AugmentationController, fresh=True)
    if controller is None or controller.extra_views or controller.needs_parameters:
        raise ValueError(
            f"augment = {describe_part(choice)!r} looks at more than the training forward: use it in a loop "
            "of your own with dsenv.DataPlan"
        )
    check_fits(trainer.task.kind, controller)
    return controller


def make_controllers(
    choice: Choice | AugmentationController | None, trainer: Trainer
) -> list[AugmentationController] | None:
    """An augmentation controller for each episode; None where nothing is augmented.

    Raises:
        ValueError: the samples are no images.
    """
    if choice is None:
        return None
    dataset = trainer.task.dataset
    if places := trainer.task.kind.on_images:
        raise ValueError(
            f"augmentation in an environment does not move {places}, and {dataset.name} has some; leave "
            "augment out, or train in a loop of your own with dsenv.DataPlan, which moves them"
        )
    if len(dataset.sample_shape) != 3:
        raise ValueError(
            f"augmentation needs images (C, H, W), and {dataset.name} has samples of shape "
            f"{dataset.sample_shape}; leave augment out, and let no control decide strengths (the control "
            "'joint' takes strength = false)"
        )
    return [make_augmentation(choice, trainer, replica) for replica in range(trainer.replicas.count)]
