"""The reproduction: its parts, its rows, that each runs and is not run twice, and its verdicts."""

import importlib
import json
import re
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dsenv.outputs import ModelOutputs
from dsenv.select.data_agent_reward import composite, uncertainty
from dsenv.signals import SampleSignals
from dsenv.volume.base import counts

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "benchmarks"


@pytest.fixture(autouse=True, scope="module")
def on_the_path():
    """The folder of the scripts comes first in the path, as when one of them is started."""
    sys.path.insert(0, str(FOLDER))
    before = set(sys.modules)
    yield
    sys.path.remove(str(FOLDER))
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(FOLDER)):
            del sys.modules[name]


@pytest.fixture(scope="module")
def rows():
    return importlib.import_module("reproduce_rows")


@pytest.fixture(scope="module")
def parts():
    return importlib.import_module("reproduce_parts")


# Parts


def test_the_trace_is_that_of_hessian_times_covariance(parts):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3, dtype=torch.float64))
    inputs, labels = torch.randn(6, 3, dtype=torch.float64), torch.arange(6) % 3
    weight, bias = model[0].weight.detach(), model[0].bias.detach()

    def losses(values):
        return F.cross_entropy(inputs @ values[:9].view(3, 3).T + values[9:], labels, reduction="none")

    point = torch.cat([weight.flatten(), bias])
    hessian = torch.func.hessian(lambda values: losses(values).mean())(point)
    gradients = torch.func.jacrev(losses)(point)
    covariance = (gradients - gradients.mean(0)).T @ (gradients - gradients.mean(0)) / len(labels)
    exact = float((hessian @ covariance).trace())

    draw = torch.Generator().manual_seed(0)
    many = [
        parts.trace_of_hessian_times_covariance(model.float(), inputs.float(), labels, draw, 50)
        for _ in range(20)
    ]
    mean, error = torch.tensor(many).mean(), torch.tensor(many).std() / len(many) ** 0.5
    assert abs(float(mean) - exact) < 4 * float(error) and float(error) < 0.1 * exact
    assert parts.regulariser(0.1, 100, 0.25, 2.0) == pytest.approx(0.01 / 200 * 3 * 2)
    assert parts.regulariser(0.1, 100, 1.0, 2.0) == 0


@pytest.mark.parametrize(("target", "epochs"), [(0.5, 32), (0.3, 20), (0.7, 9), (0.5, 2)])
def test_a_full_tail_is_paid_from_the_same_budget(parts, target, epochs):
    schedule = parts.FullTail(target, 0.125)
    ratios = [schedule.ratio(step, epochs) for step in range(epochs)]
    full = round(0.125 * epochs)
    assert sum(ratios) == pytest.approx(target * epochs)
    assert ratios[epochs - full :] == [1.0] * full and len(set(ratios[: epochs - full])) == 1
    assert sum(counts(schedule, 1000, epochs)) == round(target * epochs * 1000)


def test_rescaled_weights_sum_to_all_samples(parts):
    chosen = parts.Rescaled().select(SampleSignals(40, 3), 10, torch.Generator().manual_seed(0))
    assert len(chosen.index.unique()) == 10 and chosen.weight.tolist() == [4.0] * 10


def test_the_greedy_reference_takes_the_largest_rewards(parts):
    draw = torch.Generator().manual_seed(0)
    signals, greedy = SampleSignals(30, 4), parts.GreedyReward(planned=8)
    first = greedy.select(signals, 30, draw).index
    losses, logits = torch.rand(30, generator=draw), torch.randn(30, 4, generator=draw)
    greedy.observe(ModelOutputs(first, torch.zeros(30, dtype=torch.int64), losses, logits))
    worth = composite(losses, uncertainty(logits))
    assert set(greedy.select(signals, 9, draw).index.tolist()) == set(first[worth.topk(9).indices].tolist())

    again = parts.GreedyReward(planned=8)
    again.load_state_dict(greedy.state_dict())
    assert set(again.select(signals, 9, draw).index.tolist()) == set(first[worth.topk(9).indices].tolist())
    greedy._selections = 7  # the last eighth is a uniform draw
    late = [frozenset(parts.GreedyReward.select(greedy, signals, 9, draw).index.tolist()) for _ in range(3)]
    assert len(set(late)) == 3


