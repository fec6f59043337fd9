"""What the default agent's training depends on: forms of the reward, steps, rate, bins, trimming.

    python benchmarks/fair_reward.py --agent-seeds 3 --steps 24000 --json fair_reward.jsonl
    python benchmarks/fair_reward.py --agent-seeds 3 --steps 36000 --forms accuracy log_error cell --jobs 16

Contexts with many wrong labels have about ten times the stakes of clean ones, so an agent learns for them.
Forms:

- `accuracy`: the gain in validation accuracy, which is the form before;
- `log_error`: the gain in -log(error + 0.01), by which halving the error pays alike everywhere;
- `cell`: the gain in accuracy over the running deviation of returns in the context's cell of label noise
  (four cells). The wrapper is told the noise, to tell cells apart;
- `twin`: the gain in accuracy less that of a twin that selects at random, from the same seed in the same
  context, over the running deviation of that difference in the cell. A step then costs two training runs.

`--variants` are changes of `agents/ppo.toml` or of the environment, see `VARIANTS`. Each form, variant and
agent seed trains PPO and evaluates the policy with the best validation reward (in its own form; `cell` and
`twin`: accuracy) on 64 fresh seeds. One line of JSON each; those that are there are not run again.
"""

import argparse
import json
import math
import time
from collections.abc import Mapping
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import facts
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from dsenv.agents.base import build_agent
from dsenv.agents.callbacks import SeededEval
from dsenv.agents.checkpoint import parameters, spaces_state
from dsenv.catalogue import definition, merge
from dsenv.errors import pick
from dsenv.evaluation import Entry, evaluate
from dsenv.workbench.cluster import make_vec_env
from dsenv.workbench.train import EVAL_SEED, EVALUATIONS

ENV = "dsenv/Digits-Curriculum-v0"
Key = tuple[str, str, int, int]
KEY = ("form", "variant", "seed", "steps")
FORMS = ("accuracy", "log_error", "cell", "twin")
NETWORK = {"net_arch": [64, 64], "log_std_init": -1.0}
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "as it is": ({}, {}),
    "rate 7e-4": ({"hyperparameters": {"learning_rate": "lin_7e-4"}}, {}),
    "less noise": ({"hyperparameters": {"policy_kwargs": NETWORK}}, {}),
    "short rollouts": ({"hyperparameters": {"n_steps": 12}}, {}),
    "20 passes": ({"hyperparameters": {"n_epochs": 20}}, {}),
    "8 bins": ({}, {"bins": 8}),
    "no trimming": ({}, {"control": {"name": "curriculum", "trim": False}}),
}
"""Name -> changes of the agent and of the environment; several together are "rate 7e-4, 8 bins"."""
CELLS = 4
NOISE = 0.6  # the largest label noise of the environment
MEMORY = 0.99  # weight of the past in running moments, for each finished run


class Scale:
    """Running deviation of values within each cell, relative to its mean over cells."""

    def __init__(self) -> None:
        self.mean, self.square = np.zeros(CELLS), np.zeros(CELLS)
        self.weight = np.zeros(CELLS)

    def add(self, cell: int, value: float) -> None:
        self.mean[cell] = MEMORY * self.mean[cell] + (1 - MEMORY) * value
        self.square[cell] = MEMORY * self.square[cell] + (1 - MEMORY) * value**2
        self.weight[cell] = MEMORY * self.weight[cell] + (1 - MEMORY)

    def of(self, cells: np.ndarray) -> np.ndarray:
        if (self.weight == 0).any():
            return np.ones(len(cells))
        mean, square = self.mean / self.weight, self.square / self.weight
        deviation = np.sqrt(np.maximum(square - mean**2, 1e-8))
        return deviation[cells] / deviation.mean()


def cells_of(infos: list[dict[str, Any]]) -> np.ndarray:
    noise = np.array([info["label_noise"] for info in infos])
    return np.minimum((noise / NOISE * CELLS).astype(int), CELLS - 1)


class ByCell(VecEnvWrapper):
    """Rewards over the running deviation of returns in the context's cell."""

    def __init__(self, env: VecEnv) -> None:
        super().__init__(env)
        self.scale, self.returns = Scale(), np.zeros(env.num_envs)

    def reset(self) -> np.ndarray:
        self.returns[:] = 0
        return self.venv.reset()

    def step_wait(self) -> Any:
        observation, reward, done, infos = self.venv.step_wait()
        cells = cells_of(infos)
        self.returns += reward
        paid = reward / self.scale.of(cells)
        for k in np.flatnonzero(done):
            self.scale.add(int(cells[k]), float(self.returns[k]))
            self.returns[k] = 0
        return observation, paid.astype(np.float32), done, infos


