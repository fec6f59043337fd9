"""What is rehearsed: choices of a `DataPlan`, each as an agent in an environment."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dsenv.agents.learned import LearnedAgent
from dsenv.agents.rules import NeutralRule
from dsenv.catalogue import describe_part
from dsenv.errors import check_share, pick, shown
from dsenv.policy.parts import resolve
from dsenv.policy.shipped import pretrained

ALL_DATA = "all data"
RANDOM = "random"
ALWAYS = (ALL_DATA, "all_data", RANDOM)
PARTS = ("selector", "volume", "augment", "policy")
FIRST = ("random", "trim", "small_loss", "infobatch")
LAST = ("order_dp",)
PODS = {"name": "pods", "warmup": 0}


@dataclass(frozen=True, eq=False)  # a table in it has no hash
class Candidate:
    """One choice of what a training run sees."""

    name: str
    settings: Mapping[str, Any]
    """Keyword arguments of `DataPlan`: selector, volume, augment, policy; without the ratio."""
    ratio: float
    """Share of the data, (0, 1]; 1 for all data."""
    simpler: "Candidate | None" = None
    """The same choice with a part less, which is preferred unless this one is clearly ahead of it."""

    @property
    def is_all_data(self) -> bool:
        """Whether it trains on everything."""
        return self.name == ALL_DATA

    @property
    def is_random(self) -> bool:
        """Whether it is the baseline that others have to beat."""
        return self.name == RANDOM

    @property
    def plan_settings(self) -> dict[str, Any]:
        """Keyword arguments of `DataPlan`; none for training on everything."""
        return {} if self.is_all_data else {**self.settings, "ratio": self.ratio}

    def agent(self) -> LearnedAgent | NeutralRule:
        """The agent, and in its `env` the settings of its environment.

        Raises:
            ValueError: the policy cannot be read.
        """
        own = {key: value for key, value in self.settings.items() if key != "policy"}
        own |= {"ratio": self.ratio, "validation_shown": 0.0}
        policy = self.settings.get("policy")
        if policy is not None:
            return LearnedAgent(policy, own)
        return NeutralRule({"control": "rule", **own})

    def with_pods(self) -> "Candidate":
        """The same choice of samples under PODS, at the same mean ratio."""
        return Candidate(f"pods + {self.name}", {**self.settings, "volume": PODS}, self.ratio, self)


def usual_candidates(ratios: Sequence[float], images: bool) -> tuple[list[Candidate], list[str]]:
    """Rules, all data and the shipped policies, random selection at the first ratio before all others.

    Args:
        ratios: shares of the data.
        images: whether the samples are uint8 images, which can be augmented.

    Returns:
        The candidates, in the order in which they are left out last where time is short, and in words which
        policies are left out.
    """
    policies, left_out = _policies(images)
    found = [Candidate(name, {"selector": name}, ratio) for ratio in ratios for name in FIRST]
    found.append(Candidate(ALL_DATA, {}, 1.0))
    for ratio in ratios:
        found += [Candidate(f"policy {name}", {"policy": name}, ratio) for name in policies]
        found += [Candidate(name, {"selector": name}, ratio) for name in LAST]
    return found, left_out


def _policies(images: bool) -> tuple[list[str], list[str]]:
    """Names of the shipped policies that a plan can run on such samples, and why others are left out."""
    fitting, left_out = [], []
    for name in pretrained.names():
        try:
            control = pretrained(name).control
        except ValueError as error:
            left_out.append(f"policy {name}: {str(error).partition(';')[0]}")
            continue

        if control.rescores:
            left_out.append(f"policy {name}: it scores candidates by a forward pass, which a plan cannot do")
        elif control.decides_how_strong and not images:
            left_out.append(f"policy {name}: it augments, and the samples are no uint8 images")
        else:
            fitting.append(name)
    return fitting, left_out


def own_candidates(given: Any, ratios: Sequence[float]) -> list[Candidate]:
    """What the user wants to rehearse, with random selection and all data beside it.

    Args:
        given: names of selectors, or a table of name -> keyword arguments of `DataPlan` (selector, volume,
            augment, policy, ratio).
        ratios: shares of the data, where a choice names none.

    Raises:
        ValueError: it is neither, or a setting is unknown.
    """
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise ValueError(
            "candidates must be a list of selectors' names, or a table of name -> keyword arguments of "
            f"DataPlan such as {{'mine': {{'selector': 'trim'}}}}, got {shown(given)}"
        )

    found = [Candidate(RANDOM, {"selector": "random"}, ratio) for ratio in ratios]
    found.append(Candidate(ALL_DATA, {}, 1.0))
    for name, own in _named(given).items():
        wanted = [check_share("ratio", own.pop("ratio"))] if "ratio" in own else list(ratios)
        for key in own:
            pick(f"setting of the candidate {name!r}", key, PARTS)
        if own.get("policy") is not None:
            resolve(own["policy"])
        found += [Candidate(name, own, ratio) for ratio in wanted]

    missing = {one.ratio for one in found} - {one.ratio for one in found if one.is_random} - {1.0}
    return found + [Candidate(RANDOM, {"selector": "random"}, ratio) for ratio in sorted(missing)]


def _named(given: Iterable[Any]) -> dict[str, dict[str, Any]]:
    """The settings of each candidate by its name, without those that are run in any case.

    Raises:
        ValueError: two have one name, one has the name of a candidate that is run in any case and settings
            of its own, or settings are no table.
    """
    if is_table := isinstance(given, Mapping):
        pairs = list(given.items())
    else:
        pairs = [(_name(part), {"selector": part}) for part in given]

    found: dict[str, dict[str, Any]] = {}
    for key, settings in pairs:
        name = str(key)
        if not isinstance(settings, Mapping):
            raise ValueError(
                f"candidate {name!r} must be a table of keyword arguments of DataPlan ({', '.join(PARTS)}, "
                f"ratio), got {shown(settings)}"
            )

        own = dict(settings)
        is_name_alone = not own or (list(own) == ["selector"] and own["selector"] is key)
        if name in ALWAYS:
            if not is_name_alone and own != {"selector": name}:
                raise ValueError(
                    f"candidate {name!r} is run in any case, as dsenv has it, and got {shown(own)}; call "
                    "yours otherwise, and give other ratios by ratio=[...]"
                )
            continue
        if name in found and (is_table or not is_name_alone):
            raise ValueError(
                f"two candidates are called {name!r}, and one would hide the other; name them in a table: "
                "{'first': {'selector': ...}, 'second': {'selector': ...}}"
            )
        found[name] = own
    return found


def _name(part: Any) -> str:
    return part if isinstance(part, str) else describe_part(part)
