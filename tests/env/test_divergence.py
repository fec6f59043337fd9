"""One replica of eight diverges: the other seven stay bit for bit what they would have been."""

import numpy as np
import pytest
import torch

from dsenv.catalogue import load_vector
from tests.sessions import only

CONTROLS = ("Curriculum", "Ratio", "Mask", "Strength", "Joint")
COUNT, SICK = 8, 3
LRS = (1.0, 1e30)


def play(name, lr, settings):
    """What the environments say, the models and the signals; environment 3 trains with the factor `lr`."""
    env = load_vector(name, COUNT, autoreset_mode="Disabled", intervals=6, **settings)
    contexts = [{"label_noise": 0.2, "lr": lr if k == SICK else 1.0} for k in range(COUNT)]
    seen = [env.reset(seed=1, options={"context": contexts})[0]]
    rng, sick = np.random.default_rng(0), False
    for _ in range(5):
        actions = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        actions[SICK] = 1  # the largest share: the others' batches would be smaller without it
        observation, reward, _, _, info = env.step(actions)
        seen += [observation, reward, info["train_loss"], info["val_accuracy"], info["ratio"]]
        sick = sick or info["diverged"][SICK]
    trainer = only(env).trainer
    models = [trainer.replicas.parameters_of(k) for k in range(COUNT)]
    signals = [trainer.signals.of_replica(k).state_dict() for k in range(COUNT)]
    return seen, models, signals, sick


FORMS = {
    "stacked": {},
    "loop": {"trainer": {"form": "loop"}},
    "vmap": {"trainer": {"form": "vmap"}},
    "small batches": {"task": {"recipe": {"batch_size": 24}, "model": {"hidden": [40]}}},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("control", CONTROLS)
def test_the_others_are_bit_for_bit_the_same(control, form):
    name = f"Tiny-{control}-v0"
    (seen, models, signals, sick), (other, their_models, their_signals, other_sick) = (
        play(name, lr, FORMS[form]) for lr in LRS
    )
    assert other_sick and not sick
    healthy = [k for k in range(COUNT) if k != SICK]
    for one, two in zip(seen, other, strict=True):
        np.testing.assert_array_equal(one[healthy], two[healthy])
    for k in healthy:
        assert all(torch.equal(value, their_models[k][key]) for key, value in models[k].items())
        assert all(torch.equal(value[:-1], their_signals[k][key][:-1]) for key, value in signals[k].items())


def test_a_selector_and_an_augmentation_too():
    settings = {"selector": "small_loss", "augment": "trivial"}
    (seen, models, *_), (other, their_models, *_) = (play("Tiny-Ratio-v0", lr, settings) for lr in LRS)
    healthy = [k for k in range(COUNT) if k != SICK]
    for one, two in zip(seen, other, strict=True):
        np.testing.assert_array_equal(one[healthy], two[healthy])
    for k in healthy:
        assert all(torch.equal(value, their_models[k][key]) for key, value in models[k].items())
