"""Answers of a trained policy as parts of a plan: what, how much and how strong."""

from pathlib import Path
from typing import Any

import torch

from dsenv.augment.given import GivenStrength
from dsenv.policy.policy import Policy
from dsenv.policy.runner import PolicyRunner
from dsenv.policy.shipped import pretrained
from dsenv.rng import Streams
from dsenv.select.base import Selection, Selector
from dsenv.select.gumbel import gumbel_top_k
from dsenv.select.ranking import check_choice
from dsenv.signals import SampleSignals

PolicyChoice = Policy | str | Path
"""A policy, the path of its file, or the name of a pretrained one."""

QUESTIONS = {
    "what": ("what to train on", "LearnedSelector"),
    "how_much": ("how much to train on", "LearnedVolume"),
    "how_strong": ("how strongly to augment", "LearnedAugmentation"),
}
"""Question -> in words, and the class of this module that answers it."""


def resolve(choice: PolicyChoice) -> Policy:
    """The policy of a choice.

    Raises:
        FileNotFoundError: a path was given, and no file is there.
        ValueError: the file cannot be used, the name is unknown, or it is none of these.
    """
    if isinstance(choice, Policy):
        return choice
    if not isinstance(choice, str | Path):
        raise ValueError(
            "a policy is a dsenv.Policy, the path of its file or the name of a pretrained one, got "
            f"{type(choice).__name__}"
        )

    if isinstance(choice, Path) or Path(choice).name != choice or Path(choice).suffix:
        return Policy.load(choice)
    return pretrained(choice)


class LearnedPart:
    """One of a policy's answers, as a part of a plan.

    A plan gives parts of the same policy one runner; outside of a plan, build the part from a `PolicyRunner`.

    Args:
        policy: a policy, its file, the name of a pretrained one, or a runner.

    Raises:
        ValueError: the policy does not answer this part's question.
    """

    question = "what"

    def __init__(self, policy: PolicyChoice | PolicyRunner) -> None:
        self._runner = policy if isinstance(policy, PolicyRunner) else None
        self.policy = policy.policy if isinstance(policy, PolicyRunner) else resolve(policy)

        answers = [name for name in QUESTIONS if getattr(self.policy.control, f"decides_{name}")]
        if self.question not in answers:
            given = " and ".join(QUESTIONS[name][0] for name in answers) or "nothing"
            fitting = " and ".join(QUESTIONS[name][1] for name in answers)
            raise ValueError(
                f"{self.policy!r} decides {given}, not {QUESTIONS[self.question][0]}"
                + (f"; use {fitting} of dsenv.policy, or DataPlan(policy=...)" if answers else "")
            )

    @property
    def runner(self) -> PolicyRunner:
        """Runs the policy.

        Raises:
            ValueError: there is none yet.
        """
        if self._runner is None:
            raise ValueError(
                f"{type(self).__name__} decides within a training run of known length: give it to a "
                "dsenv.DataPlan, or build it from a dsenv.policy.PolicyRunner; in an environment, use the "
                "agent dsenv.agents.learned:LearnedAgent"
            )
        return self._runner

    def connect(self, runner: PolicyRunner) -> None:
        """Let `runner`, which runs this part's policy, decide."""
        assert runner.policy.digest == self.policy.digest, (runner.policy, self.policy)
        self._runner = runner

    @property
    def is_connected(self) -> bool:
        """Whether a runner decides."""
        return self._runner is not None


class LearnedSelector(LearnedPart, Selector):
    """Draws samples by the weights that a trained policy gives them.

    A policy of the control "curriculum" or "joint" weighs loss-rank bins, one of "mask" scores every sample.
    It is asked once an epoch, at its start, and sees what it saw in its environment.

    Helps: where the training run is like those the policy was trained on (data, label noise, length, ratio;
    its card says which). Does not help: far from them; compare with "random".

    Cost: a sort of the losses and a small network, once an epoch. State: that of the `PolicyRunner`.
    Source: our own; the weights over bins are trained by `train_agent.py`.

    Args:
        policy: a `Policy`, its file, the name of a pretrained one, or a `PolicyRunner`.

    Raises:
        ValueError: the policy does not decide what to train on.
    """

    question = "what"
    needs_logits = True
    reads = ("confidence",)

    def draw(self, signals: SampleSignals, count: int, generator: torch.Generator) -> Selection:
        """Draw `count` samples, each with weight 1; the runner is not told which."""
        count = check_choice(count, signals.size)
        weight = self.runner.decide(signals, count).log_weight
        assert weight is not None
        drawn = gumbel_top_k(self.runner.in_pool(weight), [count], Streams.of(generator))
        return Selection(drawn.index[0], drawn.weight[0])

    def select(self, signals: SampleSignals, count: int, generator: torch.Generator) -> Selection:
        """Draw `count` samples, each with weight 1, and tell the runner which."""
        drawn = self.draw(signals, count, generator)
        self.runner.chose(drawn.index)
        return drawn


class LearnedVolume(LearnedPart):
    """The number of samples of each epoch as a trained policy decides it, under an exact budget.

    Not a `VolumeSchedule`: those are functions of time, and this one depends on the training run. The total
    is known beforehand, the numbers of the epochs to come are not.

    Helps: where the training run is like those the policy was trained on. Does not help: far from them;
    compare with "constant".

    Cost: once an epoch, as for `LearnedSelector`. Source: our own.

    Args:
        policy: a `Policy`, its file, the name of a pretrained one, or a `PolicyRunner`.

    Raises:
        ValueError: the policy does not decide how much to train on.
    """

    question = "how_much"
    needs_logits = True
    reads = ("confidence",)
    needs_features = False

    def count(self, signals: SampleSignals) -> int:
        """Samples of the next epoch, given the (N,) signals of those before."""
        counts = self.runner.decide(signals).counts
        assert counts is not None
        return int(counts[0])


class LearnedAugmentation(LearnedPart, GivenStrength):
    """Augments each sample at the strength that a trained policy gives to its stability bin.

    What it does: bins the samples by the variance of their influence, as the control "strength", and applies
    one op to each, drawn uniformly, at the strength of its bin.

    When it helps: where the training run is like those the policy was trained on. When not: far from them;
    compare with "fixed" and "sada".

    Cost: once an epoch, as for `LearnedSelector`, and the ops. Source: our own.

    Args:
        policy: a `Policy`, its file, the name of a pretrained one, or a `PolicyRunner`.
        size: N, the number of training samples.
        device: where the strengths live.
        settings: `ops` and `magnitudes` of `AugmentationController`.

    Raises:
        ValueError: the policy does not decide how strongly to augment.
    """

    question = "how_strong"
    needs_logits = True
    reads = ("confidence",)

    def __init__(
        self,
        policy: PolicyChoice | PolicyRunner,
        size: int,
        device: torch.device | str = "cpu",
        **settings: Any,
    ) -> None:
        LearnedPart.__init__(self, policy)
        GivenStrength.__init__(self, size, device, **settings)

    def begin_epoch(self, signals: SampleSignals) -> None:
        """Take over the strengths of the next epoch, given the (N,) signals of those before."""
        strength = self.runner.decide(signals).strength
        assert strength is not None
        self.strength.copy_(strength[0])
