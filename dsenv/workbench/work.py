"""What a command does with one run: train, go on, evaluate."""

import argparse
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dsenv.workbench.train as training
from dsenv.catalogue import Definition
from dsenv.evaluation.compare import Evaluation
from dsenv.evaluation.storage import RESULT
from dsenv.evaluation.tables import gains, markdown_table
from dsenv.workbench import checkpoint
from dsenv.workbench.cluster import is_of, make_vec_env
from dsenv.workbench.options import SEEDS
from dsenv.workbench.run import Run
from dsenv.workbench.words import command, say


@dataclass(frozen=True)
class Part:
    """What a run gets from the study that it belongs to."""

    study: Path
    """Folder of the study."""
    known: Evaluation | None
    """The rules as they were evaluated before; None where this run evaluates them."""


def remove_if_empty(run: Run) -> None:
    """Remove the folder of a run that failed before there was anything to keep."""
    if not has_anything(run):
        shutil.rmtree(run.folder, ignore_errors=True)


def has_anything(run: Run) -> bool:
    """Whether there is anything to keep of a run: a checkpoint or an evaluation."""
    return any((run.folder / name).exists() for name in (checkpoint.FILE, RESULT))


def train_and_evaluate(
    run: Run, agent: Any, args: argparse.Namespace, state: Any = None, part: Part | None = None
) -> int:
    """Train a run's agent, where it learns, and evaluate it; returns the exit status.

    Args:
        run: whose folder is locked.
        agent: of the run.
        args: of the command line.
        state: the checkpoint to go on from.
        part: what the run gets from its study.
    """
    if agent.learns:
        done = training.train(
            run,
            agent,
            args.device,
            state=state,
            save_every=args.save_every,
            stop=args.stop,
            cluster=args.cluster,
        )
        if not done or args.stop.is_asked():
            whole = run.folder if part is None else part.study
            say(f"\ninterrupted; go on with: {command('--resume', whole)}")
            return int(args.stop.status)
    return evaluate(run, run.env, args, part=part)


def go_on(
    run: Run, agent: Any, args: argparse.Namespace, *, is_changed: bool = False, part: Part | None = None
) -> int:
    """Resume a run whose folder is locked; returns the exit status.

    Args:
        run: with the settings to go on with.
        agent: of the run.
        args: of the command line.
        is_changed: whether these are other settings than those of before.
        part: what the run gets from its study.
    """
    run.warn_of_other_versions()
    state = checkpoint.read(run)
    if state is None:
        say(f"{run.folder} has no checkpoint yet: it starts over from its TOMLs")
        return train_and_evaluate(run, agent, args, part=part)

    done = checkpoint.steps_done(state)
    if done >= agent.steps:
        return finish(run, agent, state, args)

    if is_changed:
        run.write_definitions()
    if state["agent"]["num_envs"] != agent.num_envs:
        say("another number of training runs side by side: those in flight are begun anew")
    elif not is_of(state, args.cluster):
        say("other actors, or another place for the training runs: those in flight are begun anew")
    say(f"going on with {run.folder} after {done} of {agent.steps} steps")
    return train_and_evaluate(run, agent, args, state, part)


def finish(run: Run, agent: Any, state: Any, args: argparse.Namespace) -> int:
    """Do what a run that was killed after its last step has not done.

    Raises:
        ValueError: there is nothing to do.
    """
    has_written = write_missing(run, agent, state, args)

    done, result = checkpoint.steps_done(state), run.folder / RESULT
    written = run.folder / checkpoint.FILE
    if not result.is_file() or result.stat().st_mtime_ns < written.stat().st_mtime_ns:
        say(f"{run.folder} has done its {done} steps; what is left is the evaluation")
        return evaluate(run, run.env, args)
    if not has_written:
        raise ValueError(
            f"{run.folder} has done its {done} steps; pass --steps with more to go on, "
            f"or --evaluate {run.folder}"
        )
    say(f"{run.folder} has done its {done} steps; files that were missing are written")
    return 0


def write_missing(run: Run, agent: Any, state: Any, args: argparse.Namespace) -> bool:
    """Write the exports of a run that was killed before it could; returns whether there were any.

    Raises:
        ValueError: the run's own environment cannot be built.
    """
    env = make_vec_env(run.env.with_overrides(agent.env), 1, args.device)
    return training.complete(run, agent, state, env)


def evaluate(
    run: Run, env: Definition, args: argparse.Namespace, prefix: str = "", part: Part | None = None
) -> int:
    """Evaluate a run and show the table; returns the exit status.

    Args:
        run: whose folder is locked.
        env: the environment, which may be another than that of the run.
        args: of the command line.
        prefix: put before the names of the files it writes.
        part: what the run gets from its study.
    """
    known = None if part is None else part.known
    seeds = args.seeds or SEEDS
    further = {} if known is None else {"known": known}
    try:
        result = training.evaluate_run(
            run, env, seeds, args.device, args.compare, prefix, curves=not args.no_curves, **further
        )
    except KeyboardInterrupt:
        again = f"evaluate with: {command('--evaluate', run.folder)}"
        if part is not None:
            again = f"go on with: {command('--resume', part.study)}"
        say(f"\ninterrupted; {again}")
        return int(args.stop.status)

    say(f"\nT{result.words[1:]} in percent, mean of {seeds} fresh seeds and half its 95 % interval\n")
    say(markdown_table(result))
    gained = gains(result)
    if gained:
        say(f"\n{result.agent} against all data, same seeds:\n{gained}")
    say_cost_of_curves(result, args)
    logs = run.folder.parent if part is None else part.study
    say(f"\nwritten to {run.folder}; see it with: tensorboard --logdir {logs}")
    return 0


def say_cost_of_curves(result: Evaluation, args: argparse.Namespace) -> None:
    """Say how long scoring the test split for curves took."""
    scoring = sum(float(trace.scoring.sum()) for traces in result.traces.values() for trace in traces)
    if scoring and not args.no_curves:
        say(f"\ncurves of test accuracy took {scoring:.1f} s; --no-curves leaves them out")
