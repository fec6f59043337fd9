"""Policy: a trained agent that travels as one file."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsenv.control.base import Actions, Control
from dsenv.control.observation import observe
from dsenv.control.state import TrainingState
from dsenv.errors import shown
from dsenv.policy import storage
from dsenv.policy.actors import Actor, build_actor
from dsenv.policy.card import PolicyCard, read_toml


class Policy:
    """A trained policy: a network, and a card that says what it saw and what its actions mean.

    It acts without exploration, runs on plain torch, and is saved as one safetensors file.

    Use::

        import torch
        from dsenv import DataPlan, Policy, pretrained

        pretrained("curriculum").save("mine.safetensors")  # or dsenv.export(model, env), after training
        policy = Policy.load("mine.safetensors")
        print(policy, policy.card.ratio, policy.card.trained["datasets"])

        data = torch.rand(500, 20), torch.randint(0, 4, (500,))
        plan = DataPlan(data, epochs=30, batch_size=50, policy="mine.safetensors")  # or policy=policy

    Args:
        actor: network and head.
        card: its `network` is that of the actor.

    Raises:
        ValueError: the actor gives other actions than the card's control takes.
    """

    def __init__(self, actor: Actor, card: PolicyCard) -> None:
        self.actor, self.card = actor, card
        self.control: Control = card.make_control(card.ratio)

        entries = card.observation["entries"]
        size = actor.size(entries)
        head = {"discrete": "categorical", "binary": "binary"}.get(card.actions)
        if (actor.head != head) if head else (actor.head in ("categorical", "binary")):
            raise ValueError(f"a network with the head {actor.head!r} gives no {card.actions} actions")

        wanted = len(self.control.choices()) if card.actions == "discrete" else self.control.size
        if size != wanted:
            raise ValueError(
                f"the network gives {size} outputs, {card.actions} actions of the control "
                f"{card.control['name']!r} take {wanted}"
            )

    @classmethod
    def load(cls, path: str | Path) -> "Policy":
        """Read a policy. Nothing in the file is executed: weights are numbers, names are looked up in tables.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not a policy that this version can use; the message says why.
        """
        path = _path(path)
        try:
            tensors, text = storage.read(path, read_toml)
            card = PolicyCard.of_text(text)
            return cls(build_actor(card.network, tensors), card)
        except ValueError as error:
            raise ValueError(f"{path} cannot be used as a policy: {error}") from error

    def save(self, path: str | Path) -> Path:
        """Write the policy to `path`, NAME.safetensors; returns it.

        Raises:
            ValueError: the name ends in something else.
        """
        path = _path(path)
        storage.write(path, self.weights, self.card.text())
        return path

    @property
    def weights(self) -> dict[str, Tensor]:
        """Tensors of the network, by name, on the CPU."""
        return {name: value.detach().cpu() for name, value in self.actor.network.state_dict().items()}

    @property
    def digest(self) -> str:
        """SHA-256 over weights and card: equal for equal policies."""
        return storage.digest(self.weights, self.card.text())

    def predict(
        self,
        observation: NDArray[np.float32],
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[NDArray[Any], Any]:
        """Actions for observations (K, O), or one for (O,), as the environment takes them; SB3's interface.

        Args:
            observation: as the environment gives it.
            state: handed back.
            episode_start: not read.
            deterministic: not read; a policy that travels does not explore.

        Raises:
            ValueError: the observation has another length or shape.
        """
        del episode_start, deterministic

        # A copy: the last bits of a result depend on where its input lies in memory
        rows = torch.tensor(np.asarray(observation, np.float32))
        if rows.dim() not in (1, 2):
            raise ValueError(f"expected observations (K, O) or one (O,), got shape {tuple(rows.shape)}")
        rows = rows.reshape(-1, rows.shape[-1])
        self._check_length(rows)

        actions: NDArray[Any] = self._forward(rows).numpy()
        if self.card.actions == "binary":
            actions = actions.astype(np.int8)
        return (actions if np.ndim(observation) == 2 else actions[0]), state

    def act(self, state: TrainingState) -> Actions:
        """Actions (K, A) in [-1, 1], as controls take them, for the state of K training runs."""
        return self.actions(observe(state, self.control))

    def actions(self, observation: Tensor) -> Actions:
        """Actions (K, A) in [-1, 1] for observations (K, O)."""
        self._check_length(observation)
        found: NDArray[Any] = self._forward(observation.to("cpu", torch.float32)).numpy()
        if self.card.actions == "discrete":
            found = self.control.choices()[found]
        actions: Actions = (2 * found - 1 if self.card.actions == "binary" else found).astype(np.float32)
        return actions

    @torch.no_grad()
    def _forward(self, rows: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):  # a loop may ask for samples within its own
            found: Tensor = self.actor(rows)
        return found

    def _check_length(self, rows: Tensor) -> None:
        """Check the observation's length; a network over candidates takes any number of those."""
        entries = self.card.observation["entries"]
        if rows.shape[1] == entries:
            return

        name = self.card.control["name"]
        try:
            self.actor.size(rows.shape[1])
        except ValueError as error:
            raise ValueError(
                f"the policy takes observations of {entries} entries (control {name!r}, {self.card.bins} "
                f"bins), got {rows.shape[1]}; use an environment with the control and bins it was "
                "trained with"
            ) from error

    def __repr__(self) -> str:
        card = self.card
        return f"Policy({card.control['name']}, {card.actions}, {card.network['kind']}, {self.digest[:12]})"


def _path(given: str | Path) -> Path:
    if not isinstance(given, str | os.PathLike) or not os.fspath(given) or "\0" in str(given):
        raise ValueError(f"a policy's path must be that of NAME.safetensors, got {shown(given)}")
    return Path(os.path.expanduser(given))


def describe_network(actor: Actor) -> Mapping[str, Any]:
    """The `network` entry of an actor's card."""
    return {"kind": actor.kind, **actor.settings}
