"""Stacked environments in Ray actors: connected to, started, asked together, and started anew."""

import importlib
import math
import os
import signal
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dsenv.agents.vec_env import StackedVecEnv
from dsenv.catalogue import Definition, definition
from dsenv.env.interface import choose_device
from dsenv.errors import shown
from dsenv.version import VERSION

Call = tuple[str, tuple[Any, ...]]
"""Name of a method of `EnvActor`, and its arguments."""
STORE = 256 * 2**20  # bytes of the object store of a local Ray; observations and states pass through it
INSTALL = 'pip install "dsenv-rl[ray]", or in a checkout pip install -e ".[ray]"'


def import_ray() -> Any:
    """The package `ray`.

    Raises:
        ValueError: it is not installed; the message has the command.
    """
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        raise ValueError(f"environments in Ray actors need ray: {INSTALL}") from error


def connect(address: str | None, cpus: float) -> Any:
    """Connect this process to a cluster, where it is not connected; returns the package `ray`.

    Args:
        address: "local" starts Ray on this machine, "auto" finds the cluster that this machine belongs to,
            "host:port" is a cluster's own; None is the one that the process is connected to, else "local".
        cpus: that the actors will ask for in all; a local Ray gets as many, however few cores there are.

    Raises:
        ValueError: ray is not installed, no cluster answers, or the process is connected to another one.
    """
    if address is not None and (not isinstance(address, str) or not address):
        raise ValueError(f"address must be 'local', 'auto' or 'host:port', got {shown(address)}")
    ray = import_ray()
    if ray.is_initialized():
        _check_same_cluster(ray, address)
        return ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    settings: dict[str, Any] = {"address": address or "local", "include_dashboard": False}
    if settings["address"] == "local":
        settings |= {"num_cpus": max(os.cpu_count() or 1, math.ceil(cpus)), "object_store_memory": STORE}
    else:
        del settings["include_dashboard"]

    try:
        with _own_signals():
            ray.init(**settings)
    except (ConnectionError, RuntimeError) as error:
        raise ValueError(
            f"no Ray cluster answers at {address!r} ({error}): start one with `ray start --head`, and its "
            "further machines with `ray start --address=HOST:PORT`, or use 'local'"
        ) from error
    return ray


def _check_same_cluster(ray: Any, address: str | None) -> None:
    """Check that the cluster this process is connected to is the one that is asked for."""
    own = ray.get_runtime_context().gcs_address
    if address not in (None, "local", "auto", own) and address not in _NAMES.get(own, set()):
        raise ValueError(
            f"this process is connected to the Ray cluster at {own}, and {address!r} was asked for: call "
            "ray.shutdown() first, or leave the address out"
        )


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep a handler of SIGTERM that is there: Ray puts its own in its place, which ends the process."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if callable(before) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


_NAMES: dict[str, set[str]] = {}
"""Address of a cluster that this process was connected to -> what it was called by when it was."""


def definition_of(env: str | os.PathLike[str] | Definition, settings: Mapping[str, Any]) -> Definition:
    """The environment with settings over its own.

    Raises:
        ValueError: it is unknown, or a setting is not the user's to give.
    """
    for name in ("num_envs", "autoreset_mode", "first_env"):
        if name in settings:
            raise ValueError(
                f"{name} = {shown(settings[name])}: RayVecEnv sets it itself; say how many environments "
                "there are by actors=... and per_actor=..."
            )
    found = env if isinstance(env, Definition) else definition("envs", env)
    return found.with_overrides(settings)


def check_device(device: str, gpus: float) -> None:
    """Check the device of an actor as far as it can be known here.

    Raises:
        ValueError: there is no such device, or it is a GPU and the actor is given none.
    """
    if not str(device).startswith("cuda"):
        choose_device(device)
    elif not gpus:
        raise ValueError(f"device {device!r} in a Ray actor needs a GPU, or a share of one: give gpus=...")