class Twin(VecEnvWrapper):
    """Every second environment is a twin that selects at random; rewards are differences, scaled by cell."""

    def __init__(self, env: VecEnv) -> None:
        super().__init__(env)
        self.num_envs = env.num_envs // 2
        self.scale, self.returns = Scale(), np.zeros(self.num_envs)

    def seed(self, seed: int | None = None) -> Any:
        self.venv.seed(seed)
        self.venv._seeds[1::2] = self.venv._seeds[::2]
        return self.venv._seeds[::2]

    def reset(self) -> np.ndarray:
        if self.venv._seeds[0] is None:
            self.seed(int(np.random.default_rng(0).integers(2**31)))
        self.returns[:] = 0
        return self.venv.reset()[::2]

    def step_async(self, actions: np.ndarray) -> None:
        both = np.zeros((self.venv.num_envs, *actions.shape[1:]), actions.dtype)
        both[::2] = actions
        self.venv.step_async(both)

    def step_wait(self) -> Any:
        observation, reward, done, infos = self.venv.step_wait()
        own, twins = infos[::2], infos[1::2]
        assert all(a["label_noise"] == b["label_noise"] for a, b in zip(own, twins, strict=True))
        cells = cells_of(own)
        difference = reward[::2] - reward[1::2]
        self.returns += difference
        paid = difference / self.scale.of(cells)
        for k in np.flatnonzero(done[::2]):
            self.scale.add(int(cells[k]), float(self.returns[k]))
            self.returns[k] = 0
        return observation[::2], paid.astype(np.float32), done[::2], own


def trained(
    form: str,
    seed: int,
    steps: int,
    agent_changes: Mapping[str, Any] | None = None,
    env_changes: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], float]:
    """Test accuracies by context of the best policy, and the processor seconds of its training."""
    agent = build_agent(definition("agents", "ppo").with_overrides({"steps": steps, **(agent_changes or {})}))
    measure = "log_error" if form == "log_error" else "accuracy"
    reward = {"reward": {"name": "validation", "measure": measure}}
    settings = definition("envs", ENV).with_overrides({**reward, **(env_changes or {})})

    began = time.process_time()
    env: VecEnv = make_vec_env(settings, agent.num_envs * (2 if form == "twin" else 1), "cpu")
    env = {"cell": ByCell, "twin": Twin}.get(form, lambda same: same)(env)
    env.seed(seed)
    model = agent.build(env, seed)
    model.set_logger(Logger(None, []))
    every = max(1, math.ceil(steps / agent.num_envs / EVALUATIONS))
    looks = SeededEval(make_vec_env(settings, agent.num_envs, "cpu"), EVAL_SEED + seed, agent.num_envs, every)
    model.learn(steps, callback=looks)
    spent = time.process_time() - began

    best = looks.best or {"parameters": parameters(model), "numbers": {}}
    policy = agent.restored(spaces_state(looks._env), best["parameters"], best["numbers"])
    result = evaluate(settings, [Entry("ppo", agent, policy)], "ppo", seeds=64, curves=False, progress=False)
    accuracy = {f"{row.context['label_noise']:.0%}": row.accuracy_mean for row in result.rows}
    return accuracy, spent


def run(key: Key) -> dict[str, Any]:
    """One line of the file."""
    torch.set_num_threads(1)
    form, variant, seed, steps = key
    parts = [VARIANTS[name] for name in variant.split(", ")]
    agent_changes: dict[str, Any] = {}
    for change, _ in parts:
        agent_changes = merge(agent_changes, change)
    env_changes = {name: value for _, change in parts for name, value in change.items()}
    accuracy, spent = trained(form, seed, steps, agent_changes, env_changes)
    row = dict(zip(KEY, key, strict=True)) | {"cpu_seconds": round(spent, 1), "accuracy": accuracy}
    return {**row, "machine": facts(torch.device("cpu"))}


def summary(rows: list[dict[str, Any]]) -> None:
    """Mean over agent seeds and standard deviation, for each form, variant and number of steps."""
    print("\n| reward | variant | steps | agent seeds | CPU s | " + " | ".join(rows[0]["accuracy"]) + " |")
    for kind in dict.fromkeys((row["form"], row["variant"], row["steps"]) for row in rows):
        own = [row for row in rows if (row["form"], row["variant"], row["steps"]) == kind]
        table = 100 * np.array([list(row["accuracy"].values()) for row in own])
        spent = np.mean([row["cpu_seconds"] for row in own])
        cells = [f"{mean:.1f} ± {off:.1f}" for mean, off in zip(table.mean(0), table.std(0), strict=True)]
        print("| " + " | ".join([*map(str, kind), str(len(own)), f"{spent:.0f}", *cells]) + " |")


def main() -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=["log_error"])
    parser.add_argument("--variants", nargs="+", default=["as it is"])
    parser.add_argument("--agent-seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=24_000)
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    parser.add_argument("--json", type=Path, default=Path("fair_reward.jsonl"))
    args = parser.parse_args()

    for name in (part for variant in args.variants for part in variant.split(", ")):
        pick("variant", name, VARIANTS)

    lines = args.json.read_text().splitlines() if args.json.is_file() else []
    rows = [json.loads(line) for line in lines]
    done = {tuple(row[name] for name in KEY) for row in rows}
    wanted = product(args.forms, args.variants, range(args.agent_seeds), [args.steps])
    left = [key for key in wanted if key not in done]
    with get_context("spawn").Pool(args.jobs) as pool:
        for row in pool.imap_unordered(run, left):
            rows.append(row)
            with args.json.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print({name: row[name] for name in (*KEY, "cpu_seconds", "accuracy")}, flush=True)
    summary(rows)


if __name__ == "__main__":
    main()
