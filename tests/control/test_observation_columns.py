"""Every entry of the observation against a slow definition that is found by the entry's NAME.

Names and values come from one table each, of the training run and of a candidate. In the made-up state below
no two entries are equal, so two functions that change places are found.
"""

import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dsenv.control.observation import QUANTILES, feature_names, observe
from dsenv.control.registry import CONTROLS, make_control
from dsenv.control.state import Candidates, CandidateScores, TrainingState
from dsenv.signals import SampleSignals
from dsenv.volume.budget import Budget

pytestmark = pytest.mark.fast

K, N, CLASSES, BINS, STABILITY, SHOWN, EMBEDDING = 20, 24, 3, 4, 3, 8, 2
INTERVALS, RATIO = 23, 0.37
LOOKED_AT = ("loss", "confidence", "entropy", "margin", "correct")
SETTINGS = {
    "curriculum": "curriculum",
    "ratio": "ratio",
    "strength": {"name": "strength", "stability_bins": STABILITY},
    "joint": {"name": "joint", "stability_bins": STABILITY},
    "rule": "rule",
    "mask": {"name": "mask", "candidates": SHOWN},
    "mask that looks": {"name": "mask", "candidates": SHOWN, "rescore": True},
    "mask with features": {"name": "mask", "candidates": SHOWN, "embedding": True},
}


def made_up_signals(rng, interval):
    """Arrays (K, N), also of samples never trained on, which most entries must leave out."""
    times = rng.integers(0, 9, (K, N)) * (rng.random((K, N)) < 0.75)
    times[1] = 0  # this training has not begun
    return {
        "loss": rng.uniform(0.1, 4, (K, N)),
        "loss_ema": rng.uniform(0.1, 4, (K, N)),
        "loss_change": rng.uniform(-1.5, 1.5, (K, N)),
        "loss_rank": rng.random((K, N)),
        "confidence": rng.random((K, N)),
        "entropy": rng.random((K, N)),
        "margin": rng.uniform(-1, 0.8, (K, N)),  # many labels seem wrong, so that some are left out
        "correct": rng.integers(0, 2, (K, N)),
        "times_trained": times,
        "last_step": np.where(times > 0, rng.integers(0, interval[:, None], (K, N)), -1),
        "forgetting_events": rng.integers(0, 5, (K, N)),
        "influence": rng.uniform(0.1, 2, (K, N)),
        "influence_variance": rng.uniform(0.01, 2, (K, N)),
    }


def made_up(control, seed=0):
    """Plain arrays of a state that no training went through; entries are drawn, so that all differ."""
    rng = np.random.default_rng(seed)
    interval = np.arange(2, 2 + K)
    answers = {
        "log_weight": rng.uniform(-5, 5, (K, BINS)),
        "ratio": rng.uniform(0.1, 1, K),
        "strength": rng.random((K, STABILITY)),
        "trim": rng.uniform(0, 2, K),
    }
    look = {name: rng.uniform(0.1, 0.9, (K, SHOWN)) for name in LOOKED_AT} if control.rescores else {}
    return SimpleNamespace(
        interval=interval,
        signals=made_up_signals(rng, interval),
        pool=rng.random((K, N)) < 0.85,
        bins=rng.integers(0, BINS, (K, N)) * (np.arange(K) > 0)[:, None],  # in replica 0 most are empty
        stability=rng.integers(0, STABILITY, (K, N)),
        index=np.array([rng.permutation(N)[:SHOWN] for _ in range(K)]) + N * (rng.random((K, SHOWN)) < 0.2),
        look=look,
        embedding=rng.normal(size=(K, SHOWN, EMBEDDING)),
        total=rng.integers(50, 90, K),
        spent=rng.integers(1, 50, K),
        shows_validation=np.arange(K) % 4 != 2,
        ratio=rng.random(K),
        selected=rng.dirichlet(np.ones(BINS), K),
        train_loss=np.where(np.arange(K) == 5, np.nan, rng.uniform(0.1, 4, K)),  # one diverged
        train_accuracy=rng.random(K),
        validation_accuracy=rng.random(K),
        validation_gain=rng.uniform(-0.25, 0.25, K),
        answers={name: value for name, value in answers.items() if name in control.slices},
    )


