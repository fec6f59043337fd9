"""What SB3 does beside learning: log the environment, show progress, save, pick the best policy."""

from collections import deque
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from tqdm.auto import tqdm

SCALARS = ("val_accuracy", "train_accuracy", "ratio", "wrong_labels", "strength", "label_noise", "diverged")


class EnvScalars(BaseCallback):
    """Log the environment's training runs beside SB3's scalars, as means over all steps since the last log.

    Tags: `env/val_accuracy`, `env/ratio`, `env/selected_bin_0`, ..., `env/strength` where the control decides
    it, and `env/final_val_accuracy` over the last hundred finished training runs.

    Use::

        from stable_baselines3 import PPO
        from dsenv import EnvScalars, StackedVecEnv
        from dsenv.catalogue import load_vector

        env = StackedVecEnv(load_vector("Tiny-Ratio-v0", num_envs=4, autoreset_mode="SameStep"))
        model = PPO("MlpPolicy", env, n_steps=8, batch_size=32, tensorboard_log="runs", device="cpu")
        model.learn(32, callback=EnvScalars())  # then: tensorboard --logdir runs
    """

    def __init__(self) -> None:
        super().__init__()
        self.finals: deque[float] = deque(maxlen=100)

    def _on_step(self) -> bool:
        infos: list[dict[str, Any]] = self.locals["infos"]
        for name in SCALARS:
            values = [float(info[name]) for info in infos if name in info]
            if values:
                self.logger.record_mean(f"env/{name}", float(np.mean(values)))

        for bin_, share in enumerate(np.mean([info["selected_bins"] for info in infos], axis=0)):
            self.logger.record_mean(f"env/selected_bin_{bin_}", float(share))

        self.finals.extend(float(i["val_accuracy"]) for i in infos if "terminal_observation" in i)
        if self.finals:
            self.logger.record("env/final_val_accuracy", float(np.mean(self.finals)))

        return True


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
        self._bar.close()


def past_evaluations(path: Path) -> dict[str, list[Any]]:
    """What SB3's EvalCallback wrote so far: timesteps, results and ep_lengths; empty if nothing yet.

    Raises:
        ValueError: the file is damaged.
    """
    if not path.is_file():
        return {}

    try:
        with np.load(path) as file:
            return {name: file[name].tolist() for name in ("timesteps", "results", "ep_lengths")}
    except (KeyError, EOFError, OSError, ValueError, BadZipFile) as error:
        raise ValueError(
            f"{path} is damaged ({error}); delete it to go on: the search for the best policy starts again"
        ) from error


class SeededEval(EvalCallback):
    """SB3's EvalCallback, on the same episodes each time, so that a better score is a better policy.

    It reads validation rewards only; the best model is saved as `best_model.zip`.
    """

    def __init__(self, eval_env: Any, seed: int, **settings: Any) -> None:
        super().__init__(eval_env, **settings)
        self._seed = seed

    def _init_callback(self) -> None:
        super()._init_callback()
        before = past_evaluations(Path(f"{self.log_path}.npz"))  # of the same run before it was interrupted
        if before:
            self.evaluations_timesteps = before["timesteps"]
            self.evaluations_results = before["results"]
            self.evaluations_length = before["ep_lengths"]
            self.best_mean_reward = max(float(np.mean(rewards)) for rewards in self.evaluations_results)

    def _on_step(self) -> bool:
        if self.eval_freq > 0 and self.n_calls % self.eval_freq == 0:
            self.eval_env.seed(self._seed)
        return super()._on_step()


class SaveLast(BaseCallback):
    """Save the model as `last_model.zip` at regular intervals, and at the end.

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
            partial = self._folder / "replay_buffer.partial.pkl"
            self.model.save_replay_buffer(partial)
            partial.replace(self._folder / "replay_buffer.pkl")
