"""Plans under torchdata's StatefulDataLoader: the plan's state, the loader's, and both."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip(
    "torchdata.stateful_dataloader", reason='torchdata is not installed: pip install "dsenv-rl[torchdata]"'
)

from torchdata.stateful_dataloader import StatefulDataLoader

from dsenv.plan import DataPlan, IndexedCollate
from tests.integrations import cases, torchdata_cases
from tests.integrations.cases import Case, check_result, check_resumed, launch_all, worker_settings
from tests.plan.ranks import Row, Rows

ROOT = Path(__file__).resolve().parents[2]
BOTH, SELDOM, ALONE = torchdata_cases.CASES
ONE = [
    (BOTH, Case("constant", 1, 4, 0)),
    (BOTH, Case("constant", 1, 4, 0, "in 0")),
    (BOTH, Case("pods", 1, 1, 2)),
    (BOTH, Case("pods", 1, 1, 2, "last 0")),
    (SELDOM, Case("pods", 1, 2, 2)),
    (SELDOM, Case("pods", 1, 2, 2, "in 0")),
    (SELDOM, Case("pods", 1, 2, 2, "first 1")),
    (SELDOM, Case("pods", 1, 2, 2, "last 2")),
    (ALONE, Case("rising", 1, 1, 0)),
    (ALONE, Case("rising", 1, 1, 0, "first 3")),
]
TWO = [
    (BOTH, Case("rising", 2, 2, 0)),
    (BOTH, Case("rising", 2, 2, 0, "in 2")),
    (BOTH, Case("pods", 2, 1, 2)),
    (BOTH, Case("pods", 2, 1, 2, "last 0")),
    (ALONE, Case("constant", 2, 2, 0)),
    (ALONE, Case("constant", 2, 2, 0, "first 1")),
]


def run_call(folder: Path, call: tuple[str, Case]) -> cases.Result:
    return torchdata_cases.CASES[call[0]](folder, call[1])


@pytest.fixture(scope="module")
def found(tmp_path_factory: Any) -> dict[Any, list[cases.Result]]:
    """What every rank saw; one launch for all cases of two ranks."""
    folder = tmp_path_factory.mktemp("torchdata")
    (folder / "one").mkdir()
    one = {call: [run_call(folder / "one", call)] for call in ONE}
    return {**one, **launch_all(run_call, folder / "two", TWO, 2)}


@pytest.mark.parametrize("call", [*ONE, *TWO], ids=lambda call: f"{call[0]}: {call[1]}")
def test_a_case_is_as_planned_and_a_resumed_one_is_the_same(call: Any, found: Any) -> None:
    check_result(found[call], cases.reference(call[1]))
    if call[1].stop != "none":
        check_resumed(found[call], found[call[0], call[1]._replace(stop="none")])


def new_parts(workers: int = 0, *, stream: bool = False) -> tuple[DataPlan, Any]:
    choice = {"selector": "random", "volume": "pods", "ratio": 0.6}
    plan = DataPlan(Rows(), epochs=3, batch_size=20, classes=4, whole_steps=True, **choice)
    settings = {"collate_fn": IndexedCollate(), "generator": torch.Generator(), **worker_settings(workers)}
    sampler = plan.new_sampler(stream=True) if stream else plan.sampler
    return plan, StatefulDataLoader(plan.dataset, plan.micro_batch_size, sampler=sampler, **settings)


def train(plan: DataPlan, loader: Any, most: int | None = None) -> list[Row]:
    rows = []
    for raw in loader:
        batch = plan.batch(*raw)
        rows.append(cases.check_row(batch))
        plan.loss(batch, torch.ones(len(batch.index)))
        if len(rows) == most:
            break
    return rows


@pytest.mark.parametrize(("workers", "stop"), [(0, 1), (0, 4), (0, 6), (2, 6)])
def test_a_stream_goes_on_from_both_states(workers: int, stop: int) -> None:
    whole = train(*new_parts(stream=True))
    plan, loader = new_parts(workers, stream=True)
    before = train(plan, loader, stop)

    other, again = new_parts(workers, stream=True)
    other.load_state_dict(plan.state_dict())
    again.load_state_dict(loader.state_dict())
    assert before + train(other, again) == whole and other.progress == 1


@pytest.mark.parametrize("stream", [False, True])
def test_the_state_of_the_loader_alone_is_refused(stream: bool) -> None:
    plan, loader = new_parts(stream=stream)
    train(plan, loader, 2)
    other, again = new_parts(stream=stream)
    again.load_state_dict(loader.state_dict())
    with pytest.raises(ValueError, match=r"load the plan's state first, plan\.load_state_dict"):
        train(other, again)


def test_states_of_two_moments_are_noticed() -> None:
    plan, loader = new_parts()
    rows = iter(loader)
    batches = [plan.batch(*next(rows)) for _ in range(2)]
    old = loader.state_dict()
    batches.append(plan.batch(*next(rows)))
    for batch in batches:
        plan.loss(batch, torch.ones(len(batch.index)))

    other, again = new_parts()
    other.load_state_dict(plan.state_dict())
    again.load_state_dict(old)
    with pytest.raises(ValueError, match=r"was taken in before"):
        train(other, again)


def test_the_example_of_the_page_runs(capsys: Any) -> None:
    text = (ROOT / "docs" / "torchdata.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    exec(compile(block, "docs/torchdata.md", "exec"), {"__name__": "torchdata"})
    assert "100% done" in capsys.readouterr().out
