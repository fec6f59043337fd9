"""Losses of the causal language models of `transformers`, from their hidden states and heads."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from dsenv.errors import shown
from dsenv.task_kinds.tokens import IGNORED
from dsenv.text.losses import Head, TextLosses, token_losses

PROBES = (1.0, 8.0, 64.0, 512.0)
"""Factors on a hidden state with which a model is asked once what it makes of its head's outputs."""
_known: "WeakKeyDictionary[nn.Module, Head]" = WeakKeyDictionary()


def causal_lm_losses(model: Any, batch: Mapping[str, Any], *, chunk: int | None = None) -> TextLosses:
    """Loss and signals of each sample under a causal language model, without its logits (B, T, V).

    The model runs as it is; its head is handed a few tokens in place of all, and the losses are made from
    what the head would have got, by `token_losses`. At a model's first call its own logits of those tokens
    are compared with what this makes of them, so that a head with scaling or capping of logits that is not
    known here is refused.

    For example, in a training loop with a `DataPlan`::

        found = causal_lm_losses(model, batch.inputs)
        loss = plan.loss(batch, found.loss, signals=found.signals, tokens=found.tokens)

    Args:
        model: with `get_output_embeddings()`, as those of `transformers` (also under PEFT).
        batch: `input_ids` and `labels` (B, T), `attention_mask` where there is padding, whose labels never
            count, and whatever else the
            model takes; without padding `lengths` (R,) beside (1, T), as `Collate(flat=True)` gives it.
        chunk: see `Head`.

    Returns:
        As `token_losses`.

    Raises:
        ValueError: the model has no such head, makes something else of its outputs, or adds a loss of its
            own; or the batch lacks something.
    """
    labels, inputs = _split(batch)
    _check_inputs(model, inputs["input_ids"])
    linear = _head_of(model)
    head = _head_form(model, linear)
    hidden = _hidden(model, linear, inputs, head)
    return token_losses(
        hidden,
        linear.weight,
        labels,
        linear.bias,
        lengths=batch.get("lengths"),
        head=Head(head.scale, head.softcap, chunk),
    )


def _split(batch: Any) -> tuple[Tensor, dict[str, Any]]:
    """The labels, and what the model is given."""
    if not isinstance(batch, Mapping):
        raise ValueError(
            f"the batch must be a mapping with input_ids and labels, got {type(batch).__name__}; of a plan's "
            "batch give batch.inputs"
        )
    for name in ("input_ids", "labels"):
        if not isinstance(batch.get(name), Tensor):
            raise ValueError(
                f"the batch has no {name}: it needs int64 tokens (B, T), and holds {shown(list(batch))}"
            )
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "lengths")}
    if "lengths" in batch and "position_ids" not in inputs:
        raise ValueError(
            "samples that lie in one row (lengths) need position_ids (1, T) that begin anew with each, or "
            "the model reads across them; Collate(flat=True) makes them"
        )
    return _without_padding(batch["labels"], inputs), inputs


def _without_padding(labels: Tensor, inputs: Mapping[str, Any]) -> Tensor:
    """Labels (B, T) in which nothing is asked of padding, nor of a token that only padding comes before.

    The first token of each text in a row of several, where `position_ids` begin anew, is not asked for
    either.
    """
    mask, places = inputs.get("attention_mask"), inputs.get("position_ids")
    if isinstance(mask, Tensor) and mask.shape == labels.shape:
        before = nn.functional.pad(mask[:, :-1], (1, 0), value=1)
        labels = labels.masked_fill((mask == 0) | (before == 0), IGNORED)
    if isinstance(places, Tensor) and places.shape == labels.shape:
        labels = labels.masked_fill(places == 0, IGNORED)
    return labels


def _check_inputs(model: Any, tokens: Tensor) -> None:
    """Check on the CPU that the model knows the tokens.

    Raises:
        ValueError: one is out of range.
    """
    find = getattr(model, "get_input_embeddings", None)
    known = getattr(find() if callable(find) else None, "num_embeddings", None)
    if known is None or not tokens.is_cpu or not tokens.numel():
        return
    low, high = (int(value) for value in tokens.aminmax())
    if low < 0 or high >= known:
        raise ValueError(
            f"input_ids has the token {low if low < 0 else high}, and {type(model).__name__} knows 0 to "
            f"{known - 1}: the tokenizer is another one, or has new tokens (model.resize_token_embeddings)"
        )


