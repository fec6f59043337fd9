"""Tables of speed and memory: on a GPU, over Ray, over processes, of language models, of logs."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tables_format import machine, parts, source, stored, table

Spread = Mapping[str, float]
THOUSAND = 1000


def around(spread: Spread, form: str = ".1f", unit: str = "", scale: float = 1) -> str:
    """Median with quartiles."""
    median, low, high = (scale * spread[name] for name in ("median", "low", "high"))
    return f"{median:{form}}{unit} ({low:{form}} to {high:{form}})"


def gpu(name: str) -> list[Any]:
    return list(stored(f"gpu/{name}.json")["rows"])


def gpu_aims() -> str:
    """What was to be reached on a GPU, and what was."""
    resnet = next(row for row in gpu("gpu_shares") if row["what"] == "resnet18")["share_of_bare"]
    title = "ResNet-18, one training run in an environment, beside a bare loop (bf16, channels_last): rate"
    body = [[title, "0.8", around(resnet, ".2f"), verdict(resnet["median"], 0.8)]]
    for row in gpu("env_speed"):
        if row["replicas"] == 64:
            found = row["speedup"]["loop"]
            title = f"{row['model']}, 64 training runs as one program, beside one environment after another"
            body.append([title, "20x", around(found, ".1f", "x"), verdict(found["median"], 20)])
    line = f"{machine(stored('gpu/env_speed.json')['facts'])} (JSON: `benchmarks/results/gpu`)."
    return parts(table(["question", "aim", "measured", ""], body), f"`benchmarks/gpu.sh`; {line}")


def verdict(found: float, aim: float) -> str:
    return "reached" if found >= aim else "not reached"


def gpu_environment() -> str:
    """Steps a second of stacked and single environments."""
    body = []
    for row in gpu("env_speed"):
        rates = row["steps_per_second"]
        stacked = rates["stacked"]["median"]
        episodes = 3600 * stacked / row["intervals"]
        cells = [f"{stacked:,.0f}", f"{episodes:,.0f}", f"{rates['loop']['median']:,.0f}"]
        body.append([row["model"], str(row["replicas"]), *cells, around(row["speedup"]["loop"], ".1f", "x")])
    heads = [
        "model",
        "training runs",
        "stacked, steps/s",
        "episodes/h",
        "single, steps/s",
        "stacked over single",
    ]
    return parts(table(heads, body), source("gpu/env_speed.json"))


def gpu_forms() -> str:
    """Samples a second of each form of training K models over a loop."""
    names = ("stacked", "vmap", "loop, bf16 channels_last")
    body = []
    for row in gpu("forms"):
        rates = row["samples_per_second"]
        cells = [f"{rates[n] / rates['loop']:.1f}x" if rates.get(n) else "-" for n in names]
        body.append([row["model"], str(row["replicas"]), *cells, f"{rates['loop'] / THOUSAND:.0f} k"])
    return parts(table(["model", "K", *names, "loop, samples/s"], body), source("gpu/forms.json"))


def gpu_agents() -> str:
    """Where the time of PPO goes."""
    body = []
    for row in (row for row in gpu("gpu_shares") if row["what"] == "ppo"):
        shares = row["shares"]
        copies = sum(share for name, share in shares.items() if name.startswith("copies"))
        rate = row["replicas"] * row["rollout"] / row["seconds"]
        cells = [
            f"{100 * share:.1f} %"
            for share in (shares["environment"], shares["update"], shares["policy"], copies, shares["rest"])
        ]
        body.append([row["networks_on"], f"{rate:,.0f}", *cells])
    heads = [
        "networks of PPO on",
        "steps/s",
        "environment",
        "update",
        "policy",
        "copies",
        "Stable-Baselines3's own",
    ]
    return parts(table(heads, body), source("gpu/gpu_shares.json"))


def gpu_overhead() -> str:
    """Milliseconds that a plan adds to a step, and the part of a ResNet-18's step."""
    body = []
    for row in gpu("overhead"):
        small, large = row["setting_0"], row["setting_1"]
        share = large["added_ms"]["median"] / (THOUSAND * large["step_seconds"])
        name = "" if row["method"] == row["family"] else f"`{row['method']}`"
        body.append(
            [
                row["family"],
                name,
                around(small["added_ms"], ".2f"),
                around(large["added_ms"], ".2f"),
                f"{100 * share:.0f} %",
            ]
        )
    heads = ["part", "method", "added ms, 28x28x1", "added ms, 32x32x3", "of a ResNet-18's step"]
    return parts(table(heads, body), source("gpu/overhead.json"))


