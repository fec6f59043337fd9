"""RayVecEnv: the contract of a VecEnv, the numbers of one stack, actors that die; agents and RLlib on Ray."""

import json
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

from dsenv import Policy, StackedVecEnv
from dsenv.catalogue import load_vector
from dsenv.workbench import checkpoint, main
from dsenv.workbench.cluster import Cluster
from dsenv.workbench.train import train
from tests.agents.vec_env_contract import CONTRACT, actions_of, check
from tests.workbench.conftest import no_figures  # noqa: F401  # a fixture
from tests.workbench.runs import StopAt, differences, final_state, new_run

ray = pytest.importorskip("ray", reason="ray is not installed: pip install dsenv-rl[ray]")

NAME = "dsenv/Tiny-Curriculum-v0"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def cluster():
    """Ray on this machine, small."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=4, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def env(cluster):
    """Two actors of two environments, which the tests share: actors take seconds to start."""
    from dsenv.integrations.ray import RayVecEnv

    found = RayVecEnv(NAME, actors=2, per_actor=2, render_mode="ansi", device="cpu")
    yield found
    found.close()


def kill(env, number):
    """Kill an actor's process, as the kernel does where memory ran out."""
    os.kill(env._crew.pids()[number], signal.SIGKILL)


@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
def test_it_keeps_what_a_vec_env_promises(env, promise, tmp_path, recwarn):
    check(promise, lambda: env, tmp_path, recwarn)


def test_numbers_are_those_of_one_stack_with_the_same_seeds(env):
    one = StackedVecEnv(load_vector(NAME, 4, autoreset_mode="SameStep", device="cpu"))
    context = {"context": {"label_noise": 0.3}}
    for each in (env, one):
        each.seed(3)
        each.set_options(context)
        each.seen = [(each.reset(),), *(each.step(action) for action in actions_of(env, 6))]
    for found, wanted in zip(env.seen, one.seen, strict=True):
        for a, b in zip(found[:3], wanted[:3], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)  # stacks of 2 and of 4 sum in another order
    for found, wanted in zip(env.seen[4][3], one.seen[4][3], strict=True):
        assert found.keys() == wanted.keys()
        assert found["samples_used"] == wanted["samples_used"] and found["episode"]["l"] == 4
        assert found["episode"]["r"] == pytest.approx(wanted["episode"]["r"], abs=1e-3)


def test_what_cannot_be_right_is_refused(env):
    from dsenv.integrations.ray import RayVecEnv

    with pytest.raises(ValueError, match="the same episodes in every actor"):
        env.env_method("reset", seed=1)
    with pytest.raises(ValueError, match="give gpus="):
        RayVecEnv(NAME, device="cuda")
    with pytest.raises(ValueError, match="device"):
        RayVecEnv(NAME, device="cpuu")
    with pytest.raises(ValueError, match="by actors="):
        RayVecEnv(NAME, num_envs=4)
    with pytest.raises(ValueError, match="'ratio'"):
        RayVecEnv(NAME, ratioo=0.5)
    with pytest.raises(ValueError, match="connected to the Ray cluster at"):
        RayVecEnv(NAME, address="192.0.2.77:6379")
    with pytest.raises(ValueError, match="address must be"):
        RayVecEnv(NAME, address="")
    with pytest.raises(RuntimeError, match=r"1 of 1 Ray actors did not start within 0.2 s.*asks for 99 CPUs"):
        RayVecEnv(NAME, 1, 1, cpus=99, timeout=0.2)


class KillOnce(BaseCallback):
    """Kills an actor in the middle of an agent's training."""

    def __init__(self, env):
        super().__init__()
        self.env, self.cut_off = env, []

    def _on_step(self):
        if self.n_calls == 6:
            kill(self.env, 1)
        self.cut_off += [k for k, info in enumerate(self.locals["infos"]) if "actor_died" in info]
        return True


def test_an_agents_training_goes_on_where_an_actor_is_killed(env):
    env.seed(0)
    env.set_attr("note", 7)
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=16, n_epochs=1, gamma=1.0, device="cpu", seed=0)
    killing = KillOnce(env)
    with pytest.warns(RuntimeWarning, match="Ray actor 1 died .* environments 2 to 3 begin") as said:
        model.learn(64, callback=killing)
    assert len([w for w in said if "Ray actor" in str(w.message)]) == 1
    assert killing.cut_off == [2, 3] and model.num_timesteps == 64
    assert all(bool(value.isfinite().all()) for value in model.policy.parameters())
    assert env.get_attr("note") == [7] * 4  # the new actor has it too
    assert sum(episode["l"] for episode in model.ep_info_buffer) == 4 * len(model.ep_info_buffer)


