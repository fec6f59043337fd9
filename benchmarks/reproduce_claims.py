"""The claims of the three abstracts, what of a preset speaks for or against each, and the verdict."""

from collections.abc import Sequence
from dataclasses import dataclass

from reproduce_rows import STRENGTHS
from reproduce_tables import ALL, FEWER, Interval, Results, points

MARGIN = 0.5  # points: no worse where the interval begins above minus this
SMALL = 0.2  # points: no gain worth the name where the interval ends below


@dataclass(frozen=True)
class Pair:
    """One comparison: a row against another, on the same seeds."""

    section: str
    name: str
    other: str
    how: str = "better"
    """better: the interval lies above 0; no worse: above minus half a point."""
    data: str = "main"
    labels: str = "clean"
    other_section: str = ""
    """Section of the other row, where it is another one."""

    def interval(self, results: Results) -> Interval | None:
        own = results.row(self.section, self.name, self.data, self.labels)
        other = results.row(self.other_section or self.section, self.other, self.data, self.labels)
        if self.other == "best fixed":
            other = results.best_fixed(self.data)
        return results.difference(own, other)

    def holds(self, found: Interval) -> bool:
        """Whether the interval over seeds says so; one seed says nothing."""
        return bool(found.low > (0 if self.how == "better" else -MARGIN))

    def fails(self, found: Interval) -> bool:
        """Whether the interval says the contrary; where neither, it is too wide."""
        return bool(found.high < (SMALL if self.how == "better" else 0)) and not self.holds(found)

    def text(self, found: Interval) -> str:
        where = "" if (self.data, self.labels) == ("main", "clean") else f" ({self.data}, {self.labels})"
        return f"{self.name}{where} less {self.other}: {points(found)}"


@dataclass(frozen=True)
class Claim:
    """One claim of an abstract."""

    paper: str
    claim: str
    published: str
    """Figures, in percent, where any could be read."""
    pairs: tuple[Pair, ...] = ()
    """What must be so here."""
    elsewhere: str = ""
    """How to try it where it was made."""

    def verdict(self, results: Sequence[Results]) -> tuple[str, list[str]]:
        """The verdict, and the comparisons that it is made of, of the first preset that has any."""
        for one in results:
            found = [(pair, interval) for pair in self.pairs if (interval := pair.interval(one)) is not None]
            found = [(pair, interval) for pair, interval in found if interval.low == interval.low]
            if found:
                held = [pair.holds(interval) for pair, interval in found]
                failed = [pair.fails(interval) for pair, interval in found]
                told = "holds" if all(held) else "holds in part" if any(held) else "not decided"
                told = "does not hold" if all(failed) else told
                open_ = len(found) - sum(held) - sum(failed)
                rest = len(self.pairs) - len(found)
                counts = f"{sum(held)} for, {sum(failed)} against, {open_} open, {rest} not run"
                said = f"**{told}** here ({counts}; preset {one.preset.name})"
                return said, [pair.text(interval) for pair, interval in found]
        if self.pairs:
            return "not run yet", []
        return "could not be tried here", []


def without(name: str, ratio: int) -> Pair:
    return Pair("pods", f"pods, {name}, {ratio} %", f"{name}, {ratio} %")


NAMES = [(name, ratio) for name in ("random", "infobatch") for ratio in (50, 30, 70)]
NAMES += [(name, 50) for name in ("ucb", "moderate", "data agent")]
AGENT = "data agent, corrected"
PAPERS = "benchmarks/reproduce_papers.py"
SADA_DATA = {
    "long_tail": ("long_tail",),
    "fine": ("upper_body",),
    "few": ("few_250", "few_500", "few_1000"),
}
RIVALS = ("trivial", "rand_augment", "ent_augment", "best fixed")


def sada(kind: str, others: Sequence[str], name: str = "sada") -> tuple[Pair, ...]:
    assert name in STRENGTHS
    return tuple(Pair("sada", name, other, data=data) for data in SADA_DATA[kind] for other in others)


