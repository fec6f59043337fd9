"""The position of a sample travels through whatever a collate function does to the order."""

import random
from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence
from torch.utils.data import default_collate

from dsenv.plan import DataPlan, IndexedCollate
from dsenv.plan.collate import NothingLeft

pytestmark = pytest.mark.fast

SIZE = 60
LENGTHS = [3 + (7 * place) % 11 for place in range(SIZE)]
Pair = namedtuple("Pair", ["tokens", "label"])  # as users write them


@dataclass
class Example:
    tokens: Tensor
    label: int


def text(place: int) -> Tensor:
    """A sequence that tells its position."""
    return torch.full((LENGTHS[place],), place + 1)


def longest_first(samples: list[Any]) -> list[Any]:
    return sorted(samples, key=lambda sample: len(sample[0]), reverse=True)


def padded(samples: list[Any]) -> tuple[Tensor, Tensor]:
    return pad_sequence([x for x, _ in samples], batch_first=True), torch.tensor([y for _, y in samples])


def sorts(samples: list[Any]) -> Any:
    return padded(longest_first(samples))


def sorts_in_place(samples: list[Any]) -> Any:
    samples.sort(key=lambda sample: len(sample[0]))
    return padded(samples)


def sorts_tensors(samples: list[Any]) -> Any:
    x, y = padded(samples)
    order = (x > 0).sum(1).argsort(descending=True, stable=True)
    return x[order], y[order]


def shuffles(samples: list[Any]) -> Any:
    random.shuffle(samples)
    return padded(samples)


def shuffles_by_torch(samples: list[Any]) -> Any:
    x, y = padded(samples)
    order = torch.randperm(len(y))
    return x[order], y[order]


def shuffles_by_numpy(samples: list[Any]) -> Any:
    return padded([samples[place] for place in np.random.permutation(len(samples))])  # noqa: NPY002


def time_first(samples: list[Any]) -> Any:
    ordered = longest_first(samples)
    return pad_sequence([x for x, _ in ordered]), torch.tensor([y for _, y in ordered])


def packs(samples: list[Any]) -> Any:
    x, y = sorts(samples)
    return pack_padded_sequence(x, (x > 0).sum(1), batch_first=True), y


def nests(samples: list[Any]) -> Any:
    x, y = sorts(samples)
    return {"deep": [{"x": x}, {"again": (x.float() / 2,)}], "labels": y, "name": "batch"}


def lists(samples: list[Any]) -> Any:
    ordered = longest_first(samples)
    return [x for x, _ in ordered], [y for _, y in ordered]


def by_numpy(samples: list[Any]) -> Any:
    x, y = sorts(samples)
    return x.numpy(), y.numpy()


def drops(samples: list[Any]) -> Any:
    return padded([sample for sample in longest_first(samples) if len(sample[0]) != 5])


FUNCTIONS = [
    sorts,
    sorts_in_place,
    sorts_tensors,
    shuffles,
    shuffles_by_torch,
    shuffles_by_numpy,
    time_first,
    packs,
    nests,
    lists,
    by_numpy,
    drops,
]


def labels_in(batch: Any) -> list[int]:
    """The labels of a batch, which are the positions of its samples."""
    labels = batch["labels"] if isinstance(batch, dict) else batch[1]
    return [int(label) for label in labels]


@pytest.mark.parametrize("collate", FUNCTIONS, ids=lambda function: function.__name__)
def test_positions_follow_any_order(collate: Any) -> None:
    follow = IndexedCollate(collate)
    rng = np.random.default_rng(0)
    for _ in range(5):
        places = rng.permutation(SIZE)[:16].tolist()
        index, batch = follow([(place, (text(place), place)) for place in places])
        assert index.tolist() == labels_in(batch)
        assert set(index.tolist()) <= set(places)
        is_whole = collate is not drops
        assert len(index) == sum(is_whole or LENGTHS[place] != 5 for place in places)


@pytest.mark.parametrize("classes", [2, 1], ids=["two", "one"])
@pytest.mark.parametrize("collate", [sorts, shuffles, sorts_tensors, drops], ids=lambda f: f.__name__)
def test_equal_labels_do_not_confuse(collate: Any, classes: int) -> None:
    follow = IndexedCollate(collate)
    for first in (0, 16, 32):
        places = list(range(first, first + 16))
        index, (x, _) = follow([(place, (text(place), place % classes)) for place in places])
        assert index.tolist() == (x.amax(1) - 1).tolist()


