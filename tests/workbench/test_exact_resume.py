"""A run that was stopped and gone on with equals the uninterrupted one, bit for bit."""

import numpy as np
import pytest

from dsenv.workbench import checkpoint
from dsenv.workbench.train import train
from tests.workbench.runs import (
    CONTRIB,
    SHORT,
    StopAt,
    differences,
    final_state,
    go_on,
    new_run,
    shown,
)

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def few_evaluations(monkeypatch):
    monkeypatch.setattr("dsenv.workbench.train.EVALUATIONS", 2)


def compared(tmp_path, agent, stops, **settings):
    """Train a run in one go, and one that stops at these rollout starts; what differs at the end."""
    whole, whole_agent = new_run(tmp_path / "whole", agent, **settings)
    assert train(whole, whole_agent, "cpu")
    run, built = new_run(tmp_path / "parts", agent, **settings)
    assert not train(run, built, "cpu", stop=StopAt(stops[0]))
    for stop in stops[1:]:
        state = checkpoint.read(run)
        assert 0 < checkpoint.steps_done(state) < built.steps
        assert not train(run, built, "cpu", state=state, stop=StopAt(stop))
    assert go_on(run)

    found = differences(final_state(whole.folder), final_state(run.folder))
    one, other = shown(whole.folder), shown(run.folder)
    assert {"accuracy/validation", "chosen/share from each loss bin"} <= set(one)
    found += [f"curve {tag}" for tag in {*one, *other} if one.get(tag) != other.get(tag)]
    with np.load(whole.folder / "evaluations.npz") as a, np.load(run.folder / "evaluations.npz") as b:
        found += [f"evaluations {name}" for name in a.files if a[name].tobytes() != b[name].tobytes()]
    return found


@pytest.mark.parametrize("agent", SHORT)
def test_every_agent_goes_on_bit_for_bit_in_the_middle_of_episodes(agent, tmp_path):
    if agent in CONTRIB:
        pytest.importorskip("sb3_contrib")
    # Rollouts of 4 steps, episodes of 3: every stop but each third cuts episodes
    stops = [1, 1] if agent.startswith(("ppo", "a2c", "recurrent")) else [7, 5]
    assert compared(tmp_path, agent, stops) == []


@pytest.mark.parametrize("agent", ["ppo", "sac"])
def test_state_dependent_exploration_goes_on_bit_for_bit(agent, tmp_path):
    assert compared(tmp_path, agent, [2], use_sde=True, sde_sample_freq=2) == []


def test_a_replay_buffer_that_came_round_goes_on_bit_for_bit(tmp_path):
    assert compared(tmp_path, "sac", [14], buffer_size=24) == []
