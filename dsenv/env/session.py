"""Session: K episodes side by side. One episode is one training run under a fixed budget."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsenv.augment import AugmentationController, GivenStrength
from dsenv.catalogue import Choice
from dsenv.control.base import Actions, Decision, Situation
from dsenv.control.observation import Last, View, candidate_names, feature_names, observe, stability_bins
from dsenv.env.choosing import Chooser, SelectorChooser, WeightedChooser, make_augmentation, make_companion
from dsenv.env.config import EnvConfig
from dsenv.env.context import Context
from dsenv.env.history import History
from dsenv.env.reward import REWARDS, Progress
from dsenv.env.showing import Showing
from dsenv.errors import check_keywords, pick
from dsenv.rng import Streams
from dsenv.select.base import StackedSelection
from dsenv.select.bins import loss_bins
from dsenv.training.trainer import Interval, Trainer
from dsenv.volume.base import counts
from dsenv.volume.budget import Budget, Counts

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]
Info = dict[str, NDArray[Any]]

REWARD_SCALE = 10.0  # a gain of 10 points of accuracy pays 1


@dataclass(frozen=True)
class StepResult:
    """Outcome of one interval, for each of K episodes, on the host."""

    observation: Floats
    """(K, O)."""
    reward: NDArray[np.float64]
    """(K,)."""
    terminated: Flags
    """(K,) the training reached its budget, or diverged."""
    info: Info
    """Arrays (K, ...) by name."""


class Session:
    """K episodes of the same environment, in one stacked Trainer.

    Episode k follows from its seed, its context and its actions alone, whatever runs beside it.

    Args:
        config: what an episode is.
        replicas: K.
        device: where the training runs.
    """

    def __init__(self, config: EnvConfig, replicas: int, device: torch.device) -> None:
        self.config, self.count, self.device = config, replicas, device
        self.task = config.make_task()
        self.control = config.make_control()
        self.contexts = config.make_contexts()
        check_keywords("trainer", Trainer, {"task": None} | dict(config.trainer))
        self.trainer = Trainer(self.task, replicas, device, **config.trainer)
        pick("signal to rank by", config.rank_by, self.trainer.signals.names)
        self.streams = Streams(replicas, device)
        self.context = [Context()] * replicas
        self.chooser = self._make_chooser()
        self.showing = Showing(self.control, self.trainer, self.streams)
        self.ratio = config.ratio_after(self._looked_share())
        self.schedule = config.make_schedule(self.ratio)
        self.controllers = self._make_controllers()
        self.pool = torch.ones(replicas, self.trainer.size, dtype=torch.bool, device=device)
        self.budget = self._new_budget(np.full(replicas, self.trainer.size))
        self.planned: Counts = np.zeros((replicas, config.intervals), np.int64)
        self.interval: Counts = np.zeros(replicas, np.int64)
        self.finished: Flags = np.ones(replicas, np.bool_)
        self.history = History(replicas, config.intervals, config.bins, self.control.size)
        self.shows_validation = torch.ones(replicas, dtype=torch.bool, device=device)
        self.bins = torch.zeros_like(self.pool, dtype=torch.int64)
        self.stability = torch.zeros_like(self.bins)
        self.last = self._blank()

    def _looked_share(self) -> float:
        """Samples looked at without training over the presentations that all intervals could hold."""
        if self.control.looks:
            return 1.0
        return self.chooser.passes(self.trainer) / (self.config.intervals * self.config.interval)

    def _blank(self) -> Last:
        classes = self.task.dataset.classes
        return Last.blank(self.count, self.config.bins, self.control.size, classes, self.device)

    def _new_budget(self, members: Counts) -> Budget:
        """Budgets of trainings on pools of `members` samples."""
        if self.control.candidates:
            capacity = np.minimum(members, self.control.candidates)
        else:
            capacity = np.maximum(1, np.rint(members * self.config.interval)).astype(np.int64)
        minimum = self.ratio if self.control.minimum is None else min(self.control.minimum, self.ratio)
        return Budget(capacity, self.config.intervals, self.ratio, minimum)

    def _make_chooser(self) -> Chooser:
        if self.config.selector is None:
            return WeightedChooser(self.count)
        return SelectorChooser(self.config.selector, self.count, self.task.dataset.classes, self.device)

    def _make_controllers(self) -> list[AugmentationController] | None:
        """An augmentation controller for each episode; None where nothing is augmented."""
        choice = self._augment
        if choice is None:
            return None
        if len(self.task.dataset.sample_shape) != 3:
            raise ValueError(
                f"augmentation needs images (C, H, W), and {self.task.dataset.name} has samples of shape "
                f"{self.task.dataset.sample_shape}"
            )
        return [make_augmentation(choice, self.trainer, replica) for replica in range(self.count)]

    @property
    def _augment(self) -> Choice | None:
        """The augmentation controller; where the control decides strengths, one that takes them."""
        return self.config.augment or ("given" if self.control.decides_how_strong else None)

    @property
    def observation_names(self) -> list[str]:
        """What each entry of an observation is."""
        return feature_names(self.config.bins, self.control, self.showing.embedding)

    @property
    def candidate_shape(self) -> tuple[int, int] | None:
        """(M, F): candidates that an observation ends with, and features of each; else None."""
        if not self.control.candidates:
            return None
        return self.control.candidates, len(candidate_names(self.control, self.showing.embedding))

    def reset(
        self,
        replicas: Sequence[int],
        rngs: Sequence[np.random.Generator],
        contexts: Sequence[Mapping[str, float] | None],
    ) -> None:
        """Begin new episodes.

        Args:
            replicas: which ones.
            rngs: for each of them the generator that its seeds and context are drawn from.
            contexts: for each of them the context values to set, or None; other values are drawn.
        """
        for replica, rng, values in zip(replicas, rngs, contexts, strict=True):
            self._begin(replica, rng, values)
        fresh = self._blank()
        fresh.validation_accuracy = self.trainer.evaluate("validation").accuracy
        rows = torch.zeros(self.count, dtype=torch.bool)
        rows[list(replicas)] = True
        self.last = self.last.updated(fresh, rows.to(self.device))
        self._rank()
        self.showing.draw(list(replicas), self.pool)

    def _begin(self, replica: int, rng: np.random.Generator, values: Mapping[str, float] | None) -> None:
        dataset = self.task.dataset
        context = self.contexts.fixed(rng, values or {})
        labels_seed, model_seed, stream_seed = (int(seed) for seed in rng.integers(2**31, size=3))
        labels, pool = self.contexts.realise(
            context, dataset.train.labels, dataset.classes, labels_seed, dataset.trusted
        )
        self.trainer.start(replica, model_seed, labels)
        self.streams.seed(replica, stream_seed)
        self.chooser.restart(replica, stream_seed, pool.to(self.device))
        self.showing.restart(replica)
        if self.controllers is not None and self._augment is not None:
            self.controllers[replica] = make_augmentation(self._augment, self.trainer, replica)
        self.context[replica] = context
        self.pool[replica] = pool.to(self.device)
        self.budget.put(replica, self._new_budget(np.array([int(pool.sum())])))
        capacity = int(self.budget.capacity[replica])
        self.planned[replica] = counts(self.schedule, capacity, self.config.intervals)
        self.interval[replica] = 0
        self.finished[replica] = False
        self.history.clear(replica)
        self.shows_validation[replica] = bool(rng.random() < self.config.validation_shown)

    def _rank(self) -> None:
        """Put the samples into bins again."""
        signals = self.trainer.signals
        self.bins = loss_bins(getattr(signals, self.config.rank_by), self.pool, self.config.bins)
        if self.control.stability_bins:
            self.stability = stability_bins(signals, self.pool, self.control.stability_bins)

    def step(self, actions: NDArray[Any]) -> StepResult:
        """Train every unfinished episode for one interval; finished ones stand still.

        Args:
            actions: (K, A) in [-1, 1], values beyond are clipped; with discrete actions (K,) choices, with
                binary ones (K, M) of 0 and 1.

        Raises:
            ValueError: the actions are of another shape, or not all of them are numbers.
        """
        actions = self._checked(actions)
        running = ~self.finished
        situation = self._situation()
        decision = self.control.decide(actions, situation)
        wanted = situation.planned if decision.counts is None else decision.counts
        number = np.where(running, wanted, 0)
        log_weight = self._log_weight(decision)
        selection = self.chooser.choose(log_weight, number.tolist(), self.trainer, self.streams)
        self._give_strengths(decision)
        done = self._train(selection)
        before = self.last.validation_accuracy
        measured = self._measure(actions, number, selection, done)
        self.last = self.last.updated(measured, torch.from_numpy(running).to(self.device))
        self.budget.spend(number)
        self.showing.book(running)
        self.interval = self.interval + running
        self._rank()
        self.showing.draw(np.flatnonzero(running).tolist(), self.pool)
        return self._result(Progress(before, self.last.validation_accuracy), running)

    def _log_weight(self, decision: Decision) -> Tensor:
        """(K, N) log weights; uniform over the pool where the control leaves that open."""
        if decision.log_weight is not None:
            return decision.log_weight
        return torch.zeros_like(self.pool, dtype=torch.float32).masked_fill_(~self.pool, -torch.inf)

    def _give_strengths(self, decision: Decision) -> None:
        """Tell the augmentation the strength of each sample, where the control decides it."""
        if decision.strength is None or self.controllers is None:
            return
        for controller, strength in zip(self.controllers, decision.strength, strict=True):
            assert isinstance(controller, GivenStrength)
            controller.strength.copy_(strength)

    def _situation(self) -> Situation:
        coming = np.minimum(self.interval, self.config.intervals - 1)
        planned = self.planned[np.arange(self.count), coming]
        return Situation(
            bins=self.bins,
            stability=self.stability,
            pool=self.pool,
            candidates=self.showing.shown.index,
            budget=self.budget,
            planned=planned,
            interval=self.interval,
        )

    def _train(self, selection: StackedSelection) -> Interval:
        """Train on the selected samples, augmented and watched as the settings say."""
        companion = make_companion(self.chooser, self.controllers, self.trainer, self.streams)
        at = torch.from_numpy(self.interval).to(self.device)
        spent, total = self.budget.spent.tolist(), self.budget.total.tolist()
        done = self.trainer.train(selection, at, spent, total, companion)
        for controller, size in zip(self.controllers or (), selection.counts, strict=False):
            if size:
                controller.end_epoch()
        return done

    def _checked(self, actions: NDArray[Any]) -> Actions:
        """The actions as (K, A) floats in [-1, 1]."""
        values = np.asarray(actions)
        if self.config.actions == "discrete":
            choices = self.control.choices()
            if values.shape != (self.count,) or not ((values >= 0) & (values < len(choices))).all():
                raise ValueError(
                    f"actions must be {self.count} choices from 0 to {len(choices) - 1}, got {actions}"
                )
            return choices[values.astype(np.int64)]
        values = values.astype(np.float32)
        if self.config.actions == "binary":
            values = 2 * values - 1
        if values.shape != (self.count, self.control.size):
            raise ValueError(f"actions must have shape {(self.count, self.control.size)}, got {values.shape}")
        if np.isnan(values).any():
            raise ValueError(f"an action is NaN: {values.tolist()}; has the policy diverged?")
        return values.clip(-1, 1)

    def _measure(self, actions: Actions, number: Counts, selection: StackedSelection, done: Interval) -> Last:
        """What the interval did, for every episode."""
        chosen = selection.index < self.trainer.size
        index = selection.index.clamp(max=self.trainer.size - 1)
        selected = chosen.sum(1).clamp(min=1)
        from_bin = torch.zeros_like(self.last.selected)
        from_bin.scatter_add_(1, self.bins.gather(1, index), chosen.float())
        wrong = self.trainer.labels.gather(1, index) != self.trainer.split("train").labels[index]
        accuracy = self.trainer.evaluate("validation").accuracy
        ratio = (number / self.budget.capacity).astype(np.float32)
        return Last(
            ratio=torch.from_numpy(ratio).to(self.device),
            selected=from_bin / selected[:, None],
            wrong_labels=(wrong & chosen).sum(1) / selected,
            train_loss=done.loss,
            train_accuracy=done.accuracy,
            validation_accuracy=accuracy,
            validation_gain=accuracy - self.last.validation_accuracy,
            action=torch.from_numpy(actions).to(self.device),
        )

    def view(self) -> View:
        """What an observation is computed from."""
        left = (self.budget.left / self.budget.total).astype(np.float32)
        return View(
            signals=self.trainer.signals,
            pool=self.pool,
            bins=self.bins,
            stability=self.stability,
            candidates=self.showing.shown,
            interval=torch.from_numpy(self.interval.astype(np.float32)).to(self.device),
            intervals=self.config.intervals,
            budget_left=torch.from_numpy(left).to(self.device),
            ratio=self.config.ratio,
            shows_validation=self.shows_validation,
            last=self.last,
        )

    def observe(self) -> Floats:
        """The observation (K, O), on the host."""
        values: Floats = observe(self.view(), self.control).cpu().numpy()
        return values

    def _result(self, progress: Progress, running: Flags) -> StepResult:
        """Bring reward, info and observation to the host in one transfer."""
        last = self.last
        scalars = {
            "reward": REWARDS[self.config.reward](progress),
            "train_loss": last.train_loss,
            "train_accuracy": last.train_accuracy,
            "val_accuracy": last.validation_accuracy,
            "wrong_labels": last.wrong_labels,
            "ratio": last.ratio,
        }
        parts = [torch.stack(list(scalars.values()), 1), last.selected, observe(self.view(), self.control)]
        packed: Floats = torch.cat(parts, 1).cpu().numpy()
        values, selected, observation = np.split(packed, np.cumsum([p.shape[1] for p in parts[:-1]]), axis=1)
        info: Info = dict(zip(scalars, values.T.copy(), strict=True))
        gain = info.pop("reward").astype(np.float64)
        diverged = running & ~np.isfinite(info["train_loss"])
        reward = np.where(diverged, -self.config.divergence_penalty, gain) * running * REWARD_SCALE
        self.finished = self.finished | diverged | (self.interval >= self.config.intervals)
        info |= self.info() | {"selected_bins": selected.copy(), "diverged": diverged}
        self.history.add(running, self.interval - 1, info, last.action.cpu().numpy())
        return StepResult(observation.copy(), reward, self.finished.copy(), info)

    def info(self) -> Info:
        """What is known between intervals: contexts and budgets."""
        context = {name: np.array([getattr(c, name) for c in self.context]) for name in vars(Context())}
        spent = {"samples_used": self.budget.spent.copy(), "budget_left": self.budget.left.copy()}
        return context | spent | {"extra_forwards": np.array(self.chooser.looked) + self.showing.looked}
