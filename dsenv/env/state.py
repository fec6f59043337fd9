"""The state of an environment as plain data: what it says of itself, and parts that must not forget."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from dsenv.augment import AugmentationController
from dsenv.describe import attributes_of
from dsenv.errors import shown
from dsenv.plain import decoded, differing, digest, encoded
from dsenv.select.base import Selector

VERSION = 1
HEADER = ("version", "kind", "settings")
REMEMBERS_NOTHING = (Selector.state_dict, AugmentationController.state_dict)


def sealed(header: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
    """A state as plain data, with its header and the digest of it all.

    Raises:
        ValueError: something in it is no plain data; the message names where.
    """
    state: dict[str, Any] = encoded({"version": VERSION, **header, **body})
    return state | {"digest": digest(state)}


def check_header(state: Any, header: Mapping[str, Any]) -> None:
    """Check that a state is of this version and of an environment like this one.

    Raises:
        ValueError: it is not; the message names what differs.
    """
    if not isinstance(state, Mapping) or not all(name in state for name in (*HEADER, "digest")):
        raise ValueError(f"{shown(state)} is no state of an environment; give what state_dict() returned")
    if type(state["version"]) is not int or state["version"] != VERSION:
        raise ValueError(
            f"the state is of version {shown(state['version'])}, this dsenv reads version {VERSION}; load it "
            "with the dsenv that saved it"
        )
    check_same("", {"kind": header["kind"]}, {"kind": state["kind"]})
    check_same("", encoded(header["settings"]), state["settings"])


def check_same(what: str, own: Any, other: Any) -> None:
    """Check that a description in a state is that of this environment.

    Raises:
        ValueError: they differ; the message names the first place.
    """
    found = differing(own, other, what)
    if found is not None:
        name, mine, theirs = found
        raise ValueError(
            f"the state is of an environment with {name} = {shown(theirs)}, this one has {shown(mine)}; load "
            "it where it was saved, or into an environment with those settings"
        )


def opened(state: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """What `sealed` was given, with tensors of an accelerator on `device`.

    Raises:
        ValueError: the state was changed since it was saved.
    """
    inside = {name: value for name, value in state.items() if name != "digest"}
    found: dict[str, Any] = decoded(inside, device)
    if digest(inside) != state["digest"]:
        raise ValueError(
            "the state is not as it was saved: its digest differs. The file may be damaged; take an older one"
        )
    return found


def state_of(part: Any, fresh: Callable[[], Any]) -> Any:
    """What a selector or controller remembers.

    Args:
        part: the selector or controller.
        fresh: builds another one as it was in the beginning.

    Raises:
        ValueError: it remembers more than its `state_dict` says.
    """
    state = part.state_dict()
    if type(part).state_dict in REMEMBERS_NOTHING:
        other = fresh()
        other.load_state_dict(state)
        _check_whole(part, attributes_of(other), "state_dict and load_state_dict")
    return state


def state_of_fixed(part: Any, built: Any) -> Any:
    """What a control, reward or schedule of one's own remembers; None for one that remembers nothing.

    Args:
        part: it may have `state_dict` and `load_state_dict`, though its class asks for none.
        built: `attributes_of(part)` of when it was built.

    Raises:
        ValueError: it changed, and has no `state_dict`.
    """
    if callable(getattr(part, "state_dict", None)):
        return part.state_dict()
    _check_whole(part, built, "state_dict() and load_state_dict(state)")
    return None


def load_fixed(part: Any, state: Any) -> None:
    """Continue from `state_of_fixed`."""
    if state is not None:
        part.load_state_dict(state)


def _check_whole(part: Any, built: Any, methods: str) -> None:
    now = attributes_of(part)
    changed = [name for name in {**built, **now} if built.get(name) != now.get(name)]
    if changed:
        raise ValueError(
            f"{type(part).__name__} changes {', '.join(changed)} while it is used, and its state lacks "
            f"that: a run that continues from the state would go another way. Define {methods} for it"
        )
