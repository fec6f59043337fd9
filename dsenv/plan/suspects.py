"""Samples whose label looks wrong, found in the history of one training run."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, overload

import torch
from numpy.typing import NDArray
from torch import Tensor

from dsenv import files
from dsenv.errors import check_count
from dsenv.signals import SampleSignals

SHOWN = 10  # rows in the text of a table


class Suspect(NamedTuple):
    """One row of `Suspects`; its columns are described there."""

    position: int
    label: int
    said: int
    margin: float
    visits: int
    forgetting: int
    age: int
    score: float


@dataclass(frozen=True, repr=False)
class Suspects:
    """The samples that a plan has trained on, those whose label looks wrong first.

    The score is the area under the margin (AUM) of Pleiss et al. (2020, arXiv 2001.10528). The margin of a
    visit is the logit of the given label less the largest other logit, as the training forward gave them;
    `margin` is its mean over all visits, and score = 1 / (1 + exp(margin)). A model learns what the labels
    have in common before it learns single samples by heart: a wrong label is contradicted for long, and its
    mean margin is low even if the model has learnt it in the end.

    `likely` proposes a number without being told the noise rate: the samples with a mean margin below 0,
    that is a score above 0.5. On average over the visits the model preferred another class there.

    Works: several visits of every sample, a model that learns the classes. Does not work well:

    - after few epochs, or few visits (`visits`): an untrained model contradicts every label;
    - where the model is wrong on many clean samples: `likely` holds these too. It finds most of the wrong
      labels and names too many, the more so the fewer there are; take the first rows, not all;
    - with rare classes, whose clean samples are learnt late, and for clean samples that are hard;
    - with selectors that drop samples of high loss (small_loss): what they drop early is judged by a young
      model alone. Nothing at all is said about `never_visited`;
    - where wrong labels follow a rule that the model can learn (a class that is always mistaken for another).

    Figures: docs/benchmarks/rules.md, "Wrong labels found in one training run".

    All columns are tensors (M,) on the CPU, sorted by the score from high to low, equal ones by position.
    """

    position: Tensor
    """int64: position of the sample in the training set."""
    label: Tensor
    """int64: the label it was trained with at its last visit."""
    said: Tensor
    """int64: what the model says. The label where the margin is above 0; else the class that was most often
    the strongest other one, each visit weighted by its probability there (a majority vote)."""
    margin: Tensor
    """float32, nats: logit of the label less the largest other, mean over visits."""
    visits: Tensor
    """int64, >= 1: visits that the mean is of."""
    forgetting: Tensor
    """int64, >= 0: changes of the prediction from right to wrong (Toneva et al., 2019)."""
    age: Tensor
    """int64, >= 0: epochs since the last visit; 0 for those visited in the last epoch."""
    score: Tensor
    """float32, [0, 1]: how much the label looks wrong."""
    never_visited: Tensor
    """(L,) int64, ascending: positions of the samples of which nothing is known: those never trained on, and
    those whose outputs were never finite."""

    @property
    def likely(self) -> "Suspects":
        """The rows whose label is probably wrong: mean margin below 0, score above 0.5."""
        return self[: int((self.margin < 0).sum())]

    def head(self, count: int = SHOWN) -> "Suspects":
        """The first `count` rows."""
        return self[: check_count("count", count, 0)]

    def as_dict(self) -> dict[str, NDArray[Any]]:
        """The columns as arrays (M,) by name, as `pandas.DataFrame` takes them."""
        return {name: getattr(self, name).numpy() for name in Suspect._fields}

    def to_csv(self, path: str | Path) -> None:
        """Write the rows with a line of names before them; `never_visited` is not among them."""
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(Suspect._fields)
        writer.writerows(self)
        files.write(Path(path), text.getvalue().encode())

    def __len__(self) -> int:
        return len(self.position)

    def __iter__(self) -> Iterator[Suspect]:
        columns = (getattr(self, name).tolist() for name in Suspect._fields)
        return map(Suspect._make, zip(*columns, strict=True))

    @overload
    def __getitem__(self, rows: int) -> Suspect: ...

    @overload
    def __getitem__(self, rows: slice) -> "Suspects": ...

    def __getitem__(self, rows: int | slice) -> "Suspect | Suspects":
        if isinstance(rows, slice):
            picked = range(len(self))[rows]  # tensors know no negative step
            index = torch.tensor(picked, dtype=torch.int64)
            return replace(self, **{name: getattr(self, name)[index] for name in Suspect._fields})

        number = range(len(self))[rows]  # IndexError beyond the last row
        return Suspect._make(getattr(self, name)[number].item() for name in Suspect._fields)

    def __repr__(self) -> str:
        likely = int((self.margin < 0).sum())
        lines = [
            f"Suspects({len(self)} samples, {likely} likely wrong, {len(self.never_visited)} never visited)"
        ]
        if len(self):
            lines.append(" ".join(f"{name:>10}" for name in Suspect._fields))
        for row in self.head():
            cells = (f"{value:.3f}" if isinstance(value, float) else str(value) for value in row)
            lines.append(" ".join(f"{cell:>10}" for cell in cells))
        if len(self) > SHOWN:
            lines.append(f"... {len(self) - SHOWN} more rows")
        return "\n".join(lines)


class LabelHistory:
    """What the visits of each sample said about its label: 20 bytes a sample, whatever the classes.

    Args:
        size: N, samples of the training set.
        device: where the tensors (N,) live.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self.label = torch.full((size,), -1, dtype=torch.int32, device=device)
        """Label at the last visit; -1 before the first."""
        self.margin = torch.zeros(size, device=device)
        """Mean margin of the logits over visits."""
        self.visits = torch.zeros(size, dtype=torch.int32, device=device)
        """Visits with logits that are numbers."""
        self.rival = torch.full((size,), -1, dtype=torch.int32, device=device)
        """The class that leads the vote for the strongest class other than the label."""
        self.lead = torch.zeros(size, device=device)
        """By how much it leads, in probability summed over visits."""

    def add(
        self,
        index: Tensor,
        logits: Tensor,
        labels: Tensor,
        rival: Tensor,
        probability: Tensor,
        known: Tensor | None = None,
    ) -> None:
        """Take in visits; those whose margin is no finite number count as none.

        Args:
            index: (B,) int64 positions, each at most once.
            logits: (B, C) the model's outputs.
            labels: (B,) int64 the labels trained on.
            rival: (B,) int64 the most probable class other than the label.
            probability: (B,) its probability.
            known: (B,) bool, the visits to take in; None for all.
        """
        own = logits.gather(-1, labels[:, None]).float()
        margin = (own - logits.gather(-1, rival[:, None]).float()).squeeze(-1)
        is_finite = margin.isfinite() & probability.isfinite()
        known = is_finite if known is None else is_finite & known

        # Mean over visits
        mean, label = self.margin.index_select(0, index), self.label.index_select(0, index)
        visits = self.visits.index_select(0, index) + known.int()
        self.margin.scatter_(0, index, torch.where(known, mean + (margin - mean) / visits, mean))
        self.visits.scatter_(0, index, visits)
        self.label.scatter_(0, index, torch.where(known, labels.int(), label))

        # The majority vote of Boyer and Moore (1981), with weights; it needs no counts of each class
        leader, lead = self.rival.index_select(0, index), self.lead.index_select(0, index)
        rival, weight = rival.int(), torch.where(known, probability, 0.0)
        lead = lead + torch.where(rival == leader, weight, -weight)
        self.rival.scatter_(0, index, torch.where(known & (lead <= 0), rival, leader))
        self.lead.scatter_(0, index, lead.abs())

    def state_dict(self) -> dict[str, Tensor]:
        """A copy of every tensor, under names that no signal has."""
        return {f"label_history.{name}": tensor.clone() for name, tensor in vars(self).items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from `state_dict()`; other entries of the state are left alone.

        Raises:
            ValueError: an entry is missing, or of another number of samples.
        """
        found = {name: state.get(f"label_history.{name}") for name in vars(self)}
        for name, tensor in found.items():
            if tensor is None or tensor.shape != self.label.shape:
                shape = "missing" if tensor is None else f"of shape {tuple(tensor.shape)}"
                raise ValueError(
                    f"label_history.{name} of the state is {shape}, this plan needs {tuple(self.label.shape)}"
                )

        for name, tensor in found.items():
            getattr(self, name).copy_(tensor)


def find_suspects(signals: SampleSignals, history: LabelHistory | None, epochs: int) -> Suspects:
    """Sort the visited samples by how much their label looks wrong.

    Args:
        signals: of the training run.
        history: what the visits said of the labels; None where there was none.
        epochs: epochs that have ended.

    Raises:
        ValueError: the logits were not given, or no epoch has ended.
    """
    forgetting = signals.forgetting_events.cpu()  # an error that names the logits where there are none
    last_epoch = signals.last_step.cpu()
    if history is None:
        raise ValueError(
            "plan.suspects() reads the epochs that have ended, and none has: call it after the loop over "
            "plan.epochs_left(), or end an epoch of your own count by plan.start_epoch(epoch + 1)"
        )

    columns = {name: tensor.cpu() for name, tensor in vars(history).items()}
    is_visited = columns["visits"] > 0
    visited = is_visited.nonzero().squeeze(1)
    position = visited[columns["margin"][visited].argsort(stable=True)]

    margin = columns["margin"][position]
    label = columns["label"][position].long()
    return Suspects(
        position=position,
        label=label,
        said=torch.where(margin > 0, label, columns["rival"][position].long()),
        margin=margin,
        visits=columns["visits"][position].long(),
        forgetting=forgetting[position].long(),
        age=(epochs - 1 - last_epoch[position]).clamp(min=0).long(),
        score=torch.sigmoid(-margin),
        never_visited=(~is_visited).nonzero().squeeze(1),
    )
