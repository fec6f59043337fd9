import pytest
import torch

from dsenv.policy import SetBetaNetwork, SetNetwork

pytestmark = pytest.mark.fast

NETWORKS = (SetNetwork, SetBetaNetwork)


def inputs(sets=4, number=9, features=5, real=6):
    generator = torch.Generator().manual_seed(0)
    state = torch.randn(sets, 3, generator=generator)
    candidates = torch.randn(sets, number, features, generator=generator)
    candidates[..., 0] = (torch.arange(number) < real).float()
    return state, candidates


@pytest.fixture(params=NETWORKS)
def network(request):
    torch.manual_seed(0)
    made = request.param(3, 5, hidden=16)
    torch.nn.init.normal_(made.score_head.weight)  # at first all scores are nearly equal
    return made


def test_shapes_and_range(network):
    scores, value = network(*inputs())
    assert scores.shape == (4, 9) and value.shape == (4,)
    limit = 0.5 if type(network) is SetNetwork else 1
    assert scores[:, :6].abs().max() < limit and scores[:, :6].std() > 0.05
    assert (scores[:, 6:] == -1).all()


def test_permuting_the_candidates_permutes_the_scores(network):
    state, candidates = inputs()
    order = torch.tensor([8, 3, 0, 5, 7, 1, 6, 2, 4])
    scores, value = network(state, candidates)
    permuted, same = network(state, candidates[:, order])
    torch.testing.assert_close(permuted, scores[:, order])
    torch.testing.assert_close(same, value)


def test_padding_is_never_read(network):
    state, candidates = inputs()
    scores, value = network(state, candidates)
    candidates[:, 6:, 1:] = 1e6
    for changed in (candidates, candidates[:, :6]):
        again, same = network(state, changed)
        torch.testing.assert_close(again[:, :6], scores[:, :6])
        torch.testing.assert_close(same, value)


def test_each_score_depends_on_the_candidate_its_set_and_the_state(network):
    state, candidates = inputs()
    candidates.requires_grad_(), state.requires_grad_()
    scores, _ = network(state, candidates)
    to_candidates, to_state = torch.autograd.grad(scores[0, 0], (candidates, state))
    assert (to_candidates[0, :6].abs().sum(1) > 0).all() and (to_candidates[0, 6:] == 0).all()
    assert (to_candidates[1:] == 0).all() and to_state[0].abs().sum() > 0


def test_a_set_of_padding_alone_is_finite(network):
    state, candidates = inputs(real=0)
    scores, value = network(state, candidates)
    assert (scores == -1).all() and value.isfinite().all()


def test_export_and_import_leave_scores_and_the_global_stream_alone(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "network.pt")
    before = torch.random.get_rng_state()
    again = type(network).from_state_dict(torch.load(tmp_path / "network.pt"))
    assert torch.equal(before, torch.random.get_rng_state())
    for ours, theirs in zip(network(*inputs()), again(*inputs()), strict=True):
        assert torch.equal(ours, theirs)


def test_sizes_below_one_are_refused():
    with pytest.raises(ValueError, match=r"must be >= 1, got \(0, 5, 64\)"):
        SetNetwork(0, 5)
