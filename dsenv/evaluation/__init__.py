"""Evaluation: equal-budget comparison on fresh seeds, as table, figures and TensorBoard."""

from dsenv.evaluation.compare import Entry, Evaluation, Row, evaluate
from dsenv.evaluation.report import write_report
from dsenv.evaluation.tables import markdown_table

__all__ = ["Entry", "Evaluation", "Row", "evaluate", "markdown_table", "write_report"]
