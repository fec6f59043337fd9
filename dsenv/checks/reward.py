"""check_reward: the contract of rewards."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dsenv.checks.calls import call, check_flags, maker, same
from dsenv.checks.made_up import SIZE
from dsenv.env.rewards import REWARDS, Reward, Transition
from dsenv.env.rewards.base import RewardInputs
from dsenv.signals import SampleSignals
from dsenv.training.scores import Score

REPLICAS, INTERVALS = 3, 4
RELATIVE, ABSOLUTE = 1e-4, 1e-5  # how far rounding may take a payment


def check_reward(part: Any, *, classes: int = 4, seed: int = 0) -> None:
    """Check that a reward of your own keeps the contract of those that come with dsenv.

    It measures and pays three made-up training runs side by side over several intervals, and each of them
    alone.

    Use::

        from dsenv import Reward, check_reward

        class Doubled(Reward):
            def measure(self, inputs):
                return inputs.validation.accuracy[:, None]  # (K, 1)

            def compute(self, transition):
                return 2 * (transition.after - transition.before)[:, 0]  # (K,)

        check_reward(Doubled)  # None: all is right

    Args:
        part: an object, a class, "module:Class", or a name or table as for an environment's `reward`. A class
            is built with what it takes of size, classes, device and seed.
        classes: C.
        seed: decides the training runs.

    Raises:
        ValueError: something is wrong; the message names it, what was allowed, and the next step.
    """
    given = {"size": SIZE, "classes": classes, "device": torch.device("cpu"), "seed": seed}
    make = maker("reward", part, Reward, REWARDS, given)
    reward = make()
    check_flags(reward, "prices_samples")
    stages = _stages(classes, seed)

    measured = [_measure(reward, inputs, REPLICAS) for inputs in stages]
    paid = _pay(reward, measured)
    _check_again(reward, stages, measured, paid)
    for replica in range(REPLICAS):
        _check_replica(reward, replica, stages, measured, paid)


def _check_again(
    reward: Any, stages: Sequence[RewardInputs], measured: Sequence[Tensor], paid: Sequence[Tensor]
) -> None:
    """Check that a reward measures and pays the same when it is asked again."""
    again = [_measure(reward, inputs, REPLICAS) for inputs in stages]
    if not same((measured, paid), (again, _pay(reward, again))):
        raise ValueError(
            f"{type(reward).__name__} pays otherwise when it is asked again; a reward keeps and draws "
            "nothing: what it needs of earlier intervals is in transition.start and transition.before"
        )


def _check_replica(
    reward: Any,
    replica: int,
    stages: Sequence[RewardInputs],
    measured: Sequence[Tensor],
    paid: Sequence[Tensor],
) -> None:
    """Check that one training run alone is measured and paid as beside the others."""
    name = type(reward).__name__
    alone = [_measure(reward, _of_replica(inputs, replica), 1) for inputs in stages]
    _check_alone(name, replica, [each[replica] for each in measured], [each[0] for each in alone], "measures")

    payments = _pay(reward, alone)
    _check_alone(name, replica, [each[replica] for each in paid], [each[0] for each in payments], "is paid")


def _stages(classes: int, seed: int) -> list[RewardInputs]:
    """Where K training runs stand at the start and after each interval."""
    generator = torch.Generator().manual_seed(seed)
    pool = torch.rand(REPLICAS, SIZE, generator=generator) < 0.8
    labels = torch.randint(classes, (REPLICAS, SIZE), generator=generator)
    signals, stages = SampleSignals(SIZE, classes, REPLICAS), []

    for interval in range(INTERVALS + 1):
        score = Score(
            accuracy=torch.rand(REPLICAS, generator=generator),
            log_likelihood=-torch.rand(REPLICAS, generator=generator),
        )
        seen = SampleSignals(SIZE, classes, REPLICAS)
        seen.load_state_dict(signals.state_dict())
        stages.append(RewardInputs(validation=score, signals=seen, pool=pool))

        index = torch.rand(REPLICAS, SIZE, generator=generator).argsort(1)[:, : SIZE // 2]
        logits, given = 2 * torch.randn(*index.shape, classes, generator=generator), labels.gather(1, index)
        loss = F.cross_entropy(logits.transpose(1, 2), given, reduction="none")
        signals.update(index, loss, logits, given, interval)

    return stages


def _of_replica(inputs: RewardInputs, replica: int) -> RewardInputs:
    """One of the K training runs, alone."""
    rows = slice(replica, replica + 1)
    score = Score(
        accuracy=inputs.validation.accuracy[rows], log_likelihood=inputs.validation.log_likelihood[rows]
    )
    signals = inputs.signals.of_replica(replica).as_replica()
    return RewardInputs(validation=score, signals=signals, pool=inputs.pool[rows])


def _measure(reward: Any, inputs: RewardInputs, replicas: int) -> Tensor:
    where = f"{type(reward).__name__}.measure"
    found = call(reward, "measure", inputs)

    if not isinstance(found, Tensor) or found.dtype != torch.float32:
        kind = found.dtype if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"{where} must return a float32 tensor (K, M), got {kind}")
    if found.dim() != 2 or len(found) != replicas:
        raise ValueError(
            f"{where} must return (K, M) for K = {replicas} training runs, got {tuple(found.shape)}; one "
            "row for each run: values[:, None] for one value"
        )

    _check_finite(where, found)
    return found


def _pay(reward: Any, measured: Sequence[Tensor]) -> list[Tensor]:
    """Payments (K,) of the intervals between what was measured."""
    replicas, paid = len(measured[0]), []
    for interval in range(INTERVALS):
        is_last = torch.full((replicas,), interval == INTERVALS - 1)
        seen = torch.full((replicas,), 0.25 * (interval + 1))
        transition = Transition(
            start=measured[0],
            before=measured[interval],
            after=measured[interval + 1],
            samples_seen=seen,
            is_last=is_last,
        )
        paid.append(_payment(reward, transition, replicas))

    return paid


def _payment(reward: Any, transition: Transition, replicas: int) -> Tensor:
    where = f"{type(reward).__name__}.compute"
    found = call(reward, "compute", transition)

    if not isinstance(found, Tensor) or found.dtype != torch.float32:
        kind = found.dtype if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"{where} must return a float32 tensor (K,), got {kind}")
    if found.shape != (replicas,):
        raise ValueError(
            f"{where} must return one payment for each training run, (K,) = ({replicas},), got "
            f"{tuple(found.shape)}; what was measured is (K, M): take a column, transition.after[:, 0]"
        )

    _check_finite(where, found)
    return found


def _check_finite(where: str, found: Tensor) -> None:
    if not bool(found.isfinite().all()):
        raise ValueError(
            f"{where} gave values that are not finite, {found.flatten().tolist()[:6]}; guard divisions and "
            "logarithms"
        )


def _check_alone(
    name: str, replica: int, beside: Sequence[Tensor], alone: Sequence[Tensor], what: str
) -> None:
    """Check that a training run gets the same beside others as alone."""
    for interval, (one, other) in enumerate(zip(beside, alone, strict=True)):
        if one.shape != other.shape or not torch.allclose(one, other, rtol=RELATIVE, atol=ABSOLUTE):
            raise ValueError(
                f"{name}: training run {replica} {what} {one.tolist()} beside others and {other.tolist()} "
                f"alone (interval {interval}); runs are independent: reduce over dim=1, never over "
                "dim=0, the runs"
            )
