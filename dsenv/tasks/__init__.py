"""Tasks: what is trained. Data set + model + loss + optimiser recipe."""

from dsenv.tasks.dataset import Dataset, Split
from dsenv.tasks.task import Recipe, Task
from dsenv.tasks.tensors import from_tensors

__all__ = ["Dataset", "Recipe", "Split", "Task", "from_tensors"]
