"""Session: K episodes side by side. One episode is one training run under a fixed budget."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsenv.control.base import Actions, Decision, Situation
from dsenv.control.observation import Last, View, candidate_names, feature_names, observe, stability_bins
from dsenv.env.actions import to_box
from dsenv.env.candidate_sampler import CandidateSampler
from dsenv.env.config import EnvConfig
from dsenv.env.context import Context, realise
from dsenv.env.episodes import Episodes, Rows
from dsenv.env.history import History
from dsenv.env.result import Flags, Floats, Info, StepResult
from dsenv.env.rewards.base import RewardInputs
from dsenv.env.rewards.tracker import RewardTracker
from dsenv.env.spending import extra_forward_share, make_budget, progress
from dsenv.env.stacked_selector import (
    evenly,
    give_strengths,
    make_augmentation,
    make_controllers,
    make_hooks,
    make_stacked_selector,
)
from dsenv.errors import check_keywords, pick
from dsenv.rng import Streams
from dsenv.select.base import StackedSelection
from dsenv.select.bins import loss_bins
from dsenv.tasks.narrow import narrow_parameters
from dsenv.training.trainer import Interval, Score, Trainer
from dsenv.volume.base import counts
from dsenv.volume.budget import Counts

REWARD_SCALE = 10.0  # a gain of 10 points of accuracy pays 1

__all__ = ["REWARD_SCALE", "Flags", "Floats", "Info", "Session", "StepResult"]


class Session(Episodes):
    """K episodes of the same environment, in one stacked Trainer.

    Episode k follows from its seed, its context and its actions alone, whatever runs beside it.

    Args:
        config: what an episode is.
        replicas: K.
        device: where the training runs.
        dataset: position of its data set among `config.datasets`.
    """

    def __init__(self, config: EnvConfig, replicas: int, device: torch.device, dataset: int = 0) -> None:
        self.config, self.count, self.device = config, replicas, device
        self.task, self._dataset = config.make_task(dataset), dataset
        self.control = config.make_control()
        self.reward_tracker = RewardTracker(config.make_reward(), replicas, device)
        self.contexts = config.make_contexts()
        if config.sets_width():
            narrow_parameters(self.task, seed=0, width=0.5)  # a model without narrow forms must show at once
        check_keywords("trainer", Trainer, {"task": None} | dict(config.trainer))
        self.trainer = Trainer(self.task, replicas, device, **config.trainer)
        pick("signal to rank by", config.rank_by, self.trainer.signals.names)
        self.streams = Streams(replicas, device)
        self.context = [Context()] * replicas
        self.stacked_selector = make_stacked_selector(config.selector, self.trainer)
        self.candidate_sampler = CandidateSampler(self.control, self.trainer, self.streams)
        self.ratio = config.ratio_after(
            extra_forward_share(config, self.control, self.stacked_selector, self.trainer)
        )
        self.schedule = config.make_schedule(self.ratio)
        self.augment = config.augment or ("given" if self.control.decides_how_strong else None)
        self.controllers = make_controllers(self.augment, self.trainer)
        self.pool = torch.ones(replicas, self.trainer.size, dtype=torch.bool, device=device)
        self.budget = make_budget(config, self.control, self.ratio, np.full(replicas, self.trainer.size))
        self.planned: Counts = np.zeros((replicas, config.intervals), np.int64)
        self.interval: Counts = np.zeros(replicas, np.int64)
        self.finished: Flags = np.ones(replicas, np.bool_)
        self.history = History(replicas, config.intervals, config.bins, self.control.size)
        self.shows_validation = torch.ones(replicas, dtype=torch.bool, device=device)
        self.bins = torch.zeros_like(self.pool, dtype=torch.int64)
        self.stability = torch.zeros_like(self.bins)
        self.last = self._blank()

    def _blank(self) -> Last:
        classes = self.task.dataset.classes
        return Last.blank(self.count, self.config.bins, self.control.size, classes, self.device)

    @property
    def observation_names(self) -> list[str]:
        return feature_names(self.config.bins, self.control, self.candidate_sampler.embedding)

    @property
    def candidate_shape(self) -> tuple[int, int] | None:
        shown, features = (
            self.control.candidates,
            candidate_names(self.control, self.candidate_sampler.embedding),
        )
        return (shown, len(features)) if shown else None

    def reset(
        self,
        replicas: Sequence[int],
        rngs: Sequence[np.random.Generator],
        contexts: Sequence[Mapping[str, Any] | None],
    ) -> None:
        for replica, rng, values in zip(replicas, rngs, contexts, strict=True):
            self._begin(replica, rng, values)
        fresh = self._blank()
        score = self.trainer.evaluate("validation")
        fresh.validation_accuracy = score.accuracy
        rows = torch.zeros(self.count, dtype=torch.bool)
        rows[list(replicas)] = True
        rows = rows.to(self.device)
        self.last = self.last.updated(fresh, rows)
        self.reward_tracker.restart(RewardInputs(score, self.trainer.signals, self.pool), rows)
        self._rank()
        self.candidate_sampler.draw(list(replicas), self.pool)

    def _begin(self, replica: int, rng: np.random.Generator, values: Mapping[str, Any] | None) -> None:
        dataset = self.task.dataset
        context = replace(self.contexts.fixed(rng, values or {}), dataset=self._dataset)
        labels_seed, model_seed, stream_seed = (int(seed) for seed in rng.integers(2**31, size=3))
        labels, pool = realise(
            context, self.contexts.noise, dataset.train.labels, dataset.classes, labels_seed, dataset.trusted
        )
        shows_validation = bool(rng.random() < self.config.validation_shown)
        own_validation = None if self.config.trusted_validation else self._corrupted(context, rng)
        self.trainer.start(replica, model_seed, labels, own_validation, width=context.width, lr=context.lr)
        self.streams.seed(replica, stream_seed)
        self.stacked_selector.restart(replica, stream_seed, pool.to(self.device))
        self.candidate_sampler.restart(replica)
        if self.controllers is not None and self.augment is not None:
            self.controllers[replica] = make_augmentation(self.augment, self.trainer, replica)
        self.context[replica] = context
        self.pool[replica] = pool.to(self.device)
        members = np.array([int(pool.sum())])
        self.budget.put(replica, make_budget(self.config, self.control, self.ratio, members))
        capacity = int(self.budget.capacity[replica])
        self.planned[replica] = counts(self.schedule, capacity, self.config.intervals)
        self.interval[replica] = 0
        self.finished[replica] = False
        self.history.clear(replica)
        self.shows_validation[replica] = shows_validation

    def _corrupted(self, context: Context, rng: np.random.Generator) -> Tensor:
        """Labels of the validation split with the noise of the training labels."""
        labels, seed = self.task.dataset.validation.labels, int(rng.integers(2**31))
        whole = replace(context, imbalance=1.0, subset=1.0)
        return realise(whole, self.contexts.noise, labels, self.task.dataset.classes, seed)[0]

    def _rank(self) -> None:
        """Put the samples into bins again."""
        signals = self.trainer.signals
        self.bins = loss_bins(getattr(signals, self.config.rank_by), self.pool, self.config.bins)
        if self.control.stability_bins:
            self.stability = stability_bins(signals, self.pool, self.control.stability_bins)

    def step(self, actions: NDArray[Any]) -> StepResult:
        actions = to_box(actions, self.config.actions, self.control, self.count)
        running = ~self.finished
        situation = self._situation()
        decision = self.control.decide(actions, situation)
        wanted = situation.planned if decision.counts is None else decision.counts
        number = np.where(running, wanted, 0)
        log_weight = evenly(self.pool) if decision.log_weight is None else decision.log_weight
        selection = self.stacked_selector.choose(log_weight, number.tolist(), self.trainer, self.streams)
        give_strengths(decision, self.controllers)
        done = self._train(selection)
        score = self.trainer.evaluate("validation")
        rows = torch.from_numpy(running).to(self.device)
        self.last = self.last.updated(self._measure(actions, decision, number, selection, done, score), rows)
        self.budget.spend(number)
        self.candidate_sampler.book(running)
        self.interval = self.interval + running
        self._rank()
        self.candidate_sampler.draw(np.flatnonzero(running).tolist(), self.pool)
        is_last = torch.from_numpy(self.interval >= self.config.intervals).to(self.device)
        inputs = RewardInputs(score, self.trainer.signals, self.pool)
        paid = self.reward_tracker.compute(inputs, rows, torch.from_numpy(number).to(self.device), is_last)
        return self._result(paid, running)

    def _situation(self) -> Situation:
        coming = np.minimum(self.interval, self.config.intervals - 1)
        planned = self.planned[np.arange(self.count), coming]
        return Situation(
            bins=self.bins,
            stability=self.stability,
            pool=self.pool,
            candidates=self.candidate_sampler.shown.index,
            budget=self.budget,
            planned=planned,
            interval=self.interval,
        )

    def _train(self, selection: StackedSelection) -> Interval:
        """Train on the selected samples, augmented and watched as the settings say."""
        hooks = make_hooks(self.stacked_selector, self.controllers, self.trainer, self.streams)
        at = torch.from_numpy(self.interval).to(self.device)
        spent, total = progress(self.budget, self.interval, np.array(selection.counts))
        done = self.trainer.train(selection, at, spent, total, hooks)
        for controller, size in zip(self.controllers or (), selection.counts, strict=False):
            if size:
                controller.end_epoch()
        return done

    def _measure(
        self,
        actions: Actions,
        decision: Decision,
        number: Counts,
        selection: StackedSelection,
        done: Interval,
        score: Score,
    ) -> Last:
        """What the interval did, for every episode."""
        chosen = selection.index < self.trainer.size
        index = selection.index.clamp(max=self.trainer.size - 1)
        selected = chosen.sum(1).clamp(min=1)
        from_bin = torch.zeros_like(self.last.selected)
        from_bin.scatter_add_(1, self.bins.gather(1, index), chosen.float())
        wrong = self.trainer.labels.gather(1, index) != self.trainer.split("train").labels[index]
        strength = torch.zeros_like(self.last.strength)
        if decision.strength is not None:
            strength = (decision.strength.gather(1, index) * chosen).sum(1) / selected
        ratio = (number / self.budget.capacity).astype(np.float32)
        return Last(
            ratio=torch.from_numpy(ratio).to(self.device),
            selected=from_bin / selected[:, None],
            wrong_labels=(wrong & chosen).sum(1) / selected,
            strength=strength,
            train_loss=done.loss,
            train_accuracy=done.accuracy,
            validation_accuracy=score.accuracy,
            validation_gain=score.accuracy - self.last.validation_accuracy,
            action=torch.from_numpy(actions).to(self.device),
        )

    def parts(self) -> list[tuple["Session", Rows]]:
        return [(self, np.arange(self.count))]

    def sessions(self) -> list["Session"]:
        return [self]

    def signature(self) -> dict[str, Any]:
        shapes = {name: tuple(value.shape) for name, value in self.trainer.replicas.parameters_of(0).items()}
        return super().signature() | {"samples": self.trainer.size, "parameters": shapes}

    def view(self) -> View:
        """What an observation is computed from."""
        left = (self.budget.left / self.budget.total).astype(np.float32)
        return View(
            signals=self.trainer.signals,
            pool=self.pool,
            bins=self.bins,
            stability=self.stability,
            candidates=self.candidate_sampler.shown,
            interval=torch.from_numpy(self.interval.astype(np.float32)).to(self.device),
            intervals=self.config.intervals,
            budget_left=torch.from_numpy(left).to(self.device),
            ratio=self.config.ratio,
            shows_validation=self.shows_validation,
            last=self.last,
        )

    def observe(self) -> Floats:
        values: Floats = observe(self.view(), self.control).cpu().numpy()
        return values

    def _result(self, paid: Tensor, running: Flags) -> StepResult:
        """Bring reward, info and observation to the host in one transfer."""
        last = self.last
        scalars = {
            "reward": paid,
            "train_loss": last.train_loss,
            "train_accuracy": last.train_accuracy,
            "val_accuracy": last.validation_accuracy,
            "wrong_labels": last.wrong_labels,
            "ratio": last.ratio,
        }
        if self.control.decides_how_strong:
            scalars["strength"] = last.strength
        parts = [torch.stack(list(scalars.values()), 1), last.selected, observe(self.view(), self.control)]
        packed: Floats = torch.cat(parts, 1).cpu().numpy()
        values, selected, observation = np.split(packed, np.cumsum([p.shape[1] for p in parts[:-1]]), axis=1)
        info: Info = dict(zip(scalars, values.T.copy(), strict=True))
        payment = info.pop("reward").astype(np.float64)
        diverged = running & ~np.isfinite(info["train_loss"])
        payment = np.where(diverged, -self.config.divergence_penalty, payment)
        reward = np.where(running, payment, 0.0) * REWARD_SCALE
        self.finished = self.finished | diverged | (self.interval >= self.config.intervals)
        info |= self.info() | {"selected_bins": selected.copy(), "diverged": diverged}
        self.history.add(running, self.interval - 1, info, last.action.cpu().numpy())
        return StepResult(observation.copy(), reward, self.finished.copy(), info)

    def info(self) -> Info:
        context = {name: np.array([getattr(c, name) for c in self.context]) for name in vars(Context())}
        spent = {"samples_used": self.budget.spent.copy(), "budget_left": self.budget.left.copy()}
        return (
            context
            | spent
            | {
                "extra_forwards": np.array(self.stacked_selector.extra_forwards)
                + self.candidate_sampler.extra_forwards
            }
        )
