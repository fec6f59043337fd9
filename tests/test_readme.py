"""Every code block of the README runs."""

import re
import shlex
import tomllib
from pathlib import Path

import numpy as np
import pytest

from dsenv.catalogue import Definition
from dsenv.evaluation import storage
from dsenv.workbench import main

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands():
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line.startswith("python train_agent.py")]


FEW = ["--num-envs", "4", "--steps", "48"]


def only_json(evaluation, folder, step, prefix="", about=None, **_):
    storage.save(evaluation, folder / f"{prefix}evaluation.json", {"step": step})


def small(patch):
    """Evaluations next to one rule and without figures; one look at the validation reward or two."""
    patch.setattr("dsenv.workbench.train.EVALUATIONS", 1)
    patch.setattr("dsenv.workbench.train.rule_names", lambda *_: ["random"])
    patch.setattr("dsenv.workbench.train.write_report", only_json)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        small(patch)
        command = ["--env", "dsenv/Tiny-Curriculum-v0", *FEW, "--seeds", "1", "--out", str(out)]
        assert main(command) == 0
    return next(out.iterdir())


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_python_blocks_run(number, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # one of them writes a log
    names = {"__name__": "readme"}
    exec(compile(blocks("python")[number], f"README block {number}", "exec"), names)
    assert {"env", "plan"} & set(names)


@pytest.mark.fast
def test_there_are_blocks_of_each_kind():
    assert len(blocks("python")) >= 2 and len(commands()) >= 5
    assert len(README.splitlines()) < 150


@pytest.mark.parametrize("line", commands())
def test_commands_run_in_small(line, run_folder, tmp_path, monkeypatch):
    """As written, but on tiny environments, for few steps, next to one rule and without figures."""
    small(monkeypatch)
    words = shlex.split(line, comments=True)[2:]
    words = [str(run_folder) if word == "runs/RUN" else word for word in words]
    words = [re.sub(r"(Digits|FashionMNIST)-", "Tiny-", word) for word in words]
    if not {"--list", "--report"} & set(words):
        words += ["--seeds", "1", "--out", str(tmp_path)]
        if not {"--env", "--resume", "--evaluate"} & set(words):
            words += ["--env", "dsenv/Tiny-Curriculum-v0"]
        if "--resume" in words:
            words[words.index("--steps") + 1] = "144"  # PPO collects 24 steps of each of the 4 at a time
        elif "--evaluate" not in words:
            words += FEW
    assert main(words) == 0


@pytest.mark.fast
def test_install_commands_name_what_pyproject_has():
    text = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert 'pip install -e ".[test]" && python -m pytest' in README
    assert "test" in text["project"]["optional-dependencies"]
    assert "pip install dsenv" not in README


def test_the_definition_for_data_of_ones_own_builds(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for number in range(20):
            Image.fromarray(rng.integers(256, size=(32, 32, 3), dtype=np.uint8)).save(
                tmp_path / label / f"{number}.png"
            )
    page = (ROOT / "docs" / "environments.md").read_text()
    written = re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL)
    (content,) = [tomllib.loads(block) for block in written if "entry_point" in block]
    small = {"task": {"dataset": {"root": str(tmp_path), "test": 8, "validation": 8}}}
    env = Definition("envs", "mine", content["entry_point"], content["kwargs"]).with_overrides(small).build()
    assert env.reset(seed=0)[0].shape == env.observation_space.shape


@pytest.mark.fast
def test_linked_files_exist():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).is_file(), target
