"""One random stream for each replica, separate from the global ones of torch and NumPy."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Streams:
    """K independent generators on one device; replica k draws from the k-th only.

    A replica's numbers therefore do not depend on how many others run with it.
    """

    def __init__(self, replicas: int, device: torch.device) -> None:
        self.device = device
        self._generators = [torch.Generator(device) for _ in range(replicas)]

    @classmethod
    def of(cls, generator: torch.Generator) -> "Streams":
        """The stream of one replica, drawn from a generator that the caller owns."""
        streams = cls(1, generator.device)
        streams._generators = [generator]
        return streams

    def seed(self, replica: int, seed: int) -> None:
        """Restart the stream of one replica from a seed."""
        self._generators[replica].manual_seed(seed)

    def uniform(self, size: int) -> Tensor:
        """Draw (K, size) float32 numbers in [0, 1)."""
        rows = [torch.rand(size, generator=g, device=self.device) for g in self._generators]
        return torch.stack(rows)

    def gumbel(self, size: int) -> Tensor:
        """Draw (K, size) standard Gumbel variates."""
        tiny = torch.finfo(torch.float32).tiny
        exponential = -self.uniform(size).clamp_(min=tiny).log_()
        return -exponential.clamp_(min=tiny).log_()

    def __getitem__(self, replica: int) -> torch.Generator:
        return self._generators[replica]

    def state_dict(self) -> dict[str, Sequence[Tensor]]:
        """States of all generators."""
        return {"generators": [g.get_state() for g in self._generators]}

    def load_state_dict(self, state: dict[str, Sequence[Tensor]]) -> None:
        """Continue from `state_dict()`.

        Raises:
            ValueError: the state was saved on another kind of device, whose random numbers are others.
        """
        for generator, saved in zip(self._generators, state["generators"], strict=True):
            if saved.shape != generator.get_state().shape:
                raise ValueError(
                    f"the random streams of the state are not those of {self.device.type!r}: what was saved "
                    "on a GPU goes on on a GPU, and what was saved on a CPU on a CPU; set device to that"
                )
            generator.set_state(saved.cpu())
