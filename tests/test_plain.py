"""States as plain data: what goes in comes out, what is none is named, no two values have one digest."""

import collections
import enum
import json
import re

import numpy as np
import pytest
import torch

from dsenv.plain import DEEPEST, TAG, decoded, differing, digest, encoded, generator_state, make_generator

pytestmark = pytest.mark.fast

CPU = torch.device("cpu")
VALUES = [
    None,
    True,
    1 << 127,
    0.1,
    float("inf"),
    "text",
    [1, [2.0, "x"]],
    (1, (2, [3])),
    {"a": {"b": ()}},
    {0: {"step": 3}, (1, "x"): None, True: 2},
    {TAG: "array", "value": 3},
    np.arange(6, dtype=np.uint16).reshape(2, 3),
    np.float32(0.1),
    np.bool_(False),
    np.array(3.5),
    np.array([[True], [False]]),
    np.arange(8)[::2],
    np.arange(3, dtype=">i4"),
    torch.zeros(0, 3),
    torch.tensor(2.5),
    torch.arange(6).view(2, 3).t(),
    torch.rand(3, dtype=torch.float64).to(torch.bfloat16),
]


def alike(one, other):
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray | np.generic):
        return type(one) is type(other) and one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and all(map(alike, one, other)) and len(one) == len(other)
    return type(one) is type(other) and one == other


@pytest.mark.parametrize("place", range(len(VALUES)))
def test_what_goes_in_comes_out(place):
    value = VALUES[place]
    plain = encoded(value)
    assert alike(decoded(plain, CPU), value)
    others = {digest(encoded(other)) for k, other in enumerate(VALUES) if k != place}
    assert digest(plain) == digest(encoded(value)) not in others


def test_the_deepest_state_comes_back():
    value = 0
    for level in range(DEEPEST):
        value = (value,) if level % 2 else {3: value}
    assert alike(decoded(encoded(value), CPU), value)
    with pytest.raises(ValueError, match="nested more than 64 levels"):
        encoded([value])


def test_plain_data_is_json_of_any_reader():
    for value in VALUES:
        text = json.dumps(encoded(value), allow_nan=False, default=lambda tensor: tensor.tolist())
        assert "NaN" not in text
        assert not re.search(r"\d{17}", re.sub(r'"[^"]*"|\.\d+', "", text))


def test_a_state_shares_no_memory():
    tensor, array = torch.zeros(3), np.zeros(3)
    plain = encoded({"tensor": tensor, "array": array})
    tensor += 1
    array += 1
    assert decoded(plain, CPU)["tensor"].tolist() == decoded(plain, CPU)["array"].tolist() == [0, 0, 0]


class Colour(enum.Enum):
    RED = 1


Pair = collections.namedtuple("Pair", "a b")
LOOP = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    "value",
    [
        {1},
        b"x",
        1j,
        print,
        object(),
        Colour.RED,
        Pair(1, 2),
        collections.deque(),
        np.array(["a"]),
        np.array([None]),
        np.array([1j]),
        np.array(["2020"], "datetime64[Y]"),
        np.str_("x"),
        torch.tensor([1j]),
        torch.eye(2).to_sparse(),
        torch.zeros(2, device="meta"),
        LOOP,
        torch.float32,
        range(3),
    ],
)
def test_what_is_no_plain_data_is_named(value):
    with pytest.raises(ValueError, match=r"state\.inner"):
        encoded({"inner": value})


@pytest.mark.parametrize(
    "value",
    [
        {1: 2},
        (1,),
        {TAG: "class", "value": 1},
        {TAG: "array", "value": 1},
        {TAG: "array", "value": torch.zeros(2, dtype=torch.bfloat16)},
        {TAG: "tuple"},
        {TAG: "table", "pairs": [[[1], 2]]},
        {TAG: "table", "pairs": [1]},
        {TAG: ["tuple"], "values": []},
        {"a": object()},
        LOOP,
    ],
)
def test_what_no_state_holds_is_named(value):
    with pytest.raises(ValueError, match="state"):
        decoded(value, CPU)


def test_the_first_difference_is_named():
    own = {"a": 1, "b": [1, {"c": 2.0}], "d": True}
    assert differing(own, {"a": 1.0, "b": [1, {"c": 2}], "d": True}) is None
    assert differing(own, {**own, "b": [1, {"c": 3}]}) == ("b[1].c", 2.0, 3)
    assert differing(own, {**own, "e": 5}) == ("e", "nothing", 5)
    assert differing(own, {**own, "d": 1}) == ("d", True, 1)
    assert differing(own, {**own, "a": torch.zeros(2)})[0] == "a"


@pytest.mark.parametrize("name", ["PCG64", "MT19937", "Philox", "SFC64"])
def test_generators_go_on(name):
    generator = np.random.Generator(getattr(np.random, name)(3))
    generator.random(5, dtype=np.float32)
    other = make_generator(decoded(encoded(generator_state(generator)), CPU))
    assert generator.random(4).tolist() == other.random(4).tolist()


@pytest.mark.parametrize("state", [{"bit_generator": "os"}, {}, 5, {"bit_generator": ["PCG64"]}])
def test_other_generators_are_refused(state):
    with pytest.raises(ValueError, match="a generator of the state"):
        make_generator(state)
