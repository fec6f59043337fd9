"""Data sets and recipes by procedure, so that a policy learns what holds everywhere."""

from collections.abc import Callable
from typing import Any

import numpy as np

from dsenv.errors import check_count, check_seed, pick

Settings = dict[str, Any]
Draw = Callable[[int, np.random.Generator], Settings]

FAMILIES = ("clusters", "mixture", "warped")  # not "teacher": a tail of uneven classes is nearly empty
SCHEDULES = ("constant", "cosine", "one_cycle")
REAL: tuple[Settings, ...] = (
    {"name": "digits", "train": 1000, "validation": 300},
    {"name": "wine"},
    {"name": "breast_cancer"},
)
LEAST_STEPS, MOST_STEPS = 10, 50  # of the optimiser in an epoch of all data


def wide_datasets(number: int, kind: str = "tables", seed: int = 0) -> list[Settings]:
    """Tables for `datasets` of an environment: real and generated ones, each with a recipe of its own.

    Of the tables every fourth is real (digits, wine and breast cancer in turn), the others are drawn from the
    families of `dsenv.tasks.generated`: 2 to 30 classes, 8 to 64 dimensions, from hard to separable. Of the
    images every second is digits, the others are of `dsenv.tasks.generated_images`. Recipes: SGD with
    momentum from 0.02 to 0.2, or Adam and AdamW from 3e-4 to 1e-2; constant, cosine or one-cycle; batches
    of 16 to 128; 10 to 50 steps an epoch; weight decay and label smoothing; one or two hidden layers of 32 to
    128.

    Use::

        from dsenv.workbench.wide import wide_datasets

        for table in wide_datasets(3, seed=1):
            print(table["name"], table["dataset"], table["recipe"])

    Args:
        number: how many.
        kind: "tables" or "images".
        seed: decides all of it.

    Raises:
        ValueError: the kind is unknown, or a number out of range.
    """
    real, every, draw = KINDS[pick("kind of wide data sets", kind, KINDS)]
    rng = np.random.default_rng(check_seed("seed", seed))
    entries = []
    for place in range(check_count("number", number)):
        own = None if place % every else real[place // every % len(real)]
        entries.append(_entry(place, own, draw, rng))
    return entries


def _entry(place: int, real: Settings | None, draw: Draw, rng: np.random.Generator) -> Settings:
    batch = int(rng.choice([16, 32, 64, 128], p=[0.15, 0.4, 0.3, 0.15]))
    recipe = {"batch_size": batch, **_optimizer(rng)}
    if real is None:
        dataset = draw(batch, rng)
    else:
        dataset = {**real, "split_seed": int(rng.integers(1000))}
        recipe["batch_size"] = min(batch, 32)

    hidden = [int(rng.choice([32, 64, 128]))] * int(rng.choice([1, 1, 2]))
    name = f"{place}-{dataset.get('family', dataset['name'])}"
    return {"name": name, "dataset": dataset, "model": {"name": "mlp", "hidden": hidden}, "recipe": recipe}


def _table(batch: int, rng: np.random.Generator) -> Settings:
    """Settings of a generated table with at least 20 samples a class."""
    own = {"family": str(rng.choice(FAMILIES)), "dimensions": int(rng.integers(8, 65))}
    return {"name": "generated", **own, **_sizes(batch, 5.0, rng)}


def _images(batch: int, rng: np.random.Generator) -> Settings:
    """Settings of generated images with at least 20 samples a class."""
    return {"name": "generated_images", **_sizes(batch, 2.0, rng)}


def _sizes(batch: int, most: float, rng: np.random.Generator) -> Settings:
    """Classes, separation up to `most`, and samples."""
    classes = int(np.exp(rng.uniform(np.log(2), np.log(30.99))))
    steps = np.exp(rng.uniform(np.log(LEAST_STEPS), np.log(MOST_STEPS)))
    return {
        "classes": classes,
        "separation": round(float(np.exp(rng.uniform(np.log(most / 5), np.log(most)))), 2),
        "train": int(np.clip(batch * steps, max(300, 20 * classes), 2000)),
        "validation": 300,
        "test": 300,
        "seed": int(rng.integers(1 << 20)),
    }


def _optimizer(rng: np.random.Generator) -> Settings:
    """Optimiser, its rate and schedule, decay and smoothing."""
    name = str(rng.choice(["sgd", "sgd", "adam", "adamw"]))
    low, high = (0.02, 0.2) if name == "sgd" else (3e-4, 1e-2)
    found = {
        "optimizer": name,
        "lr": round(float(np.exp(rng.uniform(np.log(low), np.log(high)))), 5),
        "schedule": str(rng.choice(SCHEDULES)),
        "weight_decay": float(rng.choice([0.0, 0.0, 1e-4, 1e-2 if name == "adamw" else 5e-4])),
        "label_smoothing": float(rng.choice([0.0, 0.0, 0.0, 0.1])),
    }
    return found | ({"nesterov": bool(rng.integers(2))} if name == "sgd" else {})


KINDS: dict[str, tuple[tuple[Settings, ...], int, Draw]] = {
    "tables": (REAL, 4, _table),
    "images": (REAL[:1], 2, _images),
}
"""Kind -> real data sets, how often one of them comes, and what draws the others."""
