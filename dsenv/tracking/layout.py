"""Layouts of TensorBoard's tab "Custom Scalars": what matters, first and in few charts."""

from collections.abc import Sequence
from typing import Any

from dsenv.tracking import names

Layout = dict[str, dict[str, list[Any]]]

EVALUATION = "Evaluation: test accuracy over samples seen"
TRAINING = "Training of the agent"


def training_layout(first: Sequence[str] = ()) -> Layout:
    """Charts of an agent's training, for `SummaryWriter.add_custom_scalars`.

    Args:
        first: categories that come before, which others fill.
    """
    chosen = [names.SHARE, names.WRONG, names.STRENGTH]
    charts = {
        "accuracy of the training runs": ["Multiline", ["accuracy/.*"]],
        "reward of the policy": ["Multiline", ["eval/mean_reward", "rollout/ep_rew_mean"]],
        "what was chosen": ["Multiline", chosen],
    }
    return {**{title: {} for title in first}, TRAINING: charts}


def plan_layout(bins: int, *, guarded: bool = False) -> Layout:
    """Charts of a plan in a training loop of one's own; a dot is a space, or the "_" of tensorboardX.

    Args:
        bins: number of loss-rank bins.
        guarded: whether it has a guard.
    """
    charts = {
        "what was chosen": [names.SHARE, names.STRENGTH],
        "share from each loss bin": [names.loss_bin(b) for b in range(bins)],
        "accuracy of the chosen": [names.TRAIN_ACCURACY],
        "loss of the chosen": [names.TRAIN_LOSS],
    }
    if guarded:
        charts["share of the policy, and the reserve"] = [names.GUARD_SHARE, names.GUARD_AGREEMENT]
    return {
        "Plan": {
            title: ["Multiline", [f"{tag.replace(' ', '.')}$" for tag in tags]]
            for title, tags in charts.items()
        }
    }


def evaluation_layout(contexts: Sequence[tuple[str, str, str, str]]) -> Layout:
    """A chart with a band for each context, all agents in it.

    Args:
        contexts: title, and the tags of the mean, of the lower and of the upper edge.
    """
    # TensorBoard shows charts with bands last to first
    charts = {title: ["Margin", [mean, low, high]] for title, mean, low, high in reversed(contexts)}
    return {EVALUATION: charts}
