"""Every code block of docs/plan.md runs, from top to bottom."""

import re
from pathlib import Path
from typing import Any

import torch

DOC = Path(__file__).resolve().parents[2] / "docs" / "plan.md"


def test_code_blocks_run(capsys: Any) -> None:
    blocks = re.findall(r"```python\n(.*?)```", DOC.read_text(), flags=re.DOTALL)
    assert len(blocks) >= 7
    names: dict[str, Any] = {"__name__": "plug_in"}
    with torch.random.fork_rng():
        for number, block in enumerate(blocks):
            exec(compile(block, f"docs/plan.md block {number}", "exec"), names)
    assert "Cost(trained=8985" in capsys.readouterr().out


def test_the_loop_changes_in_at_most_five_lines() -> None:
    numbers = re.findall(r"# (\d)\n", DOC.read_text())
    assert numbers == ["1", "2", "3", "4", "5"]
