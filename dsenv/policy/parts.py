"""What the learned selector, volume and augmentation share: a policy, and the runner that runs it."""

from pathlib import Path

from dsenv.policy.policy import Policy
from dsenv.policy.runner import PolicyRunner
from dsenv.policy.shipped import pretrained

PolicyChoice = Policy | str | Path
"""A policy, the path of its file, or the name of a pretrained one."""

QUESTIONS = {
    "what": ("what to train on", "dsenv.select.Learned"),
    "how_much": ("how much to train on", "dsenv.volume.Learned"),
    "how_strong": ("how strongly to augment", "dsenv.augment.Learned"),
}


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
                + (f"; use {fitting}, or DataPlan(policy=...)" if answers else "")
            )

    @property
    def runner(self) -> PolicyRunner:
        """Runs the policy.

        Raises:
            ValueError: there is none yet.
        """
        if self._runner is None:
            raise ValueError(
                f"{QUESTIONS[self.question][1]} decides within a training of known length: give it to a "
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
