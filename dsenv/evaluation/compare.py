"""Evaluation: agents on fresh seeds in the same contexts, at a stated budget.

Nothing else in dsenv reads a test split.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap
from tqdm.auto import tqdm

from dsenv import files
from dsenv.agents.base import Agent
from dsenv.catalogue import NAMESPACE, Definition
from dsenv.catalogue import names as names_of
from dsenv.env.config import EnvConfig
from dsenv.env.vector_env import TrainingVectorEnv
from dsenv.tasks.task import Task
from dsenv.volume.budget import FORWARD_COST

FIRST_SEED = 1_000_000_000  # far from the seeds that agents are trained with
REFERENCE = "all_data"  # gains are measured against this agent, seed by seed
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


@dataclass(frozen=True)
class Evaluation:
    """All rows, and what each agent selected over time."""

    env: str
    """Its id, or the stem of the TOML where it is not registered."""
    agent: str
    """The agent the evaluation is about."""
    rows: list[Row]
    schedules: dict[str, NDArray[np.float32]]
    """By agent: (contexts, T, B) share of the selection from each loss-rank bin, mean over seeds."""
    ratios: dict[str, NDArray[np.float32]]
    """By agent: (contexts, T) ratio of each interval, mean over seeds."""
    wrong: dict[str, NDArray[np.float32]]
    """By agent: (contexts, T) share of wrong labels in each interval's selection, mean over seeds."""
    strengths: dict[str, NDArray[np.float32]]
    """By agent that decides strengths: (contexts, T, S) strength of each stability bin, mean over seeds."""
    contexts: list[dict[str, Any]]

    def save(self, path: Path) -> None:
        """Write the rows as JSON."""
        content = {"env": self.env, "agent": self.agent, "rows": [asdict(row) for row in self.rows]}
        files.write_text(path, json.dumps(content, indent=1) + "\n")


def interval(values: Accuracies) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of (S,) values; of length 0 where they are all the same."""
    if len(values) < 2 or np.ptp(values) == 0:
        return float(values.mean()), float(values.mean())
    rng = np.random.default_rng(0)
    result = bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=rng)
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


@dataclass
class Runs:
    """What one agent did in one context, over S seeds."""

    accuracy: Accuracies
    samples_used: NDArray[np.int64]
    full: NDArray[np.int64]
    """(S,) samples seen where all data is trained on."""
    selected: NDArray[np.float32]
    """(S, T, B)."""
    ratio: NDArray[np.float32]
    """(S, T)."""
    wrong: NDArray[np.float32]
    """(S, T) share of wrong labels in the selection."""
    strengths: NDArray[np.float32]
    """(S, T, bins) strength of each stability bin; no bins where the agent does not decide it."""
    diverged: NDArray[np.bool_]
    extra_forwards: NDArray[np.int64]
    """(S,) samples of forward passes without training."""

    @classmethod
    def of(
        cls, env: TrainingVectorEnv, diverged: NDArray[np.bool_], extra_forwards: NDArray[np.int64]
    ) -> "Runs":
        """Results of an environment's finished runs; the accuracy of a diverged one is that of a guess."""
        parts, order = [], []
        for session, rows in env.episodes.parts():
            score = session.trainer.evaluate("test").accuracy.double().cpu().numpy()
            part = cls(
                accuracy=np.where(diverged[rows], 1 / session.task.dataset.classes, score),
                samples_used=session.state.budget.spent.copy(),
                full=session.state.budget.capacity * session.config.intervals,
                selected=session.history.selected.copy(),
                ratio=session.history.scalars["ratio"].copy(),
                wrong=session.history.scalars["wrong_labels"].copy(),
                strengths=session.history.strengths(session.control),
                diverged=diverged[rows],
                extra_forwards=extra_forwards[rows],
            )
            parts.append(part)
            order.append(rows)

        # In the order of the environment's replicas
        whole, place = _joined(parts), np.argsort(np.concatenate(order))
        return cls(**{name: values[place] for name, values in vars(whole).items()})


def run_episodes(
    env: TrainingVectorEnv, agent: Agent, seeds: Sequence[int], context: Mapping[str, Any]
) -> Runs:
    """Run one episode a seed to its end and test the trained models.

    Args:
        env: with autoreset mode "Disabled" and as many environments as there are seeds.
        agent: decides, deterministically.
        seeds: of the episodes.
        context: values to set; the others are drawn.
    """
    observation, _ = env.reset(seed=list(seeds), options={"context": context})
    diverged = np.zeros(env.num_envs, np.bool_)
    state, start = None, np.ones(env.num_envs, np.bool_)  # for policies with a memory; all begin together

    while not env.episodes.finished.all():
        actions, state = agent.predict(observation, state=state, episode_start=start, deterministic=True)
        start = np.zeros_like(start)
        observation, _, _, _, info = env.step(actions)
        diverged |= info["diverged"]

    return Runs.of(env, diverged, info["extra_forwards"])


