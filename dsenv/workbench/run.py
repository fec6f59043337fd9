"""Run folders: what was run, so that it can be read, resumed and evaluated."""

import contextlib
import platform
import shlex
import shutil
import sys
import tomllib
import uuid
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import tomli_w

from dsenv import files
from dsenv.catalogue import Definition

PACKAGES = ("dsenv-rl", "gymnasium", "stable-baselines3", "sb3-contrib", "torch", "torchvision", "numpy")
FILES = ("run.toml", "env.toml", "agent.toml")
LAYOUT = 2  # of a run folder: 1 had SB3's zips alone, and no checkpoint
TIME = "%Y%m%d-%H%M%S"  # at the head of the names of folders
STUDY = "study.toml"  # lies in the folder of a study, which holds run folders
MAY_CHANGE = ("steps", "num_envs")  # settings of an agent that a resumed run may change


@dataclass(frozen=True)
class Run:
    """One run of the workbench: an environment, an agent, a seed and a folder."""

    folder: Path
    env: Definition
    agent: Definition
    seed: int
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What `run.toml` holds."""

    @classmethod
    def create(
        cls,
        out: Path,
        env: Definition,
        agent: Definition,
        seed: int,
        device: str,
        threads: int = 1,
        begun: Mapping[str, Any] | None = None,
    ) -> "Run":
        """Make a new folder `<time>-<env>-<agent>-<seed>` and write down what is run.

        The folder appears with everything in it, or not at all.

        Args:
            out: folder of all runs.
            env: the resolved environment.
            agent: the resolved agent.
            seed: of the run.
            device: where the models train.
            threads: of torch, on the CPU.
            begun: the circumstances that it shares with other runs; None for those of now.
        """
        facts: dict[str, Any] = {
            "env": env.name,
            "agent": agent.name,
            "seed": seed,
            "layout": LAYOUT,
            **(begun or circumstances(device, threads)),
        }

        def fill(folder: Path) -> None:
            write_toml(folder / "run.toml", facts)
            cls(folder, env, agent, seed).write_definitions()

        name = f"{facts['started']:{TIME}}-{env.name}-{agent.name}-{seed}"
        return cls(new_folder(out, name, fill), env, agent, seed, facts)

    def write_definitions(self) -> None:
        """Write the resolved environment and agent."""
        write_toml(self.folder / "env.toml", self.env.as_dict())
        write_toml(self.folder / "agent.toml", self.agent.as_dict())

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """Read a run from its folder.

        Raises:
            FileNotFoundError: it is not the folder of a run.
            ValueError: a file in it is damaged; the message names it.
        """
        missing = [name for name in FILES if not (folder / name).is_file()]
        if missing:
            inside = sorted(path.parent for path in folder.glob(f"*/{FILES[0]}"))
            words = f"; the folders in it are, such as {inside[0]}" if inside else ""
            raise FileNotFoundError(
                f"{folder} is not the folder of a run: it has no {', '.join(missing)}{words}"
            )

        facts = read_toml(folder / "run.toml", ADVICE, env=str, agent=str, seed=int)
        env, agent = (read_toml(folder / name, ADVICE, entry_point=str, kwargs=dict) for name in FILES[1:])
        return cls(
            folder,
            Definition("envs", facts["env"], env["entry_point"], env["kwargs"]),
            Definition("agents", facts["agent"], agent["entry_point"], agent["kwargs"]),
            facts["seed"],
            facts,
        )

    def definitions(self) -> dict[str, str]:
        """Environment and agent as text, without the settings that a resumed run may change."""
        kwargs = {key: value for key, value in self.agent.kwargs.items() if key not in MAY_CHANGE}
        agent = {"entry_point": self.agent.entry_point, "kwargs": kwargs}
        return {"env": _text(self.env.as_dict()), "agent": _text(agent)}

    def warn_of_other_versions(self) -> None:
        """Warn where packages have changed since the run was begun: its numbers may too."""
        before: Mapping[str, str] = self.facts.get("versions", {})
        now = {package: _version(package) for package in before}
        changed = [f"{name} {before[name]} -> {now[name]}" for name in before if before[name] != now[name]]
        if changed:
            warnings.warn(
                f"{self.folder} was begun with other versions ({', '.join(changed)}): it goes on, and need "
                "not equal the uninterrupted run bit for bit",
                stacklevel=2,
            )


def is_study(folder: Path) -> bool:
    """Whether a folder is that of a study."""
    return (folder / STUDY).is_file()


def circumstances(device: str, threads: int, **further: Any) -> dict[str, Any]:
    """When, where and with what something is begun: plain values for its TOML."""
    return {
        "device": device,
        "threads": threads,
        **further,
        "started": datetime.now().astimezone().replace(microsecond=0),
        "command": shlex.join(["python", *sys.argv]),
        "platform": f"{machine()}, Python {platform.python_version()}",
        "versions": {package: _version(package) for package in PACKAGES},
    }


def new_folder(out: Path, name: str, fill: Callable[[Path], None]) -> Path:
    """Make a folder that appears with everything in it, or not at all.

    Args:
        out: folder that takes it.
        name: of the folder; it gets a number where there is one of that name.
        fill: writes into the folder that it is handed.

    Returns:
        The folder.
    """
    out.mkdir(parents=True, exist_ok=True)
    partial = out / f".{name}.{uuid.uuid4().hex}{files.PARTIAL}"
    try:
        partial.mkdir()
        fill(partial)
        return _renamed(partial, out / name)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _renamed(partial: Path, wanted: Path) -> Path:
    """Give a finished folder a name that no other has."""
    folder, number = wanted, 2
    while True:
        if not folder.exists():
            with contextlib.suppress(FileExistsError):
                try:
                    partial.rename(folder)
                except OSError:
                    if not folder.exists():  # else another process was first
                        raise
                else:
                    files.sync_folder(folder.parent)
                    return folder
        folder, number = wanted.with_name(f"{wanted.name}-{number}"), number + 1


ADVICE = (
    "dsenv writes it whole, when a run begins: put it right by hand, or begin a new run with the other files "
    "of the folder (--env RUN/env.toml --agent RUN/agent.toml)"
)


def read_toml(path: Path, advice: str, **wanted: type) -> dict[str, Any]:
    """A TOML file with keys of these types.

    Args:
        path: the file.
        advice: what to do where it is damaged.
        wanted: type of each key that has to be there.

    Raises:
        ValueError: it is damaged.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}). {advice}") from error
    for key, kind in wanted.items():
        if not isinstance(content.get(key), kind):
            reason = f"{key} must be a {kind.__name__}, got {content.get(key)!r}"
            raise ValueError(f"{path} is damaged ({reason}). {advice}")
    return content


def _text(content: Mapping[str, Any]) -> str:
    return tomli_w.dumps(_plain(content))


def write_toml(path: Path, content: Mapping[str, Any]) -> None:
    """Write a TOML file without the keys that are None, which TOML cannot hold."""
    files.write_text(path, _text(content))


def _plain(value: Any) -> Any:
    """The value without None, which TOML cannot hold."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    return value


def machine() -> str:
    """System, release and machine; `platform.platform` would run a program to ask for the processor."""
    return f"{platform.system()} {platform.release()} {platform.machine()}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
