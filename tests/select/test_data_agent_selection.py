"""Which samples the Data Agent chooses, its state, and its errors."""

import pytest
import torch
from torch import Tensor

from dsenv.outputs import ModelOutputs
from dsenv.select import data_agent
from dsenv.select.data_agent import DataAgent, DataAgentConfig, choose_by_rank
from dsenv.signals import SampleSignals
from tests.select.batches import random_batch, stream


@pytest.mark.fast
@pytest.mark.parametrize("variant", ["bandit", "released"])
def test_selection_starts_after_the_warmup(variant: str) -> None:
    agent, signals, g = DataAgent({"variant": variant}), SampleSignals(64, 7), stream()
    assert len(agent.select(signals, 64, g).index.unique()) == 64
    agent.observe(random_batch())
    chosen = agent.select(signals, 20, g)
    best = agent.score.topk(19 if variant == "bandit" else 20).indices
    assert set(best.tolist()) <= set(chosen.index.tolist())
    assert len(chosen.index.unique()) == 20
    assert (chosen.weight == (64 / 20 if variant == "released" else 1)).all()


@pytest.mark.fast
def test_warmup_and_annealing_are_uniform() -> None:
    agent = DataAgent({"warmup": 2, "planned": 16, "explore": 0.0}, size=64)
    agent.observe(random_batch())
    best = set(agent.score.topk(16).indices.tolist())
    signals, g = SampleSignals(64, 7), stream()
    by_rank = []
    for _ in range(16):
        by_rank.append(set(agent.select(signals, 16, g).index.tolist()) == best)
        agent.observe(random_batch())
        agent.learner = None  # keep the first policy
    assert by_rank == [False] * 2 + [True] * 12 + [False] * 2


@pytest.mark.fast
def test_learning_rate_decays_to_one_percent() -> None:
    config = DataAgentConfig(planned=11)
    assert config.lr_at(0) == config.lr
    assert config.lr_at(5) == pytest.approx(0.505 * config.lr)
    assert config.lr_at(10) == config.lr_at(99) == pytest.approx(0.01 * config.lr)
    for planned in (None, 1):
        assert DataAgentConfig(planned=planned).lr_at(3) == config.lr
    agent, signals = DataAgent(config, size=64), SampleSignals(64, 7)
    agent.observe(random_batch())
    for selection in range(3):
        agent.select(signals, 20, stream())
        assert agent.learner is not None
        assert agent.learner.optimizer.param_groups[0]["lr"] == config.lr_at(selection)


class ReleasedSampler:
    """The published sampler, told each epoch's number as it should be: reset once before training."""

    def __init__(self, epochs: int, delta: float) -> None:
        self.stop_prune, self.seed, self.current_epoch = epochs * delta, 0, 0
        self.prunes = self.reset()

    def reset(self) -> bool:
        self.seed += 1
        return not (self.seed > self.stop_prune or self.current_epoch < 1)

    def run(self, epoch: int) -> bool:
        """Whether an epoch is pruned; the next one is decided at its end."""
        self.current_epoch = epoch + 1
        prunes, self.prunes = self.prunes, self.reset()
        return prunes


@pytest.mark.fast
@pytest.mark.parametrize("anneal", [0.0, 0.1, 0.125, 0.25, 0.5])
def test_full_epochs_of_the_released_variant_are_those_of_its_sampler(anneal: float) -> None:
    for planned in (*range(1, 31), 90, 100, 200):
        sampler = ReleasedSampler(planned, 1 - anneal)
        config = DataAgentConfig(variant="released", planned=planned, anneal=anneal)
        assert [not config.uniform(epoch) for epoch in range(planned)] == list(
            map(sampler.run, range(planned))
        )


@pytest.mark.fast
def test_an_annealed_run_ends_with_at_least_one_uniform_selection() -> None:
    for planned in (2, 3, 5, 7):
        assert DataAgentConfig(planned=planned).uniform(planned - 1)
        assert not DataAgentConfig(planned=planned, anneal=0.0).uniform(planned - 1)
    assert sum(not DataAgentConfig(planned=10, anneal=0.9, warmup=0).uniform(e) for e in range(10)) == 1


@pytest.mark.fast
def test_the_released_step_size_falls_at_the_end_of_an_epoch() -> None:
    """Its loop calls `lr_decay(epoch)` after the epoch, so each epoch has the step size of the one before."""
    config = DataAgentConfig(variant="released", planned=8)
    lr, used = config.lr, []
    for epoch in range(8):
        used.append(lr)
        lr = config.lr * (1 - 0.99 / (8 - 1) * epoch)
    assert [config.lr_at(selection) for selection in range(8)] == pytest.approx(used)


