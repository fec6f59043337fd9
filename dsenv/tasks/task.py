"""Task: data set + model + loss + recipe, and the recipe: how a model is optimised."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dsenv import kernels
from dsenv.catalogue import Choice, as_table, build_part, check_part, import_kind, part_words
from dsenv.errors import (
    check_count,
    check_flag,
    check_keywords,
    check_number,
    check_positive,
    missing_keywords,
    parameters_of,
    pick,
    shown,
)
from dsenv.kinds import check_class
from dsenv.task_kinds.base import TaskKind
from dsenv.tasks.dataset import Dataset

LossFunction = Callable[[Tensor, Tensor], Tensor]

DATASETS = {
    "digits": "dsenv.tasks.digits:digits",
    "generated": "dsenv.tasks.generated:generated",
    "generated_images": "dsenv.tasks.generated_images:generated_images",
    "reasoning": "dsenv.tasks.reasoning:reasoning",
    "breast_cancer": "dsenv.tasks.tabular:breast_cancer",
    "wine": "dsenv.tasks.tabular:wine",
    "iris": "dsenv.tasks.tabular:iris",
    "fashion_mnist": "dsenv.tasks.fashion_mnist:fashion_mnist",
    "cifar10": "dsenv.tasks.torchvision_sets:cifar10",
    "cifar100": "dsenv.tasks.torchvision_sets:cifar100",
    "svhn": "dsenv.tasks.torchvision_sets:svhn",
    "image_folder": "dsenv.tasks.folder:image_folder",
    "several_digits": "dsenv.tasks.composed_digits:several_digits",
    "digit_angles": "dsenv.tasks.composed_digits:digit_angles",
    "diabetes": "dsenv.tasks.regression_tables:diabetes",
    "friedman": "dsenv.tasks.regression_tables:friedman",
    "scenes": "dsenv.tasks.scenes:scenes",
    "generated_scenes": "dsenv.tasks.generated_scenes:generated_scenes",
}
MODELS = {
    "mlp": "dsenv.tasks.models:mlp",
    "decoder": "dsenv.tasks.decoder:decoder",
    "small_cnn": "dsenv.tasks.models:small_cnn",
    "small_fcn": "dsenv.tasks.models:small_fcn",
    "resnet18": "dsenv.tasks.models:resnet18",
    "resnet50": "dsenv.tasks.models:resnet50",
}
OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "cosine", "one_cycle")
MOST_IN_BATCH = 1 << 24


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Optimiser, learning-rate schedule, loss and batch size.

    The learning rate depends on the share of the budget of samples already spent, so a schedule ends where
    it should when samples are left out.

    Use::

        from dsenv import Recipe

        recipe = Recipe(optimizer="adamw", lr=3e-3, schedule="one_cycle", batch_size=64)
        print([recipe.learning_rate(spent / 10) for spent in range(11)])

    Raises:
        ValueError: a setting is out of range.
    """

    optimizer: str = "sgd"
    """"sgd", "adam" or "adamw"."""
    lr: float = 0.1
    """Largest learning rate."""
    momentum: float = 0.9
    """SGD's momentum; the first beta of Adam and AdamW."""
    nesterov: bool = True
    """Nesterov momentum, for SGD."""
    weight_decay: float = 0.0
    """L2 penalty for SGD and Adam, decoupled decay for AdamW."""
    schedule: str = "cosine"
    """"constant", "cosine" to zero, or "one_cycle" (Smith, 2018; torch's defaults)."""
    batch_size: int = 128
    """Samples a step."""
    label_smoothing: float = 0.0
    """Share of the target spread over all classes, [0, 1)."""

    def __post_init__(self) -> None:
        own = {
            "optimizer": pick("optimizer", self.optimizer, OPTIMIZERS),
            "lr": check_positive("recipe: lr", self.lr),
            "momentum": check_number("recipe: momentum", self.momentum, 0, 1, open_high=True),
            "nesterov": check_flag("recipe: nesterov", self.nesterov),
            "weight_decay": check_number("recipe: weight_decay", self.weight_decay, 0),
            "schedule": pick("learning-rate schedule", self.schedule, SCHEDULES),
            "batch_size": check_count("recipe: batch_size", self.batch_size, most=MOST_IN_BATCH),
            "label_smoothing": check_number(
                "recipe: label_smoothing", self.label_smoothing, 0, 1, open_high=True
            ),
        }

        for name, value in own.items():
            object.__setattr__(self, name, value)  # plain Python values, whatever was given

    def learning_rate(self, progress: float) -> float:
        """Learning rate when the share `progress` (0..1) of the budget is spent."""
        progress = min(max(progress, 0.0), 1.0)
        if self.schedule == "constant":
            return self.lr
        if self.schedule == "cosine":
            return _anneal(self.lr, 0.0, progress)
        return one_cycle(self.lr, progress)


