"""An evaluation as TensorBoard's events, read back: sub-runs, tags, steps, values, HParams; made again."""

import json

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import metadata, plugin_data_pb2

import dsenv
from dsenv.catalogue import definition
from dsenv.evaluation import Entry, evaluate, write_report
from dsenv.evaluation.storage import load

ENV = definition("envs", "Tiny-Curriculum-v0")
AGENTS = ("random", "all_data", "small_loss")
CURVE = "2 test accuracy over samples seen/label noise 40%"


def entries(*names):
    return [Entry(name, dsenv.load("agents", name)) for name in names]


def found_in(folder):
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0})
    events.Reload()
    return events


def series(folder, tag):
    return [(event.step, pytest.approx(event.value)) for event in found_in(folder).Scalars(tag)]


@pytest.fixture(scope="module")
def result():
    return evaluate(ENV, entries(*AGENTS), "random", seeds=6, progress=False)


@pytest.fixture(scope="module")
def folder(result, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_report(result, folder, step=123, about={"run": "mine", "agent seed": 3})
    return folder


def test_each_agent_is_a_sub_run(folder):
    runs = EventMultiplexer().AddRunsFromDirectory(str(folder))
    runs.Reload()
    agents = {f"evaluation/{name}" for name in AGENTS} | {f"hparams/{name}" for name in AGENTS}
    assert set(runs.Runs()) == {"evaluation", *agents}
    assert {path.name for path in folder.iterdir() if path.is_file()} == {
        "evaluation.json", "accuracy.png", "schedule.png", "noise.png",
    }  # fmt: skip


@pytest.mark.parametrize("agent", AGENTS)
def test_test_accuracy_lies_over_samples_seen(folder, result, agent):
    row = next(row for row in result.rows if row.agent == agent and row.context["label_noise"] == 0.4)
    samples = 200 if agent == "all_data" else 100
    found = found_in(folder / "evaluation" / agent)
    curve = found.Scalars(CURVE)
    assert [event.step for event in curve] == [samples * (t + 1) for t in range(4)]
    assert curve[-1].value == pytest.approx(row.accuracy_mean, abs=1e-6)

    low, high = (
        found.Scalars(f"{edge} edge of the 95% interval/label noise 40%") for edge in ("6 lower", "7 upper")
    )
    for lower, event, upper in zip(low, curve, high, strict=True):
        assert lower.step == event.step == upper.step and lower.value <= event.value <= upper.value


def test_what_was_chosen_lies_over_intervals_where_it_says_something(folder, result):
    wrong = series(
        folder / "evaluation" / "small_loss", "4 wrong labels among the chosen, by interval/label noise 40%"
    )
    assert wrong == list(enumerate(result.wrong["small_loss"][1].tolist(), 1))
    tags = found_in(folder / "evaluation" / "random").Tags()["scalars"]
    assert not [tag for tag in tags if tag.startswith(("3 share", "5 augmentation"))]  # one half; none
    assert not [tag for tag in tags if "wrong" in tag and "noise 0%" in tag]


def test_the_hparams_table_has_a_row_an_agent_and_columns_by_context(folder, result):
    for agent in AGENTS:
        found = found_in(folder / "hparams" / agent)
        content = found.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
        start = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
        assert start["agent"].string_value == agent and start["run"].string_value == "mine"
        assert start["agent seed"].number_value == 3
        assert start["environment"].string_value == "dsenv/Tiny-Curriculum-v0"
        for row in (row for row in result.rows if row.agent == agent):
            context = f"label noise {row.context['label_noise']:.0%}"
            for tag, value in (
                ("8 test accuracy at the end", row.accuracy_mean),
                ("8 gain over all data", row.gain_mean),
                ("8 gain over random", row.over_random_mean),
            ):
                assert series(folder / "hparams" / agent, f"{tag}/{context}") == [(123, value)]
        share = 1.0 if agent == "all_data" else 0.5
        assert series(folder / "hparams" / agent, "9 cost/share of the data") == [(123, share)]
        assert series(folder / "hparams" / agent, "9 cost/seconds")[0][0] == 123


def test_pictures_tables_and_the_layout_stand_at_one_step(folder):
    found = found_in(folder / "evaluation")
    images = found.Tags()["images"]
    assert images[0] == "1 result/gain over all data, and cost" and len(images) == 4
    for tag in images:
        (image,) = found.Images(tag)
        assert image.step == 123 and image.width > 300
    (table,) = found.Tensors("1 result/table/text_summary")
    assert table.step == 123 and b"| **random** | 50% |" in table.tensor_proto.string_val[0]
    (overall,) = found.Tensors("1 result/over all contexts/text_summary")
    assert (
        b"| agent | interquartile mean | better than all data | better than random | acc"
        in (overall.tensor_proto.string_val[0])
    )

    (config,) = found.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(config.tensor_proto.string_val[0])
    (chart, _) = layout.category[0].chart
    assert chart.title == "label noise 40%" and chart.margin.series[0].value == CURVE
    tags = found_in(folder / "evaluation" / "random").Tags()["scalars"]
    series = chart.margin.series[0]
    assert {series.value, series.lower, series.upper} <= set(tags)


def test_an_evaluation_again_adds_a_step_and_overwrites_nothing(result, tmp_path):
    def events():
        return {path: path.read_bytes() for path in tmp_path.rglob("events*")}

    write_report(result, tmp_path, step=5)
    before, first = events(), (tmp_path / "evaluation.json").read_text()
    write_report(result, tmp_path, step=5)  # the same policy
    write_report(result, tmp_path, step=96)  # one that was trained for longer
    after = events()
    assert all(after[path] == content for path, content in before.items())

    tag = "8 gain over random/label noise 40%"
    steps = [step for step, _ in series(tmp_path / "hparams" / "small_loss", tag)]
    assert steps == [5, 6, 96]
    images = found_in(tmp_path / "evaluation").Images("1 result/gain over all data, and cost")
    assert [image.step for image in images] == [5, 6, 96]
    for name in ("evaluation", "evaluation-2", "evaluation-3"):
        assert len(found_in(tmp_path / name / "random").Scalars(CURVE)) == 4
    assert (tmp_path / "evaluation-1.json").read_text() == first
    numbers = [load(tmp_path / f"evaluation{n}.json")[1]["number"] for n in ("-1", "-2", "")]
    assert numbers == [1, 2, 3]


@pytest.mark.parametrize(
    "damage", ["", "{}", "[]", '{"rows": 3}', "\x00" * 50, '{"env": "a", "agent": "b", "rows": []}']
)
def test_a_damaged_or_old_result_is_kept_and_not_counted_on(result, tmp_path, damage):
    (tmp_path / "evaluation.json").write_text(damage)
    write_report(result, tmp_path, step=5)
    assert (tmp_path / "evaluation-1.json").read_text() == damage
    assert load(tmp_path / "evaluation.json")[1]["step"] == 6


def test_what_a_killed_evaluation_left_is_not_mixed_with_the_next(result, tmp_path):
    write_report(result, tmp_path, step=5)
    (tmp_path / "evaluation.json").unlink()
    write_report(result, tmp_path, step=5)
    assert len(found_in(tmp_path / "evaluation" / "random").Scalars(CURVE)) == 4
    assert len(found_in(tmp_path / "evaluation-2" / "random").Scalars(CURVE)) == 4
    images = found_in(tmp_path / "evaluation").Images("1 result/gain over all data, and cost")
    assert [image.step for image in images] == [5, 6]


def test_elsewhere_has_folders_of_its_own(result, tmp_path):
    written = write_report(result, tmp_path, step=5, prefix="there-")
    assert written[0].name == "there-evaluation.json"
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {
        "there-evaluation",
        "there-hparams",
    }


def test_curves_change_no_number_of_the_table_and_can_be_turned_off(result, tmp_path):
    plain = evaluate(ENV, entries(*AGENTS), "random", seeds=6, progress=False, curves=False)
    for row, other in zip(result.rows, plain.rows, strict=True):
        assert {**vars(row), "seconds": 0} == {**vars(other), "seconds": 0}
    assert not any(trace.has_curve for traces in plain.traces.values() for trace in traces)
    write_report(plain, tmp_path, step=5)
    assert not [
        tag for tag in found_in(tmp_path / "evaluation" / "random").Tags()["scalars"] if tag[0] in "267"
    ]


def test_what_is_kept_can_be_read_again(result, folder):
    kept, facts = load(folder / "evaluation.json")
    assert facts["number"] == 1 and facts["step"] == facts["trained"] == 123
    assert kept.rows == result.rows and kept.contexts == result.contexts
    for agent in AGENTS:
        for trace, other in zip(result.traces[agent], kept.traces[agent], strict=True):
            for name, value in vars(trace).items():
                np.testing.assert_allclose(getattr(other, name), value, rtol=1e-5, err_msg=name)
                assert getattr(other, name).dtype == value.dtype, name
    final = [trace.curve[:, -1] for trace in kept.traces["random"]]
    for values, trace in zip(final, kept.traces["random"], strict=True):
        np.testing.assert_allclose(values, trace.accuracy, rtol=1e-5)


def test_a_newer_or_damaged_file_is_named(folder, tmp_path):
    path = tmp_path / "evaluation.json"
    content = json.loads((folder / "evaluation.json").read_text())
    for change, message in (
        ({"layout": 9}, "it has layout 9, and this version of dsenv reads up to 2"),
        ({"number": 7}, "it was changed since it was written"),
        ({"rows": [{}]}, "is no whole evaluation"),
        ({"traces": {"random": [{}]}}, "is no whole evaluation"),
        ({"rows": None}, "is no whole evaluation"),
    ):
        path.write_text(json.dumps({**content, **change}))
        with pytest.raises(ValueError, match=message):
            load(path)


def test_classes_seen_and_pooled_are_shares(result):
    for traces in result.traces.values():
        for trace in traces:
            assert trace.class_seen.sum() == pytest.approx(1, abs=1e-5)
            assert trace.class_pool.sum() == pytest.approx(1, abs=1e-5)
    for trace in result.traces["all_data"]:
        np.testing.assert_allclose(trace.class_seen, trace.class_pool, atol=1e-6)


def test_agents_that_are_not_followed_have_no_sub_run(result, tmp_path):
    write_report(result, tmp_path, step=5, followed=["random"])
    assert {path.name for path in (tmp_path / "hparams").iterdir()} == {"random"}
    assert {path.name for path in (tmp_path / "evaluation").iterdir() if path.is_dir()} == {"random"}


ODD = ("a b/c", "a_b_c", "A_b_c", "..", ".", "x" * 300, "ü $x_{$ | **")


def test_odd_names_of_agents_have_folders_of_their_own(tmp_path):
    env = ENV.with_overrides({"intervals": 2, "evaluation_contexts": [{"label_noise": 0.4}]})
    agents = [Entry(name, dsenv.load("agents", "random")) for name in ODD]
    found = evaluate(env, agents, ODD[-1], seeds=1, progress=False)
    write_report(found, tmp_path / "run", step=5)

    assert not list(tmp_path.glob("*events*")) and not list((tmp_path / "run").glob("events*"))
    for part in ("evaluation", "hparams"):
        folders = [path for path in (tmp_path / "run" / part).iterdir() if path.is_dir()]
        assert len({path.name.casefold() for path in folders}) == len(ODD)
        assert all(len(list(path.glob("events*"))) == 1 for path in folders)
    (table,) = found_in(tmp_path / "run" / "evaluation").Tensors("1 result/table/text_summary")
    last = table.tensor_proto.string_val[0].decode().splitlines()[-1]
    assert last.startswith("| **ü $x_{$ \\| **** | 50% |")


def test_without_curves_there_is_no_layout_of_empty_charts(tmp_path):
    env = ENV.with_overrides({"intervals": 2})
    write_report(
        evaluate(env, entries("random"), "random", seeds=1, curves=False, progress=False), tmp_path, 1
    )
    assert "custom_scalars__config__" not in found_in(tmp_path / "evaluation").Tags()["tensors"]