# Rows


@pytest.mark.fast
def test_every_row_has_a_name_of_its_own_and_what_it_is_compared_with(rows):
    tables, claims = importlib.import_module("reproduce_tables"), importlib.import_module("reproduce_claims")
    for preset in rows.PRESETS.values():
        results = tables.Results([], preset)
        made = [row for row in preset.rows() if row.section != "curve"]
        assert len({tables.place(row) for row in made}) == len(made)
    results = tables.Results([], rows.PRESETS["cpu"])
    for row in made:
        assert not row.against or results.row(row.section, row.against, row.data, row.labels)
    for claim in claims.CLAIMS:
        for pair in claim.pairs:
            assert results.row(pair.section, pair.name, pair.data, pair.labels), pair
            other = results.row(pair.other_section or pair.section, pair.other, pair.data, pair.labels)
            assert other or pair.other == "best fixed", pair
        assert claim.pairs or claim.elsewhere, claim


def fabricated(rows, preset, run, accuracy):
    """A line of a run that was not made."""
    figures = {"accuracy": accuracy, "validation": accuracy, "cpu_seconds": 1.0, "regulariser": []}
    return {**asdict(run), **figures}


@pytest.mark.fast
def test_the_length_is_the_first_at_which_twice_the_epochs_gain_little(rows):
    results = importlib.import_module("reproduce_tables").Results
    preset = replace(rows.PRESETS["cpu-short"], curve=(4, 8, 16, 32))
    lines = [
        fabricated(rows, preset, run, mean + 0.01 * (run.seed - 1))
        for epochs, mean in ((4, 0.80), (8, 0.85), (16, 0.851), (32, 0.87))
        for run in rows.curve_runs(preset, epochs)
    ]
    assert results(lines, preset).length() == 8
    assert results(lines[:6], preset).length() is None  # 4 and 8 epochs alone
    assert results(lines[:7], preset).length() is None  # 16 epochs of one seed


@pytest.mark.fast
@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        ((0.01, 0.01), "holds"),
        ((0.01, -0.01), "holds in part"),
        ((-0.01, -0.01), "does not hold"),
        ((-0.01, 0.0), "not decided"),
    ],
)
def test_a_verdict_follows_from_the_intervals(rows, gains, verdict):
    tables, claims = importlib.import_module("reproduce_tables"), importlib.import_module("reproduce_claims")
    preset = rows.PRESETS["cpu-short"]
    gain = dict(zip(("pods, random, 50 %", "pods, infobatch, 50 %"), gains, strict=True))
    lines = [
        fabricated(
            rows, preset, run, 0.8 + gain.get(run.row.name, 0) + 0.001 * run.seed * (run.row.name in gain)
        )
        for run in rows.runs_of(preset, preset.length)
        if run.row.section == "pods"
    ]
    said, told = claims.CLAIMS[0].verdict([tables.Results(lines, preset)])
    assert said.startswith(f"**{verdict}** here") and len(told) == 2
    assert claims.CLAIMS[0].verdict([tables.Results([], preset)]) == ("not run yet", [])
    assert (
        claims.CLAIMS[0].verdict([tables.Results([line for line in lines if line["seed"] == 0], preset)])[1]
        == []
    )


# Runs


@pytest.mark.slow
def test_the_smoke_preset_runs_every_row_once_and_makes_the_page(rows, tmp_path, capsys):
    script, page = importlib.import_module("reproduce"), importlib.import_module("tables_reproduction")
    out = tmp_path / "smoke.jsonl"
    script.main(["--preset", "smoke", "--out", str(out), "--stop-after", "0.001"])
    assert len(out.read_text().splitlines()) == 1
    script.main(["--preset", "smoke", "--out", str(out)])
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    script.main(["--preset", "smoke", "--out", str(out)])
    assert len(out.read_text().splitlines()) == len(lines) == len({rows.key(line) for line in lines})
    assert {"command", "commit", "torch", "cpu", "date", "seed"} <= set(lines[0])

    preset = rows.PRESETS["smoke"]
    results = importlib.import_module("reproduce_tables").Results(lines, preset)
    assert all(len(results.lines(row)) == 1 for row in preset.rows() if row.section != "curve")
    for row in preset.rows():
        for line in [] if row.section == "curve" else results.lines(row).values():
            own = row.ratio if row.share == 1 else row.share
            if own is not None:
                assert line["compute"] == pytest.approx(own, abs=0.02), row
            assert bool(line["regulariser"]) == row.regulariser
    for name in ("curve", "length", "pods", "references", "data_agent", "sada", "policies", "regulariser"):
        assert page.of_preset(name, results) != page.NONE
    assert f"| {100 * lines[0]['accuracy']:.2f} |" in page.of_preset("curve", results)
    page.draw(results, tmp_path / "figure.svg")
    assert "random, 50 %" in (tmp_path / "figure.svg").read_text()