def gpu_pipeline() -> str:
    """Images a second from stored bytes to batches."""
    body = [
        [
            row["shape"],
            row["kind"],
            row["rival"],
            around(row["images_per_second"], ",.0f", " k", 1 / THOUSAND),
            "" if row["rival"] == "dsenv" else around(row["dsenv_over"], ".1f", "x"),
        ]
        for row in gpu("pipeline")
    ]
    heads = ["shape", "images", "by", "images/s", "dsenv over it"]
    return parts(table(heads, body), source("gpu/pipeline.json"))


def ray() -> str:
    """Environment steps a second over Ray."""
    body = []
    for row in stored("ray_speed.json")["rows"]:
        over = row.get("over_one_stack")
        rate = around(row["steps_per_second"], ".0f")
        body.append([row["name"], rate, around(over, ".2f") if over else ""])
    return table(["form", "steps/s", "to one stack"], body)


def world() -> str:
    """What it costs to gather what ranks learnt, once an epoch."""
    body = []
    for row in stored("world.json")["rows"]:
        seconds = [statistics.median(row[name]) for name in ("gather_seconds", "turn_seconds")]
        sent = f"{row['bytes_sent'] / 2**20:.1f} MiB"
        share = f"{row['percent_of_a_step']:.2f} %"
        body.append([row["what"], sent, *(f"{value:.1f} s" for value in seconds), share])
    return table(["gathered", "a rank sends", "gather", "turn", "of a step"], body)


def text_half() -> str:
    """Time of a small Llama on half of the data."""
    body = []
    for row in stored("text_half.json")["rows"]:
        samples, tokens = (f"{row[name]:,}" if row[name] else "" for name in ("samples", "tokens"))
        seconds, share = (quartiles(row[name]) for name in ("seconds", "of_all_data"))
        body.append([row["run"], samples, tokens, around(seconds, ".2f"), around(share, ".2f")])
    heads = ["", "samples", "tokens", "seconds", "of all data"]
    return table(heads, body)


def quartiles(values: Sequence[float]) -> Spread:
    """Median and quartiles; of three values, which are those of a spread already, their order."""
    ordered = sorted(values)
    if len(ordered) == 3:
        return {"median": ordered[1], "low": ordered[0], "high": ordered[2]}
    low, median, high = statistics.quantiles(ordered, n=4, method="inclusive")
    return {"median": median, "low": low, "high": high}


def text_memory() -> str:
    """Memory of the loss of tokens."""
    body = []
    for row in stored("text_memory.json")["rows"]:
        first, _, rest = row["way"].partition(" ")
        name = f"`{first.rstrip(':')}`{':' if first.endswith(':') else ''} {rest}"
        body.append([name, f"{row['added']:,.0f} MiB", f"{row['share']:.2f}", f"{row['seconds']:.1f} s"])
    return table(["", "added", "of `F.cross_entropy`", "on the CPU"], body)


TABLES: dict[str, Callable[[], str]] = {
    "gpu-aims": gpu_aims,
    "gpu-environment": gpu_environment,
    "gpu-forms": gpu_forms,
    "gpu-agents": gpu_agents,
    "gpu-overhead": gpu_overhead,
    "gpu-pipeline": gpu_pipeline,
    "ray": ray,
    "world": world,
    "text-half": text_half,
    "text-memory": text_memory,
}
