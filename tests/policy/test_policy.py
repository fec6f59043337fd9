"""A policy file comes back as it was written, and anything else is refused with a reason."""

import hashlib
import json
import pickle
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import dsenv
from dsenv.control.observation import VERSION, feature_names
from dsenv.policy import MlpNetwork, Policy, PolicyCard, storage
from tests.policy.policies import ENVS, new_policy
from tests.sessions import only

pytestmark = pytest.mark.fast

CONTROLS = [*ENVS, {"name": "curriculum", "sharpness": 2.5}, {"name": "joint", "strength": False}]


@pytest.fixture
def path(tmp_path):
    return new_policy().save(tmp_path / "one.safetensors")


def forged(path, change=lambda text: text, tensors=None):
    """The file with another card or other weights, and a digest that fits them."""
    own, card = storage.read(path, lambda _: None)
    storage.write(path, own if tensors is None else tensors(own), change(card))
    return path


def refused(path, match):
    with pytest.raises(ValueError, match=match) as caught:
        Policy.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("control", CONTROLS, ids=str)
def test_round_trip(control, tmp_path):
    policy = new_policy(control)
    again = Policy.load(policy.save(tmp_path / "x.safetensors"))
    rows = np.random.default_rng(0).uniform(-1, 1, (7, policy.card.observation["entries"]))
    np.testing.assert_allclose(policy.predict(rows)[0], again.predict(rows)[0], rtol=1e-5, atol=1e-5)
    assert all(torch.equal(value, again.weights[name]) for name, value in policy.weights.items())
    assert again.card == policy.card and again.digest == policy.digest and repr(again) == repr(policy)
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_saving_twice_gives_the_same_bytes_and_draws_nothing(tmp_path):
    policy = new_policy()
    written = {policy.save(tmp_path / f"{n}.safetensors").read_bytes() for n in "abcdefgh"}
    assert len(written) == 1
    before = torch.random.get_rng_state()
    Policy.load(tmp_path / "a.safetensors")
    assert torch.equal(before, torch.random.get_rng_state())


def test_it_is_lazy_and_public():
    assert dsenv.Policy is Policy


def test_a_name_without_the_suffix_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"called NAME\.safetensors"):
        new_policy().save(tmp_path / "policy.zip")
    with pytest.raises(FileNotFoundError, match="no policy at"):
        Policy.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x00" * 100, b"\xff" * 9, b"text"])
def test_what_is_no_safetensors_file(content, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    refused(path, r"not a whole safetensors file.*dsenv.export")


class Exploit:
    ran = False

    def __reduce__(self):
        return (setattr, (Exploit, "ran", True))


@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_pickles_are_not_opened(writer, tmp_path):
    path = tmp_path / "x.safetensors"
    if writer == "pickle":
        path.write_bytes(pickle.dumps(Exploit()))
    else:
        torch.save({"a": torch.zeros(3), "b": Exploit()}, path)
    refused(path, "pickled ones .* are never opened")
    assert not Exploit.ran


def test_weights_of_something_else(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(3)}, path)
    refused(path, "no dsenv card: its metadata hold nothing")
    save_file({"a": torch.zeros(3)}, path, {"format": "pt"})
    refused(path, "its metadata hold format")


@pytest.mark.parametrize(
    ("card", "match"),
    [
        ("= no toml", "not valid TOML"),
        ("a = " + "[" * 5000, "not valid TOML"),
        ("name = 'other'", r"names no format: expected format = 1, got None"),
        ("format = true", "names no format"),
        ("format = 2\ndsenv = '9.0'", r"format is 2, written by dsenv '9.0'; .* pip install -U"),
        ("format = 1", "has no 'network'"),
        ("format = 1\nentry_point = 'os:system'", "no key of a policy card called 'entry_point'"),
    ],
)
def test_a_foreign_card(card, match, path):
    refused(forged(path, lambda _: card), match)


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        (
            'name = "curriculum"',
            'name = "os:system"',
            "no control that a policy file may name called 'os:system'",
        ),
        ('name = "curriculum"', "name = 3", "control has no name"),
        ('name = "curriculum"', 'name = "curriculum"\nsharpnes = 2', "Did you mean 'sharpness'"),
        ('name = "curriculum"', 'name = "curriculum"\nsharpness = "os:system"', "must be a number up to"),
        ('name = "strength"', 'name = "strength"\nstability_bins = 99999999', "must be a number up to 4096"),
        ('kind = "mlp"', 'kind = "os:system"', "no kind of network called 'os:system'"),
        ('kind = "mlp"', 'kind = "mlpp"', "Did you mean 'mlp'"),
        ('activation = "tanh"', 'activation = "exec"', "no activation called 'exec'"),
        ('head = "gaussian"', 'head = "gausian"', "Did you mean 'gaussian'"),
        ('head = "gaussian"', 'head = "categorical"', "gives no box actions"),
        ("outputs = 6", "outputs = 99999999999", "outputs must be a number from 1 to 65536"),
        ("outputs = 6", "outputs = 7", r"has shape \(6,\), a network as the card describes it has \(7,\)"),
        (
            f"version = {VERSION}",
            "version = 99",
            rf"version 99, this dsenv makes version {VERSION}; use dsenv",
        ),
        ("entries = ", "entries = 1", "by other names than the"),
        ('names = "', 'names = "0', "by other names than the"),
        ("bins = 5", "bins = 6", "by other names than the"),
        ("bins = 5", "bins = 65", "bins must be from 2 to 64"),
        ("ratio = 0.5", "ratio = 1.5", r"ratio must be in \(0, 1\]"),
        ('rank_by = "loss_rank"', 'rank_by = "__class__"', "no signal to rank by called"),
        ('actions = "box"', 'actions = "discrete"', "gives no discrete actions"),
        ('actions = "box"', 'actions = "binary"', "has no binary actions"),
        ("intervals = 4", "intervals = true", "intervals of the card must be int"),
    ],
)
def test_a_card_that_cannot_be_used(old, new, match, tmp_path):
    control = "strength" if "strength" in old else "curriculum"
    path = new_policy(control).save(tmp_path / "x.safetensors")

    def change(text):
        assert old in text
        return text.replace(old, new, 1)

    refused(forged(path, change), match)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            lambda t: {n: v for n, v in t.items() if "0" not in n},
            r"'layers\.0\.bias' has shape none: it is missing",
        ),
        (lambda t: {**t, "more": torch.zeros(2)}, r"'more' has shape \(2,\), .* no such tensor"),
        (lambda t: {**t, "layers.0.bias": torch.zeros(9)}, r"shape \(9,\), .* has \(8,\)"),
        (lambda t: {**t, "layers.0.bias": torch.full((8,), torch.nan)}, "not finite"),
        (lambda t: {**t, "layers.0.bias": torch.full((8,), -torch.inf)}, "not finite"),
    ],
)
def test_weights_that_do_not_fit_the_card(change, match, path):
    refused(forged(path, tensors=change), match)


