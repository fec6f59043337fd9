"""From a Stable-Baselines3 model to a `Policy` that travels without it."""

from collections.abc import Mapping
from typing import Any

from gymnasium import spaces
from torch import Tensor, nn

from dsenv.env.episodes import Episodes
from dsenv.policy.actors import Actor, MlpActor, SetActor, build_actor
from dsenv.policy.card import PolicyCard
from dsenv.policy.policy import Policy, describe_network

Exported = tuple[dict[str, Any], dict[str, Tensor]]
"""Description of an actor, and the weights of its network."""


def export(model: Any, env: Any, **trained: Any) -> Policy:
    """The policy of a trained model, which acts exactly as `model.predict(..., deterministic=True)`.

    Use::

        from stable_baselines3 import PPO
        import dsenv

        env = dsenv.load("envs", "Tiny-Curriculum-v0")
        model = PPO("MlpPolicy", env, n_steps=8, batch_size=8, device="cpu").learn(8)
        policy = dsenv.export(model, env, environment="Tiny-Curriculum-v0")
        policy.save("mine.safetensors")

    Args:
        model: of PPO, A2C, SAC, TD3, DDPG or DQN with MlpPolicy, of TQC, or with a policy of dsenv.
        env: the environment it was trained in: `TrainingEnv`, `TrainingVectorEnv` or SB3's VecEnv of one.
        trained: further entries for the card's `trained`: numbers, text, lists and tables.

    Raises:
        ValueError: the policy is recurrent, custom or explores by gSDE, observations were normalised, or the
            environment's control is not one of dsenv's own.
    """
    if model.get_vec_normalize_env() is not None:
        raise ValueError(
            "the model was trained behind VecNormalize, whose statistics a policy file does not hold; "
            "train it without: observations of dsenv are in [-1, 1] already"
        )

    description, weights = exported(model.policy)
    description = {**description, "head": _head(description.get("head", ""), model.action_space)}
    actor = build_actor(description, weights)

    episodes = episodes_of(env)
    algorithm = {"algorithm": type(model).__name__, "steps": int(model.num_timesteps)}
    return Policy(actor, make_card(actor, episodes, {**algorithm, **trained}))


def episodes_of(env: Any) -> Episodes:
    """The episodes of an environment, below SB3's and Gymnasium's wrappers.

    Raises:
        ValueError: it is not an environment of dsenv.
    """
    below, seen = env, 0
    while not hasattr(below, "episodes") and seen < 32:
        # Each wrapper keeps what it wraps under one of these names
        for name in ("unwrapped", "venv", "env", "envs"):
            inner = getattr(below, name, None)
            if inner is not None and inner is not below:
                below = inner[0] if isinstance(inner, list) else inner
                break
        seen += 1

    if not hasattr(below, "episodes"):
        raise ValueError(
            f"{type(env).__name__} is not an environment of dsenv: its policy has no card; pass the "
            "TrainingEnv, TrainingVectorEnv or StackedVecEnv that the model was trained in"
        )

    found: Episodes = below.episodes
    return found


def make_card(actor: Actor, episodes: Episodes, trained: Mapping[str, Any]) -> PolicyCard:
    """The card of a policy that was trained in the environment of `episodes`.

    Raises:
        ValueError: the control is not one of dsenv's own.
    """
    config, sessions = episodes.config, [session for session, _ in episodes.parts()]
    control = {"name": config.control} if isinstance(config.control, str) else dict(config.control)
    context = config.context or {}

    return PolicyCard(
        network=describe_network(actor),
        control=control,
        actions=config.actions,
        bins=config.bins,
        rank_by=config.rank_by,
        ratio=config.ratio,
        intervals=config.intervals,
        interval=config.interval,
        validation_shown=config.validation_shown,
        embedding=sessions[0].candidate_sampler.embedding,
        task_kind=sessions[0].task.kind.name,
        trained={
            "datasets": [session.task.dataset.name for session in sessions],
            "samples": [session.trainer.size for session in sessions],
            "classes": [session.task.dataset.classes for session in sessions],
            "reward": config.reward,
            "context": dict(context),
            **trained,
        },
    )


