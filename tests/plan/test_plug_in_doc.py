"""Every code block of docs/plan.md runs, from top to bottom."""

import re
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from sklearn.utils import Bunch

DOC = Path(__file__).resolve().parents[2] / "docs" / "plan.md"


SAMPLES = 600


def test_code_blocks_run(capsys: Any, monkeypatch: Any) -> None:
    """On a third of the digits: the page reads their number off the data."""
    whole = load_digits()
    few = Bunch(images=whole.images[:SAMPLES], target=whole.target[:SAMPLES])
    monkeypatch.setattr("sklearn.datasets.load_digits", lambda: few)
    blocks = re.findall(r"```python\n(.*?)```", DOC.read_text(), flags=re.DOTALL)
    assert len(blocks) >= 7
    names: dict[str, Any] = {"__name__": "plug_in"}
    with torch.random.fork_rng():
        for number, block in enumerate(blocks):
            exec(compile(block, f"docs/plan.md block {number}", "exec"), names)
    assert f"Cost(trained={10 * SAMPLES // 2}," in capsys.readouterr().out  # half of 10 x 1,797 presentations


def test_the_loop_changes_in_at_most_five_lines() -> None:
    numbers = re.findall(r"# (\d)\n", DOC.read_text())
    assert numbers == ["1", "2", "3", "4", "5"]
