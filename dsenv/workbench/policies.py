"""Policies of runs as files: written after training, evaluated beside other agents."""

import warnings
from pathlib import Path
from typing import Any

from dsenv import files
from dsenv.agents.export import export
from dsenv.catalogue import Definition, definition, names
from dsenv.policy.policy import Policy
from dsenv.policy.shipped import pretrained
from dsenv.workbench.run import Run

FILE = "policy.safetensors"
LEARNED = "dsenv.agents.learned:LearnedAgent"


def agent_definition(name: str) -> Definition:
    """An agent's definition by its name, the path of its TOML, the file or the name of a trained policy.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the name is unknown.
    """
    if name in pretrained.names() and name not in names("agents"):
        return Definition("agents", name, LEARNED, {"policy": name})
    if not name.endswith(".safetensors"):
        return definition("agents", name)

    path = Path(name).expanduser().resolve()
    if not path.is_file():
        raise FileNotFoundError(f"no policy at {name!r} (looked in {Path.cwd()})")

    # The policy of a run bears the name of the run's folder
    stem = path.stem if path.stem != Path(FILE).stem else path.parent.name
    return Definition("agents", stem, LEARNED, {"policy": str(path)})


def environment_of(path: Path) -> str:
    """The environment that a policy file was trained in.

    Raises:
        ValueError: its card names none of the catalogue.
    """
    found = Policy.load(path).card.trained.get("environment")
    if not isinstance(found, str) or found not in names("envs"):
        raise ValueError(f"{path} was trained in {found or 'an environment of its own'}: say where, by --env")
    return found


def write_policy(run: Run, model: Any, env: Any, reward: float | None) -> Path | None:
    """Export a run's model to `policy.safetensors`; None, with a warning, where it does not travel.

    Args:
        run: its folder takes the file.
        model: the best model of the run.
        env: the environment it was trained in.
        reward: its mean validation reward; None where it was not evaluated yet.
    """
    trained = {"environment": run.env.name, "agent": run.agent.name, "seed": run.seed}
    if reward is not None:
        trained["validation_reward"] = reward

    try:
        policy = export(model, env, **trained)
    except ValueError as error:
        (run.folder / FILE).unlink(missing_ok=True)  # of an earlier part of the run
        warnings.warn(f"no {FILE} was written: {error}", stacklevel=2)
        return None
    return policy.save(run.folder / FILE)


def is_written(run: Run, model: Any, reward: float | None) -> bool:
    """Whether `policy.safetensors` is that of this model; a damaged one is set aside with a warning."""
    path = run.folder / FILE
    if not path.is_file():
        return False
    try:
        trained = Policy.load(path).card.trained
    except ValueError as error:
        files.set_aside(path, error)
        return False
    return trained.get("steps") == model.num_timesteps and trained.get("validation_reward") == reward