def state(made, control):
    """The same state as the package holds it."""
    signals = SampleSignals(N, CLASSES, K)
    for name in signals.names:
        getattr(signals, name).copy_(torch.from_numpy(made.signals[name]))
    numbers = {
        name: torch.from_numpy(getattr(made, name)).float()
        for name in ("ratio", "selected", "train_loss", "train_accuracy", "validation_accuracy")
    }
    actions = [control.encode(**{name: value[k] for name, value in made.answers.items()}) for k in range(K)]
    budget = Budget(np.full(K, N), INTERVALS, RATIO, 0.1)
    budget.total, budget.spent = made.total, made.spent
    return TrainingState(
        signals=signals,
        pool=torch.from_numpy(made.pool),
        bins=torch.from_numpy(made.bins),
        stability=torch.from_numpy(made.stability),
        candidates=candidates(made, control),
        budget=budget,
        planned=np.full(K, 7),
        interval=made.interval,
        intervals=INTERVALS,
        target=RATIO,
        shows_validation=torch.from_numpy(made.shows_validation),
        wrong_labels=torch.full((K,), 0.123),  # these two are not observed
        strength=torch.full((K,), 0.456),
        validation_gain=torch.from_numpy(made.validation_gain).float(),
        action=torch.from_numpy(np.array(actions)),
        **numbers,
    )


def candidates(made, control):
    index = torch.from_numpy(made.index).clamp(max=N)
    if not control.rescores:
        return Candidates(index)
    fresh = {name: torch.from_numpy(value).float() for name, value in made.look.items()}
    embedding = torch.from_numpy(made.embedding).float() if control.embedding else None
    return Candidates(index, CandidateScores(fresh.pop("loss"), fresh, embedding))


def squashed(loss):
    return loss / (loss + math.log(CLASSES))


def seen(made, k):
    return [n for n in range(N) if made.pool[k, n] and made.signals["times_trained"][k, n] > 0]


