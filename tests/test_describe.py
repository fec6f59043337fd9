"""Settings by value: equal settings have equal descriptions, others have not; learnt state is left out."""

import copy
import enum
import functools
import json
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from dsenv.describe import Described, describe

pytestmark = pytest.mark.fast


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclass
class Table:
    rate: float = 0.5
    learnt: list = field(default_factory=list, init=False)


class Plain:
    def __init__(self, rate=0.5):
        self.rate = rate
        self.count = 0


class Renamed:
    def __init__(self, rate=0.5):
        self.speed = rate


def scaled(factor):
    return lambda x: x * factor


def outer():
    def inner(x):
        return x + 1

    return inner


DIFFERENT = [
    (1, 2),
    (1, True),
    ("a", "b"),
    (float("nan"), float("inf")),
    ([1, 2], [2, 1]),
    ({1, 2}, {1, 3}),
    ({"a": 1}, {"a": 2}),
    ({1: "a"}, {"1": "a"}),
    (torch.zeros(3), torch.zeros(4)),
    (torch.zeros(3), torch.ones(3)),
    (torch.zeros(3), torch.zeros(3).double()),
    (torch.tensor(0, dtype=torch.bfloat16), torch.tensor(1, dtype=torch.bfloat16)),
    (torch.tensor([True]), torch.tensor([False])),
    (torch.zeros(3), np.zeros(3, np.float32)),
    (np.array(["a", "b"], object), np.array(["a", "c"], object)),
    (b"a", b"b"),
    (np.dtype("float32"), np.dtype("float64")),
    (Colour.RED, Colour.BLUE),
    (Table, Plain),
    (Table(0.5), Table(0.6)),
    (Plain(0.5), Plain(0.6)),
    (Renamed(0.5), Renamed(0.6)),
    ([Plain(0.5)], [Plain(0.6)]),
    (np.sin, np.cos),
    (lambda x: x + 1, lambda x: x + 2),
    (scaled(2), scaled(3)),
    (functools.partial(max, 1), functools.partial(max, 2)),
    (Plain(0.5).__init__, Plain(0.6).__init__),
    (torch.nn.Linear(2, 3), torch.nn.Linear(2, 4)),
    (list(range(2000)), list(range(1, 2001))),
    (slice(1), slice(2)),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_different_values_have_different_descriptions_of_plain_data(one, other):
    first, second = describe(one), describe(other)
    assert repr(first) != repr(second)
    json.dumps(first)


@pytest.mark.parametrize("value", [pair[0] for pair in DIFFERENT])
def test_equal_values_have_equal_descriptions(value):
    assert describe(copy.deepcopy(value)) == describe(value)


def test_numbers_of_numpy_are_those_of_python():
    found = describe([np.float64(0.5), np.int8(3), np.bool_(True)])
    assert found == [0.5, 3, True]
    assert [type(part) for part in found] == [float, int, bool]


def test_views_and_copies_of_a_tensor_are_described_alike():
    values = torch.arange(12.0).view(3, 4)
    assert describe(values.T) == describe(values.T.contiguous())
    assert describe(values[:, 1]) == describe(values[:, 1].clone())
    assert describe(values.requires_grad_()) == describe(values.detach())


def test_learnt_values_and_cycles_are_left_out():
    table, plain = Table(), Plain()
    before = describe([table, plain])
    table.learnt.append(3)
    plain.count = 7
    assert describe([table, plain]) == before

    plain.rate = [plain]
    assert "again" in repr(describe(plain))


def test_an_inner_function_is_described_by_what_it_does():
    assert describe(outer()) == describe(outer())
    assert describe(len) == "builtins.len"


class Part(Described):
    def __init__(self, rate, names=("a",), *, device="cpu", **more):
        self.rate = float(rate)
        self.steps = 0
        del device, more

    def learn(self):
        self.steps += 1
        self.rate = -1.0


class Sub(Part):
    def __init__(self, extra=3, **settings):
        super().__init__(0.25, **settings)
        self._extra = extra


class Bare(Sub):
    pass


def test_a_part_knows_its_settings_whatever_it_learns():
    part = Part(1, names=["x"], free="y")
    wanted = {"rate": 1.0, "names": ["x"], "free": "y"}
    assert part.settings() == wanted

    part.learn()
    part.settings()["rate"] = "changed by the reader"
    assert part.settings() == wanted
    assert copy.deepcopy(part).settings() == wanted


@pytest.mark.parametrize("kind", [Sub, Bare])
def test_settings_of_a_base_are_settings_of_the_subclass(kind):
    assert kind(4, names="n").settings() == {"extra": 4, "rate": 0.25, "names": "n"}
    assert kind(4).settings() == kind(extra=np.int64(4)).settings()


def test_a_failed_constructor_leaves_nothing_behind_and_raises_its_own_error():
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'rate'"):
        Part()


@dataclass
class DataPart(Described):
    rate: float = 0.5


def test_a_dataclass_may_be_a_part():
    assert DataPart(0.7).settings() == {"rate": 0.7}
