"""What a page shows: runs on one environment, and their agents as the lines of its tables and charts."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsenv.evaluation.compare import Evaluation, Row
from dsenv.evaluation.statistics import Scores
from dsenv.evaluation.trace import Trace

LOUD = 10  # colours of agents
QUIET = {"all_data": 10, "random": 11, "all_data_plus_validation": 12, "trim_oracle": 12}
"""Colours of the references, after those of the agents."""
NONE = 13  # of pooled agents, which no chart shows


@dataclass(frozen=True)
class Note:
    """Something that a reader should know, with the command that comes next."""

    text: str
    command: str = ""


@dataclass(frozen=True)
class Training:
    """How the training of one agent went: E evaluations on n episodes."""

    label: str
    steps: NDArray[np.int64]
    """(E,) environment steps done."""
    rewards: Scores
    """(E, n) validation reward of each episode."""


@dataclass(frozen=True)
class Subject:
    """One evaluated run."""

    label: str
    """Its agent, by a name that no other run on the page has."""
    evaluation: Evaluation
    family: str = ""
    """A name that agents share which differ by the seed of their training alone; empty for fixed rules."""
    seed: int = 0
    """Of the training."""

    @property
    def learned(self) -> bool:
        """Whether its agent was trained."""
        return bool(self.family)


@dataclass(frozen=True)
class Part:
    """Runs on one environment."""

    title: str
    """The environment's name."""
    facts: list[tuple[str, list[tuple[str, str]]]]
    """What was run: groups with a heading each, of names and values."""
    subjects: list[Subject]
    trainings: list[Training] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    summary: str = ""
    """What was done, for somebody who knows nothing of it: a sentence or two."""
    trained: str = ""
    """What the training of its agents took, a sentence or two; empty where none was trained."""


@dataclass(frozen=True)
class Line:
    """One agent: a row of every table, and one colour in every chart. M contexts."""

    name: str
    kind: str
    """"learned", "rule", "reference", or "pooled" for several training seeds of one agent."""
    is_subject: bool
    """Whether a run was made to evaluate it."""
    rows: list[Row | None]
    """One a context."""
    traces: list[Trace | None]
    """One a context; None in evaluations of an older version, and for pooled agents."""
    scores: Scores | None = None
    """(S, M) accuracies, or (A, S, M) of A agents."""
    all_data: Scores | None = None
    """Accuracies of all data on the same seeds, of the same shape."""
    random: Scores | None = None
    """Those of random selection."""
    family: str = ""
    """That of a `Subject`."""
    evaluations: list[Evaluation] = field(default_factory=list)
    """Those it comes from: one, or one for each of A agents."""

    @property
    def agent(self) -> str:
        """What its evaluations call it."""
        return next((row.agent for row in self.whole), self.name)

    @property
    def whole(self) -> list[Row]:
        """The rows that are there."""
        return [row for row in self.rows if row is not None]


@dataclass(frozen=True)
class Sheet:
    """A part with its agents lined up; what tables and charts are drawn from."""

    part: Part
    number: int
    """Of the part on its page."""
    contexts: list[dict[str, Any]]
    labels: list[str]
    """Of the contexts, for people."""
    lines: list[Line]
    notes: list[Note]

    @property
    def key(self) -> str:
        """Begins the class names and ids of this part."""
        return f"p{self.number}"

    @property
    def colours(self) -> list[int]:
        """Of each line; references have their own, quiet ones."""
        found, free = [], 0
        for line in self.lines:
            quiet = NONE if line.kind == "pooled" else None
            if line.kind == "reference":
                quiet = QUIET.get(line.name)
            found.append(free % LOUD if quiet is None else quiet)
            free += quiet is None
        return found

    @property
    def drawn(self) -> list[tuple[int, Line]]:
        """Lines with something over time, with their number."""
        return [(n, line) for n, line in enumerate(self.lines) if any(t is not None for t in line.traces)]

    @property
    def subjects(self) -> list[tuple[int, Line]]:
        """Lines that the page is about: pooled agents, and those that are in no pool."""
        pooled = {line.family for line in self.lines if line.kind == "pooled"}
        return [
            (n, line)
            for n, line in enumerate(self.lines)
            if line.is_subject and (line.kind == "pooled" or line.family not in pooled)
        ]
