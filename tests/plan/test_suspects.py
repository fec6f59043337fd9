"""Wrong labels are found in the history of one training run."""

import csv
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dsenv.plan import DataPlan, Suspect, Suspects
from dsenv.plan.signals import PlanSignals
from dsenv.plan.suspects import find_suspects
from dsenv.signals import SampleSignals
from dsenv.task_kinds.classification import read_outputs, read_outputs_and_rival
from dsenv.tasks.corruption import symmetric_noise

pytestmark = pytest.mark.fast

COLUMNS = ("position", "label", "said", "margin", "visits", "forgetting", "age", "score")


def blobs(size=400, classes=4, rate=0.2, seed=0):
    """Points around a mean for each class, hardly overlapping: inputs, given labels, clean labels."""
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randint(0, classes, (size,), generator=generator)
    inputs = 5 * F.one_hot(clean, 8).float() + torch.randn(size, 8, generator=generator)
    return inputs, symmetric_noise(clean, rate, classes, generator), clean


def train(plan, logits=True, epochs=None):
    """A linear model in a loop as a user writes it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Linear(8, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in plan.epochs_left():
        for batch in plan.batches():
            found = model(batch.inputs)
            losses = F.cross_entropy(found, batch.labels, reduction="none")
            loss = plan.loss(batch, losses, logits=found) if logits else plan.loss(batch, losses)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if epochs is not None and epoch + 1 == epochs:
            plan.start_epoch(epochs)
            break
    return plan


def trained(**settings):
    inputs, given, _ = blobs()
    return train(DataPlan((inputs, given), **{"epochs": 5, "batch_size": 50, **settings}))


# The columns are those of their definition


def literal(history):
    """One sample's row from its visits, written out: history of (epoch, logits, label)."""
    margins, votes, lead, leader, forgot, right = [], {}, 0.0, -1, 0, False
    for _, logits, label in history:
        others = {c: float(logits[c]) for c in range(len(logits)) if c != label}
        strongest = max(others, key=others.get)
        probability = float(torch.softmax(logits.double(), 0)[strongest])
        margins.append(float(logits[label]) - others[strongest])
        votes[strongest] = votes.get(strongest, 0.0) + probability
        if strongest == leader:
            lead += probability
        elif probability >= lead:
            lead, leader = probability - lead, strongest
        else:
            lead -= probability
        forgot += int(right and margins[-1] <= 0)
        right = margins[-1] > 0
    margin = sum(margins) / len(margins)
    label = history[-1][2]
    return {
        "label": label,
        "said": label if margin > 0 else leader,
        "margin": margin,
        "visits": len(history),
        "forgetting": forgot,
        "age": 5 - history[-1][0],
        "score": 1 / (1 + math.exp(margin)),
    }, votes


def test_every_column_equals_its_literal_definition():
    generator = torch.Generator().manual_seed(0)
    size, classes = 30, 4
    labels = torch.randint(0, classes, (size,), generator=generator)
    plan = DataPlan(
        (torch.zeros(size, 2), labels), epochs=6, batch_size=4, ratio=0.4, classes=classes, seed=1
    )
    histories = {i: [] for i in range(size)}
    for epoch in plan.epochs_left():
        for batch in plan.batches():
            logits = 2 * torch.randn(len(batch.index), classes, generator=generator)
            losses = F.cross_entropy(logits, batch.labels, reduction="none")
            plan.loss(batch, losses, logits=logits)
            for row, i in enumerate(batch.index.tolist()):
                histories[i].append((epoch, logits[row], int(batch.labels[row])))
    table = plan.suspects()
    assert len(table) + len(table.never_visited) == size
    assert table.never_visited.tolist() == [i for i in range(size) if not histories[i]]
    majorities = 0
    for row in table:
        expected, votes = literal(histories[row.position])
        for name, value in expected.items():
            assert getattr(row, name) == pytest.approx(value, abs=1e-5), (name, row)
        leading = max(votes, key=votes.get)
        if row.margin <= 0 and votes[leading] > 0.5 * sum(votes.values()):
            majorities += 1
            assert row.said == leading  # a class with more than half of the votes always wins
    assert majorities > 3


def test_rows_are_sorted_and_the_proposal_is_the_margins_below_0():
    table = trained().suspects()
    assert torch.equal(table.score, table.score.sort(descending=True).values)
    likely = table.likely
    assert torch.equal(likely.position, table.position[table.margin < 0]) and 0 < len(likely) < len(table)
    assert (likely.said != likely.label).all()
    rest = table[len(likely) :]
    assert torch.equal(rest.said, rest.label)


def test_equal_scores_are_sorted_by_position():
    signals = PlanSignals(6, 3)
    index = torch.tensor([5, 1, 3, 0])
    signals.update(index, torch.ones(4), torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64), 0)
    assert signals.label_history.visits.tolist() == [1, 1, 0, 1, 0, 1]
    table = find_suspects(signals, signals.label_history, 1)
    assert table.position.tolist() == [0, 1, 3, 5] and table.never_visited.tolist() == [2, 4]


