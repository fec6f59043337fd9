"""One case of each kind of task: a kind, targets, and outputs of a guess and of a model that is right."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dsenv.task_kinds import TaskKind, make_kind


@dataclass(frozen=True)
class Case:
    """What the contract test needs to know of a kind."""

    kind: TaskKind
    targets: Any
    """Of 12 samples."""
    guess: Callable[[Any], Tensor]
    """Outputs that know nothing, for targets."""
    right: Callable[[Any], Tensor]
    """Outputs that are right and sure."""
    bad: tuple[Any, ...]
    """Targets of 12 samples that are refused."""


def _draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _signs(targets: Tensor) -> Tensor:
    return 30 * (2 * targets.float() - 1)


def cases() -> dict[str, Case]:
    """By name of the kind."""
    classes = torch.randint(0, 4, (12,), generator=_draw(0))
    there = torch.randint(0, 2, (12, 5), generator=_draw(1))
    tokens = torch.randint(0, 9, (12, 6), generator=_draw(4))
    tokens[:4, :2], tokens[4:8, 4:] = -100, -100  # prompts, padding
    numbers = 5 + 3 * torch.randn(12, 2, generator=_draw(2))
    pixels = torch.randint(0, 4, (12, 5, 6), generator=_draw(3))
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}

    return {
        "classification": Case(
            make_kind({"name": "classification", "classes": 4}),
            classes,
            lambda t: torch.zeros(len(t), 4),
            lambda t: 30.0 * functional.one_hot(t, 4),
            (classes.float(), classes - 1, classes[:3], classes[:, None], "labels"),
        ),
        "language": Case(
            make_kind({"name": "language", "vocabulary": 9}),
            tokens,
            lambda t: torch.zeros(*t.shape, 9),
            lambda t: 30.0 * functional.one_hot(t.clamp(min=0).roll(-1, 1), 9),
            (tokens.float(), tokens[:, 0], tokens[:3], tokens + 9, torch.full((12, 6), -100), "text"),
        ),
        "multilabel": Case(
            make_kind("multilabel").fitted(there),
            there,
            lambda t: torch.zeros(t.shape),
            _signs,
            (classes, there * 2, there[:, :3], there[:5], [1, 2]),
        ),
        "regression": Case(
            make_kind("regression").fitted(numbers),
            numbers,
            lambda t: t.mean(0).expand(t.shape),
            lambda t: t.clone(),
            (classes, torch.full((12,), torch.nan), numbers[:5], None),
        ),
        "segmentation": Case(
            make_kind({"name": "segmentation", "classes": 4}),
            pixels,
            lambda t: torch.zeros(len(t), 4, 5, 6),
            lambda t: 30.0 * functional.one_hot(t, 4).movedim(-1, 1),
            (pixels.float(), pixels + 4, pixels - 1, pixels[:5], pixels[:, None], 0 * pixels + 255, [pixels]),
        ),
        "detection": Case(
            make_kind("detection"),
            [nothing] * 12,
            lambda t: torch.ones(len(t)),
            lambda t: torch.zeros(len(t)),
            (classes, [nothing] * 5, [{}] * 12, [{**nothing, "boxes": torch.zeros(2, 5)}] * 12, None),
        ),
    }
