"""The card of a policy: what it saw, what its actions mean and how it was trained, as TOML."""

import hashlib
import inspect
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import tomli_w

from dsenv.control.base import ACTION_KINDS, Control
from dsenv.control.observation import VERSION as OBSERVATION
from dsenv.control.observation import feature_names
from dsenv.control.registry import CONTROLS, make_control
from dsenv.errors import check_number, check_share, pick
from dsenv.signals import SampleSignals
from dsenv.version import VERSION
from dsenv.volume.budget import LONGEST_INTERVAL

FORMAT = 1
LARGEST = 4096  # size of a number in a control's settings
MOST_ENTRIES = 1 << 20  # of an observation; a card that asks for more is refused
MOST_INTERVALS = 1 << 31
LATER = ("task_kind",)  # entries that cards of format 1 did not have at first
FOLLOWING = ("bins", "target", "binary")  # arguments of a control that follow from the rest of the card


@dataclass(frozen=True, kw_only=True)
class PolicyCard:
    """What must be known to use a policy; checked when it is made.

    Raises:
        ValueError: a value is of another type, unknown or out of range.
    """

    network: Mapping[str, Any]
    """Kind, sizes, activation and head, see `dsenv.policy.actors`."""
    control: Mapping[str, Any]
    """Name and settings of the control, a key of `dsenv.control.registry.CONTROLS`."""
    actions: str
    """Action space: "box", "discrete" or "binary"."""
    bins: int
    """Loss-rank bins."""
    rank_by: str
    """Signal that ranks the samples for them."""
    ratio: float
    """Target ratio of the training run."""
    intervals: int
    """Intervals of an episode."""
    interval: float = 1.0
    """Length of one, share of an epoch."""
    validation_shown: float = 1.0
    """Share of the episodes in which the policy saw the validation accuracy."""
    embedding: int = 0
    """Length of the model's features, where the policy saw them."""
    task_kind: str = "classification"
    """Kind of task that it was trained on: a name of `dsenv.task_kinds.registry.KINDS`, or of one's own."""
    observation: Mapping[str, Any] = field(default_factory=dict)
    """Version of the recipe, number of entries and SHA-256 of their names; default: those of now."""
    trained: Mapping[str, Any] = field(default_factory=dict)
    """How it was trained: environment, contexts, algorithm, results. For people; nothing reads it."""
    dsenv: str = VERSION
    """Version that wrote the card."""

    def __post_init__(self) -> None:
        self._check_types()
        pick("kind of actions", self.actions, ACTION_KINDS)
        pick("signal to rank by", self.rank_by, SampleSignals(1, 2).names)
        check_share("ratio", self.ratio)
        check_number("interval", self.interval, 0, LONGEST_INTERVAL, open_low=True)
        check_share("validation_shown", self.validation_shown, zero=True)
        ranges = {"bins": (2, 64), "intervals": (1, MOST_INTERVALS), "embedding": (0, 1 << 16)}
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be from {low} to {high}, got {getattr(self, name)}")

        control = self.make_control(self.ratio)
        if control.candidates * self.embedding > MOST_ENTRIES:
            raise ValueError(
                f"{control.candidates} candidates with an embedding of {self.embedding} are more than "
                f"{MOST_ENTRIES} entries of an observation"
            )

        own = recipe(control, self.bins, self.embedding)
        if not self.observation:
            object.__setattr__(self, "observation", own)
        self._check_observation(own)

        try:
            self.text()
        except (RecursionError, TypeError, ValueError) as error:
            raise ValueError(
                f"the card cannot be written as TOML ({error}): `trained` takes numbers, text, lists and "
                "tables, a few levels deep"
            ) from error

    def _check_types(self) -> None:
        """A card comes from a file: every value may be anything."""
        wanted: dict[str, tuple[type, ...]] = {
            **dict.fromkeys(("network", "control", "observation", "trained"), (Mapping,)),
            **dict.fromkeys(("actions", "rank_by", "task_kind", "dsenv"), (str,)),
            **dict.fromkeys(("bins", "intervals", "embedding"), (int,)),
            **dict.fromkeys(("ratio", "interval", "validation_shown"), (int, float)),
        }

        for name, types in wanted.items():
            value = getattr(self, name)
            if not isinstance(value, types) or isinstance(value, bool):
                raise ValueError(f"{name} of the card must be {types[0].__name__}, got {value!r}")

    def _check_observation(self, own: Mapping[str, Any]) -> None:
        saw = self.observation
        if saw.get("version") != OBSERVATION:
            raise ValueError(
                f"the policy sees observations of version {saw.get('version')!r}, this dsenv makes version "
                f"{OBSERVATION}; use dsenv {self.dsenv}, which wrote it, or train the policy again"
            )

        if dict(saw) != dict(own):
            raise ValueError(
                f"the policy saw {saw.get('entries')!r} entries by other names than the {own['entries']} "
                f"that this dsenv makes for its control and bins; use dsenv {self.dsenv}, or train the "
                "policy again"
            )

    def make_control(self, target: float) -> Control:
        """The control for a training run with this target ratio.

        Raises:
            ValueError: the control is not one of dsenv's own, or a setting is unknown or out of range.
        """
        name = self.control.get("name")
        if not isinstance(name, str):
            raise ValueError(f"the card's control has no name: {dict(self.control)!r}")
        pick("control that a policy file may name", name, CONTROLS)
        for key, value in self.control.items():
            if key != "name":
                _check_setting(name, key, value)

        control = make_control(dict(self.control), self.bins, target, binary=self.actions == "binary")
        if self.actions not in control.kinds:
            raise ValueError(f"control {name!r} has no {self.actions} actions")
        return control

    @property
    def is_blind(self) -> bool:
        """Whether the policy never saw the validation accuracy."""
        return self.validation_shown == 0

    @property
    def needs_validation(self) -> bool:
        """Whether the policy always saw the validation accuracy, and cannot do without."""
        return self.validation_shown == 1

    def text(self) -> str:
        """The card as TOML."""
        return tomli_w.dumps({"format": FORMAT, **_plain(asdict(self))})

    @classmethod
    def of_text(cls, text: str) -> "PolicyCard":
        """Read a card.

        Raises:
            ValueError: it is no card of this format, or a value of it is wrong.
        """
        content = read_toml(text)
        names = [item.name for item in fields(cls)]
        for key in content:
            pick("key of a policy card", key, ["format", *names])
        missing = [name for name in names if name not in content and name not in LATER]
        if missing:
            raise ValueError(f"the card has no {missing[0]!r}")

        return cls(**{name: content[name] for name in names if name in content})


