"""Record what dsenv computes, and compare it after a restructuring: bit for bit, on one machine.

    python benchmarks/same_numbers.py record before.json    # at the old commit
    python benchmarks/same_numbers.py record after.json     # at the new one, same machine and versions
    python benchmarks/same_numbers.py compare before.json after.json

What is recorded, each value as its SHA-256, shape and sum:

- `runs`: policy file and evaluation table of a short default run (two seeds) and of a run for each control;
- `episodes`: 200 episodes of random actions, single and stacked: observations, rewards, flags, infos;
- `plans`: 60 plans (selector x volume x augmentation x source): batches, weighted losses, states.

`--only episodes plans` leaves a part out. Keys of states that were renamed stand in `RENAMED`. The numbers
hold on one machine with equal versions and one torch thread; recordings are not kept in git.
"""

import argparse
import hashlib
import json
import platform
import tempfile
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

import dsenv
from dsenv.catalogue import load, load_vector
from dsenv.plan import DataPlan, FeatureForward
from dsenv.select.registry import SELECTORS
from dsenv.workbench.cli import main as train_agent

RENAMED: dict[str, str] = {
    "/state/course/": "/state/epoch_sampler/",
    "/state/learnt/": "/state/feedback/",
    "/epoch_sampler/looks": "/epoch_sampler/scoring_passes",
    "/epoch_sampler/guidance": "/epoch_sampler/policies",
    "/feedback/inbox/": "/feedback/buffer/",
    "/cost/looked": "/cost/extra_forwards",
}
"""Part of a recorded key before -> after, for what a restructuring names anew on purpose."""
LEFT_OUT = ("seconds",)
"""Keys that hold wall-clock time."""

Record = dict[str, list[Any]]
"""Key -> [SHA-256, shape, sum]."""

RUNS = (
    ("default, seed 0", "dsenv/Digits-Curriculum-v0", "ppo", 0),
    ("default, seed 1", "dsenv/Digits-Curriculum-v0", "ppo", 1),
    ("ratio", "dsenv/Tiny-Ratio-v0", "ppo", 0),
    ("mask", "dsenv/Tiny-Mask-v0", "ppo_set", 0),
    ("strength", "dsenv/Tiny-Strength-v0", "ppo_beta", 0),
    ("joint", "dsenv/Tiny-Joint-v0", "ppo", 0),
    ("data sets", "dsenv/Tiny-Datasets-v0", "ppo", 0),
    ("rule", "dsenv/Tiny-Curriculum-v0", "pods_infobatch", 0),
)
"""Name, environment, agent and seed of each run of the workbench."""

TINY = "dsenv/Tiny-"
HARD = {"label_noise": [0.0, 0.4], "imbalance": [0.2, 1.0], "subset": [0.5, 1.0], "width": [0.5, 1.0]}
EPISODES: tuple[tuple[str, dict[str, Any]], ...] = (
    (f"{TINY}Curriculum-v0", {}),
    (
        f"{TINY}Curriculum-v0",
        {"context": {**HARD, "lr": [0.5, 2.0], "pair_flip": 0.1}, "rank_by": "loss_rank"},
    ),
    (f"{TINY}Curriculum-v0", {"actions": "discrete", "reward": "composite", "bins": 4}),
    (f"{TINY}Curriculum-v0", {"volume": "pods", "augment": "trivial", "reward": "final"}),
    (f"{TINY}Curriculum-v0", {"trusted_validation": False, "validation_shown": 0.5, "interval": 0.5}),
    (f"{TINY}Curriculum-v0", {"train_on_validation": True, "trainer": {"form": "loop"}}),
    (f"{TINY}Ratio-v0", {}),
    (f"{TINY}Ratio-v0", {"selector": "infobatch", "context": HARD}),
    (f"{TINY}Ratio-v0", {"spend_all": False, "reward": "cost_aware", "actions": "discrete"}),
    (f"{TINY}Ratio-v0", {"selector": "el2n"}),
    (f"{TINY}Ratio-v0", {"selector": "data_agent", "augment": "sada"}),
    (f"{TINY}Mask-v0", {}),
    (f"{TINY}Mask-v0", {"actions": "binary", "control": {"name": "mask", "candidates": 16}}),
    (f"{TINY}Mask-v0", {"control": {"name": "mask", "candidates": 16, "embedding": True}}),
    (f"{TINY}Strength-v0", {}),
    (f"{TINY}Strength-v0", {"selector": "forgetting", "volume": "linear"}),
    (f"{TINY}Joint-v0", {}),
    (f"{TINY}Joint-v0", {"reward": {"name": "validation", "measure": "log_likelihood"}, "context": HARD}),
    (f"{TINY}Datasets-v0", {}),
    (f"{TINY}Curriculum-v0", {"control": "rule", "selector": "k_center", "volume": "cosine"}),
    (f"{TINY}Curriculum-v0", {"control": "rule", "selector": "ucb", "augment": "ent_augment"}),
    (f"{TINY}Curriculum-v0", {"control": "rule", "selector": "glister", "volume": "step"}),
    (f"{TINY}Strength-v0", {"task": {"model": {"name": "small_cnn", "width": 8}}}),
    (f"{TINY}Strength-v0", {"control": "rule", "augment": {"name": "fixed", "strength": 0.5}}),
    ("dsenv/Digits-Curriculum-v0", {}),
)
"""Environment and settings laid over it; each gives 4 stacked and 4 single episodes."""
SIDE_BY_SIDE = 4


