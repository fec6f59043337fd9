"""Session: K episodes on one data set, side by side. One episode is one training run on a fixed budget."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsenv.control.base import Actions, Control, Decision
from dsenv.control.observation import candidate_names, feature_names, observe
from dsenv.control.state import TrainingState
from dsenv.describe import attributes_of, describe
from dsenv.env.budgets import Volumes, extra_forward_share
from dsenv.env.candidate_sampler import CandidateSampler
from dsenv.env.config import EnvConfig
from dsenv.env.context import UNSET, VALUES, Context
from dsenv.env.labels import EpisodeLabels, check_kind
from dsenv.env.passes import by_epoch, joined
from dsenv.env.results import Flags, Floats, Info, StepResult
from dsenv.env.rewards.base import RewardInputs, RewardTracker
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
from dsenv.states import fitted
from dsenv.tasks.narrow import narrow_parameters
from dsenv.training.scores import Interval, Score
from dsenv.training.trainer import Trainer
from dsenv.volume.budget import Counts

REWARD_SCALE = 10.0  # a gain of 10 points of accuracy pays 1

RECORDED = ("ratio", "val_accuracy", "train_accuracy", "wrong_labels", "strength")


class History:
    """Records of K episodes of at most T intervals; NaN where an interval has not happened.

    Attributes:
        scalars: by name, (K, T): ratio, val_accuracy, train_accuracy, wrong_labels; strength, NaN where the
            control does not decide it.
        selected: (K, T, B) share of each selection that came from each loss-rank bin.
        actions: (K, T, A) in [-1, 1].
    """

    def __init__(self, replicas: int, intervals: int, bins: int, actions: int) -> None:
        self.scalars = {name: np.full((replicas, intervals), np.nan, np.float32) for name in RECORDED}
        self.selected = np.full((replicas, intervals, bins), np.nan, np.float32)
        self.actions = np.full((replicas, intervals, actions), np.nan, np.float32)

    def strengths(self, control: Control) -> Floats:
        """Strength (K, T, S) asked for in each stability bin; S is 0 where `control` asks for none."""
        replicas, intervals, size = self.actions.shape
        if not control.decides_how_strong:
            return np.zeros((replicas, intervals, 0), np.float32)
        return control.decode(self.actions.reshape(-1, size))["strength"].reshape(replicas, intervals, -1)

    def clear(self, replica: int) -> None:
        """Begin a new episode."""
        for record in (*self.scalars.values(), self.selected, self.actions):
            record[replica] = np.nan

    def state_dict(self) -> dict[str, Any]:
        """Copies of all records."""
        return {name: record.copy() for name, record in self._records().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        for name, record in self._records().items():
            record[...] = fitted(f"history.{name}", state[name], record)

    def _records(self) -> dict[str, Floats]:
        return {**self.scalars, "selected_bins": self.selected, "actions": self.actions}

    def add(self, running: Flags, interval: Counts, info: Info, actions: Floats) -> None:
        """Record interval `interval` (K,) of the running (K,) episodes: its info and actions (K, A)."""
        rows = np.flatnonzero(running)
        for name, record in self.scalars.items():
            if name in info:
                record[rows, interval[rows]] = info[name][rows]
        self.selected[rows, interval[rows]] = info["selected_bins"][rows]
        self.actions[rows, interval[rows]] = actions[rows]


class Session:
    """K episodes of the same environment on one data set, in one stacked Trainer.

    Episode k follows from its seed, its context and its actions alone, whatever runs beside it.

    Args:
        config: what an episode is.
        replicas: K.
        device: where the training runs.
        dataset: position of its data set among `config.datasets`.
    """

    def __init__(self, config: EnvConfig, replicas: int, device: torch.device, dataset: int = 0) -> None:
        self.config = config = config.for_dataset(dataset)
        self.count, self.device = replicas, device
        self.task, self.dataset = config.make_task(dataset), dataset
        self.model_settings = describe(self.task.model)  # before it builds any, which it may note
        self.control = config.make_control()
        self.epochs = 1 if self.control.candidates else math.ceil(config.interval)
        """Most epochs of an interval; each draws its samples anew."""
        self.reward_tracker = RewardTracker(config.make_reward(), replicas, device)
        self.contexts = config.make_contexts()
        check_kind(self.task, config.context, self.reward_tracker.reward)

        if config.bounds("width") is not None:
            narrow_parameters(self.task, seed=0, width=0.5)  # a model without narrow forms must show at once
        check_keywords("trainer", Trainer, {"task": None} | dict(config.trainer))
        self.trainer = Trainer(self.task, replicas, device, **config.trainer)
        pick("signal to rank by", config.rank_by, self.trainer.signals.names)

        self.streams = Streams(replicas, device)
        self.context = [Context()] * replicas
        self.targets: NDArray[np.float64] = np.full(replicas, config.ratio)  # (K,) target ratios
        self.stacked_selector = make_stacked_selector(config.selector, self.trainer)
        self.candidate_sampler = CandidateSampler(self.control, self.trainer, self.streams)
        extra = extra_forward_share(config, self.control, self.stacked_selector, self.trainer)
        self.volumes = Volumes(config, self.control, extra)
        self.labels = EpisodeLabels(self.task.dataset, self.contexts.noise)
        usual = "given" if self.control.decides_how_strong else None
        self.augment = usual if config.augment is None else config.augment
        self.controllers = make_controllers(self.augment, self.trainer)

        self.planned: Counts = np.zeros((replicas, config.intervals), np.int64)  # (K, T) by the schedule
        self.finished: Flags = np.ones(replicas, np.bool_)
        """(K,) episodes that are over, or were never begun."""
        self.selection: StackedSelection | None = None
        """What the last interval trained on; None before the first, and in a session that was loaded."""
        self.history = History(replicas, config.intervals, config.bins, self.control.size)
        self.state = self._blank_state()
        self.built = {name: attributes_of(part) for name, part in self.fixed_parts().items()}
        """What `fixed_parts` held when they were built."""

    def _blank_state(self) -> TrainingState:
        size, control = self.trainer.size, self.control
        state = TrainingState.blank(
            self.trainer.signals,
            torch.ones(self.count, size, dtype=torch.bool, device=self.device),
            self.volumes.blank(self.count, size),
            bins=self.config.bins,
            actions=control.size,
            intervals=self.config.intervals,
            target=torch.full((self.count,), self.config.ratio, device=self.device),
        )
        state.candidates = self.candidate_sampler.blank
        return state

    @property
    def observation_names(self) -> list[str]:
        """What each entry of an observation is."""
        return feature_names(self.config.bins, self.control, self.candidate_sampler.embedding)

    @property
    def candidate_shape(self) -> tuple[int, int] | None:
        """(M, F): candidates that an observation ends with, and features of each; else None."""
        features = candidate_names(self.control, self.candidate_sampler.embedding)
        return (self.control.candidates, len(features)) if self.control.candidates else None

    def reset(
        self,
        replicas: Sequence[int],
        rngs: Sequence[np.random.Generator],
        contexts: Sequence[Mapping[str, Any]],
    ) -> None:
        """Begin new episodes.

        Args:
            replicas: which ones.
            rngs: for each of them the generator that its seeds and context are drawn from.
            contexts: for each of them the context values to set; other values are drawn.
        """
        for replica, rng, values in zip(replicas, rngs, contexts, strict=True):
            self._begin(replica, rng, values)
        self.show_targets()
        score = self.trainer.evaluate("validation")
        rows = torch.zeros(self.count, dtype=torch.bool)
        rows[list(replicas)] = True
        rows = rows.to(self.device)

        self.state.restart(rows, score.accuracy)
        self.reward_tracker.restart(RewardInputs(score, self.trainer.signals, self.state.pool), rows)
        self._show(list(replicas))

    def _begin(self, replica: int, rng: np.random.Generator, values: Mapping[str, Any]) -> None:
        # What is drawn, in this order.
        context = replace(self.contexts.fixed(rng, values), dataset=self.dataset)
        labels_seed, model_seed, stream_seed = (int(seed) for seed in rng.integers(2**31, size=3))
        labels, pool = self._labels_and_pool(replica, context, labels_seed)
        shows_validation = bool(rng.random() < self.config.validation_shown)
        own_validation = None
        if not self.config.trusted_validation:
            own_validation = self.labels.validation(context, int(rng.integers(2**31)))

        # A fresh model, and everybody who keeps something of an episode.
        self.trainer.start(replica, model_seed, labels, own_validation, width=context.width, lr=context.lr)
        self.streams.seed(replica, stream_seed)
        noise_rate = float(self.labels.wrong(labels)[pool].float().mean())
        self.stacked_selector.restart(replica, stream_seed, pool.to(self.device), noise_rate)
        self.candidate_sampler.restart(replica)
        if self.controllers is not None and self.augment is not None:
            self.controllers[replica] = make_augmentation(self.augment, self.trainer, replica)
        self.finished[replica] = False
        self.history.clear(replica)

        # What the episode may spend.
        budget, planned = self.volumes.plan(context.ratio, int(pool.sum()))
        self.planned[replica] = planned
        self.state.begin(replica, pool, budget, planned[0], shows_validation=shows_validation)
        self.context[replica] = context

    def show_targets(self) -> None:
        """Let info and state say the target ratios of the contexts."""
        own, usual = [context.ratio for context in self.context], self.config.ratio
        self.targets = np.array([usual if ratio is None else ratio for ratio in own], np.float64)
        self.state.target = torch.from_numpy(self.targets.astype(np.float32)).to(self.device)

    def _labels_and_pool(self, replica: int, context: Context, seed: int) -> tuple[Tensor, Tensor]:
        """Labels to train on (N,), and which samples exist (N,) bool, of one episode."""
        del replica
        return self.labels.train(context, seed)

    def _show(self, replicas: Sequence[int]) -> None:
        """Rank the samples again, and draw candidates for these episodes where the control asks for some."""
        state = self.state
        state.rank(self.config.rank_by, self.control.stability_bins)
        if self.control.candidates:
            state.candidates = self.candidate_sampler.draw(state.candidates, replicas, state.pool)

    def step(self, actions: Actions) -> StepResult:
        """Train every unfinished episode for one interval; finished ones stand still.

        Args:
            actions: (K, A) in [-1, 1].
        """
        state, running = self.state, ~self.finished

        # 1. The control turns actions into a decision; what it leaves open, the settings answer.
        decision = self.control.decide(actions, state)
        number = np.where(running, state.planned if decision.counts is None else decision.counts, 0)
        log_weight = evenly(state.pool) if decision.log_weight is None else decision.log_weight

        # 2. The selector makes samples of it, and 3. the trainer trains every replica on them: once, or once
        # for each epoch of a long interval.
        spent, total = state.budget.progress(state.interval, number)
        parts, done = [], np.array(spent)
        for part in [number] if self.epochs == 1 else by_epoch(number, self.epochs):
            chosen = self.stacked_selector.choose(log_weight, part.tolist(), self.trainer, self.streams)
            give_strengths(decision, self.controllers)
            parts.append((chosen, self._train(chosen, done.tolist(), total)))
            done = done + part
        self.selection, trained = parts[0] if len(parts) == 1 else joined(parts, self.trainer.size)

        # 4. Validation is scored, samples are ranked again, candidates drawn, and the interval is paid for.
        score = self.trainer.evaluate("validation")
        rows = torch.from_numpy(running).to(self.device)
        state.measured(rows, **self._measure(actions, decision, number, self.selection, trained, score))
        self._advance(number, running)
        paid = self._pay(score, rows, number)

        # 5. Reward, info and observation reach the host in one transfer.
        return self._result(paid, running)

    def _train(self, selection: StackedSelection, spent: list[int], total: list[int]) -> Interval:
        """Train on the selected samples, augmented and watched as the settings say."""
        state = self.state
        hooks = make_hooks(self.stacked_selector, self.controllers, self.trainer, self.streams)
        at = torch.from_numpy(state.interval).to(self.device)
        trained = self.trainer.train(selection, at, spent, total, hooks)
        for controller, size in zip(self.controllers or (), selection.counts, strict=False):
            if size:
                controller.end_epoch()
        return trained

    def _measure(
        self,
        actions: Actions,
        decision: Decision,
        number: Counts,
        selection: StackedSelection,
        trained: Interval,
        score: Score,
    ) -> dict[str, Tensor]:
        """What the interval did, for every episode: the values of `TrainingState.measured`."""
        state = self.state
        chosen = selection.index < self.trainer.size
        index = selection.index.clamp(max=self.trainer.size - 1)
        selected = chosen.sum(1).clamp(min=1)

        from_bin = torch.zeros_like(state.selected)
        from_bin.scatter_add_(1, state.bins.gather(1, index), chosen.float())
        wrong = self.trainer.wrong.gather(1, index)
        strength = torch.zeros_like(state.strength)
        if decision.strength is not None:
            strength = (decision.strength.gather(1, index) * chosen).sum(1) / selected

        ratio = (number / state.budget.capacity).astype(np.float32)
        return {
            "ratio": torch.from_numpy(ratio).to(self.device),
            "selected": from_bin / selected[:, None],
            "wrong_labels": (wrong & chosen).sum(1) / selected,
            "strength": strength,
            "train_loss": trained.loss,
            "train_accuracy": trained.accuracy,
            "validation_accuracy": score.accuracy,
            "validation_gain": score.accuracy - state.validation_accuracy,
            "action": torch.from_numpy(actions).to(self.device),
        }

    def _advance(self, number: Counts, running: Flags) -> None:
        """Book the interval, and make ready what the next actions are based on."""
        state = self.state
        if self.control.candidates:
            self.candidate_sampler.book(state.candidates, running)
        state.advance(number, running)
        coming = np.minimum(state.interval, self.config.intervals - 1)
        state.planned = self.planned[np.arange(self.count), coming]
        self._show(np.flatnonzero(running).tolist())

    def _pay(self, score: Score, rows: Tensor, number: Counts) -> Tensor:
        """Payment (K,) for the interval."""
        is_last = torch.from_numpy(self.state.interval >= self.config.intervals).to(self.device)
        inputs = RewardInputs(score, self.trainer.signals, self.state.pool)
        return self.reward_tracker.compute(inputs, rows, torch.from_numpy(number).to(self.device), is_last)

    def observe(self) -> Floats:
        """The observation (K, O), on the host."""
        values: Floats = observe(self.state, self.control).cpu().numpy()
        return values

    def _result(self, paid: Tensor, running: Flags) -> StepResult:
        """Bring reward, info and observation to the host in one transfer."""
        state = self.state
        scalars = {
            "reward": paid,
            "train_loss": state.train_loss,
            "train_accuracy": state.train_accuracy,
            "val_accuracy": state.validation_accuracy,
            "wrong_labels": state.wrong_labels,
            "ratio": state.ratio,
        }
        if self.control.decides_how_strong:
            scalars["strength"] = state.strength
        parts = [torch.stack(list(scalars.values()), 1), state.selected, observe(state, self.control)]
        packed: Floats = torch.cat(parts, 1).cpu().numpy()
        values, selected, observation = np.split(packed, np.cumsum([p.shape[1] for p in parts[:-1]]), axis=1)

        info: Info = dict(zip(scalars, values.T.copy(), strict=True))
        payment = info.pop("reward").astype(np.float64)
        diverged = running & ~np.isfinite(info["train_loss"])
        payment = np.where(diverged, -self.config.divergence_penalty, payment)
        reward = np.where(running, payment, 0.0) * REWARD_SCALE

        self.finished = self.finished | diverged | (state.interval >= self.config.intervals)
        info |= self.info() | {"selected_bins": selected.copy(), "diverged": diverged}
        self.history.add(running, state.interval - 1, info, state.action.cpu().numpy())
        return StepResult(observation.copy(), reward, self.finished.copy(), info)

    def info(self) -> Info:
        """What is known between intervals: contexts and budgets."""
        budget = self.state.budget
        extra_forwards = (
            np.array(self.stacked_selector.extra_forwards) + self.candidate_sampler.extra_forwards
        )
        names = [name for name in (*VALUES, "dataset") if name not in UNSET]
        context = {name: np.array([getattr(c, name) for c in self.context]) for name in names}
        return context | {
            "target_ratio": self.targets.copy(),
            "interval": self.state.interval.copy(),
            "samples_used": budget.spent.copy(),
            "budget_left": budget.left.copy(),
            "extra_forwards": extra_forwards,
        }

    def fixed_parts(self) -> dict[str, Any]:
        """Parts that keep nothing between calls, unless a user's own does."""
        parts = {
            "control": self.control,
            "reward": self.reward_tracker.reward,
            "volume": self.volumes.schedule,
        }
        return parts | ({} if self.task.loss is None else {"loss": self.task.loss})

    def signature(self) -> dict[str, Any]:
        """What another session must have in common for the state of one to fit the other."""
        shapes = {name: tuple(value.shape) for name, value in self.trainer.replicas.parameters_of(0).items()}
        return {"samples": self.trainer.size, "parameters": shapes}
