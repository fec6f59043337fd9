import pytest
import torch

from dsenv.rng import Streams

pytestmark = pytest.mark.fast


def test_a_stream_does_not_depend_on_its_neighbours():
    many, alone = Streams(3, torch.device("cpu")), Streams(1, torch.device("cpu"))
    for k in range(3):
        many.seed(k, 10 + k)
    alone.seed(0, 12)
    assert torch.equal(many.uniform(5)[2:], alone.uniform(5))
    # logarithms of another number of values may end in other bits
    torch.testing.assert_close(many.gumbel(5)[2:], alone.gumbel(5))


def test_a_kept_generator_is_a_stream_of_one():
    kept, alike = torch.Generator().manual_seed(4), torch.Generator().manual_seed(4)
    streams = Streams.of(kept)
    assert streams[0] is kept
    assert torch.equal(streams.uniform(5), torch.rand(1, 5, generator=alike))


def test_the_global_stream_is_left_alone_and_the_state_goes_on():
    streams = Streams(2, torch.device("cpu"))
    before = torch.random.get_rng_state()
    streams.uniform(4)
    assert torch.equal(before, torch.random.get_rng_state())
    state = streams.state_dict()
    first = streams.uniform(4)
    streams.load_state_dict(state)
    assert torch.equal(first, streams.uniform(4))


def test_a_state_of_another_kind_of_device_is_refused():
    streams = Streams(2, torch.device("cpu"))
    state = {"generators": [torch.zeros(16, dtype=torch.uint8)] * 2}  # what a generator of CUDA gives
    with pytest.raises(ValueError, match="not those of 'cpu': what was saved on a GPU goes on on a GPU"):
        streams.load_state_dict(state)


def test_gumbel_has_mean_gamma_and_deviation_of_the_distribution():
    streams = Streams(1, torch.device("cpu"))
    streams.seed(0, 0)
    draws = streams.gumbel(200_000)
    assert abs(float(draws.mean()) - 0.5772) < 0.01
    assert abs(float(draws.std()) - 1.2825) < 0.01