def digest(value: Any) -> list[Any]:
    """SHA-256, shape and sum of an array, tensor, number or text."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().contiguous().numpy()
    if isinstance(value, np.ndarray | np.generic | float | int | bool):
        array = np.ascontiguousarray(value)
        total = float(np.nansum(array.astype(np.float64))) if array.dtype != object else 0.0
        return [
            hashlib.sha256(array.tobytes() + str(array.dtype).encode()).hexdigest(),
            list(array.shape),
            total,
        ]
    return [hashlib.sha256(repr(value).encode()).hexdigest(), [], repr(value)[:60]]


def flat(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Leaves of nested tables and lists, by their path; wall-clock times are left out."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            if name not in LEFT_OUT:
                yield from flat(f"{key}/{name}", item)
    elif isinstance(value, list | tuple) and not all(isinstance(item, int | float) for item in value):
        for number, item in enumerate(value):
            yield from flat(f"{key}/{number}", item)
    else:
        yield key, np.array(value) if isinstance(value, list | tuple) else value


def record(into: Record, key: str, value: Any) -> None:
    """Write down every leaf of a value."""
    for name, leaf in flat(key, value):
        assert name not in into, name
        into[name] = digest(leaf)


# Runs of the workbench


def record_runs() -> Record:
    """Policy files and evaluation tables of short runs."""
    found: Record = {}
    for name, env, agent, seed in RUNS:
        with tempfile.TemporaryDirectory() as folder:
            steps = [] if agent == "pods_infobatch" else ["--steps", "1024", "--num-envs", "16"]
            if agent == "ppo":
                steps += ["--agent-set", "hyperparameters.batch_size=128"]
            options = ["--env", env, "--agent", agent, "--seed", str(seed), *steps]
            status = train_agent([*options, "--out", folder, "--seeds", "4", "--device", "cpu"])
            assert status == 0, (name, status)
            (run,) = Path(folder).iterdir()
            policy = run / "policy.safetensors"
            if policy.is_file():
                found[f"runs/{name}/policy"] = [hashlib.sha256(policy.read_bytes()).hexdigest(), [], ""]
            record(found, f"runs/{name}/evaluation", json.loads((run / "evaluation.json").read_text()))
    return found


# Episodes of random actions


def record_episodes() -> Record:
    """Observations, rewards, flags and infos of random episodes, stacked and alone."""
    found: Record = {}
    for number, (env_id, settings) in enumerate(EPISODES):
        key = f"episodes/{number} {env_id.removeprefix('dsenv/')}"
        record(found, f"{key}/stacked", dict(enumerate(stacked_episode(env_id, settings, number))))
        for seed in range(SIDE_BY_SIDE):
            steps = dict(enumerate(single_episode(env_id, settings, 100 * number + seed)))
            record(found, f"{key}/single {seed}", steps)
    return found


def stacked_episode(env_id: str, settings: dict[str, Any], seed: int) -> Iterator[dict[str, Any]]:
    """One episode in each of K stacked environments, and what their automatic reset gives."""
    env = load_vector(env_id, SIDE_BY_SIDE, autoreset_mode="SameStep", device="cpu", **settings)
    env.action_space.seed(seed)
    observation, info = env.reset(seed=seed)
    yield {"observation": observation, "info": plain(info), "names": "\n".join(env.observation_names)}
    done = np.zeros(SIDE_BY_SIDE, bool)
    while not done.all():
        observation, reward, terminated, _, info = env.step(env.action_space.sample())
        done |= terminated
        yield {"observation": observation, "reward": reward, "terminated": terminated, "info": plain(info)}


def single_episode(env_id: str, settings: dict[str, Any], seed: int) -> Iterator[dict[str, Any]]:
    """One episode of a single environment."""
    env = load("envs", env_id, device="cpu", **settings)
    env.action_space.seed(seed)
    observation, info = env.reset(seed=seed)
    yield {"observation": observation, "info": plain(info)}
    terminated = False
    while not terminated:
        observation, reward, terminated, _, info = env.step(env.action_space.sample())
        yield {"observation": observation, "reward": reward, "info": plain(info)}


def plain(info: Mapping[str, Any]) -> dict[str, Any]:
    """An info with arrays of objects taken apart."""
    found: dict[str, Any] = {}
    for name, value in info.items():
        if isinstance(value, Mapping):
            found[name] = plain(value)
        elif isinstance(value, np.ndarray) and value.dtype == object:
            found[name] = {k: item for k, item in enumerate(value) if item is not None}
        else:
            found[name] = value
    return found


# Plans in a training loop

SIZE, CLASSES, HIDDEN, EPOCHS, BATCH = 150, 4, 12, 4, 12
VOLUMES = (None, "pods", {"name": "linear", "swing": 0.2}, "cosine", {"name": "step", "swing": -0.2})
AUGMENTS = (
    None,
    "trivial",
    {"name": "sada", "warm_up": 1, "window": 2},
    "ent_augment",
    {"name": "ada_augment", "features": HIDDEN},
    "rand_augment",
    {"name": "fixed", "strength": 0.4, "ramp_epochs": 2},
)
SOURCES = ("tensors", "arrays", "data set", "tables")
LEARNED = ("curriculum", "ratio", "joint")
"""Shipped policies, tried on top of the rule-based parts."""


def samples() -> tuple[Tensor, Tensor]:
    """Images (N, 1, 8, 8) uint8 that a small network can learn, and labels (N,)."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, CLASSES, (SIZE,), generator=generator)
    images = torch.randint(0, 120, (SIZE, 1, 8, 8), generator=generator, dtype=torch.uint8)
    for label in range(CLASSES):
        images[labels == label, :, 2 * label : 2 * label + 2] += 100
    return images, labels


