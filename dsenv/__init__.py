"""Reinforcement-learning environments and agents that control the data a model trains on.

Importing dsenv registers its environments with Gymnasium, as strings: torch and the other heavy
libraries are loaded when the first environment, agent or task is built.
"""

from dsenv.catalogue import load, names, register_envs

__version__ = "0.1.0"
__all__ = ["load", "names"]

register_envs()