# What it is for


@pytest.mark.parametrize(("ratio", "epochs"), [(None, 8), (0.5, 16)])
def test_wrong_labels_are_found(ratio, epochs):
    """At the same number of samples seen."""
    inputs, given, clean = blobs()
    table = train(DataPlan((inputs, given), epochs=epochs, batch_size=50, ratio=ratio)).suspects()
    wrong = given != clean
    likely = table.likely
    found = wrong[likely.position]
    assert found.float().mean() > 0.85 and found.sum() > 0.85 * wrong.sum()
    assert (likely.said == clean[likely.position])[found].float().mean() > 0.9
    assert wrong[table.head(20).position].all()


def test_clean_labels_give_few():
    inputs, _, clean = blobs()
    table = train(DataPlan((inputs, clean), epochs=8, batch_size=50)).suspects()
    assert len(table.likely) < 0.05 * len(table)


def test_samples_never_visited_stand_apart():
    table = trained(ratio=0.1, epochs=3).suspects()
    both = torch.cat([table.position, table.never_visited])
    assert torch.equal(both.sort().values, torch.arange(400))
    assert len(table.never_visited) > 200 and (table.visits >= 1).all()


# As a table


def test_the_table_can_be_cut_and_read():
    table = trained().suspects()
    assert Suspect._fields == COLUMNS
    row = table[0]
    assert isinstance(row, Suspect) and row == next(iter(table)) and isinstance(row.position, int)
    assert table[-1].score == pytest.approx(float(table.score.min()))
    assert len(table[::-2]) == 200 and table[::-2][0] == table[-1]
    assert isinstance(table.head(3), Suspects) and len(list(table.head(3))) == 3
    assert len(table.head(10_000)) == len(table)
    with pytest.raises(IndexError):
        table[len(table)]
    with pytest.raises(ValueError, match="at least 0, got -1"):
        table.head(-1)


def test_its_text_shows_the_first_rows():
    table = trained().suspects()
    lines = repr(table).splitlines()
    wrong = len(table.likely)
    assert lines[0] == f"Suspects(400 samples, {wrong} likely wrong, 0 never visited)"
    assert lines[1].split() == list(COLUMNS) and len(lines) == 13
    assert lines[2].split()[0] == str(table[0].position) and "390 more" in lines[-1]
    assert len(repr(table[:0]).splitlines()) == 1


def test_it_goes_to_a_file_and_to_arrays(tmp_path):
    table = trained().suspects()
    table.to_csv(tmp_path / "suspects.csv")
    with (tmp_path / "suspects.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    arrays = table.as_dict()
    assert tuple(arrays) == COLUMNS and all(isinstance(value, np.ndarray) for value in arrays.values())
    for name in COLUMNS:
        assert [float(row[name]) for row in rows] == arrays[name].tolist()


# Where it cannot know


def test_without_logits_it_says_what_it_needs():
    inputs, given, _ = blobs()
    plan = train(DataPlan((inputs, given), epochs=2, batch_size=50), logits=False)
    with pytest.raises(ValueError, match=r"logits=logits"):
        plan.suspects()


def test_before_the_first_epoch_has_ended_it_says_so():
    inputs, given, _ = blobs()
    plan = DataPlan((inputs, given), epochs=2, batch_size=50)
    with pytest.raises(ValueError, match="epochs that have ended, and none has"):
        plan.suspects()
    batch = next(plan.batches())
    plan.loss(batch, torch.ones(50), logits=torch.zeros(50, 4))
    with pytest.raises(ValueError, match=r"plan\.start_epoch"):
        plan.suspects()


def test_logits_that_are_no_numbers_are_left_out():
    signals = PlanSignals(4, 3)
    labels = torch.tensor([0, 1, 2, 0])
    good = torch.tensor([[2.0, 0, 1], [0, 3, 1], [0, 1, 0], [1, 0, 0]])
    bad = good.clone()
    bad[0, 2], bad[1] = torch.nan, torch.inf
    for step, logits in enumerate((good, bad, good)):
        signals.update(torch.arange(4), torch.ones(4), logits, labels, step)
    history = signals.label_history
    assert history.visits.tolist() == [2, 2, 3, 3]
    assert history.margin.tolist() == [1, 2, -1, 1] and history.label.tolist() == [0, 1, 2, 0]
    assert history.lead.isfinite().all() and history.rival.tolist() == [2, 2, 1, 1]


def test_samples_that_are_not_known_are_left_out():
    signals = PlanSignals(3, 3)
    index, labels, logits = torch.arange(3), torch.tensor([0, 1, 2]), torch.eye(3)
    known = torch.tensor([True, False, True])
    signals.update(index, torch.ones(3), logits, labels, 0, known=known)
    table = find_suspects(signals, signals.label_history, 1)
    assert table.position.tolist() == [0, 2] and table.never_visited.tolist() == [1]


@pytest.mark.filterwarnings("ignore:epoch .* not finite")
def test_a_plan_leaves_out_what_is_not_finite():
    data = torch.zeros(40, 2), torch.arange(40) % 4
    plan = DataPlan(data, epochs=3, batch_size=10)
    for epoch in plan.epochs_left():
        for batch in plan.batches():
            logits = F.one_hot(batch.labels, 4).float()
            logits[(batch.index == 7) | ((batch.index == 9) & (epoch == 1))] = torch.nan
            plan.loss(batch, torch.ones(10), logits=logits)
    table = plan.suspects()
    assert table.never_visited.tolist() == [7] and not len(table.likely)
    assert {row.position: row.visits for row in table if row.visits < 3} == {9: 2}
    assert (table.margin == 1).all()


# States and costs


def test_a_state_goes_on_with_the_same_table():
    inputs, given, _ = blobs()

    def new_plan():
        return DataPlan((inputs, given), epochs=6, batch_size=50, ratio=0.5)

    half = train(new_plan(), epochs=3)
    again = new_plan()
    again.load_state_dict(half.state_dict())
    assert list(again.suspects()) == list(half.suspects())
    fresh = new_plan().state_dict()
    again.load_state_dict(fresh)  # nothing of the other run is left
    with pytest.raises(ValueError, match="none has"):
        again.suspects()
    half.signals.reset()
    assert half.signals.label_history is None


def test_a_state_of_another_size_is_refused():
    signals, other = PlanSignals(4, 3), PlanSignals(4, 3)
    index = torch.arange(4)
    signals.update(index, torch.ones(4), torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64), 0)
    state = signals.state_dict()
    with pytest.raises(ValueError, match=r"label_history\.lead of the state is missing"):
        other.load_state_dict({name: value for name, value in state.items() if "lead" not in name})
    with pytest.raises(ValueError, match=r"label_history\.label of the state is of shape \(3,\)"):
        other.load_state_dict({**state, "label_history.label": torch.zeros(3)})


