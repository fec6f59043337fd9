"""Recipes of policies that come with the package."""

import re
import tomllib

import pytest

import dsenv
from dsenv.catalogue import definition
from dsenv.policy.shipped import Pretrained
from dsenv.workbench.pretrain import FOLDER, main, read_recipe

TINY = """
name = "Tiny-Wide"
seeds = 2
compare = ["ucb"]

[env]
entry_point = "dsenv.env:TrainingEnv"
[env.kwargs]
ratio = 0.5
intervals = 4
rank_by = "loss_rank"
validation_shown = 0.5
context = { label_noise = [0.0, 0.6], subset = [0.5, 1.0] }
evaluation_contexts = [{ label_noise = 0.4 }]
[env.kwargs.task]
dataset = { name = "digits", train = 200, validation = 100, test = 200 }
model = { name = "mlp", hidden = [16] }
recipe = { optimizer = "sgd", lr = 0.1, schedule = "cosine", batch_size = 25 }

[agent]
entry_point = "dsenv.agents.sb3:SB3Agent"
[agent.kwargs]
algorithm = "PPO"
steps = 64
num_envs = 4
hyperparameters = { n_steps = 8, batch_size = 32 }

[[evaluate]]
env = "Tiny-Curriculum-v0"
set = { ratio = 0.3 }
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(TINY)
    return path


@pytest.mark.usefixtures("few_rules")
def test_a_recipe_becomes_a_policy_with_its_results_on_the_card(recipe, tmp_path):
    assert main([str(recipe), "--out", str(tmp_path / "runs"), "--device", "cpu"]) == 0
    policy = Pretrained(tmp_path)("mine")
    trained = policy.card.trained
    assert trained["environment"] == "Tiny-Wide" and trained["context"]["subset"] == [0.5, 1.0]
    assert policy.card.validation_shown == 0.5
    assert list(trained["results"]) == ["Tiny-Wide", "Tiny-Curriculum-v0-ratio=0.3"]
    assert [row["context"] for row in trained["results"]["Tiny-Wide"]] == [{"label_noise": 0.4}]
    assert all(
        {"accuracy", "interval", "gain_over_all_data"} <= row.keys()
        for row in trained["results"]["Tiny-Wide"]
    )


@pytest.mark.fast
@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("seeds = 2", "sedes = 2", "Did you mean 'seeds'"),
        ('env = "Tiny', 'ev = "Tiny', "Did you mean 'env'"),
        ('name = "Tiny-Wide"', "", "needs the setting 'name'"),
        ("dsenv.agents.sb3:SB3Agent", "dsenv.agents.rules:NeutralRule", "no setting of|does not learn"),
        ('entry_point = "dsenv.env:TrainingEnv"', "", r"\[env\] of .* needs an entry_point"),
        ("seeds = 2", "seeds =", "not valid TOML"),
    ],
)
def test_a_mistake_in_a_recipe_shows_at_once(old, new, match, recipe):
    recipe.write_text(TINY.replace(old, new, 1))
    with pytest.raises(ValueError, match=match):
        read_recipe(recipe)


@pytest.mark.fast
def test_an_unknown_recipe_lists_the_others(capsys, tmp_path):
    assert main(["curriclum", "--out", str(tmp_path)]) == 2
    assert "there are: curriculum" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_recipes_are_sound(path):
    recipe = read_recipe(path)
    env = recipe.env_definition.build(device="cpu")
    env.reset(seed=0)
    recipe.agent_definition.build().check()
    for entry in recipe.evaluate:
        definition("envs", entry["env"]).with_overrides(entry.get("set", {}))
    for name in recipe.compare:
        assert name in dsenv.names("agents")
    assert tomllib.loads(path.read_text())["env"]["kwargs"]["context"], "wide contexts"
    assert path.stem in dsenv.pretrained.recipes()


@pytest.mark.parametrize(
    ("options", "old", "new", "match"),
    [
        (["--target", "x.pt"], "", "", r"called NAME\.safetensors, got x\.pt"),
        (["--seeds", "0"], "", "", "seeds >= 1, got 0"),
        ([], 'compare = ["ucb"]', 'compare = ["ubc"]', "Did you mean 'ucb'"),
        ([], "set = { ratio = 0.3 }", "set = { ratoi = 0.3 }", "Did you mean 'ratio'"),
        ([], 'env = "Tiny-Curriculum-v0"', "", "needs an env"),
    ],
)
def test_what_would_fail_after_the_training_fails_before(options, old, new, match, recipe, tmp_path, capsys):
    recipe.write_text(TINY.replace(old, new, 1))
    assert main([str(recipe), "--out", str(tmp_path / "runs"), "--device", "cpu", *options]) == 2
    assert re.search(match, capsys.readouterr().err)
    assert not (tmp_path / "runs").exists()


def test_no_threads_are_refused(recipe, capsys):
    with pytest.raises(SystemExit):
        main([str(recipe), "--threads", "0"])
    assert "--threads must be at least 1, got 0" in capsys.readouterr().err


def test_ctrl_c_says_how_to_go_on(recipe, tmp_path, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("dsenv.workbench.pretrain.pretrain", interrupted)
    assert main([str(recipe), "--out", str(tmp_path)]) == 130
    assert "--run RUN" in capsys.readouterr().err