@pytest.mark.fast
def test_one_sample_alone_does_not_spoil_the_released_agent() -> None:
    agent = DataAgent({"variant": "released", "rollout": 1}, size=64)
    agent.observe(random_batch(1))
    agent.observe(random_batch(64))
    assert agent.score.isfinite().all()
    assert agent.learner is not None
    assert all(parameter.isfinite().all() for parameter in agent.learner.networks.parameters())


def slow_choice(score: list[float], age: list[int], count: int, decay: float) -> set[int]:
    order = sorted(range(len(score)), key=lambda i: -score[i])
    distance = {i: rank / (len(score) - 1) * decay ** age[i] for rank, i in enumerate(order)}
    nearest = sorted(distance, key=lambda i: distance[i])
    gap = distance[nearest[count]] - distance[nearest[count - 1]]
    assert gap > 1e-5 * distance[nearest[count]]  # rounding does not decide who is the last
    return set(nearest[:count])


@pytest.mark.fast
def test_choice_equals_its_definition() -> None:
    g = stream()
    score, age = torch.rand(200, generator=g), torch.randint(0, 30, (200,), generator=g)
    fast = choose_by_rank(score, age, 70, 0.0, 0.9, g)
    assert set(fast.tolist()) == slow_choice(score.tolist(), age.tolist(), 70, 0.9)
    explored = choose_by_rank(score, age, 70, 0.1, 0.9, g)
    assert len(explored.unique()) == 70
    assert len(slow_choice(score.tolist(), age.tolist(), 63, 0.9) - set(explored.tolist())) == 0


@pytest.mark.fast
def test_choice_breaks_ties_at_random_and_ages() -> None:
    g, flat = stream(), torch.ones(100)
    chosen = choose_by_rank(flat, torch.zeros(100), 50, 0.0, 1.0, g)
    assert 10 < (chosen < 50).sum() < 40
    score, age = torch.linspace(0, 1, 100), torch.zeros(100)
    age[0] = 1000
    assert 0 in choose_by_rank(score, age, 10, 0.0, 0.9, g)
    assert 0 not in choose_by_rank(score, age, 10, 0.0, 1.0, g)


def unseen_share(config: dict[str, object], size: int = 500, epochs: int = 60, ratio: float = 0.5) -> float:
    """Share of the samples that no epoch of the last quarter trains on."""
    agent, signals, g = DataAgent(config), SampleSignals(size, 10), stream()
    features = torch.randn(size, 8, generator=g)
    base = features[:, 0].sigmoid()
    seen = torch.zeros(size, dtype=torch.bool)
    for epoch in range(epochs):
        chosen = agent.select(signals, size if epoch == 0 else int(ratio * size), g).index
        if epoch >= epochs * 3 // 4:
            seen[chosen] = True
        for index in torch.split(chosen, 250):
            loss = base[index] + 0.3 * torch.rand(len(index), generator=g)
            logits = torch.randn(len(index), 10, generator=g) / base[index, None]
            agent.observe(ModelOutputs(index, torch.zeros_like(index), loss, logits, features[index]))
    return 1 - seen.float().mean().item()


def test_no_sample_is_starved() -> None:
    """The default leaves none out; without its two means against starving it would."""
    assert unseen_share({}) <= 0.006  # 3 of 500 samples; 0 with each of 4 seeds
    assert unseen_share({"age_decay": 1.0, "explore": 0.0}) > 0.05
    assert unseen_share({"variant": "released", "rollout": 1, "passes": 1}) > 0.2


def play(agent: DataAgent, signals: SampleSignals, g: torch.Generator, epochs: range) -> list[Tensor]:
    chosen = []
    for epoch in epochs:
        chosen.append(agent.select(signals, 40, g).index)
        for batch in range(7):
            agent.observe(random_batch(seed=100 * epoch + batch))
    return chosen


