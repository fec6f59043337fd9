"""Kills training runs by SIGKILL, goes on with them by --resume, and compares with runs that were left alone.

Two kinds of kills: at random moments, and at the k-th change that a run makes to a file in its folder (opened
for writing, synced, renamed or removed; a hook of Python's audit events does it, which is no part of dsenv).
A killed run is resumed, by the command that a user would type, until it ends; some are killed again. Then
policy, checkpoint, evaluations, TensorBoard's curves and result table are compared, bit for bit, with
those of the same command that nobody killed.

python benchmarks/kills.py --random 200 --aimed 60 --json runs/kills.json
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from dsenv.files import load_state

ROOT = Path(__file__).resolve().parents[1]
ON_POLICY = {"n_steps": 4, "batch_size": 16, "n_epochs": 2}
SAC = {"learning_starts": 16, "batch_size": 16, "gradient_steps": 1, "buffer_size": 80}
AGENTS = {
    "ppo": ("Tiny-Ratio-v0", ON_POLICY),
    "sac": ("Tiny-Ratio-v0", SAC),
    "recurrent_ppo": ("Tiny-Ratio-v0", ON_POLICY),
    "ppo_set": ("Tiny-Mask-v0", ON_POLICY),
}
RESUMES = 8  # of one run, at most
LIMIT = 300  # seconds for one command

AIMED = """
import os, runpy, signal, sys
folder, left = os.path.realpath(sys.argv[1]) + os.sep, [int(sys.argv[2])]
changes = os.O_WRONLY | os.O_RDWR | os.O_CREAT
def hook(event, args):
    if event == "open" and isinstance(args[2], int) and args[2] & changes:
        path = args[0]
    elif event in ("os.rename", "os.remove"):
        path = args[0]
    else:
        return
    if isinstance(path, (str, bytes)) and os.path.realpath(os.fsdecode(path)).startswith(folder):
        strike()
def strike():
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    if left[0] < 0:
        return
def fsync(handle, own=os.fsync):
    strike()  # the content is written, and not yet renamed
    own(handle)
