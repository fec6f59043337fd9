"""The command line of `train_agent.py`."""

import argparse
import hashlib
import re
import shutil
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dsenv.catalogue import Definition, definition, names
from dsenv.catalogue import summary as summarise
from dsenv.workbench.options import DEFAULT_AGENT, DEFAULT_ENV, make_parser, parse_overrides
from dsenv.workbench.run import MAY_CHANGE
from dsenv.workbench.stop import Stop

RESULT = "evaluation.json"  # written last: with it, a run is done
LONGEST = 150  # bytes before the names of files; a file system takes 255 in all


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = make_parser()
    args = parser.parse_args(argv)

    if args.list:
        _say(catalogue_text())
        return 0
    if args.seeds < 1 or (args.threads is not None and args.threads < 1):
        parser.error(f"--threads and --seeds must be at least 1, got {args.threads} and {args.seeds}")
    if not 0 <= args.save_every < float("inf"):
        parser.error(f"--save-every is a number of seconds, 0 or more, got {args.save_every}")

    with Stop() as args.stop:
        try:
            return _run(args)
        except (ValueError, OSError) as error:
            sys.stderr.write(f"train_agent.py: error: {error}\n")
            return 2
        except KeyboardInterrupt:
            sys.stderr.write("\ninterrupted\n")
            return int(args.stop.status)


def _run(args: argparse.Namespace) -> int:
    if args.report:
        return _page(args)
    if args.evaluate:
        return _evaluate(args)
    return _resume(args) if args.resume else _new(args)


def _use_machine(args: argparse.Namespace, facts: Mapping[str, Any] | None = None) -> None:
    """Device and threads as given, or those that a run was begun with."""
    import torch

    before = facts or {}
    if args.device is None:
        args.device = str(before.get("device", "auto"))
    if args.threads is None:
        args.threads = int(before.get("threads", 1))
    torch.set_num_threads(args.threads)


def _new(args: argparse.Namespace) -> int:
    from dsenv.agents.base import build_agent
    from dsenv.workbench.lock import locked
    from dsenv.workbench.policies import agent_definition
    from dsenv.workbench.run import Run

    _use_machine(args)
    env = definition("envs", args.env or DEFAULT_ENV).with_overrides(parse_overrides(args.env_set))
    agent = agent_definition(args.agent or DEFAULT_AGENT)
    if not build_agent(agent).learns and (args.steps or args.num_envs):
        raise ValueError(f"{agent.name} is a fixed rule and is not trained: leave out --steps and --num-envs")
    agent = agent.with_overrides(_agent_overrides(args))

    # A mistake in the settings shows before a folder is made
    built = build_agent(agent)
    built.check()
    for name in args.compare:
        agent_definition(name)
    _check_fit(built, env.with_overrides(built.env), args.device)

    seed = 0 if args.seed is None else args.seed
    run = Run.create(args.out, env, agent, seed, args.device, args.threads)
    _say(f"{env.name}, {agent.name}, seed {run.seed} -> {run.folder}")
    try:
        with locked(run.folder):
            return _train_and_evaluate(run, built, args)
    except Exception:
        _remove_if_empty(run)
        raise


def _remove_if_empty(run: Any) -> None:
    """Remove the folder of a run that failed before there was anything to keep."""
    from dsenv.workbench.checkpoint import FILE

    if not any((run.folder / name).exists() for name in (FILE, RESULT)):
        shutil.rmtree(run.folder, ignore_errors=True)


def _check_fit(agent: Any, settings: Definition, device: str) -> None:
    """Build environment and agent once, so that what does not fit shows before a folder is made."""
    from dsenv.workbench.train import make_vec_env

    settings.vector_class()
    if not agent.learns:
        settings.build(device=device)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of batch sizes that do not fit one environment
        agent.build(make_vec_env(settings, 1, device), seed=0)