def _head_of(model: Any) -> Any:
    """The linear layer that makes the logits.

    Raises:
        ValueError: there is none, or it is more than weight and bias.
    """
    find = getattr(model, "get_output_embeddings", None)
    found = find() if callable(find) else None
    if found is None:
        raise ValueError(
            f"{type(model).__name__} has no get_output_embeddings() that gives a head: use "
            "token_losses(hidden, head.weight, labels) or from_logits(logits, labels); of a wrapped model "
            "(DDP) give model.module"
        )
    names = {name for name, _ in found.named_parameters()}
    is_plain = isinstance(getattr(found, "weight", None), Tensor) and names <= {"weight", "bias"}
    named = ", ".join(sorted(names)) or "no parameters"
    if not is_plain or not found.weight.is_floating_point() or type(found.weight).__name__ == "DTensor":
        raise ValueError(
            f"the head of {type(model).__name__} is {type(found).__name__} with {named}: "
            "dsenv needs a plain linear layer (weight, bias), not an adapted, quantised or sharded one; take "
            "from_logits(model(...).logits, labels), which holds the logits"
        )
    return found


def _head_form(model: Any, linear: Any) -> Head:
    """What the configuration says that the model makes of its head's outputs."""
    if (known := _known.get(linear)) is not None:
        return known

    config = getattr(model, "config", None)
    find = getattr(config, "get_text_config", None)
    config = find() if callable(find) else config

    def said(name: str) -> float | None:
        value = getattr(config, name, None)
        return float(value) if isinstance(value, int | float) and value else None

    scale = (
        (said("logit_scale") or 1.0) * (said("lm_head_multiplier") or 1.0) / (said("logits_scaling") or 1.0)
    )
    return Head(scale, said("final_logit_softcapping"))


def _hidden(model: Any, linear: Any, inputs: Mapping[str, Any], head: Head) -> Tensor:
    """What the head is given for all tokens, with its graph.

    Raises:
        ValueError: the model calls its head not once, makes something else of its outputs, or has
            another loss.
    """
    is_new = linear not in _known
    caught: list[Tensor] = []

    def swap(_: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
        caught.append(given[0])
        first = given[0][:1, :1].detach()
        if is_new:
            first = torch.cat([first * factor for factor in PROBES], 1)
        return (first, *given[1:])

    cache = {"use_cache": False} if hasattr(getattr(model, "config", None), "use_cache") else {}
    with _hooked(linear, swap):
        outputs = model(**inputs, **cache)
    if len(caught) != 1:
        raise ValueError(
            f"{type(model).__name__} calls its head {len(caught)} times in a forward pass, and dsenv follows "
            "one call; use from_logits(logits, labels)"
        )
    if getattr(outputs, "aux_loss", None) is not None:
        raise ValueError(
            f"{type(model).__name__} adds a loss of its own (aux_loss, of a mixture of experts), which would "
            "be lost: set model.config.output_router_logits = False, or use from_logits and add it"
        )
    if is_new:
        _check_head(model, linear, caught[0], outputs, head)
        _known[linear] = head
    return caught[0]


@contextmanager
def _hooked(module: nn.Module, hook: Any) -> Iterator[None]:
    handle = module.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _check_head(model: Any, linear: Any, hidden: Tensor, outputs: Any, head: Head) -> None:
    """Check that the model makes of its head's outputs what `head` does, on hidden states of several lengths.

    Raises:
        ValueError: it does not.
    """
    theirs = getattr(outputs, "logits", None)
    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        first = torch.cat([hidden[:1, :1] * factor for factor in PROBES], 1)
        bias = None if linear.bias is None else linear.bias.to(first.dtype)
        own = head.logits(first, linear.weight.to(first.dtype), bias)
    name = type(model).__name__
    if not isinstance(theirs, Tensor) or theirs.shape != own.shape:
        found = tuple(theirs.shape) if isinstance(theirs, Tensor) else type(theirs).__name__
        raise ValueError(
            f"{name} makes {found} of its head's outputs {tuple(own.shape)}: dsenv cannot follow it; use "
            "from_logits(logits, labels)"
        )

    # Rounding is that of the model's own type
    rough = max(torch.finfo(kind).eps for kind in (theirs.dtype, first.dtype, linear.weight.dtype))
    allowed = 8 * rough * own.abs().amax((0, 2), keepdim=True) + rough
    if bool(((theirs.to(own.dtype) - own).abs() > allowed).any()):
        raise ValueError(
            f"{name} changes the outputs of its head in a way that dsenv does not know (the configuration "
            f"says scale {head.scale:g}, soft cap {head.softcap}): the losses would be wrong; use "
            "token_losses with head=Head(...), or from_logits(model(...).logits, labels)"
        )
