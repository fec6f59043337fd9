"""Runs leave a policy file, which train_agent.py evaluates and compares."""

import json

import numpy as np
import pytest

import dsenv
from dsenv.agents.learned import LearnedAgent
from dsenv.policy import Policy
from dsenv.policy.shipped import Pretrained
from dsenv.workbench import main
from dsenv.workbench.policies import agent_definition, environment_of
from dsenv.workbench.train import distinct_names
from tests.policy.policies import ENVS, new_policy
from tests.workbench.conftest import TRAIN


def only_run(folder):
    (run,) = folder.iterdir()
    return run


def rows_of(folder):
    return {
        (row["agent"], str(row["context"])): row
        for row in json.loads((folder / "evaluation.json").read_text())["rows"]
    }


def test_a_run_leaves_its_best_policy(finished):
    from stable_baselines3 import PPO

    policy = Policy.load(finished / "policy.safetensors")
    size = (9, policy.card.observation["entries"])
    rows = np.random.default_rng(0).uniform(-1, 1, size).astype(np.float32)
    model = PPO.load(finished / "best_model.zip", device="cpu")
    wanted = model.predict(rows, deterministic=True)[0]
    np.testing.assert_allclose(policy.predict(rows)[0], wanted, rtol=1e-5, atol=1e-5)
    trained = policy.card.trained
    assert (trained["environment"], trained["agent"], trained["seed"]) == ("Tiny-Curriculum-v0", "ppo", 3)
    assert isinstance(trained["validation_reward"], float)


@pytest.mark.parametrize("where", [[], ["--env", "dsenv/Tiny-Curriculum-v0"]])
def test_evaluating_the_file_gives_the_runs_own_numbers(where, finished, few_rules, tmp_path, capsys):
    path = finished / "policy.safetensors"
    command = ["--evaluate", str(path), *where, "--seeds", "2", "--device", "cpu", "--out", str(tmp_path)]
    assert main(command) == 0
    run = only_run(tmp_path)
    own, again = rows_of(finished), rows_of(run)
    assert {agent for agent, _ in again} == {finished.name, *few_rules}
    for (name, context), row in again.items():
        agent = "ppo" if name == finished.name else name
        wanted = own[agent, context]
        assert all(row[what] == wanted[what] for what in ("context", "ratio", "samples_used", "seeds"))
        # the file's products may end in other bits than the model's: a test sample or two of 400
        assert row["accuracy_mean"] == pytest.approx(wanted["accuracy_mean"], abs=0.006)
    assert f"**{finished.name}**" in capsys.readouterr().out
    assert "dsenv.agents.learned:LearnedAgent" in (run / "agent.toml").read_text()
    if not where:
        assert main(["--evaluate", str(run), "--seeds", "1", "--device", "cpu"]) == 0


@pytest.mark.usefixtures("few_rules")
def test_a_policy_joins_a_table_by_its_file_and_by_a_toml(run, tmp_path, capsys):
    other = new_policy("ratio", scale=20.0).save(tmp_path / "how_much.safetensors")
    toml = tmp_path / "mine.toml"
    toml.write_text(f'entry_point = "dsenv.agents.learned:LearnedAgent"\n[kwargs]\npolicy = "{other}"\n')
    compare = ["--compare", str(other), str(toml)]
    assert main(["--evaluate", str(run), "--seeds", "2", "--device", "cpu", *compare]) == 0
    shown = capsys.readouterr().out
    assert "| how_much | 50% |" in shown and "| mine | 50% |" in shown


def test_what_goes_wrong_says_what_to_do(finished, tmp_path, capsys):
    def fails(*command):
        assert main([*command, "--out", str(tmp_path / "out")]) == 2
        return capsys.readouterr().err

    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no")
    assert "not a whole safetensors file" in fails("--evaluate", str(broken))
    assert "no policy at" in fails("--evaluate", str(tmp_path / "none.safetensors"))
    assert "leave out --steps" in fails("--evaluate", str(finished / "policy.safetensors"), "--steps", "3")
    path = new_policy().save(tmp_path / "mine.safetensors")
    assert "was trained in an environment of its own: say where, by --env" in fails("--evaluate", str(path))
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("few_rules")
def test_what_does_not_travel_leaves_a_warning_and_no_file(tmp_path):
    settings = ["--steps", "32", "--agent-set", "hyperparameters.use_sde=true"]
    with pytest.warns(UserWarning, match=r"no policy\.safetensors was written: .*use_sde"):
        assert main([*TRAIN, *settings, "--out", str(tmp_path)]) == 0
    assert not (only_run(tmp_path) / "policy.safetensors").exists()


