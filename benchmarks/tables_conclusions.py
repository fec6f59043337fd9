"""The first page of the benchmarks: which choice at which labels, at what cost, and when none helps."""

from collections.abc import Callable
from typing import Any

from tables_format import gains, points, stored, table
from tables_policies import GROUPS, NOISES, bar, default_rows, regrets
from tables_rules import human_rows
from tables_speed import around, gpu, quartiles

WIDEST = 10
"""Points that an interval may span; a wider one is not shown on the first page."""


def answers() -> str:
    """The choice for each kind of labels, with its gain over a random half."""
    policy, rules = bar("transfer_policy.jsonl"), bar("transfer_tune_rules.jsonl", "tune")
    chosen = {
        "clean": "all data; at half the cost the shipped policy",
        "symmetric": "`trim` or the shipped policy",
        "pair": "`trim` or the shipped policy",
        "human": "`trim` or the shipped policy, where training goes on until wrong labels are learnt by "
        "heart; else a random half",
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
        is_known = whole is not None and whole.high - whole.low < WIDEST
        body.append([GROUPS[kind], text, *cells, points(whole) if is_known else "too few runs"])
    heads = [
        "your labels",
        "take",
        "`trim`",
        "shipped policy",
        "smallest losses",
        "all data (twice the cost)",
    ]
    return table(heads, body)


def costs() -> str:
    """What half of the data saves, and what choosing costs."""
    half = next(row for row in stored("text_half.json")["rows"] if row["run"] == "random half")
    added = {row["method"]: row["setting_1"] for row in gpu("overhead") if row["family"] == "selector"}
    bare = 1000 * added["random"]["step_seconds"]
    shares = {name: (bare + added[name]["added_ms"]["median"]) / bare / 2 for name in added}
    rate = next(row for row in gpu("env_speed") if row["replicas"] == 64 and row["model"].startswith("MLP"))
    return (
        "- **Half of the samples is about half of the time.** A small Llama: "
        f"{around(quartiles(half['of_all_data']), '.2f')} of the time of all data. The shorter a step, the "
        f"more the choice costs: at {bare:.1f} ms a step (ResNet-18 on an H200) it is "
        f"{shares['random']:.2f} with a random half, {shares['infobatch']:.2f} with `infobatch` and "
        f"{shares['data_agent']:.2f} with `data_agent`.\n- **An agent is cheap.** {seconds()} s on one core "
        "for the default one; on an H200 64 training runs advance together at "
        f"{rate['steps_per_second']['stacked']['median']:,.0f} environment steps a second."
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
        f"**Right labels.** On digits no choice of half reached all data: the best was {behind:.1f} points "
        "behind.",
        "**Smallest losses** where labels are right: "
        f"{points(policy.mean(policy.of_kind('clean'), 'small_loss'))} points, and {tails} on long tails, "
        "whose rare classes they leave out.",
        f"**InfoBatch** at exactly half of the data: {infobatch} points, since its weights make steps "
        "larger than these learning rates are for. With its own count (about 70 % of the data) it is level "
        "with all data.",
        "**Human labels and training that ends early.** No choice of half beats a random half by more than "
        f"the interval; to know every wrong label is worth {knowing('linear')} points (linear model) or "
        f"{knowing('MLP, calm')} (MLP).",
        f"**Language models.** The shipped policy loses {language()} points of exact answers to a random "
        "half with right and with 40 % exchanged answers ([kinds of task](../kinds.md#language)); no rule "
        "gains anything there. On [regressions](../kinds.md#results) it is uncertain too: let `trim` choose.",
        f"**Trusted labels.** To train on them is better than a reward that reads them: {trusted()} points "
        "at 0, 20, 40 and 60 % wrong labels.",
        "**In doubt** let [`dsenv.rehearse`](../rehearse.md) try all of it on your data: on the mean its "
        f"pick was {rehearsed()} points behind the best in hindsight.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def knowing(recipe: str) -> str:
    own = next(rows for found, labels, rows in human_rows() if (found, labels) == (recipe, "human"))
    return points(gains(own, "right half"))


def language() -> str:
    """What the shipped policy loses on reasoning problems, in points, with right and with wrong answers."""
    rows = [row for row in stored("language_env.json")["agents"] if row["agent"] == "curriculum"]
    lost = {row["context"]["label_noise"]: -100 * row["over_random_mean"] for row in rows}
    return f"{lost[0.0]:.1f} and {lost[0.4]:.1f}"


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
    "conclusions-cost": costs,
    "conclusions-not": not_helping,
}