def test_the_plan_of_a_preset_tells_rows_runs_and_seconds(tmp_path, capsys):
    script = importlib.import_module("reproduce")
    script.main(["--plan", "--preset", "gpu", "--out", str(tmp_path / "none.jsonl"), "--device", "cuda"])
    told = capsys.readouterr().out
    sections = re.findall(r"^\| (\w+) \| (\d+) \| (\d+) \|", told, re.MULTILINE)
    assert {"curve", "pods", "sada", "policies"} <= {name for name, _, _ in sections}
    assert all(int(runs) >= int(count) > 0 for _, count, runs in sections)


# The papers' own settings


@pytest.mark.parametrize(
    ("setting", "arm"),
    [("cifar10", "data_agent"), ("imagenet", "pods_moderate"), ("segmentation", "pods_infobatch")],
)
def test_a_papers_setting_runs_on_generated_files_and_goes_on(setting, arm, tmp_path):
    script = importlib.import_module("reproduce_papers")
    command = [setting, "--smoke", "--arm", arm, "--out", str(tmp_path / "papers.jsonl")]
    args = script.parse([*command, "--checkpoint", str(tmp_path / "state.pt")])
    found = script.run(args)
    assert 0 <= found["metric"] <= 1 and found["compute"] == pytest.approx(found["train_size"], rel=0.05)
    assert script.run(script.parse(command)) == json.loads(json.dumps(found))  # it is in the file

    again = script.run(
        script.parse(
            [*command[:-1], str(tmp_path / "other.jsonl"), *("--checkpoint", str(tmp_path / "state.pt"))]
        )
    )
    assert (
        again["samples"] == found["samples"] and again["metric"] == found["metric"]
    )  # nothing was left to train


def test_instruction_tuning_runs_and_is_scored_by_likelihood(tmp_path):
    pytest.importorskip("transformers", reason="pip install 'dsenv-rl[text]'")
    script = importlib.import_module("reproduce_papers")
    args = script.parse(
        ["instruct", "--smoke", "--arm", "pods_random", "--out", str(tmp_path / "papers.jsonl")]
    )
    found = script.run(args)
    assert found["samples"] == found["train_size"] and 0 <= found["metric"] <= 1


def test_images_are_flipped_and_shifted_one_by_one():
    data = importlib.import_module("reproduce_paper_data")
    images = torch.rand(12, 2, 6, 5)
    made = data.flipped_and_shifted(images, 2, torch.Generator().manual_seed(3))
    draw = torch.Generator().manual_seed(3)
    down, right = torch.randint(0, 5, (2, 12, 1), generator=draw)
    flip = torch.rand(12, 1, generator=draw) < 0.5
    for row, image in enumerate(images):
        padded = F.pad(image[None], (2, 2, 2, 2), mode="reflect")[0]
        cut = padded[:, down[row, 0] : down[row, 0] + 6, right[row, 0] : right[row, 0] + 5]
        torch.testing.assert_close(made[row], cut.flip(-1) if flip[row] else cut, rtol=0, atol=0)
    assert 0 < int(flip.sum()) < 12


def test_a_plan_of_imagenets_size_is_measured():
    script = importlib.import_module("reproduce_scale")
    kl, loss = (script.measure(f"SADA, {name}", quick=True) for name in ("kl", "loss"))
    classes = script.QUICK[1]
    assert kl["state_bytes"] - loss["state_bytes"] == pytest.approx(2 * classes - 4, abs=1)
    assert kl["step_seconds"] > 0 and kl["selection_seconds"] > 0
