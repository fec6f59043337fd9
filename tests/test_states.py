"""A saved state is checked as a whole: keys, types, shapes, dtypes, settings; the error names the key."""

import copy

import pytest
import torch

from dsenv.states import Anything, Either, Exactly, ListOf, TensorOf, Whole, adam_state, check_state

pytestmark = pytest.mark.fast

LIKE = {
    "epoch": Whole(),
    "score": torch.zeros(3),
    "flag": True,
    "rate": 0.5,
    "name": "",
    "nothing": None,
    "visits": TensorOf(torch.int32, (None, 2)),
    "rollout": ListOf([torch.zeros(2), 1]),
    "settings": Exactly({"alpha": 0.8, "ops": ["a", "b"], "more": {"c": 1}}),
    "perhaps": Either(None, torch.zeros(1)),
    "theirs": Anything(),
    "groups": [{"lr": 0.1}],
}
STATE = {
    "epoch": 3,
    "score": torch.tensor([1.0, float("nan"), 3.0]),
    "flag": False,
    "rate": 1,
    "name": "x",
    "nothing": None,
    "visits": torch.zeros(7, 2, dtype=torch.int32),
    "rollout": [[torch.ones(2), 5], (torch.ones(2), 6)],
    "settings": {"alpha": 0.8, "ops": ("a", "b"), "more": {"c": 1}},
    "perhaps": None,
    "theirs": {"any": [1, "x", None, torch.zeros(1)]},
    "groups": [{"lr": 1e-3}],
}
ABSENT = object()


def test_a_state_that_fits_is_taken():
    check_state("it", STATE, LIKE)
    check_state("it", {**STATE, "perhaps": torch.zeros(1)}, LIKE)
    check_state("it", {**STATE, "rollout": []}, LIKE)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("epoch", ABSENT, "'epoch' is missing"),
        ("epoch", -1, "'epoch' must be a whole number of at least 0, got -1"),
        ("epoch", True, "'epoch' must be a whole number"),
        ("epoch", 1.0, "'epoch' must be a whole number"),
        ("score", torch.zeros(4), r"'score' has shape \(4,\), it must be \(3,\)"),
        ("score", torch.zeros(3, 1), r"'score' has shape \(3, 1\)"),
        ("score", torch.zeros(3).double(), r"'score' is torch.float64 .* must be torch.float32"),
        ("score", torch.zeros(3).to_sparse(), "'score' is torch.float32"),
        ("score", [0.0, 0.0, 0.0], "'score' must be a tensor of shape"),
        ("score", None, "'score' must be a tensor"),
        ("flag", 1, "'flag' must be True or False, got 1"),
        ("rate", float("nan"), "'rate' must be a finite number, got nan"),
        ("rate", True, "'rate' must be a finite number"),
        ("rate", "0.5", "'rate' must be a finite number"),
        ("name", 3, "'name' must be text, got 3"),
        ("nothing", 0, "'nothing' must be None"),
        ("visits", torch.zeros(7, 3, dtype=torch.int32), r"'visits' .* must be \(any, 2\)"),
        ("rollout", [[torch.ones(2), 5], [torch.ones(3), 5]], r"'rollout\[1\]\[0\]' has shape"),
        ("rollout", [[torch.ones(2)]], r"'rollout\[0\]' has 1 entries, it must have 2"),
        ("rollout", {}, "'rollout' must be a list"),
        ("settings", {"alpha": 0.1, "ops": ["a", "b"], "more": {"c": 1}}, "alpha' = 0.1, here it is 0.8"),
        ("settings", {"alpha": 0.8, "ops": ["a"], "more": {"c": 1}}, "'settings.ops'"),
        ("settings", {"alpha": 0.8, "ops": ["a", "b"], "more": {}}, "c' = 'nothing', here it is 1"),
        ("settings", {"alpha": 0.8, "ops": ["a", "b"], "more": {"c": True}}, "'settings.more.c' = True"),
        ("settings", None, "'settings'"),
        ("perhaps", torch.zeros(2), "'perhaps' has shape"),
        ("theirs", {"any": [print]}, r"'theirs.any\[0\]' must be plain data"),
        ("groups", [{"lr": None}], r"'groups\[0\].lr' must be a finite number"),
        ("more", 1, "'more' is unknown; there are: 'epoch', 'score'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(key, value, message):
    state = {**STATE, key: value}
    if value is ABSENT:
        del state[key]
    with pytest.raises(ValueError, match=message) as caught:
        check_state("a part", state, LIKE)
    assert "no state of a part" in str(caught.value) and "saved with" in str(caught.value)


@pytest.mark.parametrize("state", [None, 3, "text", [], torch.zeros(2)])
def test_a_state_is_a_dict(state):
    with pytest.raises(ValueError, match="must be a dict"):
        check_state("a part", state, {})


def test_the_state_of_an_adam_optimizer_before_and_after_its_first_step():
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    like = adam_state(optimizer)
    check_state("Adam", optimizer.state_dict(), like)

    model(torch.rand(4, 3)).sum().backward()
    optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.01
    after = copy.deepcopy(optimizer.state_dict())
    check_state("Adam", after, like)

    after["state"][1]["exp_avg"] = torch.zeros(5)
    with pytest.raises(ValueError, match=r"'state.1.exp_avg' has shape \(5,\), it must be \(2,\)"):
        check_state("Adam", after, like)
    after = copy.deepcopy(optimizer.state_dict())
    after["param_groups"][0]["eps"] = 1e-3
    with pytest.raises(ValueError, match=r"param_groups\[0\].eps' = 0.001, here it is 1e-08"):
        check_state("Adam", after, like)
