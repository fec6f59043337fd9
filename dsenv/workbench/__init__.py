"""The workbench behind `train_agent.py`: environment x agent -> a run folder."""

from dsenv.workbench.cli import main

__all__ = ["main"]
