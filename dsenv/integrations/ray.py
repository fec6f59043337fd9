"""RayVecEnv: stacked environments in Ray actors, as one VecEnv of Stable-Baselines3."""

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from dsenv.agents.vec_env import aligned, options_of_each
from dsenv.catalogue import Definition
from dsenv.env.episodes import Episodes, as_array, to_box
from dsenv.env.interface import check_options
from dsenv.env.results import Floats
from dsenv.env.state import check_header, opened, sealed
from dsenv.errors import check_count, check_number, check_positive, check_seed, shown
from dsenv.integrations.ray_actors import Call, Crew, DeadActorError, check_device, connect, definition_of
from dsenv.states import fitted, listed
from dsenv.training.trainer import MOST_REPLICAS

MOST_DEATHS = 3
"""Deaths of an actor without a step in between, after which training ends."""
NOT_CALLED = {"reset": "seed(...) and reset()", "step": "step(actions)", "close": "close()"}
"""Methods that act on all environments together, and what to call in their place."""
KEPT = ("last", "seeds", "options", "actions", "reset_infos", "origin", "renewals", "waiting")


def header(actors: int) -> dict[str, Any]:
    """What a state of a `RayVecEnv` says of itself."""
    return {"kind": "RayVecEnv", "settings": {"actors": actors}}


