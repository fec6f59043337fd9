"""Write the data sets of the wide recipes: the real tables, generated ones and one of images.

    python benchmarks/wide_datasets.py dsenv/_policies/curriculum.toml

Puts the list `datasets` of the recipe between the lines "# datasets" and "# end of datasets". Each entry is a
data set with one model and one optimiser recipe; all of it follows from SEED.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

SEED = 12
FAMILIES = ("mixture", "warped", "clusters", "teacher")
CLASSES = (
    2,
    3,
    10,
    5,
    26,
    4,
    8,
    20,
    6,
    2,
    12,
    30,
    3,
    16,
    7,
    2,
    24,
    9,
    5,
    14,
    4,
    18,
    3,
    11,
    28,
    6,
    22,
    10,
    8,
    15,
)
HIDDEN = ([32], [64], [48, 48], [64], [128], [32, 32], [64, 64])
OPTIMIZERS: tuple[dict[str, Any], ...] = (
    {"optimizer": "sgd", "lr": 0.1, "nesterov": False},
    {"optimizer": "adamw", "lr": 0.003, "weight_decay": 0.01},
    {"optimizer": "sgd", "lr": 0.02, "nesterov": True},
    {"optimizer": "adam", "lr": 0.001},
    {"optimizer": "sgd", "lr": 0.05, "nesterov": True, "weight_decay": 0.0005},
    {"optimizer": "adamw", "lr": 0.01},
    {"optimizer": "sgd", "lr": 0.05, "nesterov": False},
    {"optimizer": "adamw", "lr": 0.001, "weight_decay": 0.05},
    {"optimizer": "sgd", "lr": 0.1, "nesterov": True, "weight_decay": 0.001},
    {"optimizer": "adam", "lr": 0.003},
    {"optimizer": "sgd", "lr": 0.02, "nesterov": False},
)
SCHEDULES = ("constant", "cosine", "one_cycle", "constant", "cosine")
BATCHES = (32, 64, 16, 32, 128, 32, 48)
SLOW = (
    0.02  # recipes with SGD at this rate or below, or Adam at a tenth of it, need more steps: small batches
)
LENGTHS = (1, 1, 2, 1, 0.5, 1, 3, 1)  # epochs of an interval, at twelve intervals
SMOOTHING = (0.0, 0.0, 0.0, 0.1)
PER_CLASS = 25  # training samples at least

REAL: tuple[dict[str, Any], ...] = (
    {
        "name": "digits",
        "dataset": {"name": "digits", "train": 800, "validation": 400},
        "model": {"name": "mlp", "hidden": [64]},
        "recipe": {"optimizer": "sgd", "lr": 0.1, "schedule": "cosine", "batch_size": 32},
    },
    {
        "name": "digits, deep",
        "dataset": {"name": "digits", "train": 800, "validation": 400, "split_seed": 1},
        "model": {"name": "mlp", "hidden": [64, 64]},
        "recipe": {"optimizer": "adamw", "lr": 0.003, "schedule": "constant", "batch_size": 32},
    },
    {
        "name": "wine",
        "dataset": {"name": "wine"},
        "model": {"name": "mlp", "hidden": [64]},
        "recipe": {"optimizer": "sgd", "lr": 0.02, "schedule": "cosine", "batch_size": 16},
    },
    {
        "name": "breast cancer",
        "dataset": {"name": "breast_cancer"},
        "model": {"name": "mlp", "hidden": [32]},
        "recipe": {"optimizer": "adam", "lr": 0.003, "schedule": "constant", "batch_size": 16},
    },
    {
        "name": "images",
        "dataset": {
            "name": "generated_images",
            "classes": 4,
            "side": 8,
            "separation": 1.5,
            "train": 256,
            "validation": 100,
        },
        "model": {"name": "small_cnn", "width": 8, "norm": "none"},
        "recipe": {"optimizer": "adamw", "lr": 0.01, "schedule": "cosine", "batch_size": 32},
    },
)


def generated(number: int, rng: np.random.Generator) -> dict[str, Any]:
    """The entry of generated table `number`."""
    classes, optimizer = CLASSES[number % len(CLASSES)], OPTIMIZERS[number % len(OPTIMIZERS)]
    is_slow = optimizer["lr"] <= SLOW / (1 if optimizer["optimizer"] == "sgd" else 10)
    batch = 16 if is_slow else BATCHES[number % len(BATCHES)]
    steps = rng.uniform(16, 24) if is_slow else rng.uniform(8, 13)
    length = LENGTHS[number % len(LENGTHS)]
    batch = max(batch, 32) if length > 1 else batch
    size = int(np.clip(batch * steps / length, max(240, PER_CLASS * classes), 1000))
    family = FAMILIES[number % len(FAMILIES)]
    separation = float(np.exp(rng.uniform(np.log(1.2), np.log(3.0))))
    smoothing = SMOOTHING[number % len(SMOOTHING)]

    recipe = {
        **optimizer,
        "schedule": SCHEDULES[number % len(SCHEDULES)],
        "batch_size": batch,
        **({"label_smoothing": smoothing} if smoothing else {}),
    }
    return {
        "name": f"{family} {number}",
        "dataset": {
            "name": "generated",
            "family": family,
            "classes": classes,
            "dimensions": int(rng.integers(8, 65)),
            "separation": round(separation, 2),
            "train": size,
            "validation": 300,
            "seed": number,
        },
        "model": {"name": "mlp", "hidden": HIDDEN[number % len(HIDDEN)]},
        "recipe": recipe,
        **({} if length == 1 else {"interval": length}),
    }


def entries() -> list[dict[str, Any]]:
    """All entries, in the order in which stacked environments take them in turn."""
    rng = np.random.default_rng(SEED)
    return [*REAL, *(generated(number, rng) for number in range(len(CLASSES)))]


def as_toml(value: Any) -> str:
    """A value as TOML, tables inline."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {as_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def main() -> None:
    path = Path(sys.argv[1])
    before, _, rest = path.read_text(encoding="utf-8").partition("# datasets\n")
    _, _, after = rest.partition("# end of datasets\n")
    lines = "".join(f"    {as_toml(entry)},\n" for entry in entries())
    text = f"{before}# datasets\ndatasets = [\n{lines}]\n# end of datasets\n{after}"
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
