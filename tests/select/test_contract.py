"""What every selector promises, tested on all of them."""

import itertools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dsenv.outputs import ModelOutputs
from dsenv.select.base import Selection, Selector
from dsenv.select.ccs import CCS
from dsenv.select.divbs import DivBS
from dsenv.select.epsilon_greedy import EpsilonGreedy
from dsenv.select.forgetting import Forgetting
from dsenv.select.glister import Glister
from dsenv.select.grand import GraNd
from dsenv.select.herding import Herding
from dsenv.select.history import HistorySelector
from dsenv.select.infobatch import InfoBatch
from dsenv.select.k_center import KCenter
from dsenv.select.moderate import Moderate
from dsenv.select.order_dp import OrderDP
from dsenv.select.random import FixedRandom, UniformRandom
from dsenv.select.ranked import EL2N, Ranked
from dsenv.select.ranking import StaticSelector
from dsenv.select.rho_loss import RhoLoss
from dsenv.select.small_loss import SmallLoss
from dsenv.select.ucb import UCB
from dsenv.signals import SampleSignals

CLASSES, DIMENSIONS = 3, 4

SELECTORS: dict[str, Callable[[int], Selector]] = {
    "uniform": lambda _: UniformRandom(),
    "fixed": lambda _: FixedRandom(),
    "infobatch": lambda _: InfoBatch(),
    "infobatch_random": lambda _: InfoBatch(scores="random"),
    "ucb": lambda _: UCB(),
    "epsilon_greedy": lambda _: EpsilonGreedy(),
    "loss": lambda _: Ranked("loss"),
    "entropy_easiest": lambda _: Ranked("entropy", keep="easiest"),
    "margin": lambda _: Ranked("margin"),
    "label_margin": lambda _: Ranked("label_margin"),
    "el2n": lambda _: EL2N(),
    "el2n_easiest": lambda _: EL2N(keep="easiest"),
    "grand": lambda _: GraNd(),
    "forgetting": lambda _: Forgetting(),
    "herding": lambda _: Herding(),
    "herding_half": lambda _: Herding(budget=0.5),
    "k_center": lambda _: KCenter(),
    "moderate": lambda _: Moderate(),
    "moderate_median": lambda _: Moderate(prototype="median"),
    "ccs": lambda _: CCS(),
    "glister": lambda _: Glister(),
    "glister_grouped": lambda _: Glister(budget=0.5, group=7),
    "rho_loss": lambda n: RhoLoss(torch.linspace(0, 1, n)),
    "rho_loss_pool": lambda n: RhoLoss(torch.linspace(0, 1, n), share=0.3),
    "small_loss": lambda _: SmallLoss(),
    "order_dp": lambda _: OrderDP(),
    "divbs": lambda _: DivBS(batch=8, together=2),
}
FAST = ("uniform", "infobatch", "ucb", "margin", "rho_loss_pool", "ccs", "glister")  # each kind of selector
each_selector = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.fast) if name in FAST else name for name in SELECTORS]
)


