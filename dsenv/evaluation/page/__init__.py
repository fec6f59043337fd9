"""One HTML page of several evaluations, which opens offline."""

from dsenv.evaluation.page.content import Note, Part, Subject, Training
from dsenv.evaluation.page.render import render

__all__ = ["Note", "Part", "Subject", "Training", "render"]
