"""Evaluation: agents on fresh seeds in the same contexts, at a stated budget.

Nothing else in dsenv reads a test split.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from dsenv.agents.base import Agent
from dsenv.catalogue import NAMESPACE, Definition
from dsenv.catalogue import names as names_of
from dsenv.env.config import EnvConfig
from dsenv.evaluation.labels import context_label
from dsenv.evaluation.runs import Floats, Runs, run_episodes
from dsenv.evaluation.statistics import interval
from dsenv.evaluation.trace import Trace
from dsenv.tasks.task import Task
from dsenv.volume.budget import FORWARD_COST

FIRST_SEED = 1_000_000_000  # far from the seeds that agents are trained with
REFERENCE = "all_data"  # gains are measured against this agent, seed by seed
CHANCE = "random"  # and against this one
ACCURACY = "accuracy"  # metric of classification
MOST_REPLICAS = 64  # training runs side by side

Accuracies = NDArray[np.float64]


@dataclass(frozen=True)
class Entry:
    """An agent as evaluation sees it."""

    name: str
    agent: Any
    """An `AgentDefinition` that can act at once, or one that comes with `model`."""
    model: Agent | None = None
    """The trained policy of a learning agent."""


@dataclass(frozen=True)
class Row:
    """One agent in one context: a line of the result table."""

    agent: str
    context: dict[str, Any]
    ratio: float
    """Samples seen, as a share of those seen with all data."""
    compute: float
    """The same, where a forward pass without training counts as a third of a sample seen."""
    accuracy_mean: float
    """Test accuracy at the end of training, mean over seeds."""
    accuracy_low: float
    """Lower end of its 95 % bootstrap interval."""
    accuracy_high: float
    """Upper end."""
    samples_used: float
    """Samples seen in one training run, mean over seeds."""
    seeds: int
    gain_mean: float | None = None
    """Accuracy minus that of all data on the same seed, mean over seeds; None where all data was not run."""
    gain_low: float | None = None
    gain_high: float | None = None
    diverged: int = 0
    """Training runs whose loss became infinite."""
    wrong_late: float | None = None
    """Share of wrong labels among the samples of the last third of the intervals, mean over seeds."""
    over_random_mean: float | None = None
    """Accuracy minus that of random selection on the same seed, mean over seeds; None where not run."""
    over_random_low: float | None = None
    over_random_high: float | None = None
    seconds: float | None = None
    """Seconds of one training run, the scoring of test splits left out, mean over seeds."""


@dataclass(frozen=True)
class Evaluation:
    """All rows, and what each agent did over time."""

    env: str
    """Its id, or the stem of the TOML where it is not registered."""
    agent: str
    """The agent the evaluation is about."""
    rows: list[Row]
    contexts: list[dict[str, Any]]
    traces: dict[str, list[Trace]]
    """By agent: what it did in each context."""
    metric: str = ACCURACY
    """What stands in the place of accuracy: the metric of the kind of task."""

    @property
    def words(self) -> str:
        """The metric on the test split, in words."""
        return f"test {self.metric}"

    @property
    def schedules(self) -> dict[str, Floats]:
        """By agent: (contexts, T, B) share of the selection from each loss-rank bin, mean over seeds."""
        return self._stacked("selected")

    @property
    def ratios(self) -> dict[str, Floats]:
        """By agent: (contexts, T) ratio of each interval, mean over seeds."""
        return self._stacked("ratio")

    @property
    def wrong(self) -> dict[str, Floats]:
        """By agent: (contexts, T) share of wrong labels in each interval's selection, mean over seeds."""
        return self._stacked("wrong")

    @property
    def strengths(self) -> dict[str, Floats]:
        """By agent that decides strengths: (contexts, T, S) of each stability bin, mean over seeds."""
        return {name: found for name, found in self._stacked("strengths").items() if found.shape[2]}

    def _stacked(self, what: str) -> dict[str, Floats]:
        return {
            name: np.stack([getattr(trace, what) for trace in traces]) for name, traces in self.traces.items()
        }