def quantile(made, k, signal, percent):
    """The lower one: of two values that it falls between, the smaller."""
    ordered = sorted(made.signals[signal][k, n] for n in seen(made, k))
    return ordered[int(percent) * (len(ordered) - 1) // 100] if ordered else 0.0


def mean(made, k, kind, b, value):
    """Over the samples of a bin that were seen; 0 where there are none."""
    bins = made.bins if kind == "bin" else made.stability
    values = [value(n) for n in seen(made, k) if bins[k, n] == int(b)]
    return sum(values) / len(values) if values else 0.0


def share_unseen(made, k, kind, b):
    bins = made.bins if kind == "bin" else made.stability
    members = [n for n in range(N) if made.pool[k, n] and bins[k, n] == int(b)]
    known = set(seen(made, k))
    return sum(n not in known for n in members) / len(members) if members else 1.0


def age(made, k, n):
    return (made.interval[k] - 1 - made.signals["last_step"][k, n]) / INTERVALS


def standardised(value, m, known):
    """Value `value(m)` less the mean of those of the `known` candidates, over their deviation."""
    if m not in known:  # nothing to compare with
        return 0.0
    values = [value(other) for other in known]
    middle = sum(values) / len(values)
    deviation = math.sqrt(sum((v - middle) ** 2 for v in values) / len(values))
    return (value(m) - middle) / max(deviation, 1e-4)


def shown_loss(made, k, m):
    """A sample never trained on has no loss to compare with the others', unless the model was asked now."""
    here = [c for c in range(SHOWN) if made.index[k, c] < N]
    known = [c for c in here if made.look or made.signals["times_trained"][k, made.index[k, c]] > 0]
    return standardised(lambda c: shown(made, k, c, "loss"), m, known) / 3


def model_feature(made, k, m, d):
    here = [c for c in range(SHOWN) if made.index[k, c] < N]
    return standardised(lambda c: made.embedding[k, c, int(d)], m, here) / 3


def shown(made, k, m, signal):
    """What is known of candidate m: by the look at it, or else at its last visit."""
    return made.look[signal][k, m] if signal in made.look else made.signals[signal][k, made.index[k, m]]


def estimated_rate(made, k):
    """Of the seen samples with a margin beyond 0.5 and ten more that agree, those where it is negative."""
    sure = [made.signals["margin"][k, n] for n in seen(made, k) if abs(made.signals["margin"][k, n]) > 0.5]
    return sum(margin < 0 for margin in sure) / (len(sure) + 10)


def share_sure(made, k):
    margins = [made.signals["margin"][k, n] for n in seen(made, k)]
    return sum(abs(margin) > 0.5 for margin in margins) / len(margins) if margins else 0.0


def visits(made, k):
    return float(made.signals["times_trained"][k, made.pool[k]].mean())


def left_out(made, k, m):
    """Whether so many of the largest losses as labels seem wrong hold this one."""
    known = seen(made, k)
    if estimated_rate(made, k) < 0.08 or visits(made, k) < 1.5:
        return 0.0
    number = int(np.float32(estimated_rate(made, k)) * np.float32(len(known)))
    return float(made.index[k, m] in sorted(known, key=lambda n: -made.signals["loss"][k, n])[:number])


def visited(made, k, m):
    return made.signals["times_trained"][k, made.index[k, m]] > 0


OF_CANDIDATES = {
    "exists": lambda *_: 1.0,
    "never trained on": lambda s, k, m: float(not visited(s, k, m)),
    "loss rank at its last visit": lambda s, k, m: shown(s, k, m, "loss_rank"),
    "loss-rank bin, of all samples": lambda s, k, m: s.bins[k, s.index[k, m]] / (BINS - 1),
    "left out by the rule trim": left_out,
    "loss, l / (l + log C)": lambda s, k, m: squashed(shown(s, k, m, "loss")),
    "loss, standardised among the candidates, over 3": shown_loss,
    "mean loss over visits, l / (l + log C)": lambda s, k, m: squashed(shown(s, k, m, "loss_ema")),
    "loss change at its last visit, tanh(nats)": lambda s, k, m: math.tanh(shown(s, k, m, "loss_change")),
    "confidence in the label": lambda s, k, m: shown(s, k, m, "confidence"),
    "margin of the label": lambda s, k, m: shown(s, k, m, "margin"),
    "entropy / log C": lambda s, k, m: shown(s, k, m, "entropy"),
    "predicted as labelled": lambda s, k, m: shown(s, k, m, "correct"),
    "times trained on, t / (t + 4)": lambda s, k, m: (t := shown(s, k, m, "times_trained")) / (t + 4),
    "age of the last visit, share of the training": lambda s, k, m: (
        age(s, k, s.index[k, m]) if visited(s, k, m) else 0.0
    ),
    "forgetting events, f / (f + 2)": lambda s, k, m: (f := shown(s, k, m, "forgetting_events")) / (f + 2),
    "deviation of the influence, tanh(nats)": lambda s, k, m: math.tanh(
        math.sqrt(shown(s, k, m, "influence_variance"))
    ),
    "model feature {number}": model_feature,
}

OF_TRAININGS = {
    "share of the intervals done": lambda s, k: s.interval[k] / INTERVALS,
    "share of the budget left": lambda s, k: 1 - s.spent[k] / s.total[k],
    "target ratio": lambda *_: RATIO,
    "ratio of the last interval": lambda s, k: s.ratio[k],
    "train loss of the last interval, l / (l + log C)": lambda s, k: squashed(s.train_loss[k]),
    "train accuracy of the last interval": lambda s, k: s.train_accuracy[k],
    "validation accuracy": lambda s, k: s.validation_accuracy[k] if s.shows_validation[k] else 0.0,
    "gain in validation accuracy, times 5": lambda s, k: (
        5 * s.validation_gain[k] if s.shows_validation[k] else 0.0
    ),
    "loss of the seen samples, {number} % quantile, l / (l + log C)": lambda s, k, q: squashed(
        quantile(s, k, "loss", q)
    ),
    "confidence of the seen samples, {number} % quantile": lambda s, k, q: quantile(s, k, "confidence", q),
    "estimated share of wrong labels": estimated_rate,
    "share of the seen samples with a margin beyond 0.5": share_sure,
    "mean visits of a sample, v / (v + 4)": lambda s, k: (v := visits(s, k)) / (v + 4),
    "mean loss change of {kind} {number}, tanh(nats)": lambda s, k, kind, b: mean(
        s, k, kind, b, lambda n: math.tanh(s.signals["loss_change"][k, n])
    ),
    "share of {kind} {number} predicted other than labelled": lambda s, k, kind, b: mean(
        s, k, kind, b, lambda n: s.signals["correct"][k, n] == 0
    ),
    "mean entropy of {kind} {number}": lambda s, k, kind, b: mean(
        s, k, kind, b, lambda n: s.signals["entropy"][k, n]
    ),
    "mean age of {kind} {number} since the last visit, share of the training": lambda s, k, kind, b: mean(
        s, k, kind, b, lambda n: age(s, k, n)
    ),
    "share of {kind} {number} never trained on": share_unseen,
    "share of the last selection from bin {number}": lambda s, k, b: s.selected[k, int(b)],
    "last action: log weight of loss bin {number} / 5": lambda s, k, b: (
        s.answers["log_weight"][k, int(b)] / 5
    ),
    "last action: trimmed over the estimated wrong labels, less 1": lambda s, k: s.answers["trim"][k] - 1,
    "last action: ratio of the interval, from 0.1 at -1 to 1 at 1": lambda s, k: (
        2 * (s.answers["ratio"][k] - 0.1) / 0.9 - 1
    ),
    "last action: strength of stability bin {number}, 0 and below for none": lambda s, k, b: s.answers[
        "strength"
    ][k, int(b)],
    "last action: ignored": lambda *_: 0.0,
}


def defined(table, name):
    """The one definition whose name this is, and the numbers in the name."""
    found = []
    for template, definition in table.items():
        pattern = re.escape(template).replace(r"\{number\}", r"(\d+)")
        if match := re.fullmatch(pattern.replace(r"\{kind\}", "(bin|stability bin)"), name):
            found.append((definition, match.groups()))
    assert len(found) == 1, f"{name!r} has {len(found)} definitions"
    return found[0]


def column(name, made):
    """What the entry called `name` must be in each replica: in [-1, 1], 0 for what is no number."""
    if match := re.fullmatch(r"candidate (\d+): (.+)", name):
        m = int(match[1])
        definition, numbers = defined(OF_CANDIDATES, match[2])
        values = [definition(made, k, m, *numbers) if made.index[k, m] < N else 0.0 for k in range(K)]
    else:
        definition, numbers = defined(OF_TRAININGS, name)
        values = [definition(made, k, *numbers) for k in range(K)]
    return [0.0 if math.isnan(value) else min(1.0, max(-1.0, float(value))) for value in values]


def test_every_control_is_among_them():
    assert {s if isinstance(s, str) else s["name"] for s in SETTINGS.values()} == set(CONTROLS)


def test_these_quantiles_are_shown_in_this_order():
    """Shipped policies were trained with them; names and values both follow the constant."""
    assert QUANTILES == (0.1, 0.25, 0.5, 0.75, 0.9)


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_each_entry_is_what_its_name_says(setting):
    control = make_control(setting, BINS, RATIO)
    made = made_up(control)
    names = feature_names(BINS, control, EMBEDDING)
    found = observe(state(made, control), control).numpy()
    assert found.shape == (K, len(names)) and len(set(names)) == len(names)
    wanted = np.array([column(name, made) for name in names]).T
    wrong = [name for n, name in enumerate(names) if np.abs(found[:, n] - wanted[:, n]).max() > 1e-5]
    assert not wrong
    gap = np.abs(wanted[:, :, None] - wanted[:, None]).max(0)
    assert gap[~np.eye(len(names), dtype=bool)].min() > 0.01  # any two entries that change places are found
