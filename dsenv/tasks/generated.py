"""Tables made by procedure from a seed: four families of classification problems, of any difficulty.

- "clusters": scikit-learn's `make_classification` (Guyon, 2003): normal clusters at the corners of a
  hypercube, two a class where they fit, with correlated and redundant dimensions;
- "mixture": each class is a mixture of three normal distributions whose covariances differ;
- "warped": a mixture that a random smooth network with tanh bends, beside dimensions of plain noise;
- "teacher": normal inputs, labelled by a random network; the classes are of different sizes.

How hard they are: test accuracy in percent of scikit-learn's `MLPClassifier` with 64 hidden units after 60
epochs of Adam on 1,000 training samples, mean of two seeds (`python benchmarks/generated.py`). A column is
classes x dimensions; its cells are separations of 0.5, 1, 2 and 4.

| family | 3 x 20 | 10 x 20 | 30 x 64 |
|---|---|---|---|
| clusters | 86, 88, 94, 99 | 53, 82, 99, 100 | 41, 85, 98, 99 |
| mixture | 68, 82, 98, 100 | 49, 82, 98, 100 | 44, 87, 99, 100 |
| warped | 57, 72, 93, 100 | 28, 56, 91, 99 | 26, 70, 95, 100 |
| teacher | 92, 99, 100, 100 | 83, 94, 99, 100 | 41, 62, 73, 84 |
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dsenv.errors import check_count, check_positive, check_seed, pick
from dsenv.tasks.dataset import Dataset, split_pools
from dsenv.tasks.tabular import standardised

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
Sample = tuple[Floats, Labels]

LEAST_CLASSES, MOST_CLASSES = 2, 30
LEAST_DIMENSIONS, MOST_DIMENSIONS = 8, 64
MOST_SAMPLES = 1 << 20
COMPONENTS = 3  # of a class, in "mixture" and "warped"
LATENT = 16  # most dimensions that say something of the class
TEACHER = 8  # most dimensions that a teacher reads
HIDDEN = 32  # units of random networks


def generated(
    family: str = "mixture",
    classes: int = 10,
    dimensions: int = 20,
    separation: float = 1.0,
    train: int = 600,
    validation: int = 200,
    test: int = 400,
    seed: int = 0,
) -> Dataset:
    """Make a table of measurements; nothing is downloaded, and one seed gives one table.

    Measurements are standardised by the mean and deviation of the training split.

    Use::

        from dsenv.tasks.generated import generated

        data = generated("warped", classes=5, dimensions=24, separation=2.0, train=300, seed=7)
        print(data.sample_shape, data.classes, len(data.test))

    Args:
        family: "clusters", "mixture", "warped" or "teacher".
        classes: C, 2 to 30.
        dimensions: D, 8 to 64.
        separation: how far classes are apart, > 0; the module's table says how hard that is.
        train: training samples.
        validation: trusted validation samples.
        test: test samples.
        seed: decides the distribution, the samples and their splits.

    Raises:
        ValueError: the family is unknown, or a value out of range.
    """
    make = FAMILIES[pick("family of generated tables", family, FAMILIES)]
    classes = check_count("generated: classes", classes, LEAST_CLASSES, MOST_CLASSES)
    dimensions = check_count("generated: dimensions", dimensions, LEAST_DIMENSIONS, MOST_DIMENSIONS)
    separation = float(check_positive("generated: separation", separation))
    sizes = split_sizes("generated", train, validation, test)
    seed = check_seed("generated: seed", seed)

    rng = np.random.default_rng([seed, list(FAMILIES).index(family)])
    values, labels = make(rng, sum(sizes), classes, dimensions, separation)
    pool = (torch.from_numpy(values), torch.from_numpy(labels))
    name = f"{family} {classes}x{dimensions}, seed {seed}"
    return Dataset(name, *standardised(split_pools(name, pool, None, sizes, seed)), classes=classes)


def split_sizes(name: str, train: Any, validation: Any, test: Any) -> tuple[int, int, int]:
    """Sizes of the three splits, checked.

    Raises:
        ValueError: a size is no whole number, or out of range.
    """
    given = {"train": train, "validation": validation, "test": test}
    checked = [check_count(f"{name}: {key}", size, 1, MOST_SAMPLES) for key, size in given.items()]
    return checked[0], checked[1], checked[2]


def balanced(rng: np.random.Generator, size: int, classes: int) -> Labels:
    """Labels (N,) in random order, equally many of each class to within one."""
    labels: Labels = rng.permutation(np.arange(size, dtype=np.int64) % classes)
    return labels


def _clusters(
    rng: np.random.Generator, size: int, classes: int, dimensions: int, separation: float
) -> Sample:
    from sklearn.datasets import make_classification

    informative = min(dimensions - 2, LATENT)
    values, labels = make_classification(
        n_samples=size,
        n_features=dimensions,
        n_informative=informative,
        n_redundant=min(dimensions - informative, informative) // 2,
        n_classes=classes,
        n_clusters_per_class=2 if 2 * classes <= 2**informative else 1,
        flip_y=0.0,
        class_sep=separation / 2 * (classes / 2) ** 0.8,  # more classes are not to be harder
        random_state=int(rng.integers(2**31)),
    )
    return values, labels.astype(np.int64)


def _mixture(rng: np.random.Generator, size: int, classes: int, dimensions: int, separation: float) -> Sample:
    latent = min(dimensions, LATENT)
    labels = balanced(rng, size, classes)
    component = labels * COMPONENTS + rng.integers(COMPONENTS, size=size)

    # Each component has its own centre, and its own scales along its own axes
    count = classes * COMPONENTS
    distance = separation / 2 * (classes / 2) ** 0.45  # more classes are not to be harder
    centres = distance * rng.standard_normal((count, latent))
    axes = np.linalg.qr(rng.standard_normal((count, latent, latent)))[0]
    scales = np.exp(0.5 * rng.standard_normal((count, latent)))
    shaped = axes * (scales / np.sqrt((scales**2).mean(1, keepdims=True)))[:, None]

    noise = rng.standard_normal((size, latent, 1))
    inner = centres[component] + (shaped[component] @ noise)[..., 0]
    outer = rng.standard_normal((latent, dimensions)) / np.sqrt(latent)
    return inner @ outer + 0.1 * rng.standard_normal((size, dimensions)), labels


def _warped(rng: np.random.Generator, size: int, classes: int, dimensions: int, separation: float) -> Sample:
    nuisance = dimensions // 4
    values, labels = _mixture(rng, size, classes, dimensions - nuisance, separation)
    values = (values - values.mean(0)) / values.std(0)

    inner = rng.standard_normal((values.shape[1], HIDDEN)) / np.sqrt(values.shape[1])
    outer = rng.standard_normal((HIDDEN, values.shape[1])) / np.sqrt(HIDDEN)
    bent = np.tanh(1.5 * values @ inner + 0.5 * rng.standard_normal(HIDDEN)) @ outer

    noise = rng.standard_normal((size, nuisance))
    return np.concatenate([bent, noise], 1)[:, rng.permutation(dimensions)], labels


def _teacher(rng: np.random.Generator, size: int, classes: int, dimensions: int, separation: float) -> Sample:
    latent = min(dimensions, TEACHER)
    count = round(size * (1 + separation * math.log2(classes)))
    values = rng.standard_normal((count, dimensions))
    inner = rng.standard_normal((latent, HIDDEN)) / np.sqrt(latent)
    outer = rng.standard_normal((HIDDEN, classes))
    scores = np.tanh(1.5 / separation * values[:, :latent] @ inner) @ outer
    scores = (scores - scores.mean(0)) / scores.std(0)  # or some classes would have hardly any sample

    # The samples that the teacher is least sure of are left out
    two = np.partition(scores, -2, axis=1)[:, -2:]
    kept = np.argsort(two[:, 0] - two[:, 1], kind="stable")[:size]
    kept = rng.permutation(kept)
    return values[kept], scores[kept].argmax(1)


FAMILIES: dict[str, Callable[[np.random.Generator, int, int, int, float], Sample]] = {
    "clusters": _clusters,
    "mixture": _mixture,
    "warped": _warped,
    "teacher": _teacher,
}
"""How tables are made, by name; each gives values (N, D) and labels (N,)."""
