"""A run's checkpoint, which holds all that must agree, and what is exported from it.

`checkpoint.safetensors` alone decides where a run stands. SB3's zips, `evaluations.npz` and
`policy.safetensors` are made from it, for others to read; no zip is ever opened here.
"""

import io
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dsenv import files
from dsenv.agents.sb3 import SB3Agent
from dsenv.workbench.run import LAYOUT, Run

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

State = dict[str, Any]

FILE = "checkpoint.safetensors"
BEST, LAST, RECORD = "best_model.zip", "last_model.zip", "evaluations.npz"
PARTS = {"definitions", "spaces", "agent", "env", "parts", "logger", "random", "at_end"}


def write(run: Run, state: State) -> None:
    """Write a run's checkpoint.

    Args:
        run: whose folder takes it.
        state: of `dsenv.agents.callbacks.Checkpoints`, and the `spaces` of the environment.

    Raises:
        OSError: it cannot be written; the last one stands.
    """
    files.save_state(run.folder / FILE, {"definitions": run.definitions(), **state})


def read(run: Run) -> State | None:
    """A run's checkpoint; None where there is none yet, or a damaged one, which is set aside with a warning.

    Raises:
        ValueError: env.toml or agent.toml was changed since, or the run has SB3's zips alone.
    """
    path = run.folder / FILE
    if not path.is_file():
        _refuse_old(run)
        return None
    try:
        state = files.load_state(path)
        if not isinstance(state, dict) or not state.keys() >= PARTS:
            raise files.DamagedFileError(f"{path} is not the checkpoint of a run")
    except files.DamagedFileError as error:
        files.set_aside(path, error)
        return None

    changed = [name for name, text in run.definitions().items() if state["definitions"].get(name) != text]
    if changed:
        raise ValueError(
            f"{run.folder / changed[0]}.toml was changed since {FILE} was written, whose policy was trained "
            f"with other settings: put it back, or begin a new run with --{changed[0]} "
            f"{run.folder / changed[0]}.toml"
        )
    return state


def _refuse_old(run: Run) -> None:
    if run.facts.get("layout", 1) < LAYOUT and (run.folder / LAST).is_file():
        raise ValueError(
            f"{run.folder} is of an older version of dsenv: its policy is in {LAST} alone, and opening that "
            f"would execute what is pickled in it. Evaluate its policy file, --evaluate "
            f"{run.folder / 'policy.safetensors'}, or train again with --env {run.folder / 'env.toml'} "
            f"--agent {run.folder / 'agent.toml'}"
        )


def steps_done(state: State) -> int:
    """Environment steps at a checkpoint."""
    return int(state["agent"]["numbers"]["num_timesteps"])


def best_of(state: State) -> State:
    """Parameters, numbers and mean reward of the best policy; of the last one before any evaluation."""
    best: State | None = state["parts"]["evaluation"]["best"]
    return best or {**state["agent"], "mean_reward": None}


def record_of(state: State) -> dict[str, list[Any]]:
    """Timesteps, results and ep_lengths of all evaluations so far."""
    record: dict[str, list[Any]] = state["parts"]["evaluation"]["record"]
    return record


def best_policy(run: Run, agent: SB3Agent, state: State) -> "BaseAlgorithm":
    """The best policy by validation reward, ready to act; built from the settings and filled with tensors.

    Raises:
        ValueError: the checkpoint is not one of this agent.
    """
    return _model(run, agent, state, best_of(state))


def _model(run: Run, agent: SB3Agent, state: State, saved: State) -> "BaseAlgorithm":
    try:
        return agent.restored(state["spaces"], saved["parameters"], saved["numbers"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{run.folder / FILE} does not hold a policy of this agent: {error!r}") from error


def export(run: Run, agent: SB3Agent, state: State) -> None:
    """Write SB3's zips and, after them, the record of the evaluations.

    Raises:
        OSError: one cannot be written.
    """
    if state["parts"]["evaluation"]["best"] is not None:
        _write_zip(run.folder / BEST, best_policy(run, agent, state))
    _write_zip(run.folder / LAST, _model(run, agent, state, state["agent"]))

    content = io.BytesIO()
    np.savez(content, **record_of(state), saved_at=steps_done(state))  # type: ignore[arg-type]
    files.write(run.folder / RECORD, content.getvalue())


def _write_zip(path: Path, model: "BaseAlgorithm") -> None:
    content = io.BytesIO()
    model.save(content)
    files.write(path, content.getvalue())


def is_exported(run: Run, state: State) -> bool:
    """Whether the exports are there, and of this checkpoint."""
    names = [LAST] if state["parts"]["evaluation"]["best"] is None else [BEST, LAST]
    if not all(zipfile.is_zipfile(run.folder / name) for name in names):
        return False
    try:
        with np.load(run.folder / RECORD) as record:
            return int(record["saved_at"]) == steps_done(state)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return False
