"""Every code block of docs/text.md runs, from top to bottom."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch

DOC = Path(__file__).resolve().parents[2] / "docs" / "text.md"
BLOCKS = re.findall(r"```python\n(.*?)```", DOC.read_text(), flags=re.DOTALL)


def run(blocks):
    names = {"__name__": "text"}
    with torch.random.fork_rng():
        for block in blocks:
            exec(compile(block, "docs/text.md", "exec"), names)
    return names


def test_code_blocks_run(capsys):
    names = run(block for block in BLOCKS if "transformers" not in block)
    said = capsys.readouterr().out
    share = float(re.search(r"samples, ([\d.]+) of all tokens", said)[1])
    assert 0.45 < share <= 0.5
    assert names["plan"].progress == 1 and len(BLOCKS) == 4
    assert "Cost(trained=240," in said and "TokenFile(" in said


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs the extra text")
def test_the_blocks_with_transformers_run():
    names = run(BLOCKS[:2])
    assert names["plan"].cost.trained == 120 and names["plan"].cost.tokens > 0