def _resume(args: argparse.Namespace) -> int:
    from dsenv.agents.base import build_agent
    from dsenv.workbench.lock import locked
    from dsenv.workbench.run import Run

    # A run keeps its environment, agent and seed; only steps and num_envs may change
    run = Run.open(args.resume)
    _check_same(run.env, "env", args.env)
    _check_same(run.agent, "agent", args.agent)
    if args.env_set or args.seed is not None:
        raise ValueError("a resumed run keeps its environment and seed: leave out --env-set and --seed")
    given = _agent_overrides(args)
    fixed = [name for name in given if name not in MAY_CHANGE]
    if fixed:
        raise ValueError(
            f"a resumed policy keeps its {fixed[0]}: only steps and num_envs may change; start a new run"
        )

    agent = run.agent.with_overrides(given)
    built = build_agent(agent)
    if not built.learns:
        raise ValueError(f"{run.agent.name} is a fixed rule: nothing to resume; use --evaluate {args.resume}")

    _use_machine(args, run.facts)
    with locked(run.folder):
        return _go_on(replace(run, agent=agent), built, args, is_changed=bool(given))


def _go_on(run: Any, agent: Any, args: argparse.Namespace, *, is_changed: bool) -> int:
    """Resume a run whose folder is locked."""
    from dsenv.workbench import checkpoint

    state = checkpoint.read(run)
    if state is None:
        _say(f"{run.folder} has no checkpoint yet: it starts over from its TOMLs")
        return _train_and_evaluate(run, agent, args)

    run.warn_of_other_versions()
    done = checkpoint.steps_done(state)
    if done >= agent.steps:
        return _finish(run, agent, state, args)

    if is_changed:
        run.write_definitions()
    if state["agent"]["num_envs"] != agent.num_envs:
        _say("another number of training runs side by side: those in flight are begun anew")
    _say(f"going on with {run.folder} after {done} of {agent.steps} steps")
    return _train_and_evaluate(run, agent, args, state)


def _finish(run: Any, agent: Any, state: Any, args: argparse.Namespace) -> int:
    """Do what a run that was killed after its last step has not done.

    Raises:
        ValueError: there is nothing to do.
    """
    from dsenv.workbench import checkpoint
    from dsenv.workbench.train import complete, make_vec_env

    settings = run.env.with_overrides(agent.env)
    has_written = complete(run, agent, state, make_vec_env(settings, 1, args.device))

    done, result = checkpoint.steps_done(state), run.folder / RESULT
    written = run.folder / checkpoint.FILE
    if not result.is_file() or result.stat().st_mtime_ns < written.stat().st_mtime_ns:
        _say(f"{run.folder} has done its {done} steps; what is left is the evaluation")
        return _report(run, run.env, args)
    if not has_written:
        raise ValueError(
            f"{run.folder} has done its {done} steps; pass --steps with more to go on, "
            f"or --evaluate {run.folder}"
        )
    _say(f"{run.folder} has done its {done} steps; files that were missing are written")
    return 0


def _check_same(own: Definition, what: str, given: str | None) -> None:
    """Check that --env or --agent, where it is given beside --resume, is that of the run."""
    if given is None:
        return
    found = definition(f"{what}s", given)
    if found.name != own.name or (given.endswith(".toml") and found.as_dict() != own.as_dict()):
        raise ValueError(
            f"this run's {what} is {own.name} as in its {what}.toml, not {given}; leave --{what} out, or use "
            "the policy elsewhere: --evaluate RUN --env ..."
        )


def _train_and_evaluate(run: Any, agent: Any, args: argparse.Namespace, state: Any = None) -> int:
    from dsenv.workbench.train import train

    if agent.learns:
        done = train(run, agent, args.device, state=state, save_every=args.save_every, stop=args.stop)
        if not done or args.stop.is_asked():
            _say(f"\ninterrupted; go on with: python train_agent.py --resume {run.folder}")
            return int(args.stop.status)
    return _report(run, run.env, args)


