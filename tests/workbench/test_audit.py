"""Python's audit hooks over runs, plans and policies: no unpickling, no network, no write elsewhere."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("audited.py")


def audited(folder, *options):
    """Lines of what the hook found."""
    folder.mkdir()
    paths = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
    settings = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    settings["MPLCONFIGDIR"] = str(folder)  # matplotlib keeps a list of fonts there
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), *options],
        timeout=300,
        capture_output=True,
        text=True,
        env=settings,
    )
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith("AUDIT ")]


@pytest.mark.slow
def test_nothing_is_unpickled_sent_or_written_elsewhere(tmp_path):
    assert audited(tmp_path / "runs") == []


def test_the_hook_sees_what_it_should(tmp_path):
    found = audited(tmp_path / "runs", "--control")
    for word in ("pickle.find_class", "socket.__new__", "open", "os.remove"):
        assert any(line.startswith(f"AUDIT {word} ") for line in found), (word, found)
