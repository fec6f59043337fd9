"""SADA: the more stable a sample's influence on training, the stronger its augmentation."""

from typing import Any

import torch
from torch import Tensor

from dsenv.augment.base import AugmentationController, checked_device
from dsenv.augment.influence import kl_change, tdds_change
from dsenv.augment.trivial import random_levels
from dsenv.errors import check_count, check_flag, check_number, pick
from dsenv.outputs import ModelOutputs
from dsenv.signals import SampleSignals

ESTIMATORS = ("loss", "kl", "tdds", "projection")
WARM_UP = 10  # epochs of TrivialAugment, EntAugment's choice


class SADA(AugmentationController):
    """Strength from the stability of each sample's influence: stable samples are augmented strongly.

    What it does: at each visit, measures the influence a of the sample (how much the updates since its last
    visit changed the model's view of it); takes the variance of the last `window` influences; smooths it, v
    <- ema v + (1 - ema) variance; and at the end of each epoch maps v to the strength 1 - minmax(v). Until
    `warm_up` epochs are over, and for samples with too few visits, the strength is TrivialAugment's.

    When it helps: the paper reports gains on fine-grained and long-tailed data and almost none on ImageNet.
    When not: a mislabelled sample that never changes is as stable as one learned long ago and gets the same
    strength; and predictions on strongly augmented views vary more, which lowers the strength again
    (`observe` a weak view to break that loop). Compare with EntAugment, and with `reverse=True`.

    Settings: small windows work better. `estimator` is "kl" (the paper's form), "tdds" (its closest published
    relative), "loss" (|change of the label's loss|; one number a sample instead of C) or "projection": then
    `observe` does nothing, and the loop calls `record(index, influence_by_projection(...))`. The cheap forms
    compare a visit with the one before. On clean digits (benchmarks/influence.py, 5 seeds) their rank
    correlation with the projection on the epoch is 0.79 to 0.83, less than that of the current loss itself
    (0.87), and the strengths made of them correlate with those of the projection by 0.36 to 0.39 only. The
    difference of the loss before and after the same step, one forward more, agrees with the projection on
    that step at 0.99 and can be given to `record` as well.

    Cost: none beyond the ops, except for "projection" (about one training step a batch). Memory: N (window +
    4) numbers, and N C half-precision ones for "kl" and "tdds".

    Source: Yang et al., arXiv 2510.00434. No code was released.

    Differences from published code: none exists. The paper's text leaves open the window, `ema` and its
    direction, the warm-up and the unit of time; these are our readings: visits as time, the training forward
    as view, the 1st and 99th percentile in place of the extremes (`clip=0` gives those).

    Args:
        size: N, the number of training samples.
        classes: C, the number of classes.
        device: where the memory lives.
        estimator: how influence is measured, see above.
        window: influences whose variance is taken, >= 2.
        ema: weight of the old value in the smoothed variance, in [0, 1).
        clip: share of the samples cut off at either end of the min-max scale, in [0, 0.5).
        warm_up: epochs of TrivialAugment at the start; None for max(window + 1, 10).
        reverse: augment unstable samples more, as an ablation.
        settings: `ops` and `magnitudes` of `AugmentationController`.
    """

    def __init__(
        self,
        size: int,
        classes: int,
        device: torch.device | str = "cpu",
        *,
        estimator: str = "kl",
        window: int = 3,
        ema: float = 0.9,
        clip: float = 0.01,
        warm_up: int | None = None,
        reverse: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.size = size = check_count("size", size)
        self.classes = classes = check_count("classes", classes)
        self.estimator = pick("estimator", estimator, ESTIMATORS)
        self.window = window = check_count("window", window, 2, hint="the variance of one value is 0")
        self.ema = check_number("ema", ema, 0, 1, open_high=True)
        self.clip = check_number("clip", clip, 0, 0.5, open_high=True)
        self.reverse = check_flag("reverse", reverse)
        default = max(window + 1, WARM_UP)
        self.warm_up = default if warm_up is None else check_count("warm_up", warm_up, 0)
        device = checked_device(device)

        self.needs_logits = self.estimator in ("kl", "tdds")
        self.needs_parameters = self.estimator == "projection"

        self._memory = {
            "influence": torch.zeros(size, window, device=device),
            "recorded": torch.zeros(size, dtype=torch.int64, device=device),
            "variance": torch.zeros(size, device=device),
            "strength": torch.full((size,), torch.nan, device=device),  # NaN: not known yet
        }
        if self.estimator != "projection":
            self._memory["seen"] = torch.zeros(size, dtype=torch.bool, device=device)
            last = (torch.float16, size, classes) if self.needs_logits else (torch.float32, size)
            self._memory["last"] = torch.zeros(last[1:], dtype=last[0], device=device)

    @property
    def variance(self) -> Tensor:
        """(N,) smoothed variance of the influence; 0 for samples with fewer than `window` influences."""
        return self._memory["variance"]

    def strengths(self, signals: SampleSignals, index: Tensor, generator: torch.Generator) -> Tensor:
        """The strengths of the last epoch's end; random levels where there is none yet."""
        del signals
        level = random_levels(index, generator)
        if self.epoch < self.warm_up:
            return level
        strength = self._memory["strength"][index]
        return torch.where(strength.isnan(), level, strength)

    @torch.no_grad()
    def observe(self, batch: ModelOutputs) -> None:
        """Estimate each sample's influence from this visit and the one before, and record it."""
        if self.estimator == "projection":
            return
        if self.needs_logits and batch.logits is None:
            raise ValueError(
                f"SADA with estimator {self.estimator!r} needs ModelOutputs.logits; or use estimator='loss'"
            )

        index = batch.index
        last = self._memory["last"]
        seen = self._memory["seen"]
        outputs = batch.loss if batch.logits is None or not self.needs_logits else batch.logits
        now, then = outputs.float(), last[index].float()  # a softmax in half precision hides the change
        now = now.log_softmax(-1) if self.needs_logits else now

        if self.estimator == "loss":
            influence = (now - then).abs()
        else:
            influence = (kl_change if self.estimator == "kl" else tdds_change)(now, then)

        self.record(index, influence, seen[index])
        last[index] = now.to(last.dtype)
        seen.index_fill_(0, index, True)  # a number assigned at positions would wait for a GPU

    def record(self, index: Tensor, influence: Tensor, known: Tensor | None = None) -> None:
        """Take in one influence a sample.

        Args:
            index: (B,) int64 positions, each at most once.
            influence: (B,) >= 0, in nats.
            known: (B,) bool, which of them to take in; all if None.
        """
        assert index.shape == influence.shape, (index.shape, influence.shape)
        memory = self._memory
        known = torch.ones_like(index, dtype=torch.bool) if known is None else known

        # A ring of the last influences; a sample that is not known keeps its entry
        slot = memory["recorded"][index] % self.window
        kept = memory["influence"][index, slot]
        memory["influence"][index, slot] = torch.where(known, influence.float(), kept)
        memory["recorded"][index] += known

        # The first full window gives the variance itself, later ones are smoothed in
        count, old = memory["recorded"][index], memory["variance"][index]
        new = memory["influence"][index].var(-1, correction=0)
        smoothed = torch.where(count == self.window, new, torch.lerp(new, old, self.ema))
        memory["variance"][index] = torch.where(known & (count >= self.window), smoothed, old)

    def end_epoch(self) -> None:
        """Map the smoothed variances to the strengths of the next epoch."""
        super().end_epoch()
        known = self._memory["recorded"] >= self.window
        strength = stability_strength(self.variance, known, self.clip)
        self._memory["strength"].copy_(1 - strength if self.reverse else strength)


def stability_strength(variance: Tensor, known: Tensor, clip: float) -> Tensor:
    """Strengths 1 - minmax(variance) over the known samples.

    Args:
        variance: (N,) >= 0; a value that is not finite counts as the least stable.
        known: (N,) bool, the samples to scale by.
        clip: share cut off at either end before scaling, in [0, 0.5).

    Returns:
        (N,) in [0, 1], NaN for unknown samples; 1 for all if no two variances differ.
    """
    usable = known & variance.isfinite()
    ordered = variance.masked_fill(~usable, torch.inf).sort().values
    last = (usable.sum() - 1).clamp(min=0)
    low = ordered[(clip * last).floor().long()]
    high = ordered[((1 - clip) * last).ceil().long()]

    span = torch.where(high > low, high - low, 1.0)
    strength = 1 - ((variance - low) / span).nan_to_num(nan=1.0, posinf=1.0).clamp(0, 1)
    return strength.masked_fill(~known, torch.nan)
