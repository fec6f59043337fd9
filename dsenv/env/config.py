"""EnvConfig: every setting of an environment, with its default."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from dsenv.augment import CONTROLLERS, AugmentationController
from dsenv.catalogue import Choice, as_table, build_part, describe_part, merge, part_type, part_words
from dsenv.control.base import ACTION_KINDS, Control
from dsenv.control.registry import make_control
from dsenv.env.context_space import ContextSpace
from dsenv.env.rewards import Reward, make_reward
from dsenv.errors import check_count, check_flag, check_keywords, check_number, check_share, pick, shown
from dsenv.select.base import Selector
from dsenv.tasks.dataset import Dataset
from dsenv.tasks.task import Task
from dsenv.volume.base import VolumeSchedule
from dsenv.volume.budget import FORWARD_COST, LONGEST_INTERVAL
from dsenv.volume.constant import Constant
from dsenv.volume.registry import SCHEDULES

MOST_INTERVALS = 100_000
CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "ratio": check_share,
    "interval": partial(check_number, low=0, high=LONGEST_INTERVAL, open_low=True),
    "validation_shown": partial(check_share, zero=True),
    "divergence_penalty": partial(check_number, low=0, high=1e6),
    "intervals": partial(check_count, least=2, most=MOST_INTERVALS),
    "bins": partial(check_count, least=2, most=64),
    **dict.fromkeys(("spend_all", "train_on_validation", "trusted_validation"), check_flag),
}
"""Settings that are numbers or flags, each with its check, which returns a plain one."""


@dataclass(frozen=True, kw_only=True)
class EnvConfig:
    """Settings of a `TrainingEnv`, as they stand under [kwargs] in its TOML.

    Use::

        from dsenv import EnvConfig, TrainingEnv

        task = {"dataset": {"name": "digits", "train": 200}, "model": {"name": "mlp", "hidden": [16]}}
        settings = {"task": task, "control": "ratio", "ratio": 0.5, "intervals": 4}
        config = EnvConfig(**settings)  # checks every setting
        env = TrainingEnv(**settings)  # takes the same ones
        print(env.config.bins, config.reward)

    Raises:
        ValueError: a setting is unknown or out of range.
    """

    task: Mapping[str, Any] | Task
    """What is trained: a table for `Task.from_config`, or a `Task`."""
    control: str | Mapping[str, Any] = "curriculum"
    """Which question the action answers: a name in `CONTROLS`, or a table with `name` and settings."""
    actions: str = "box"
    """"box" for actions in [-1, 1], "discrete" for the control's `choices`, or "binary" for a mask."""
    selector: Choice | Selector | None = None
    """Which samples, where the control leaves that open (ratio, strength, rule): a name in `SELECTORS`, a
    table with `name` and settings, "module:Class", a class, a factory or a `Selector`, of which every
    episode gets a copy; None for uniformly random ones."""
    volume: Choice | VolumeSchedule | None = None
    """How many, where the control leaves that open (curriculum, mask, strength, rule): a name in `SCHEDULES`,
    or any other form as for `selector`; None for a constant ratio."""
    augment: Choice | AugmentationController | None = None
    """Augmentation controller: a name in `CONTROLLERS`, or any other form as for `selector`; None for none.
    Where the control decides strengths (strength, joint), only the ops can be set:
    {name = "given", ops = [...]}."""
    reward: Choice | Reward = "validation"
    """What the agent is paid: a name in `REWARDS`, or any other form as for `selector`."""
    ratio: float = 0.5
    """Target share of the samples that training on everything would see, (0, 1]."""
    spend_all: bool = True
    """Whether the whole budget is spent, whatever the agent does. With false, `ratio` is an upper bound: the
    control has to decide how much, every interval gets its `minimum` at least, the episode still ends after
    `intervals` steps, and the learning rate follows the intervals instead of the budget."""
    intervals: int = 12
    """Environment steps in an episode, 2 to 100,000."""
    interval: float = 1.0
    """Length of one interval in epochs, (0, 100]. One of several epochs draws its samples anew in each of
    them, all by one decision. With the control "mask" an interval is as long as its candidates are many, and
    this is not read."""
    bins: int = 5
    """Loss-rank bins of the observation and of the curriculum, 2 to 64."""
    rank_by: str = "loss"
    """Signal that ranks the samples for the bins."""
    context: Mapping[str, Any] = field(default_factory=dict)
    """What is drawn at each reset: arguments of `ContextSpace`."""
    datasets: Sequence[Mapping[str, Any]] = ()
    """Several data sets: tables laid over `task` (dataset, model, recipe), each with an optional `name` and
    `interval` of its own. A single environment draws one at each reset; environment k of a stacked one works
    on the k-th, in turn."""
    evaluation_contexts: Mapping[str, Any] | Sequence[Mapping[str, Any]] = ({},)
    """Context values that evaluation goes through, values that one leaves out are drawn: tables as
    `ContextSpace.expand` takes them."""
    train_on_validation: bool = False
    """Add the validation split to the training samples, as a reference: what are trusted labels worth?"""
    trusted_validation: bool = True
    """Whether the validation split keeps its clean labels. With false they are corrupted like the training
    labels (same kinds and shares, drawn anew for each episode), and neither rewards nor observations see a
    clean label. `info["val_accuracy"]` is then against the wrong labels too; the test split stays clean."""
    divergence_penalty: float = 1.0
    """Loss of accuracy that the reward books when the loss is no longer finite, 0 to 10^6."""
    validation_shown: float = 1.0
    """Share of the episodes whose observation shows the validation accuracy, [0, 1]; its two entries are 0 in
    the others. The reward may use the split all the same."""
    trainer: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of `Trainer`: form, precision, channels_last, compile, threads."""

    def __post_init__(self) -> None:
        self._check_kinds()
        for name, check in CHECKS.items():  # NumPy's numbers become plain ones
            object.__setattr__(self, name, check(name, getattr(self, name)))
        pick("kind of actions", self.actions, ACTION_KINDS)

        self.make_reward()
        if self.train_on_validation and not self.trusted_validation:
            raise ValueError(
                "train_on_validation adds clean labels, and trusted_validation = false hides them; set one"
            )
        self.evaluation()  # a mistake must show before the agent is trained

    def _check_kinds(self) -> None:
        """Settings come from TOML and the command line: a wrong type is the user's mistake."""
        wanted: dict[str, tuple[str, type | tuple[type, ...]]] = {
            "a table": ("context trainer", Mapping),
            "a table or a Task": ("task", (Mapping, Task)),
            "text": ("actions rank_by", str),
            "a name or a table with a name": ("control", (str, Mapping)),
            "a list of tables": ("datasets", (list, tuple)),
            "a list of tables or a table": ("evaluation_contexts", (list, tuple, Mapping)),
        }
        for kind, (names, types) in wanted.items():
            for name in names.split():
                value = getattr(self, name)
                if not isinstance(value, types):
                    raise ValueError(f"{name} must be {kind}, got {shown(value)}")

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "EnvConfig":
        """Check the names of the settings, then build.

        Raises:
            ValueError: a setting is unknown; the message names the nearest one.
        """
        check_keywords("environment", cls, settings)
        return cls(**settings)

    def make_task(self, dataset: int = 0) -> Task:
        """The task, with the validation split added to its training samples where that is asked for.

        Args:
            dataset: position among `datasets`, where there are any.
        """
        if isinstance(self.task, Task):
            task = self.task
        else:
            table = self._task_tables()[dataset]
            check_keywords("task", Task.from_config, table)
            task = Task.from_config(**table)
        return task.with_validation_in_training() if self.train_on_validation else task

    def _task_tables(self) -> list[dict[str, Any]]:
        """The task's table for each data set, or the only one."""
        assert isinstance(self.task, Mapping)
        own = ("name", "interval")
        changes = [{key: table[key] for key in table if key not in own} for table in self.datasets]
        return [merge(self.task, change) for change in changes or [{}]]

    def dataset_names(self) -> list[str]:
        """Names of `datasets`, by which contexts speak of them.

        Raises:
            ValueError: there is no table to lay them over, or two have the same name.
        """
        if not self.datasets:
            return []
        for table in self.datasets:
            if not isinstance(table, Mapping):
                raise ValueError(f"datasets must be a list of tables, got {table!r} in it")
            if "interval" in table:
                CHECKS["interval"]("interval of a data set", table["interval"])
        if isinstance(self.task, Task):
            raise ValueError("datasets are laid over the table of the task; give task as a table, not a Task")
        names = []
        for table, task in zip(self.datasets, self._task_tables(), strict=True):
            check_keywords("task", Task.from_config, task)
            data = task["dataset"]
            own = data.name if isinstance(data, Dataset) else part_words(as_table("dataset", data)["name"])
            names.append(table.get("name", own))
        for name in names:
            if not isinstance(name, str) or names.count(name) > 1:
                raise ValueError(f"datasets need names of their own, got {names}; give each table a name")
        return names

    def for_dataset(self, dataset: int) -> "EnvConfig":
        """The same settings, with the interval of the data set at a position among `datasets`."""
        own = self.datasets[dataset].get("interval") if self.datasets else None
        return self if own is None else replace(self, interval=own)

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
            only_ops = part == "augment" and choice is not None and self._takes_strengths()
            if choice is not None and is_decided and not only_ops:
                raise ValueError(f"{part} = {choice!r}: the control {self.control!r} decides {question}")
            if only_ops and not is_decided:
                raise ValueError(
                    f"augment = {choice!r} leaves strengths to the control, and {self.control!r} decides "
                    "none; use the control 'strength' or 'joint', or augment = 'fixed'"
                )
        if not self.spend_all and not control.decides_how_much:
            raise ValueError(
                f"spend_all = false: the control {self.control!r} leaves to the volume schedule how much is "
                "spent; use the control 'ratio' or 'joint', or 'mask' with binary actions"
            )
        return control

    def _takes_strengths(self) -> bool:
        """Whether the augmentation leaves strengths to somebody else."""
        kind = part_type("augment", CONTROLLERS, self.augment)
        return bool(getattr(kind, "takes_strengths", False))

    def make_reward(self) -> Reward:
        """The reward.

        Raises:
            ValueError: it prices samples that have to be trained on in any case.
        """
        reward = make_reward(self.reward)
        if reward.prices_samples and self.spend_all:
            raise ValueError(
                f"reward {describe_part(self.reward)!r} prices the samples trained on, and the budget is "
                "spent in any case; set spend_all = false with a control that decides how much"
            )
        return reward

    def ratio_after(self, extra: float, ratio: float | None = None) -> float:
        """Ratio left for training when the budget pays for forward passes without training.

        Args:
            extra: samples of those passes, over all samples that the intervals could hold; each costs a third
                of a sample trained on.
            ratio: target ratio of the episode; None for that of the environment.

        Raises:
            ValueError: nothing is left.
        """
        ratio = self.ratio if ratio is None else ratio
        left = ratio - FORWARD_COST * extra
        if left <= 0:
            raise ValueError(
                f"ratio {ratio} over {self.intervals} intervals does not pay for extra forwards of "
                f"{extra:.0%} of the samples, at a third of training on one each; raise the ratio or the "
                "number of intervals"
            )
        return left

    def make_schedule(self, target: float) -> VolumeSchedule:
        """The volume schedule with this mean ratio."""
        if self.volume is None:
            return Constant(target)
        known = {"target": target}
        schedule: VolumeSchedule = build_part("volume", SCHEDULES, self.volume, known, VolumeSchedule)
        if abs(schedule.target - target) > 1e-9:
            raise ValueError(
                f"the volume's target {schedule.target} is not the environment's ratio {target:g}: leave "
                "volume.target out and set ratio, or context.ratio"
            )
        return schedule

    def evaluation(self) -> list[dict[str, Any]]:
        """The contexts that evaluation goes through, one by one."""
        return self.make_contexts().expand(self.evaluation_contexts)

    def bounds(self, name: str) -> tuple[float, float] | None:
        """Smallest and largest number of a context value in training and evaluation; None if never set."""
        drawn = self.make_contexts().bounds(name)
        set_ones = [float(context[name]) for context in self.evaluation() if name in context]
        found = [*(drawn or ()), *set_ones]
        return (min(found), max(found)) if found else None

    def make_contexts(self) -> ContextSpace:
        """The distribution of contexts."""
        if "datasets" in self.context:
            raise ValueError("datasets is a setting of the environment; context.dataset says which to draw")
        for name in self.context:
            if not isinstance(name, str):
                raise ValueError(f"context must be a table of values by name, got the key {shown(name)}")
        return ContextSpace(datasets=self.dataset_names(), **self.context)
