"""Tables of learned policies: the default run, other data, the guard, rehearsals."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tables_format import parts, points, source, stored, table, within
from transfer_rows import SETS, Row
from transfer_statistics import together
from transfer_summary import KINDS, Results

NOISES = (0.0, 0.2, 0.4, 0.6)
PERCENT = tuple(f"{noise:.0%}" for noise in NOISES)
HEADS = ("0 % noise", "20 %", "40 %", "60 %")
NAMES = {
    "ppo": "**ppo (learned)**",
    "trim": "`trim`, a rule that learns nothing",
    "all_data": "all data",
    "random": "random subset, fresh each epoch",
    "small_loss": "smallest losses",
    "hard_first": "largest losses",
    "easy_first": "easy to hard",
    "all_data_plus_validation": "reference: all data plus the trusted validation split",
}


def default_rows() -> dict[str, dict[float, dict[str, Any]]]:
    """Figures of the default run by agent and noise; the rule `trim` is of the second study in the file."""
    study, rule = stored("default_run.json")
    own = [*study["rows"], *(row for row in rule["rows"] if row["agent"] == "trim")]
    found: dict[str, dict[float, dict[str, Any]]] = {}
    for row in own:
        found.setdefault(row["agent"], {})[row["context"]["label_noise"]] = row
    return found


def accuracy(row: dict[str, Any]) -> str:
    half = 50 * (row["accuracy_high"] - row["accuracy_low"])
    return within(100 * row["accuracy_mean"], half, sign="-")


def default_run() -> str:
    """Accuracy of all agents of the default run."""
    found = default_rows()
    body = []
    for agent, name in NAMES.items():
        own = found[agent]
        body.append([name, f"{own[0.0]['ratio']:.0%}", *(accuracy(own[noise]) for noise in NOISES)])
    return table(["agent", "data used", *HEADS], body)


def default_gain() -> str:
    """What the default run says, in sentences."""
    found, study = default_rows(), stored("default_run.json")[0]
    gain = [100 * found["ppo"][noise]["gain_mean"] for noise in NOISES]
    span = [
        f"{100 * found['ppo'][n]['gain_low']:+.1f} to {100 * found['ppo'][n]['gain_high']:+.1f}"
        for n in NOISES
    ]
    shown = [f"{mean:+.1f} ({ends})" for mean, ends in zip(gain, span, strict=True)]
    spread = seed_spread(study)
    more = 100 * found["all_data_plus_validation"][0.0]["ratio"]
    return (
        f"Against all data on the same seeds: {', '.join(shown[:3])} and {shown[3]} points at 0, 20, 40 and "
        f"60 % wrong labels. Agents that differ by their seed lie {min(spread):.1f} to {max(spread):.1f} "
        "points apart. The reward of the agent reads 300 trusted validation labels: who has them and may "
        f"train on them (last row, {more:.0f} % of the data) is better off doing so."
    )


def seed_spread(study: dict[str, Any]) -> list[float]:
    """Points between the lowest and the highest agent seed at each noise."""
    found: dict[float, list[float]] = {}
    for row in study["agent_seeds"]:
        found.setdefault(row["context"]["label_noise"], []).append(100 * row["accuracy_mean"])
    return [max(values) - min(values) for values in found.values()]


def default_source() -> str:
    study, rule = stored("default_run.json")
    seconds = study["training_seconds"]
    return (
        f"`{study['command']}`: test accuracy in percent, mean of {study['rows'][1]['seeds']} fresh seeds "
        "and half of the 95 % interval; the first row is the mean of five agents, and its interval covers "
        f"agent seeds too. Training an agent took {min(seconds)} to {max(seconds)} s on one thread of an "
        f"Intel Xeon, torch {study['versions']['torch']}. `trim`: `{rule['command']}`, {rule['machine']}, "
        f"torch {rule['versions']['torch']} ([JSON](RESULTS/default_run.json))."
    )


def rewards() -> str:
    """Forms of the reward and settings of PPO, three agent seeds each."""
    found: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for run in stored("fair_reward.json")["runs"]:
        for row in run["rows"]:
            found.setdefault((row["form"], row["variant"], row["steps"]), []).append(row)
    body = []
    for (form, variant, steps), rows in sorted(found.items()):
        cells = []
        for noise in PERCENT:
            values = 100 * np.array([row["accuracy"][noise] for row in rows])
            cells.append(within(values.mean(), values.std(ddof=1), sign="-"))
        seconds = np.mean([row["cpu_seconds"] for row in rows])
        body.append([f"`{form}`", variant, f"{steps:,}", f"{seconds:.0f}", *cells])
    heads = ["reward", "variant", "steps", "CPU s", *HEADS]
    facts = stored("fair_reward.json")["runs"][0]
    line = f"`{facts['command']}`; {facts['machine']['cpu']}, torch {facts['machine']['torch']}"
    return parts(table(heads, body), f"{line} ([JSON](RESULTS/fair_reward.json)).")


def mask_and_joint() -> str:
    """Masks and joint actions beside the rule that they begin with."""
    content = stored("mask_and_joint.json")
    names = (
        "ppo, joint (32 seeds)",
        "ppo_set, mask (32 seeds)",
        "the joint action before training: zeros (24 seeds)",
        "the mask before training: scores of 0 (24 seeds)",
    )
    learned = default_rows()["ppo"]
    body = [["ppo, curriculum (above)", *(f"{100 * learned[n]['accuracy_mean']:.1f}" for n in NOISES)]]
    for name, row in zip(names, content["rows"], strict=True):
        body.append([name, *(f"{row['accuracy'][noise]:.1f}" for noise in PERCENT)])
    commands = " and ".join(f"`{row['command']}`" for row in content["rows"][:2])
    line = f"{commands}; one agent seed each; {content['machine']} ([JSON](RESULTS/mask_and_joint.json))."
    return parts(table(["agent", *HEADS], body), line)


# Data and recipes that no policy was trained on


def bar(name: str, which: str = "all") -> Results:
    return Results(stored(name), SETS[which])


GROUPS = {
    "clean": "right labels",
    "symmetric": "symmetric noise, 20 to 60 %",
    "pair": "pair flips, 20 and 40 %",
    "human": "labels of one human rater",
    "open-set": "40 % strange images under the labels",
    "long tail": "long tails, right labels",
    "500 samples": "500 samples, with and without noise",
    "shifted test": "test images turned and noisy",
}


def groups(results: Results) -> list[tuple[str, list[Row]]]:
    found = [(GROUPS[kind], results.of_kind(kind)) for kind in KINDS]
    found += [("**all rows with wrong labels**", results.noisy), ("**all rows**", results.rows)]
    return [(name, rows) for name, rows in found if rows]


def by_kind(results: Results, agents: dict[str, str]) -> str:
    body = [
        [name, str(len(rows)), *(points(results.mean(rows, agent)) for agent in agents)]
        for name, rows in groups(results)
    ]
    tails = results.of_kind("long tail")
    rare = [results.gains(tails, agent, what="rare") for agent in agents]
    if any(rare):
        body.append(["rare third of the classes of long tails", str(len(tails)), *map(together_points, rare)])
    return table(["points over a random half", "rows", *agents.values()], body)


def together_points(found: Sequence[Any]) -> str:
    return points(together(found)) if found else "-"


RULES = {"small_loss": "smallest losses", "trim": "`trim`", "trim_oracle": "`trim` told the true share"}


def transfer() -> str:
    """The shipped policy and rules on 66 rows of data and recipes."""
    results = bar("transfer_policy.jsonl")
    command = (
        "python benchmarks/transfer.py --set all --seeds 4 --agents random small_loss trim trim_oracle policy"
    )
    return parts(
        by_kind(results, {**RULES, "policy": "shipped policy"}), source("transfer_policy.jsonl", command)
    )


def transfer_says() -> str:
    """The differences that the conclusions rest on."""
    results = bar("transfer_policy.jsonl")
    under_noise = results.mean(results.noisy, "policy", "trim")
    clean = results.mean(results.of_kind("clean"), "policy", "trim")
    tails = results.mean(results.of_kind("long tail"), "policy", "trim")
    return (
        f"The shipped policy less `trim`, paired: {points(under_noise)} points where labels are wrong, "
        f"{points(clean)} where all are right, {points(tails)} on long tails. So under noise alone `trim` "
        "is as good and simpler; what the policy adds is on clean data and long tails."
    )


def guard() -> str:
    """The policy with its guard, and a bad policy with it: one seed of the rows that chose nothing."""
    results = bar("transfer_guard.jsonl", "once")
    agents = {
        "policy": "policy",
        "policy_guarded": "policy, guarded",
        "bad_guarded": "a bad policy, guarded",
    }
    tuned = bar("transfer_guard_tune.jsonl", "tune")
    body = [["37 further rows", str(len(tuned.rows)), *(mean_points(tuned, agent) for agent in agents)]]
    head = by_kind(results, agents)
    line = "| " + " | ".join(body[0]) + " |"
    command = (
        "python benchmarks/transfer.py --set once --seeds 1 --agents random small_loss trim trim_oracle "
        "policy policy_guarded bad_guarded"
    )
    more = "[JSON of the further rows](RESULTS/transfer_guard_tune.jsonl)"
    return parts(f"{head}\n{line}", f"{source('transfer_guard.jsonl', command)} {more}.")


def mean_points(results: Results, agent: str) -> str:
    found = results.mean(results.rows, agent)
    return "-" if found is None else f"{found.mean:+.1f}"


# Rehearsals

CHOICES = ("random", "small_loss", "infobatch", "trim", "policy curriculum", "all data")


def regrets(rows: Sequence[Any], share: str, at_half: bool) -> dict[str, np.ndarray]:
    """Points that the rehearsed pick, and each choice taken always, stay behind the best in hindsight."""
    found: dict[str, list[float]] = {}
    for row in rows:
        mean = {name: 100 * float(np.mean(values)) for name, values in row["truth"].items()}
        if at_half:
            mean.pop("all data")
        made = row["rehearsals"][share]
        pick = made["best_within_ratio" if at_half else "best"]["name"]
        for name, own in {"rehearsal": pick, **{name: name for name in CHOICES}}.items():
            if own in mean:
                found.setdefault(name, []).append(max(mean.values()) - mean[own])
    return {name: np.array(values) for name, values in found.items()}


def rehearsal() -> str:
    """Mean regret, and the worst of the rehearsal."""
    final, dev = stored("rehearsal_final.jsonl"), stored("rehearsal_dev.jsonl")
    dev = [row for row in dev if row["model"] == "mlp"]
    body = []
    for name, rows, half in (
        ("run once", final, False),
        ("run once", final, True),
        ("chosen on", dev, False),
    ):
        for share in ("all", "quarter", "tenth") if not half else ("all",):
            found = regrets(rows, share, half)
            cells = [f"{found[c].mean():.2f}" if c in found else "-" for c in CHOICES]
            pick = f"{found['rehearsal'].mean():.2f} ({found['rehearsal'].max():.1f})"
            title = f"{name}, {len(rows)}" + (", at half" if half else "")
            body.append([title, share, pick, *cells])

    heads = ["rows", "rehearsed on", "rehearsal (worst)", *(f"always {c}" for c in CHOICES)]
    line = source(
        "rehearsal_final.jsonl",
        "python benchmarks/rehearsal.py --part final --only penbased texture --seeds 4 --minutes 1.5",
    )
    again = source(
        "rehearsal_dev.jsonl",
        "python benchmarks/rehearsal.py --part dev --rates 0 0.4 --seeds 10 --minutes 1.2",
    )
    return parts(table(heads, body), f"Run once: {line} Chosen on: {again}")


def wide() -> str:
    """The candidates of the shipped policy, and the controls that are not shipped."""
    content = stored("wide_policies.json")
    shown = ("0%", "20%", "40%")
    body = [[row["agent"], *(f"{row[noise]:+.1f}" for noise in shown)] for row in content["candidates"]]
    mask = content["mask_by_the_same"]
    body.append(["a policy of `mask`", *(f"{mask[noise]:+.1f}" for noise in shown)])
    heads = ["policy", "0 % noise", "20 %", "40 %"]
    worst = min(row["gain_over_all_data"] for row in content["rows"])
    line = (
        "Points over a random half on optdigits and letter, mean of 8 runs. In their own environments "
        f"policies of `mask`, `joint` and `strength` were up to {-100 * worst:.0f} points behind all data "
        f"on digits (two seeds). `{content['evaluated']}`; {content['machine']} "
        "([JSON](RESULTS/wide_policies.json))."
    )
    return parts(table(heads, body), line)


TABLES: dict[str, Callable[[], str]] = {
    "default-run": default_run,
    "default-gain": default_gain,
    "default-source": default_source,
    "rewards": rewards,
    "mask-and-joint": mask_and_joint,
    "transfer": transfer,
    "transfer-says": transfer_says,
    "guard": guard,
    "rehearsal": rehearsal,
    "wide": wide,
}