def read_toml(text: str) -> dict[str, Any]:
    """The content of a card, in the format that this version reads.

    Raises:
        ValueError: it is no TOML, names no format, or a newer one.
    """
    try:
        content = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ValueError(f"its card is not valid TOML ({error})") from error

    number = content.get("format")
    if type(number) is not int or number < 1:
        raise ValueError(f"its card names no format: expected format = {FORMAT}, got {number!r}")
    if number > FORMAT:
        raise ValueError(
            f"its format is {number}, written by dsenv {content.get('dsenv')!r}; this dsenv {VERSION} "
            f"reads formats up to {FORMAT}: pip install -U dsenv-rl"
        )
    return content


def _check_setting(control: str, key: str, value: Any) -> None:
    """Check the type and size of a control's setting; the control itself checks its range."""
    if key in FOLLOWING:
        raise ValueError(f"control.{key} follows from the card's bins, ratio and actions; leave it out")
    if not (isinstance(value, int | float) and abs(value) <= LARGEST):
        raise ValueError(f"control.{key} must be a number up to {LARGEST}, got {value!r}")
    takes = inspect.signature(CONTROLS[control]).parameters
    if key in takes and takes[key].annotation in (int, int | None) and type(value) is not int:
        raise ValueError(f"control.{key} must be a whole number, got {value!r}")


def recipe(control: Control, bins: int, embedding: int) -> dict[str, Any]:
    """Version, number of entries and SHA-256 of their names of what a policy observes."""
    names = feature_names(bins, control, embedding)
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
    return {"version": OBSERVATION, "entries": len(names), "names": digest}


def _plain(value: Any) -> Any:
    """The value in types that TOML has, without None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        return value.item()
    return value
