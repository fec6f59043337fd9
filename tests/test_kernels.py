from contextlib import contextmanager

import pytest
import torch
from torch.nn import functional

from dsenv import kernels, scan
from tests.waits import stand_in, true_gpu


@pytest.mark.fast
@pytest.mark.parametrize("shape", [(7,), (5, 3), (2, 5, 10), (1, 1, 2)])
def test_log_softmax(shape):
    logits = 10 * torch.randn(shape)
    torch.testing.assert_close(kernels.log_softmax(logits), logits.log_softmax(-1))


@pytest.mark.fast
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_and_its_gradient(smoothing):
    logits = torch.randn(9, 4, requires_grad=True)
    labels = torch.arange(9) % 4
    fast = kernels.cross_entropy(logits, labels, smoothing)
    slow = functional.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(fast, slow)
    weight = torch.rand(9)
    gradients = [torch.autograd.grad((weight * loss).sum(), logits)[0] for loss in (fast, slow)]
    torch.testing.assert_close(*gradients)


@pytest.mark.fast
def test_sort_and_argsort_with_infinities():
    values = torch.randn(4, 50)
    values[1, 7], values[2, 3] = torch.inf, -torch.inf
    torch.testing.assert_close(kernels.sort(values), values.sort(-1).values)
    torch.testing.assert_close(values.gather(1, kernels.argsort(values)), values.sort(-1).values)
    down = values.gather(1, kernels.argsort(values, descending=True))
    torch.testing.assert_close(down, values.sort(-1, descending=True).values)


@pytest.fixture(params=["plain", "large"])
def path(request, monkeypatch):
    """The same calls by the plain form and by that for many samples."""
    if request.param == "large":
        monkeypatch.setattr(kernels, "LARGE", 1)
        monkeypatch.setattr(scan, "BLOCK", 50)
    return request.param


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.fast
@pytest.mark.parametrize("count", [0, 1, 90, 200])
def test_top_k_takes_the_largest(path, count):
    values = torch.randn(200, generator=stream()).round(decimals=1)
    for generator in (None, stream(1)):
        chosen = kernels.top_k(values, count, generator)
        assert chosen.dtype == torch.int64 and len(chosen.unique()) == count
        assert torch.equal(values[chosen].sort().values, values.sort().values[200 - count :])


@pytest.mark.fast
def test_the_same_seed_makes_the_same_choice_and_goes_on(path):
    values = torch.zeros(200)
    calls = (
        lambda g: kernels.top_k(values, 70, g),
        lambda g: kernels.ranking(values, g),
        lambda g: kernels.subset(200, 70, g),
        lambda g: kernels.permutation(200, g),
    )
    for call in calls:
        one, other = stream(3), stream(3)
        first = call(one)
        assert torch.equal(first, call(other)) and not torch.equal(first, call(one))


@pytest.mark.fast
def test_rankings_and_permutations_hold_every_position_once(path):
    values = torch.randn(200, generator=stream()).round(decimals=1)
    order = kernels.ranking(values, stream())
    assert torch.equal(values[order], values.sort(descending=True).values)
    for everything in (kernels.permutation(200, stream()), kernels.subset(200, 200, stream())):
        assert torch.equal(everything.sort().values, torch.arange(200))


@pytest.mark.parametrize("take", [1, 60])
def test_subsets_are_uniform(path, take):
    generator, hits = stream(), torch.zeros(200)
    for _ in range(1000):
        hits[kernels.subset(200, take, generator)] += 1
    share = take / 200
    assert float((hits / 1000 - share).abs().max()) < 4.5 * (share * (1 - share) / 1000) ** 0.5 + 1e-6


@pytest.mark.fast
def test_both_forms_of_rank_bins_agree_on_distinct_values(monkeypatch):
    values, members = torch.randn(3, 120, generator=stream()), torch.tensor([[120], [70], [1]])
    plain = kernels.rank_bins(values, members, 7)
    monkeypatch.setattr(kernels, "LARGE", 1)
    assert torch.equal(kernels.rank_bins(values, members, 7), plain)


