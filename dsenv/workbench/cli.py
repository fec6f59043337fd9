"""The command line of `train_agent.py`."""

import argparse
import hashlib
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dsenv.catalogue import Definition, definition, names
from dsenv.catalogue import summary as summarise
from dsenv.workbench.options import DEFAULT_AGENT, DEFAULT_ENV, make_parser, parse_overrides
from dsenv.workbench.run import MAY_CHANGE, STUDY, is_study
from dsenv.workbench.stop import Stop
from dsenv.workbench.words import say

LONGEST = 150  # bytes before the names of files; a file system takes 255 in all


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = make_parser()
    args = parser.parse_args(argv)

    if args.list:
        say(catalogue_text())
        return 0
    for name in ("threads", "seeds", "agent_seeds", "actors"):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {value}")
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
    if args.agent_seeds is not None and not args.rehearse:
        _refuse_agent_seeds(args)
    if args.minutes is not None and not args.rehearse:
        raise ValueError("--minutes is the time limit of --rehearse DATA.toml: give both, or leave it out")
    if args.rehearse:
        from dsenv.workbench.rehearsal import rehearse_file

        return rehearse_file(args)
    if args.report:
        return _page(args)
    if args.evaluate:
        return _evaluate(args)
    return _resume(args) if args.resume else _new(args)


def _refuse_agent_seeds(args: argparse.Namespace) -> None:
    """Refuse --agent-seeds beside what uses agents that are there."""
    for option in ("resume", "evaluate", "report"):
        if getattr(args, option):
            raise ValueError(
                f"--agent-seeds {args.agent_seeds} begins a new study, and --{option} takes what is there: "
                "leave out one of them; a study goes on, with its own agent seeds, by --resume STUDY"
            )


def _use_machine(args: argparse.Namespace, facts: Mapping[str, Any] | None = None) -> None:
    """Device and threads as given, or those that a run was begun with."""
    import torch

    before = facts or {}
    if args.device is None:
        args.device = str(before.get("device", "auto"))
    if args.threads is None:
        args.threads = int(before.get("threads", 1))
    torch.set_num_threads(args.threads)

    from dsenv.workbench.cluster import cluster_of

    args.cluster = cluster_of(args, before)


def _new(args: argparse.Namespace) -> int:
    from dsenv.agents.base import build_agent
    from dsenv.workbench.cluster import check_cluster
    from dsenv.workbench.policies import agent_definition

    _use_machine(args)
    env = definition("envs", args.env or DEFAULT_ENV).with_overrides(parse_overrides(args.env_set))
    agent = agent_definition(args.agent or DEFAULT_AGENT)
    if not build_agent(agent).learns and (args.steps or args.num_envs):
        raise ValueError(f"{agent.name} is a fixed rule and is not trained: leave out --steps and --num-envs")
    if not build_agent(agent).learns and args.cluster is not None:
        raise ValueError(f"{agent.name} is a fixed rule and is not trained: leave out --ray")
    agent = agent.with_overrides(_agent_overrides(args))

    # A mistake in the settings shows before a folder is made
    built: Any = build_agent(agent)
    built.check()
    for name in args.compare:
        agent_definition(name)
    if built.learns:
        check_cluster(args.cluster, built.num_envs)
    _check_fit(built, env.with_overrides(built.env), args.device)
    return _new_run(env, agent, built, args) if args.agent_seeds is None else _new_study(env, agent, args)


def _new_run(env: Definition, agent: Definition, built: Any, args: argparse.Namespace) -> int:
    from dsenv.workbench.lock import locked
    from dsenv.workbench.run import Run, circumstances
    from dsenv.workbench.work import remove_if_empty, train_and_evaluate

    seed = 0 if args.seed is None else args.seed
    begun = circumstances(args.device, args.threads, **(args.cluster.facts() if args.cluster else {}))
    run = Run.create(args.out, env, agent, seed, args.device, begun=begun)
    say(f"{env.name}, {agent.name}, seed {run.seed} -> {run.folder}")
    try:
        with locked(run.folder):
            return train_and_evaluate(run, built, args)
    except Exception:
        remove_if_empty(run)
        raise