FORMS: dict[str, Any] = {
    "mapping": lambda place: {"tokens": text(place), "label": place},
    "lists of numbers": lambda place: {"tokens": text(place).tolist(), "label": [place]},
    "named tuple": lambda place: Pair(text(place), place),
    "dataclass": lambda place: Example(text(place), place),
    "numpy": lambda place: (text(place).numpy(), np.int64(place)),
    "length too": lambda place: (text(place), LENGTHS[place], place),
    "text": lambda place: ("word " * LENGTHS[place], place),
    "tensors only": lambda place: text(place).float(),
    "bytes": lambda place: (torch.full((2, 3), place, dtype=torch.uint8), torch.tensor(place)),
}


def any_form(samples: list[Any]) -> dict[str, Any]:
    """Sorts samples of any of the forms by length; tells the positions in `place`."""

    def parts(sample: Any) -> tuple[Any, int]:
        if isinstance(sample, dict):
            label = sample["label"]
            return sample["tokens"], label[0] if isinstance(label, list) else label
        if isinstance(sample, Example):
            return sample.tokens, sample.label
        if isinstance(sample, Tensor):
            return sample, int(sample[0]) - 1
        return sample[0], sample[-1]

    def length(sample: Any) -> int:
        return sample[1] if isinstance(sample, tuple) and len(sample) == 3 else len(parts(sample)[0])

    ordered = sorted(samples, key=length)
    rows = [parts(sample)[0] for sample in ordered]
    x = rows if isinstance(rows[0], str) else [torch.as_tensor(row).float() for row in rows]
    if not isinstance(rows[0], str):
        x = pad_sequence([row.flatten() for row in x], batch_first=True)
    if isinstance(samples[0], Tensor):
        return {"x": x}
    return {"x": x, "place": torch.tensor([int(parts(sample)[1]) for sample in ordered])}


@pytest.mark.parametrize("form", FORMS)
def test_samples_of_any_form(form: str) -> None:
    follow = IndexedCollate(any_form)
    for first in (0, 20):
        places = list(range(first, first + 12))
        index, batch = follow([(place, FORMS[form](place)) for place in places])
        found = batch["place"] if "place" in batch else batch["x"][:, 0].long() - 1
        assert index.tolist() == found.tolist()


def test_broken_samples_are_left_out() -> None:
    def collate(samples: list[Any]) -> Any:
        return default_collate([sample for sample in samples if sample is not None])

    items = [(place, None if place % 5 == 3 else (torch.rand(2), place % 2)) for place in range(20)]
    index, _ = IndexedCollate(collate)(items)
    assert index.tolist() == [place for place in range(20) if place % 5 != 3]


def test_samples_that_are_broken_by_their_values_are_left_out() -> None:
    def collate(samples: list[Any]) -> Any:
        return default_collate([(x, y) for x, y in samples if x.isfinite().all() and y >= 0])

    rows = torch.rand(20, 3)
    rows[4, 1], rows[9] = float("nan"), float("inf")
    labels = [-1 if place == 13 else place % 3 for place in range(20)]
    index, _ = IndexedCollate(collate)([(place, (rows[place], labels[place])) for place in range(20)])
    assert index.tolist() == [place for place in range(20) if place not in (4, 9, 13)]


def test_the_random_streams_go_on_as_if_it_had_run_once() -> None:
    items = [(place, (text(place), place)) for place in range(10)]
    for function in (shuffles, shuffles_by_torch, shuffles_by_numpy):
        streams = []
        for run in (IndexedCollate(function), lambda items, f=function: f([sample for _, sample in items])):
            random.seed(0)
            np.random.seed(0)  # noqa: NPY002
            torch.manual_seed(0)
            run(items)
            streams.append((random.random(), np.random.rand(), torch.rand(()).item()))  # noqa: NPY002
        assert streams[0] == streams[1]


def repeats(samples: list[Any]) -> Any:
    return padded([*samples, samples[0]])


def mixes(samples: list[Any]) -> Any:
    x, y = padded(samples)
    order = torch.randperm(len(y))
    return 0.5 * x + 0.5 * x[order], (y, y[order])


def own_stream(samples: list[Any]) -> Any:
    return padded([samples[place] for place in np.random.default_rng().permutation(len(samples))])


