"""What a file may name: functions that leave a trace when they are called, and ones that build a part."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

import dsenv
from dsenv.select.random import UniformRandom
from dsenv.tasks import from_tensors

if TYPE_CHECKING:
    from dsenv.tasks import Dataset

CALLED: list[str] = []


def bare(*args, **kwargs):
    CALLED.append("bare")


def text(*args, **kwargs) -> str:
    CALLED.append("text")
    return ""


class Thing:
    learns = False

    def __init__(self, *args, **kwargs):
        CALLED.append("Thing")

    def __call__(self, *args, **kwargs):
        CALLED.append("Thing()")


thing = Thing.__new__(Thing)


class HalfSelector(dsenv.Selector):
    pass


def selector() -> UniformRandom:
    return UniformRandom()


def wrong_selector() -> dsenv.Selector:
    return 5


def data() -> Dataset:
    """Its annotation is a name that only type checkers import."""
    return from_tensors(torch.rand(60, 3), torch.arange(60) % 2, validation=10, test=10)
