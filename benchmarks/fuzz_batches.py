"""Fuzz cases for what a training loop hands to a plan: outputs of a model, and batches of its own loader."""

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzz_cases import Case, pick
from fuzz_data import (
    CLASSES,
    FORMS,
    fault_of,
    labels_of,
    outputs_of,
    snapshot,
    unchanged,
)
from torch import Tensor
from torch.utils.data import DataLoader

from dsenv import DataPlan
from dsenv.plan import Batch

Rng = np.random.Generator

LOSS_FAULTS: Mapping[str, Callable[[Rng, Tensor], Any]] = {
    "scalar": lambda rng, x: x.mean(),
    "column": lambda rng, x: x[:, None],
    "fewer": lambda rng, x: x[:-1],
    "more": lambda rng, x: torch.cat([x, x]),
    "none": lambda rng, x: None,
    "array": lambda rng, x: x.numpy(),
    "list": lambda rng, x: x.tolist(),
    "float": lambda rng, x: 0.5,
    "int64": lambda rng, x: x.long(),
    "bool": lambda rng, x: x > 1,
    "empty": lambda rng, x: x[:0],
    "text": lambda rng, x: "x",
    "sparse": lambda rng, x: x.to_sparse(),
    "complex": lambda rng, x: x.to(torch.complex64),
    "meta": lambda rng, x: x.to("meta"),
}
LOSS_KINDS: Mapping[str, Callable[[Rng, Tensor], Any]] = {
    "float32": lambda rng, x: x,
    "float64": lambda rng, x: x.double(),
    "float16": lambda rng, x: x.half(),
    "bfloat16": lambda rng, x: x.bfloat16(),
    "graph": lambda rng, x: x.clone().requires_grad_() * 1,
    "NaN": lambda rng, x: torch.where(torch.arange(len(x)) == int(rng.integers(len(x))), float("nan"), x),
    "infinite": lambda rng, x: torch.full_like(x, float("inf")),
    "negative": lambda rng, x: -x,
    "zero": lambda rng, x: x * 0,
    "strided": lambda rng, x: torch.stack([x, x], 1)[:, 0],
    "expanded": lambda rng, x: x[:1].expand(len(x)),
}
ROW_FAULTS: Mapping[str, Callable[[Rng, Tensor], Any]] = {
    **{name: LOSS_FAULTS[name] for name in ("fewer", "array", "list", "text", "float", "empty", "meta")},
    "flat": lambda rng, x: x.flatten(),
    "three axes": lambda rng, x: x[None],
    "int64": lambda rng, x: x.long(),
    "complex": lambda rng, x: x.to(torch.complex64),
    "sparse": lambda rng, x: x.to_sparse(),
}
ROW_KINDS: Mapping[str, Callable[[Rng, Tensor], Any]] = {
    **{name: LOSS_KINDS[name] for name in ("float32", "float64", "float16", "bfloat16", "graph", "zero")},
    "NaN": lambda rng, x: x * float("nan"),
    "infinite": lambda rng, x: x + float("inf"),
}


def _spoil(rng: Rng, outputs: dict[str, Any], where: str | None) -> dict[str, str]:
    """Give outputs other forms, the one called `where` one that is wrong; the forms."""
    kinds = {name: pick(rng, list(LOSS_KINDS if name == "losses" else ROW_KINDS)) for name in outputs}
    if where:
        kinds[where] = pick(rng, list(LOSS_FAULTS if where == "losses" else ROW_FAULTS))
    for name, kind in kinds.items():
        known = {**LOSS_KINDS, **LOSS_FAULTS} if name == "losses" else {**ROW_KINDS, **ROW_FAULTS}
        outputs[name] = known[kind](rng, outputs[name])
    return kinds


def _fault_of_loss(plan: DataPlan, batch: Batch, outputs: dict[str, Any], found: Any) -> str:
    """What is wrong with the loss of a batch, and with what was taken in of it."""
    if found is not None:
        wanted = (outputs["losses"] * batch.weight).mean()
        if not torch.equal(found.nan_to_num(), wanted.nan_to_num()):
            return f"a loss of {found}, expected {wanted}"
    is_bad = ~outputs["losses"].detach().isfinite()
    if outputs["logits"] is not None:
        is_bad |= ~outputs["logits"].detach().isfinite().all(1)
    counted = sorted(plan.nonfinite.nonzero().flatten().tolist())
    if counted != sorted(batch.index[is_bad].tolist()):
        return f"not finite at {counted}, expected {sorted(batch.index[is_bad].tolist())}"
    if not all(bool(value.isfinite().all()) for value in snapshot(plan)["feedback"]["signals"].values()):
        return "signals that are not finite"
    return "" if plan.cost.trained == len(batch.index) else f"{plan.cost.trained} trained"


