"""One training run of the bar: a loop over a DataPlan, as a user would write it."""

import inspect
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F
from transfer_data import Trial, make
from transfer_rows import Row

import dsenv
from dsenv import DataPlan, Policy
from dsenv.agents.rules import LossRankRule
from dsenv.plan import FeatureForward
from dsenv.policy.actors import build_actor
from dsenv.tasks.models import mlp, small_cnn

EPOCHS = 12
GUARD_SHARE = "guard/share of the policy"
CNN_WIDTH = 8

RULES = ("random", "small_loss", "trim", "trim_oracle", "infobatch", "data_agent", "all_data")
LEARNED = ("policy", "policy_guarded", "bad", "bad_guarded")
"""The policy without and with its guard; and one that is bad on purpose: largest losses."""
AGENTS = RULES + LEARNED
TAKEN_BACK = 0.4  # a guarded policy begins with half of an epoch; below this share the guard has acted
HAS_GUARD = "guard" in inspect.signature(DataPlan).parameters


def agents_here() -> tuple[str, ...]:
    """The agents that this version of dsenv can run."""
    return AGENTS if HAS_GUARD else tuple(name for name in AGENTS if not name.endswith("guarded"))


def load_policy(path: str | None) -> Policy:
    return dsenv.pretrained("curriculum") if path is None else Policy.load(path)


@cache
def policies(path: str | None) -> Mapping[str, Policy]:
    """The policy, and one with its card that always asks for the largest losses."""
    own = load_policy(path)
    wanted = LossRankRule("large").bind(own.control, spaces.Box(-1, 1, (own.control.size,)))
    entries = own.card.observation["entries"]
    action = torch.from_numpy(wanted.action(own.control, np.zeros(entries, np.float32)))
    settings = {
        "inputs": entries,
        "hidden": [],
        "outputs": len(action),
        "activation": "tanh",
        "head": "gaussian",
    }
    network = {"kind": "mlp", **settings}
    weights = {"layers.0.weight": torch.zeros(len(action), entries), "layers.0.bias": action}
    return {"policy": own, "bad": Policy(build_actor(network, weights), replace(own.card, network=network))}


def parts(agent: str, row: Row, trial: Trial, policy: str | None) -> dict[str, Any]:
    """What the agent is, as arguments of `DataPlan`."""
    if agent == "all_data":
        return {"ratio": 1.0}
    if agent == "trim_oracle":
        rate = float(trial.wrong.float().mean())
        return {"selector": {"name": "trim", "rate": rate}, "ratio": row.ratio}
    if agent in RULES:
        return {"selector": agent, "ratio": row.ratio}
    guard = {"guard": agent.endswith("guarded")} if HAS_GUARD else {}
    return {"policy": policies(policy)[agent.removesuffix("_guarded")], "ratio": row.ratio, **guard}


def run_row(row: Row, seed: int, agents: tuple[str, ...], policy: str | None) -> dict[str, Any]:
    """Figures of each agent on one row with one seed; accuracies in percent."""
    torch.set_num_threads(1)
    trial = make(row, seed)
    found = {}
    for agent in agents:
        began = time.process_time()
        figures = train(row, trial, seed, parts(agent, row, trial, policy))
        found[agent] = {**figures, "seconds": round(time.process_time() - began, 3)}
    wrong = round(float(trial.wrong.float().mean()), 4)
    return {"wrong": wrong, "samples": len(trial.given), "agents": found}


def build_model(row: Row, trial: Trial, seed: int) -> nn.Module:
    """A model with the initial parameters of the seed; global streams stay as they were."""
    shape = tuple(trial.inputs.shape[1:])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if row.model == "cnn":
            return small_cnn(shape, trial.classes, width=CNN_WIDTH)
        return mlp(shape, trial.classes, row.hidden)


def train(row: Row, trial: Trial, seed: int, chosen: Mapping[str, Any]) -> dict[str, float]:
    """Train, then score the test split once."""
    model = build_model(row, trial, seed)
    plan = DataPlan(
        (trial.inputs, trial.given),
        epochs=EPOCHS,
        batch_size=row.batch,
        classes=trial.classes,
        seed=seed,
        **chosen,
    )
    if row.optimizer == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=row.lr, momentum=0.9)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=row.lr)
    shapes = {"constant": lambda progress: 1.0, "cosine": lambda p: (1 + math.cos(math.pi * p)) / 2}
    schedule = plan.lr_scheduler(optimizer, shapes[row.schedule])
    shares: list[float] = []  # of the policy, epoch by epoch, where it is guarded
    forward = FeatureForward(model, model[-1]) if plan.selector.needs_features else None

    for _ in plan.epochs_left():
        for batch in plan.batches():
            logits, features = (model(batch.inputs), None) if forward is None else forward(batch.inputs)
            losses = F.cross_entropy(logits, batch.labels, reduction="none")
            loss = plan.loss(batch, losses, logits=logits, features=features)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        if chosen.get("guard"):
            shares += [value for name, value in plan.metrics().items() if name == GUARD_SHARE]
    trained = plan.cost.trained / (EPOCHS * len(trial.given))
    return {**score(model, trial), **guarded(shares), "trained": round(trained, 4)}


def guarded(shares: list[float]) -> dict[str, float]:
    """Mean share of the policy, and share of the epochs in which the guard had taken it back.

    A guard raises and lowers the policy's share in turn, so an epoch counts with the one before.
    """
    if not shares:
        return {}
    pairs = [(a + b) / 2 for a, b in pairwise(shares)]
    taken_back = sum(share < TAKEN_BACK for share in pairs) / max(len(pairs), 1)
    return {"share": sum(shares) / len(shares), "acted": taken_back}


@torch.no_grad()
def score(model: nn.Module, trial: Trial) -> dict[str, float]:
    """Test accuracy; of a long tail the mean over classes, and that over its rare third."""
    model.eval()
    predicted = torch.cat([model(part).argmax(1) for part in trial.test_inputs.split(500)])
    is_right: Tensor = (predicted == trial.test_labels).float()
    if trial.rare is None:
        return {"accuracy": round(100 * float(is_right.mean()), 3)}
    size = torch.bincount(trial.test_labels, minlength=trial.classes)
    right = torch.bincount(trial.test_labels, weights=is_right, minlength=trial.classes)
    recall = 100 * right / size
    means = {"accuracy": recall.mean(), "rare": recall[trial.rare].mean()}
    return {name: round(float(mean), 3) for name, mean in means.items()}