def test_weights_of_another_type(path):
    own, card = storage.read(path, lambda _: None)
    halves = {name: value.half() for name, value in own.items()}
    save_file(halves, path, {storage.CARD: card, storage.DIGEST: "0" * 64})
    refused(path, r"is torch\.float16, expected torch\.float32")


def test_a_changed_card_or_weight_is_noticed(path):
    own, card = storage.read(path, lambda _: None)
    told = hashlib.sha256(b"").hexdigest()
    save_file(own, path, {storage.CARD: card, storage.DIGEST: told})
    refused(path, "changed after it was written: its SHA-256 is")


def test_every_flipped_bit_is_noticed(path):
    """In the header, the card, the digest and the weights."""
    whole = path.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    json.loads(whole[8:header])
    rng = np.random.default_rng(0)
    places = [
        *range(8),
        *rng.integers(8, header, 250),
        *rng.integers(header, len(whole), 100),
        len(whole) - 1,
    ]
    for place in places:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(flipped))
        with pytest.raises(ValueError, match="cannot be used as a policy"):
            Policy.load(path)
    for end in (0, 7, 100, header, len(whole) - 4):
        path.write_bytes(whole[:end])
        refused(path, "not a whole safetensors file")
    path.write_bytes(whole + b"\0")
    refused(path, "not a whole safetensors file")


def test_observations_of_another_length_are_refused():
    policy = new_policy()
    entries = len(feature_names(5, policy.control))
    match = rf"observations of {entries} entries \(control 'curriculum', 5 bins\), got {entries - 1}"
    with pytest.raises(ValueError, match=match):
        policy.predict(np.zeros((2, entries - 1), np.float32))


def test_an_unknown_control_cannot_be_written():
    card = new_policy().card
    settings = {
        name: getattr(card, name) for name in ("network", "actions", "bins", "rank_by", "ratio", "intervals")
    }
    with pytest.raises(ValueError, match="no control that a policy file may name"):
        PolicyCard(**settings, control={"name": "mine:Control"})


def test_act_is_predict_on_the_same_view():
    for control, name in ENVS.items():
        env = dsenv.load("envs", name, device="cpu")
        observation, _ = env.reset(seed=1)
        policy = new_policy({"name": "mask", "candidates": 32} if control == "mask" else control)
        for _ in range(2):
            acted = policy.act(only(env).state)
            np.testing.assert_allclose(acted[0], policy.predict(observation)[0], atol=1e-5)
            observation, *_ = env.step(acted[0])


def test_discrete_and_binary_actions():
    env = dsenv.load("envs", "Tiny-Curriculum-v0", actions="discrete", device="cpu")
    policy = new_policy(actions="discrete")
    observation, _ = env.reset(seed=0)
    choice = policy.predict(observation)[0]
    assert env.action_space.contains(choice)
    assert np.array_equal(policy.act(only(env).state)[0], policy.control.choices()[choice])
    env = dsenv.load("envs", "Tiny-Mask-v0", actions="binary", device="cpu")
    policy = new_policy({"name": "mask", "candidates": 32}, actions="binary")
    mask = policy.predict(env.reset(seed=0)[0])[0]
    assert env.action_space.contains(mask)
    assert np.array_equal(policy.act(only(env).state)[0], 2.0 * mask - 1)


def test_mlp_network_sizes():
    with pytest.raises(ValueError, match=r">= 1, got \[3, 0, 2\]"):
        MlpNetwork(3, [0], 2)
    assert MlpNetwork(3, [], 2)(torch.zeros(4, 3)).shape == (4, 2)
