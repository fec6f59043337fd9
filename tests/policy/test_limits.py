"""What a card, a path or an observation may be: the rest is refused with a ValueError that says why."""

import copy
import threading
import tomllib

import numpy as np
import pytest
import tomli_w
import torch

from dsenv.policy import Policy, PolicyRunner, storage
from dsenv.policy.actors import SetActor, build_actor
from dsenv.policy.policy import describe_network
from tests.policy.policies import new_policy

LONG = 7654321987654321  # stands for a number of more digits than Python writes
VALUES = [
    *(0, -1, 1, 3, 64, 10**30, -(10**30), LONG, 1.5, float("nan"), float("inf"), True, False),
    *(
        "",
        "x",
        "mlp",
        "os:system",
        "\x00\U0001f600",
        [],
        [1],
        [64],
        ["a"],
        [[1]],
        [10**9],
        {},
        {"a": {"b": 1}},
    ),
]
MASK = {"name": "mask", "candidates": 32}


def places(table, before=()):
    for key, value in table.items():
        yield (*before, key)
        if isinstance(value, dict):
            yield from places(value, (*before, key))


def with_card(policy, path, **tables):
    """The policy's file with values of its card replaced, and a digest that fits."""
    card = tomllib.loads(policy.card.text())
    for name, value in tables.items():
        card[name] = {**card[name], **value} if isinstance(value, dict) else value
    storage.write(path, policy.weights, tomli_w.dumps(card))
    return path


# The whole card once; for the control of candidates what depends on it.
@pytest.mark.parametrize(
    ("control", "tables", "fewest"),
    [("joint", None, 300), (MASK, ("control", "actions", "bins", "embedding"), 150)],
    ids=str,
)
def test_any_value_anywhere_is_used_or_refused(control, tables, fewest, tmp_path):
    policy, path = new_policy(control), tmp_path / "x.safetensors"
    whole = tomllib.loads(policy.card.text())
    settings = (
        "sharpness",
        "minimum",
        "levels",
        "stability_bins",
        "strength",
        "trim",
        "candidates",
        "embedding",
        "bins",
    )
    refused = 0
    for place in (*places(whole), *(("control", name) for name in settings)):
        if tables and place[0] not in tables:
            continue
        for value in VALUES:
            card = copy.deepcopy(whole)
            table = card
            for key in place[:-1]:
                table = table[key]
            table[place[-1]] = value
            storage.write(path, policy.weights, tomli_w.dumps(card).replace(str(LONG), "0x" + "f" * 5000))
            try:
                found = Policy.load(path)
            except ValueError:
                refused += 1
                continue
            assert found.predict(np.zeros(found.card.observation["entries"]))[0].shape
            assert found.digest and repr(found)
    assert refused > fewest


@pytest.mark.fast
@pytest.mark.parametrize(
    ("control", "tables", "match"),
    [
        ("curriculum", {"network": {"hidden": 8}}, r"network\.hidden must be a list of at most 64 numbers"),
        ("curriculum", {"network": {"inputs": [53]}}, r"network\.inputs must be a number from 1 to 65536"),
        ("curriculum", {"network": {"hidden": [1] * 65}}, "at most 64 numbers"),
        ("curriculum", {"control": {"bins": 5}}, r"control\.bins follows from the card's bins"),
        ("ratio", {"control": {"target": 1.0}}, r"control\.target follows from"),
        ("curriculum", {"control": {"binary": True}}, r"control\.binary follows from"),
        (
            "strength",
            {"control": {"stability_bins": 4.0}},
            r"stability_bins must be a whole number, got 4\.0",
        ),
        (MASK, {"control": {"candidates": 32.0}}, r"candidates must be a whole number, got 32\.0"),
        (MASK, {"control": {"embedding": True}, "embedding": 1 << 16}, "more than 1048576 entries"),
        ("curriculum", {"intervals": 1 << 40}, "intervals must be from 1 to"),
    ],
)
def test_the_reason_is_named(control, tables, match, tmp_path):
    path = with_card(new_policy(control), tmp_path / "x.safetensors", **tables)
    with pytest.raises(ValueError, match=match):
        Policy.load(path)


def test_a_network_over_sets_takes_one_width(tmp_path):
    inside = SetActor(3, 5, 8)
    weights = inside.network.state_dict()
    build_actor(describe_network(inside), weights)
    with pytest.raises(ValueError, match=r"network\.hidden must be a number"):
        build_actor({**describe_network(inside), "hidden": [8]}, weights)


def test_what_toml_cannot_hold_is_no_part_of_a_card(tmp_path):
    deep = "trained." + ".".join("a" * 1500) + " = 1\n"
    policy = new_policy()
    text = policy.card.text().replace("[trained]\n", "")
    storage.write(tmp_path / "x.safetensors", policy.weights, deep + text)
    with pytest.raises(ValueError, match="cannot be written as TOML"):
        Policy.load(tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="`trained` takes numbers, text, lists and tables"):
        new_policy(trained={"folder": tmp_path})


def test_writers_do_not_meet(tmp_path):
    """Many threads save to one file while others read it."""
    path, policies, errors = tmp_path / "x.safetensors", [new_policy(seed=s) for s in range(4)], []
    (tmp_path / "x.partial").write_text("mine")
    policies[0].save(path)

    def work(policy):
        try:
            for _ in range(10):
                policy.save(path)
                Policy.load(path)
        except (OSError, ValueError) as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(policy,)) for policy in policies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.partial", "x.safetensors"]
    with pytest.raises(FileNotFoundError):
        policies[0].save(tmp_path / "none" / "x.safetensors")


def test_a_folder_is_no_policy(tmp_path):
    with pytest.raises(ValueError, match=r"it is a folder; a run's policy is the file policy\.safetensors"):
        Policy.load(tmp_path)


@pytest.mark.fast
def test_observations_are_one_or_a_table():
    policy = new_policy()
    row = np.linspace(-1, 1, policy.card.observation["entries"], dtype=np.float32)
    for same in (row, torch.tensor(row), row.tolist(), row.astype(np.float64)):
        # the product of one row may end in other bits where the row lies otherwise in memory
        np.testing.assert_allclose(policy.predict(same)[0], policy.predict(row[None])[0][0], atol=1e-5)
    for strange in (row[0], row.reshape(1, 1, -1)):
        with pytest.raises(ValueError, match=r"expected observations \(K, O\) or one \(O,\)"):
            policy.predict(strange)


def test_it_acts_the_same_within_autocast_and_for_other_floats():
    policy = new_policy()
    row = torch.linspace(-1, 1, policy.card.observation["entries"])
    expected = policy.actions(row[None])
    near = {"rtol": 1e-5, "atol": 1e-5}  # bfloat16 would be off by a hundred times as much
    with torch.autocast("cpu", torch.bfloat16):
        np.testing.assert_allclose(policy.actions(row[None]), expected, **near)
        np.testing.assert_allclose(policy.predict(row.numpy())[0], expected[0], **near)
    np.testing.assert_allclose(policy.actions(row[None].double()), expected, **near)


def test_a_driver_needs_two_classes():
    with pytest.raises(ValueError, match="at least 2 classes, got 0"):
        PolicyRunner(new_policy(), size=10, classes=0, intervals=2)