def forward(size: int, seed: int, index: torch.Tensor | None = None) -> ModelOutputs:
    """Made-up outputs of a model on `size` samples; index (B,) says which it saw, in which order."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(size, CLASSES, generator=generator)
    labels = torch.randint(CLASSES, (size,), generator=generator)
    features = torch.randn(size, DIMENSIONS, generator=generator)
    loss = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    index = torch.arange(size) if index is None else index
    return ModelOutputs(index, labels[index], loss[index], logits[index], features[index])


def trained(name: str, size: int, share: float = 0.7, seed: int = 0) -> tuple[Selector, SampleSignals]:
    """A selector and signals after some batches on the first `share` of the samples."""
    selector, signals = SELECTORS[name](size), SampleSignals(size, CLASSES)
    if selector.needs_pass:
        order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
        selector.prepare(forward(size, seed, order), forward(9, seed + 1))
    for step in range(3):
        index = torch.arange(int(share * size))
        if len(index):
            batch = forward(size, seed + step, index)
            selector.observe(batch)
            assert batch.logits is not None
            signals.update(index, batch.loss, batch.logits, batch.labels, step)
    return selector, signals


def selected(selector: Selector, signals: SampleSignals, count: int, seed: int = 5) -> Selection:
    return selector.select(signals, count, torch.Generator().manual_seed(seed))


def equal(one: Selection, other: Selection) -> bool:
    return torch.equal(one.index, other.index) and torch.equal(one.weight, other.weight)


@each_selector
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_any_count_is_exact_and_unique(name: str, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 60))
    count = data.draw(st.integers(1, size))
    share = data.draw(st.sampled_from([0.0, 0.5, 1.0]))
    selection = selected(*trained(name, size, share), count)
    assert len(selection.index.unique()) == len(selection.index) == count
    assert selection.index.dtype == torch.int64 and selection.weight.dtype == torch.float32
    assert int(selection.index.min()) >= 0 and int(selection.index.max()) < size
    assert bool((selection.weight > 0).all())


@each_selector
def test_one_seed_one_selection_and_no_global_stream(name: str) -> None:
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    one = [selected(*trained(name, 50), 20) for _ in range(2)]
    assert equal(*one)
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002
    assert before[2] == random.getstate()


@each_selector
def test_signals_are_not_changed(name: str) -> None:
    selector, signals = trained(name, 30)
    before = signals.state_dict()
    selected(selector, signals, 11)
    after = signals.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


@each_selector
@pytest.mark.parametrize("count", [0, 31])
def test_an_impossible_count_is_an_error(name: str, count: int) -> None:
    with pytest.raises(ValueError, match=rf"1 to 30, got count={count}"):
        selected(*trained(name, 30), count)


@each_selector
def test_what_a_selector_declares_is_all_it_needs(name: str) -> None:
    selector = SELECTORS[name](20)

    def declared(full: ModelOutputs) -> ModelOutputs:
        logits = full.logits if selector.needs_logits else None
        return ModelOutputs(
            full.index, full.labels, full.loss, logits, full.features if selector.needs_features else None
        )

    if selector.needs_pass:
        selector.prepare(declared(forward(20, 0)), declared(forward(9, 1)))
    selector.observe(declared(forward(20, 2)))
    assert len(selected(selector, SampleSignals(20, CLASSES), 5).index) == 5


@each_selector
def test_state_survives_saving(name: str, tmp_path: Any) -> None:
    selector, signals = trained(name, 40)
    selected(selector, signals, 10, seed=1)  # draws what is drawn once
    torch.save(selector.state_dict(), tmp_path / "state.pt")
    other = SELECTORS[name](40)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for count in (7, 25):
        assert equal(selected(selector, signals, count), selected(other, signals, count))
    batch = forward(40, 9, torch.arange(5, 25))
    for each in (selector, other):
        each.observe(batch)
    assert equal(selected(selector, signals, 15), selected(other, signals, 15))


@each_selector
def test_state_is_a_copy(name: str) -> None:
    selector, signals = trained(name, 20)
    selected(selector, signals, 5)
    saved = selector.state_dict()
    copy = {key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in saved.items()}
    selector.observe(forward(20, 3))
    for key, value in copy.items():
        assert torch.equal(saved[key], value) if isinstance(value, torch.Tensor) else saved[key] == value


@each_selector
def test_unseen_samples_are_not_left_out(name: str) -> None:
    """With nothing seen, every sample has a chance; with some seen, rankings take the others first."""
    selector, signals = trained(name, 20, share=0.0)
    found = {int(i) for seed in range(60) for i in selected(selector, signals, 8, seed).index}
    static = isinstance(selector, StaticSelector | FixedRandom)
    assert len(found) == (8 if static else 20)
    ranks_unseen_first = isinstance(selector, HistorySelector | Ranked | SmallLoss | OrderDP | RhoLoss)
    if ranks_unseen_first and name not in ("rho_loss_pool", "order_dp", "epsilon_greedy"):
        first = selected(*trained(name, 20, share=0.7), 6).index
        assert set(first.tolist()) == set(range(14, 20))


@pytest.mark.parametrize("name", [n for n, make in SELECTORS.items() if make(2).needs_pass])
class TestStatic:
    def test_selections_are_nested(self, name: str) -> None:
        selector, signals = trained(name, 40)
        chosen = [
            set(selected(selector, signals, count, seed=count).index.tolist()) for count in range(1, 41)
        ]
        assert all(small < large for small, large in itertools.pairwise(chosen))

    def test_order_of_the_pass_does_not_matter(self, name: str) -> None:
        one, signals = trained(name, 40)
        other = SELECTORS[name](40)
        other.prepare(forward(40, 0), forward(9, 1))
        assert set(selected(one, signals, 13).index.tolist()) == set(
            selected(other, signals, 13).index.tolist()
        )

    def test_select_before_prepare_is_an_error(self, name: str) -> None:
        with pytest.raises(ValueError, match="call prepare"):
            selected(SELECTORS[name](10), SampleSignals(10, CLASSES), 3)

    def test_a_pass_over_other_data_is_an_error(self, name: str) -> None:
        selector, _ = trained(name, 20)
        with pytest.raises(ValueError, match="ranked 20 samples, the signals hold 30"):
            selected(selector, SampleSignals(30, CLASSES), 3)

    def test_an_incomplete_pass_is_an_error(self, name: str) -> None:
        with pytest.raises(ValueError, match="each training sample exactly once"):
            SELECTORS[name](20).prepare(forward(20, 0, torch.arange(1, 20)), forward(9, 1))

    def test_missing_outputs_are_an_error(self, name: str) -> None:
        selector = SELECTORS[name](5)
        bare = ModelOutputs(torch.arange(5), torch.zeros(5, dtype=torch.int64), torch.ones(5))
        with pytest.raises(ValueError, match=r"needs the (logits|features) of the pass"):
            selector.prepare(bare, bare)


@pytest.mark.parametrize(
    "name", [n for n, make in SELECTORS.items() if isinstance(make(2), HistorySelector) and make(2).observes]
)
class TestHistory:
    def test_training_without_observe_is_an_error(self, name: str) -> None:
        _, signals = trained(name, 20)
        with pytest.raises(ValueError, match=r"observed no batch, but 14 samples .* call observe"):
            selected(SELECTORS[name](20), signals, 3)

    def test_a_smaller_training_set_is_an_error(self, name: str) -> None:
        selector, _ = trained(name, 20)
        with pytest.raises(ValueError, match="observed position 13, the signals hold only 10"):
            selected(selector, SampleSignals(10, CLASSES), 3)

    def test_batches_before_the_first_select_count(self, name: str) -> None:
        early, signals = trained(name, 20)
        late = SELECTORS[name](20)
        selected(late, SampleSignals(20, CLASSES), 3)  # learns the size
        for step in range(3):
            late.observe(forward(20, step, torch.arange(14)))
        assert equal(selected(early, signals, 12), selected(late, signals, 12))


def test_passes_are_averaged_where_the_method_says_so() -> None:
    signals = SampleSignals(30, CLASSES)
    for selector in (GraNd(), CCS()):
        scores = []
        for seed in range(3):
            single = type(selector)()
            single.prepare(forward(30, seed))
            selector.prepare(forward(30, seed))
            scores.append(single.state_dict()["score"])
        torch.testing.assert_close(selector.state_dict()["score"], torch.stack(scores).mean(0))
    herding = Herding()
    herding.prepare(forward(30, 0))
    first = selected(herding, signals, 10)
    herding.prepare(forward(30, 1))
    assert not equal(first, selected(herding, signals, 10))


def test_missing_logits_of_a_batch_are_an_error() -> None:
    bare = ModelOutputs(torch.arange(5), torch.zeros(5, dtype=torch.int64), torch.ones(5))
    with pytest.raises(ValueError, match="EL2N needs the logits"):
        EL2N().observe(bare)


def test_glister_without_validation_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"validation split.*prepare\(train, validation\)"):
        Glister().prepare(forward(20, 0))
