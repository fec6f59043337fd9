"""`train_agent.py --rehearse DATA.toml`."""

import json
import sys

import pytest

from dsenv.workbench import main

DATA = """
epochs = 4
folds = 2
ratio = [0.5]

[dataset]
name = "digits"
train = 80

[model]
name = "mlp"
hidden = [8]

[recipe]
lr = 0.1
batch_size = 16

[candidates.mine]
selector = "trim"
"""


def written(tmp_path, text=DATA):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return path


def test_a_rehearsal_prints_the_line_to_paste_and_leaves_a_folder(tmp_path, capsys):
    path = written(tmp_path)
    assert main(["--rehearse", str(path), "--minutes", "5", "--out", str(tmp_path / "runs")]) == 0
    said = capsys.readouterr().out
    assert "mine" in said and "DataPlan(data, epochs=4, batch_size=16" in said

    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.endswith("-rehearsal-mine") and str(folder) in said
    found = json.loads((folder / "rehearsal.json").read_text())
    assert found["plan"] in said and found["setup"]["samples"] == 80 and found["setup"]["minutes"] == 5
    assert {row["name"] for row in found["rows"]} >= {"random", "all data", "mine"}
    assert (folder / "rehearsal.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "data.toml").is_file() and list(folder.glob("events.out.tfevents*"))


def test_a_data_set_of_ones_own_by_module_and_function(tmp_path, capsys, monkeypatch):
    (tmp_path / "my_data.py").write_text(
        "import torch\nfrom dsenv.tasks import Dataset, from_tensors\n\n\n"
        "def mine(size: int) -> Dataset:\n"
        "    inputs = torch.randn(size, 4, generator=torch.Generator().manual_seed(0))\n"
        "    return from_tensors(inputs, (inputs[:, 0] > 0).long(), validation=10, test=10)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    text = DATA.replace('name = "digits"\ntrain = 80', 'name = "my_data:mine"\nsize = 80')
    try:
        assert main(["--rehearse", str(written(tmp_path, text)), "--out", str(tmp_path / "runs")]) == 0
    finally:
        sys.modules.pop("my_data", None)
    assert "60 of 60 samples" in capsys.readouterr().out


@pytest.mark.fast
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("epochs = 4", "epoch = 4"), "Did you mean 'epochs'"),
        (('name = "digits"', 'name = "digit"'), "Did you mean 'digits'"),
        (('name = "digits"', 'title = "digits"'), "names no data set"),
        (("[dataset]", "[data]"), "Did you mean 'dataset'"),
        (('name = "mlp"\n', ""), "[model] has no name"),
        (("lr = 0.1", "rate = 0.1"), "no setting of recipe called 'rate'"),
        (('selector = "trim"', 'selector = "trimm"'), "Did you mean 'trim'"),
        (("epochs = 4", "epochs = [4"), "is not valid TOML"),
        (("epochs = 4", 'epochs = 4\nmodel = "mlp"'), "TOML"),
        (("folds = 2", "folds = 0"), "folds must be a whole number from 2 to 50"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path, capsys, change, words):
    assert change[0] in DATA
    path = written(tmp_path, DATA.replace(*change))
    assert main(["--rehearse", str(path), "--out", str(tmp_path / "runs")]) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "runs").exists()


@pytest.mark.fast
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--env", "dsenv/Tiny-Curriculum-v0"], "leave out --env"),
        (["--agent-seeds", "3"], "leave out --agent-seeds"),
        (["--compare", "trim"], "leave out --compare"),
        (["--minutes", "-1"], "minutes must be a number above 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, capsys, options, words):
    assert main(["--rehearse", str(written(tmp_path)), *options]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.fast
def test_minutes_alone_and_a_missing_file_are_refused(tmp_path, capsys):
    assert main(["--minutes", "2"]) == 2
    assert "--minutes is the time limit of --rehearse" in capsys.readouterr().err
    assert main(["--rehearse", str(tmp_path / "no.toml")]) == 2
    assert "no TOML file at" in capsys.readouterr().err
