"""Successive halving: all candidates on a few training runs, the better half on more, within a time limit.

Jamieson and Talwalkar, 2016, arXiv 1502.07943; here a round adds training runs, not epochs: the order of
choices changes in the course of a training run, and candidates of one round are paired by seed.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dsenv.rehearsal.candidates import ALL_DATA, Candidate
from dsenv.rehearsal.data import Samples, held_out_parts, spread_positions
from dsenv.rehearsal.evidence import Difference
from dsenv.rehearsal.runs import Outcome, TooLateError, run
from dsenv.tasks.task import Task

ROUNDS = (1, 1, 2, 4)  # cuts of the data in each round; a cut gives one training run for each of its parts
LEAST_KEPT = 3  # candidates that go on beside random and all data
FIRST_SHARE = 0.55  # of the time, for the first round
SLACK = 1.25  # a training run takes longer than its steps: selection, scoring
PROBE_SAMPLES = 320
PROBE_EPOCHS = 4
LEAST_SAMPLES = 400  # that the data are cut to before training runs and candidates are left out
LEAST_OF_CLASS = 40
FEW_PARTS = 0.6  # share of the parts of the first cut that are held out before samples are cut
LEAST_PARTS = 2  # parts of the first cut that are held out at all
MOST_STRETCH = 3.0  # epochs on a subset, as a multiple of those on the whole


def stretch(samples: int, total: int) -> float:
    """How many times as many epochs a subset is trained for: the root of how much smaller it is, 1 to 3.

    With the same epochs it gets fewer steps, and what is not trained to the end yet favours choices that it
    does not favour later (all data, large losses); with as many steps wrong labels are learnt by heart.
    """
    return min(MOST_STRETCH, math.sqrt(total / samples))


class Clock:
    """A time limit.

    Args:
        seconds: of it; None for none.
    """

    def __init__(self, seconds: float | None) -> None:
        self.limit, self._began = seconds, time.perf_counter()

    @property
    def spent(self) -> float:
        """Seconds since it was started."""
        return time.perf_counter() - self._began

    @property
    def left(self) -> float:
        """Seconds left; infinite without a limit."""
        return math.inf if self.limit is None else self.limit - self.spent


@dataclass(frozen=True)
class Scale:
    """What fits into the time."""

    samples: int
    parts: int
    """Parts of the first cut that are held out, one training run each; of the later cuts all."""
    candidates: int
    """The first so many."""


@dataclass
class Found:
    """All that was run."""

    outcomes: dict[Candidate, list[Outcome]] = field(default_factory=dict)
    last: list[Candidate] = field(default_factory=list)
    """Candidates that came as far as the last round."""
    cut: list[str] = field(default_factory=list)
    """What was left out to keep the time, in words."""
    samples: int = 0
    epochs: int = 0
    rounds: int = 0


class Halving:
    """Runs candidates on cuts of the same samples.

    Args:
        samples: of the user.
        make_task: the task on some samples.
        candidates: in the order of their importance; the first is the reference.
        epochs: length of a training run.
        folds: parts of a cut.
        seed: decides cuts and initial parameters.
        device: where training runs.
        threads: training runs at the same time, in a loop on a CPU.
        clock: the time limit.
        report: called with a candidate's name and the training runs that were done, and with those planned.
    """

    def __init__(
        self,
        samples: Samples,
        make_task: Callable[[Samples], Task],
        candidates: Sequence[Candidate],
        *,
        epochs: int,
        folds: int,
        seed: int,
        device: torch.device,
        threads: int,
        clock: Clock,
        report: Callable[[str, int, int], None],
    ) -> None:
        self.samples, self.make_task, self.candidates = samples, make_task, list(candidates)
        self.epochs, self.folds, self.seed = epochs, folds, seed
        self.device, self.threads, self.clock, self.report = device, threads, clock, report
        self.found = Found()
        self._task: Task | None = None
        self._done = self._planned = 0

    def run(self) -> Found:
        """All rounds that the time allows."""
        scale = self._scale()
        self._cut_to(scale)
        active = self.candidates[: scale.candidates]
        self._planned = len(active) * scale.parts

        for number, cuts in enumerate(ROUNDS):
            parts = scale.parts if number == 0 else None
            if number > 0:
                active = self._fitting(self._survivors(number), cuts)
                if not active:
                    break
            is_whole = self._round(number, active, cuts, parts)
            if number == 0 and is_whole:
                active = self._with_pods(active, parts)
            if number == 0 or is_whole:
                self.found.last = [c for c in active if self._is_whole(c, number)]
                self.found.rounds = number + 1
            if not is_whole:
                break
        return self.found

    # What fits into the time

    def _scale(self) -> Scale:
        """Samples, parts and candidates that the first round can do in its share of the time."""
        size, count = len(self.samples), len(self.candidates)
        if self.clock.limit is None:
            return Scale(size, self.folds, count)

        cost = self._probe()  # seconds of one sample of one part, an epoch on all data
        ratios = [c.ratio for c in self.candidates]
        ratios.append(self.candidates[0].ratio)  # PODS
        time_left = FIRST_SHARE * self.clock.left
        seconds = SLACK * cost * self.epochs * (1 - 1 / self.folds)  # of a sample of a training run

        # First fewer parts, then fewer samples, then still fewer parts, then fewer candidates
        few = math.ceil(FEW_PARTS * self.folds)
        whole = time_left / max(seconds * sum(ratios), 1e-9)  # samples of one training run of each candidate
        own = self._affordable(whole / self.folds)
        parts = self.folds if own == len(self.samples) else few
        own = self._affordable(whole / parts)
        room = time_left / max(seconds * own * stretch(own, self.samples.total), 1e-9)  # in runs on all data
        parts = int(min(parts, max(LEAST_PARTS, room / sum(ratios))))
        while count > 2 and parts * sum(ratios[:count]) > room:
            count -= 1
        return Scale(own, parts, count)

    def _affordable(self, wanted: float) -> int:
        """Samples whose training runs, longer for a subset, cost no more than `wanted` in `epochs` do."""
        size, total = len(self.samples), self.samples.total
        least = min(size, max(LEAST_SAMPLES, LEAST_OF_CLASS * self.samples.classes))
        if size * stretch(size, total) <= wanted:
            return size
        most = max(wanted**2 / total, wanted / MOST_STRETCH)  # n * stretch(n) = wanted
        return max(least, min(size, int(most)))

    def _probe(self) -> float:
        """Seconds of one sample of one training run, an epoch on all data, in runs side by side."""
        size = min(PROBE_SAMPLES, len(self.samples))
        part = self.samples.part(spread_positions(self.samples.labels, size, self.seed))
        task, probe = self.make_task(part), Candidate(ALL_DATA, {}, 1.0)
        held_out = held_out_parts(part.labels, self.folds, [self.seed])
        times: list[float] = []
        run(
            probe,
            task,
            held_out,
            range(self.folds),
            epochs=PROBE_EPOCHS,
            device=self.device,
            threads=self.threads,
            check=lambda _: times.append(self.clock.spent),
        )
        seconds = max(times[-1] - times[0], 1e-6)  # what the first epoch costs beside training is left out
        return seconds / ((PROBE_EPOCHS - 1) * self.folds * size * (1 - 1 / self.folds))

    def _cut_to(self, scale: Scale) -> None:
        """Take the samples that fit, and say what is left out."""
        total, cut = self.samples.total, self.found.cut
        if scale.samples < len(self.samples):
            self.samples = self.samples.part(spread_positions(self.samples.labels, scale.samples, self.seed))
        if len(self.samples) < total:
            cut.append(f"{len(self.samples):,} of {total:,} samples, of each class its share")
        if scale.parts < self.folds:
            cut.append(f"{scale.parts} of {self.folds} held-out parts")
        if left := self.candidates[scale.candidates :]:
            cut.append(f"without {', '.join(c.name for c in left)}")
        self.found.samples = len(self.samples)
        self.found.epochs = round(self.epochs * stretch(len(self.samples), total))
        if self.found.epochs != self.epochs:
            cut.append(f"{self.found.epochs} epochs on them, for {self.epochs} on all")
        self._task = self.make_task(self.samples)

    def _fitting(self, active: list[Candidate], cuts: int) -> list[Candidate]:
        """Candidates of another round that fit into the time left, by what the rounds before took.

        The worst are left out first; nobody is left where not even the best fits beside the reference.
        """
        mean = {c: self._seconds_of_run(c) * self.folds * cuts for c in active}
        ranked = sorted(active[1:], key=lambda c: -self._gain(c).mean)
        while ranked and mean[active[0]] + sum(mean[c] for c in ranked) > 0.9 * self.clock.left:
            ranked.pop()
        if not ranked:
            self.found.cut.append(f"{self.found.rounds} of {len(ROUNDS)} rounds")
            return []
        if left := [c.name for c in active[1:] if c not in ranked]:
            self.found.cut.append(f"round {self.found.rounds + 1} without {', '.join(left)}")
        return [c for c in active if c == active[0] or c in ranked]

    def _seconds_of_run(self, candidate: Candidate) -> float:
        """Seconds of one training run of a candidate, by its rounds so far."""
        own = self.found.outcomes[candidate]
        return sum(one.seconds for one in own) / sum(len(one.accuracy) for one in own)

    # Rounds

    def _round(self, number: int, active: Sequence[Candidate], cuts: int, parts: int | None) -> bool:
        """Run candidates on the cuts of a round; False where the time was over before all were done."""
        if number > 0:
            self._planned += len(active) * cuts * self.folds
        return all(self._add(candidate, number, parts) for candidate in active)

    def _add(self, candidate: Candidate, number: int, parts: int | None = None) -> bool:
        """Add the outcome of one round to a candidate; False, with a word, where the time was over."""
        held_out, seeds = self._cuts(number, parts)
        times = [self.clock.spent]

        def check(done: float) -> None:
            self.report(candidate.name, self._done + round(done * len(seeds)), self._planned)
            times.append(self.clock.spent)
            if done < 1 and self.clock.left < times[-1] - times[-2]:  # another interval would be too long
                raise TooLateError

        assert self._task is not None
        try:
            outcome = run(
                candidate,
                self._task,
                held_out,
                seeds,
                epochs=self.found.epochs,
                device=self.device,
                threads=self.threads,
                check=check,
            )
        except TooLateError:
            self.found.cut.append(f"{candidate.name} in round {number + 1}")
            return False
        self._done += len(seeds)
        self.found.outcomes.setdefault(candidate, []).append(outcome)
        return True

    def _cuts(self, number: int, parts: int | None) -> tuple[Tensor, list[int]]:
        """What each training run of a round holds out, and its seed."""
        first = sum(ROUNDS[:number])
        cuts = [1000 * self.seed + first + n for n in range(ROUNDS[number])]
        held_out = held_out_parts(self.samples.labels, self.folds, cuts)
        seeds = [1000 * cut + fold for cut in cuts for fold in range(self.folds)]
        return (held_out, seeds) if parts is None else (held_out[:parts], seeds[:parts])

    def _is_whole(self, candidate: Candidate, number: int) -> bool:
        return len(self.found.outcomes.get(candidate, [])) > number

    def _gain(self, candidate: Candidate) -> Difference:
        outcomes = self.found.outcomes
        return Difference.of(outcomes[candidate], outcomes[self.candidates[0]])

    def _survivors(self, number: int) -> list[Candidate]:
        """The reference, all data, and the better half of the others, three at least, in their order."""
        whole = [c for c in self.found.last if self._is_whole(c, number - 1)]
        fixed = [c for c in whole if c == self.candidates[0] or c.is_all_data]
        others = sorted((c for c in whole if c not in fixed), key=lambda c: -self._gain(c).mean)
        kept = others[: max(LEAST_KEPT, math.ceil(len(others) / 2))]
        return [*fixed, *sorted(kept, key=whole.index)]

    def _with_pods(self, active: Sequence[Candidate], parts: int | None) -> list[Candidate]:
        """The candidates of the first round, and PODS on the best selector among them."""
        whole = [c for c in active if self._is_whole(c, 0)]
        fitting = [c for c in whole if "selector" in c.settings and "volume" not in c.settings]
        if not fitting or self.epochs < 4:
            return whole
        pods = max(fitting, key=lambda c: self._gain(c).mean).with_pods()
        self._planned += self.folds if parts is None else parts
        if not self._add(pods, 0, parts):
            return whole
        return [*whole, pods]
