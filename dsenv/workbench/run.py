"""Run folders: what was run, so that it can be read, resumed and evaluated."""

import platform
import shlex
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import tomli_w

from dsenv.catalogue import Definition

PACKAGES = ("dsenv-rl", "gymnasium", "stable-baselines3", "sb3-contrib", "torch", "torchvision", "numpy")
FILES = ("run.toml", "env.toml", "agent.toml")


@dataclass(frozen=True)
class Run:
    """One run of the workbench: an environment, an agent, a seed and a folder."""

    folder: Path
    env: Definition
    agent: Definition
    seed: int

    @classmethod
    def create(cls, out: Path, env: Definition, agent: Definition, seed: int, device: str) -> "Run":
        """Make a new folder `<time>-<env>-<agent>-<seed>` and write down what is run.

        Args:
            out: folder of all runs.
            env: the resolved environment.
            agent: the resolved agent.
            seed: of the run.
            device: where the models train.
        """
        started = datetime.now().astimezone()
        name = f"{started:%Y%m%d-%H%M%S}-{env.name}-{agent.name}-{seed}"

        # A name that no folder has yet
        folder = out / name
        number = 2
        while folder.exists():
            folder, number = out / f"{name}-{number}", number + 1
        folder.mkdir(parents=True)

        facts: dict[str, Any] = {
            "env": env.name,
            "agent": agent.name,
            "seed": seed,
            "device": device,
            "started": started.replace(microsecond=0),
            "command": shlex.join(["python", *sys.argv]),
            "platform": f"{platform.platform()}, Python {platform.python_version()}",
            "versions": {package: _version(package) for package in PACKAGES},
        }

        run = cls(folder, env, agent, seed)
        _write(folder / "run.toml", facts)
        run.write_definitions()
        return run

    def write_definitions(self) -> None:
        """Write the resolved environment and agent."""
        _write(self.folder / "env.toml", self.env.as_dict())
        _write(self.folder / "agent.toml", self.agent.as_dict())

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """Read a run from its folder.

        Raises:
            FileNotFoundError: it is not the folder of a run.
        """
        missing = [name for name in FILES if not (folder / name).is_file()]
        if missing:
            raise FileNotFoundError(f"{folder} is not the folder of a run: it has no {', '.join(missing)}")

        facts, env, agent = (tomllib.loads((folder / name).read_text(encoding="utf-8")) for name in FILES)
        return cls(
            folder,
            Definition("envs", facts["env"], env["entry_point"], env["kwargs"]),
            Definition("agents", facts["agent"], agent["entry_point"], agent["kwargs"]),
            facts["seed"],
        )


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(tomli_w.dumps(_plain(content)), encoding="utf-8")


def _plain(value: Any) -> Any:
    """The value without None, which TOML cannot hold."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    return value


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
