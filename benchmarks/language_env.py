"""The environment of language modelling: what all data reach, and agents at half of them.

    OMP_NUM_THREADS=1 python benchmarks/language_env.py [--repeats SEEDS] [--json PATH] [--policy FILE ...]

Needs reasoning-gym (pip install reasoning-gym). First the decoder is trained on all data with clean answers,
once for each seed: exact answers on the held-out test problems by the task's own metric (teacher forcing), by
greedy decoding and reasoning-gym's own scorers, for each generator and level, with the seconds of processor
time of a whole training and of an interval at half of the data.

Then agents are evaluated in the environment's contexts, on the same seeds each: fixed rules at half of the
data, all data, the policy that dsenv ships for classification as it is (zero-shot), and the policy files that
are named. The JSON file is written after each agent.
"""

import json
import shlex
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch

from dsenv.agents.base import build_agent
from dsenv.catalogue import definition
from dsenv.evaluation.compare import Entry, evaluate
from dsenv.tasks.reasoning import answers, problems
from dsenv.workbench.policies import agent_definition
from dsenv.workbench.train import make_vec_env

ENV = "Language-Curriculum-v0"
AGENTS = ("all_data", "random", "small_loss", "trim", "infobatch", "easy_first", "curriculum")
HYPERPARAMETERS = {
    "learning_rate": 1.5e-3,
    "n_steps": 32,
    "batch_size": 64,
    "n_epochs": 10,
    "gamma": 1.0,
    "gae_lambda": 0.99,
    "policy_kwargs": {"net_arch": [64, 64], "log_std_init": -0.5},
}
PACKAGES = ("reasoning-gym", "gymnasium", "stable-baselines3")


def train_on_all(env: Any, seed: int) -> tuple[Any, float]:
    """The session after one training with clean answers, and its seconds of processor time."""
    env.reset(seed=seed, options={"context": {"label_noise": 0.0}})
    still, done = np.zeros_like(env.action_space.low), False
    began = time.process_time()
    while not done:
        done = env.step(still)[2]
    (session,) = env.episodes.sessions()
    return session, time.process_time() - began


def scored(session: Any, known: list[Any]) -> dict[str, Any]:
    """Exact answers on the test problems by the metric and by reasoning-gym's scorers, and by level."""
    task = session.task
    model = task.model()
    model.load_state_dict(session.trainer.replicas.parameters_of(0))
    test = task.dataset.test
    with torch.no_grad():
        outputs = model.eval()(test.images)
    correct = task.kind.read(outputs, test.labels, torch.zeros(len(test)))["correct"].bool().tolist()

    said = answers(model, test.images)
    own = [known[place] for place in test.source[1].tolist()]
    scores = [problem.score(text) == 1.0 for problem, text in zip(own, said, strict=True)]
    levels = defaultdict(list)
    for problem, right in zip(own, scores, strict=True):
        levels[f"{problem.generator} {problem.level}"].append(right)
    return {
        "metric": statistics.fmean(correct),
        "scorer": statistics.fmean(scores),
        "differ": sum(a != b for a, b in zip(correct, scores, strict=True)),
        "levels": {name: statistics.fmean(levels[name]) for name in sorted(levels)},
        "parameters": sum(value.numel() for value in model.parameters()),
    }


def interval_seconds(env: Any, steps: int = 10) -> float:
    """Median seconds of processor time of an interval of one replica."""
    env.reset(seed=0)
    still, times = np.zeros_like(env.action_space.low), []
    for _ in range(steps):
        began = time.process_time()
        env.step(still)
        times.append(time.process_time() - began)
    return statistics.median(times)


def learn(seeds: int, quick: bool) -> list[dict[str, Any]]:
    """One row for each seed: what a model trained on all data answers."""
    settings = {"intervals": 2} if quick else {}
    env = definition("envs", ENV).with_overrides({"ratio": 1.0, **settings}).build(device="cpu")
    sizes = {name: len(split) for name, split in env.config.make_task().dataset.splits().items()}
    known = problems(**sizes)
    rows = []
    for seed in range(seeds):
        session, seconds = train_on_all(env, seed)
        rows.append({"seed": seed, "seconds": seconds, **scored(session, known)})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def train_agent(steps: int, seed: int, path: Path) -> dict[str, Any]:
    """Train PPO in the environment, four training runs side by side, and write its last policy to `path`."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback

    import dsenv

    class Keep(BaseCallback):
        """Writes the policy after each rollout, so that a run that is cut short leaves one."""

        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            dsenv.export(self.model, single, environment=ENV, steps=self.num_timesteps).save(path)
            print(f"{self.num_timesteps} steps, {time.process_time() - began:.0f} s", flush=True)

    env = make_vec_env(definition("envs", ENV), 4, "cpu")
    single = definition("envs", ENV).build(device="cpu")
    began = time.process_time()
    model = PPO("MlpPolicy", env, seed=seed, device="cpu", **HYPERPARAMETERS).learn(steps, callback=Keep())
    dsenv.export(model, single, environment=ENV, steps=model.num_timesteps).save(path)
    return {"steps": model.num_timesteps, "seconds": time.process_time() - began, "seed": seed}


def evaluate_one(name: str, seeds: int, known: Any, settings: dict[str, Any]) -> Any:
    """The evaluation of one agent, beside those that are known."""
    agent = build_agent(agent_definition(name))
    label = Path(name).stem if name.endswith(".safetensors") else name
    env = definition("envs", ENV).with_overrides(settings)
    return evaluate(
        env,
        [Entry(label, agent)],
        label,
        seeds=seeds,
        device="cpu",
        curves=False,
        progress=False,
        known=known,
    )


def write(path: Path | None, found: dict[str, Any]) -> None:
    if path:
        path.write_text(json.dumps({"command": shlex.join(["python", *sys.argv]), **found}, indent=1))


def main() -> None:
    parser = common.parser(__doc__, repeats=3)
    parser.add_argument("--policy", nargs="*", default=[], help="policy files to evaluate beside the rules")
    parser.add_argument("--agents", nargs="*", default=list(AGENTS), help="fixed rules and shipped policies")
    parser.add_argument("--train", type=int, default=0, metavar="STEPS", help="train PPO first")
    parser.add_argument("--seed", type=int, default=0, help="of the agent's training")
    parser.add_argument("--out", type=Path, default=Path("language.safetensors"), help="its policy file")
    parser.add_argument("--skip-learning", action="store_true", help="leave out the training on all data")
    args = parser.parse_args()
    known_facts = common.facts(common.choose_device("cpu"), PACKAGES)

    found: dict[str, Any] = {"facts": known_facts, "learning": [], "agents": []}
    if args.train:
        found["training"] = train_agent(args.train, args.seed, args.out)
        args.policy.append(str(args.out))
    if not args.skip_learning:
        found["learning"] = learn(args.repeats, args.quick)
        env = definition("envs", ENV).build(device="cpu")
        found["interval_seconds"] = interval_seconds(env, steps=1 if args.quick else 10)
        write(args.json, found)

    known, settings = None, {"intervals": 2} if args.quick else {}
    for name in [*args.agents, *args.policy]:
        known = evaluate_one(name, args.repeats, known, settings)
        found["agents"] = [vars(row) for row in known.rows]
        for row in known.rows:
            if row.agent == known.agent:
                print(
                    f"{row.agent} {row.context}: {row.accuracy_mean:.3f}, {row.over_random_mean}", flush=True
                )
        write(args.json, found)


if __name__ == "__main__":
    main()
