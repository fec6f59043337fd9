"""Where the training runs of an agent in training are: in this process, or in Ray actors."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stable_baselines3.common.vec_env import VecEnv

from dsenv.agents.vec_env import HEADER, StackedVecEnv
from dsenv.catalogue import Definition
from dsenv.workbench.checkpoint import State

ACTORS = 2  # where --actors is not given
HERE = "none"  # as --ray: in this process


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster, and how many actors on it."""

    address: str
    """As of `dsenv.integrations.ray.RayVecEnv`."""
    actors: int

    def facts(self) -> dict[str, Any]:
        """For run.toml."""
        return {"ray": self.address, "actors": self.actors}


def cluster_of(args: argparse.Namespace, facts: Mapping[str, Any]) -> Cluster | None:
    """The cluster that was asked for, or that a run was begun with; None for this process.

    Raises:
        ValueError: --actors is given without a cluster.
    """
    before = facts.get("ray")
    address = args.ray or before
    if address in (None, HERE):
        if args.actors is not None:
            raise ValueError(
                f"--actors {args.actors} is a number of Ray actors: say where, by --ray local, --ray auto or "
                "--ray HOST:PORT"
            )
        return None
    return Cluster(str(address), args.actors or int(facts.get("actors", ACTORS)))


def check_cluster(cluster: Cluster | None, num_envs: int) -> None:
    """Check that the actors can share the training runs evenly, and that Ray is installed.

    Raises:
        ValueError: they cannot, or it is not.
    """
    if cluster is None:
        return
    from dsenv.integrations.ray_actors import import_ray

    import_ray()
    if num_envs % cluster.actors:
        lower = num_envs - num_envs % cluster.actors
        near = [count for count in (lower, lower + cluster.actors) if count]
        raise ValueError(
            f"{num_envs} training runs cannot be shared evenly by {cluster.actors} actors: give --num-envs "
            f"{' or '.join(map(str, near))}, or other --actors"
        )


def make_vec_env(env: Definition, num_envs: int, device: str, cluster: Cluster | None = None) -> VecEnv:
    """K environments for SB3: stacked into one, or into one for each actor of a cluster.

    Args:
        env: definition of the environment.
        num_envs: K.
        device: where the models train.
        cluster: where the actors are; None for this process.
    """
    made = _stacked(env, num_envs, device) if cluster is None else _in_actors(env, num_envs, device, cluster)
    # Nothing in a run may come from the system's entropy, which spaces take when they are not seeded
    for owner in (made, getattr(made, "env", None)):
        for name in ("observation_space", "action_space", "single_observation_space", "single_action_space"):
            if hasattr(owner, name):
                getattr(owner, name).seed(0)
    return made


def _stacked(env: Definition, num_envs: int, device: str) -> StackedVecEnv:
    return StackedVecEnv(env.build_vector(num_envs, autoreset_mode="SameStep", device=device))


def _in_actors(env: Definition, num_envs: int, device: str, cluster: Cluster) -> VecEnv:
    """Environments in actors, which share the cluster's GPUs where they train on these."""
    from dsenv.integrations.ray import RayVecEnv
    from dsenv.integrations.ray_actors import connect

    check_cluster(cluster, num_envs)
    ray, gpus = connect(cluster.address, cluster.actors), 0.0
    if device.startswith("cuda"):
        there = float(ray.cluster_resources().get("GPU", 0))
        gpus = min(1.0, int(1e4 * there / cluster.actors) / 1e4)  # Ray counts in steps of 1e-4
    per_actor = num_envs // cluster.actors
    return RayVecEnv(env, cluster.actors, per_actor, address=cluster.address, gpus=gpus, device=device)


def is_of(state: State, cluster: Cluster | None) -> bool:
    """Whether the training runs of a checkpoint were where they are to go on."""
    wanted = HEADER
    if cluster is not None:
        from dsenv.integrations.ray import header

        wanted = header(cluster.actors)
    return {name: state["env"].get(name) for name in wanted} == wanted


def begun_anew(state: State) -> State:
    """A checkpoint without the training runs in flight, which then begin anew."""
    return {**state, "agent": {**state["agent"], "num_envs": 0}}
