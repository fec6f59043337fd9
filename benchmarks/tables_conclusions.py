"""The first page of the benchmarks: which choice at which labels, at what cost, and when none helps."""

from collections.abc import Callable
from typing import Any

from tables_format import gains, points, stored, table
from tables_policies import GROUPS, NOISES, accuracy, bar, default_rows, regrets
from tables_rules import human_rows
from tables_speed import around, gpu, quartiles


def answers() -> str:
    """The choice for each kind of labels, with its gain over a random half."""
    policy, rules = bar("transfer_policy.jsonl"), bar("transfer_tune_rules.jsonl", "tune")
    chosen = {
        "clean": "all data; at half the cost a random half or the shipped policy",
        "symmetric": "`trim`, or the shipped policy",
        "pair": "`trim`, or the shipped policy",
        "human": "`trim` or the shipped policy, if training goes on until wrong labels are known by heart",
        "long tail": "all data; at half the cost the shipped policy",
        "open-set": "nothing helps: a random half",
    }
    body = []
    for kind, text in chosen.items():
        cells = [
            points(policy.mean(policy.of_kind(kind), agent)) for agent in ("trim", "policy", "small_loss")
        ]
        whole = rules.mean(rules.of_kind(kind), "all_data") if rules.of_kind(kind) else None
        if kind == "human":  # of the recipe that goes on, as on the other rows
            own = next(
                rows for recipe, labels, rows in human_rows() if (recipe, labels) == ("MLP, long", "human")
            )
            whole = gains(own, "all data")
        body.append([GROUPS[kind], text, *cells, points(whole)])
    heads = [
        "your labels",
        "take",
        "`trim`",
        "shipped policy",
        "smallest losses",
        "all data (twice the cost)",
    ]
    return table(heads, body)


def digits() -> str:
    """The default run in five rows."""
    found = default_rows()
    names = {
        "all_data": "all data",
        "random": "random half",
        "trim": "`trim`, half",
        "ppo": "learned policy, half",
    }
    body = [[name, *(accuracy(found[agent][noise]) for noise in NOISES)] for agent, name in names.items()]
    return table(["digits, test accuracy in %", "right labels", "20 % wrong", "40 %", "60 %"], body)


def costs() -> str:
    """What half of the data saves, and what choosing costs."""
    half = next(row for row in stored("text_half.json")["rows"] if row["run"] == "random half")
    added = {row["method"]: row["setting_1"] for row in gpu("overhead") if row["family"] == "selector"}
    steps = 1000 * added["infobatch"]["step_seconds"]
    cheap, dear = added["infobatch"]["added_ms"], added["data_agent"]["added_ms"]
    rate = next(row for row in gpu("env_speed") if row["replicas"] == 64 and row["model"].startswith("MLP"))
    return (
        f"- **Half of the samples is half of the time.** A small Llama: {around(quartiles(half['of_all_data']), '.2f')} "
        f"of the time of all data. On an H200 a plan adds {cheap['median']:.1f} ms to a step of {steps:.1f} ms (ResNet-18) "
        f"with `infobatch` and {dear['median']:.1f} ms with `data_agent`.\n"
        f"- **An agent is cheap.** {seconds()} s on one core for the default one; on an H200 64 training runs advance "
        f"together at {rate['steps_per_second']['stacked']['median']:,.0f} environment steps a second."
    )


def seconds() -> str:
    times: list[int] = stored("default_run.json")[0]["training_seconds"]
    return f"{min(times)} to {max(times)}"


def not_helping() -> str:
    """Where no choice helps, or one does harm."""
    policy, rules = bar("transfer_policy.jsonl"), bar("transfer_tune_rules.jsonl", "tune")
    best = max(
        (r for r in default_rows().values() if r[0.0]["ratio"] <= 0.5), key=lambda r: r[0.0]["accuracy_mean"]
    )
    whole = default_rows()["all_data"][0.0]["accuracy_mean"]
    behind = 100 * (whole - best[0.0]["accuracy_mean"])
    tails = points(policy.mean(policy.of_kind("long tail"), "small_loss"))
    infobatch = points(rules.mean(rules.rows, "infobatch"))
    lines = [
        f"**Right labels and a short training run.** On digits no choice of half reached all data (the best was "
        f"{behind:.1f} points behind). Training on everything is right where its cost is no question.",
        f"**Smallest losses without wrong labels**: {points(policy.mean(policy.of_kind('clean'), 'small_loss'))} points, "
        f"and {tails} on long tails, where rare classes are what it leaves out.",
        f"**`infobatch` at exactly half of the data**: {infobatch} points at learning rates that were not tuned for it; "
        f"its weights make steps larger. With its own count it keeps about 70 % and is level with all data.",
        f"**Human labels and a training run that ends early**: nothing beats a random half by more than the interval; "
        f"who knows every wrong label gains {knowing('linear')} (linear model) or {knowing('MLP, calm')} points.",
        "**Other kinds of task**: the shipped policy does harm on a small language model and at 20 % exchanged targets "
        "of a regression ([tables](../kinds.md#results)). Train one there, or take a rule.",
        f"**Trusted labels that may be trained on**: training on them is better than a reward that reads them "
        f"({trusted()} points at 0, 20, 40 and 60 % wrong labels).",
        f"**When in doubt, rehearse**: [`dsenv.rehearse`](../rehearse.md) was {rehearsed()} points behind the best "
        f"choice in hindsight on the mean.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def knowing(recipe: str) -> str:
    own = next(rows for found, labels, rows in human_rows() if (found, labels) == (recipe, "human"))
    return points(gains(own, "right half"))


def trusted() -> str:
    found = default_rows()
    apart: list[Any] = [
        100
        * (found["all_data_plus_validation"][noise]["accuracy_mean"] - found["ppo"][noise]["accuracy_mean"])
        for noise in NOISES
    ]
    return ", ".join(f"{value:+.1f}" for value in apart)


def rehearsed() -> str:
    final = regrets(stored("rehearsal_final.jsonl"), "all", at_half=False)["rehearsal"].mean()
    dev = [row for row in stored("rehearsal_dev.jsonl") if row["model"] == "mlp"]
    return f"{final:.2f} to {regrets(dev, 'all', at_half=False)['rehearsal'].mean():.2f}"


TABLES: dict[str, Callable[[], str]] = {
    "conclusions": answers,
    "conclusions-digits": digits,
    "conclusions-cost": costs,
    "conclusions-not": not_helping,
}
