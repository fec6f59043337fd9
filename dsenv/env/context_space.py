"""ContextSpace: the distribution of contexts, and the part of it that training never sees."""

from collections.abc import Mapping, Sequence
from itertools import product
from numbers import Real
from typing import Any

import numpy as np

from dsenv.env.context import NOISE, VALUES, Context
from dsenv.env.ranges import Choices, Range, is_pair, parse
from dsenv.errors import check_count, pick, shown
from dsenv.tasks.corruption import NOISES

Values = Mapping[str, Any]
MOST_POINTS = 1000


class ContextSpace:
    """A distribution over contexts.

    Each value is a number, a range [low, high] to draw from uniformly (`lr`: uniformly in its logarithm) or
    {choices = [...]}. They are drawn in the order of `Context`, only those that are set.

    Use::

        import numpy as np
        from dsenv.env.context_space import ContextSpace

        kinds = [{}, {"label_noise": [0.1, 0.6]}, {"class_noise": [0.1, 0.4]}, {"instance_noise": [0.1, 0.4]}]
        space = ContextSpace(subset=[0.3, 1.0], one_of=kinds)  # a quarter of the episodes is clean
        print(space.draw(np.random.default_rng(0)))

    Args:
        noise: kind of label noise, "symmetric" or "pair_flip".
        held_out: values that are never drawn, by name, in the same forms: what a policy is tested on.
        one_of: tables of values; each episode draws one of them, each as likely as any other, and lays it
            over `values`. No table names a data set.
        datasets: names of the data sets; set by the environment.
        values: what to draw from, by name; names and bounds are those of `Context`. "dataset" takes a
            name or a list of names.

    Raises:
        ValueError: a name is unknown, a value out of range, or nothing is left to draw.
    """

    def __init__(
        self,
        noise: str = "symmetric",
        held_out: Mapping[str, Any] | None = None,
        one_of: Sequence[Mapping[str, Any]] = (),
        *,
        datasets: Sequence[str] = (),
        **values: Any,
    ) -> None:
        self.noise, self.datasets = pick("label noise", noise, NOISES), tuple(datasets)
        self.names = VALUES + (("dataset",) if datasets else ())
        if held_out is not None and not isinstance(held_out, Mapping):
            raise ValueError(f"context.held_out must be a table of values by name, got {held_out!r}")
        tables = self._tables(one_of)
        for name in (*values, *(held_out or {}), *(name for table in tables for name in table)):
            pick("context value", name, self.names)
        self.held_out = {name: self._parse(name, value) for name, value in (held_out or {}).items()}
        listed = [self._values({**values, **table}) for table in tables]
        if datasets and "dataset" not in values:
            listed = [{**table, "dataset": self._left("dataset", Choices(self.datasets))} for table in listed]
        self._drawn = listed

        for name in self.held_out:
            if any(name not in table for table in listed):
                self._left(name, self._unset(name))
        for table in listed:
            highest: dict[str, Any] = {name: max(table[name].points(2)) for name in NOISE if name in table}
            self.check(highest)

    @staticmethod
    def _tables(one_of: Any) -> list[Mapping[str, Any]]:
        """The tables of `one_of`; without any a single empty one."""
        is_list = isinstance(one_of, Sequence) and not isinstance(one_of, str)
        if not is_list or not all(isinstance(table, Mapping) for table in one_of):
            raise ValueError(
                f"context.one_of must be a list of tables of values by name, got {shown(one_of)}"
            )
        for table in one_of:
            if "dataset" in table:
                raise ValueError(f"a table of context.one_of names no data set, got {dict(table)}")
        return list(one_of) or [{}]

    def _values(self, settings: Mapping[str, Any]) -> dict[str, Range | Choices]:
        """What each value that is set is drawn from, less what is held out, in the order of `Context`."""
        ordered = [name for name in self.names if name in settings]
        return {name: self._left(name, self._parse(name, settings[name])) for name in ordered}

    @staticmethod
    def _unset(name: str) -> Range:
        """What a value that is not set always is."""
        value = getattr(Context(), name)
        if value is None:
            raise ValueError(
                f"context.held_out {name}: where context.{name} is not set, the environment's own {name} "
                f"holds; set context.{name} to what is drawn"
            )
        return Range(value, value)

    def _parse(self, name: str, setting: Any) -> Range | Choices:
        """A setting as what it is drawn from, its bounds checked."""
        if name == "dataset":
            listed = [setting] if isinstance(setting, str) else setting
            listed = listed.get("choices", ()) if isinstance(listed, Mapping) else listed
            if isinstance(listed, Sequence) and listed:
                return Choices(tuple(self.datasets[self.index(value)] for value in listed))
            raise ValueError(f"context dataset must be a name or a list of names, got {setting!r}")
        found = parse(name, setting, by_ratio=name == "lr" and is_pair(setting) and _positive(setting))
        for bound in found.points(2):
            self.check({name: bound})
        return found

    def _left(self, name: str, whole: Range | Choices) -> Range | Choices:
        """What is left of a value when the held-out ones are taken off."""
        if name not in self.held_out:
            return whole
        try:
            left = whole.less(self.held_out[name])
        except ValueError as error:
            raise ValueError(f"context.held_out {name}: {error}") from None
        if left is None:
            raise ValueError(
                f"context.held_out {name} leaves nothing to draw of {_shown(whole)}; hold out less, or widen "
                f"context.{name}"
            )
        return left

    def draw(self, rng: np.random.Generator) -> Context:
        """Draw the context of one episode; its data set is drawn apart."""
        table = self._drawn[int(rng.integers(len(self._drawn)))] if len(self._drawn) > 1 else self._drawn[0]
        drawn: dict[str, Any] = {
            name: values.draw(rng) for name, values in table.items() if name != "dataset"
        }
        return Context(**drawn)

    def fixed(self, rng: np.random.Generator, values: Values) -> Context:
        """Draw a context, then set some of its values; held-out ones too."""
        if not self.check(values):
            return self.draw(rng)
        drawn: dict[str, Any] = vars(self.draw(rng)).copy()
        return Context(**{**drawn, **values})

    def check(self, values: Values) -> Values:
        """Return values to set if they are ones, else raise a ValueError."""
        if not isinstance(values, Mapping):
            raise ValueError(f'a context is a mapping such as {{"label_noise": 0.4}}, got {values!r}')
        if not values:
            return values
        for name in values:
            pick("context value", name, self.names)
        if "dataset" in values:
            self.index(values["dataset"])
        numbers: dict[str, Any] = {name: value for name, value in values.items() if name != "dataset"}
        Context(**numbers)  # raises where a value is out of range
        return values

    def index(self, dataset: Any) -> int:
        """Position of the data set called `dataset`."""
        if not isinstance(dataset, str):
            raise ValueError(f"context dataset must be one of {', '.join(self.datasets)}, got {dataset!r}")
        return self.datasets.index(pick("data set", dataset, self.datasets))

    def drawable_datasets(self) -> list[int]:
        """Positions of the data sets that training draws."""
        return [self.index(name) for name in self._drawn[0]["dataset"].points(0)]

    def bounds(self, name: str) -> tuple[float, float] | None:
        """Smallest and largest number that is drawn for a value; None where it is never set."""
        ends = [end for table in self._drawn if name in table for end in table[name].points(2)]
        return (min(ends), max(ends)) if ends else None

    def held_out_contexts(self, points: int = 3) -> list[dict[str, Any]]:
        """Contexts that training never draws: every combination of the held-out values.

        Args:
            points: evenly spaced values of each held-out range, its bounds among them, at least 2.

        Raises:
            ValueError: nothing is held out.
        """
        if not self.held_out:
            raise ValueError("nothing is held out; set context.held_out = {label_noise = [0.25, 0.35]}")
        points = check_count("held_out, the points of each range,", points, 2, MOST_POINTS)
        return grid({name: values.points(points) for name, values in self.held_out.items()})

    def expand(self, listed: Values | Sequence[Values]) -> list[dict[str, Any]]:
        """The contexts that evaluation goes through, one by one.

        Args:
            listed: tables of values to set; {grid = {label_noise = [0, 0.4], width = [0.25, 1]}} for every
                combination of the listed values; {held_out = 3} for `held_out_contexts(3)`.

        Raises:
            ValueError: a table is none of these, or a name or value is wrong.
        """
        found: list[dict[str, Any]] = []
        for table in [listed] if isinstance(listed, Mapping) else listed:
            if not isinstance(table, Mapping):
                raise ValueError(f"evaluation_contexts must be a list of tables, got {table!r} in it")
            if "held_out" in table or "grid" in table:
                found += self._expanded(table)
            else:
                found.append(dict(table))
        for context in found:
            self.check(context)
        return found

    def _expanded(self, table: Values) -> list[dict[str, Any]]:
        if len(table) != 1:
            raise ValueError(f"a table with grid or held_out has no other key, got {dict(table)}")
        if "held_out" in table:
            return self.held_out_contexts(table["held_out"])
        axes = table["grid"]
        if not isinstance(axes, Mapping) or not all(isinstance(v, list | tuple) and v for v in axes.values()):
            raise ValueError(
                f"grid must be a table of lists such as {{label_noise = [0, 0.4]}}, got {axes!r}"
            )
        return grid(axes)


def grid(axes: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of the listed values, the last name changing fastest."""
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]


def _positive(setting: Any) -> bool:
    return all(isinstance(bound, Real) and float(bound) > 0 for bound in setting)


def _shown(values: Range | Choices) -> str:
    if isinstance(values, Choices):
        return ", ".join(str(value) for value in values.values)
    return f"{values.low:g}" if values.low == values.high else f"[{values.low:g}, {values.high:g}]"
