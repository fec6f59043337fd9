"""The code of docs/segmentation.md runs, learns, and its page says what is true."""

import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[2] / "docs" / "segmentation.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), flags=re.DOTALL)


def run(number: int) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(BLOCKS[number], "docs/segmentation.md", "exec"), names)
    return names


def test_a_plan_of_a_segmentation_learns() -> None:
    names = run(0)
    plan = names["plan"]
    assert names["mean_iou"] > 0.6
    assert plan.signals.times_trained.min() > 0 and plan.cost.trained < 6 * 96
    assert 0 < float(plan.signals.confidence.mean()) < 1 and float(plan.signals.entropy.max()) <= 1


def test_a_plan_of_a_detection_learns() -> None:
    names = run(1)
    seen, plan = names["seen"], names["plan"]
    assert sum(seen[-3:]) < 0.8 * sum(seen[:3])
    assert plan.signals.times_trained.sum() == plan.cost.trained and len(BLOCKS) == 2
