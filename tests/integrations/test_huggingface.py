"""Plans in the Trainer of transformers and in SFTTrainer: what each batch held, steps, ranks, resuming."""

import pytest
import torch

pytest.importorskip(
    "transformers", reason='transformers is not installed: pip install "dsenv-rl[huggingface]"'
)
pytest.importorskip("trl", reason='trl is not installed: pip install "dsenv-rl[huggingface]"')

from tests.integrations import cases as every
from tests.integrations import huggingface_cases as cases
from tests.integrations.cases import Case
from tests.plan.ranks import launch

RUNS = {
    "classes": ("classification", {"volume": "constant", "workers": 2}),
    "classes pods": ("classification", {"volume": "pods", "data": "torch"}),
    "causal rising": ("causal", {"volume": "rising"}),
    "sft all": ("sft", {"volume": "all"}),
    "sft flat": ("sft", {"volume": "constant", "padding_free": True}),
    "sft own count": ("sft", {"volume": "own count"}),
}
"""Task and settings, of runs in one process and on two ranks."""
SHAPES = {"causal rising": 4, "sft all": 4, "sft flat": 2}
"""Micro-batches of the same runs with accumulation."""


ONE = [
    Case("constant", 1, 4, 0),
    Case("pods", 1, 1, 2),
    Case("pods", 1, 1, 2, "last 0"),
    Case("rising", 1, 2, 0),
    Case("rising", 1, 2, 0, "first 3"),
]
TWO = [Case("pods", 2, 2, 0), Case("pods", 2, 2, 0, "in 0"), Case("rising", 2, 1, 0)]
"""Cases that are compared with a plain loop in one process."""


def as_cases(accumulation=None):
    return {
        name: (
            "train",
            {"task": task, **given, **({"accumulation": accumulation[name]} if accumulation else {})},
        )
        for name, (task, given) in RUNS.items()
        if accumulation is None or name in accumulation
    }


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Every run in one process, and with accumulation."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("alone")
    found = {name: cases.train(**given, folder=folder) for name, (_, given) in as_cases().items()}
    for name, (_, given) in as_cases(SHAPES).items():
        found[f"{name} accumulated"] = cases.train(**given, folder=folder)
    return found


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """What two ranks did, in one launch."""
    several = {f"{name} accumulated": case for name, case in as_cases(dict.fromkeys(SHAPES, 2)).items()}
    stopped = {"task": "causal", "volume": "pods", "stops": [4, 6]}
    plain = {str(case): ("run_case", {"case": case}) for case in TWO}
    calls = {**as_cases(), **several, "resumed": ("resumed", stopped), **plain}
    folder = tmp_path_factory.mktemp("pair") / "ranks"
    found = launch(cases.on_ranks, folder, calls, timeout=120)
    found[0]["folder"] = folder
    return found


def samples_of(found, epoch):
    return [position for batch in found["batches"] if batch["epoch"] == epoch for position in batch["index"]]


