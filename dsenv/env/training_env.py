"""TrainingEnv: one training run as a Gymnasium environment."""

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from dsenv.env.config import EnvConfig
from dsenv.env.episodes import Episodes, as_array
from dsenv.env.interface import (
    METADATA,
    Described,
    check_options,
    check_render_mode,
    check_reset_seed,
    choose_device,
    make_spaces,
)
from dsenv.env.render import draw, summarise
from dsenv.env.results import Info
from dsenv.env.snapshot import Forkable
from dsenv.env.vector_env import TrainingVectorEnv

Observation = NDArray[np.float32]


class TrainingEnv(Described, Forkable, gymnasium.Env[Any, Any]):
    """Train a model; each step decides what the next interval of training sees.

    **Action space**: Box(-1, 1, (A,), float32), by control:

    - "curriculum": component b is the log weight of loss-rank bin b over its sharpness (bin 0 holds the
      smallest losses); samples are drawn without replacement. The last component says how many of the largest
      losses are left out first: the estimated share of wrong labels times a factor from 0, at -1, to 2, at 1.
      The action of zeros is the rule `trim`; with control.trim = false this component is not there.
    - "ratio": the one component is the share of the data to train on.
    - "mask": a score for each of M candidates that the observation shows; the best are trained on. With
      actions = "binary" it is MultiBinary(M), a yes or no for each.
    - "strength": the augmentation strength of each stability bin (bin 0 holds the steadiest samples).
    - "joint": curriculum, ratio and strength, one after the other.
    - "rule": ignored; the environment follows its `selector` and `volume`.

    `action_names` says it in words, and `control.encode` and `control.decode` translate. With actions =
    "discrete" it is Discrete(n); `control.choices()` lists what each number stands for.

    **Observation space**: Box(-1, 1, (O,), float32): progress, budget, loss and confidence quantiles of the
    training samples, the estimated share of wrong labels, what happened in each loss-rank bin, validation
    accuracy and the last action.
    `observation_names` lists every entry. Nothing in it depends on the size of data or model.

    **Reward**: ten times the gain in accuracy on the validation split, or what `reward` names:
    "validation", "final", "cost_aware" or "composite".

    **Start**: a fresh model. Label noise, imbalance, subset, width, learning rate and data set are drawn
    from `context` and `datasets`; `reset(options={"context": {"label_noise": 0.4}})` sets them.

    **End**: `terminated` after `intervals` steps, when the budget is spent, `ratio` times the samples of
    all intervals (with spend_all = false some may be left), or when the loss is no longer finite
    (`info["diverged"]`). Never `truncated`.

    **Info**: the context, ratio, train_loss, train_accuracy, val_accuracy, wrong_labels (share of the
    selected samples with a wrong label; for analysis, the agent does not see it), selected_bins,
    samples_used, budget_left, extra_forwards (samples of forward passes without training) and diverged;
    strength, the mean over the selected samples, where the control decides it.

    Use::

        import numpy as np
        from dsenv import TrainingEnv

        task = {"dataset": {"name": "digits", "train": 200}, "model": {"name": "mlp", "hidden": [16]}}
        env = TrainingEnv(task=task, control="curriculum", ratio=0.5, intervals=4)
        observation, info = env.reset(seed=0, options={"context": {"label_noise": 0.4}})
        terminated = False
        while not terminated:  # mostly small losses, and none of the labels that seem wrong
            action = np.array([1.0, 0.5, 0.0, -0.5, -1.0, 0.0], dtype=np.float32)
            observation, reward, terminated, truncated, info = env.step(action)
        print(info["val_accuracy"], info["wrong_labels"])

    Args:
        render_mode: "rgb_array" for a figure of the training run so far, "ansi" for a line of text.
        device: "auto", "cpu", "cuda" or "cuda:1".
        settings: see `EnvConfig`.
    """

    metadata = METADATA
    _random = ("_np_random", "_np_random_seed")
    _kind = "TrainingEnv"

    def __init__(self, *, render_mode: str | None = None, device: str = "auto", **settings: Any) -> None:
        self.render_mode = check_render_mode(render_mode)
        self.config = EnvConfig.of(settings)
        self.episodes = Episodes(self.config, 1, choose_device(device), draws=True)
        self.observation_space, self.action_space = make_spaces(self.episodes)

    @classmethod
    def vector_class(cls) -> type[TrainingVectorEnv]:
        """The class that runs many of these environments as one tensor program."""
        return TrainingVectorEnv

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin a new training run.

        Args:
            seed: decides every later episode of this environment.
            options: {"context": {...}} sets context values of this episode; the others are drawn.

        Raises:
            ValueError: an option or context name is unknown, or a value out of range.
        """
        given = check_options(options, ("context",))
        super().reset(seed=check_reset_seed(seed))
        self.episodes.reset([0], [self.np_random], [given.get("context")])
        return self.episodes.observe()[0], _row(self.episodes.info())

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Train for one interval.

        Raises:
            RuntimeError: the episode is over or was never begun.
            ValueError: the action has another shape, or is NaN.
        """
        if self.episodes.finished[0]:
            raise RuntimeError("the episode is over, or was never begun: call reset() before step()")
        result = self.episodes.step(as_array("action", action)[None])
        info = _row(result.info)
        return result.observation[0], float(result.reward[0]), bool(result.terminated[0]), False, info

    def render(self) -> Any:
        """The training run so far: an (H, W, 3) uint8 figure, or a line of text."""
        if self.render_mode == "rgb_array":
            return draw(*self.episodes.part_of(0))
        return summarise(*self.episodes.part_of(0)) if self.render_mode == "ansi" else None


def _row(info: Info) -> dict[str, Any]:
    """The only episode's info, as plain numbers and fresh arrays."""
    return {name: value[0].copy() if value.ndim > 1 else value[0].item() for name, value in info.items()}
