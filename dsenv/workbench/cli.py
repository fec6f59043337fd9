"""The command line of `train_agent.py`."""

import argparse
import re
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from dsenv.catalogue import Definition, definition, names
from dsenv.catalogue import summary as summarise
from dsenv.workbench.options import DEFAULT_AGENT, DEFAULT_ENV, make_parser, parse_overrides


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = make_parser()
    args = parser.parse_args(argv)

    if args.list:
        _say(catalogue_text())
        return 0
    if args.threads < 1 or args.seeds < 1:
        parser.error(f"--threads and --seeds must be at least 1, got {args.threads} and {args.seeds}")

    try:
        return _run(args)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"train_agent.py: error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted\n")
        return 130


def _run(args: argparse.Namespace) -> int:
    import torch

    torch.set_num_threads(args.threads)
    if args.evaluate:
        return _evaluate(args)
    return _resume(args) if args.resume else _new(args)


def _new(args: argparse.Namespace) -> int:
    from dsenv.workbench.policies import agent_definition
    from dsenv.workbench.run import Run

    env = definition("envs", args.env or DEFAULT_ENV).with_overrides(parse_overrides(args.env_set))
    agent = agent_definition(args.agent or DEFAULT_AGENT)
    if not agent.build().learns and (args.steps or args.num_envs):
        raise ValueError(f"{agent.name} is a fixed rule and is not trained: leave out --steps and --num-envs")
    agent = agent.with_overrides(_agent_overrides(args))

    # A mistake in the settings shows before a folder is made
    built = agent.build()
    built.check()
    for name in args.compare:
        agent_definition(name)
    _check_fit(built, env.with_overrides(built.env), args.device)

    run = Run.create(args.out, env, agent, 0 if args.seed is None else args.seed, args.device)
    _say(f"{env.name}, {agent.name}, seed {run.seed} -> {run.folder}")
    return _train_and_evaluate(run, built, args, resume=False)


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
    from dsenv.workbench.run import Run

    # A run keeps its environment, agent and seed; only steps and num_envs may change
    run = Run.open(args.resume)
    _check_same(run.env, "env", args.env)
    _check_same(run.agent, "agent", args.agent)
    if args.env_set or args.seed is not None:
        raise ValueError("a resumed run keeps its environment and seed: leave out --env-set and --seed")
    given = _agent_overrides(args)
    fixed = [name for name in given if name not in ("steps", "num_envs")]
    if fixed:
        raise ValueError(
            f"a resumed policy keeps its {fixed[0]}: only steps and num_envs may change; start a new run"
        )

    # There is something to go on with
    agent = run.agent.with_overrides(given)
    built = agent.build()
    if not built.learns:
        raise ValueError(f"{run.agent.name} is a fixed rule: nothing to resume; use --evaluate {args.resume}")
    done = built.load(run.folder / "last_model.zip").num_timesteps
    if done >= built.steps:
        raise ValueError(
            f"{run.folder} has done its {done} steps; pass --steps with more to go on, "
            f"or --evaluate {run.folder}"
        )

    run = Run(run.folder, run.env, agent, run.seed)
    run.write_definitions()
    _say(f"going on with {run.folder} after {done} of {built.steps} steps")
    return _train_and_evaluate(run, built, args, resume=True)


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


def _train_and_evaluate(run: Any, agent: Any, args: argparse.Namespace, *, resume: bool) -> int:
    from dsenv.workbench.train import train

    if agent.learns and not train(run, agent, args.device, resume=resume):
        _say(f"\ninterrupted; go on with: python train_agent.py --resume {run.folder}")
        return 130
    return _report(run, run.env, args)


def _evaluate(args: argparse.Namespace) -> int:
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

    elsewhere = [] if env.name == run.env.name else [env.name]
    words = [re.sub(r"[^\w.=+-]+", "_", word) for word in (*elsewhere, *args.env_set)]
    prefix = "".join(f"{word}-" for word in words)  # the result elsewhere must not replace the run's own
    return _report(run, env.with_overrides(parse_overrides(args.env_set)), args, prefix)


def _evaluate_file(args: argparse.Namespace) -> int:
    """Evaluate a policy file as an agent that does not learn, in a run folder of its own."""
    from dsenv.workbench.policies import environment_of

    args.agent = str(args.evaluate)
    args.env = args.env or environment_of(args.evaluate)
    return _new(args)


def _report(run: Any, env: Definition, args: argparse.Namespace, prefix: str = "") -> int:
    from dsenv.evaluation.report import gains, markdown_table
    from dsenv.workbench.train import evaluate_run

    try:
        result = evaluate_run(run, env, args.seeds, args.device, args.compare, prefix)
    except KeyboardInterrupt:
        _say(f"\ninterrupted; evaluate with: python train_agent.py --evaluate {run.folder}")
        return 130

    _say(f"\nTest accuracy in percent, mean of {args.seeds} fresh seeds and half its 95 % interval\n")
    _say(markdown_table(result))
    gained = gains(result)
    if gained:
        _say(f"\n{result.agent} against all data, same seeds:\n{gained}")
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
