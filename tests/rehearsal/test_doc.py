"""The examples of docs/rehearse.md run."""

import re
from pathlib import Path

import pytest

DOC = Path(__file__).resolve().parents[2] / "docs" / "rehearse.md"


def test_python_blocks_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", DOC.read_text(), flags=re.DOTALL)
    assert len(blocks) >= 3
    names = {"__name__": "rehearse"}
    for number, block in enumerate(blocks):
        exec(compile(block, f"docs/rehearse.md block {number}", "exec"), names)
    assert "DataPlan(data, epochs=" in capsys.readouterr().out


@pytest.mark.fast
def test_the_toml_block_is_read(tmp_path):
    from dsenv.workbench.rehearsal import read_rehearsal

    (block,) = re.findall(r"```toml\n(.*?)```", DOC.read_text(), flags=re.DOTALL)
    (tmp_path / "data.toml").write_text(block)
    content = read_rehearsal(tmp_path / "data.toml")
    assert {"dataset", "model", "recipe", "epochs", "ratio"} <= set(content)
