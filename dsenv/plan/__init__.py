"""The plan: the parts of dsenv in your own training loop."""

from dsenv.plan.batch_loss import BatchLoss
from dsenv.plan.collate import IndexedCollate
from dsenv.plan.cost import Cost
from dsenv.plan.data import Batch, IndexedDataset
from dsenv.plan.data_plan import DataPlan
from dsenv.plan.epoch_sampler import EpochSampler
from dsenv.plan.epoch_schedule import EpochSchedule
from dsenv.plan.forward import FeatureForward
from dsenv.plan.guard import Guard
from dsenv.plan.loader import PlanLoader, PlanSampler
from dsenv.plan.signals import PlanSignals
from dsenv.plan.suspects import Suspect, Suspects

__all__ = [
    "Batch",
    "BatchLoss",
    "Cost",
    "DataPlan",
    "EpochSampler",
    "EpochSchedule",
    "FeatureForward",
    "Guard",
    "IndexedCollate",
    "IndexedDataset",
    "PlanLoader",
    "PlanSampler",
    "PlanSignals",
    "Suspect",
    "Suspects",
]