def losses(rng: Rng, folder: Path) -> Case:
    """Outputs of all forms: what is taken counts once, what is refused changes nothing."""
    size = int(rng.integers(4, 20))
    form = pick(rng, ["tensors", "pairs", "arrays"])
    selector = pick(rng, ["random", "ucb", "el2n", "data_agent", {"name": "ranked", "by": "margin"}])
    needs_logits = selector not in ("random", "ucb")
    plan = DataPlan(FORMS[form](size, folder), epochs=2, batch_size=4, selector=selector, classes=CLASSES)
    batch = next(iter(plan.batches()))
    outputs: dict[str, Any] = dict(outputs_of(rng, batch.index))
    where = pick(rng, ["losses", "losses", "logits", "features"]) if rng.random() < 0.5 else None

    kinds = _spoil(rng, outputs, where)
    for name, needed in (("logits", needs_logits), ("features", selector == "data_agent")):
        if name != where and not needed and rng.random() < 0.5:
            outputs[name] = None
    clashes = where == "features" and kinds["features"] in ("flat",)
    call = plan.observe if rng.random() < 0.2 else plan.loss

    def run() -> Any:
        given = outputs["losses"]
        found = unchanged(
            plan, lambda: call(batch, given, logits=outputs["logits"], features=outputs["features"])
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plan.start_epoch(1)
        return found

    good = None if clashes else where is None
    return Case(f"{selector} {where} {kinds}", run, partial(_fault_of_loss, plan, batch, outputs), good)


# plan.batch


def _wrong_index(rng: Rng, index: Tensor, rest: Tensor, size: int) -> Any:
    """Positions of a batch that are none."""
    return pick(
        rng,
        [
            *(index.int(), index.float(), index[None], index[:0], index.tolist(), index.numpy(), None, "x"),
            *(5, torch.tensor(1), torch.cat([index, index[:1]]), index - size, index + size, index + 10**12),
            *(-index - 1, torch.full_like(index, 2**62), index.bool(), index.to("meta"), index.to_sparse()),
            *(torch.cat([index[:-1], rest[:1]]) if len(rest) else index - size, index.byte(), range(3)),
        ],
    )


def batches(rng: Rng, folder: Path) -> Case:
    """Batches of a loader of one's own: what is taken holds what its positions say."""
    size, form = int(rng.integers(8, 30)), pick(rng, ["pairs", "mappings", "tensors", "samples"])
    plan = DataPlan(FORMS[form](size, folder), epochs=2, batch_size=4, ratio=0.5, classes=CLASSES)
    raw = list(DataLoader(plan.dataset, batch_size=4, sampler=plan.sampler))
    index, sample = pick(rng, raw)
    chosen = set(plan.epoch_sampler.chosen.index.tolist())
    rest = torch.tensor(sorted(set(range(size)) - chosen))
    fault = pick(rng, ["index", "index", "number", "labels", "part", "size"]) if rng.random() < 0.5 else None
    settings: dict[str, Any] = {}

    order = torch.from_numpy(rng.permutation(len(index)))
    index, sample = index[order], _rows(sample, order)
    if fault == "index":
        index = _wrong_index(rng, index, rest, size)
    elif fault == "number":
        settings["number"] = pick(rng, [-1, 1.5, "0", True, 10**30, [], torch.ones(2)])
    elif fault == "labels":
        sample = _with_labels(sample, pick(rng, [labels_of(7), labels_of(len(index)) + 9, labels_of(9)[:0]]))
    elif fault == "part":  # half of a batch, and it does not say so
        index, sample = index[:-1], _rows(sample, order.argsort()[: len(index) - 1])
    elif fault == "size" and len(raw) > 1:
        index = torch.cat([i for i, _ in raw])
    elif rng.random() < 0.3:
        keep = torch.arange(max(1, len(index) - 1))
        index, sample = index[keep], _rows(sample, keep)
        settings["partial"] = True

    def oracle(batch: Any) -> str:
        trained = set(batch.index.tolist()) <= chosen
        return fault_of(batch) or ("" if trained else "samples that were not chosen")

    return Case(
        f"{form} {fault} {index} {settings}",
        lambda: unchanged(plan, lambda: plan.batch(index, sample, **settings)),
        oracle,
        fault is None or (fault == "size" and len(raw) == 1),
    )


def _rows(sample: Any, order: Tensor) -> Any:
    if isinstance(sample, Mapping):
        return {key: value[order] for key, value in sample.items()}
    return [value[order] for value in sample]


def _with_labels(sample: Any, labels: Tensor) -> Any:
    return {**sample, "label": labels} if isinstance(sample, Mapping) else [sample[0], labels]


BATCHES: Mapping[str, Callable[[Rng, Path], Case]] = {"plan.loss": losses, "plan.batch": batches}
"""Name -> draws a case."""