def exported(policy: Any) -> Exported:
    """Description and weights of the actor in a policy of Stable-Baselines3.

    Raises:
        ValueError: it is of a kind that is not known here.
    """
    if getattr(policy, "use_sde", False) or getattr(getattr(policy, "actor", None), "use_sde", False):
        raise ValueError("a policy with use_sde does not travel; train it with use_sde = False")

    extractor = getattr(policy, "features_extractor_class", None)
    if extractor is not None and extractor.__name__ != "FlattenExtractor":
        raise ValueError(
            f"a policy with the features extractor {extractor.__name__} does not travel; use none"
        )

    for (module, name), function in EXPORTERS.items():
        kind = type(policy)  # a subclass may act otherwise
        if kind.__name__ == name and kind.__module__ == module:
            return function(policy)

    raise ValueError(
        f"{type(policy).__module__}.{type(policy).__name__} does not travel: there is no plain network for "
        "it (recurrent and custom policies); policies that do: "
        + ", ".join(sorted({name for _, name in EXPORTERS}))
    )


def _head(head: str, space: spaces.Space[Any]) -> str:
    """The head for an action space; actor-critics have one form for several."""
    if isinstance(space, spaces.Discrete):
        return "categorical"
    return "binary" if isinstance(space, spaces.MultiBinary) else head


def _actor_critic(policy: Any) -> Exported:
    return _mlp([*policy.mlp_extractor.policy_net, policy.action_net], "gaussian")


def _beta(policy: Any) -> Exported:
    if not bool((policy.low == -1).all() and (policy.width == 2).all()):
        raise ValueError(f"BetaPolicy travels only for actions in [-1, 1], got {policy.action_space}")
    return _mlp([*policy.mlp_extractor.policy_net, policy.action_net], "beta")


def _sac(policy: Any) -> Exported:
    return _mlp([*policy.actor.latent_pi, policy.actor.mu], "squashed")


def _td3(policy: Any) -> Exported:
    *layers, last = policy.actor.mu
    assert isinstance(last, nn.Tanh), policy.actor.mu
    return _mlp(layers, "squashed")


def _dqn(policy: Any) -> Exported:
    return _mlp(list(policy.q_net.q_net), "categorical")


def _set(policy: Any) -> Exported:
    state, features, hidden = policy.network.sizes
    head = "beta" if type(policy).__name__ == "SetBetaPolicy" else "gaussian"
    description = {
        "kind": SetActor.kind,
        "state": state,
        "features": features,
        "hidden": hidden,
        "head": head,
    }

    return description, copied(policy.network.state_dict())


def _mlp(modules: list[Any], head: str) -> Exported:
    """Linear layers with one activation between them, as the network of an `MlpActor`."""
    layers = [module for module in modules if isinstance(module, nn.Linear)]
    between = {type(module) for module in modules if not isinstance(module, nn.Linear)}
    names: dict[type, str] = {nn.Tanh: "tanh", nn.ReLU: "relu"}
    if len(between) > 1 or not between <= names.keys() or len(modules) != 2 * len(layers) - 1:
        found = [type(module).__name__ for module in modules]
        raise ValueError(f"an MlpPolicy travels with Tanh or ReLU between linear layers, got {found}")

    description = {
        "kind": MlpActor.kind,
        "inputs": layers[0].in_features,
        "hidden": [layer.out_features for layer in layers[:-1]],
        "outputs": layers[-1].out_features,
        "activation": names[between.pop()] if between else "tanh",
        "head": head,
    }
    weights = {
        f"layers.{number}.{name}": value
        for number, layer in enumerate(layers)
        for name, value in layer.state_dict().items()
    }

    return description, copied(weights)


def copied(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of weights on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in weights.items()}


EXPORTERS = {
    ("stable_baselines3.common.policies", "ActorCriticPolicy"): _actor_critic,
    ("stable_baselines3.sac.policies", "SACPolicy"): _sac,
    ("stable_baselines3.td3.policies", "TD3Policy"): _td3,
    ("stable_baselines3.dqn.policies", "DQNPolicy"): _dqn,
    ("sb3_contrib.tqc.policies", "TQCPolicy"): _sac,
    ("dsenv.agents.policies.set_policy", "SetPolicy"): _set,
    ("dsenv.agents.policies.beta_policy", "BetaPolicy"): _beta,
    ("dsenv.agents.policies.beta_policy", "SetBetaPolicy"): _set,
}
"""(module, class) of a policy -> how it is taken apart."""
