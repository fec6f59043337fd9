"""Without ray: what asks for it says how to install it; options that need it are checked."""

import sys

import pytest

from dsenv.catalogue import load_vector
from dsenv.workbench import main

pytestmark = pytest.mark.fast
TINY = ["--env", "dsenv/Tiny-Curriculum-v0", "--steps", "64", "--seeds", "1", "--device", "cpu"]


@pytest.fixture
def no_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)


@pytest.mark.usefixtures("no_ray")
def test_a_missing_ray_names_the_command(tmp_path, capsys):
    from dsenv.integrations.ray import RayVecEnv

    with pytest.raises(ValueError, match=r'pip install "dsenv-rl\[ray\]"'):
        RayVecEnv("Tiny-Curriculum-v0")
    assert main([*TINY, "--ray", "local", "--out", str(tmp_path)]) == 2
    assert 'pip install -e ".[ray]"' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())  # it shows before a folder is made


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--actors", "2"], "say where, by --ray local"),
        (["--actors", "2", "--ray", "none"], "say where, by --ray local"),
        (["--ray", "local", "--agent", "random"], "fixed rule and is not trained: leave out --ray"),
        (["--ray", "local", "--actors", "3", "--num-envs", "32"], "give --num-envs 30 or 33"),
        (["--ray", "local", "--evaluate", "runs/none"], "leave out --ray"),
        (["--ray", "local", "--report", "runs/none"], "leave out --ray"),
        (["--ray", "local", "--rehearse", "none.toml"], "leave out --"),
    ],
)
def test_options_that_do_not_fit_are_named(arguments, words, monkeypatch, capsys):
    monkeypatch.setattr("dsenv.integrations.ray_actors.import_ray", lambda: None)
    given = [] if {"--evaluate", "--report", "--rehearse"} & set(arguments) else TINY[:2]
    assert main([*given, *arguments]) == 2
    assert words in capsys.readouterr().err


def test_stacks_in_actors_share_the_data_sets_as_one_stack_would():
    whole = load_vector("Tiny-Datasets-v0", 4)
    names = [whole.episodes.part_of(k)[0].task.dataset.name for k in range(4)]
    assert len(set(names)) > 1
    for first in range(4):
        (part,) = load_vector("Tiny-Datasets-v0", 1, first_env=first).episodes.parts()
        assert part[0].task.dataset.name == names[first]
    with pytest.raises(ValueError, match="first_env"):
        load_vector("Tiny-Datasets-v0", 1, first_env=-1)


def test_a_wrong_number_of_actors_is_refused_by_the_parser(capsys):
    with pytest.raises(SystemExit):
        main(["--ray", "local", "--actors", "0"])
    assert "--actors must be at least 1" in capsys.readouterr().err