CLAIMS = (
    Claim(
        "PODS",
        "on top of any selector, a volume that swings is better than the fixed ratio",
        "CIFAR-100, 50 %: InfoBatch 78.1 to 78.8, UCB 75.3 to 78.9, Moderate 73.4 to 78.4",
        tuple(without(name, ratio) for name, ratio in NAMES),
        f"`{PAPERS} cifar100 --arm pods_ucb` against `--arm ucb`",
    ),
    Claim(
        "PODS",
        "half of the data lose nothing against all data",
        "CIFAR-100: 78.4 to 78.9 against 78.2; ImageNet: better at half of the cost",
        tuple(
            Pair("pods", f"pods, {name}, 50 %", ALL, "no worse")
            for name in ("random", "infobatch", "ucb", "moderate", "data agent")
        ),
        f"`torchrun {PAPERS} imagenet --arm pods_infobatch` against `--arm all`",
    ),
    Claim(
        "PODS",
        "better than all data for fewer epochs, as many samples (not in the paper; a saving must beat it)",
        "not given",
        tuple(
            Pair("pods", f"pods, {name}, 50 %", f"{FEWER}, 50 %", other_section="references")
            for name in ("random", "infobatch", "ucb", "moderate", "data agent")
        ),
        f"`{PAPERS} cifar100 --arm all --epochs 100`",
    ),
    Claim(
        "PODS",
        "it is the alternation that helps, by the regulariser R(p, theta)",
        "log R moves by 2.5 between epochs; no comparison with other swings",
        (
            Pair("pods", "pods, random, 50 %", "rising, 25 to 75 %", other_section="references"),
            Pair("pods", "pods, random, 50 %", "one step up, 25 then 75 %", other_section="references"),
        ),
    ),
    Claim(
        "PODS",
        "instruction tuning in half of the time at equal quality",
        "Qwen-2.5-7B: MMLU 74.0 and 74.0, 32.8 h to 16.9 h",
        elsewhere=f"`{PAPERS} instruct --model FOLDER --data FILE --test FILE --arm pods_random`; it "
        "needs a model of that size and a GPU for it",
    ),
    Claim(
        "Data Agent",
        "what a policy learned is better than the greedy top of its reward",
        "ablation; figures not found",
        tuple(
            Pair("data_agent", AGENT, other, labels=labels)
            for labels in ("clean", "noise_0.2", "noise_0.4")
            for other in ("greedy top of its reward", "greedy top, aged")
        ),
        f"`{PAPERS} cifar100 --arm data_agent`",
    ),
    Claim(
        "Data Agent",
        "at the same ratio it is better than other selection",
        "ImageNet, 60 %: 76.8, InfoBatch 76.5, UCB 75.8; CIFAR-100, 50 %: 78.93 (best epoch)",
        (
            *(
                Pair("data_agent", AGENT, "random", labels=name)
                for name in ("clean", "noise_0.2", "noise_0.4")
            ),
            Pair("pods", "data agent, 50 %", "infobatch, 50 %"),
            Pair("pods", "data agent, 50 %", "ucb, 50 %"),
        ),
        f"`torchrun {PAPERS} imagenet --arm data_agent --ratio 0.6`",
    ),
    Claim(
        "Data Agent",
        "half of the data and more are saved without loss",
        "ImageNet: 60 % kept, 140 to 85 GPU-hours; MMLU 36.9 at half, 34.9 on all",
        (Pair("pods", "data agent, 50 %", ALL, "no worse"),),
        f"`{PAPERS} instruct --arm data_agent` is refused: the agent reads features of one class a sample",
    ),
    Claim(
        "Data Agent",
        "it is robust to wrong labels",
        "figures not found",
        (
            *(
                Pair("data_agent", AGENT, "random", "no worse", labels=name)
                for name in ("noise_0.2", "noise_0.4")
            ),
            Pair("data_agent", AGENT, "random", "no worse", data="words", labels="human"),
        ),
    ),
    Claim(
        "SADA",
        "better than no and than other augmentation on fine-grained data",
        "+7.3; data set and baseline not found",
        sada("fine", ("none", *RIVALS)),
        f"`{PAPERS} fine_grained --arm sada --data FOLDER`",
    ),
    Claim(
        "SADA",
        "better on a long tail",
        "+4.3; data set and baseline not found",
        sada("long_tail", ("none", *RIVALS)),
    ),
    Claim(
        "SADA",
        "better on few images (not in the abstract)",
        "not given",
        sada("few", ("none", *RIVALS)),
    ),
    Claim(
        "SADA",
        "stable samples should be augmented more, not less",
        "not given",
        tuple(
            Pair("sada", "sada", "sada, reversed", data=data)
            for kind in SADA_DATA
            for data in SADA_DATA[kind]
        ),
    ),
    Claim(
        "SADA",
        "the estimate by KL does what the exact projection does",
        "not given",
        tuple(
            Pair("sada", "sada", "sada, exact projection", "no worse", data=data)
            for kind in SADA_DATA
            for data in SADA_DATA[kind]
        ),
    ),
    Claim(
        "dsenv",
        "the shipped policy is better than a random half",
        "no paper's claim",
        tuple(
            Pair("policies", "policy curriculum", "random", labels=name)
            for name in ("clean", "noise_0.2", "noise_0.4")
        ),
    ),
)
