"""Tables with a number to predict: scikit-learn's diabetes, and Friedman's made-up functions.

Measurements and targets are standardised by the mean and deviation of the training split, so targets are in
standard deviations; R^2 is the same in any unit. Nothing is downloaded.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from dsenv.errors import check_count, check_number, check_seed
from dsenv.task_kinds.regression import Regression
from dsenv.tasks.dataset import Dataset, split_pools
from dsenv.tasks.generated import split_sizes
from dsenv.tasks.tabular import standardised

Sizes = tuple[int | None, int, int | None]

MOST_NOISE = 1e6


def diabetes(
    train: int | None = 250, validation: int = 75, test: int | None = None, split_seed: int = 0
) -> Dataset:
    """Load diabetes (Efron et al., 2004): 442 patients, ten measurements, how the disease went on in a year.

    A small data set with much noise: linear regression reaches an R^2 of about 0.5.

    Args:
        train: training samples; None for all that are left.
        validation: trusted validation samples.
        test: test samples; None for all that are left.
        split_seed: decides which sample falls into which split.
    """
    from sklearn.datasets import load_diabetes

    source = load_diabetes()
    return _table("diabetes", source.data, source.target, (train, validation, test), split_seed)


def friedman(
    number: int = 1,
    noise: float = 1.0,
    train: int = 1000,
    validation: int = 300,
    test: int = 500,
    seed: int = 0,
) -> Dataset:
    """Make a table by one of Friedman's functions (1991, and Breiman, 1996), as scikit-learn does.

    The first has ten measurements, five of which say nothing; the others have four, of an electric circuit:
    its impedance and its phase.

    Use::

        from dsenv.tasks.regression_tables import friedman

        data = friedman(noise=2.0, train=200, validation=50, test=50)
        print(data.kind.name, data.sample_shape, data.train.labels.shape)  # regression (10,) (200, 1)

    Args:
        number: 1, 2 or 3.
        noise: deviation of the normal noise on the target, in its own unit, >= 0. Without noise the targets
            have a deviation of about 5, 380 and 0.3.
        train: training samples.
        validation: trusted validation samples.
        test: test samples.
        seed: decides the samples and their splits.

    Raises:
        ValueError: a value is out of range.
    """
    import sklearn.datasets

    number = check_count("friedman: number", number, 1, 3)
    noise = check_number("friedman: noise", noise, 0, MOST_NOISE)
    sizes = split_sizes("friedman", train, validation, test)
    seed = check_seed("friedman: seed", seed)

    make: Callable[..., Any] = getattr(sklearn.datasets, f"make_friedman{number}")
    drawn = int(np.random.default_rng(seed).integers(2**31))
    values, targets = make(n_samples=sum(sizes), noise=noise, random_state=drawn)
    return _table(f"friedman{number}, seed {seed}", values, targets, sizes, seed)


def _table(name: str, values: Any, targets: Any, sizes: Sizes, seed: int) -> Dataset:
    """A data set of measurements (N, D) and one number a sample (N,), both standardised."""
    pool = torch.from_numpy(values).double(), torch.from_numpy(targets).double()[:, None]
    splits = standardised(split_pools(name, pool, None, sizes, seed))

    own = splits[0].labels
    mean, deviation = own.mean(0), own.std(0, correction=0).clamp(min=1e-12)
    train, validation, test = (
        replace(split, labels=((split.labels - mean) / deviation).float()) for split in splits
    )
    return Dataset(name, train, validation, test, kind=Regression(scale=1.0, numbers=1))
