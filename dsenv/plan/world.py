"""The processes that train one model together: which of them this one is, and what they tell each other."""

import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed

from dsenv.errors import check_count, shown

AUTO = "auto"
WorldChoice = Any
""""auto"; None or 1 for a process that is alone; (rank, size); or a `torch.distributed.ProcessGroup`."""
WAYS = (
    "world must be 'auto', None or 1 for a process that is alone, (rank, size), or a "
    "torch.distributed.ProcessGroup"
)
SENT_AS = {torch.bool: torch.uint8, torch.float16: torch.float32, torch.bfloat16: torch.float32}
"""Types that not every backend sends, and those in whose place they are sent."""
PLAN_LOADER = "dsenv.integrations.accelerate.plan_loader"
T = TypeVar("T")


class World:
    """The ranks that share the steps of one plan.

    Rank and size are looked up at the first use, since frameworks often begin the group after the plan was
    made, and stay as they are from then on.

    Args:
        choice: what the user said, see `WorldChoice`.

    Raises:
        ValueError: it is none of these.
    """

    def __init__(self, choice: WorldChoice = AUTO) -> None:
        self._choice = _checked(choice)
        self._found: tuple[int, int] | None = None
        self._is_compared = False  # a told rank and size were compared with the group

    # Who

    @property
    def rank(self) -> int:
        """Number of this process among them, 0..size-1; the first call looks it up, errors as for `size`."""
        return self._use()[0]

    @property
    def size(self) -> int:
        """How many there are; the first call looks it up.

        Raises:
            ValueError: a launcher started several processes, and their group has not begun.
        """
        return self._use()[1]

    @property
    def is_known(self) -> bool:
        """Whether it was looked up before."""
        return self._found is not None

    @property
    def is_alone(self) -> bool:
        """Whether this process shares its steps with no other; the first call looks it up."""
        return self._use()[1] == 1

    def _use(self) -> tuple[int, int]:
        if self._found is None:
            self._found = _look_up(self._choice)
        return self._found

    def check(self) -> None:
        """Check that the group did not begin after the first use.

        Raises:
            ValueError: it did; every rank would train the same samples.
        """
        before = self._use()
        if self._choice != AUTO or not _has_begun():
            return
        now = distributed.get_rank(), distributed.get_world_size()
        if now != before:
            raise ValueError(
                f"this process is rank {now[0]} of {now[1]} of a torch.distributed group that began after "
                f"the plan was used as rank {before[0]} of {before[1]}: begin the group "
                "(torch.distributed.init_process_group, Accelerator()) before the plan is asked for batches, "
                "lengths or steps, or tell it: DataPlan(world=(rank, size))"
            )

    # What they tell each other

    def gather(
        self,
        what: str,
        rows: Mapping[str, Tensor],
        said: Mapping[Any, Any] | None = None,
        device: torch.device | None = None,
    ) -> tuple[dict[str, Tensor], list[Mapping[Any, Any]]]:
        """Rows of all ranks, one below the other in the order of the ranks; every rank must call it.

        Each tensor travels by itself in its own type; ranks may have different numbers of rows, and none.

        Args:
            what: what it is for, in words; the same on all ranks.
            rows: (B, ...) tensors by name, of one number of rows.
            said: a few plain values to hand round beside them.
            device: where the tensors are wanted; None for where the rows are, or the CPU for none.

        Returns:
            The tensors, and what every rank said.

        Raises:
            RuntimeError: a rank did not come, or came for something else.
        """
        if self.is_alone:
            return dict(rows), [dict(said or {})]

        # Who has how many rows of which kind
        number = len(next(iter(rows.values()))) if rows else 0
        kinds = {name: (str(SENT_AS.get(v.dtype, v.dtype)), tuple(v.shape[1:])) for name, v in rows.items()}
        told: list[dict[str, Any]] = self.tell(what, {"rows": number, "kinds": kinds, "said": said or {}})
        counts = [each["rows"] for each in told]
        known = [each["kinds"] for each in told if each["rows"]]
        _check_alike(what, known)

        # One tensor after the other, padded to the longest and cut
        first = known[0] if known else kinds
        usual = next((value.device for value in rows.values()), torch.device("cpu"))
        place = usual if device is None else device
        found = {name: self._rows(what, rows.get(name), kind, counts, place) for name, kind in first.items()}
        return found, [each["said"] for each in told]

    def _rows(
        self,
        what: str,
        value: Tensor | None,
        kind: tuple[str, tuple[int, ...]],
        counts: Sequence[int],
        device: torch.device,
    ) -> Tensor:
        """The rows of one tensor of all ranks; `value` is this rank's, None for none."""
        dtype, most = getattr(torch, kind[0].removeprefix("torch.")), max(counts)
        place = self._device(device)
        padded = torch.zeros(most, *kind[1], dtype=dtype, device=place)
        if value is not None and len(value):
            padded[: len(value)] = value.detach().to(place, dtype)

        joined = padded.new_empty(self.size * most, *kind[1])
        self._call(what, lambda: _all_gather(joined, padded, group=self._group))
        parts = [part[:count] for part, count in zip(torch.split(joined, max(most, 1)), counts, strict=False)]
        found = torch.cat(parts) if parts else joined
        return found.to(device, None if value is None else value.dtype)

    def tell(self, what: str, value: T) -> list[T]:
        """A small value of every rank, in their order; arguments and errors as for `gather`."""
        told: list[Any] = [None] * self.size
        if self.is_alone:
            return [value]
        self._call(what, lambda: distributed.all_gather_object(told, (what, value), group=self._group))

        asked = [words for words, _ in told]
        if any(words != what for words in asked):
            where = ", ".join(f"rank {rank}: {words}" for rank, words in enumerate(asked))
            raise RuntimeError(
                f"the ranks are at different places of the training ({where}): every rank must make the same "
                "calls of the plan in the same order, plan.state_dict() and plan.suspects() included"
            )
        return [each for _, each in told]

    def agree(self, what: str, facts: Mapping[str, Any]) -> None:
        """Check that some facts, plain values by name, are equal on all ranks.

        Raises:
            ValueError: one is not; the message names it.
        """
        told = self.tell(what, dict(facts))
        for name, value in told[0].items():
            for rank, each in enumerate(told):
                if each[name] != value:
                    raise ValueError(
                        f"{what}: {name} is {shown(value)} on rank 0 and {shown(each[name])} on rank {rank}; "
                        "build the plan alike on every rank (the same data in the same order, settings and "
                        "seed), and load the same state everywhere"
                    )

    def _call(self, what: str, collective: Callable[[], Any]) -> None:
        """Run a collective call; its errors say what it was for."""
        if not _has_begun():
            raise ValueError(
                f"{what} needs the other ranks of DataPlan(world={shown(self._choice)}), and no "
                "torch.distributed group has begun, or it has ended: call init_process_group"
            )
        self._compare()
        try:
            collective()
        except RuntimeError as error:
            raise RuntimeError(
                f"rank {self.rank} of {self.size}, {what}: another rank did not come within the time-out of "
                "the group. It ended, or did not make the same call of the plan; look at the first error of "
                f"the other ranks, and go on from the last saved state ({str(error).partition(chr(10))[0]})"
            ) from error

    def _compare(self) -> None:
        """Compare a rank and size that were told with those of the group, once."""
        if self._is_compared:
            return
        group = self._group
        now = distributed.get_rank(group), distributed.get_world_size(group)
        if now != (self.rank, self.size):
            raise ValueError(
                f"DataPlan(world={shown(self._choice)}) says rank {self.rank} of {self.size}, and the "
                f"torch.distributed group says rank {now[0]} of {now[1]}; leave world out, or give the group"
            )
        self._is_compared = True

    @property
    def _group(self) -> Any:
        return None if isinstance(self._choice, str | tuple) else self._choice

    def _device(self, own: torch.device) -> torch.device:
        """Where tensors must be to be sent: gloo sends from the CPU, NCCL from a GPU."""
        parts = (part.split(":") for part in distributed.get_backend_config(self._group).split(","))
        backends = {part[0]: part[-1] for part in parts}
        if backends.get(own.type) not in (None, "gloo"):
            return own
        if "cpu" in backends:
            return torch.device("cpu")
        kind = next(iter(backends))
        return torch.device(kind, torch.accelerator.current_device_index())

    # Shares

    def share(self, count: int) -> Tensor:
        """Positions (L,) of this rank's share of `count` rows, of one length on all ranks; some overlap."""
        length = -(-count // self.size)
        return torch.arange(length) + min(self.rank * length, count - length)

    def __deepcopy__(self, _memo: Any) -> "World":
        """A copy: the group stays the same."""
        other = World(self._choice)
        vars(other).update(vars(self))
        return other

    def __getstate__(self) -> dict[str, Any]:
        """What a pickle holds; a group stays in its process."""
        choice = self._choice if isinstance(self._choice, str | tuple) else self._use()
        return {**vars(self), "_choice": choice, "_is_compared": False}

    def __repr__(self) -> str:
        return f"World(rank {self.rank} of {self.size})" if self.is_known else f"World({self._choice!r})"


def _check_alike(what: str, known: Sequence[Mapping[str, Any]]) -> None:
    """Check that all ranks with rows have the same columns.

    Raises:
        RuntimeError: they have not.
    """
    if any(kinds != known[0] for kinds in known):
        raise RuntimeError(
            f"{what}: the ranks have different outputs, {shown(known)}; give plan.loss the same arguments "
            "(logits, features) on every rank and in every step"
        )


def check_dealt(numbers: NDArray[np.int64], rank: int, ranks: int, epoch: int, *, is_first: bool) -> None:
    """Check that the samples of a batch are this rank's, and that none of its batches was passed over.

    Args:
        numbers: (B,) of the planned batch that each sample is in, ascending.
        rank: of this process.
        ranks: how many there are; rank r has the numbers r, r + ranks, ...
        epoch: of the batch, for the message.
        is_first: no batch of the epoch came before.

    Raises:
        ValueError: they are not, so somebody else deals samples out, or nobody does.
    """
    at = f"rank {rank} of {ranks}, epoch {epoch}"
    others = numbers[numbers % ranks != rank]
    if len(others):
        raise ValueError(
            f"{at}: the batch holds samples of rank {int(others[0] % ranks)}. A sampler of all ranks "
            "(shard='global') is for frameworks that deal batches of plan.micro_batch_size out to the ranks "
            "in turn; without one give the loader plan.sampler. Accelerate deals out so by default; under "
            f"other settings of it (split_batches) take {PLAN_LOADER}"
        )
    if is_first and numbers[0] // ranks == rank > 0:
        raise ValueError(
            f"{at}: the first batch is number {int(numbers[0])}, as if a framework dealt the batches of this "
            f"rank out to the ranks once more. Under Accelerate take {PLAN_LOADER}; else give the loader the "
            "sampler of all ranks, plan.new_sampler(shard='global'), or keep the framework from sharding"
        )


def check_accumulation(accumulate: int) -> None:
    """Warn where Accelerate, if it is in use, accumulates another number of batches than the plan counts.

    A loop that accumulates by itself leaves Accelerate at one batch, which says nothing.
    """
    module = sys.modules.get("accelerate.state")
    state = getattr(getattr(module, "GradientState", None), "_shared_state", {})
    steps = (state.get("plugin_kwargs") or {}).get("num_steps") or 1
    if steps not in (1, accumulate):
        warnings.warn(
            f"Accelerate accumulates {steps} batches a step (gradient_accumulation_steps), and the plan "
            f"counts {accumulate}: a step would be of other samples than DataPlan(batch_size=...) says. Give "
            f"DataPlan(accumulate={steps}); {PLAN_LOADER} checks it",
            stacklevel=2,
        )


def in_order(rows: Mapping[str, Tensor], *keys: str) -> dict[str, Tensor]:
    """Rows sorted by some of their columns, equal ones as they were.

    Args:
        rows: (B, ...) tensors by name.
        keys: names of int64 columns (B,), the first one counts most.
    """
    order = torch.arange(len(rows[keys[0]]), device=rows[keys[0]].device)
    for key in reversed(keys):
        order = order[rows[key][order].argsort(stable=True)]
    return {name: value[order] for name, value in rows.items()}


def unique_rows(rows: Mapping[str, Tensor], *keys: str) -> tuple[dict[str, Tensor], int]:
    """The rows `in_order`, of equal ones the first alone, and how many others there were."""
    found = in_order(rows, *keys)
    columns = torch.stack([found[key] for key in keys])
    is_new = torch.ones_like(columns[0], dtype=torch.bool)
    is_new[1:] = (columns[:, 1:] != columns[:, :-1]).any(0)
    return {name: value[is_new] for name, value in found.items()}, int((~is_new).sum())


# The newer name of the same call, where torch has it
_all_gather: Any = getattr(distributed, "all_gather_single", None) or getattr(
    distributed, "all_gather_into_tensor", None
)


def _has_begun() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _look_up(choice: WorldChoice) -> tuple[int, int]:
    """Rank and size.

    Raises:
        ValueError: the group is not there.
    """
    if isinstance(choice, tuple):
        return choice
    if choice != AUTO:
        return distributed.get_rank(choice), distributed.get_world_size(choice)
    if _has_begun():
        return distributed.get_rank(), distributed.get_world_size()

    launched = os.environ.get("WORLD_SIZE", "1")
    if launched.isdigit() and int(launched) > 1:
        raise ValueError(
            f"a launcher started {launched} processes (WORLD_SIZE), and their torch.distributed group has "
            "not begun: call torch.distributed.init_process_group (or make the Accelerator) before the plan "
            "is asked for batches, lengths or steps; DataPlan(world=1) for a plan of this process alone"
        )
    return 0, 1


def _checked(choice: WorldChoice) -> WorldChoice:
    """What the user said of the world, as "auto", (rank, size) or a group.

    Raises:
        ValueError: it is none of these.
    """
    if choice is None or (type(choice) is int and choice == 1):
        return 0, 1
    if isinstance(choice, str) and choice == AUTO:
        return AUTO
    if isinstance(choice, tuple | list) and len(choice) == 2:
        size = check_count("world size", choice[1])
        return check_count("rank", choice[0], 0, size - 1), size
    if distributed.is_available() and isinstance(choice, distributed.ProcessGroup):
        if distributed.get_rank(choice) < 0:
            raise ValueError("this process is not in the group world=...; give the one that it is in")
        return choice
    raise ValueError(f"{WAYS}; got {shown(choice)}")
