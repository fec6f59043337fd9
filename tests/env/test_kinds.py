"""Environments of tasks that are no classification: targets, noise, metric, states, and what is refused."""

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from torch import nn

from dsenv import Recipe, Task, TrainingEnv
from dsenv.env.context import Context, mismatched
from dsenv.tasks import from_tensors

KINDS = ("regression", "multilabel")


def task_of(kind, size=240):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(size, 6, generator=generator)
    scores = inputs @ torch.randn(6, 3, generator=generator)
    targets = scores / scores.std(0) if kind == "regression" else (scores > 0).long()
    data = from_tensors(inputs, targets, validation=40, test=60, kind=kind)
    return Task(data, lambda: nn.Linear(6, 3), Recipe(lr=0.1, batch_size=20))


def env_of(kind, **settings):
    settings = {"control": "curriculum", "intervals": 4, "ratio": 0.5, "bins": 4} | settings
    return TrainingEnv(task=task_of(kind), **settings)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("control", ["curriculum", "ratio", {"name": "mask", "candidates": 20}])
def test_an_environment_of_each_kind_passes_gymnasiums_checks(kind, control):
    check_env(env_of(kind, control=control), skip_render_check=True)


@pytest.mark.parametrize("kind", KINDS)
def test_an_episode_learns_and_its_accuracy_is_the_metric_of_the_kind(kind):
    env = env_of(kind)
    env.reset(seed=0)
    for _ in range(4):
        _, _, ended, _, info = env.step(np.zeros(env.action_space.shape, np.float32))
    assert ended
    assert info["val_accuracy"] > 0.6

    trainer, task = env.episodes.sessions()[0].trainer, env.episodes.sessions()[0].task
    data = trainer.split("validation")
    with torch.no_grad():
        outputs, _ = trainer.replicas.predict(data.normalise(data.images[: data.size])[None])
    loss = task.kind.sample_loss(outputs[0], data.labels)
    score = task.kind.metric(task.kind.statistics(outputs[0], data.labels, loss).sum(0))
    assert info["val_accuracy"] == pytest.approx(float(score), abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_noise_exchanges_targets_and_what_was_chosen_of_it_is_told(kind):
    env = env_of(kind, context={"label_noise": 0.4})
    env.reset(seed=1)
    wrong = env.episodes.sessions()[0].trainer.wrong[0]
    share = float(wrong.float().mean())
    assert 0.2 < share < 0.401  # an exchanged target may be equal
    if kind == "regression":
        assert share == pytest.approx(0.4, abs=0.01)

    *_, info = env.step(np.zeros(env.action_space.shape, np.float32))
    index = env.episodes.sessions()[0].selection.index[0, : env.episodes.sessions()[0].selection.counts[0]]
    assert info["wrong_labels"] == pytest.approx(float(wrong[index].float().mean()), abs=1e-6)


def test_exchanged_targets_go_round_within_the_samples_that_exist():
    given, pool = mismatched(Context(label_noise=0.5, subset=0.6), 100, seed=3, trusted=10)
    moved = (given != torch.arange(100)).nonzero().flatten()
    assert int(pool.sum()) == 54 + 10
    assert len(moved) == 27
    assert pool[moved].all()
    assert (moved < 90).all()
    assert torch.equal(given[moved].sort().values, moved)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("selector", ["small_loss", "infobatch", "trim", "el2n"])
def test_selectors_work_within_environments_of_each_kind(kind, selector):
    env = env_of(kind, control="ratio", selector=selector)
    env.reset(seed=0)
    for _ in range(2):
        *_, info = env.step(np.zeros(env.action_space.shape, np.float32))
    assert np.isfinite(info["train_loss"])


@pytest.mark.parametrize("kind", KINDS)
def test_many_runs_at_once_equal_one_alone(kind):
    import gymnasium

    task = task_of(kind)
    env = TrainingEnv(task=task, control="ratio", intervals=3, ratio=0.5)
    from dsenv.env.vector_env import TrainingVectorEnv

    many = TrainingVectorEnv(num_envs=3, task=task, control="ratio", intervals=3, ratio=0.5)
    assert isinstance(many, gymnasium.vector.VectorEnv)
    env.reset(seed=6)
    many.reset(seed=[5, 6, 7])
    for _ in range(3):
        *_, alone = env.step(np.zeros(env.action_space.shape, np.float32))
        *_, beside = many.step(np.zeros(many.action_space.shape, np.float32))
    assert beside["val_accuracy"][1] == pytest.approx(alone["val_accuracy"], abs=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_state_goes_on_bit_for_bit(kind):
    env, other = env_of(kind, context={"label_noise": 0.3}), env_of(kind, context={"label_noise": 0.3})
    env.reset(seed=2)
    action = np.zeros(env.action_space.shape, np.float32)
    env.step(action)
    other.reset(seed=9)
    other.load_state_dict(env.state_dict())
    first, second = env.step(action), other.step(action)
    assert np.array_equal(first[0], second[0])
    assert first[1] == second[1]


REFUSED = {
    "a context about classes": ({"context": {"imbalance": 0.1}}, "context.imbalance is about classes"),
    "a flip of classes": ({"context": {"pair_flip": 0.1}}, "context.pair_flip is about classes"),
    "a noise about classes": ({"context": {"label_noise": 0.2, "noise": "pair_flip"}}, "context.noise"),
    "a reward by entropy": ({"reward": "composite"}, "a point prediction has no distribution"),
    "a selector of classes": ({"control": "ratio", "selector": "grand"}, "needs the logits of classes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_kind_does_not_have_is_refused(name):
    settings, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        env_of("regression", **settings)


def test_a_model_that_does_not_fit_the_targets_is_named():
    data = task_of("regression").dataset
    with pytest.raises(ValueError, match="must have the shape of the targets"):
        TrainingEnv(task=Task(data, lambda: nn.Linear(6, 2)), control="ratio", intervals=2)


def test_label_smoothing_is_for_classes():
    with pytest.raises(ValueError, match="label smoothing is for classification"):
        Task(task_of("regression").dataset, lambda: nn.Linear(6, 3), Recipe(label_smoothing=0.1))
