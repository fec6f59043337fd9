"""check_selector: the contract of selectors."""

import traceback
from typing import Any

import torch

from dsenv.checks.calls import Make, RaisedError, call, check_flags, maker, same
from dsenv.checks.made_up import BATCH, MadeUp, Needs, check_copied, declared_needs, reloaded, run_as_declared
from dsenv.select import Selection, Selector
from dsenv.select.registry import SELECTORS
from dsenv.signals import SampleSignals

NEEDS = ("pass", "logits", "features")


def check_selector(
    part: Any,
    *,
    signals: SampleSignals | None = None,
    classes: int = 4,
    features: int = 8,
    seed: int = 0,
) -> None:
    """Check that a selector of your own keeps the contract of those that come with dsenv.

    It runs on small made-up data through several epochs: `prepare` where it needs a pass, `select`,
    `observe`, and its state into a fresh selector. Global random streams are compared, and the signals are.

    Use::

        import torch
        from dsenv import Selection, Selector, check_selector

        class LargestLoss(Selector):
            def select(self, signals, count, generator):
                index = signals.loss.topk(count).indices
                return Selection(index, torch.ones(count))

        check_selector(LargestLoss)  # None: all is right

    Args:
        part: an object, a class, "module:Class", or a name or table as for `DataPlan`. A class is built with
            what it takes of size, classes, device, seed, epochs and features.
        signals: (N,) history to begin with; a copy is used. None for one of 40 samples, never seen.
        classes: C, where no signals are given.
        features: D, length of the feature vectors.
        seed: decides the data and the generators.

    Raises:
        ValueError: something is wrong; the message names it, what was allowed, and the next step.
    """
    data = MadeUp(signals, classes, features, seed)
    make = maker("selector", part, Selector, SELECTORS, data.given())
    first = _check_runs(make, data)
    _check_state(first, make, data)


def _check_runs(make: Make, data: MadeUp) -> Any:
    """Check that two runs of fresh selectors choose alike; the selector after the first one."""
    selector = make()
    check_flags(selector, "needs_pass", "needs_logits", "needs_features", "observes")
    first, chosen = run_as_declared(selector, NEEDS, lambda needs: _run(make(), data, needs))

    again = _run(make(), data, declared_needs(selector, NEEDS))[1]
    for epoch, (one, other) in enumerate(zip(chosen, again, strict=True)):
        if not _alike(one, other):
            raise ValueError(
                f"{type(selector).__name__}.select chose otherwise in epoch {epoch} with an equal generator "
                "and equal data; draw only from the generator, and take parameters from a seed"
            )
    return first


