"""HOW MUCH, by a trained policy."""

from dsenv.policy.parts import LearnedPart, PolicyChoice
from dsenv.policy.runner import PolicyRunner
from dsenv.signals import SampleSignals


class Learned(LearnedPart):
    """The number of samples of each epoch as a trained policy decides it, under an exact budget.

    Not a `VolumeSchedule`: those are functions of time, and this one looks at the training. The total is
    known beforehand, the numbers of the epochs to come are not.

    Helps: where the training is like those the policy was trained on. Does not help: far from them; compare
    with "constant".

    Cost: once an epoch, as for `dsenv.select.Learned`. Source: our own.

    Args:
        policy: a `Policy`, its file, the name of a pretrained one, or a `PolicyRunner`.

    Raises:
        ValueError: the policy does not decide how much to train on.
    """

    question = "how_much"
    needs_logits = True
    needs_features = False

    def __init__(self, policy: PolicyChoice | PolicyRunner) -> None:
        LearnedPart.__init__(self, policy)

    def count(self, signals: SampleSignals) -> int:
        """Samples of the next epoch, given the (N,) signals of those before."""
        counts = self.runner.decide(signals).counts
        assert counts is not None
        return int(counts[0])
