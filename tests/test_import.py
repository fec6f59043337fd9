import subprocess
import sys

HEAVY = ("torch", "torchvision", "sklearn", "scipy", "matplotlib", "tensorboard", "stable_baselines3")
PROBE = f"""
import builtins, io, sys
opened = []
def hook(event, arguments):
    if event == "open" and str(arguments[0]).endswith(".toml"):
        opened.append(arguments[0])
sys.addaudithook(hook)
import dsenv
assert not opened, opened
assert not [name for name in {HEAVY} if name in sys.modules], sorted(sys.modules)
import gymnasium
assert not hasattr(dsenv, "DataPlann")
assert "dsenv/Digits-Curriculum-v0" in gymnasium.registry
"""


def test_import_prints_nothing_reads_no_definition_and_loads_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == done.stderr == ""


def test_import_leaves_the_global_streams_alone():
    probe = "import random, numpy as np; a = random.getstate(), np.random.get_state()[1].tolist()\n"
    probe += "import dsenv; assert a == (random.getstate(), np.random.get_state()[1].tolist())"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
