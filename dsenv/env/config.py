"""EnvConfig: every setting of an environment, with its default."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dsenv.catalogue import Choice, build_part
from dsenv.control.base import ACTION_KINDS, Control
from dsenv.control.registry import make_control
from dsenv.env.context import ContextSpace
from dsenv.env.reward import REWARDS
from dsenv.errors import check_keywords, check_share, pick
from dsenv.tasks.task import Task
from dsenv.volume.base import VolumeSchedule
from dsenv.volume.budget import FORWARD_COST
from dsenv.volume.registry import SCHEDULES


@dataclass(frozen=True, kw_only=True)
class EnvConfig:
    """Settings of a `TrainingEnv`, as they stand under [kwargs] in its TOML.

    Raises:
        ValueError: a setting is unknown or out of range.
    """

    task: Mapping[str, Any] | Task
    """What is trained: a table for `Task.from_config`, or a `Task`."""
    control: Choice = "curriculum"
    """Which question the action answers: a name in `CONTROLS`, or a table with `name` and settings."""
    actions: str = "box"
    """"box" for actions in [-1, 1], "discrete" for the control's `choices`, or "binary" for a mask."""
    selector: Choice | None = None
    """Which samples, where the control leaves that open (ratio, strength, rule): a name in `SELECTORS` or a
    table with `name`; None for uniformly random ones."""
    volume: Choice | None = None
    """How many, where the control leaves that open (curriculum, mask, strength, rule): a name in `SCHEDULES`
    or a table with `name`; None for a constant ratio."""
    augment: Choice | None = None
    """Augmentation controller: a name in `CONTROLLERS` or a table with `name`; None for none. Where the
    control decides strengths (strength, joint), only the ops can be set: {name = "given", ops = [...]}."""
    reward: str = "validation"
    """What the agent is paid: a name in `REWARDS`."""
    ratio: float = 0.5
    """Target share of the sample presentations of training on everything, (0, 1]."""
    intervals: int = 12
    """Environment steps in an episode, at least 2."""
    interval: float = 1.0
    """Length of one interval as a share of an epoch, (0, 1]. With the control "mask" an interval is as long
    as its candidates are many, and this is not read."""
    bins: int = 5
    """Loss-rank bins of the observation and of the curriculum, 2 to 64."""
    rank_by: str = "loss"
    """Signal that ranks the samples for the bins."""
    context: Mapping[str, Any] = field(default_factory=dict)
    """What is drawn at each reset: arguments of `ContextSpace`."""
    evaluation_contexts: Sequence[Mapping[str, float]] = ({},)
    """Context values that evaluation goes through; values that one leaves out are drawn."""
    train_on_validation: bool = False
    """Add the validation split to the training samples: the control for what trusted labels are worth."""
    divergence_penalty: float = 1.0
    """Loss of accuracy that the reward books when the loss is no longer finite."""
    validation_shown: float = 1.0
    """Share of the episodes whose observation shows the validation accuracy, [0, 1]; its two entries are 0 in
    the others. The reward may use the split all the same."""
    trainer: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of `Trainer`: form, precision, channels_last, compile."""

    def __post_init__(self) -> None:
        self._check_types()
        pick("kind of actions", self.actions, ACTION_KINDS)
        pick("reward", self.reward, REWARDS)
        check_share("ratio", self.ratio)
        check_share("interval", self.interval)
        check_share("validation_shown", self.validation_shown, zero=True)
        if self.intervals < 2:
            raise ValueError(f"an episode needs at least 2 intervals, got {self.intervals}")
        if not 2 <= self.bins <= 64:
            raise ValueError(f"bins must be from 2 to 64, got {self.bins}")
        for context in self.evaluation_contexts:  # a mistake must show before the agent is trained
            if not isinstance(context, Mapping):
                raise ValueError(f"evaluation_contexts must be a list of tables, got {context!r} in it")
            ContextSpace(**dict[str, Any](context))

    def _check_types(self) -> None:
        """Settings come from TOML and the command line: a wrong type is the user's mistake."""
        wanted: dict[str, tuple[str, type | tuple[type, ...]]] = {
            "a table": ("task context trainer", (Mapping, Task)),
            "a number": ("ratio interval divergence_penalty validation_shown", (int, float)),
            "a whole number": ("intervals bins", int),
            "text": ("actions reward rank_by", str),
            "a list of tables": ("evaluation_contexts", Sequence),
        }
        for kind, (names, types) in wanted.items():
            for name in names.split():
                value = getattr(self, name)
                if not isinstance(value, types):
                    raise ValueError(f"{name} must be {kind}, got {value!r}")

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "EnvConfig":
        """Check the names of the settings, then build.

        Raises:
            ValueError: a setting is unknown; the message names the nearest one.
        """
        check_keywords("environment", cls, settings)
        return cls(**settings)

    def make_task(self) -> Task:
        """The task, with the validation split added to its training samples where that is asked for."""
        if isinstance(self.task, Task):
            task = self.task
        else:
            check_keywords("task", Task.from_config, self.task)
            task = Task.from_config(**self.task)
        return task.with_validation_in_training() if self.train_on_validation else task

    def make_control(self) -> Control:
        """The control.

        Raises:
            ValueError: the control offers no such actions, or leaves no room for a part that is set.
        """
        control = make_control(self.control, self.bins, self.ratio, binary=self.actions == "binary")
        if self.actions not in control.kinds:
            raise ValueError(
                f"control {self.control!r} has no {self.actions} actions; set actions to one of "
                f"{', '.join(control.kinds)}"
            )
        decided = {
            "selector": (control.decides_what, "what to train on"),
            "volume": (control.decides_how_much, "how much to train on"),
            "augment": (control.decides_how_strong, "how strongly samples are augmented"),
        }
        for part, (is_decided, question) in decided.items():
            choice = getattr(self, part)
            only_ops = isinstance(choice, Mapping) and choice.get("name") == "given"
            if choice is not None and is_decided and not only_ops:
                raise ValueError(f"{part} = {choice!r}: the control {self.control!r} decides {question}")
        return control

    def ratio_after(self, looked: float) -> float:
        """Ratio left for training when the budget pays for forward passes without training.

        Args:
            looked: samples of those passes over all presentations that the intervals could hold; each costs
                a third of a presentation.

        Raises:
            ValueError: nothing is left.
        """
        left = self.ratio - FORWARD_COST * looked
        if left <= 0:
            raise ValueError(
                f"ratio {self.ratio} over {self.intervals} intervals does not pay for looking at "
                f"{looked:.0%} of the presentations without training, at a third of one each; raise the "
                "ratio or the number of intervals"
            )
        return left

    def make_schedule(self, target: float) -> VolumeSchedule:
        """The volume schedule with this mean ratio."""
        known = {"target": target}
        schedule: VolumeSchedule = build_part(
            "volume", SCHEDULES, self.volume or "constant", known, VolumeSchedule
        )
        if abs(schedule.target - target) > 1e-9:
            raise ValueError(
                f"the volume's target {schedule.target} is not the environment's ratio {self.ratio}: leave "
                "volume.target out and set ratio"
            )
        return schedule

    def make_contexts(self) -> ContextSpace:
        """The distribution of contexts."""
        return ContextSpace(**self.context)