def sums(samples: list[Any]) -> Any:
    return torch.stack([x.sum() for x, _ in samples]).sum(), torch.tensor(sum(y for _, y in samples))


@pytest.mark.parametrize("collate", [repeats, mixes, own_stream, sums], ids=lambda f: f.__name__)
def test_what_cannot_be_followed_is_refused_with_the_way_out(collate: Any) -> None:
    with pytest.raises(ValueError, match=rf"{collate.__name__} could not be followed.*indexed=True"):
        IndexedCollate(collate)([(place, (text(place), place)) for place in range(12)])


def means(samples: list[Any]) -> Any:
    inputs, labels = default_collate(samples)
    return inputs.mean(0, keepdim=True), labels.double().mean()[None]


def some_means(samples: list[Any]) -> Any:
    return means([sample for sample in samples if sample[1] % 7])


@pytest.mark.parametrize("collate", [means, some_means])
@pytest.mark.parametrize("count", [2, 3, 4, 5, 6, 7])
def test_a_mean_of_samples_is_not_taken_for_the_one_in_the_middle(collate: Any, count: int) -> None:
    samples = [(place, (torch.full((2,), float(place)), place)) for place in range(1, count + 1)]
    with pytest.raises(ValueError, match="could not be followed"):
        IndexedCollate(collate)(samples)


def test_a_mean_is_refused_after_a_batch_of_one_sample_too() -> None:
    collate = IndexedCollate(means)
    samples = [(place, (torch.full((2,), float(place)), place)) for place in range(5)]
    assert collate(samples[:1])[0].tolist() == [0]
    with pytest.raises(ValueError, match="could not be followed"):
        collate(samples)


def indexed_sort(items: list[Any]) -> Any:
    ordered = sorted(items, key=lambda item: len(item[1][0]))
    return [place for place, _ in ordered], padded([sample for _, sample in ordered])


def test_an_indexed_function_gives_the_positions_itself() -> None:
    index, (_, labels) = IndexedCollate(indexed_sort, indexed=True)(
        [(place, (text(place), place)) for place in range(9, 0, -1)]
    )
    assert index.dtype == torch.int64 and index.tolist() == labels.tolist()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda items: items[0], r"each one that it was given|returns \(positions, batch\)"),
        (lambda _: None, r"returns \(positions, batch\), got NoneType"),
        (lambda items: ([1, 1], items), r"at most once, got \[1, 1\]"),
        (lambda items: ([99], items), "each one that it was given"),
        (lambda items: ([], items), "each one that it was given"),
        (lambda items: ([0.5], items), "each one that it was given"),
    ],
)
def test_positions_of_an_indexed_function_are_checked(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IndexedCollate(given, indexed=True)([(place, (text(place), place)) for place in range(3)])


class Texts(torch.utils.data.Dataset[Any]):
    """Sequences of different lengths that tell their positions."""

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, place: int) -> Any:
        return text(place), place % 2


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("collate", [sorts, shuffles, drops], ids=lambda f: f.__name__)
def test_a_loader_of_a_plan_follows(collate: Any, workers: int) -> None:
    plan = DataPlan(Texts(), epochs=2, batch_size=8, classes=2, ratio=0.5, selector="small_loss")
    loader = plan.loader(collate_fn=collate, num_workers=workers)
    with pytest.warns(UserWarning, match="collate function left out") if collate is drops else no_warning():
        for _ in plan.epochs_left():
            for batch in loader:
                assert batch.index.tolist() == (batch.inputs.amax(1) - 1).tolist()
                assert batch.labels.tolist() == (batch.index % 2).tolist()
                assert batch.weight.shape == batch.index.shape
                plan.loss(batch, batch.index.float())
    seen = plan.signals.seen.nonzero().flatten()
    assert torch.equal(plan.signals.loss[seen], seen.float())


def no_warning() -> Any:
    import warnings

    context = warnings.catch_warnings()
    warnings.simplefilter("default")
    return context


