"""Agents: SB3's algorithms, trained policies and fixed rules, with one `predict`."""

from dsenv.agents.learned import LearnedAgent
from dsenv.agents.rules import EasyFirstRule, LossRankRule, NeutralRule, Rule
from dsenv.agents.sb3 import SB3Agent

__all__ = ["EasyFirstRule", "LearnedAgent", "LossRankRule", "NeutralRule", "Rule", "SB3Agent"]
