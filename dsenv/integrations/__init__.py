"""Plug-ins: the parts of dsenv in a training loop of one's own."""

from dsenv.integrations.batch import Batch, IndexedDataset, ViewBatch
from dsenv.integrations.features import FeatureForward
from dsenv.integrations.loader import PlanLoader, PlanSampler
from dsenv.integrations.plan import DataPlan
from dsenv.integrations.records import Cost, PlanSignals
from dsenv.integrations.timetable import Timetable

__all__ = [
    "Batch",
    "Cost",
    "DataPlan",
    "FeatureForward",
    "IndexedDataset",
    "PlanLoader",
    "PlanSampler",
    "PlanSignals",
    "Timetable",
    "ViewBatch",
]
