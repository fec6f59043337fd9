"""The rows of the bar: a fixed fraction of a grid of data, recipes and label noise that no policy trained on.

Settings are tuned on the rows `TUNE`; the rows `ONCE` are run when the settings are fixed, and stay as they
came. On Fashion-MNIST with an MLP, SGD at 0.1 comes with a cosine or in batches of 128: at a constant rate in
batches of 32 it ends at chance under noise, for all data and random halves alike.
"""

from dataclasses import dataclass

TABLES = ("optdigits", "letter", "penbased", "texture")


@dataclass(frozen=True)
class Row:
    """One training setting, as a user would choose it."""

    data: str
    """"optdigits", "letter", "penbased", "texture", "digits", "fashion" (images) or "words"."""
    optimizer: str
    """"sgd" (momentum 0.9) or "adamw"."""
    lr: float
    schedule: str
    """"constant" or "cosine"."""
    condition: str
    """What is done to the training samples, or to the test split:

    - "clean": nothing;
    - "symmetric 40": 40 % of the labels are another class, "pair 40": the next class;
    - "human": the label of one of ten raters;
    - "open-set 40": 40 % of the inputs are images of another set, under these labels;
    - "tail 20": the last class has a twentieth of the samples of the first;
    - "500" or "500 symmetric 40": 500 samples;
    - "shift" or "shift symmetric 20": test images are rotated and noisy.
    """
    ratio: float = 0.5
    batch: int = 32
    model: str = "mlp"
    hidden: tuple[int, ...] = (64,)

    @property
    def name(self) -> str:
        """All of it in a few words; no two rows have the same."""
        model = "CNN" if self.model == "cnn" else "MLP" + "-".join(["", *map(str, self.hidden)])
        recipe = f"{self.optimizer} {self.lr:g} {self.schedule} batch {self.batch}"
        return f"{self.data} {model}, {recipe}, {self.condition}, {self.ratio:.0%}"

    @property
    def kind(self) -> str:
        """The group that it is averaged in."""
        first = self.condition.split()[0]
        return {"500": "500 samples", "tail": "long tail", "shift": "shifted test"}.get(first, first)

    @property
    def samples(self) -> int:
        """Training samples, where there are as many."""
        return 500 if self.condition.startswith("500") else 2000

    @property
    def noise(self) -> tuple[str, float]:
        """Kind and share of wrong labels; the share of human ones is only known from the data."""
        for kind in ("symmetric", "pair", "open-set"):
            if kind in self.condition:
                return kind, int(self.condition.split()[-1]) / 100
        return ("human", 0.0) if self.condition == "human" else ("none", 0.0)

    @property
    def imbalance(self) -> float:
        """Size of the rarest class over that of the most frequent."""
        return 1 / int(self.condition.split()[-1]) if self.kind == "long tail" else 1.0

    @property
    def seeds(self) -> int:
        """Seeds that the bar asks for."""
        return 8 if self.model == "cnn" else 20


WIDE = {"hidden": (128,)}
DEEP = {"hidden": (128, 64)}