def evaluate(
    env: Definition,
    entries: Sequence[Entry],
    about: str,
    *,
    seeds: int = 64,
    device: str = "auto",
    progress: bool = True,
) -> Evaluation:
    """Evaluate agents in every evaluation context of an environment, all on the same seeds.

    Args:
        env: the environment; an agent's own settings are laid over it.
        entries: the agents.
        about: name of the agent that the evaluation is about.
        seeds: training runs of each agent in each context.
        device: where the training runs.
        progress: show a progress bar.

    Raises:
        ValueError: an agent does not fit the environment.
    """
    contexts, shared = _contexts(env), _share_task(env)
    bar = tqdm(total=len(entries) * len(contexts) * seeds, unit="run", disable=not progress)

    runs: dict[tuple[str, int], Runs] = {}
    for entry in entries:
        bar.set_description(f"evaluating {entry.name}")
        settings = (env if "task" in entry.agent.env else shared).with_overrides(entry.agent.env)
        for number, found in enumerate(_runs_of(entry, settings, contexts, seeds, device, bar)):
            runs[entry.name, number] = found
    bar.close()

    return _evaluation(env, about, [entry.name for entry in entries], contexts, runs)


def _runs_of(
    entry: Entry,
    settings: Definition,
    contexts: Sequence[Mapping[str, Any]],
    seeds: int,
    device: str,
    bar: Any,
) -> list[Runs]:
    """What an agent did in each context, over all seeds; at most `MOST_REPLICAS` runs side by side."""
    parts: list[list[Runs]] = [[] for _ in contexts]
    for start in range(0, seeds, MOST_REPLICAS):
        size = min(MOST_REPLICAS, seeds - start)
        vector = settings.build_vector(size, autoreset_mode="Disabled", device=device)
        agent = entry.model or entry.agent.bind(vector.control, vector.single_action_space)

        first = FIRST_SEED + start
        for found, context in zip(parts, contexts, strict=True):
            found.append(run_episodes(vector, agent, range(first, first + size), context))
            bar.update(size)
    return [_joined(found) for found in parts]


def _evaluation(
    env: Definition,
    about: str,
    names: Sequence[str],
    contexts: list[dict[str, Any]],
    runs: Mapping[tuple[str, int], Runs],
) -> Evaluation:
    """All runs as the rows of a table, and as means over time."""
    return Evaluation(
        env=f"{NAMESPACE}/{env.name}" if env.name in names_of("envs") else env.name,
        agent=about,
        rows=[_row(runs, name, number, context) for number, context in enumerate(contexts) for name in names],
        schedules={name: _means(runs, name, "selected", len(contexts)) for name in names},
        ratios={name: _means(runs, name, "ratio", len(contexts)) for name in names},
        wrong={name: _means(runs, name, "wrong", len(contexts)) for name in names},
        strengths={
            name: _means(runs, name, "strengths", len(contexts))
            for name in names
            if runs[name, 0].strengths.shape[2]
        },
        contexts=contexts,
    )


def _share_task(env: Definition) -> Definition:
    """The environment with its task built, so that its data are read once for all agents."""
    task = env.kwargs.get("task")
    if not isinstance(task, Mapping) or env.kwargs.get("datasets"):
        return env
    return env.with_overrides({"task": Task.from_config(**task)})


def _contexts(env: Definition) -> list[dict[str, Any]]:
    known = {field.name for field in fields(EnvConfig)}
    settings = {name: value for name, value in env.kwargs.items() if name in known}
    return EnvConfig(**settings).evaluation()


def _joined(parts: Sequence[Runs]) -> Runs:
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])}
    return Runs(**columns)


def _means(runs: Mapping[tuple[str, int], Runs], name: str, what: str, contexts: int) -> NDArray[np.float32]:
    """Mean over seeds for each context; NaN where no seed got that far."""
    rows = [getattr(runs[name, number], what) for number in range(contexts)]
    return np.stack([np.ma.masked_invalid(row).mean(0).filled(np.nan) for row in rows]).astype(np.float32)


def _wrong_late(found: Runs) -> float | None:
    """Share of wrong labels in the last third of the intervals; None where no run got that far."""
    last = found.wrong[:, -max(1, found.wrong.shape[1] // 3) :]
    return float(np.nanmean(last)) if np.isfinite(last).any() else None


def _row(runs: Mapping[tuple[str, int], Runs], name: str, number: int, context: Mapping[str, Any]) -> Row:
    found = runs[name, number]
    low, high = interval(found.accuracy)

    reference = runs.get((REFERENCE, number))
    gain = None if reference is None else found.accuracy - reference.accuracy
    gain_low, gain_high = (None, None) if gain is None else interval(gain)
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
        gain_mean=None if gain is None else float(gain.mean()),
        gain_low=gain_low,
        gain_high=gain_high,
        diverged=int(found.diverged.sum()),
        wrong_late=_wrong_late(found),
    )
