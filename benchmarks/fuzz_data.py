"""What the fuzz cases of plans share: data whose content is their position, plans, comparisons."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzz_cases import pick
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from dsenv import DataPlan
from dsenv.plan import Batch

Rng = np.random.Generator
CLASSES = 3
WIDTH = 4


class Rows(Dataset[Any]):
    """A map-style data set; sample i holds i."""

    def __init__(self, size: int, form: str) -> None:
        self.size, self.form = size, form

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Any:
        inputs, label = torch.full((WIDTH,), float(index)), index % CLASSES
        return {"x": inputs, "label": label} if self.form == "mapping" else (inputs, label)


def content(size: int) -> Tensor:
    """(N, WIDTH) float32 whose row i holds i."""
    return torch.arange(size, dtype=torch.float32)[:, None].repeat(1, WIDTH)


def images(size: int) -> Tensor:
    """(N, 3, 8, 8) uint8 whose image i has the grey i."""
    return torch.arange(size, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 8, 8).contiguous()


def labels_of(size: int) -> Tensor:
    return torch.arange(size) % CLASSES


def _mapped(size: int, folder: Path) -> Any:
    path = folder / "inputs.npy"
    np.save(path, content(size).numpy())
    return np.load(path, mmap_mode="r"), labels_of(size).numpy()


FORMS: Mapping[str, Callable[[int, Path], Any]] = {
    "tensors": lambda n, _: (content(n), labels_of(n)),
    "arrays": lambda n, _: (content(n).numpy(), labels_of(n).numpy().astype(np.int32)),
    "array and list": lambda n, _: [content(n).numpy(), labels_of(n).tolist()],
    "TensorDataset": lambda n, _: TensorDataset(content(n), labels_of(n)),
    "samples": lambda n, _: [Rows(n, "pair")[i] for i in range(n)],
    "pairs": lambda n, _: Rows(n, "pair"),
    "mappings": lambda n, _: Rows(n, "mapping"),
    "mapped": _mapped,
    "images": lambda n, _: (images(n), labels_of(n)),
}
"""Data of N samples in every form that a plan takes."""


def rows_of(batch: Batch) -> Tensor:
    """What each row of a batch holds, (B,) int64: its position, where all is right."""
    inputs = batch.inputs["x"] if isinstance(batch.inputs, Mapping) else batch.inputs
    found: Tensor = torch.as_tensor(inputs).flatten(1)[:, 0].long()
    return found


def fault_of(batch: Batch, *, is_augmented: bool = False) -> str:
    """What is wrong with a batch: content and labels against positions, and weights; empty for nothing."""
    index = batch.index
    if len(set(index.tolist())) < len(index):
        return f"a sample is twice in {index.tolist()}"
    if not is_augmented and not torch.equal(rows_of(batch), index):
        return f"the batch says {index.tolist()} and holds {rows_of(batch).tolist()}"
    if batch.labels is not None and not torch.equal(torch.as_tensor(batch.labels), index % CLASSES):
        return f"labels {batch.labels} of {index.tolist()}"
    if not bool(((batch.weight > 0) & batch.weight.isfinite()).all()) or batch.weight.shape != index.shape:
        return f"weights {batch.weight.tolist()}"
    return ""


def outputs_of(rng: Rng, index: Tensor) -> dict[str, Tensor]:
    """Made-up outputs of a model for samples (B,): losses, logits and features."""

    def values(*shape: int) -> Tensor:
        return torch.from_numpy(rng.normal(size=shape).astype(np.float32))

    size = len(index)
    return {"losses": values(size).abs(), "logits": values(size, CLASSES), "features": values(size, WIDTH)}


def forward(inputs: Any) -> tuple[Tensor, Tensor]:
    """A model without parameters: logits and features of inputs."""
    x = inputs["x"] if isinstance(inputs, Mapping) else inputs
    flat = torch.as_tensor(x).float().flatten(1)[:, :WIDTH]
    features = torch.sin(flat + torch.arange(WIDTH))
    return features[:, :CLASSES] * 2, features


# States


def snapshot(plan: DataPlan) -> Any:
    """A plan's state without the times, which differ from run to run."""
    state = deepcopy(plan.state_dict())
    state["feedback"]["cost"].pop("seconds")
    return state


def equal(one: Any, other: Any) -> bool:
    """Whether two pieces of plain data are equal, NaN included."""
    if isinstance(one, Tensor | np.ndarray) or isinstance(other, Tensor | np.ndarray):
        if type(one) is not type(other) or one.shape != other.shape or one.dtype != other.dtype:
            return False
        return np.array_equal(np.asarray(one), np.asarray(other), equal_nan=np.asarray(one).dtype.kind == "f")
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return type(one) is type(other) and (one == other or (one != one and other != other))


class ComplaintError(Exception):
    """A complaint that an oracle has in the middle of a case."""


def unchanged(plan: DataPlan, call: Callable[[], Any]) -> Any:
    """Make a call; where it is refused, nothing of the plan may have changed.

    Raises:
        ComplaintError: it has.
    """
    before = snapshot(plan)
    try:
        return call()
    except Exception as error:
        if not equal(before, snapshot(plan)):
            raise ComplaintError(f"a refused call changed the plan: {error}") from error
        raise


# Plans

SELECTORS = (
    *(None, "random", "fixed_random", "infobatch", "ucb", "epsilon_greedy", "ranked", "small_loss"),
    *("order_dp", "data_agent", "el2n", "forgetting", "grand", "ccs", "moderate", "herding", "k_center"),
    *("glister", "divbs", {"name": "infobatch", "keep": 0.3}, {"name": "ranked", "by": "margin"}),
    *({"name": "data_agent", "config": {"rollout": 2, "warmup": 0}}, {"name": "el2n", "visits": 2}),
)
PASS = ("grand", "ccs", "moderate", "herding", "k_center", "glister", "divbs")
VOLUMES = (None, None, "constant", "linear", "cosine", "step")
AUGMENTS = ("none", "fixed", "trivial", "rand_augment", "ent_augment", "sada")


def settings_of(rng: Rng, size: int, form: str) -> dict[str, Any]:
    """Settings of a plan that is in order, for data of a form."""
    selector = pick(rng, SELECTORS)
    needs_pass = selector in PASS
    ratio = pick(rng, [None, 1.0, 0.7, 0.5]) if not needs_pass else pick(rng, [1.0, 0.7])
    settings: dict[str, Any] = {
        "epochs": int(rng.integers(2 if needs_pass else 1, 4)),
        "batch_size": int(rng.integers(max(2, size // 5), size + 3)),
        "selector": selector,
        "ratio": ratio,
        "volume": pick(rng, VOLUMES) if ratio else None,
        "seed": int(rng.integers(10**6)),
        "classes": CLASSES,
    }
    if form == "images" and rng.random() < 0.7:
        settings["augment"] = pick(rng, AUGMENTS)
    if rng.random() < 0.3:
        settings["uniform_epochs"] = int(rng.integers(0, 3))
    if rng.random() < 0.3:
        settings |= {"drop_last": True, "batch_size": int(rng.integers(1, max(2, size // 6)))}
    if selector in ("infobatch", None) and rng.random() < 0.1:
        settings |= {"policy": "curriculum", "selector": None, "volume": None, "ratio": 0.5}
    return settings


def make_plan(data: Any, settings: Mapping[str, Any], rng: Rng) -> DataPlan:
    """The plan, after its scoring pass where it needs one."""
    plan = DataPlan(data, **settings)
    if plan.selector.needs_pass:
        size = int(rng.integers(3, 9))
        plan.score(forward, validation=(content(size), labels_of(size)))
    return plan
