"""What a run folder says of itself, in words for people."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from dsenv.env.config import EnvConfig
from dsenv.workbench.run import Run

Facts = list[tuple[str, str]]

DECIDES = {
    "curriculum": "what to train on: a weight for each loss-rank bin",
    "mask": "what to train on: scores or yes and no for single samples",
    "ratio": "how much to train on",
    "strength": "how strongly each sample is augmented",
    "joint": "what to train on, how much, and how strongly augmented",
    "rule": "nothing: a selector, a schedule and a controller decide",
}
DEFAULTS = {field.name: field.default for field in fields(EnvConfig)}


@dataclass(frozen=True)
class Training:
    """What the training of one agent took."""

    steps: int
    """Environment steps, each of them one training interval."""
    is_exact: bool
    """False where there may have been more."""
    checks: int
    """Training runs of the policy's evaluations in between."""


def environment(run: Run) -> Facts:
    """Environment, data, model and what the agent decides."""
    settings = {**DEFAULTS, **run.env.kwargs}
    task = _table(settings.get("task"))
    control = _name(settings["control"])
    facts = [
        ("environment", run.env.name),
        ("agent decides", DECIDES.get(control, control)),
        ("data set", described(task.get("dataset"))),
        ("model", described(task.get("model"))),
        ("recipe", described(task.get("recipe"))),
        ("training intervals", str(settings["intervals"])),
        ("ratio", f"{_percent(settings['ratio'])} of the samples that training on everything sees"),
    ]
    if isinstance(settings["datasets"], list | tuple):
        sets = [described(_table(found).get("dataset", found)) for found in settings["datasets"]]
        facts.append(("data sets", "; ".join(sets)))
    for name in ("selector", "volume", "augment", "reward", "actions"):
        if settings.get(name) != DEFAULTS.get(name):
            facts.append((name, described(settings[name])))
    if settings.get("context"):
        facts.append(("trained under", _ranges(_table(settings["context"]))))
    return [(name, value) for name, value in facts if value]


def summary(run: Run, seeds: list[int]) -> str:
    """What was done, in two sentences.

    Args:
        run: one of those on the environment.
        seeds: numbers of evaluation seeds.
    """
    settings = {**DEFAULTS, **run.env.kwargs}
    task, control = _table(settings["task"]), _name(settings["control"])
    data, model = (_name(task.get(what, {})) for what in ("dataset", "model"))

    if settings["datasets"] and isinstance(settings["datasets"], list | tuple):
        data = "several data sets"
    decided = DECIDES.get(control, control).partition(":")[0]
    words = f"A model ({model})" if model else "A model"
    words += f" is trained on {data or 'data'}, and the agent decides {decided}."
    if seeds:
        numbers = " or ".join(str(number) for number in seeds)
        words += f" Gains are in points of test accuracy, means of {numbers} fresh training runs."
    return words


def trained(runs: Sequence[tuple[str, Run, Training]]) -> str:
    """What the training of agents took, in a sentence or two.

    Args:
        runs: label, run and training of each; those that never trained are left out.
    """
    by_words: dict[str, list[str]] = {}
    for label, run, training in runs:
        settings = {**DEFAULTS, **run.env.kwargs, **_table(run.agent.kwargs.get("env"))}
        intervals = settings["intervals"]
        words = "" if training.is_exact else "at least "
        words += f"{training.steps:,} training intervals"
        if isinstance(intervals, int) and intervals > 0:
            words += f", that is {training.steps / intervals:,.0f} training runs"
        if training.checks:
            words += f", and {training.checks:,} more to pick the best policy"
        by_words.setdefault(words, []).append(label)
    if not by_words:
        return ""

    found = []
    for words, labels in by_words.items():
        who = labels[0] if len(labels) == 1 else f"each of {len(labels)} agents"
        found.append(f"{who} was itself trained on {words}")
    return f"{'; '.join(found)}; a run's cost below is for using it."


def _ranges(context: Mapping[str, Any]) -> str:
    """What is drawn for each training run: "label noise 0 to 60%"."""
    found = []
    for name, value in context.items():
        ends = value if isinstance(value, list | tuple) else [value, value]
        if name == "lr" or len(ends) != 2 or not all(isinstance(end, int | float) for end in ends):
            found.append(f"{name.replace('_', ' ')} {_value(value)}")
            continue
        low, high = (f"{100 * end:.4g}" for end in ends)
        found.append(f"{name.replace('_', ' ')} {low if low == high else f'{low} to {high}'}%")
    return ", ".join(found)


def agent(run: Run, step: int | None, seeds: int | None) -> Facts:
    """Agent, seed, versions, machine and command.

    Args:
        run: the run.
        step: environment steps of the policy that was evaluated; None or 0 where nobody knows.
        seeds: of the evaluation.
    """
    facts, kwargs = run.facts, run.agent.kwargs
    learning = [described(kwargs.get("algorithm")), described(kwargs.get("policy"))]
    versions = _table(facts.get("versions"))
    steps = f"{kwargs['steps']:,}" if isinstance(kwargs.get("steps"), int) else described(kwargs.get("steps"))
    if steps and step:
        steps += f", the evaluated policy is from step {step:,}"

    found = [
        ("agent", run.agent.name),
        ("algorithm", ", ".join(word for word in learning if word)),
        ("steps", steps),
        ("training runs side by side", described(kwargs.get("num_envs"))),
        ("hyperparameters", described(kwargs.get("hyperparameters"))),
        ("training seed", str(run.seed)),
        ("evaluation", "" if seeds is None else f"{seeds} fresh seeds in each context"),
        ("date", described(facts.get("started"))),
        ("hardware", described(facts.get("platform"))),
        ("device", f"{facts.get('device', '')}, {facts.get('threads', 1)} threads"),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("command", described(facts.get("command"))),
        ("folder", str(run.folder)),
    ]
    return [(name, value) for name, value in found if value]


def described(value: Any) -> str:
    """A setting in words: "digits (train 1000, validation 300)"."""
    if value is None or value == {}:
        return ""
    if isinstance(value, Mapping):
        rest = ", ".join(f"{key} {_value(item)}" for key, item in value.items() if key != "name")
        name = str(value.get("name", ""))
        return f"{name} ({rest})" if name and rest else name or rest
    return _value(value)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"({described(value)})"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(item) for item in value)}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _percent(value: Any) -> str:
    return f"{100 * value:.4g}%" if isinstance(value, int | float) else str(value)


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _name(value: Any) -> str:
    return str(value.get("name", "")) if isinstance(value, Mapping) else str(value)


def differing(tables: list[Mapping[str, Any]]) -> list[str]:
    """What tells tables of settings apart, a text each: "hyperparameters.gamma=0.9, steps=100"."""
    flat = [dict(_flat(table)) for table in tables]
    keys = [key for key in dict.fromkeys(key for table in flat for key in table)
            if len({str(table.get(key)) for table in flat}) > 1]  # fmt: skip
    return [", ".join(f"{key}={_value(table.get(key, 'default'))}" for key in keys) for table in flat]


def _flat(table: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in table.items():
        inner = isinstance(value, Mapping)
        found += _flat(value, f"{before}{key}.") if inner else [(f"{before}{key}", value)]
    return found


def stem(folder: Path) -> str:
    """Name of a run folder; that of the folder itself for ".", and never empty."""
    return folder.resolve().name or "run"
