"""Environment steps a second: one stack in this process, stacks in Ray actors, and RLlib's two ways.

    pip install -e ".[ray]"
    OMP_NUM_THREADS=1 python benchmarks/ray_speed.py [--envs 32] [--actors 2] [--json PATH]

One round is a whole episode of all environments (12 steps, an epoch of training each, and the reset at its
end) with random actions; in every round each rival takes its turn. RLlib's figures are of whole PPO
iterations, sampling and learning, with as many environments in as many runners, after one iteration to warm
up: by its default, which makes single environments, and by gym_env_vectorize_mode = "vector_entry_point",
which makes one stack for each runner.

Columns: environments; environment steps a second of all together (median, quartiles of the rounds); the ratio
to the stack in this process, round by round; seconds until the first step can be done.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import common
from common import Spread

from dsenv import StackedVecEnv
from dsenv.catalogue import load_vector
from dsenv.integrations.ray import RayVecEnv
from dsenv.integrations.ray_actors import connect

ENV = "Digits-Curriculum-v0"
MODES = {"RLlib, default": "sync", "RLlib, vector_entry_point": "vector_entry_point"}


def episode(env: Any, intervals: int, seed: int) -> Callable[[], None]:
    """An episode of all environments; each resets itself at its end."""
    env.seed(seed)
    env.reset()
    env.action_space.seed(seed)
    actions = [[env.action_space.sample() for _ in range(env.num_envs)] for _ in range(intervals)]

    def run() -> None:
        for action in actions:
            env.step(action)

    return run


def stacks(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of one stack, and of stacks in actors."""
    began = time.perf_counter()
    settings = {"device": "cpu", **args.overrides}
    one = StackedVecEnv(load_vector(ENV, args.envs, autoreset_mode="SameStep", **settings))
    starts = {"one stack": time.perf_counter() - began}
    began = time.perf_counter()
    per_actor = args.envs // args.actors
    many = RayVecEnv(ENV, args.actors, per_actor, **settings)
    starts["Ray actors"] = time.perf_counter() - began
    intervals = one.get_attr("config")[0].intervals

    envs = {"one stack": one, "Ray actors": many}
    try:
        calls = {name: episode(env, intervals, args.seed) for name, env in envs.items()}
        times = common.interleaved(calls, args.repeats, common.choose_device("cpu"))
    finally:
        many.close()

    rows = []
    for name, seconds in times.items():
        over = common.speedup(times, name, "one stack")
        label = name if name == "one stack" else f"{args.actors} Ray actors x {per_actor}"
        rows.append(
            row(label, args.envs, [args.envs * intervals / each for each in seconds], over, starts[name])
        )
    return rows


def rllib(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """The row of whole PPO iterations of RLlib."""
    from ray.rllib.algorithms.ppo import PPOConfig

    steps = 12 * args.envs
    config = (
        PPOConfig()
        .environment(f"dsenv:dsenv/{ENV}", env_config=args.overrides)
        .env_runners(
            num_env_runners=args.actors,
            num_envs_per_env_runner=args.envs // args.actors,
            gym_env_vectorize_mode=MODES[name],
        )
        .training(train_batch_size_per_learner=steps, minibatch_size=128, num_epochs=1, gamma=1.0)
        .debugging(seed=args.seed)
    )
    began = time.perf_counter()
    algorithm = config.build_algo()
    start = time.perf_counter() - began

    rates = []
    for _ in range(args.rllib_repeats + 1):
        began = time.perf_counter()
        sampled = algorithm.train()["env_runners"]["num_env_steps_sampled"]
        rates.append(float(sampled) / (time.perf_counter() - began))
    algorithm.stop()
    return row(f"{name}, {args.actors} runners", args.envs, rates[1:], None, start)


def row(name: str, envs: int, rates: list[float], over: Spread | None, start: float) -> dict[str, Any]:
    """Figures of a rival, and its cells."""
    rate = Spread.of(rates)
    ratio = "" if over is None else over.text(".2f")
    return {
        "name": name,
        "envs": envs,
        "steps_per_second": rate._asdict(),
        "over_one_stack": None if over is None else over._asdict(),
        "start_seconds": start,
        "rates": rates,
        "cells": [name, str(envs), rate.text(".0f"), ratio, f"{start:.0f}"],
    }


def main() -> None:
    """Print the table."""
    parser = common.parser(__doc__, repeats=9)
    parser.add_argument("--envs", type=int, default=32, help="environments in all (default 32)")
    parser.add_argument("--actors", type=int, default=2, help="Ray actors, and RLlib's runners (default 2)")
    parser.add_argument(
        "--rllib-repeats", type=int, default=3, help="iterations of RLlib, 0 for none (default 3)"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.overrides = {}
    if args.quick:
        args.envs, args.actors, args.repeats, args.rllib_repeats = 2, 1, 1, 0
        args.overrides = {"intervals": 2}
    if args.envs % args.actors:
        parser.error(f"--envs {args.envs} cannot be shared evenly by --actors {args.actors}")

    device = common.choose_device("cpu")
    connect(None, 2 * args.actors + 1)
    rows = stacks(args)
    if args.rllib_repeats:
        rows += [rllib(name, args) for name in MODES]
    heads = ["form", "environments", "steps/s", "to one stack", "start, s"]
    common.report(args, common.facts(device, ("ray", "gymnasium", "stable_baselines3")), heads, rows)


if __name__ == "__main__":
    main()