@pytest.mark.fast
@pytest.mark.parametrize("control", ENVS)
def test_a_learned_agent_binds_to_its_own_question(control):
    settings = {"name": "mask", "candidates": 32} if control == "mask" else control
    agent = LearnedAgent(new_policy(settings))
    assert agent.learns is False and agent.env["actions"] == "box"
    agent.check()
    env = dsenv.load("envs", "Tiny-Curriculum-v0", **agent.env)
    observation, _ = env.reset(seed=0)
    bound = agent.bind(env.episodes.control, env.action_space)
    assert env.action_space.contains(bound.predict(observation)[0])
    other = dsenv.load("envs", "Tiny-Ratio-v0" if control != "ratio" else "Tiny-Joint-v0")
    with pytest.raises(ValueError, match="lay the agent's settings over it"):
        agent.bind(other.episodes.control, other.action_space)
    discrete = dsenv.load("envs", "Tiny-Curriculum-v0", actions="discrete")
    with pytest.raises(ValueError, match="with box actions"):
        agent.bind(discrete.episodes.control, discrete.action_space)


def test_names_of_policy_files(tmp_path):
    for stem, name in (("mine", "mine"), ("policy", tmp_path.name)):
        path = new_policy(trained={"environment": "Tiny-Curriculum-v0"}).save(
            tmp_path / f"{stem}.safetensors"
        )
        assert agent_definition(str(path)).name == name and environment_of(path) == "Tiny-Curriculum-v0"


@pytest.mark.fast
def test_policies_of_one_name_stay_apart(tmp_path):
    """Two files with the same stem, a file that is called like a rule, and one thing given twice."""
    paths = []
    for folder, stem in (("a", "mine"), ("b", "mine"), ("a", "random")):
        (tmp_path / folder).mkdir(exist_ok=True)
        paths.append(str(new_policy(seed=len(paths)).save(tmp_path / folder / f"{stem}.safetensors")))
    own, *others = (agent_definition(name) for name in (paths[0], "random", "random", *paths))
    found = distinct_names(own, others)
    assert list(found) == ["random", "mine-2", "random-2"]
    assert found["random"].entry_point != found["random-2"].entry_point
    assert found["mine-2"].kwargs["policy"] == paths[1]


@pytest.mark.usefixtures("few_rules")
def test_a_policy_of_one_name_is_not_left_out_of_the_table(tmp_path, capsys):
    paths = []
    for folder in "ab":
        (tmp_path / folder).mkdir()
        paths.append(str(new_policy(seed=len(paths)).save(tmp_path / folder / "mine.safetensors")))
    command = [
        "--agent",
        paths[0],
        "--compare",
        paths[1],
        "--env",
        "dsenv/Tiny-Curriculum-v0",
        "--seeds",
        "1",
    ]
    assert main([*command, "--device", "cpu", "--out", str(tmp_path / "runs")]) == 0
    shown = capsys.readouterr().out
    assert "| **mine** |" in shown and "| mine-2 |" in shown


def test_a_policy_that_never_saw_the_validation_accuracy_is_not_shown_it():
    agent = LearnedAgent(new_policy(validation_shown=0.0))
    env = dsenv.load("envs", "Tiny-Curriculum-v0", **agent.env)
    env.reset(seed=0)
    observation, *_ = env.step(env.action_space.sample())
    assert observation[6] == 0 and env.observation_names[6] == "validation accuracy"
    assert "validation_shown" not in LearnedAgent(new_policy(validation_shown=0.5)).env


@pytest.mark.fast
def test_pretrained_policies_by_name(tmp_path):
    for name in ("curriculum", "joint"):
        new_policy(name).save(tmp_path / f"{name}.safetensors")
    (tmp_path / "ratio.toml").write_text("")
    shelf = Pretrained(tmp_path)
    assert shelf.names() == ["curriculum", "joint"] and shelf.recipes() == ["ratio"]
    assert shelf("joint").digest == new_policy("joint").digest
    with pytest.raises(ValueError, match=r"Did you mean 'curriculum'\? There are: curriculum, joint"):
        shelf("curiculum")
    with pytest.raises(ValueError, match="no pretrained policy called None"):
        shelf(None)
    with pytest.raises(ValueError, match=r"no policy called 'ratio' is shipped.*pretrain ratio"):
        shelf("ratio")


def test_a_policy_that_is_not_shipped_yet_says_how_to_make_it():
    for name in set(dsenv.pretrained.recipes()) - set(dsenv.pretrained.names()):
        with pytest.raises(ValueError, match=rf"no policy called '{name}' is shipped .*workbench\.pretrain"):
            dsenv.pretrained(name)
    for name in dsenv.pretrained.names():
        assert dsenv.pretrained(name).card.trained


def test_a_policy_that_comes_with_dsenv_is_an_agent_by_its_name():
    found = agent_definition("curriculum")
    assert found.name == "curriculum" and found.build().policy.card.control["name"] == "curriculum"
    assert agent_definition("random").entry_point == "dsenv.agents.rules:NeutralRule"