def _run(selector: Any, data: MadeUp, needs: Needs) -> tuple[Any, list[Selection]]:
    """A training run of some epochs; the selector after it, and what it chose."""
    signals, chosen = data.signals(), []
    if "pass" in needs:
        call(selector, "prepare", data.outputs(data.everything(), 0, needs), data.validation(needs))

    counts = (data.size // 2, data.size, 1, data.size // 3)
    for epoch, count in enumerate(counts):
        chosen.append(_select(selector, signals, max(1, count), data, epoch))
        _show(selector, chosen[-1], data, epoch, needs)
        data.update(signals, chosen[-1].index, epoch)

    # As many as the selector asks for itself
    own = call(selector, "own_count", signals) if hasattr(selector, "own_count") else None
    if own is not None:
        if isinstance(own, bool) or not isinstance(own, int) or not 1 <= own <= data.size:
            raise ValueError(
                f"{type(selector).__name__}.own_count must give None or a whole number in 1..N = 1.."
                f"{data.size}, got {own!r}"
            )
        chosen.append(_select(selector, signals, own, data, len(counts)))

    return selector, chosen


def _show(selector: Any, selection: Selection, data: MadeUp, epoch: int, needs: Needs) -> None:
    """Show the selector an epoch on its samples, batch by batch."""
    if getattr(selector, "observes", True):
        for index in torch.split(selection.index, BATCH):
            call(selector, "observe", data.outputs(index, epoch, needs))


def _select(selector: Any, signals: SampleSignals, count: int, data: MadeUp, epoch: int) -> Selection:
    """What the selector chooses, checked."""
    where = f"{type(selector).__name__}.select"
    try:
        found = call(selector, "select", signals, count, data.generator(100 + epoch))
    except RaisedError as error:
        _explain_shapes(where, count, error.__cause__)
        raise

    if not isinstance(found, Selection):
        raise ValueError(
            f"{where} must return a Selection, got {type(found).__name__}; return "
            "dsenv.Selection(index, weight)"
        )

    _check_index(where, found.index, count, data)
    _check_weight(where, found.weight, count, data)
    return found


def _explain_shapes(where: str, count: int, error: BaseException | None) -> None:
    """Name the shapes where a Selection was refused for them."""
    if error is None:
        return
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    if frame.f_code is not Selection.__post_init__.__code__:
        return

    made = frame.f_locals["self"]
    raise ValueError(
        f"{where} made a Selection of index {tuple(made.index.shape)} and weight {tuple(made.weight.shape)}; "
        f"both must have the shape (M,) = ({count},): one weight for each chosen sample"
    ) from error


def _check_index(where: str, index: Any, count: int, data: MadeUp) -> None:
    if not isinstance(index, torch.Tensor) or index.dtype != torch.int64:
        kind = index.dtype if isinstance(index, torch.Tensor) else type(index).__name__
        raise ValueError(
            f"{where}: index must be an int64 tensor of positions, got {kind}; use index.long(), or "
            "mask.nonzero().squeeze(1) for a mask"
        )
    if index.device != data.device:
        raise ValueError(f"{where}: index must be on the signals' device {data.device}, got {index.device}")

    if index.dim() != 1:
        raise ValueError(
            f"{where}: index must have shape (M,), got {tuple(index.shape)}; use index.flatten()"
        )
    if len(index) != count:
        raise ValueError(
            f"{where} was asked for count={count} samples and chose {len(index)}; choose exactly count"
        )

    low, high = int(index.min()), int(index.max())
    if low < 0 or high >= data.size:
        raise ValueError(f"{where}: positions must be in 0..N-1 = 0..{data.size - 1}, got {low}..{high}")
    different = len(torch.unique(index))
    if different != count:
        raise ValueError(
            f"{where} chose a sample more than once ({count} positions, {different} different ones); "
            "draw without replacement, and raise its weight to count it more"
        )


def _check_weight(where: str, weight: Any, count: int, data: MadeUp) -> None:
    if not isinstance(weight, torch.Tensor) or weight.dtype != torch.float32:
        kind = weight.dtype if isinstance(weight, torch.Tensor) else type(weight).__name__
        raise ValueError(f"{where}: weight must be a float32 tensor, got {kind}; use weight.float()")
    if weight.device != data.device:
        raise ValueError(f"{where}: weight must be on the signals' device {data.device}, got {weight.device}")
    if weight.shape != (count,):
        raise ValueError(
            f"{where}: weight must have the shape (M,) = ({count},) of index, got {tuple(weight.shape)}"
        )

    if not bool(weight.isfinite().all()) or float(weight.min()) < 0:
        raise ValueError(
            f"{where}: weights must be finite and not negative, got {float(weight.min())} to "
            f"{float(weight.max())}; they multiply losses"
        )


def _alike(one: Selection, other: Selection) -> bool:
    return same((one.index, one.weight), (other.index, other.weight))


def _check_state(selector: Any, make: Make, data: MadeUp) -> None:
    """Check that a fresh selector with this one's state goes on as this one does."""
    needs = declared_needs(selector, NEEDS)
    signals = data.signals()
    other = make()
    data.update(signals, data.everything(), 0)
    state, saved = reloaded(selector, other)

    for epoch in range(20, 23):
        one, two = (_select(each, signals, max(1, data.size // 2), data, epoch) for each in (selector, other))
        if not _alike(one, two):
            raise ValueError(
                f"a fresh {type(selector).__name__} with the state of another one selects otherwise: "
                "state_dict leaves something out, or load_state_dict does not take it in; save all "
                "that select and observe remember"
            )
        for each in (selector, other):
            _show(each, one, data, epoch, needs)
        data.update(signals, one.index, epoch)
    check_copied(selector, state, saved)
