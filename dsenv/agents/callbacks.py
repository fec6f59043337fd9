"""What SB3 does beside learning: show progress, write events, save, pick the best policy."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import TensorBoardOutputFormat
from tqdm.auto import tqdm

from dsenv import files
from dsenv.agents.checkpoint import (
    State,
    copied,
    load_logger_state,
    load_model_state,
    load_random_state,
    logger_state,
    model_state,
    numbers_of,
    parameters,
    random_state,
)
from dsenv.agents.scalars import EnvScalars


class ProgressBar(BaseCallback):
    """A bar over the environment steps, with the numbers that matter.

    Args:
        total: environment steps at the end of the agent's training.
        scalars: where finished training runs are collected.
    """

    def __init__(self, total: int, scalars: EnvScalars) -> None:
        super().__init__()
        self._total, self._scalars = total, scalars
        self._bar: Any = None

    def _on_training_start(self) -> None:
        start = self.model.num_timesteps
        self._bar = tqdm(
            total=self._total, initial=start, unit="step", desc="training the agent", mininterval=0.5
        )

    def _on_step(self) -> bool:
        self._bar.update(self.model.num_timesteps - self._bar.n)
        return True

    def _on_rollout_end(self) -> None:
        if self._scalars.finals and self.model.ep_info_buffer:
            episodes = [episode["r"] for episode in self.model.ep_info_buffer]
            self._bar.set_postfix(
                reward=f"{np.mean(episodes):.2f}",
                val_accuracy=f"{np.mean(self._scalars.finals):.4f}",
                refresh=False,
            )

    def _on_training_end(self) -> None:
        self.close()

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()


class EventFile(TensorBoardOutputFormat):
    """SB3's TensorBoard output, which hides what a killed process logged after its last checkpoint.

    Args:
        folder: of the event files.
        purge_step: events of earlier files are hidden from this step on; None to hide none.
    """

    def __init__(self, folder: str, purge_step: int | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if purge_step is not None:
            _wait_for_the_next_second(Path(folder))
        self._folder = folder
        self.writer = SummaryWriter(log_dir=folder, purge_step=purge_step)
        self._is_closed = False

    def write(self, key_values: Any, key_excluded: Any, step: int = 0) -> None:
        """Log values; an event file that cannot be written is named."""
        with files.naming(f"the event file in {self._folder}"):
            super().write(key_values, key_excluded, step)

    def close(self) -> None:
        """Close the event file, once."""
        if not self._is_closed:
            self._is_closed = True
            self.writer.close()


def _wait_for_the_next_second(folder: Path) -> None:
    """Wait until a new event file sorts behind those of before: their names begin with seconds."""
    names = (path.name.split(".") for path in folder.glob("events.out.tfevents.*"))
    newest = max((int(parts[3]) for parts in names if parts[3].isdigit()), default=0)
    while newest - 2 < time.time() < newest + 1:
        time.sleep(0.02)


class SeededEval(BaseCallback):
    """Evaluates the policy on the same episodes each time, so that a better score is a better policy.

    It reads validation rewards only, logs their mean as `eval/mean_reward`, and keeps the parameters of the
    best policy so far.

    Args:
        eval_env: environments of its own.
        seed: of the episodes.
        n_eval_episodes: how many.
        eval_freq: vector steps between two evaluations.
    """

    def __init__(self, eval_env: Any, seed: int, n_eval_episodes: int, eval_freq: int) -> None:
        super().__init__()
        self._env = eval_env
        self._seed = seed
        self._episodes = n_eval_episodes
        self._every = eval_freq

        self.record: dict[str, list[Any]] = {"timesteps": [], "results": [], "ep_lengths": []}
        self.best: State | None = None
        self.is_new = False

    @property
    def best_mean_reward(self) -> float:
        """The best mean so far; -inf before the first evaluation."""
        return -np.inf if self.best is None else float(self.best["mean_reward"])

    def _on_step(self) -> bool:
        if self.n_calls % self._every == 0:
            self.evaluate()
        return True

    def evaluate(self) -> None:
        """Evaluate the policy as it is now."""
        self._env.seed(self._seed)
        rewards, lengths = evaluate_policy(
            self.model, self._env, n_eval_episodes=self._episodes, return_episode_rewards=True
        )

        new = (self.model.num_timesteps, [float(r) for r in rewards], [int(n) for n in lengths])  # type: ignore[union-attr]
        for values, value in zip(self.record.values(), new, strict=True):
            values.append(value)
        mean = float(np.mean(rewards))
        self.logger.record("eval/mean_reward", mean)
        self.logger.record("eval/mean_ep_length", float(np.mean(lengths)))
        self.logger.dump(self.model.num_timesteps)

        if mean > self.best_mean_reward:
            self.best = {
                "mean_reward": mean,
                "parameters": parameters(self.model),
                "numbers": numbers_of(self.model),
            }
        self.is_new = True

    def state_dict(self) -> State:
        """The record of all evaluations, and the best policy."""
        record = {name: list(values) for name, values in self.record.items()}
        return {"calls": self.n_calls, "record": record, "best": self.best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.n_calls = int(state["calls"])
        self.record = {name: list(state["record"][name]) for name in self.record}
        self.best = copied(state["best"])


class Checkpoints(BaseCallback):
    """Hands out all that must agree, at points from which training goes on bit for bit: rollout starts.

    The first rollout start is one, then the first after each evaluation, and after `seconds` without one.

    Args:
        save: takes the state, and whether it is one to show: an evaluation was made, or training stops.
        parts: callbacks with a state, by name.
        evaluation: the one among them that evaluates.
        seconds: time between two checkpoints.
        must_stop: asked at each rollout start; where it says so, the state is saved and training stops.
        resume: the state to go on from, of the same settings; None for a new model.
    """

    def __init__(
        self,
        save: Callable[[State, bool], None],
        parts: Mapping[str, Any],
        evaluation: SeededEval,
        seconds: float,
        must_stop: Callable[[], bool],
        resume: State | None = None,
    ) -> None:
        super().__init__()
        self._save = save
        self._parts = parts
        self._evaluation = evaluation
        self._seconds = seconds
        self._must_stop = must_stop
        self._resume = resume
        self._last: float | None = None
        self.has_stopped = False

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self._resume is not None:
            # SB3 drew and reset a few things on the way here
            self.load(self._resume)
            self._resume, self._last = None, time.monotonic()

        is_due = self._last is None or time.monotonic() - self._last >= self._seconds
        if self._must_stop():
            self.save(is_last=True)
            self.has_stopped = True
            raise KeyboardInterrupt
        if is_due or self._evaluation.is_new:
            self.save()

    def save(self, *, at_end: bool = False, is_last: bool = False) -> None:
        """Hand out the state.

        Args:
            at_end: all steps are done, and no rollout begins.
            is_last: training stops here.
        """
        env: Any = self.training_env
        agent = model_state(self.model)
        if at_end:
            agent["gsde"] = []  # the next rollout has drawn its own
        state = {
            "agent": agent,
            "env": env.state_dict(),
            "parts": {name: part.state_dict() for name, part in self._parts.items()},
            "logger": logger_state(self.logger),
            "random": random_state(self.model),
            "at_end": at_end,
        }
        self._save(state, self._evaluation.is_new or at_end or is_last)
        self._evaluation.is_new = False
        self._last = time.monotonic()

    def load(self, state: Mapping[str, Any]) -> None:
        """Bring model, environment, callbacks, logger and random streams to a saved state."""
        env: Any = self.training_env
        load_model_state(self.model, state["agent"])
        if state["agent"]["num_envs"] == self.model.n_envs:
            env.load_state_dict(state["env"])
        for name, part in self._parts.items():
            part.load_state_dict(state["parts"][name])
        load_logger_state(self.logger, state["logger"])
        load_random_state(self.model, state["random"])