def evaluate(
    env: Definition,
    entries: Sequence[Entry],
    about: str,
    *,
    seeds: int = 64,
    device: str = "auto",
    curves: bool = True,
    progress: bool = True,
    known: Evaluation | None = None,
) -> Evaluation:
    """Evaluate agents in every evaluation context of an environment, all on the same seeds.

    Args:
        env: the environment; an agent's own settings are laid over it.
        entries: the agents.
        about: name of the agent that the evaluation is about.
        seeds: training runs of each agent in each context.
        device: where the training runs.
        curves: score the test split after every interval too; no other number changes.
        progress: show a progress bar.
        known: an evaluation in the same environment on the same seeds: its other agents are taken over.

    Raises:
        ValueError: an agent does not fit the environment, two have one name, none is called `about`, two
            contexts differ by too little to be told apart in tables, or `known` has other contexts or seeds.
    """
    contexts, shared = contexts_of(env), _share_task(env)
    _check_known(known, contexts, seeds)
    names = [entry.name for entry in entries]
    _check_names(names, about, [] if known is None else list(known.traces))

    bar = tqdm(total=len(entries) * len(contexts) * seeds, unit="run", disable=not progress)
    runs: dict[tuple[str, int], Runs] = {}
    for entry in entries:
        bar.set_description(f"evaluating {entry.name}")
        settings = (env if "task" in entry.agent.env else shared).with_overrides(entry.agent.env)
        for number, found in enumerate(_runs_of(entry, settings, contexts, seeds, device, curves, bar)):
            runs[entry.name, number] = found
    bar.close()
    task = shared.kwargs.get("task")
    metric = task.kind.metric_name if isinstance(task, Task) else ACCURACY
    return replace(_evaluation(env, about, names, contexts, runs, known), metric=metric)


def _check_known(known: Evaluation | None, contexts: list[dict[str, Any]], seeds: int) -> None:
    """Check that agents can be taken over from an evaluation, where one is given."""
    if known is None:
        return
    found = {len(trace.accuracy) for traces in known.traces.values() for trace in traces}
    if known.contexts != contexts or found != {seeds}:
        raise ValueError(
            f"agents can be taken over from an evaluation in the contexts {contexts} with {seeds} seeds, got "
            f"one in {known.contexts} with {sorted(found) or 'no'} seeds: evaluate them again"
        )


def _runs_of(
    entry: Entry,
    settings: Definition,
    contexts: Sequence[Mapping[str, Any]],
    seeds: int,
    device: str,
    curves: bool,
    bar: Any,
) -> list[Runs]:
    """What an agent did in each context, over all seeds; at most `MOST_REPLICAS` runs side by side."""
    contexts = [{**context, **_own_ratio(entry, settings, context)} for context in contexts]
    parts: list[list[Runs]] = [[] for _ in contexts]
    for start in range(0, seeds, MOST_REPLICAS):
        size = min(MOST_REPLICAS, seeds - start)
        vector = settings.build_vector(size, autoreset_mode="Disabled", device=device)
        agent = entry.model or entry.agent.bind(vector.control, vector.single_action_space)

        first = FIRST_SEED + start
        for found, context in zip(parts, contexts, strict=True):
            episodes = range(first, first + size)
            found.append(run_episodes(vector, agent, episodes, context, curves=curves))
            bar.update(size)
    return [Runs.joined(found) for found in parts]


def _own_ratio(entry: Entry, settings: Definition, context: Mapping[str, Any]) -> dict[str, float]:
    """The ratio that an agent sets itself, where contexts say another: all data stay all data."""
    if "ratio" not in entry.agent.env:
        return {}
    is_drawn = EnvConfig(**_known(settings)).make_contexts().bounds("ratio") is not None
    return {"ratio": entry.agent.env["ratio"]} if is_drawn or "ratio" in context else {}


def _known(env: Definition) -> dict[str, Any]:
    """Settings of an environment without those of its form: device, autoreset mode and the like."""
    known = {field.name for field in fields(EnvConfig)}
    return {name: value for name, value in env.kwargs.items() if name in known}