@pytest.mark.fast
def test_long_rows_of_float32_count_as_large(monkeypatch):
    monkeypatch.setattr(kernels, "LARGE", 3)
    assert kernels.is_large(torch.zeros(3))
    for other in (torch.zeros(2), torch.zeros(3, 3), torch.zeros(3, dtype=torch.float64), torch.arange(3)):
        assert not kernels.is_large(other)


@pytest.mark.fast
def test_positions_of_a_mask():
    mask = torch.rand(99, generator=stream()) < 0.3
    assert torch.equal(kernels.positions(mask, int(mask.sum())), mask.nonzero().squeeze(1))


@pytest.fixture(params=["cpu", "stand_in", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request):
    """The CPU, the stand-in for a GPU, and a GPU where there is one."""
    with {"cpu": cpu, "stand_in": stand_in, "gpu": true_gpu}[request.param]() as device:
        yield device


@contextmanager
def cpu():
    yield torch.device("cpu")


@pytest.mark.fast
def test_sums_by_group_are_those_of_each_group_and_the_same_in_every_call(device):
    values, group = torch.randn(3, 2, 500, generator=stream()), torch.randint(7, (3, 500), generator=stream())
    wanted = torch.stack([(values * (group == number)[:, None]).sum(2) for number in range(9)], 2)
    given = values.to(device), group.to(device)
    found = [kernels.sums_by_group(*given, 9).cpu() for _ in range(3)]
    torch.testing.assert_close(found[0], wanted)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.fast
def test_rows_are_added_where_they_belong_and_the_same_in_every_call(device):
    rows, index = torch.randn(500, 6, generator=stream()), torch.randint(7, (500,), generator=stream())
    wanted = torch.stack([rows[index == number].sum(0) for number in range(9)])
    found = [
        kernels.add_rows(torch.zeros(9, 6, device=device), index.to(device), rows.to(device)).cpu()
        for _ in range(3)
    ]
    torch.testing.assert_close(found[0], wanted)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.fast
@pytest.mark.gpu
def test_choosing_on_a_gpu_waits_for_nothing():
    generator = torch.Generator("cuda").manual_seed(0)
    values = torch.randn(1_000_000, device="cuda", generator=generator)
    mask = values > 0
    above = int(mask.sum())
    torch.cuda.set_sync_debug_mode("error")
    try:
        chosen = kernels.top_k(values, 1000, generator)
        order = kernels.ranking(values, generator)
        part = kernels.subset(len(values), 1000, generator)
        found = kernels.positions(mask, above)
        whole = torch.full((1, 1), len(values), device="cuda")
        bins = kernels.rank_bins(values[None], whole, 8)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(values[chosen].sort().values, values.sort().values[-1000:])
    assert torch.equal(values[order], values.sort(descending=True).values)
    assert len(part.unique()) == 1000 and torch.equal(found, mask.nonzero().squeeze(1))
    assert bins[0].bincount(minlength=8).tolist() == [125_000] * 8


@pytest.mark.fast
@pytest.mark.parametrize("least", [1, 1 << 30])
def test_a_packed_linear_layer_and_its_gradients(least, monkeypatch):
    monkeypatch.setattr(kernels, "ONEDNN_WORTH", least)
    inputs, layer = torch.randn(33, 20, generator=stream()), torch.nn.Linear(20, 6)
    weight = torch.rand(33, 6, generator=stream())
    parameters = list(layer.parameters())
    found = kernels.linear(kernels.packed(inputs), *parameters)
    torch.testing.assert_close(found, layer(inputs))
    gradients = [torch.autograd.grad((weight * out).sum(), parameters) for out in (found, layer(inputs))]
    torch.testing.assert_close(*gradients)


@pytest.mark.fast
@pytest.mark.parametrize("size", [1, 2, 128])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.95, 1.0])
def test_quantile(size, share):
    values = torch.randn(size, generator=stream())
    torch.testing.assert_close(kernels.quantile(values, share), torch.quantile(values, share))