def test_trainings_of_a_killed_actor_begin_anew_from_seeds_and_the_others_do_not_notice(env):
    actions = actions_of(env, 6)
    env.seed(8)
    seen = [env.reset(), *(env.step(action)[0] for action in actions)]
    env.seed(8)
    env.reset()
    before = env.step(actions[0])[0]
    kill(env, 0)
    with pytest.warns(RuntimeWarning, match="Ray actor 0 died"):
        state = env.state_dict()  # anything that asks the actor finds out
    observation, reward, done, infos = env.step(actions[1])
    assert done.tolist() == [True, True, False, False] and reward[:2].tolist() == [0, 0]
    np.testing.assert_array_equal(observation[2:], seen[2][2:])
    np.testing.assert_array_equal(infos[1]["terminal_observation"], before[1])
    assert infos[0]["TimeLimit.truncated"] and "episode" not in infos[0] and not infos[2].get("actor_died")

    fresh = StackedVecEnv(load_vector(NAME, 2, autoreset_mode="SameStep", device="cpu"))
    fresh._seeds = env._further_seeds(0)
    np.testing.assert_allclose(observation[:2], fresh.reset(), atol=1e-6)
    later = env.step(actions[2])[0]
    np.testing.assert_allclose(later[:2], fresh.step(actions[2][:2])[0], atol=1e-4)
    np.testing.assert_array_equal(later[2:], seen[3][2:])

    env.load_state_dict(state)  # of before the step that says what was cut off
    again = env.step(actions[1])
    np.testing.assert_array_equal(again[0], observation)
    assert again[2].tolist() == done.tolist() and again[3][1]["actor_died"]


@pytest.mark.usefixtures("cluster", "no_figures")
def test_a_run_on_ray_is_stopped_gone_on_with_and_its_policy_file_evaluates(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("dsenv.workbench.train.rule_names", lambda *_: ["all_data"])
    on_ray, here = Cluster("local", 2), ["--device", "cpu", "--seeds", "1", "--no-curves"]
    whole, agent = new_run(tmp_path / "whole", "ppo", num_envs=4, steps=48)
    assert train(whole, agent, "cpu", cluster=on_ray)
    run, built = new_run(tmp_path / "parts", "ppo", num_envs=4, steps=48)
    assert not train(run, built, "cpu", stop=StopAt(1), cluster=on_ray)
    copied = new_run(tmp_path / "here", "ppo", num_envs=4, steps=48)[0]
    (copied.folder / checkpoint.FILE).write_bytes((run.folder / checkpoint.FILE).read_bytes())

    # On Ray bit for bit; in this process with training runs that begin anew, which is said
    assert main(["--resume", str(run.folder), "--ray", "local", "--actors", "2", *here]) == 0
    assert "begun anew" not in capsys.readouterr().out
    assert differences(final_state(whole.folder)["agent"], final_state(run.folder)["agent"]) == []
    assert main(["--resume", str(copied.folder), *here]) == 0
    assert "those in flight are begun anew" in capsys.readouterr().out

    # The policy file is as any other
    found, other = (Policy.load(each.folder / "policy.safetensors").card for each in (run, copied))
    assert found.network == other.network and found.control == other.control
    assert found.trained.keys() == other.trained.keys()
    file = ["--evaluate", str(run.folder / "policy.safetensors"), "--out", str(tmp_path / "file")]
    assert main([*file, "--env", str(run.folder / "env.toml"), *here]) == 0
    (evaluated,) = (tmp_path / "file").iterdir()
    assert json.loads((evaluated / "evaluation.json").read_text())["rows"]


@pytest.mark.usefixtures("cluster")
def test_python_blocks_of_the_page_run():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "ray.md").read_text(), flags=re.DOTALL)
    assert len(blocks) == 2
    names: dict[str, object] = {"__name__": "ray_page"}
    for block in blocks:
        exec(compile(block, "docs/ray.md", "exec"), names)
    assert names["result"]["env_runners"]["num_env_steps_sampled"] >= 64  # RLlib's own iteration