@pytest.mark.parametrize("name", list(RUNS))
def test_steps_rate_and_epochs_are_the_plans(alone, name):
    found = alone[name]
    per_epoch = [len(samples_of(found, epoch)) // cases.BATCH for epoch in range(cases.EPOCHS)]
    if found["planned"] is not None:
        assert per_epoch == found["planned"]
    ends = torch.tensor(per_epoch).cumsum(0).tolist()
    assert found["steps"] == found["max_steps"] == ends[-1] and found["epoch"] == cases.EPOCHS
    assert found["rate"] == pytest.approx(0, abs=1e-7)

    # Evaluated, ended and logged at the end of each of the plan's epochs, which are what state.epoch counts
    watch = found["watch"]
    assert watch["evaluated"] == watch["ended"] == watch["logged"] == ends
    wanted = [epoch + (step + 1) / steps for epoch, steps in enumerate(per_epoch) for step in range(steps)]
    assert watch["epochs"] == pytest.approx(wanted)
    assert found["trained"] == sum(map(len, (batch["index"] for batch in found["batches"])))
    logs = [log for log in found["log"] if "plan/chosen/share of the data" in log]
    assert [log["plan/chosen/share of the data"] * cases.SIZE for log in logs] == [
        steps * cases.BATCH for steps in per_epoch
    ]


@pytest.mark.parametrize("name", list(RUNS))
def test_two_ranks_train_what_one_process_trains(alone, pair, name):
    whole = alone[name]
    for epoch in range(cases.EPOCHS):
        first, second = (samples_of(found[name], epoch) for found in pair)
        assert len(first) == len(second) and not set(first) & set(second)
        assert len(set(first) | set(second)) == len(first) + len(second) == len(samples_of(whole, epoch))
        both, one = set(first) | set(second), set(samples_of(whole, epoch))
        assert both == one or _are_ties(whole, both ^ one, epoch)
    for found in pair:
        assert found[name]["steps"] == whole["steps"] and found[name]["watch"] == whole["watch"]
        assert found[name]["trained"] == whole["trained"] and found[name]["tokens"] == whole["tokens"]
        assert last(found[name], "num_tokens") == last(whole, "num_tokens")  # as TRL counts
        torch.testing.assert_close(found[name]["parameters"], whole["parameters"], atol=1e-5, rtol=0)


def last(found, name):
    """The last value of a name in the logs, where TRL logs it."""
    return next((log[name] for log in reversed(found["log"]) if name in log), None)


def _are_ties(whole, positions, epoch):
    """Whether samples differ in their last losses by no more than rounding."""
    last = {}
    for batch in whole["batches"]:
        if batch["epoch"] < epoch:
            last |= dict(zip(batch["index"], batch["losses"], strict=True))
    found = [last[position] for position in positions]
    return max(found) - min(found) < 1e-6


@pytest.mark.parametrize("name", list(SHAPES))
def test_accumulation_changes_no_gradient(alone, pair, name):
    whole = alone[name]["parameters"]
    for found in (alone, *pair):
        other = found[f"{name} accumulated"]
        assert other["steps"] == alone[name]["steps"]
        torch.testing.assert_close(other["parameters"], whole, atol=1e-5, rtol=0)


def check_resumed(runs):
    whole, *others = runs
    for other in others:
        assert other["batches"] == whole["batches"]
        assert torch.equal(other["parameters"], whole["parameters"])
        assert other["steps"] == whole["steps"] and other["rate"] == whole["rate"]
        assert all(
            torch.equal(value, whole["signals"][name])
            for name, value in other["signals"].items()
            if isinstance(value, torch.Tensor)
        )


def test_a_stopped_run_goes_on_bit_for_bit(tmp_path):
    """PODS has 4, 1, 2 and 1 steps: inside, on the last and the first batch of epochs, with dropout."""
    check_resumed(
        cases.resumed("classification", tmp_path, volume="pods", dropout=0.1, stops=[2, 4, 5, 6, 7])
    )


def test_with_workers_and_accumulation_too(tmp_path):
    given = {"volume": "constant", "workers": 2, "accumulation": 2, "padding_free": True}
    check_resumed(cases.resumed("sft", tmp_path, stops=[1, 4], **given))


def test_on_two_ranks_too(pair):
    for found in pair:
        check_resumed(found["resumed"])


@pytest.mark.parametrize("stop", [4, 6])
def test_one_process_goes_on_from_a_checkpoint_of_two_ranks(pair, stop):
    whole, _, _ = pair[0]["resumed"]
    place = pair[0]["folder"] / "resumed" / f"stop{stop}"
    rest = cases.train("causal", place, volume="pods", resume=True)
    assert rest["steps"] == whole["steps"] and rest["trained"] == whole["trained"]
    torch.testing.assert_close(rest["parameters"], whole["parameters"], atol=1e-5, rtol=0)


def check_case(found, case):
    """Against the plain loop of one process, and the run that was not stopped."""
    every.check_result(found[case], every.reference(case))
    if case.stop != "none":
        every.check_resumed(found[case], found[case._replace(stop="none")])


def test_one_process_trains_what_a_plain_loop_trains(tmp_path):
    found = {}
    for number, case in enumerate(ONE):
        found[case] = [cases.run_case(tmp_path / str(number), case)]
        check_case(found, case)


@pytest.mark.parametrize("case", TWO, ids=str)
def test_two_ranks_train_what_a_plain_loop_trains(pair, case):
    check_case({each: [found[str(each)] for found in pair] for each in TWO}, case)
