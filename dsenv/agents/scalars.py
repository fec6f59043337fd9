"""EnvScalars: the training runs that an agent controls, beside the agent's own curves in TensorBoard."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import TensorBoardOutputFormat

from dsenv.agents.pictures import Pictures
from dsenv.errors import check_count
from dsenv.tracking import names
from dsenv.tracking.constant import NORMAL, Changing
from dsenv.tracking.layout import training_layout

ALWAYS = {"val_accuracy": names.VALIDATION_ACCURACY, "train_accuracy": names.TRAIN_ACCURACY}
"""Names in an environment's info, and those of the curves."""
WHERE_IT_CHANGES = {
    "ratio": names.SHARE,
    "wrong_labels": names.WRONG,
    "strength": names.STRENGTH,
    "diverged": names.DIVERGED,
}
"""The same of curves that TensorBoard gets once they have changed."""


class EnvScalars(BaseCallback):
    """Logs the environment's training runs beside SB3's scalars, and makes pictures of them.

    Curves over the agent's environment steps, each point the mean over all steps since the last log:

    | tag | what |
    |---|---|
    | `accuracy/validation`, `accuracy/training` | of the models in training, in [0, 1] |
    | `accuracy/validation at the end` | the same where it ended, mean of the last hundred training runs |
    | `chosen/share of the data` | that an interval trains on |
    | `chosen/wrong labels` | their share among the samples chosen |
    | `chosen/augmentation strength` | mean over the samples chosen |
    | `chosen/training runs that diverged` | share of the steps |

    TensorBoard does not get a curve of `chosen/` that never changes (of runs that diverged: that stays 0).
    Beside the curves it gets, `pictures` times in the agent's training: `chosen/share from each loss bin`
    over the agent's steps and by interval,
    `chosen/images chosen and left out` (where samples are images), histograms of the `pool/` of samples
    (losses, confidences) and of the `policy/` (its actions, in the units of their meaning) in the first, the
    middle and the last but one interval; and a layout of the tab "Custom Scalars". Pictures of samples need
    the environments in this process: `StackedVecEnv`, `DummyVecEnv`.

    Use::

        from stable_baselines3 import PPO
        from dsenv import EnvScalars, StackedVecEnv
        from dsenv.catalogue import load_vector

        env = StackedVecEnv(load_vector("Tiny-Ratio-v0", num_envs=4, autoreset_mode="SameStep"))
        model = PPO("MlpPolicy", env, n_steps=8, batch_size=32, tensorboard_log="runs", device="cpu")
        model.learn(32, callback=EnvScalars())  # then: tensorboard --logdir runs

    Args:
        pictures: how often pictures and histograms are made in the whole training; 0 for never.
        layout_first: categories of the layout that stand before those of the training.
    """

    def __init__(self, *, pictures: int = 4, layout_first: Sequence[str] = ()) -> None:
        super().__init__()
        self.finals: deque[float] = deque(maxlen=100)
        """Validation accuracy at the end of the last finished training runs."""
        self._changing = Changing()
        self._pictures = Pictures(check_count("pictures", pictures, 0))
        self._layout_first = tuple(layout_first)
        self._reached = 0  # environment steps of the agent, at the last step

    def _on_training_start(self) -> None:
        if self.num_timesteps < self._reached:  # another training, whose log begins at 0
            self.finals.clear()
            self._changing = Changing()
            self._pictures = Pictures(self._pictures.number)
        writer = self._writer()
        if writer is not None:
            writer.add_custom_scalars(training_layout(self._layout_first))

    def _writer(self) -> Any:
        """TensorBoard's writer behind the logger; None where there is none."""
        outputs = self.logger.output_formats
        return next((one.writer for one in outputs if isinstance(one, TensorBoardOutputFormat)), None)

    def _on_step(self) -> bool:
        infos: list[dict[str, Any]] = self.locals["infos"]
        if self._reached == 0:
            _check_infos(infos)
        self._reached = self.num_timesteps
        writer = self._writer()

        # Curves
        for name, tag in ALWAYS.items():
            values = [float(info[name]) for info in infos if name in info]
            if values:
                self.logger.record_mean(tag, float(np.mean(values)))
        for name, tag in WHERE_IT_CHANGES.items():
            values = [float(info[name]) for info in infos if name in info]
            if values:
                self._record_where_it_changes(tag, float(np.mean(values)), writer)
        self.finals.extend(
            float(i["val_accuracy"]) for i in infos if {"terminal_observation", "val_accuracy"} <= i.keys()
        )
        if self.finals:
            self.logger.record(names.FINAL_ACCURACY, float(np.mean(self.finals)))

        # Pictures
        if writer is not None and self._pictures.number and all("selected_bins" in info for info in infos):
            self._pictures.collect(infos)
            total = getattr(self.model, "_total_timesteps", 0)
            self._pictures.look(self.training_env, writer, self.num_timesteps, total)
        return True

    def _record_where_it_changes(self, tag: str, value: float, writer: Any) -> None:
        """Log a value; TensorBoard gets the series once it has changed, and its constant past then."""
        points = self._changing.points(tag, self.num_timesteps, value, NORMAL.get(tag))
        self.logger.record_mean(tag, value, exclude=None if points else "tensorboard")
        if writer is not None:
            for step, past in points[:-1]:
                writer.add_scalar(tag, past, step)

    def _on_rollout_end(self) -> None:
        self._pictures.close_point(self.num_timesteps)

    def state_dict(self) -> dict[str, Any]:
        """The finished training runs that the means are of, and what was collected for pictures."""
        return {
            "calls": self.n_calls,
            "finals": list(self.finals),
            "changing": self._changing.state_dict(),
            "pictures": self._pictures.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`; one of an older version has no pictures."""
        self.n_calls = int(state["calls"])
        self.finals = deque(state["finals"], maxlen=self.finals.maxlen)
        if "changing" in state:
            self._changing.load_state_dict(state["changing"])
            self._pictures.load_state_dict(state["pictures"])


def _check_infos(infos: Sequence[Mapping[str, Any]]) -> None:
    """Refuse environments that say nothing of a training run."""
    if not any("val_accuracy" in info for info in infos):
        known = ", ".join(sorted({key for info in infos for key in info})) or "nothing"
        raise ValueError(
            f"EnvScalars logs the training runs of dsenv's environments, and the infos of these hold "
            f"{known}, no val_accuracy: leave the callback out, or let the wrappers pass the infos on"
        )
