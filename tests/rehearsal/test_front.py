"""`dsenv.rehearse` from data to settings."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import dsenv
from dsenv.tasks import from_tensors
from tests.rehearsal.made import MLP, RECIPE, blobs

FEW = {"recipe": RECIPE, "epochs": 4, "minutes": None, "folds": 3, "progress": False}


@pytest.fixture(scope="module")
def noisy():
    """A rehearsal on data of which 30 % of the labels are wrong."""
    inputs, labels, _ = blobs(size=240, noise=0.3)
    return dsenv.rehearse((inputs, labels), MLP, candidates=["trim", "order_dp"], **FEW)


def test_the_table_has_a_row_for_every_candidate_and_pairs_with_random(noisy):
    rows = {row.name: row for row in noisy.table}
    assert {"random", "all data", "trim", "order_dp"} < set(rows) and any("pods" in name for name in rows)
    assert rows["random"].over_random.mean == rows["random"].over_random.error == 0
    assert rows["all data"].over_all.mean == 0 and rows["all data"].cost == 1
    assert rows["trim"].cost == pytest.approx(0.5, abs=0.01)
    means = [row.over_random.mean for row in noisy.table]
    assert means == sorted(means, reverse=True) and all(row.seconds > 0 for row in noisy.table)


def test_the_settings_make_a_plan_and_the_line_to_paste_says_the_same(noisy):
    data = blobs(size=240)[:2]
    plan = dsenv.DataPlan(data, epochs=4, batch_size=16, **noisy.settings)
    pasted = eval(noisy.plan_line, {"DataPlan": dsenv.DataPlan, "data": data})
    assert pasted.total_steps == plan.total_steps and type(pasted.selector) is type(plan.selector)
    assert noisy.best_within_ratio.name != "all data"


def test_wrong_labels_are_counted(noisy):
    assert noisy.noise_rate == pytest.approx(0.3, abs=0.1)
    assert any("of the labels look wrong" in text for text in noisy.says)


def test_what_it_prints_fits_100_columns_and_holds_the_choice(noisy):
    text = str(noisy)
    assert max(map(len, text.splitlines())) <= 100
    assert len(repr(noisy)) < 100 and noisy.best.name in repr(noisy)
    assert text.rstrip().endswith(noisy.plan_line) and f"> {noisy.best.name}" in text


def test_it_is_written_as_json_a_picture_and_events(noisy, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    written = json.loads(noisy.save(tmp_path / "rehearsal.json").read_text())
    assert written["best"]["settings"] == noisy.settings and len(written["rows"]) == len(noisy.table)
    picture = noisy.picture()
    assert picture.ndim == 3 and picture.shape[2] == 3 and picture.std() > 1

    noisy.log_to(tmp_path / "events")
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    tags = events.Tags()
    assert tags["images"] == ["rehearsal/gain and cost"]
    assert "rehearsal cost/all data 1" in tags["scalars"]
    assert len(events.Scalars("rehearsal gain over random in points/random 0.5")) == 4


def test_one_seed_gives_the_same_answer_twice_and_draws_from_no_global_stream():
    inputs, labels, _ = blobs(noise=0.2)
    torch.manual_seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), torch.get_num_threads()  # noqa: NPY002
    runs = [dsenv.rehearse((inputs, labels), MLP, candidates=["trim"], **FEW, seed=s) for s in (0, 0, 1)]
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert before[2] == torch.get_num_threads()
    first, second, other = ([(r.name, r.accuracy) for r in run.table] for run in runs)
    assert first == second and first != other


def test_train_on_everything_is_among_the_answers_with_its_gain_in_words():
    """Two epochs at a low rate: twice the steps are worth more than any rule."""
    inputs, labels, _ = blobs(size=240)
    short = {**FEW, "epochs": 2, "recipe": {"lr": 0.005, "batch_size": 16}}
    found = dsenv.rehearse((inputs, labels), MLP, candidates=["trim"], **short)
    assert found.best.name == "all data" and found.settings == {}
    assert found.plan_line == "DataPlan(data, epochs=2, batch_size=16)"
    assert found.says[0].startswith("Train on everything:") and "At a share of 0.5" in found.says[1]


def test_a_subset_of_few_samples_a_class_is_answered_by_random_and_said():
    inputs, labels, _ = blobs(size=400, classes=20, features=24)
    found = dsenv.rehearse((inputs, labels), MLP, candidates=["trim"], most_samples=60, **FEW)
    assert found.settings == {"selector": "random", "ratio": 0.5} and found.best.name == "random"
    assert found.says[0].startswith("Too little data to tell: a training run sees 2 samples of a class")
    assert any("60 of 400 samples" in text for text in found.cut)


def test_nothing_clear_is_answered_by_random():
    """Labels that have nothing to do with the inputs: no choice helps."""
    draw = torch.Generator().manual_seed(1)
    data = torch.randn(90, 5, generator=draw), torch.randint(0, 3, (90,), generator=draw)
    found = dsenv.rehearse(data, MLP, candidates={"same": {"selector": "random"}}, **FEW)
    assert found.best_within_ratio.name == "random" or "same" in found.best_within_ratio.name
    same = next(row for row in found.table if row.name == "same")
    assert same.over_random.mean == 0 and same.over_random.error == 0


def test_one_way_wrong_labels_are_named():
    inputs, _, right = blobs(size=600, noise=0.0)
    labels = right.clone()
    ones = (right == 1).nonzero().squeeze(1)
    labels[ones[: round(0.45 * len(ones))]] = 2
    found = dsenv.rehearse((inputs, labels), MLP, candidates=["trim"], **{**FEW, "epochs": 8})
    assert any("class 1 seem to go to class 2 one way" in text for text in found.says), found.says


def test_several_ratios_have_one_reference():
    found = dsenv.rehearse(blobs()[:2], MLP, candidates=["trim"], ratio=[0.4, 0.7], **FEW)
    names = {(row.name, row.ratio) for row in found.table}
    assert {("random", 0.4), ("random", 0.7), ("trim", 0.4), ("trim", 0.7), ("all data", 1.0)} < names
    zero = [row for row in found.table if row.over_random.error == 0]
    assert [(row.name, row.ratio) for row in zero] == [("random", 0.4)]


@pytest.mark.parametrize("form", ["factory", "class", "table", "images", "data set"])
def test_models_and_data_of_many_forms(form):
    inputs, labels, _ = blobs(features=16)
    images = (40 * inputs + 100).clamp(0, 255).byte().view(-1, 1, 4, 4)

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.out = nn.Parameter(torch.ones(1)), nn.Linear(16, 3)

        def forward(self, x):
            return self.out(F.silu(self.scale * x))

    data, model = {
        "factory": ((inputs, labels), lambda: nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3))),
        "class": (TensorDataset(inputs, labels), Own),
        "table": ((inputs.numpy(), labels.numpy()), MLP),
        "images": ((images, labels), None),
        "data set": (from_tensors(images, labels, validation=10, test=10), None),
    }[form]
    found = dsenv.rehearse(data, model, candidates=["trim"], **FEW)
    rows = {row.name: row for row in found.table}
    assert rows["all data"].accuracy > 0.6


def test_the_usual_candidates_run_the_shipped_policies():
    found = dsenv.rehearse(blobs(size=90)[:2], MLP, **FEW)
    names = {row.name for row in found.table}
    assert {"random", "trim", "small_loss", "infobatch", "order_dp", "all data"} < names
    said = " ".join([*names, *found.left_out])
    assert all(f"policy {name}" in said for name in dsenv.pretrained.names())


@pytest.mark.fast
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ratio": 1.0}, "ratio 1 is all data"),
        ({"ratio": []}, "got none"),
        ({"ratio": 0}, "ratio must be in"),
        ({"epochs": 1}, "epochs must be a whole number from 2"),
        ({"folds": 1}, "folds must be a whole number from 2"),
        ({"minutes": 0}, "minutes must be a number above 0"),
        ({"most_samples": 3}, "most_samples must be"),
        ({"candidates": ["trimm"]}, "Did you mean 'trim'"),
        ({"recipe": {"learning_rate": 0.1}}, "no setting of recipe called 'learning_rate'"),
        ({"model": nn.Linear(6, 3)}, "built already"),
        ({"model": "mpl"}, "Did you mean 'mlp'"),
        ({"model": lambda: nn.Linear(6, 4)}, "logits of shape"),
        ({"device": "tpu"}, "no device called 'tpu'"),
        ({"progress": 3}, "progress must be True or False"),
    ],
)
def test_mistakes_show_before_anything_is_trained(settings, words, monkeypatch):
    monkeypatch.setattr("dsenv.rehearsal.halving.run", None)
    model = {"model": MLP}
    with pytest.raises(ValueError, match=words):
        dsenv.rehearse(blobs()[:2], **{**model, **FEW, **settings})


def test_no_time_at_all_is_said(monkeypatch):
    monkeypatch.setattr("dsenv.rehearsal.halving.Halving._probe", lambda _: 1e-9)
    with pytest.raises(ValueError, match="minutes = 1e-09 is too short for a single candidate"):
        dsenv.rehearse(blobs()[:2], MLP, candidates=["trim"], **{**FEW, "minutes": 1e-9})
