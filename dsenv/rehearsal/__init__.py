"""Rehearsal: small training runs of every choice on one's own data, before the large one."""

from dsenv.rehearsal.front import rehearse
from dsenv.rehearsal.result import Rehearsal

__all__ = ["Rehearsal", "rehearse"]
