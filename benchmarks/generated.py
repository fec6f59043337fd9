"""How hard generated tables are: test accuracy of an MLP, by family, classes, dimensions and separation.

    python benchmarks/generated.py

Every cell is the mean of two seeds, 1,000 training and 1,000 test samples, scikit-learn's MLPClassifier with
64 hidden units and 60 epochs of Adam at 3e-3. The table stands in the docstring of `dsenv.tasks.generated`.
"""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from dsenv.tasks.generated import FAMILIES, generated

SHAPES = ((3, 20), (10, 20), (30, 64))
SEPARATIONS = (0.5, 1.0, 2.0, 4.0)
SEEDS = 2


def accuracy(family: str, classes: int, dimensions: int, separation: float, seed: int) -> float:
    """Test accuracy on one table."""
    data = generated(family, classes, dimensions, separation, train=1000, validation=10, test=1000, seed=seed)
    inputs, labels = (data.train.images.numpy(), data.train.labels.numpy())
    model = MLPClassifier((64,), alpha=1e-3, max_iter=60, learning_rate_init=3e-3, random_state=0)
    model.fit(inputs, labels)
    return float(model.score(data.test.images.numpy(), data.test.labels.numpy()))


def main() -> None:
    warnings.simplefilter("ignore", ConvergenceWarning)
    print("| family | " + " | ".join(f"{classes} x {size}" for classes, size in SHAPES) + " |")
    for family in FAMILIES:
        cells = [
            ", ".join(
                f"{100 * np.mean([accuracy(family, *shape, separation, seed) for seed in range(SEEDS)]):.0f}"
                for separation in SEPARATIONS
            )
            for shape in SHAPES
        ]
        print(f"| {family} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
