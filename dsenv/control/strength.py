"""HOW STRONG: an augmentation strength for each stability bin."""

import numpy as np
import torch

from dsenv.control.base import Actions, Control, Decision, spread
from dsenv.control.state import TrainingState
from dsenv.errors import check_count

MOST_BINS, MOST_LEVELS = 64, 1000


class StrengthControl(Control):
    """HOW STRONG: an augmentation strength for each stability bin; the rest is left to the settings.

    Bin 0 holds the samples whose influence on training varies least, the last bin those whose influence
    varies most and those with too few visits to tell (SADA, arXiv 2510.00434, maps this variance to a
    strength by a fixed rule). Component b is the strength of bin b; below 0 there is none. So the action of
    zeros augments nothing, from which an agent begins to learn.

    Args:
        bins: number of bins where `stability_bins` does not say.
        target: target ratio of the environment.
        stability_bins: S, number of stability bins, 1 to 64; None for `bins`.
        levels: number of strengths that a discrete action space offers, 2 to 1,000.
    """

    decides_how_strong = True
    answer = "strength"

    def __init__(self, bins: int, target: float, stability_bins: int | None = None, levels: int = 6) -> None:
        del target
        wanted = bins if stability_bins is None else stability_bins
        self.size = self.stability_bins = check_count("control.stability_bins", wanted, 1, MOST_BINS)
        self.levels = check_count("control.levels", levels, 2, MOST_LEVELS)
        self.names = tuple(f"strength of stability bin {b}, 0 and below for none" for b in range(self.size))

    def decode(self, actions: Actions) -> dict[str, Actions]:
        return {self.answer: actions.clip(0, 1)}

    def encode(self, strength: float | Actions = 0.0) -> Actions:  # type: ignore[override]
        return spread(self.answer, strength, self.size, 0, 1)

    def decide(self, actions: Actions, state: TrainingState) -> Decision:
        by_bin = torch.from_numpy(self.decode(actions)[self.answer]).to(state.stability.device)
        return Decision(strength=by_bin.gather(1, state.stability))

    def choices(self) -> Actions:
        """Evenly spaced strengths for all alike, then falling and rising from bin to bin."""
        levels = np.linspace(0, 1, self.levels, dtype=np.float32)
        graded = np.linspace(0, 1, self.size, dtype=np.float32)
        return np.vstack([np.repeat(levels[:, None], self.size, 1), graded[::-1], graded])