def test_a_scoring_pass_follows() -> None:
    plan = DataPlan(Texts(), epochs=2, batch_size=8, classes=2, ratio=0.5, selector="el2n", scoring_passes=0)

    def forward(x: Tensor) -> Tensor:
        place = x.amax(1) - 1
        return torch.stack([place / SIZE, -place / SIZE], 1).float()

    seen = {}
    plan.selector.prepare = lambda found, *_: seen.update(found=found)  # type: ignore[method-assign]
    plan.score(forward, collate_fn=sorts, batch_size=8)
    expected = torch.arange(SIZE) / SIZE
    torch.testing.assert_close(seen["found"].logits[:, 0], expected)
    assert torch.equal(seen["found"].labels, torch.arange(SIZE) % 2)
    with pytest.raises(ValueError, match=r"must see each of its 60 samples once; sample .* came 0 times"):
        plan.score(forward, collate_fn=drops, batch_size=8)


# Functions that look at values, at lengths, that take entries away; samples of which nothing can be marked


def positives_first(samples: list[Any]) -> Any:
    return padded([s for s in samples if s[1] == 1] + [s for s in samples if s[1] != 1])


def by_first_appearance(samples: list[Any]) -> Any:
    groups: dict[int, list[Any]] = {}
    for sample in samples:
        groups.setdefault(sample[1], []).append(sample)
    return padded([sample for group in groups.values() for sample in group])


def by_parity(samples: list[Any]) -> Any:
    return padded(sorted(samples, key=lambda sample: sample[1] % 2))


def is_not_zero(samples: list[Any]) -> Any:
    return padded(sorted(samples, key=lambda sample: sample[1] == 0))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(
    "collate", [positives_first, by_first_appearance, by_parity, is_not_zero], ids=lambda f: f.__name__
)
def test_functions_that_look_at_the_label(collate: Any, classes: int) -> None:
    follow = IndexedCollate(collate)
    for first in (0, 15, 30):
        places = list(range(first, first + 15))
        index, (x, _) = follow([(place, (text(place), place % classes)) for place in places])
        assert index.tolist() == (x.amax(1) - 1).tolist()


class Sometimes:
    """Shuffles by a stream of its own now and then; counts its calls, turns the order after the fourth."""

    def __init__(self, *, turns: bool = False) -> None:
        self.rng = np.random.default_rng(0)
        self.turns, self.calls = turns, 0

    def __call__(self, samples: list[Any]) -> Any:
        self.calls += 1
        if self.turns and self.calls > 4:
            samples = samples[::-1]
        if self.rng.random() < 0.4:
            samples = [samples[place] for place in self.rng.permutation(len(samples))]
        x, y = padded(samples)
        return {"x": x, "y": y, "zeros": torch.zeros(len(samples), 4)}


@pytest.mark.parametrize("turns", [False, True])
def test_counters_and_streams_of_its_own_go_on_as_if_it_had_run_once(turns: bool) -> None:
    function = Sometimes(turns=turns)
    follow, alone = IndexedCollate(function), Sometimes(turns=turns)
    for first in range(20):
        places = [(first + step) % SIZE for step in range(15)]
        samples = [(text(place), place % 2) for place in places]
        index, batch = follow(list(zip(places, samples, strict=True)))
        assert index.tolist() == (batch["x"].amax(1) - 1).tolist()
        assert torch.equal(batch["x"], alone(samples)["x"])
    assert function.calls == 20


def test_a_stream_that_a_function_closes_over_is_followed() -> None:
    rng = random.Random(0)

    def shuffled(samples: list[Any]) -> Any:
        return padded(rng.sample(samples, len(samples)))

    follow = IndexedCollate(shuffled)
    for first in range(0, 45, 15):
        index, (x, _) = follow([(place, (text(place), place % 2)) for place in range(first, first + 15)])
        assert index.tolist() == (x.amax(1) - 1).tolist()


def with_lengths(samples: list[Any]) -> Any:
    """Speech: (wave, label, length), padded to the longest by the lengths."""
    ordered = sorted(samples, key=lambda sample: -sample[2])
    longest = max(sample[2] for sample in ordered)
    waves = torch.zeros(len(ordered), longest)
    for row, (wave, _, length) in zip(waves, ordered, strict=True):
        row[:length] = wave[:length]
    return waves, torch.tensor([label for _, label, _ in ordered]), torch.tensor([n for _, _, n in ordered])


def grows(samples: list[Any]) -> Any:
    longest = max(sample[2] for sample in samples)
    rows = []
    for wave, _, _ in samples:
        row = wave.tolist()
        while len(row) < longest:
            row.append(0.0)
        rows.append(row)
    return torch.tensor(rows), torch.tensor([label for _, label, _ in samples])


