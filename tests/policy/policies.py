"""Small policies with random weights, and environments that fit them."""

import torch

from dsenv.control.observation import feature_names
from dsenv.control.registry import make_control
from dsenv.policy.actors import MlpActor, build_actor
from dsenv.policy.card import PolicyCard
from dsenv.policy.policy import Policy, describe_network

ENVS = {
    "curriculum": "Tiny-Curriculum-v0",
    "ratio": "Tiny-Ratio-v0",
    "strength": "Tiny-Strength-v0",
    "joint": "Tiny-Joint-v0",
    "mask": "Tiny-Mask-v0",
}


def new_policy(control="curriculum", seed=0, scale=2.0, **card):
    """A policy whose actions depend on all that it sees; `scale` is that of its last layer."""
    settings = {"name": control} if isinstance(control, str) else dict(control)
    known = {"bins": 5, "ratio": 0.5, "actions": "box", "rank_by": "loss_rank", "intervals": 4, **card}
    made = make_control(settings, known["bins"], known["ratio"], binary=known["actions"] == "binary")
    inputs = len(feature_names(known["bins"], made))
    discrete = known["actions"] == "discrete"
    head = {"discrete": "categorical", "binary": "binary"}.get(known["actions"], "gaussian")
    outputs = len(made.choices()) if discrete else made.size
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        actor = MlpActor(inputs, [8], outputs, "tanh", head)
    weights = {name: value.clone() for name, value in actor.network.state_dict().items()}
    weights["layers.1.weight"] *= scale
    actor = build_actor(describe_network(actor), weights)
    return Policy(actor, PolicyCard(network=describe_network(actor), control=settings, **known))
