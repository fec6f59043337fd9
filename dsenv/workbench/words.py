"""What a command says while it works."""

import shlex
import sys
from pathlib import Path

COMMAND = "python train_agent.py"


def say(text: str) -> None:
    """Write a line to the standard output, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def command(option: str, folder: Path, *further: str) -> str:
    """A command line to go on with, as one types it: `python train_agent.py --resume 'my runs/RUN'`."""
    return shlex.join([*COMMAND.split(), option, str(folder), *further])