def test_the_other_signals_are_as_they_were_without_it():
    generator = torch.Generator().manual_seed(0)
    plain, own = SampleSignals(9, 4), PlanSignals(9, 4)
    for step in range(4):
        index = torch.randperm(9, generator=generator)[:5]
        logits, labels = torch.randn(5, 4, generator=generator), torch.arange(5) % 4
        loss = F.cross_entropy(logits, labels, reduction="none")
        for signals in (plain, own):
            signals.update(index, loss, logits, labels, step)
    assert own.names == plain.names == SampleSignals(1, 2).names
    assert all(torch.equal(getattr(plain, name), getattr(own, name)) for name in plain.names)


@pytest.mark.parametrize("source", ["arrays", "data set"])
def test_every_source_gives_the_same_table(source):
    inputs, given, _ = blobs()
    data = (inputs.numpy(), given.numpy())
    if source == "data set":
        data = [(point, int(label)) for point, label in zip(inputs, given, strict=True)]
    settings = {"epochs": 3, "batch_size": 50, "ratio": 0.5, "classes": 4}
    one = train(DataPlan((inputs, given), **settings)).suspects()
    other = train(DataPlan(data, **settings)).suspects()
    assert list(one) == list(other)


# What it is read from


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(7,), (3, 5)])
def test_the_rival_is_the_most_probable_other_class(shape, dtype):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(*shape, 5, generator=generator).to(dtype)
    labels = torch.randint(0, 5, shape, generator=generator)
    before = logits.clone()
    said, rival, probability = read_outputs_and_rival(logits, labels)
    plain = read_outputs(logits, labels)
    assert torch.equal(logits, before)  # the outputs of the model are left as they are
    assert all(torch.equal(said[name], plain[name]) for name in plain) and said.keys() == plain.keys()
    others = logits.float().softmax(-1)
    others = others.masked_fill(F.one_hot(labels, 5).bool(), -1)
    torch.testing.assert_close(probability, others.max(-1).values)
    assert (others.gather(-1, rival[..., None]).squeeze(-1) == others.max(-1).values).all()


def test_it_goes_on_over_several_updates_in_an_epoch():
    """A large epoch is taken in part by part."""
    generator = torch.Generator().manual_seed(0)
    whole, parts = PlanSignals(20, 3), PlanSignals(20, 3)
    for step in range(3):
        index = torch.randperm(20, generator=generator)
        logits, labels = torch.randn(20, 3, generator=generator), index % 3
        whole.update(index, torch.ones(20), logits, labels, step)
        for cut in torch.arange(20).split(7):
            parts.update(index[cut], torch.ones(len(cut)), logits[cut], labels[cut], step)
    one, other = (find_suspects(signals, signals.label_history, 3) for signals in (whole, parts))
    assert one.position.tolist() == other.position.tolist() and one.said.tolist() == other.said.tolist()
    torch.testing.assert_close(one.margin, other.margin)