def _page(args: argparse.Namespace) -> int:
    from dsenv.workbench.report import report

    settings = ("env", "agent", "steps", "num_envs", "seed", "env_set", "agent_set")
    given = (*settings, "device", "threads", "compare")
    idle = [name for name in given if getattr(args, name) not in (None, [])]
    if idle:
        raise ValueError(f"--report shows runs as they are: leave out --{idle[0].replace('_', '-')}")
    _say(str(report(args.report, args.out)))
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    from dsenv.agents.base import build_agent
    from dsenv.workbench.lock import locked
    from dsenv.workbench.run import Run

    given = ("agent", "steps", "num_envs", "seed", "agent_set")
    idle = [name for name in given if getattr(args, name) not in (None, [])]
    if idle:
        raise ValueError(
            f"--evaluate uses the policy of {args.evaluate} as it is: leave out --{idle[0].replace('_', '-')}"
        )
    if args.evaluate.suffix == ".safetensors":
        return _evaluate_file(args)

    run = Run.open(args.evaluate)
    env = run.env if args.env is None else definition("envs", args.env)

    prefix = _prefix([] if env == run.env else [env.name], args.env_set)
    env = env.with_overrides(parse_overrides(args.env_set))

    _use_machine(args)
    agent = build_agent(run.agent)
    with locked(run.folder):
        _write_missing(run, agent, args)
        return _report(run, env, args, prefix)


def _prefix(env: Sequence[str], overrides: Sequence[str]) -> str:
    """Before the names of what an evaluation elsewhere writes: it must not replace the run's own result."""
    words = [re.sub(r"[^\w.=+-]+", "_", word) for word in (*env, *overrides)]
    prefix = "".join(f"{word}-" for word in words)
    if len(prefix.encode()) <= LONGEST:
        return prefix
    digest = hashlib.sha256("\n".join((*env, *overrides)).encode()).hexdigest()[:12]
    kept = prefix.encode()[: LONGEST - 20].decode(errors="ignore")
    return f"{kept}-{digest}-"


def _write_missing(run: Any, agent: Any, args: argparse.Namespace) -> None:
    """Write the exports of a run that was killed before it could, where its own environment can be built."""
    from dsenv.workbench import checkpoint
    from dsenv.workbench.train import complete, make_vec_env

    state = checkpoint.read(run) if agent.learns else None
    if state is None or checkpoint.steps_done(state) < agent.steps:
        return  # a rule, or a run that is not done: it is resumed first
    try:
        env = make_vec_env(run.env.with_overrides(agent.env), 1, args.device)
    except (ValueError, OSError) as error:
        warnings.warn(f"files of {run.folder} that may be missing are not written: {error}", stacklevel=2)
        return
    complete(run, agent, state, env)


def _evaluate_file(args: argparse.Namespace) -> int:
    """Evaluate a policy file as an agent that does not learn, in a run folder of its own."""
    from dsenv.workbench.policies import environment_of

    args.agent = str(args.evaluate)
    args.env = args.env or environment_of(args.evaluate)
    return _new(args)


def _report(run: Any, env: Definition, args: argparse.Namespace, prefix: str = "") -> int:
    from dsenv.evaluation.tables import gains, markdown_table
    from dsenv.workbench.train import evaluate_run

    try:
        result = evaluate_run(
            run, env, args.seeds, args.device, args.compare, prefix, curves=not args.no_curves
        )
    except KeyboardInterrupt:
        _say(f"\ninterrupted; evaluate with: python train_agent.py --evaluate {run.folder}")
        return int(args.stop.status)

    _say(f"\nTest accuracy in percent, mean of {args.seeds} fresh seeds and half its 95 % interval\n")
    _say(markdown_table(result))
    gained = gains(result)
    if gained:
        _say(f"\n{result.agent} against all data, same seeds:\n{gained}")
    scoring = sum(float(trace.scoring.sum()) for traces in result.traces.values() for trace in traces)
    if scoring and not args.no_curves:
        _say(f"\ncurves of test accuracy took {scoring:.1f} s; --no-curves leaves them out")
    _say(f"\nwritten to {run.folder}; see it with: tensorboard --logdir {run.folder.parent}")
    return 0


def _agent_overrides(args: argparse.Namespace) -> dict[str, Any]:
    given = {"steps": args.steps, "num_envs": args.num_envs}
    return {name: value for name, value in given.items() if value is not None} | parse_overrides(
        args.agent_set
    )


def catalogue_text() -> str:
    """Names and first comment lines of both catalogues."""
    lines = []
    for kind, prefix in (("envs", "dsenv/"), ("agents", "")):
        entries = [(f"{prefix}{name}", summarise(kind, name)) for name in names(kind)]
        width = max(len(name) for name, _ in entries)
        lines += [f"{kind}/", *(f"  {name:{width}}  {text}" for name, text in entries), ""]
    return "\n".join(lines).rstrip()


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
