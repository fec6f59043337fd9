"""Agents: SB3's algorithms, trained policies and fixed rules, with one `predict`."""

from dsenv.agents.learned import LearnedAgent
from dsenv.agents.rules import EasyFirst, Even, Ranked, Rule
from dsenv.agents.sb3 import SB3Agent

__all__ = ["EasyFirst", "Even", "LearnedAgent", "Ranked", "Rule", "SB3Agent"]
