"""Make a policy that comes with the package, from its recipe `dsenv/_policies/NAME.toml`.

python -m dsenv.workbench.pretrain NAME trains it, evaluates it on fresh seeds in its own environment and in
those that the recipe lists, and writes `dsenv/_policies/NAME.safetensors`, with the results on its card.
"""

import argparse
import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsenv.catalogue import Definition, definition
from dsenv.errors import check_keywords, pick
from dsenv.workbench.stop import Stop
from dsenv.workbench.wide import wide_datasets

if TYPE_CHECKING:
    from dsenv.workbench.run import Run

FOLDER = Path(__file__).resolve().parents[1] / "_policies"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a policy is made, as it stands in its TOML.

    Raises:
        ValueError: the agent does not learn, or a key is unknown or missing.
    """

    name: str
    """Of the training environment, on the card and in run folders."""
    env: Mapping[str, Any]
    """Entry point and kwargs of the training environment, with wide contexts."""
    agent: Mapping[str, Any]
    """Entry point and kwargs of the agent."""
    wide: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of `wide_datasets`, which makes the environment's `datasets`; empty for none."""
    evaluate: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    """Further environments: `env`, a name or path, and `set`, settings laid over it."""
    compare: Sequence[str] = ()
    """Agents to evaluate beside it."""
    notes: str = ""
    """Where the policy helps and where it fails, for its card."""
    seed: int = 0
    seeds: int = 64
    """Training runs of each agent in each context, at the evaluations."""

    def __post_init__(self) -> None:
        for entry in self.evaluate:
            for key in entry:
                pick("key of [[evaluate]]", key, ("env", "set"))
            if "env" not in entry:
                raise ValueError(f"[[evaluate]] needs an env, got {dict(entry)}")
        if not self.agent_definition.build().learns:
            raise ValueError(f"the agent {self.agent['entry_point']} does not learn")

    @property
    def env_definition(self) -> Definition:
        """The training environment."""
        kwargs = dict(self.env.get("kwargs", {}))
        if self.wide:
            check_keywords("wide", wide_datasets, self.wide)
            kwargs["datasets"] = wide_datasets(**self.wide)
        return Definition("envs", self.name, self.env["entry_point"], kwargs)

    @property
    def agent_definition(self) -> Definition:
        """The agent."""
        return Definition("agents", "policy", self.agent["entry_point"], self.agent.get("kwargs", {}))


def read_recipe(path: Path) -> Recipe:
    """The recipe in a TOML file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a key is unknown or missing.
    """
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.toml")))
        raise FileNotFoundError(f"no recipe at {path}; there are: {known or 'none'}")

    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from error

    check_keywords(f"recipe {path.stem}", Recipe, content)
    for table in ("env", "agent"):
        if not isinstance(content[table], Mapping) or "entry_point" not in content[table]:
            raise ValueError(f"[{table}] of {path} needs an entry_point")

    return Recipe(**content)


def pretrain(
    recipe: Recipe,
    target: Path,
    out: Path,
    device: str,
    seeds: int | None = None,
    trained: Path | None = None,
    stop: Stop | None = None,
) -> Path:
    """Train, evaluate and write a policy; returns its file.

    Args:
        recipe: how.
        target: the file to write.
        out: folder of run folders.
        device: where the models train.
        seeds: training runs of each agent in each context at the evaluations; None for the recipe's.
        trained: folder of a run of this recipe that is trained already; None to train.
        stop: what notes the signals that stop a training run.

    Raises:
        ValueError: a definition is wrong, the training run was interrupted, or its folder is in use.
        OSError: a file cannot be written.
    """
    from dsenv.agents.base import build_agent
    from dsenv.policy.policy import Policy
    from dsenv.workbench.lock import locked
    from dsenv.workbench.policies import FILE, agent_definition
    from dsenv.workbench.run import Run

    # Every mistake in the arguments and the recipe shows now, not after the training run
    number = recipe.seeds if seeds is None else seeds
    if target.suffix != ".safetensors" or number < 1:
        wrong = f"got {target}; seeds >= 1, got {number}"
        raise ValueError(f"a policy's file is called NAME.safetensors, {wrong}")
    wanted = _environments(recipe, device)
    for name in recipe.compare:
        agent_definition(name)
    agent = build_agent(recipe.agent_definition)
    agent.check()

    if trained is not None:
        run = _checked(Run.open(trained), recipe)
    else:
        run = Run.create(out, recipe.env_definition, recipe.agent_definition, recipe.seed, device)
    with locked(run.folder):
        _train(run, agent, device, stop or Stop(), is_trained=trained is not None)
        policy = Policy.load(run.folder / FILE)
        results = _results(run, wanted, number, device, recipe.compare)
    card = replace(policy.card, trained={**policy.card.trained, "notes": recipe.notes, "results": results})
    return Policy(policy.actor, card).save(target)