def _evaluation(
    env: Definition,
    about: str,
    names: Sequence[str],
    contexts: list[dict[str, Any]],
    runs: Mapping[tuple[str, int], Runs],
    known: Evaluation | None = None,
) -> Evaluation:
    """All runs as the rows of a table, and as means over time; agents that are known already come after."""
    kept = {} if known is None else {n: found for n, found in known.traces.items() if n not in names}
    others = {(n, number): trace for n, traces in kept.items() for number, trace in enumerate(traces)}
    before = [] if known is None else [row for row in known.rows if row.agent in kept]

    rows = []
    for number, context in enumerate(contexts):
        rows += [_row({**others, **runs}, name, number, context) for name in names]
        rows += [row for row in before if row.context == context]

    own = {name: [Trace.of(runs[name, number]) for number in range(len(contexts))] for name in names}
    return Evaluation(
        env=f"{NAMESPACE}/{env.name}" if env.name in names_of("envs") else env.name,
        agent=about,
        rows=rows,
        contexts=contexts,
        traces={**own, **kept},
    )


def _share_task(env: Definition) -> Definition:
    """The environment with its task built, so that its data are read once for all agents."""
    task = env.kwargs.get("task")
    if not isinstance(task, Mapping) or env.kwargs.get("datasets"):
        return env
    return env.with_overrides({"task": Task.from_config(**task)})


def contexts_of(env: Definition) -> list[dict[str, Any]]:
    """The contexts in which agents are evaluated in an environment."""
    found: list[dict[str, Any]] = []
    for context in EnvConfig(**_known(env)).evaluation():
        if context not in found:  # one that is listed twice has the same runs
            found.append(context)

    labels = [context_label(context) for context in found]
    for number, label in enumerate(labels):
        if label in labels[:number]:
            raise ValueError(
                f"evaluation_contexts {found[labels.index(label)]} and {found[number]} are both called "
                f"{label!r} in tables and charts: leave one out, or let them differ in seven digits"
            )
    return found


def _check_names(names: Sequence[str], about: str, taken_over: Sequence[str] = ()) -> None:
    """Every agent must have a name of its own; `about` may be one that is taken over."""
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two agents are called {twice!r}: give each Entry a name of its own")
    if about not in (*names, *taken_over):
        raise ValueError(f"about must be the name of one of the agents, {', '.join(names)}; got {about!r}")


def _wrong_late(found: Runs) -> float | None:
    """Share of wrong labels in the last third of the intervals; None where no run got that far."""
    last = found.wrong[:, -max(1, found.wrong.shape[1] // 3) :]
    return float(np.nanmean(last)) if np.isfinite(last).any() else None


def _gain(found: Runs, reference: Runs | Trace | None) -> tuple[float | None, float | None, float | None]:
    """Accuracy minus that of the reference on the same seeds: mean and 95 % interval."""
    if reference is None:
        return None, None, None
    gain = found.accuracy - reference.accuracy
    return float(gain.mean()), *interval(gain)


def _row(
    runs: Mapping[tuple[str, int], Runs | Trace], name: str, number: int, context: Mapping[str, Any]
) -> Row:
    found = runs[name, number]
    assert isinstance(found, Runs)  # a trace stands for what an agent is compared with alone
    low, high = interval(found.accuracy)

    reference = runs.get((REFERENCE, number))
    gain, gain_low, gain_high = _gain(found, reference)
    over_random, over_random_low, over_random_high = _gain(found, runs.get((CHANCE, number)))
    own_full = (reference or found).full

    return Row(
        agent=name,
        context=dict(context),
        ratio=round(float((found.samples_used / own_full).mean()), 4),
        compute=round(
            float(((found.samples_used + FORWARD_COST * found.extra_forwards) / own_full).mean()), 4
        ),
        accuracy_mean=float(found.accuracy.mean()),
        accuracy_low=low,
        accuracy_high=high,
        samples_used=float(found.samples_used.mean()),
        seeds=len(found.accuracy),
        gain_mean=gain,
        gain_low=gain_low,
        gain_high=gain_high,
        diverged=int(found.diverged.sum()),
        wrong_late=_wrong_late(found),
        over_random_mean=over_random,
        over_random_low=over_random_low,
        over_random_high=over_random_high,
        seconds=float(np.nanmax(found.seconds, 1).mean()),
    )