os.fsync = fsync
sys.addaudithook(hook)
sys.argv = sys.argv[3:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    sys.stderr.write(f"\\nCHANGES LEFT {left[0]}\\n")
"""


def start(command, aim=None):
    """A process of train_agent.py; `aim` is (folder, number of the change to die at)."""
    words = [sys.executable]
    if aim is not None:
        words += ["-c", AIMED, str(aim[0]), str(aim[1])]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [*words, str(ROOT / "train_agent.py"), *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=env,
        cwd=ROOT,
    )


def finish(process, seconds=LIMIT):
    """Wait for its end; exit status and the end of what it said."""
    _, said = process.communicate(timeout=seconds)
    return process.returncode, said.decode(errors="replace")[-2000:]


def kill_after(process, seconds):
    """Kill a process after some seconds; whether it still ran, and the end of what it said."""
    try:
        _, said = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        return True, ""
    return False, said.decode(errors="replace")[-2000:]


def new_command(agent, out, save_every):
    env, settings = AGENTS[agent]
    command = ["--env", f"dsenv/{env}", "--agent", agent, "--num-envs", "4", "--steps", "64", "--seeds", "1"]
    command += [
        "--device",
        "cpu",
        "--out",
        str(out),
        "--save-every",
        str(save_every),
        "--env-set=intervals=3",
    ]
    if agent == "ppo_set":
        command.append("--env-set=control.candidates=16")
    return command + [f"--agent-set=hyperparameters.{name}={value}" for name, value in settings.items()]


def run_in(out):
    """The run folder in a folder of runs; None where none appeared yet."""
    found = [path for path in out.glob("*") if not path.name.startswith(".")] if out.is_dir() else []
    assert len(found) <= 1, found
    return found[0] if found else None


def curves(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    tags = sorted(set(events.Tags()["scalars"]) - {"time/fps"})
    found = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}
    # A run that was killed in its evaluation logs the table again
    return {tag: sorted(set(v)) if tag.startswith("evaluation/") else v for tag, v in found.items()}


def flat(value, where=""):
    """Leaves of a nested state by their places, as bytes."""
    if isinstance(value, dict):
        return {k: v for key in value for k, v in flat(value[key], f"{where}.{key}").items()}
    if isinstance(value, list | tuple):
        return {k: v for n, each in enumerate(value) for k, v in flat(each, f"{where}[{n}]").items()}
    if isinstance(value, torch.Tensor):
        content = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return {where: (str(value.dtype), tuple(value.shape), content)}
    if isinstance(value, np.ndarray | np.generic):
        return {where: (str(value.dtype), np.shape(value), np.asarray(value).tobytes())}
    return {where: repr(value)}


def differences(run, whole):
    """What of a run differs from the one that was left alone."""
    found = []
    own, other = (flat(load_state(folder / "checkpoint.safetensors")) for folder in (run, whole))
    places = [place for place in {**own, **other} if own.get(place) != other.get(place)]
    found += [f"checkpoint{place}" for place in sorted(places)[:5]]
    for name in ("policy.safetensors", "evaluation.json"):
        paths = run / name, whole / name
        one, two = (path.read_bytes() if path.is_file() else None for path in paths)
        if one != two:
            found.append(name)
    with np.load(run / "evaluations.npz") as one, np.load(whole / "evaluations.npz") as two:
        found += [f"evaluations {name}" for name in two.files if one[name].tobytes() != two[name].tobytes()]
    one, two = curves(run), curves(whole)
    found += [f"curve {tag}" for tag in sorted({*one, *two}) if one.get(tag) != two.get(tag)]
    rests = [path.name for path in run.iterdir() if "partial" in path.name or "damaged" in path.name]
    found += [f"left over: {name}" for name in rests]
    return found


def go_on(out, command, draws, wall):
    """Resume until the run ends by itself; number of resumes and further kills, and what went wrong."""
    kills = 0
    for number in range(1, RESUMES + 1):
        run = run_in(out)
        words = command if run is None else ["--resume", str(run), "--seeds", "1", "--save-every", "0.5"]
        process = start(words)
        if draws.random() < 0.3 and number < RESUMES - 1:
            was_killed, said = kill_after(process, draws.uniform(0.2, 1) * wall)
            if was_killed:
                kills += 1
                continue
            status = process.returncode
        else:
            status, said = finish(process)
        if status == 2 and run is not None and "has done its" in said:
            status = 0  # there was nothing left to do
        return number, kills, None if status == 0 else f"exit status {status}: {said}"
    return RESUMES, kills, "did not end"


def changes_of(agent, out):
    """How many changes a whole run makes to files below `out`."""
    most = 10**6
    status, said = finish(start(new_command(agent, out, 0), (out, most)))
    assert status == 0, said
    return most - int(said.rsplit("CHANGES LEFT", 1)[1])


def trial(agent, aim, seed, folder, reference):
    """One killed run against the whole one."""
    draws = random.Random(seed)
    out = folder / f"{agent}-{seed}"
    out.mkdir(parents=True)
    save_every = 0 if aim is not None else draws.choice([0, 0.2, 1])
    command = new_command(agent, out, save_every)
    process = start(command, None if aim is None else (out, aim))
    if aim is None:
        seconds = draws.uniform(0, 1.05) * reference["seconds"]
        was_killed, _ = kill_after(process, seconds)
        moment = f"{seconds:.2f} s"
    else:
        status, _ = finish(process)
        was_killed, moment = status == -signal.SIGKILL, f"change {aim}"

    done = 0 if run_in(out) is None else len(list(run_in(out).iterdir()))
    resumes, kills, wrong = go_on(out, command, draws, reference["seconds"]) if was_killed else (0, 0, None)
    found = [wrong] if wrong else differences(run_in(out), reference["run"])
    return {
        "agent": agent,
        "seed": seed,
        "moment": moment,
        "was_killed": was_killed,
        "files_at_the_kill": done,
        "resumes": resumes,
        "further_kills": kills,
        "differences": found,
    }


def prepare(agents, folder):
    """A whole run of each agent, its seconds, and the number of its changes to files."""
    references = {}
    for agent in agents:
        began = time.monotonic()
        status, said = finish(start(new_command(agent, folder / agent, 0)))
        assert status == 0, said
        seconds = time.monotonic() - began
        again = folder / f"{agent}-again"
        changes = changes_of(agent, again)
        assert differences(run_in(again), run_in(folder / agent)) == [], "two whole runs differ"
        references[agent] = {"run": run_in(folder / agent), "seconds": seconds, "changes": changes}
        print(f"{agent}: {seconds:.1f} s, {changes} changes to files", flush=True)
    return references


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--random", type=int, default=200, help="kills at random moments (default: 200)")
    parser.add_argument("--aimed", type=int, default=60, help="kills at changes to files (default: 60)")
    parser.add_argument("--agents", nargs="+", default=list(AGENTS), choices=list(AGENTS))
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--minutes", type=float, default=120, help="stop after so many (default: 120)")
    parser.add_argument("--json", type=Path, help="write every trial there")
    args = parser.parse_args()

    draws, end = random.Random(args.seed), time.monotonic() + 60 * args.minutes
    trials = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        references = prepare(args.agents, folder / "whole")

        wanted = [(args.agents[n % len(args.agents)], None) for n in range(args.random)]
        # Aimed kills go evenly over all changes of each agent's run
        for n, agent in enumerate(args.agents):
            share = len(range(n, args.aimed, len(args.agents)))
            places = np.linspace(1, references[agent]["changes"], share).round().astype(int)
            wanted += [(agent, int(place)) for place in places]
        for agent, aim in wanted:
            if time.monotonic() > end:
                print(f"stopped after {args.minutes} minutes", flush=True)
                break
            seed = draws.randrange(10**6)
            found = trial(agent, aim, seed, folder / "killed", references[agent])
            trials.append(found)
            print(json.dumps(found), flush=True)

    killed = [found for found in trials if found["was_killed"]]
    equal = [found for found in killed if not found["differences"]]
    summary = {
        "seed": args.seed,
        "trials": len(trials),
        "killed": len(killed),
        "killed_again": sum(found["further_kills"] for found in trials),
        "equal": len(equal),
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
    }
    print(json.dumps(summary), flush=True)
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({"summary": summary, "trials": trials}, indent=1) + "\n")
    return 0 if len(equal) == len(killed) else 1


if __name__ == "__main__":
    sys.exit(main())