TUNE = (
    Row("optdigits", "adamw", 3e-3, "constant", "clean"),
    Row("optdigits", "sgd", 0.1, "cosine", "clean", **DEEP),
    Row("optdigits", "adamw", 1e-3, "constant", "symmetric 20"),
    Row("optdigits", "adamw", 3e-3, "constant", "symmetric 40"),
    Row("optdigits", "sgd", 0.1, "cosine", "symmetric 40"),
    Row("optdigits", "sgd", 0.02, "constant", "symmetric 60"),
    Row("optdigits", "adamw", 3e-3, "cosine", "pair 20"),
    Row("optdigits", "sgd", 0.1, "constant", "pair 40"),
    Row("optdigits", "adamw", 1e-3, "cosine", "open-set 40"),
    Row("optdigits", "sgd", 0.02, "cosine", "tail 50"),
    Row("optdigits", "adamw", 3e-3, "constant", "500 symmetric 20"),
    Row("optdigits", "sgd", 0.02, "constant", "symmetric 40", ratio=0.3),
    Row("letter", "sgd", 0.02, "constant", "clean"),
    Row("letter", "adamw", 3e-3, "cosine", "clean", **DEEP),
    Row("letter", "sgd", 0.1, "constant", "symmetric 20"),
    Row("letter", "adamw", 3e-3, "constant", "symmetric 40"),
    Row("letter", "sgd", 0.02, "cosine", "symmetric 40"),
    Row("letter", "adamw", 1e-3, "cosine", "symmetric 60", **DEEP),
    Row("letter", "sgd", 0.1, "cosine", "pair 20"),
    Row("letter", "adamw", 1e-3, "constant", "pair 40"),
    Row("letter", "adamw", 3e-3, "constant", "tail 20"),
    Row("letter", "sgd", 0.1, "constant", "500"),
    Row("letter", "adamw", 3e-3, "constant", "symmetric 20", ratio=0.7, batch=64),
    Row("fashion", "adamw", 3e-3, "constant", "clean", **WIDE),
    Row("fashion", "sgd", 0.1, "cosine", "clean", batch=128, **WIDE),
    Row("fashion", "sgd", 0.02, "constant", "symmetric 20", **WIDE),
    Row("fashion", "adamw", 3e-3, "cosine", "symmetric 40", **WIDE),
    Row("fashion", "sgd", 0.1, "constant", "symmetric 40", batch=128, **WIDE),
    Row("fashion", "adamw", 3e-3, "constant", "symmetric 60", **WIDE),
    Row("fashion", "adamw", 1e-3, "constant", "pair 20", **WIDE),
    Row("fashion", "sgd", 0.02, "cosine", "pair 40", **WIDE),
    Row("fashion", "sgd", 0.1, "cosine", "open-set 40", **WIDE),
    Row("fashion", "adamw", 1e-3, "cosine", "tail 20", **WIDE),
    Row("fashion", "sgd", 0.02, "constant", "500 symmetric 40", **WIDE),
    Row("fashion", "adamw", 3e-3, "constant", "shift", **WIDE),
    Row("fashion", "sgd", 0.1, "cosine", "shift symmetric 20", batch=128, **WIDE),
    Row("fashion", "adamw", 1e-3, "constant", "symmetric 20", ratio=0.3, **WIDE),
)
"""37 rows to tune on."""

ONCE = (
    Row("penbased", "sgd", 0.1, "constant", "clean"),
    Row("penbased", "adamw", 1e-3, "cosine", "clean", **DEEP),
    Row("penbased", "adamw", 3e-3, "cosine", "symmetric 20"),
    Row("penbased", "sgd", 0.02, "constant", "symmetric 40"),
    Row("penbased", "sgd", 0.1, "cosine", "symmetric 60"),
    Row("penbased", "adamw", 3e-3, "constant", "pair 40"),
    Row("penbased", "adamw", 1e-3, "constant", "tail 50"),
    Row("penbased", "adamw", 3e-3, "constant", "500 symmetric 40"),
    Row("penbased", "adamw", 3e-3, "constant", "symmetric 40", ratio=0.7),
    Row("texture", "adamw", 3e-3, "constant", "clean"),
    Row("texture", "sgd", 0.02, "cosine", "symmetric 20"),
    Row("texture", "adamw", 3e-3, "constant", "symmetric 40", **DEEP),
    Row("texture", "adamw", 1e-3, "constant", "symmetric 60"),
    Row("texture", "sgd", 0.1, "constant", "pair 20"),
    Row("texture", "adamw", 1e-3, "cosine", "pair 40"),
    Row("texture", "sgd", 0.1, "cosine", "tail 20"),
    Row("texture", "sgd", 0.1, "cosine", "symmetric 40", ratio=0.3, batch=64),
    Row("words", "adamw", 3e-3, "constant", "clean"),
    Row("words", "adamw", 3e-3, "constant", "human"),
    Row("words", "sgd", 0.1, "cosine", "human"),
    Row("words", "sgd", 0.02, "constant", "human", ratio=0.3),
    Row("words", "adamw", 1e-3, "cosine", "human", batch=64, **DEEP),
    Row("words", "adamw", 1e-3, "constant", "human", ratio=0.7),
    Row("fashion", "adamw", 3e-3, "constant", "clean", model="cnn"),
    Row("fashion", "sgd", 0.1, "cosine", "symmetric 20", model="cnn"),
    Row("fashion", "adamw", 3e-3, "constant", "symmetric 40", model="cnn"),
    Row("fashion", "adamw", 1e-3, "constant", "symmetric 60", model="cnn"),
    Row("fashion", "adamw", 1e-3, "cosine", "pair 20", model="cnn"),
    Row("fashion", "sgd", 0.02, "cosine", "open-set 40", model="cnn"),
)
"""29 rows, 6 of them with a CNN, to run once."""

SETS = {"tune": TUNE, "once": ONCE, "all": TUNE + ONCE}

QUICK = (
    Row("digits", "adamw", 3e-3, "constant", "500 symmetric 40"),
    Row("digits", "sgd", 0.1, "cosine", "tail 20"),
)
"""Two rows for a smoke run, whose data come with scikit-learn."""