class Rows(Dataset[Any]):
    """The samples as a map-style data set of pairs, or of tables."""

    def __init__(self, tables: bool) -> None:
        self.images, self.labels = samples()
        self.tables = tables

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, index: int) -> Any:
        image, label = self.images[index], int(self.labels[index])
        return {"image": image, "label": label} if self.tables else (image, label)


def open_data(source: str) -> Any:
    """The samples in one of the forms that a plan takes."""
    images, labels = samples()
    if source == "tensors":
        return images, labels
    if source == "arrays":
        return images.numpy(), labels.numpy()
    return Rows(tables=source == "tables")


def plan_settings(number: int) -> dict[str, Any]:
    """What plan `number` is made of; strides without a common factor go through the combinations."""
    names = list(SELECTORS)
    source = SOURCES[(number * 3 + number // 20) % len(SOURCES)]
    augment = None if source == "tables" else AUGMENTS[number * 3 % len(AUGMENTS)]
    name = names[number % len(names)]
    selector: Any = {"name": name, "irreducible": torch.linspace(0, 1, SIZE)} if name == "rho_loss" else name
    volume = VOLUMES[number * 2 % len(VOLUMES)]
    ratio = None if name == "infobatch" and number % 2 else 0.5
    settings = {"selector": selector, "volume": None if ratio is None else volume, "augment": augment}
    if number >= 60 - len(LEARNED):
        policy = LEARNED[number - (60 - len(LEARNED))]
        settings, source = {"policy": policy}, "tensors"
    more = {"seed": number, "drop_last": number % 5 == 4, "uniform_epochs": int(number % 2)}
    return {"source": source, "ratio": ratio, **settings, **more}


def record_plans() -> Record:
    """Batches, weighted losses and states of plans in a training loop."""
    found: Record = {}
    for number in range(60):
        settings = plan_settings(number)
        source = settings.pop("source")
        key = f"plans/{number} {source}"
        record(found, key, dict(enumerate(train_with(source, settings))))
    return found


def train_with(source: str, settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Train a small network by a plan: every batch and loss, and a state in the middle of each epoch."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(Unwrap(), nn.Linear(64, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))
    forward = FeatureForward(model, model[-1])
    plan = DataPlan(
        open_data(source),
        epochs=EPOCHS,
        batch_size=BATCH,
        classes=CLASSES,
        **settings,
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    looked = False
    for epoch in plan.epochs_left():
        if plan.selector.needs_pass and not looked:
            plan.score(forward, samples())
            looked = True
        for step, batch in enumerate(plan.batches()):
            yield train_on(batch, plan, forward, optimizer)
            if step == 1:
                yield {"state": plan.state_dict()}
        plan.report_validation(0.25 + 0.1 * epoch)
        yield {"state": plan.state_dict(), "progress": plan.progress, "trained": plan.cost.trained}


class Unwrap(nn.Module):
    """Images (B, 64) in [0, 1] of a batch of images, or of a table that holds one."""

    def forward(self, inputs: Any) -> Tensor:
        """The pixels."""
        images: Tensor = inputs["image"] if isinstance(inputs, Mapping) else inputs
        return images.float().flatten(1) / 255


def train_on(batch: Any, plan: Any, forward: Any, optimizer: Any) -> dict[str, Any]:
    """One step; gives what the batch held and its weighted loss."""
    logits, features = forward(batch.inputs)
    losses = F.cross_entropy(logits, batch.labels, reduction="none")
    loss = plan.loss(batch, losses, logits=logits, features=features, forward=forward)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return {
        "inputs": batch.inputs,
        "labels": batch.labels,
        "index": batch.index,
        "weight": batch.weight,
        "losses": losses,
        "loss": loss,
    }


# The command line

PARTS = {"episodes": record_episodes, "plans": record_plans, "runs": record_runs}


def renamed(key: str) -> str:
    """The key as it is called after the restructuring."""
    for old, new in RENAMED.items():
        key = key.replace(old, new)
    return key


def compare(before: Record, after: Record) -> int:
    """Print what differs; returns how many keys do."""
    before = {renamed(key): value for key, value in before.items()}
    differing = [key for key in before if after.get(key) != before[key]]
    new = [key for key in after if key not in before]
    for key in differing[:40]:
        print(f"differs: {key}\n  before {before[key]}\n  after  {after.get(key, 'nothing')}")
    for key in new[:40]:
        print(f"only after: {key}")
    print(f"{len(before)} values before, {len(differing)} differ or are gone, {len(new)} are new")
    return len(differing)


def main() -> int:
    """Record or compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    recorder = commands.add_parser("record", help="record to a JSON file")
    recorder.add_argument("file", type=Path)
    recorder.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    comparer = commands.add_parser("compare", help="compare two recordings; exit status 1 where they differ")
    comparer.add_argument("before", type=Path)
    comparer.add_argument("after", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.command == "compare":
        left, right = (json.loads(path.read_text()) for path in (args.before, args.after))
        if left["where"] != right["where"]:
            print(f"not comparable: {left['where']} and {right['where']}")
        return int(compare(left["values"], right["values"]) > 0)
    values: Record = {}
    for part in args.only:
        start = time.perf_counter()
        values |= PARTS[part]()
        print(f"{part}: {len(values)} values so far, {time.perf_counter() - start:.0f} s")
    packages = {name: version(name) for name in ("torch", "numpy", "gymnasium", "stable-baselines3")}
    where = {"dsenv": dsenv.__version__, "machine": platform.machine(), **packages}
    args.file.write_text(json.dumps({"where": where, "values": values}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
