"""Fuzz cases for settings of tasks: recipes, contexts, models, data sets, and what corrupts labels."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzz_cases import Case, drawn, flag, number, odd, one_of, pick, whole
from torch import Tensor

from dsenv.env.context import Context, realise
from dsenv.tasks import Dataset, Recipe, Split, Task
from dsenv.tasks.corruption import NOISES, add_noise, add_pair_flips, long_tail, random_subset
from dsenv.tasks.models import mlp, small_cnn

Rng = np.random.Generator

SHARE = number(0.0, 1.0, [-0.1, 1.0001, 2, -1])
OPEN_SHARE = number(0.01, 1.0, [0, 0.0, -0.1, 1.0001])
RECIPE = {
    "optimizer": one_of("sgd", "adam", "adamw"),
    "lr": number(1e-5, 2.0, [0, -0.1]),
    "momentum": number(0.0, 0.99, [1, 1.0, -0.1]),
    "nesterov": flag(),
    "weight_decay": number(0.0, 0.1, [-1e-9, -1]),
    "schedule": one_of("constant", "cosine", "one_cycle"),
    "batch_size": whole(1, 500),
    "label_smoothing": number(0.0, 0.9, [1, -0.1]),
}
CONTEXT = {
    "label_noise": number(0.0, 0.5, [-0.1, 1.1]),
    "imbalance": OPEN_SHARE,
    "subset": OPEN_SHARE,
    "pair_flip": number(0.0, 0.5, [-0.1, 1.1]),
    "width": OPEN_SHARE,
    "lr": number(0.01, 10.0, [0, -1]),
    "class_noise": number(0.0, 0.0, [-0.1, 1.1]),
    "instance_noise": number(0.0, 0.0, [-0.1, 1.1]),
    "ratio": OPEN_SHARE,
    "dataset": whole(0, 5),
}
MLP = {
    "sample_shape": (
        lambda rng: pick(rng, [(4,), (1, 4, 4), [3, 2], torch.Size([7])]),
        lambda rng: pick(
            rng, [(), (0,), (-1, 4), ("4",), (2.0,), 5, (10**12, 10**12), None, 1.5, b"1", "ab", {}]
        ),
    ),
    "classes": whole(1, 20),
    "hidden": (
        lambda rng: pick(rng, [(), [4], (8, 3), [np.int64(5)]]),
        lambda rng: pick(rng, [[0], [-1], ["8"], [1.5], 8, "8", [True], [10**9], [4] * 100, None, [[4]]]),
    ),
    "width_factor": OPEN_SHARE,
}
CNN = {
    "width": (
        lambda rng: pick(rng, [8, 16, np.int64(8)]),
        lambda rng: pick(rng, [0, 7, -8, 10**9, 8.0, odd(rng)]),
    ),
    "norm": one_of("batch", "group", "none"),
    "classes": whole(1, 20),
}


def _settings(
    make: Callable[..., Any],
    table: Mapping[str, Any],
    check: Callable[[Any, Mapping[str, Any]], str],
    unnamed: Sequence[str] = (),
) -> Callable[[Rng, Path], Case]:
    """Cases of a function or class with some settings of a table."""

    def draw(rng: Rng, folder: Path) -> Case:
        del folder
        settings, bad = drawn(rng, table)
        own = getattr(make, "__name__", "")
        return Case(
            f"{own} {bad} {settings}",
            lambda: make(**settings),
            lambda found: check(found, settings),
            bad is None,
            [bad] if bad and bad not in unnamed else [],
        )

    return draw


def _stored(found: Any, settings: Mapping[str, Any]) -> str:
    """Every setting is kept as a plain Python value, equal to what was given."""
    for name, value in settings.items():
        kept = getattr(found, name)
        if type(kept) not in (int, float, str, bool) or kept != value:
            return f"{name} = {value!r} is kept as {kept!r}"
    return ""


def _is_recipe(found: Recipe, settings: Mapping[str, Any]) -> str:
    rates = [found.learning_rate(share / 10) for share in range(11)]
    top = max(rates) <= found.lr * (1 + 1e-9) and min(rates) >= 0
    return _stored(found, settings) or ("" if top else f"learning rates {rates}")


def _is_mlp(model: torch.nn.Module, settings: Mapping[str, Any]) -> str:
    shape = tuple(int(size) for size in settings["sample_shape"])
    sizes = [layer.out_features for layer in model if isinstance(layer, torch.nn.Linear)]
    share = float(settings.get("width_factor", 1.0))
    wanted = [max(1, round(share * int(units))) for units in settings.get("hidden", (64, 64))]
    given = model(torch.zeros(2, *shape)).shape == (2, int(settings["classes"]))
    return "" if given and sizes == [*wanted, int(settings["classes"])] else f"layers of {sizes}"


def _mlp(**settings: Any) -> torch.nn.Module:
    return mlp(**{"sample_shape": (4,), "classes": 3, **settings})


def _cnn(**settings: Any) -> torch.nn.Module:
    return small_cnn(**{"sample_shape": (1, 8, 8), "classes": 3, **settings})


def _full_mlp(model: torch.nn.Module, settings: Mapping[str, Any]) -> str:
    return _is_mlp(model, {"sample_shape": (4,), "classes": 3, **settings})


def _is_cnn(model: torch.nn.Module, settings: Mapping[str, Any]) -> str:
    found = model(torch.zeros(2, 1, 8, 8)).shape
    return "" if found == (2, int(settings.get("classes", 3))) else f"outputs {tuple(found)}"


# Data sets


def _labels(rng: Rng, size: int, classes: int) -> Tensor:
    """Labels among which each class occurs."""
    return torch.from_numpy(rng.permutation(np.arange(size) % classes))


def _split(rng: Rng, size: int, classes: int, source: str) -> Split:
    images = torch.from_numpy(rng.integers(256, size=(size, 2, 3, 3), dtype=np.uint8))
    return Split(images, _labels(rng, size, classes), (source, torch.arange(size)))


def _with_label(value: int) -> Callable[[Split], Split]:
    def change(split: Split) -> Split:
        labels = split.labels.clone()
        labels[len(labels) // 2] = value
        return dataclasses.replace(split, labels=labels)

    return change


SPLIT_FAULTS: Mapping[str, Callable[[Split], Any]] = {
    "label -100": _with_label(-100),
    "label -1": _with_label(-1),
    "label C": _with_label(3),
    "label 10^12": _with_label(10**12),
    "float labels": lambda s: dataclasses.replace(s, labels=s.labels.float()),
    "half labels": lambda s: dataclasses.replace(s, labels=s.labels + 0.5),
    "int32 labels": lambda s: dataclasses.replace(s, labels=s.labels.int()),
    "column labels": lambda s: dataclasses.replace(s, labels=s.labels[:, None]),
    "array labels": lambda s: dataclasses.replace(s, labels=s.labels.numpy()),
    "list images": lambda s: dataclasses.replace(s, images=s.images.tolist()),
    "fewer labels": lambda s: dataclasses.replace(s, labels=s.labels[:-1]),
    "fewer images": lambda s: dataclasses.replace(s, images=s.images[:-1]),
    "flat images": lambda s: dataclasses.replace(s, images=s.images[:, 0, 0, 0]),
    "double images": lambda s: dataclasses.replace(s, images=s.images.double()),
    "NaN images": lambda s: dataclasses.replace(s, images=s.images.float() * float("nan")),
    "infinite images": lambda s: dataclasses.replace(s, images=s.images.float() + float("inf")),
    "sparse images": lambda s: dataclasses.replace(s, images=s.images.float().to_sparse()),
    "no source": lambda s: dataclasses.replace(s, source=None),
    "short source": lambda s: dataclasses.replace(s, source=("x", torch.arange(len(s) - 1))),
    "empty": lambda s: Split(s.images[:0], s.labels[:0], ("x", torch.arange(0))),
    "not a split": lambda s: (s.images, s.labels),
    "none": lambda _: None,
}
DATASET = {
    "classes": (lambda _: 3, lambda rng: pick(rng, [0, 2, -3, 3.0, "3", 10**9, odd(rng)])),
    "mean": (
        lambda rng: pick(rng, [(0.5,), (0.1, 0.2), [0.5]]),
        lambda rng: pick(rng, [(), (0.1,) * 3, "ab", 0.5, (float("nan"),), ("x", "y"), None]),
    ),
    "std": (
        lambda rng: pick(rng, [(0.5,), (0.1, 0.2), [np.float64(0.5)]]),
        lambda rng: pick(rng, [(0.0,), (-1.0, 1.0), (float("inf"),), (), None, (True,)]),
    ),
    "trusted": (lambda rng: int(rng.integers(0, 5)), lambda rng: pick(rng, [-1, 10**6, 1.5, True, odd(rng)])),
    "name": (lambda rng: pick(rng, ["x", ""]), lambda rng: pick(rng, [None, 5, b"x"])),
}


def datasets(rng: Rng, folder: Path) -> Case:
    """Data sets whose splits or settings have one fault, or none."""
    del folder
    splits = {
        name: _split(rng, int(rng.integers(9, 20)), 3, name) for name in ("train", "validation", "test")
    }
    settings, bad = drawn(rng, DATASET)
    bad = bad if rng.random() < 0.5 else None
    settings = {name: DATASET[name][name == bad](rng) for name in settings}
    fault = pick(rng, list(SPLIT_FAULTS)) if bad is None and rng.random() < 0.4 else None
    where = pick(rng, list(splits))
    if fault:
        splits[where] = SPLIT_FAULTS[fault](splits[where])
    elif bad is None and rng.random() < 0.1:
        fault = "shared samples"
        splits["test"] = splits["validation"]
    values = {"name": "x", "classes": 3, **splits, **settings}

    def oracle(found: Dataset) -> str:
        same = all(found.splits()[name] is splits[name] for name in splits)
        floats = all(type(value) is float for value in (*found.mean, *found.std))
        return "" if same and floats and type(found.trusted) is int else "kept otherwise"

    named = [bad] if bad else []
    return Case(
        f"{fault} in {where}, {bad} {settings}", lambda: Dataset(**values), oracle, not (bad or fault), named
    )


def _pick_loss(logits: Tensor, labels: Tensor) -> Tensor:
    return -logits[torch.arange(len(labels)), labels]


def _own_mlp(sample_shape: tuple[int, ...], classes: int) -> torch.nn.Module:
    return mlp(sample_shape, classes, (3,))


WRONG_DATASETS = (
    *("irs", "os:system", {"name": "subprocess:run", "args": ["true"]}, {"name": "iris", "train": 10**6}),
    *({"name": "iris", "trian": 5}, {"name": "iris", "train": "60"}, {"name": 5}, {}, torch.nn.Linear),
    *({"name": "iris", "split_seed": -1}, {"name": "iris", "validation": 0}, None, 5, [], object()),
)
WRONG_MODELS = (
    *("mpl", "os:system", "builtins:exec", {"name": "mlp", "hiden": []}, torch.nn.Linear(2, 2), dict),
    *({"name": "torch.optim:SGD"}, torch.nn.Linear, None, 5, [], "dsenv.tasks:Recipe"),
)
TASK = {
    "dataset": (
        lambda rng: pick(
            rng, ["iris", {"name": "iris", "train": 60}, {"name": "wine", "split_seed": np.int64(3)}]
        ),
        lambda rng: pick(rng, WRONG_DATASETS),
    ),
    "model": (
        lambda rng: pick(rng, ["mlp", {"name": "mlp", "hidden": [4]}, _own_mlp]),
        lambda rng: pick(rng, WRONG_MODELS),
    ),
    "recipe": (
        lambda rng: pick(rng, [None, {}, {"lr": 0.1}, Recipe(batch_size=5)]),
        lambda rng: pick(rng, [{"lr": "0.1"}, {"rl": 1}, {"batch_size": 0}, 5, "sgd", [], {5: 1}]),
    ),
    "loss": (
        lambda rng: pick(rng, [None, _pick_loss]),
        lambda rng: pick(rng, ["os:system", "builtins:exec", "pickle:loads", "x", 5, [1]]),
    ),
}


def _task(**settings: Any) -> Task:
    return Task.from_config(**{"dataset": "iris", "model": "mlp", **settings})


def _is_task(found: Task, settings: Mapping[str, Any]) -> str:
    """An accepted one gives a loss for each sample."""
    del settings
    labels = found.dataset.train.labels[:4]
    losses = found.sample_loss(found.model()(found.dataset.train.images[:4]), labels)
    return "" if losses.shape == labels.shape and bool(losses.isfinite().all()) else "no loss for each sample"


# Corruption

LABEL_FAULTS: Mapping[str, Callable[[Tensor, int], Any]] = {
    "-100": lambda labels, _: torch.cat([labels, torch.tensor([-100])]),
    "C": lambda labels, classes: torch.cat([labels, torch.tensor([classes])]),
    "float": lambda labels, _: labels.float(),
    "int32": lambda labels, _: labels.int(),
    "rows": lambda labels, _: labels[None],
    "list": lambda labels, _: labels.tolist(),
    "none": lambda *_: None,
}


def corruptions(rng: Rng, folder: Path) -> Case:
    """Exact shares of wrong labels, long tails by their definition, subsets of the stated size."""
    del folder
    classes = int(rng.integers(2, 6))
    clean = _labels(rng, int(rng.integers(classes, 60)), classes)
    kind, seed = pick(rng, [*CORRUPTIONS, "all"]), int(rng.integers(1000))
    if kind == "all":
        return _realised(rng, clean, classes, seed)

    call, oracle, shares, named = CORRUPTIONS[kind]
    fault = pick(rng, ["share", "labels", "generator"]) if rng.random() < 0.5 else None
    share = shares[fault == "share"](rng)
    labels = pick(rng, list(LABEL_FAULTS.values()))(clean, classes) if fault == "labels" else clean
    generator: Any = torch.Generator().manual_seed(seed)
    if fault == "generator":
        generator = pick(rng, [None, 5, np.random.default_rng(0)])
    if kind == "subset" and fault == "labels":
        labels = pick(rng, ["x", None, -1, 1.5])

    return Case(
        f"{kind} {fault} {share!r} {classes} {clean.tolist()}",
        lambda: call(labels, clean, share, classes, generator),
        lambda found: oracle(found, clean, float(share), classes),
        fault is None,
        [named] if fault == "share" else [],
    )


def _noise(labels: Any, clean: Tensor, share: Any, classes: int, generator: Any) -> Tensor:
    del clean
    return add_noise("symmetric", labels, share, classes, generator)


def _pairs(labels: Any, clean: Tensor, share: Any, classes: int, generator: Any) -> Tensor:
    del clean
    return add_noise("pair_flip", labels, share, classes, generator)


def _flips(labels: Any, clean: Tensor, share: Any, classes: int, generator: Any) -> Tensor:
    return add_pair_flips(labels, clean, share, classes, generator)


def _tail(labels: Any, clean: Tensor, share: Any, classes: int, generator: Any) -> Tensor:
    del clean
    return long_tail(labels, share, classes, generator)


def _subset(labels: Any, clean: Tensor, share: Any, classes: int, generator: Any) -> Tensor:
    del clean, classes
    return random_subset(len(labels) if isinstance(labels, Tensor) else labels, share, generator)


def _has_wrong(found: Tensor, clean: Tensor, share: float, classes: int) -> str:
    wrong = int((found != clean).sum())
    in_range = int(found.min()) >= 0 and int(found.max()) < classes
    return "" if wrong == round(share * len(clean)) and in_range else f"{wrong} wrong labels"


def _falls_off(found: Tensor, clean: Tensor, share: float, classes: int) -> str:
    sizes, kept = (torch.bincount(labels, minlength=classes).tolist() for labels in (clean, clean[found]))
    wanted = [max(1, round(min(sizes) * share ** (c / (classes - 1)))) for c in range(classes)]
    return "" if kept == (wanted if share < 1 else sizes) else f"{kept} kept of {sizes}, expected {wanted}"


def _has_size(found: Tensor, clean: Tensor, share: float, classes: int) -> str:
    del classes
    return "" if int(found.sum()) == max(1, round(share * len(clean))) else f"{int(found.sum())} kept"


CORRUPTIONS: Mapping[str, tuple[Callable[..., Tensor], Callable[..., str], Any, str]] = {
    "symmetric": (_noise, _has_wrong, SHARE, "label_noise"),
    "pair_flip": (_pairs, _has_wrong, SHARE, "label_noise"),
    "flips": (_flips, _has_wrong, SHARE, "pair_flip"),
    "tail": (_tail, _falls_off, OPEN_SHARE, "imbalance"),
    "subset": (_subset, _has_size, OPEN_SHARE, "subset"),
}
"""Call, oracle, good and bad shares, and what an error about the share has to name."""


def _realised(rng: Rng, labels: Tensor, classes: int, seed: int) -> Case:
    """The labels of a whole context; a fault in the labels or the kind of noise half of the time."""
    settings, _ = drawn(
        np.random.default_rng(int(rng.integers(10**6)) * 2), {"subset": (OPEN_SHARE[0], OPEN_SHARE[0])}
    )
    noise, flips = float(rng.uniform(0, 0.5)), float(rng.uniform(0, 0.5))
    context = Context(label_noise=noise, pair_flip=flips, **settings)
    fault = pick(rng, ["labels", "kind"]) if rng.random() < 0.5 else None
    given: Any = pick(rng, list(LABEL_FAULTS.values())[:4])(labels, classes) if fault == "labels" else labels
    kind = "symetric" if fault == "kind" else pick(rng, list(NOISES))

    def oracle(found: tuple[Tensor, Tensor]) -> str:
        own, pool = found
        size = int(pool.sum())
        wrong = int((own != labels)[pool].sum())
        right = bool((own == labels)[~pool].all())
        most = round(noise * size) + round(flips * size)
        return "" if right and wrong in (most, size) else f"{wrong} wrong labels of {size}, expected {most}"

    return Case(
        f"realise {fault} {context}",
        lambda: realise(context, kind, given, classes, seed),
        oracle,
        fault is None,
    )


SETTINGS: Mapping[str, Callable[[Rng, Path], Case]] = {
    "Recipe": _settings(Recipe, RECIPE, _is_recipe),
    "Context": _settings(Context, CONTEXT, _stored),
    "mlp": _settings(_mlp, MLP, _full_mlp),
    "small_cnn": _settings(_cnn, CNN, _is_cnn),
    "Dataset": datasets,
    "Task": _settings(_task, TASK, _is_task, unnamed=["dataset"]),
    "corruption": corruptions,
}
