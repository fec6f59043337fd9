"""Plug-ins: the parts of dsenv in a training loop of one's own."""

from dsenv.plan.batch import Batch, IndexedDataset, ViewBatch
from dsenv.plan.data_plan import DataPlan
from dsenv.plan.epoch_schedule import EpochSchedule
from dsenv.plan.features import FeatureForward
from dsenv.plan.loader import PlanLoader, PlanSampler
from dsenv.plan.records import Cost, PlanSignals

__all__ = [
    "Batch",
    "Cost",
    "DataPlan",
    "EpochSchedule",
    "FeatureForward",
    "IndexedDataset",
    "PlanLoader",
    "PlanSampler",
    "PlanSignals",
    "ViewBatch",
]
