"""Environments of other kinds of task: a trained agent and the shipped policy against the fixed rules.

    python train_agent.py --env dsenv/Regression-Curriculum-v0 --steps 9216 --num-envs 32
    python benchmarks/kinds_env.py --env Regression-Curriculum-v0 --policy runs/RUN/policy.safetensors \
        --json benchmarks/results/kinds_env.json

All agents see the same seeds, at 0, 20 and 40 % of the targets exchanged; the metric of the kind on the test
split at the end of the training. What the JSON file has already is not run again; `--table` prints it.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import facts

from dsenv.agents.base import build_agent
from dsenv.catalogue import definition
from dsenv.evaluation import evaluate
from dsenv.evaluation.compare import Entry
from dsenv.files import write_text
from dsenv.workbench.policies import agent_definition

RULES = ("all_data", "random", "small_loss", "infobatch", "trim")
SHIPPED = "curriculum"
NOISES = (0.0, 0.2, 0.4)
DRAWS = 10_000  # of the bootstrap


def measured(env: str, name: str, agent: str, seeds: int) -> dict[str, Any]:
    """What one agent reaches in an environment, for each share of exchanged targets."""
    contexts = [{"label_noise": noise} for noise in NOISES]
    entry = Entry(name, build_agent(agent_definition(agent)))
    settings = definition("envs", env).with_overrides({"evaluation_contexts": contexts})
    found = evaluate(settings, [entry], name, seeds=seeds, device="cpu", curves=False)
    row: dict[str, Any] = {"env": env, "agent": name, "seeds": seeds, "noise": list(NOISES)}
    row["metric"] = [trace.accuracy.tolist() for trace in found.traces[name]]
    row["share_of_samples"] = [round(own.ratio, 4) for own in found.rows]
    row["mismatched_late"] = [own.wrong_late for own in found.rows]
    return row


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of a mean over seeds."""
    draws = np.random.default_rng(0).integers(len(values), size=(DRAWS, len(values)))
    low, high = np.quantile(values[draws].mean(1), [0.025, 0.975])
    return float(low), float(high)


def print_table(rows: list[dict[str, Any]], env: str) -> None:
    """A row for each agent: mean of the metric, and of its difference from random on the same seeds."""
    own = {row["agent"]: np.array(row["metric"]) for row in rows if row["env"] == env}
    print("| agent | " + " | ".join(f"{noise:.0%} | over random" for noise in NOISES) + " |")
    print("|" + "---|" * (1 + 2 * len(NOISES)))
    for name, values in own.items():
        cells = []
        for number in range(len(NOISES)):
            apart = values[number] - own["random"][number]
            low, high = interval(apart)
            over = "" if name == "random" else f"{apart.mean():+.3f} [{low:+.3f}, {high:+.3f}]"
            cells += [f"{values[number].mean():.3f}", over]
        print(f"| {name} | " + " | ".join(cells) + " |")


def main(arguments: list[str] | None = None) -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--env", required=True, help="an environment of envs/")
    made.add_argument("--policy", help="policy.safetensors of the agent trained in it")
    made.add_argument("--rules", nargs="*", default=[*RULES, SHIPPED], help="other agents")
    made.add_argument("--seeds", type=int, default=16)
    made.add_argument("--json", type=Path, required=True)
    made.add_argument("--table", action="store_true", help="print what the file has, run nothing")
    args = made.parse_args(arguments)

    torch.set_num_threads(1)
    content = json.loads(args.json.read_text()) if args.json.is_file() else {"rows": []}
    rows = content["rows"]
    agents = {name: name for name in args.rules} | ({"ppo": args.policy} if args.policy else {})
    done = {(row["env"], row["agent"]) for row in rows}
    for name, agent in agents.items():
        if args.table or (args.env, name) in done:
            continue
        rows.append(measured(args.env, name, agent, args.seeds))
        write_text(args.json, json.dumps({"facts": facts(torch.device("cpu")), "rows": rows}, indent=1))
    print_table(rows, args.env)


if __name__ == "__main__":
    main()
