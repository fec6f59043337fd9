import pytest
import torch

from dsenv.control.curriculum import bin_log_weights
from dsenv.control.state import loss_bins
from dsenv.rng import Streams
from dsenv.select import gumbel_top_k
from dsenv.select.base import Selection, StackedSelection


def streams(replicas, seed=0):
    made = Streams(replicas, torch.device("cpu"))
    for k in range(replicas):
        made.seed(k, seed + k)
    return made


def slow_bins(score, pool, bins):
    """Rank one row by hand."""
    members = [i for i in range(len(score)) if pool[i]]
    order = sorted(members, key=lambda i: float(score[i]))
    found = {i: min(bins - 1, rank * bins // len(members)) for rank, i in enumerate(order)}
    return [found.get(i, bins - 1) for i in range(len(score))]


@pytest.mark.fast
@pytest.mark.parametrize("bins", [2, 5, 7])
def test_bins_equal_their_definition(bins):
    score, pool = torch.randn(4, 23), torch.rand(4, 23) > 0.3
    pool[:, 0] = True
    expected = [slow_bins(score[k], pool[k], bins) for k in range(4)]
    assert loss_bins(score, pool, bins).tolist() == expected


@pytest.mark.fast
def test_log_weights_leave_out_what_is_not_in_the_pool():
    bins, pool = torch.tensor([[0, 1, 1]]), torch.tensor([[True, True, False]])
    weights = bin_log_weights(torch.tensor([[2.0, -1.0]]), bins, pool)
    assert weights.tolist() == [[2.0, -1.0, -torch.inf]]


@pytest.mark.fast
def test_draws_are_exact_in_number_and_without_replacement():
    log_weight = torch.randn(3, 40)
    log_weight[1, ::2] = -torch.inf
    drawn = gumbel_top_k(log_weight, [40, 20, 0], streams(3))
    assert drawn.counts == (40, 20, 0) and drawn.index.shape == (3, 40)
    assert sorted(drawn.index[0].tolist()) == list(range(40))
    chosen = drawn.index[1][:20].tolist()
    assert len(set(chosen)) == 20 and all(i % 2 == 1 for i in chosen)
    assert (drawn.index[1][20:] == 40).all() and (drawn.index[2] == 40).all()
    assert torch.equal(drawn.weight, (drawn.index < 40).float())


@pytest.mark.fast
def test_a_row_does_not_depend_on_the_others():
    log_weight = torch.randn(3, 30)
    together = gumbel_top_k(log_weight, [5, 17, 30], streams(3))
    for k, count in enumerate([5, 17, 30]):
        alone = gumbel_top_k(log_weight[k : k + 1], [count], streams(1, seed=k))
        assert torch.equal(alone.index[0], together.index[k, :count])


def test_the_first_draw_follows_the_weights():
    weights = torch.tensor([0.5, 0.3, 0.15, 0.05])
    drawn = gumbel_top_k(weights.log().expand(20_000, 4), [1] * 20_000, streams(20_000))
    shares = torch.bincount(drawn.index[:, 0], minlength=4) / 20_000
    torch.testing.assert_close(shares, weights, atol=0.015, rtol=0)


@pytest.mark.fast
def test_the_training_order_is_shuffled():
    """Heavy samples must not all come first: the order within a selection carries no weight."""
    log_weight = torch.linspace(10, -10, 100).expand(200, 100)
    drawn = gumbel_top_k(log_weight, [100] * 200, streams(200))
    position = drawn.index.argsort(1).float().mean(0)
    assert abs(float(position[:50].mean() - position[50:].mean())) < 3


@pytest.mark.fast
def test_selections_of_different_length_are_padded():
    one = Selection(torch.tensor([4, 2]), torch.ones(2))
    other = Selection(torch.tensor([1]), torch.tensor([3.0]))
    stacked = StackedSelection.of([one, other], size=9)
    assert stacked.index.tolist() == [[4, 2], [1, 9]]
    assert stacked.weight.tolist() == [[1, 1], [3, 0]] and stacked.counts == (2, 1)
