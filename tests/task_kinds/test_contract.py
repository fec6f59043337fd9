"""Every kind of task keeps one contract: shapes, ranges, scale, metric, and what it refuses."""

import pytest
import torch

from dsenv.task_kinds import KINDS, READINGS, TaskKind, make_kind
from tests.task_kinds.cases import cases

pytestmark = pytest.mark.fast

CASES = cases()
RANGES = {"confidence": (0, 1), "entropy": (0, 1), "margin": (-1, 1), "correct": (0, 1), "error": (0, 1e9)}
ROOM = 1e-5


def outputs_of(case, seed=3):
    """Outputs of a model between a guess and a sure one, with a graph."""
    guess, right = case.guess(case.targets).float(), case.right(case.targets).float()
    share = torch.rand(len(guess), generator=torch.Generator().manual_seed(seed))
    share = share.view(-1, *[1] * (guess.dim() - 1))
    return torch.lerp(guess, right, 0.2 * share - 0.1).requires_grad_()


def test_each_kind_has_a_case():
    assert CASES.keys() == KINDS.keys()


@pytest.mark.parametrize("name", CASES)
def test_the_loss_is_one_number_a_sample_and_has_a_graph(name):
    case = CASES[name]
    outputs = outputs_of(case)
    case.kind.check_outputs(outputs, case.targets)
    loss = case.kind.sample_loss(outputs, case.targets)
    assert loss.shape == (12,)
    assert (loss >= 0).all()

    gradient = torch.autograd.grad(loss[3], outputs)[0]  # of one sample: that of no other moves it
    assert gradient[3].abs().sum() > 0
    assert gradient[torch.arange(12) != 3].abs().sum() == 0


@pytest.mark.parametrize("name", CASES)
def test_readings_are_what_is_promised_and_within_their_ranges(name):
    case = CASES[name]
    outputs = outputs_of(case).detach()
    loss = case.kind.sample_loss(outputs, case.targets)
    found = case.kind.read(outputs, case.targets, loss)
    assert sorted(found) == sorted(case.kind.gives)
    for reading, value in found.items():
        low, high = RANGES[reading]
        assert value.shape == (12,), reading
        assert value.dtype == torch.float32, reading
        assert not value.requires_grad, reading
        assert ((value >= low - ROOM) & (value <= high + ROOM)).all(), reading
    if "correct" in found:
        assert ((found["correct"] == 0) | (found["correct"] == 1)).all()


@pytest.mark.parametrize("name", CASES)
def test_a_guess_has_the_loss_confidence_and_entropy_that_the_kind_says(name):
    case = CASES[name]
    outputs = case.guess(case.targets)
    loss = case.kind.sample_loss(outputs, case.targets)
    assert loss.mean().item() == pytest.approx(case.kind.guess_loss, rel=1e-4)

    found = case.kind.read(outputs, case.targets, loss)
    if "entropy" in found:
        torch.testing.assert_close(found["entropy"], torch.ones(12))
    if "confidence" in found and loss.std() < ROOM:  # targets of regression lie at different distances
        torch.testing.assert_close(found["confidence"], torch.full((12,), case.kind.guess_confidence))


@pytest.mark.parametrize("name", CASES)
def test_outputs_that_are_right_and_sure_have_the_best_of_each(name):
    case = CASES[name]
    outputs = case.right(case.targets)
    loss = case.kind.sample_loss(outputs, case.targets)
    best = {"confidence": 1.0, "entropy": 0.0, "margin": 1.0, "correct": 1.0, "error": 0.0}
    for reading, value in case.kind.read(outputs, case.targets, loss).items():
        torch.testing.assert_close(value, torch.full((12,), best[reading]), atol=1e-4, rtol=0)
    assert loss.max() < 1e-4

    sums = case.kind.statistics(outputs, case.targets, loss).sum(0)
    assert float(case.kind.metric(sums)) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_the_metric_is_made_of_sums_over_samples(name):
    case = CASES[name]
    outputs = outputs_of(case).detach()
    loss = case.kind.sample_loss(outputs, case.targets)
    rows = case.kind.statistics(outputs, case.targets, loss)
    assert rows.shape[0] == 12

    halves = rows[:7].sum(0) + rows[7:].sum(0)
    stacked = case.kind.metric(torch.stack([rows.sum(0), halves]))
    assert stacked.shape == (2,)
    assert ((stacked >= 0) & (stacked <= 1)).all()
    torch.testing.assert_close(stacked[0], stacked[1])


@pytest.mark.parametrize("name", CASES)
def test_targets_of_another_kind_are_refused(name):
    case = CASES[name]
    case.kind.check_targets("targets", case.targets, 12)
    for targets in case.bad:
        with pytest.raises(ValueError, match="targets"):
            case.kind.check_targets("targets", targets, 12)


@pytest.mark.parametrize("name", CASES)
def test_outputs_of_another_kind_are_refused(name):
    case = CASES[name]
    for outputs in (None, torch.zeros(12, dtype=torch.int64), torch.zeros(3, 99)):
        with pytest.raises(ValueError, match="outputs"):
            case.kind.check_outputs(outputs, case.targets)


@pytest.mark.parametrize("name", CASES)
def test_what_is_not_given_has_a_reason(name):
    kind = CASES[name].kind
    for reading in READINGS:
        reason = kind.missing((reading,))
        assert (reason == "") == (reading in kind.gives)
        if reason:
            assert kind.why_not[reading] in reason


def test_a_kind_of_ones_own_needs_a_loss_and_what_it_reads():
    class Half(TaskKind):
        gives = ("margin",)

        def sample_loss(self, outputs, targets):
            return (outputs - targets).abs()

        def read(self, outputs, targets, loss):
            return {"margin": (1 - loss).clamp(min=-1)}

    kind = make_kind(Half)
    assert (kind.name, kind.classes) == ("Half", None)
    assert "gives no entropy: it is not defined for it" in kind.missing(("entropy",))
    with pytest.raises(ValueError, match=r"gives has 'colour'; there are: confidence, entropy"):
        type("Wrong", (Half,), {"gives": ("colour",)})


def test_a_name_that_is_no_kind_names_the_nearest():
    with pytest.raises(ValueError, match="regression"):
        make_kind("regresion")


def test_targets_far_from_zero_are_said_once():
    with pytest.warns(UserWarning, match="standard deviations away from 0"):
        make_kind("regression").fitted(torch.randn(50, generator=torch.Generator().manual_seed(0)) + 100)


def test_the_metric_of_regression_is_the_share_of_the_variance_that_is_explained():
    targets = 1000 + torch.randn(400, 1, generator=torch.Generator().manual_seed(0))
    outputs = targets + 0.5 * torch.randn(400, 1, generator=torch.Generator().manual_seed(1))
    kind = make_kind({"name": "regression", "scale": 1.0})
    found = kind.metric(kind.statistics(outputs, targets, torch.zeros(400)).sum(0))
    wanted = 1 - (outputs - targets).square().sum() / (targets - targets.mean()).square().sum()
    assert float(found) == pytest.approx(float(wanted), abs=1e-4)