@pytest.mark.parametrize("variant", [pytest.param("bandit", marks=pytest.mark.fast), "released"])
def test_a_run_resumes_bit_for_bit(variant: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    config, signals = {"variant": variant, "planned": 4}, SampleSignals(64, 7)
    agent, g = DataAgent(config, seed=5), stream(1)
    play(agent, signals, g, range(2))
    torch.save({"agent": agent.state_dict(), "stream": g.get_state()}, tmp_path / "state.pt")
    rest = play(agent, signals, g, range(2, 4))
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed, g2 = DataAgent(config, seed=5), stream(2)
    resumed.load_state_dict(saved["agent"])
    g2.set_state(saved["stream"])
    again = play(resumed, signals, g2, range(2, 4))
    assert all(torch.equal(a, b) for a, b in zip(rest, again, strict=True))
    assert torch.equal(agent.score, resumed.score)
    assert agent.learner is not None and resumed.learner is not None
    for a, b in zip(agent.learner.networks.parameters(), resumed.learner.networks.parameters(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(agent.learner.generator.get_state(), resumed.learner.generator.get_state())


@pytest.mark.fast
def test_an_untouched_agent_has_a_state_too() -> None:
    fresh = DataAgent()
    fresh.load_state_dict(DataAgent().state_dict())
    assert len(fresh.select(SampleSignals(64, 7), 10, stream()).index) == 10


@pytest.mark.parametrize("variant", ["bandit", "released"])
def test_one_seed_gives_one_run_and_global_streams_stay(variant: str) -> None:
    before = torch.random.get_rng_state()
    runs = []
    for _ in range(2):
        agent = DataAgent({"variant": variant}, seed=3)
        runs.append(play(agent, SampleSignals(64, 7), stream(), range(2)))
        torch.rand(5)
        torch.random.set_rng_state(before)
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    agent = DataAgent({"variant": variant}, seed=3)
    play(agent, SampleSignals(64, 7), stream(), range(2))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.fast
def test_prepare_refreshes_every_score(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_agent, "FORWARD_ROWS", 10)  # several parts, the last one shorter
    agent, batch = DataAgent(size=64), random_batch()
    assert batch.features is not None
    agent.observe(random_batch(seed=1))
    agent.prepare(ModelOutputs(batch.index, batch.labels, batch.loss, None, batch.features))
    assert agent.learner is not None
    torch.testing.assert_close(agent.score[batch.index], agent.learner.scores(batch.features))


@pytest.mark.fast
def test_observe_does_not_keep_or_change_the_models_graph() -> None:
    batch = random_batch()
    assert batch.features is not None and batch.logits is not None
    features, logits = batch.features.requires_grad_(), batch.logits.requires_grad_()
    loss = torch.nn.functional.cross_entropy(logits, batch.labels, reduction="none")
    agent = DataAgent({"rollout": 1}, size=64)
    agent.observe(ModelOutputs(batch.index, batch.labels, loss, logits, features))
    assert features.grad is None and logits.grad is None
    loss.mean().backward()


@pytest.mark.fast
def test_batches_may_differ_in_size() -> None:
    for variant in ("bandit", "released"):
        agent = DataAgent({"variant": variant, "rollout": 2}, size=64)
        agent.observe(random_batch(64))
        agent.observe(random_batch(9))
        assert agent.score.isfinite().all()


@pytest.mark.fast
@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"variant": "relesed"}, "Did you mean 'released'"),
        ({"entropi": 0.1}, "Did you mean 'entropy'"),
        ({"clip": 1.5}, "clip must be in"),
        ({"age_decay": 0.0}, "age_decay must be in"),
        ({"rollout": 0}, "rollout must be a whole number of at least 1"),
        ({"entropy": -1.0}, "entropy must be a number of at least 0"),
        ({"variant": "released", "explore": 0.1}, "no effect in the released variant"),
    ],
)
def test_config_errors(config: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataAgent(config)


@pytest.mark.fast
def test_use_errors() -> None:
    batch = random_batch()
    assert batch.features is not None
    with pytest.raises(ValueError, match="call select first"):
        DataAgent().observe(batch)
    assert DataAgent.needs_logits and DataAgent.needs_features
    with pytest.raises(ValueError, match="last linear layer"):
        DataAgent(size=64).observe(ModelOutputs(batch.index, batch.labels, batch.loss, batch.logits))
    with pytest.raises(ValueError, match="pass the model's outputs"):
        DataAgent(size=64).observe(ModelOutputs(batch.index, batch.labels, batch.loss, None, batch.features))
    with pytest.raises(ValueError, match="built for 3 features"):
        DataAgent(size=64, features=3).observe(batch)
    with pytest.raises(ValueError, match="another data set"):
        DataAgent(size=64).select(SampleSignals(65, 7), 3, stream())
    with pytest.raises(ValueError, match="flatten or pool"):
        wide = batch.features[:, :, None]
        DataAgent(size=64).observe(ModelOutputs(batch.index, batch.labels, batch.loss, batch.logits, wide))
    with pytest.raises(ValueError, match=r"settings\.config\.variant' = 'released', here it is 'bandit'"):
        DataAgent().load_state_dict(DataAgent({"variant": "released"}).state_dict())