class DeadActorError(RuntimeError):
    """An actor died while it started."""


class EnvActor:
    """A stacked environment in a process of its own; what it is asked is the name of a method.

    Args:
        env: definition of the environment.
        first: number of its first environment among those of all actors.
        count: how many it has.
        settings: of `TrainingVectorEnv`, beside those of the definition.
        attributes: set on the stacked environment.
        threads: of torch.
    """

    def __init__(
        self,
        env: Definition,
        first: int,
        count: int,
        settings: Mapping[str, Any],
        attributes: Mapping[str, Any],
        threads: int,
    ) -> None:
        torch.set_num_threads(threads)
        stacked = env.build_vector(count, first_env=first, **settings)
        self.env = StackedVecEnv(stacked)
        for name, value in attributes.items():
            self.set(name, value)

        # Nothing may come from the system's entropy, which spaces take when they are not seeded
        for space in ("observation_space", "action_space"):
            getattr(stacked, space).seed(first)
            getattr(stacked, f"single_{space}").seed(first)

    def about(self) -> dict[str, Any]:
        """Versions and place, once the environment is built."""
        return {"version": VERSION, "host": socket.gethostname(), "pid": os.getpid()}

    def reset(
        self, seeds: Sequence[int | None], options: list[dict[str, Any]]
    ) -> tuple[NDArray[np.float32], list[dict[str, Any]]]:
        """Begin new training runs; returns observations and infos."""
        self.env._seeds = list(seeds)
        self.env.set_options(options)
        observation = self.env.reset()
        return observation, self.env.reset_infos

    def step(self, actions: NDArray[Any]) -> Any:
        """Train every environment for one interval."""
        self.env.step_async(actions)
        return self.env.step_wait()

    def get(self, name: str) -> Any:
        """An attribute of the stacked environment."""
        return getattr(self.env.env, name)

    def set(self, name: str, value: Any) -> None:
        """Set an attribute of the stacked environment."""
        setattr(self.env.env, name, value)

    def call(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Call a method of the stacked environment."""
        return getattr(self.env.env, name)(*args, **kwargs)

    def images(self) -> list[Any]:
        """What each training run is rendered as."""
        return list(self.env.get_images())

    def state(self) -> dict[str, Any]:
        """The state of everything."""
        return self.env.state_dict()

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""
        self.env.load_state_dict(state)


class Crew:
    """Actors by number.

    Args:
        ray: the package.
        env: definition of the environment.
        count: number of actors.
        per_actor: environments of each.
        settings: of `TrainingVectorEnv`, beside those of the definition.
        cpus: CPUs that the cluster reserves for each actor.
        gpus: GPUs likewise, or the share of one.
        timeout: seconds that actors may take to start.
    """

    def __init__(
        self,
        ray: Any,
        env: Definition,
        count: int,
        per_actor: int,
        settings: Mapping[str, Any],
        cpus: float,
        gpus: float,
        timeout: float,
    ) -> None:
        self._ray = ray
        self._env, self._per_actor, self._settings = env, per_actor, dict(settings)
        self.attributes: dict[str, Any] = {}
        """That were set on the environments, for actors that are started later."""
        self._needs = {"num_cpus": cpus, "num_gpus": gpus}
        self._timeout = timeout
        self._lost = _lost(ray)
        self._actors: dict[int, Any] = {}
        try:
            self.start(range(count))
        except BaseException:
            self.close()
            raise

    def start(self, numbers: Iterable[int]) -> None:
        """Start actors, in place of those of these numbers, and wait until their environments are built.

        Raises:
            DeadActorError: one dies while it starts; its environment cannot be built there, for example.
            RuntimeError: they do not start in time.
            ValueError: an actor has another version of dsenv.
        """
        # Actors are spread over the machines, and Ray restarts none by itself: nobody would know
        kind = self._ray.remote(EnvActor).options(**self._needs, scheduling_strategy="SPREAD")
        threads, numbers = max(1, int(self._needs["num_cpus"])), list(numbers)
        for number in numbers:
            self._end(number)
            first = number * self._per_actor
            self._actors[number] = kind.remote(
                self._env, first, self._per_actor, self._settings, self.attributes, threads
            )

        asked = {self._actors[number].about.remote(): number for number in numbers}
        done, waiting = self._ray.wait(list(asked), num_returns=len(asked), timeout=self._timeout)
        if waiting:
            raise RuntimeError(self._too_few([asked[ref] for ref in waiting]))
        for ref in done:
            self._check(asked[ref], ref)

    def _check(self, number: int, ref: Any) -> None:
        try:
            about = self._ray.get(ref)
        except self._lost as error:
            raise DeadActorError(f"Ray actor {number} died while it started: {error}") from error
        except self._ray.exceptions.RayTaskError as error:
            raise _cause(error, number) from None
        if about["version"] != VERSION:
            raise ValueError(
                f"Ray actor {number} on {about['host']} has dsenv {about['version']}, and this process has "
                f"{VERSION}: install one version on all machines"
            )

    def _too_few(self, numbers: Sequence[int]) -> str:
        """What is said of actors that do not start."""
        has, free = self._ray.cluster_resources(), self._ray.available_resources()
        there = {name: f"{free.get(name, 0):g} of {has.get(name, 0):g}" for name in ("CPU", "GPU")}
        cpus, gpus = self._needs.values()
        return (
            f"{len(numbers)} of {len(self._actors)} Ray actors did not start within {self._timeout:g} s: "
            f"each asks for {cpus:g} CPUs and {gpus:g} GPUs, and the cluster has "
            f"{there['CPU']} CPUs and {there['GPU']} GPUs free; ask for fewer actors, or for less by "
            "cpus=... and gpus=..., or wait longer by timeout=..."
        )

    def ask(self, calls: Mapping[int, Call]) -> tuple[dict[int, Any], dict[int, str]]:
        """Call a method of several actors at the same time.

        Args:
            calls: what each is asked, by its number.

        Returns:
            The answers, and why actors that died did, each by number.

        Raises:
            Exception: what the method raised, as it was.
        """
        if not self._actors:
            raise RuntimeError("the environments are closed")
        refs = {
            number: getattr(self._actors[number], method).remote(*args)
            for number, (method, args) in calls.items()
        }

        answers: dict[int, Any] = {}
        lost: dict[int, str] = {}
        errors: list[BaseException] = []
        for number, ref in refs.items():  # all are heard, so that none is left with half a step
            try:
                answers[number] = self._ray.get(ref)
            except self._lost as error:
                lost[number] = " ".join(str(error).split("\n")[0].split()) or type(error).__name__
            except self._ray.exceptions.RayTaskError as error:
                errors.append(_cause(error, number))
        if errors:
            raise errors[0]
        return answers, lost

    def pids(self) -> dict[int, int]:
        """Process id of each actor on its machine."""
        answers, _ = self.ask({number: ("about", ()) for number in self._actors})
        return {number: about["pid"] for number, about in answers.items()}

    def _end(self, number: int) -> None:
        actor = self._actors.pop(number, None)
        if actor is not None:
            self._ray.kill(actor, no_restart=True)

    def close(self) -> None:
        """End all actors."""
        for number in list(self._actors):
            if self._ray.is_initialized():
                self._end(number)
        self._actors = {}


def _lost(ray: Any) -> tuple[type[BaseException], ...]:
    """Errors that say that an actor, its machine or what it answered is gone."""
    found = ray.exceptions
    return (found.RayActorError, found.ObjectLostError, found.WorkerCrashedError, found.OutOfMemoryError)


def _cause(error: Any, number: int) -> BaseException:
    """What was raised in an actor, as it was raised there."""
    cause = getattr(error, "cause", None)
    found: BaseException = cause if isinstance(cause, BaseException) else error
    found.add_note(f"raised in Ray actor {number}")
    return found
