"""How many files of dsenv a call goes through: what a reader has to open to follow it."""

import sys
from pathlib import Path

import numpy as np

import dsenv

FOLDER = str(Path(dsenv.__file__).parent)


def files_entered(call):
    """Files of dsenv whose functions run during `call()`, by their paths inside the package."""
    found = set()

    def note(frame, event, _):
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(FOLDER):
            found.add(name.removeprefix(FOLDER).lstrip("/\\"))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(before)
    return sorted(found)


def test_an_environment_step_enters_at_most_20_files():
    env = dsenv.load("envs", "Tiny-Curriculum-v0", device="cpu")
    env.reset(seed=0)
    found = files_entered(lambda: env.step(np.zeros(5, np.float32)))
    assert {"env/session.py", "control/state.py"} <= {name.replace("\\", "/") for name in found}
    assert len(found) <= 20, found
