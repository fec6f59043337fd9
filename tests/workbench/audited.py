"""Runs what a user does with runs, plans and policies, and prints what Python's audit hooks saw of it.

python tests/workbench/audited.py FOLDER: everything may be written below FOLDER, and nothing elsewhere.
"""

import os
import platform
import sys
from pathlib import Path

import torch
import torch._dynamo  # optimisers import it at their first step, and it makes its cache folder
from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: F401
from torch.utils.tensorboard import SummaryWriter  # noqa: F401

import dsenv.workbench.train  # noqa: F401  # what is imported at first use reads and caches as it likes
from dsenv import DataPlan, Policy
from dsenv.workbench import main

platform.platform()  # Python runs uname for it, once; SB3 notes it in the zips that it writes
FOLDER = Path(sys.argv[1]).resolve()
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.truncate")
RUNS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "ctypes.dlopen")
ALLOWED = ("/dev/null",)
found: list[str] = []


def is_outside(path: object) -> bool:
    if isinstance(path, int) or path is None:
        return False
    whole = os.path.realpath(os.fsdecode(path))  # type: ignore[arg-type]
    return not whole.startswith(f"{FOLDER}{os.sep}") and whole not in (str(FOLDER), *ALLOWED)


def note(event: str, args: tuple[object, ...]) -> None:
    if event == "pickle.find_class" or event in RUNS:
        found.append(f"{event} {args}")
    elif event.startswith("socket.") and event != "socket.gethostname":  # for the name of an event file
        found.append(f"{event} {args[1:]}")
    elif event == "open" and isinstance(args[2], int) and args[2] & WRITES and is_outside(args[0]):
        found.append(f"open {args[0]} {args[1]}")
    elif event in CHANGES and any(is_outside(path) for path in args if isinstance(path, str | bytes)):
        found.append(f"{event} {args}")


def run_of(agent: str, *settings: str) -> str:
    short = ["--env", "dsenv/Tiny-Ratio-v0", "--num-envs", "2", "--seeds", "1", "--steps", "16"]
    out = FOLDER / agent
    assert main([*short, "--agent", agent, *settings, "--env-set=intervals=2", "--out", str(out)]) == 0
    (run,) = out.iterdir()
    assert main(["--resume", str(run), "--steps", "24", "--seeds", "1"]) == 0
    assert main(["--evaluate", str(run), "--seeds", "1"]) == 0
    assert main(["--report", str(run)]) == 0
    return str(run)


def plan() -> None:
    data = torch.rand(40, 1, 8, 8), torch.arange(40) % 4
    one = DataPlan(data, epochs=2, batch_size=10, selector="infobatch", ratio=0.5)
    two = DataPlan(data, epochs=2, batch_size=10, selector="infobatch", ratio=0.5)
    two.load_state_dict(one.state_dict())


def all_of_it() -> None:
    run = run_of("ppo", "--agent-set=hyperparameters.n_steps=4", "--agent-set=hyperparameters.batch_size=8")
    small = ["learning_starts=4", "batch_size=8", "buffer_size=40"]
    run_of("sac", *(f"--agent-set=hyperparameters.{setting}" for setting in small))
    plan()
    Policy.load(Path(run) / "policy.safetensors")


if __name__ == "__main__":
    if "--control" in sys.argv:
        sys.addaudithook(note)
        import pickle
        import socket

        pickle.loads(pickle.dumps(Path))
        socket.socket().close()
        Path(f"{FOLDER}-elsewhere").write_text("")
        Path(f"{FOLDER}-elsewhere").unlink()
    else:
        sys.addaudithook(note)
        all_of_it()
    sys.stdout.write("".join(f"AUDIT {line}\n" for line in found))