@pytest.mark.parametrize("collate", [with_lengths, grows])
def test_lengths_in_the_sample_are_no_place_for_a_large_mark(collate: Any) -> None:
    places = list(range(16))
    items = [(place, (text(place).float(), place % 3, LENGTHS[place])) for place in places]
    index, batch = IndexedCollate(collate)(items)
    assert index.tolist() == (batch[0].amax(1) - 1).tolist()


def takes_away(samples: list[Any]) -> Any:
    labels = [sample.pop("label") for sample in samples]
    return {"x": pad_sequence([sample["x"] for sample in samples]), "labels": torch.tensor(labels)}


def test_entries_that_are_taken_away_come_back() -> None:
    items = [(place, {"x": text(place), "label": place}) for place in range(5, 20)]
    index, batch = IndexedCollate(takes_away)(items)
    assert index.tolist() == batch["labels"].tolist() == list(range(5, 20))


class Slotted:
    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


NAMES = [f"word{'x' * (place % 7)} {place}" for place in range(SIZE)]
UNMARKED: dict[str, tuple[Any, Any]] = {
    "text": (
        lambda place: NAMES[place],
        lambda samples: torch.tensor([[len(s), hash(s) % 99] for s in samples]),
    ),
    "text pairs": (
        lambda place: (NAMES[place], "yes" if place % 3 else "no"),
        lambda samples: {
            "ids": torch.tensor([[ord(s[-1]), len(s)] for s, _ in samples]),
            "y": [y for _, y in samples],
        },
    ),
    "flags": (
        lambda place: (NAMES[place], place % 2 == 0),
        lambda samples: ([s for s, _ in samples], torch.tensor([flag for _, flag in samples])),
    ),
    "objects": (
        lambda place: Slotted(NAMES[place]),
        lambda samples: torch.tensor([[float(ord(s.name[-1])), len(s.name)] for s in samples]),
    ),
}


@pytest.mark.parametrize("name", UNMARKED)
def test_a_function_that_keeps_the_order_needs_no_marks(name: str) -> None:
    make, collate = UNMARKED[name]
    places = [7, 3, 20, 11, 4, 30, 18]
    index, _ = IndexedCollate(collate)([(place, make(place)) for place in places])
    assert index.tolist() == places
    with pytest.raises(ValueError, match="could not be followed"):
        IndexedCollate(lambda samples: collate(sorted(samples, key=lambda s: str(getattr(s, "name", s)))))(
            [(place, make(place)) for place in places]
        )


@pytest.mark.parametrize("size", [2, 3])
def test_a_list_of_tables_is_no_pair(size: int) -> None:
    rows = [{"x": text(place), "y": torch.tensor([place, 1])} for place in range(12)]
    plan = DataPlan(rows, epochs=1, batch_size=size, classes=2)
    for batch in plan.loader(collate_fn=list):
        assert batch.labels is None
        assert [int(row["y"][0]) for row in batch.inputs] == batch.index.tolist()


@pytest.mark.parametrize("size", [2, 3])
def test_a_list_of_samples_is_no_pair(size: int) -> None:
    rows = [(text(place), place % 2) for place in range(12)]
    plan = DataPlan(rows, epochs=1, batch_size=size, classes=2)
    for function in (list, lambda samples: samples):
        for batch in plan.loader(collate_fn=function):
            assert batch.labels is None and len(batch.inputs) == size
            assert [int(x[0]) - 1 for x, _ in batch.inputs] == batch.index.tolist()


def test_a_batch_of_broken_samples_is_told_apart() -> None:
    index, batch = IndexedCollate(lambda _: None)([(4, None), (5, None)])
    assert index.tolist() == [4, 5] and isinstance(batch, NothingLeft)
    plan = DataPlan(Texts(), epochs=1, batch_size=2, classes=2)
    with pytest.raises(ValueError, match="left out all samples of a batch"):
        plan.batch(plan.epoch_sampler.chosen.index[:2], batch, partial=True)


def test_a_shuffle_is_never_taken_for_an_order_that_is_kept() -> None:
    for seed in (916, 961, 975, 1016):  # a shuffle of one sample more begins with the same order
        random.seed(seed)
        follow, rng = IndexedCollate(shuffles), np.random.default_rng(seed)
        for _ in range(5):
            places = rng.permutation(SIZE)[:16].tolist()
            index, batch = follow([(place, (text(place), place)) for place in places])
            assert index.tolist() == labels_in(batch)
