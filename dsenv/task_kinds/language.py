"""Causal language modelling: several tokens a sample are predicted, each from those before it."""

import math
from typing import Any

import torch
from torch import Tensor

from dsenv.errors import check_count, check_flag, shown
from dsenv.task_kinds.base import READINGS, TaskKind, check_tensor, found
from dsenv.task_kinds.tokens import IGNORED, SampleReadings, next_tokens, of_samples, read_tokens


class Language(TaskKind):
    """Tokens of a text, or of the answer to a prompt; outputs are logits (B, T, V), targets int64 (B, T).

    As in `transformers`, targets stand in line with the input tokens: logits[:, t] predict targets[:, t + 1],
    and nothing is asked where the target is -100, in a prompt or padding. With `shifted` the logits line up
    with the targets. Every sample asks for at least one token.

    The loss of a sample is the mean cross-entropy of its tokens that are asked for, the confidence
    exp(-loss), the geometric mean of their probabilities. Entropy (over log V), margin (probability of the
    token less the largest other) and error (softmax minus one-hot, which is EL2N of one token; Paul et al.,
    2021) are means over them; that is our reading, since those papers classify. A sample is correct where
    each of its tokens is the most probable one: greedy decoding then gives the whole answer. The metric is
    the share of such samples.

    Sums over the vocabulary are taken in chunks of tokens, so that little beyond the logits is held; a loop
    with hidden states and a head need not make the logits either (`dsenv.text.token_losses`).

    For example::

        import torch
        from dsenv.task_kinds.language import Language

        kind = Language(vocabulary=50)
        tokens = torch.randint(0, 50, (8, 12))
        targets = tokens.clone()
        targets[:, :5] = -100  # a prompt of five tokens
        logits = torch.randn(8, 12, 50, requires_grad=True)
        losses = kind.sample_loss(logits, targets)
        losses.mean().backward()
        said = kind.read(logits.detach(), targets, losses.detach())
        print(losses, said["confidence"], said["correct"])

    Args:
        vocabulary: V, at least 2.
        shifted: targets[:, t] is what logits[:, t] predict.
    """

    name = "language"
    gives = READINGS
    metric_name = "exact answers"

    def __init__(self, vocabulary: int, shifted: bool = False) -> None:
        self.vocabulary = check_count("vocabulary", vocabulary, 2)
        self.shifted = check_flag("shifted", shifted)
        self.outputs = self.vocabulary
        self.guess_loss = math.log(self.vocabulary)
        self.guess_confidence = 1 / self.vocabulary

    def readings(self, outputs: Tensor, targets: Tensor) -> SampleReadings:
        """Losses with their graph, tokens that are asked for, and signals of each sample, in one go."""
        asked = (targets if self.shifted else next_tokens(targets)).flatten()
        tokens = read_tokens(outputs.reshape(-1, outputs.shape[-1]), asked)
        return of_samples(tokens, asked, None, len(targets))

    def inputs_for(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Tokens (..., T) with those that are asked for put in: an answer is read token by token.

        Where the targets are a sample's own these are its inputs as they are. Answers of all samples have to
        begin at one place, or that of another sample is read at the wrong one.
        """
        if not self.shifted:
            return torch.where(targets == IGNORED, inputs, targets)
        read = targets[..., :-1]
        behind = torch.where(read == IGNORED, inputs[..., 1:], read)
        return torch.cat([inputs[..., :1].expand(*behind.shape[:-1], 1), behind], -1)

    def sample_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self.check_outputs(outputs, targets)
        if targets.device.type == "cpu":  # elsewhere it would be a wait
            self._check_values("the batch", targets)
        return self.readings(outputs, targets).loss

    def read(self, outputs: Tensor, targets: Tensor, loss: Tensor) -> dict[str, Tensor]:
        del loss
        return self.readings(outputs.detach(), targets).signals

    def statistics(self, outputs: Tensor, targets: Tensor, loss: Tensor) -> Tensor:
        right = self.read(outputs, targets, loss)["correct"]
        return torch.stack([right, torch.ones_like(right)], -1)

    def tokens(self, targets: Tensor) -> Tensor:
        """Tokens of each sample that are asked for, (B,) int64."""
        return ((targets if self.shifted else targets[:, 1:]) != IGNORED).sum(1)

    def check_targets(self, what: str, targets: Any, size: int) -> None:
        check_tensor(what, targets, size)
        if targets.dim() != 2 or targets.dtype != torch.int64:
            raise ValueError(
                f"{what} must be int64 tokens (N, T), {IGNORED} where nothing is asked, got "
                f"{found(targets)}; pad them to one length with {IGNORED}"
            )
        self._check_values(what, targets)

    def _check_values(self, what: str, targets: Tensor) -> None:
        """Check that targets (N, T) are tokens that there are, and each sample asks for one."""
        wrong = (targets >= self.vocabulary) | ((targets < 0) & (targets != IGNORED))
        if bool(wrong.any()):
            row = int(wrong.any(1).nonzero()[0])
            raise ValueError(
                f"{what} has the token {int(targets[row][wrong[row]][0])} (first at sample {row}); allowed "
                f"are 0 to {self.vocabulary - 1}, and {IGNORED} where nothing is asked"
            )
        if not bool((count := self.tokens(targets)).all()):
            rows = (count == 0).nonzero().flatten().tolist()
            first = "" if self.shifted else " but the first, which nothing comes before,"
            raise ValueError(
                f"{what} asks for no token at sample {shown(rows)}: every target{first} is {IGNORED}; leave "
                "such samples out"
            )

    def check_outputs(self, outputs: Any, targets: Any) -> None:
        super().check_outputs(outputs, targets)
        if not isinstance(targets, Tensor) or targets.dim() != 2:
            raise ValueError(f"targets must be int64 tokens (B, T), got {found(targets)}")
        wanted = (*targets.shape, self.vocabulary)
        if outputs.shape != wanted:
            raise ValueError(
                f"outputs for language must be logits (B, T, V) = {wanted}, got {tuple(outputs.shape)}: they "
                "go in line with the targets (B, T)"
            )