def _anneal(start: float, end: float, share: float) -> float:
    """Half a cosine from `start` to `end`."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def one_cycle(
    peak: float, progress: float, rise: float = 0.3, start: float = 25.0, end: float = 1e4
) -> float:
    """One-cycle schedule: from peak / start up to peak, then down to peak / start / end."""
    if progress < rise:
        return _anneal(peak / start, peak, progress / rise)
    return _anneal(peak, peak / start / end, (progress - rise) / (1 - rise))


@dataclass(frozen=True, eq=False)  # tensors have no single truth
class Task:
    """What is trained, and how.

    Use::

        import torch
        from torch import nn
        from dsenv import Recipe, Task, TrainingEnv
        from dsenv.tasks import from_tensors

        images, labels = torch.rand(600, 1, 8, 8), torch.randint(0, 3, (600,))
        task = Task(
            dataset=from_tensors(images, labels, validation=100, test=100),
            model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3)),
            recipe=Recipe(optimizer="adamw", lr=3e-3),
        )
        env = TrainingEnv(task=task, control="ratio", intervals=4)

    Args:
        dataset: the three splits.
        model: builds one model, without arguments; called once for each training run, with torch's
            CPU stream seeded, so that its initial parameters follow from the run's seed. With the keyword
            `width_factor`, in (0, 1], it may build a narrower model: see `narrow_parameters`.
        recipe: optimiser, schedule and batch size.
        loss: maps logits (B, C) and labels (B,) to a loss for each sample (B,); None for that of the data
            set's kind of task: cross-entropy with the recipe's label smoothing for classification.
    """

    dataset: Dataset
    model: Callable[..., nn.Module]
    recipe: Recipe = field(default_factory=Recipe)
    loss: LossFunction | None = None

    def __post_init__(self) -> None:
        is_factory = callable(self.model) and not isinstance(self.model, nn.Module)
        fitting = (isinstance(self.dataset, Dataset), is_factory, isinstance(self.recipe, Recipe))
        for name, is_fitting in zip(("dataset", "model", "recipe"), fitting, strict=True):
            if not is_fitting:
                wanted = {"dataset": "a Dataset", "model": "a function that builds one", "recipe": "a Recipe"}
                raise ValueError(
                    f"{name} of a Task must be {wanted[name]}, got {shown(getattr(self, name), 80)}; "
                    "Task.from_config takes names and tables"
                )
        if self.loss is not None and not callable(self.loss):
            raise ValueError(
                f"loss of a Task must be a function of logits (B, C) and labels (B,), got {shown(self.loss)}"
            )
        if self.recipe.label_smoothing and self.kind.classes is None and self.loss is None:
            raise ValueError(
                f"label smoothing is for classification, and {self.dataset.name} is a task of kind "
                f"{self.kind.name}; leave recipe.label_smoothing at 0"
            )

    @property
    def kind(self) -> TaskKind:
        """What is asked of a sample: that of the data set."""
        assert self.dataset.kind is not None
        return self.dataset.kind

    def sample_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Training loss of each sample, (B,), from outputs, logits (B, C), and targets, labels (B,).

        Raises:
            ValueError: a custom loss does not return a tensor of one value for each sample.
        """
        if self.loss is None and self.kind.classes is None:
            return self.kind.sample_loss(logits, labels)
        if self.loss is None:
            return kernels.cross_entropy(logits, labels, self.recipe.label_smoothing)

        values = self.loss(logits, labels)
        if not isinstance(values, Tensor):
            raise ValueError(f"the loss must return a tensor of one value a sample, got {shown(values)}")
        if values.shape != labels.shape[:1]:
            raise ValueError(
                f"the loss returned shape {tuple(values.shape)} for {len(labels)} samples; it must return "
                "one value for each sample: use reduction='none'"
            )
        return values

    def with_validation_in_training(self) -> "Task":
        """The same task, training on the validation split as well; see `Dataset`."""
        return replace(self, dataset=self.dataset.with_validation_in_training())

    @classmethod
    def from_config(
        cls,
        *,
        dataset: Choice | Dataset,
        model: Choice,
        recipe: Mapping[str, Any] | Recipe | None = None,
        loss: str | LossFunction | None = None,
    ) -> "Task":
        """Build a task from tables as they stand in an environment's TOML.

        Args:
            dataset: a `Dataset`, one of `DATASETS`, "module:function" or a function; or a table with such a
                `name`, whose other keys are that function's arguments. A function that a text names has to
                say what it makes, `def mine(...) -> Dataset`: it is called only then.
            model: one of `MODELS`, "module:function", a class or a factory; or a table with such a `name`,
                whose other keys are its arguments. It is given sample_shape and classes where it takes
                them, and width_factor, in (0, 1], where a context asks for a narrower model. A function that
                a text names has to say what it makes, `def mine(...) -> nn.Module`.
            recipe: a `Recipe`, or a table of its settings.
            loss: a per-sample loss, or the "module:function" of one, `def mine(logits, labels) -> Tensor`;
                None for cross-entropy.

        Raises:
            ValueError: a name, a setting or a value is unknown, or names something of another kind.
        """
        own_recipe = _recipe(recipe)
        own_loss = import_kind("loss", loss, Tensor) if isinstance(loss, str) else loss
        data: Dataset = build_part("dataset", DATASETS, dataset, expected=Dataset)
        return cls(data, _model_factory(data, model), own_recipe, own_loss)


