"""What SB3 does beside learning: log the environment, show progress, save, pick the best policy."""

from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from tqdm.auto import tqdm

SCALARS = ("val_accuracy", "train_accuracy", "ratio", "wrong_labels", "label_noise", "diverged")


class EnvScalars(BaseCallback):
    """Log the inner trainings beside SB3's own scalars, as means over the steps of a rollout.

    Tags: `env/val_accuracy`, `env/ratio`, `env/selected_bin_0`, ..., and `env/final_val_accuracy` over the
    last hundred finished trainings.
    """

    def __init__(self) -> None:
        super().__init__()
        self.finals: deque[float] = deque(maxlen=100)
        self._sums: dict[str, float] = {}
        self._count = 0

    def _on_step(self) -> bool:
        infos: list[dict[str, Any]] = self.locals["infos"]
        for name in SCALARS:
            values = [info[name] for info in infos if name in info]
            self._sums[name] = self._sums.get(name, 0.0) + float(np.sum(values))
        for bin_, share in enumerate(np.sum([info["selected_bins"] for info in infos], axis=0)):
            name = f"selected_bin_{bin_}"
            self._sums[name] = self._sums.get(name, 0.0) + float(share)
        self._count += len(infos)
        self.finals.extend(float(i["val_accuracy"]) for i in infos if "terminal_observation" in i)
        return True

    def _on_rollout_end(self) -> None:
        if not self._count:
            return
        for name, total in self._sums.items():
            self.logger.record(f"env/{name}", total / self._count)
        if self.finals:
            self.logger.record("env/final_val_accuracy", float(np.mean(self.finals)))
        self._sums, self._count = {}, 0


class ProgressBar(BaseCallback):
    """A bar over the environment steps, with the numbers that matter.

    Args:
        total: environment steps at the end of the training.
        scalars: where finished trainings are collected.
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
        self._bar.close()


class SeededEval(EvalCallback):
    """SB3's EvalCallback, on the same episodes each time, so that a better score is a better policy.

    It reads validation rewards alone; the best model is saved as `best_model.zip`.
    """

    def __init__(self, eval_env: Any, seed: int, **settings: Any) -> None:
        super().__init__(eval_env, **settings)
        self._seed = seed

    def _init_callback(self) -> None:
        super()._init_callback()
        path = Path(f"{self.log_path}.npz")  # of the same run before it was interrupted
        if path.is_file():
            with np.load(path) as before:
                self.evaluations_timesteps = before["timesteps"].tolist()
                self.evaluations_results = before["results"].tolist()
                self.evaluations_length = before["ep_lengths"].tolist()
            self.best_mean_reward = max(float(np.mean(rewards)) for rewards in self.evaluations_results)

    def _on_step(self) -> bool:
        if self.eval_freq > 0 and self.n_calls % self.eval_freq == 0:
            self.eval_env.seed(self._seed)
        return super()._on_step()


class SaveLast(BaseCallback):
    """Save the model as `last_model.zip` now and then, and at the end.

    Args:
        folder: the run's folder.
        every: vector steps between two saves.
    """

    def __init__(self, folder: Path, every: int) -> None:
        super().__init__()
        self._folder, self._every = folder, max(1, every)

    def _on_step(self) -> bool:
        if self.n_calls % self._every == 0:
            self.save()
        return True

    def save(self) -> None:
        """Write the model, and the replay buffer of an off-policy one; a broken write leaves the old file."""
        partial = self._folder / "last_model.partial.zip"
        self.model.save(partial)
        partial.replace(self._folder / "last_model.zip")
        if isinstance(self.model, OffPolicyAlgorithm):
            self.model.save_replay_buffer(self._folder / "replay_buffer.pkl")
