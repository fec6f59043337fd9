"""Ctrl-C, and the signals that schedulers, containers and terminals send before they kill."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # SIGHUP: the terminal or connection is gone
WORDS = b"\nstopping at the next checkpoint; once more stops at once, and the last checkpoint stands\n"


class Stop:
    """Stops a command on a signal: at once, or, while an agent is trained, at the next checkpoint.

    Use as a context: it stands in for the handlers of before, which come back at the end. Signals that are
    ignored (by `nohup`) stay ignored.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._can_wait = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            for name in NAMES:
                number = getattr(signal, name, None)
                if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        is_first = self.received is None
        self.received = number
        if is_first and self._can_wait:
            with contextlib.suppress(OSError):
                os.write(2, WORDS)  # Python's stderr may be in the middle of a write
            return
        raise KeyboardInterrupt

    @contextlib.contextmanager
    def at_checkpoints(self) -> Iterator[None]:
        """While this holds, the first signal is only noted."""
        self._can_wait = True
        try:
            yield
        finally:
            self._can_wait = False

    def is_asked(self) -> bool:
        """Whether a signal came."""
        return self.received is not None

    @property
    def status(self) -> int:
        """The exit status that a shell expects: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + (self.received or signal.SIGINT)
