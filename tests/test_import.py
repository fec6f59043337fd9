import subprocess
import sys

import pytest

pytestmark = pytest.mark.fast

HEAVY = ("torch", "torchvision", "sklearn", "scipy", "matplotlib", "tensorboard", "stable_baselines3")
PROBE = f"""
import builtins, io, sys
opened = []
def hook(event, arguments):
    if event == "open" and str(arguments[0]).endswith(".toml"):
        opened.append(arguments[0])
sys.addaudithook(hook)
import random, numpy
streams = random.getstate(), numpy.random.get_state()[1].tolist()
import dsenv
assert streams == (random.getstate(), numpy.random.get_state()[1].tolist()), "drew from a global stream"
assert not opened, opened
assert not [name for name in {HEAVY} if name in sys.modules], sorted(sys.modules)
import gymnasium
assert not hasattr(dsenv, "DataPlann")
assert "dsenv/Digits-Curriculum-v0" in gymnasium.registry
"""


def test_import_prints_draws_and_reads_nothing_and_loads_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == done.stderr == ""
