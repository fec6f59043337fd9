"""Short training runs that are stopped, gone on with and compared."""

import numpy as np
import torch

from dsenv.agents.base import build_agent
from dsenv.catalogue import definition
from dsenv.files import load_state
from dsenv.workbench import checkpoint
from dsenv.workbench.run import Run
from dsenv.workbench.stop import Stop
from dsenv.workbench.train import train

ON_POLICY = {"n_steps": 4, "batch_size": 8, "n_epochs": 2}
OFF_POLICY = {"learning_starts": 8, "batch_size": 8, "gradient_steps": 1, "buffer_size": 40}
SHORT = {
    "ppo": ON_POLICY,
    "ppo_beta": ON_POLICY,
    "ppo_set": ON_POLICY,
    "ppo_data_agent": ON_POLICY,
    "recurrent_ppo": ON_POLICY,
    "a2c": {"n_steps": 4},
    "sac": OFF_POLICY,
    "td3": OFF_POLICY,
    "tqc": OFF_POLICY,
    "dqn": OFF_POLICY,
}
CONTRIB = ("recurrent_ppo", "tqc")
CANDIDATES = ("ppo_set", "ppo_data_agent")


class StopAt(Stop):
    """Stops at the n-th rollout start, as a signal before it would."""

    def __init__(self, rollout):
        super().__init__()
        self._left = rollout

    def is_asked(self):
        self._left -= 1
        return self._left < 0


def new_run(folder, agent, steps=32, num_envs=2, seed=1, **hyperparameters):
    """A run of a small environment in a new folder, and its agent."""
    env = "Tiny-Mask-v0" if agent in CANDIDATES else "Tiny-Ratio-v0"
    settings = {"intervals": 3}
    if agent in CANDIDATES:
        settings["control"] = {"candidates": 16}
    table = {
        "steps": steps,
        "num_envs": num_envs,
        "hyperparameters": {**SHORT[agent], **hyperparameters},
        "env": settings if agent == "ppo_data_agent" else {},
    }
    wanted = definition("agents", agent).with_overrides(table)
    run = Run.create(folder, definition("envs", env).with_overrides(settings), wanted, seed, "cpu")
    return run, build_agent(run.agent)


def go_on(run, **overrides):
    """Train a run further from its folder alone, as --resume does."""
    run = Run.open(run.folder)
    run = Run(run.folder, run.env, run.agent.with_overrides(overrides), run.seed, run.facts)
    return train(run, build_agent(run.agent), "cpu", state=checkpoint.read(run))


def shown(folder):
    """All that TensorBoard shows of a run, but for speeds: curves, histograms, pictures."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "histograms": 0})
    events.Reload()
    found = {}
    for kind, read, value in (
        ("scalars", events.Scalars, "value"),
        ("images", events.Images, "encoded_image_string"),
        ("histograms", events.Histograms, "histogram_value"),
    ):
        for tag in set(events.Tags()[kind]) - {"time/fps"}:
            found[tag] = [(event.step, getattr(event, value)) for event in read(tag)]
    return found


def differences(a, b, where="state"):
    """Places where two nested states differ in a bit or a type."""
    if type(a) is not type(b):
        return [f"{where}: {type(a).__name__} and {type(b).__name__}"]
    if isinstance(a, dict):
        if list(a) != list(b):
            return [f"{where}: keys {list(a)} and {list(b)}"]
        return [found for key in a for found in differences(a[key], b[key], f"{where}.{key}")]
    if isinstance(a, list | tuple):
        if len(a) != len(b):
            return [f"{where}: {len(a)} and {len(b)} entries"]
        pairs = enumerate(zip(a, b, strict=True))
        return [found for n, (x, y) in pairs for found in differences(x, y, f"{where}[{n}]")]
    if isinstance(a, torch.Tensor):
        same = a.dtype == b.dtype and torch.equal(a.nan_to_num(7), b.nan_to_num(7))
        return [] if same else [f"{where}: tensors"]
    if isinstance(a, np.ndarray | np.generic):
        same = a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        return [] if same else [f"{where}: arrays"]
    return [] if a == b or (a != a and b != b) else [f"{where}: {a!r} and {b!r}"]


def final_state(folder):
    return load_state(folder / checkpoint.FILE)