def _recipe(choice: Mapping[str, Any] | Recipe | None) -> Recipe:
    if isinstance(choice, Recipe):
        return choice
    settings = {} if choice is None else choice
    if not isinstance(settings, Mapping):
        raise ValueError(f"recipe must be a Recipe or a table of its settings, got {shown(settings)}")
    check_keywords("recipe", Recipe, settings)
    return Recipe(**settings)


def _model_factory(dataset: Dataset, choice: Choice) -> Callable[..., nn.Module]:
    """What builds one model; a function or class that takes neither shape nor classes is one already.

    Raises:
        ValueError: a model was given, of which there is only one.
    """
    if isinstance(choice, nn.Module):
        raise ValueError(
            f"model is a {type(choice).__name__} that is built already, and every training run begins with "
            "parameters of its own: give what builds one, for example lambda: nn.Linear(64, 10)"
        )

    if inspect.isclass(choice):
        check_class("model", choice.__name__, choice, nn.Module)
    if callable(choice) and not _takes_sizes(choice):
        for key in missing_keywords(choice, {}):
            raise ValueError(
                f"model {part_words(choice)!r} needs the setting {key!r}; give a lambda that calls it, or a "
                f"table with name and {key}"
            )
        return choice
    assert dataset.kind is not None
    outputs = dataset.classes or dataset.kind.outputs
    known = {"sample_shape": dataset.sample_shape, "classes": outputs}
    check_part("model", MODELS, choice, known, nn.Module)
    return partial(_build_model, known, as_table("model", choice))


def _takes_sizes(factory: Callable[..., Any]) -> bool:
    """Whether a factory asks for the shape of a sample or the number of classes."""
    takes = parameters_of(f"model {shown(factory)}", factory)
    return bool({"sample_shape", "classes"} & takes.keys())


def _build_model(known: Mapping[str, Any], table: Mapping[str, Any], width_factor: float = 1.0) -> nn.Module:
    narrow = {} if width_factor == 1 else {"width_factor": width_factor}
    model: nn.Module = build_part("model", MODELS, {**table, **narrow}, known, nn.Module)
    return model


def seeded_model(factory: Callable[..., nn.Module], seed: int) -> nn.Module:
    """Build a model on the CPU with initial parameters that follow from `seed` only.

    torch's initialisers draw from the global CPU stream; it is left as it was.

    Raises:
        ValueError: the factory gives something else.
    """
    state = torch.default_generator.get_state()
    try:
        torch.default_generator.manual_seed(seed)
        model = factory()
    finally:
        torch.default_generator.set_state(state)

    if not isinstance(model, nn.Module):
        raise ValueError(f"the model's factory must return an nn.Module, returned {shown(model)}")
    return model