def _new_study(env: Definition, agent: Definition, args: argparse.Namespace) -> int:
    from dsenv.workbench.study import Study, remove_if_empty, work_on
    from dsenv.workbench.train import rules_beside

    rules_beside(agent, env, args.device, args.compare)
    study = Study.create(env, agent, args)
    say(f"{env.name}, {agent.name}, agent seeds {', '.join(map(str, study.seeds))} -> {study.folder}")
    try:
        return work_on(study, args)
    except Exception:
        remove_if_empty(study)
        raise


def _check_fit(agent: Any, settings: Definition, device: str) -> None:
    """Build environment and agent once, so that what does not fit shows before a folder is made."""
    from dsenv.workbench.cluster import make_vec_env

    settings.vector_class()
    if not agent.learns:
        settings.build(device=device)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of batch sizes that do not fit one environment
        agent.build(make_vec_env(settings, 1, device), seed=0)


def _resume(args: argparse.Namespace) -> int:
    from dsenv.agents.base import build_agent
    from dsenv.workbench.cluster import check_cluster
    from dsenv.workbench.lock import locked
    from dsenv.workbench.run import Run
    from dsenv.workbench.work import go_on

    if is_study(args.resume):
        return _resume_study(args)

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
    built: Any = build_agent(agent)
    if not built.learns:
        raise ValueError(f"{run.agent.name} is a fixed rule: nothing to resume; use --evaluate {args.resume}")

    _use_machine(args, run.facts)
    check_cluster(args.cluster, built.num_envs)
    with locked(run.folder):
        return go_on(replace(run, agent=agent), built, args, is_changed=bool(given))


def _resume_study(args: argparse.Namespace) -> int:
    from dsenv.workbench.study import Study, work_on

    kept = ("env", "agent", "steps", "num_envs", "seed", "env_set", "agent_set", "compare", "seeds")
    given = _given(args, *kept) + (["no-curves"] if args.no_curves else [])
    if given:
        raise ValueError(
            f"a study keeps what its {STUDY} says: leave out --{given[0]}, or begin a new study with "
            "--agent-seeds"
        )
    study = Study.open(args.resume)
    _use_machine(args, study.facts)
    return work_on(study, args)


def _given(args: argparse.Namespace, *names: str) -> list[str]:
    """Those of the options that were given, as they are written."""
    return [name.replace("_", "-") for name in names if getattr(args, name) not in (None, [])]


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


def _page(args: argparse.Namespace) -> int:
    from dsenv.workbench.report import report

    settings = ("env", "agent", "steps", "num_envs", "seed", "env_set", "agent_set", "ray", "actors")
    idle = _given(args, *settings, "device", "threads", "compare")
    if idle:
        raise ValueError(f"--report shows runs as they are: leave out --{idle[0]}")

    folders: list[Path] = []
    for folder in args.report:
        folders += _runs_of_study(folder) if is_study(folder) else [folder]
    is_one_study = len(args.report) == 1 and is_study(args.report[0])
    say(str(report(folders, args.out, args.report[0] if is_one_study else None)))
    return 0


def _runs_of_study(folder: Path) -> list[Path]:
    from dsenv.workbench.study import Study

    return Study.open(folder).folders()


def _evaluate(args: argparse.Namespace) -> int:
    from dsenv.agents.base import build_agent
    from dsenv.workbench.lock import locked
    from dsenv.workbench.run import Run
    from dsenv.workbench.work import evaluate

    idle = _given(args, "agent", "steps", "num_envs", "seed", "agent_set", "ray", "actors")
    if idle:
        raise ValueError(f"--evaluate uses the policy of {args.evaluate} as it is: leave out --{idle[0]}")
    if args.evaluate.suffix == ".safetensors":
        return _evaluate_file(args)
    if is_study(args.evaluate):
        raise ValueError(
            f"{args.evaluate} is a study, and --evaluate takes one policy: give one of its runs, "
            f"{_runs_of_study(args.evaluate)[0]}; --resume {args.evaluate} writes the study's own table"
        )

    run = Run.open(args.evaluate)
    env = run.env if args.env is None else definition("envs", args.env)

    prefix = _prefix([] if env == run.env else [env.name], args.env_set)
    env = env.with_overrides(parse_overrides(args.env_set))

    _use_machine(args)
    agent = build_agent(run.agent)
    with locked(run.folder):
        _write_missing(run, agent, args)
        return evaluate(run, env, args, prefix)


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
    from dsenv.workbench.cluster import make_vec_env
    from dsenv.workbench.train import complete

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