class RayVecEnv(VecEnv):
    """Stacked environments in Ray actors, as Stable-Baselines3's VecEnv: `StackedVecEnv` on many machines.

    Each actor holds `per_actor` training runs as one tensor program, in a process of its own that Ray places
    on some machine of the cluster. Observations, rewards, infos, seeds, options and states are those of one
    `StackedVecEnv` of `actors * per_actor` environments: with the same seeds the same episodes, but for
    rounding, since a stack of another size sums in another order. With the same seeds, actors and machines
    numbers are the same bit for bit.

    An actor that dies (its machine is gone, memory ran out) is restarted, with a warning that has its number,
    and its training runs begin anew, from seeds of their own. What they had done is cut off: their step has
    reward 0, done, `TimeLimit.truncated` (SB3 bootstraps the value), `actor_died` and no `episode` in the
    infos. The other actors' runs do not notice.

    Use::

        from stable_baselines3 import PPO
        from dsenv.integrations.ray import RayVecEnv

        env = RayVecEnv("dsenv/Tiny-Curriculum-v0", actors=2, per_actor=4)
        model = PPO("MlpPolicy", env, n_steps=8, batch_size=32, gamma=1.0, device="cpu")
        model.learn(64)  # steps of all environments together; train for longer
        env.close()

    Args:
        env: name or id of an environment, the path of its TOML, or a `Definition`.
        actors: how many.
        per_actor: environments of each.
        address: "local" starts Ray on this machine, "auto" is the cluster that this machine belongs to,
            "host:port" another one; None is the cluster that this process is connected to, else "local".
        cpus: CPUs that Ray reserves for an actor, whose torch uses as many threads (at least one).
        gpus: GPUs likewise, or a share of one; needed where `device` is a GPU.
        timeout: seconds that the actors may take to start, or to be restarted.
        render_mode: "rgb_array" or "ansi".
        device: where an actor trains: "auto", "cpu" or "cuda". "auto" is a GPU where it was given one.
        settings: of the environment, over those of its definition.

    Raises:
        ValueError: `ray` is not installed, no cluster answers, or a setting is wrong.
        RuntimeError: the actors do not start in time.
    """

    def __init__(
        self,
        env: str | os.PathLike[str] | Definition,
        actors: int = 2,
        per_actor: int = 16,
        *,
        address: str | None = None,
        cpus: float = 1.0,
        gpus: float = 0.0,
        timeout: float = 300.0,
        render_mode: str | None = None,
        device: str = "auto",
        **settings: Any,
    ) -> None:
        self.actors = check_count("actors", actors)
        self.per_actor = check_count("per_actor", per_actor, most=MOST_REPLICAS)
        cpus, gpus = check_number("cpus", cpus, 0), check_number("gpus", gpus, 0)
        timeout, count = check_positive("timeout", timeout), self.actors * self.per_actor
        check_device(device, gpus)
        found = definition_of(env, settings)

        # A small stack of this process, which never trains: it refuses wrong settings before any actor is
        # started, knows spaces, and is what the card of a policy is made from
        given = found.kwargs.get("datasets")
        sets = len(given) if isinstance(given, list | tuple) and given else 1
        own = {"autoreset_mode": "SameStep", "render_mode": render_mode}
        self._template = found.build_vector(min(count, sets), device="cpu", **own)
        ray, own = connect(address, self.actors * cpus), own | {"device": device}
        self._crew = Crew(ray, found, self.actors, self.per_actor, own, cpus, gpus, timeout)

        self._actions: NDArray[Any] | None = None
        self._last: Floats | None = None  # (K, O) observations that the agent has seen
        self._origin: list[int | None] = [None] * count  # seeds that the episodes follow from
        self._renewals, self._deaths = [0] * self.actors, [0] * self.actors
        self._waiting: dict[int, tuple[Floats, list[dict[str, Any]]]] = {}  # begun anew, not seen yet
        observations, actions = self._template.single_observation_space, self._template.single_action_space
        super().__init__(count, observations, actions)

    @property
    def episodes(self) -> Episodes:
        """Episodes like those of the actors, in this process and never begun: what a policy's card needs."""
        found: Episodes = self._template.episodes
        return found

    # Actors

    def _rows(self, number: int) -> slice:
        """The environments of an actor."""
        return slice(number * self.per_actor, (number + 1) * self.per_actor)

    def _ask(self, call: Callable[[int], Call], numbers: Sequence[int] | None = None) -> dict[int, Any]:
        """Ask actors, all where no numbers are given; those that die are restarted and asked again."""
        answers: dict[int, Any] = {}
        left = list(range(self.actors) if numbers is None else numbers)
        while left:
            found, lost = self._crew.ask({number: call(number) for number in left})
            answers |= found
            self._renew(lost)
            left = list(lost)

        return {number: answers[number] for number in sorted(answers)}

    def _renew(self, lost: Mapping[int, str]) -> None:
        """Restart actors that died, and begin their training runs anew."""
        for number, reason in lost.items():
            died: dict[int, str] = {number: reason}
            while died:
                self._restart(number, died[number])
                begin: Call = ("reset", (self._further_seeds(number), [{}] * self.per_actor))
                found, died = self._crew.ask({number: begin})

            if self._last is not None:  # else nothing was begun, and `reset` comes first
                self._waiting[number] = found[number]

    def _restart(self, number: int, reason: str) -> None:
        """Start an actor in the place of one that died, and say so.

        Raises:
            RuntimeError: it dies again and again.
        """
        self._deaths[number] += 1
        self._renewals[number] += 1
        if self._deaths[number] > MOST_DEATHS:
            raise RuntimeError(
                f"Ray actor {number} died {self._deaths[number]} times in a row without a step: {reason}"
            )

        rows = self._rows(number)
        warnings.warn(
            f"Ray actor {number} died (restart {self._renewals[number]}): its environments {rows.start} to "
            f"{rows.stop - 1} begin their training runs anew, and the others go on. Ray says: {reason}",
            RuntimeWarning,
            stacklevel=5,
        )
        try:
            self._crew.start([number])
        except DeadActorError as error:
            self._restart(number, str(error))

    def _further_seeds(self, number: int) -> list[int | None]:
        """Seeds of training runs that begin anew: they follow from those of before."""
        origins, renewal = self._origin[self._rows(number)], self._renewals[number]
        return [
            None if seed is None else int(np.random.SeedSequence([seed, renewal]).generate_state(1)[0])
            for seed in origins
        ]

    # Stable-Baselines3's methods

    def reset(self) -> Floats:
        """Begin new training runs in all environments, with the contexts of `set_options`."""
        if any(seed is not None for seed in self._seeds):
            self._origin, self._renewals = list(self._seeds), [0] * self.actors
        options = [dict(check_options(given, ("context",))) for given in self._options]

        def call(number: int) -> Call:
            rows = self._rows(number)
            # A restarted actor has no streams that could go on
            seeds = self._seeds[rows]
            if number in self._waiting and seeds == [None] * self.per_actor:
                seeds = self._further_seeds(number)
            return "reset", (seeds, options[rows])

        found = self._ask(call).values()
        self._waiting.clear()
        self._last = aligned(np.concatenate([observation for observation, _ in found]))
        self.reset_infos = [info for _, infos in found for info in infos]

        self._reset_seeds()
        self._reset_options()
        return self._last

    def set_options(self, options: list[dict[str, Any]] | dict[str, Any] | None = None) -> None:
        """Keep options for the next reset: {"context": {...}} for all environments, or a list, one for each.

        Raises:
            ValueError: they are of another form, or an option is unknown.
        """
        self._options = options_of_each(options, self.num_envs)

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Give each environment a seed of its own at the next reset, as one `StackedVecEnv` would."""
        given = None if seed is None else check_seed("seed", seed)
        state = np.random.SeedSequence(given).generate_state(self.num_envs)
        self._seeds = [int(value) for value in state]
        return self._seeds

    def step_async(self, actions: Floats) -> None:
        """Keep the actions for `step_wait`."""
        self._actions = as_array("actions", actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Train every environment for one interval; all actors at the same time.

        Raises:
            RuntimeError: no actions were given, no episode was begun, or an actor dies again and again.
            ValueError: the actions do not fit; then nobody has trained.
        """
        if self._actions is None:
            raise RuntimeError("no actions were given: call step_async(actions) before step_wait()")
        if self._last is None:
            raise RuntimeError("no episode was begun: call reset() before step()")
        actions, self._actions = self._actions, None
        to_box(actions, self.episodes.config.actions, self.episodes.control, self.num_envs)

        # Runs that were begun anew since the last step are not stepped: the agent has not seen them
        asked = [number for number in range(self.actors) if number not in self._waiting]
        calls: dict[int, Call] = {number: ("step", (actions[self._rows(number)],)) for number in asked}
        found, lost = self._crew.ask(calls)
        for number in found:
            self._deaths[number] = 0
        self._renew(lost)
        found |= {number: self._cut_off(number) for number in list(self._waiting)}

        observation, reward, done, infos = zip(*(found[number] for number in range(self.actors)), strict=True)
        self._last = aligned(np.concatenate(observation))
        together = [info for rows in infos for info in rows]
        return self._last, np.concatenate(reward), np.concatenate(done), together

    def _cut_off(self, number: int) -> tuple[Floats, NDArray[np.float32], NDArray[np.bool_], list[Any]]:
        """The step of training runs that were lost: they end where the agent has last seen them."""
        observation, infos = self._waiting.pop(number)
        assert self._last is not None
        seen = self._last[self._rows(number)]
        for row, info in enumerate(infos):
            info |= {
                "terminal_observation": seen[row].copy(),
                "TimeLimit.truncated": True,
                "actor_died": True,
            }

        nothing = np.zeros(self.per_actor, np.float32)
        return observation, nothing, np.ones(self.per_actor, np.bool_), infos

    def close(self) -> None:
        """End the actors; Ray itself goes on until `ray.shutdown()` or the end of the process."""
        self._crew.close()

    # States

    def state_dict(self) -> dict[str, Any]:
        """The states of all actors' environments, episodes in flight included; all plain data.

        It fits a `RayVecEnv` with as many actors. See `StackedVecEnv.state_dict`.
        """
        parts = self._ask(lambda _: ("state", ()))
        waiting = [
            {"actor": number, "observation": observation, "infos": infos}
            for number, (observation, infos) in sorted(self._waiting.items())
        ]
        own = {
            "last": self._last,
            "seeds": list(self._seeds),
            "options": self._options,
            "actions": self._actions,
            "reset_infos": self.reset_infos,
            "origin": list(self._origin),
            "renewals": list(self._renewals),
            "waiting": waiting,
        }
        return {**sealed(header(self.actors), {"own": own}), "parts": list(parts.values())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()` of an environment with the same settings, data and number of actors.

        Raises:
            ValueError: the state is of another environment, or damaged.
        """
        check_header(state, header(self.actors))
        inside = {name: value for name, value in state.items() if name != "parts"}
        own = opened(inside, torch.device("cpu")).get("own")
        if not isinstance(own, Mapping) or not own.keys() >= set(KEPT) or "parts" not in state:
            raise ValueError(f"{shown(state)} is no whole state of a RayVecEnv")
        parts = list(listed("parts", state["parts"], self.actors))
        lists = ("seeds", "options", "reset_infos", "origin")
        seeds, options, infos, origin = (list(listed(name, own[name], self.num_envs)) for name in lists)
        renewals = list(listed("renewals", own["renewals"], self.actors))
        like = np.zeros((self.num_envs, *(self.observation_space.shape or ())), np.float32)
        last = None if own["last"] is None else fitted("last", own["last"], like)

        self._ask(lambda number: ("load", (parts[number],)))
        self._last, self._actions, self.reset_infos = last, own["actions"], infos
        self._seeds, self._options = seeds, options
        self._origin, self._renewals = origin, renewals
        self._waiting = {each["actor"]: (each["observation"], each["infos"]) for each in own["waiting"]}

    # Attributes, methods and pictures of the environments

    def _named(self, indices: VecEnvIndices) -> list[int]:
        """The actor of each environment that is named."""
        return [int(index) // self.per_actor for index in self._get_indices(indices)]

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """The attribute of an actor's stacked environment, once for each index."""
        named = self._named(indices)
        found = self._ask(lambda _: ("get", (attr_name,)), sorted(set(named)))
        return [found[number] for number in named]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of all stacked environments; actors that are restarted get it too.

        Raises:
            ValueError: only some environments were named.
        """
        if len(self._named(indices)) != self.num_envs:
            raise ValueError("stacked environments share their attributes: set them for all, without indices")
        self._ask(lambda _: ("set", (attr_name, value)))
        self._crew.attributes[attr_name] = value

    def env_method(
        self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any
    ) -> list[Any]:
        """Call a method of the stacked environments once in each actor; its result stands for each index.

        Raises:
            ValueError: it is `reset`, `step` or `close`, which this object calls itself.
        """
        if method_name in NOT_CALLED:
            raise ValueError(
                f"{method_name} of each actor by itself would part them (one seed, the same episodes in "
                f"every actor): call {NOT_CALLED[method_name]}"
            )
        named = self._named(indices)
        found = self._ask(lambda _: ("call", (method_name, args, kwargs)), sorted(set(named)))
        return [found[number] for number in named]

    def env_is_wrapped(self, wrapper_class: type, indices: VecEnvIndices = None) -> list[bool]:
        """Whether the environments carry a wrapper; episode statistics count as SB3's Monitor."""
        from stable_baselines3.common.monitor import Monitor

        return [issubclass(wrapper_class, Monitor)] * len(self._named(indices))

    def get_images(self) -> Sequence[Any]:
        """A figure of each training run so far, where render_mode is "rgb_array"."""
        return [image for images in self._ask(lambda _: ("images", ())).values() for image in images]