def _train(run: "Run", agent: Any, device: str, stop: Stop, *, is_trained: bool) -> None:
    """Train the recipe's agent, unless it is trained, and write its policy file where that is missing."""
    from dsenv.workbench import checkpoint
    from dsenv.workbench.cluster import make_vec_env
    from dsenv.workbench.policies import FILE
    from dsenv.workbench.train import complete, train

    if not is_trained and (not train(run, agent, device, stop=stop) or stop.is_asked()):
        raise ValueError(
            f"interrupted; go on with: python train_agent.py --resume {run.folder}, and then pretrain "
            f"with --run {run.folder}"
        )

    state = None if (run.folder / FILE).is_file() else checkpoint.read(run)
    if state is not None:
        complete(run, agent, state, make_vec_env(run.env.with_overrides(agent.env), 1, device))


def _results(
    run: "Run", wanted: Sequence[tuple[str, Definition]], seeds: int, device: str, compare: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """Evaluate a run in each environment; returns the rows of its agent, by environment."""
    from dsenv.workbench.train import evaluate_run

    results = {}
    for prefix, env in wanted:
        evaluation = evaluate_run(run, env, seeds, device, compare, prefix)
        results[prefix.rstrip("-") or env.name] = [
            {
                "context": row.context,
                "accuracy": row.accuracy_mean,
                "interval": [row.accuracy_low, row.accuracy_high],
                "seeds": row.seeds,
                **({} if row.gain_mean is None else {"gain_over_all_data": row.gain_mean}),
            }
            for row in evaluation.rows
            if row.agent == evaluation.agent
        ]
    return results


def _environments(recipe: Recipe, device: str) -> list[tuple[str, Definition]]:
    """Where a policy is evaluated, with the prefix of each result; built once, so that mistakes show now."""
    agent = recipe.agent_definition.build()
    wanted = [("", recipe.env_definition)]
    for entry in recipe.evaluate:
        found, settings = definition("envs", str(entry["env"])), entry.get("set", {})
        words = [found.name, *(f"{key}={value}" for key, value in settings.items())]
        prefix = "".join(re.sub(r"[^\w.=+-]+", "_", word) + "-" for word in words)
        wanted.append((prefix, found.with_overrides(settings)))

    for _, env in wanted:
        env.with_overrides(agent.env).build(device=device)
    return wanted


def _checked(run: "Run", recipe: Recipe) -> "Run":
    """The run, if it is one of the recipe; else a ValueError."""
    for own, wanted in ((run.env, recipe.env_definition), (run.agent, recipe.agent_definition)):
        if own.as_dict() != wanted.as_dict():
            raise ValueError(
                f"{run.folder} was trained with another {own.kind.removesuffix('s')} than the recipe's; "
                "leave --run out to train again"
            )
    return run


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m dsenv.workbench.pretrain", description=__doc__)

    parser.add_argument("name", help="of the recipe, dsenv/_policies/NAME.toml, or the path of another TOML")
    parser.add_argument("--device", default="auto", help="where models train (default: auto)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads on the CPU (default: 1)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs"), help="folder of run folders (default: runs)"
    )
    parser.add_argument(
        "--seeds", type=int, help="training runs of each agent in each context (default: the recipe's)"
    )
    parser.add_argument(
        "--run", type=Path, metavar="RUN", help="folder of a finished run of the recipe: do not train again"
    )
    parser.add_argument(
        "--target", type=Path, help="file to write (default: NAME.safetensors beside the recipe)"
    )

    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    import torch

    parser = make_parser()
    args = parser.parse_args(argv)
    if args.threads < 1:
        parser.error(f"--threads must be at least 1, got {args.threads}")
    path = Path(args.name) if args.name.endswith(".toml") else FOLDER / f"{args.name}.toml"
    target = args.target or path.with_suffix(".safetensors")
    with Stop() as stop:
        try:
            torch.set_num_threads(args.threads)
            written = pretrain(read_recipe(path), target, args.out, args.device, args.seeds, args.run, stop)
        except (ValueError, OSError) as error:
            sys.stderr.write(f"pretrain: error: {error}\n")
            return 2 if stop.received is None else stop.status
        except KeyboardInterrupt:
            sys.stderr.write(f"\ninterrupted; a finished run in {args.out} is evaluated by --run RUN\n")
            return stop.status
    sys.stdout.write(f"written: {written}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
