"""Plans in loops of Accelerate, on one and two ranks; every row is checked at its loss."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("accelerate", reason='accelerate is not installed: pip install "dsenv-rl[accelerate]"')

from tests.integrations import accelerate_cases, cases
from tests.integrations.cases import Case, Result, check_result, check_resumed, launch_all, rows_of_epoch
from tests.plan.ranks import script_said

ROOT = Path(__file__).resolve().parents[2]
ONE = [
    ("plan_loader", Case("constant", 1, 1, 0)),
    ("plan_loader", Case("constant", 1, 4, 2)),
    ("plan_loader", Case("pods", 1, 1, 2)),
    ("plan_loader", Case("pods", 1, 1, 2, "last 0")),
    ("plan_loader", Case("rising", 1, 4, 0)),
    ("plan_loader", Case("rising", 1, 4, 0, "first 1")),
    ("plan_loader", Case("rising", 1, 4, 0, "last 2")),
    ("sharded by Accelerate", Case("pods", 1, 2, 0)),
    ("sharded by Accelerate", Case("pods", 1, 2, 0, "in 2")),
]
TWO = [
    ("plan_loader", Case("constant", 2, 1, 0)),
    ("plan_loader", Case("constant", 2, 2, 0)),
    ("plan_loader", Case("pods", 2, 2, 2)),
    ("plan_loader", Case("pods", 2, 2, 2, "in 0")),
    ("plan_loader", Case("pods", 2, 2, 2, "last 0")),
    ("plan_loader", Case("pods", 2, 2, 2, "last 2")),
    ("plan_loader", Case("rising", 2, 1, 0)),
    ("plan_loader", Case("rising", 2, 1, 0, "first 1")),
    ("plan_loader", Case("rising", 2, 1, 0, "in 2")),
    ("skip_first_batches", Case("pods", 2, 2, 2)),
    ("skip_first_batches", Case("pods", 2, 2, 2, "in 0")),
    ("skip_first_batches", Case("pods", 2, 2, 2, "in 2")),
    ("sharded by Accelerate", Case("constant", 2, 1, 2)),
    ("sharded by Accelerate", Case("constant", 2, 1, 2, "in 2")),
    ("plan.loader", Case("rising", 2, 2, 0)),
    ("plan.loader", Case("rising", 2, 2, 0, "last 0")),
    ("even_batches=False, split_batches=True", Case("pods", 2, 1, 0)),
    ("sharded, split_batches=True", Case("rising", 2, 2, 0)),
    ("sharded, even_batches=False", Case("rising", 2, 1, 0)),
    ("sharded, dispatch_batches=True", Case("pods", 2, 1, 0)),
    ("sharded, dispatch_batches=True", Case("pods", 2, 1, 0, "in 2")),
]
HALF = [("bf16", Case("rising", 2, 2, 0)), ("bf16", Case("rising", 2, 2, 0, "in 2"))]
WHOLE = ("plan_loader", accelerate_cases.KILLED)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: Any) -> Path:
    """The folder of a run of which one rank was killed."""
    folder: Path = tmp_path_factory.mktemp("killed")
    assert cases.launch_until_death(accelerate_cases.killed, folder, 2) == [3, 9]
    return folder / "call0"


@pytest.fixture(scope="module")
def one(tmp_path_factory: Any) -> Iterator[dict[Any, list[Any]]]:
    """What one process saw, which is this one."""
    folder = tmp_path_factory.mktemp("one")
    calls = [*ONE, ("schedules", 4)]
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
            patch.delenv(name)
        yield {call: [accelerate_cases.run_call(folder / str(n), call)] for n, call in enumerate(calls)}
    accelerate_cases.reset()


@pytest.fixture(scope="module")
def two(tmp_path_factory: Any, killed: Path) -> dict[Any, list[Any]]:
    """What each of two ranks saw."""
    calls = [*TWO, *HALF, WHOLE, ("go_on", str(killed)), ("schedules", 1), ("refused",)]
    return launch_all(accelerate_cases.run_call, tmp_path_factory.mktemp("two"), calls, 2)


def name_of(call: tuple[str, Case]) -> str:
    return f"{call[0]}: {call[1]}"


@pytest.mark.parametrize("call", [*ONE, *TWO], ids=name_of)
def test_a_case_is_as_planned_and_a_resumed_one_is_the_same(call: Any, one: Any, two: Any) -> None:
    found = {**one, **two}
    check_result(found[call], cases.reference(call[1]))
    if call[1].stop != "none":
        check_resumed(found[call], found[call[0], call[1]._replace(stop="none")])


def test_steps_of_one_batch_or_several_on_one_rank_or_two_are_the_same(one: Any, two: Any) -> None:
    """1 x 16, 4 x 4, 2 x 8 and 2 x 2 x 4 samples."""
    expected = cases.reference(Case("constant")).parameters
    found = {**one, **two}
    for ranks, accumulate, workers in ((1, 1, 0), (1, 4, 2), (2, 1, 0), (2, 2, 0)):
        for each in found["plan_loader", Case("constant", ranks, accumulate, workers)]:
            torch.testing.assert_close(each.parameters, expected, rtol=0, atol=1e-5)


def test_bf16_trains_on_what_was_planned_and_resumes_bit_for_bit(two: Any) -> None:
    whole, stopped = two[HALF[0]], two[HALF[1]]
    expected = cases.reference(Case("rising"))
    for epoch in range(cases.EPOCHS):
        assert rows_of_epoch(whole, epoch) == rows_of_epoch([expected], epoch)
    check_resumed(stopped, whole)
    torch.testing.assert_close(whole[0].parameters, expected.parameters, rtol=0, atol=0.05)
    assert not torch.equal(whole[0].parameters, expected.parameters)


def test_a_rank_that_is_killed_is_said_and_the_run_goes_on(killed: Path, two: Any) -> None:
    said = torch.load(killed / "said.pt", weights_only=False)
    assert said["seconds"] < accelerate_cases.WAIT + 10 and said["error"]
    whole: list[Result] = two[WHOLE]
    assert said["rows"] == whole[0].rows[:4]
    for rest, all_of_it in zip(two["go_on", str(killed)], whole, strict=True):
        assert rest.rows == all_of_it.rows[4:] and torch.equal(rest.parameters, all_of_it.parameters)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "sampler of the rank",
            r"once more\. Under Accelerate take dsenv\.integrations\.accelerate\.plan_loader",
        ),
        (
            "restart",
            r"in epoch 2 .* not to 0; .* Accelerate takes dsenv\.integrations\.accelerate\.plan_loader",
        ),
        (
            "plan.loader, accumulation",
            r"accumulates 4 batches .* the plan counts 2.* DataPlan\(accumulate=4\)",
        ),
        ("alone", r"the plan is for rank 0 of 1, and this is process \d of 2"),
        ("accumulation", r"accumulates 1 batches .* plan counts 2: DataPlan\(accumulate=accelerator\."),
        ("dispatch", r"dispatch_batches=True has one process read .*shard='global'"),
        ("shard", "plan_loader decides shard"),
    ],
)
def test_what_does_not_fit_together_is_said(name: str, words: str, two: Any) -> None:
    with pytest.raises(ValueError, match=words):
        raise ValueError(two["refused",][1][name])


def test_prepared_schedules_end_where_the_plan_does_or_it_is_said(one: Any, two: Any) -> None:
    for found, accumulate in ((one["schedules", 4][0], 4), (two["schedules", 1][0], 1)):
        rate, said = found["for all processes"]
        assert abs(rate) < 1e-9 and not said
        rate, said = found["for one process"]
        assert bool(said) == (accumulate == 1) and (abs(rate) < 1e-9) == (not said)
        rate, said = found["one cycle"]  # one step of torch's past its lowest rate
        assert rate < 0.01 and not said


def test_the_example_of_the_page_runs_in_two_processes(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "accelerate.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    script = tmp_path / "train.py"
    script.write_text("\n".join(blocks), encoding="utf-8")
    for said in script_said(script, tmp_path, ACCELERATE_USE_CPU="true"):
        assert "100% done" in said
