"""The options of `train_agent.py`."""

import argparse
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

DEFAULT_ENV = "dsenv/Digits-Curriculum-v0"
DEFAULT_AGENT = "ppo"
SEEDS = 64  # training runs of each agent in each context at evaluation

DESCRIPTION = """\
Train an agent that controls the data a model trains on, then compare it with fixed rules on fresh seeds.

Without arguments: PPO learns which samples of scikit-learn's digits to train on, under label noise that
is drawn again for every training run. Needs no download; about three minutes on two CPU cores."""

EXAMPLES = """\
examples:
  python train_agent.py                                          the main job
  python train_agent.py --list                                   environments and agents
  python train_agent.py --env dsenv/Digits-Ratio-v0 --agent sac  how much instead of what, by SAC
  python train_agent.py --env dsenv/Digits-Mask-v0 --agent ppo_set
                                                                 which samples, one by one
  python train_agent.py --agent-set hyperparameters.gamma=0.99 --env-set context.label_noise=0.4
  python train_agent.py --env my_env.toml --agent my_agent.toml  own definitions
  python train_agent.py --resume runs/RUN --steps 300000         go on after Ctrl-C, or for longer
  python train_agent.py --agent-seeds 5                          five agents as one study, and one table
  python train_agent.py --resume runs/STUDY                      go on with a study
  python train_agent.py --evaluate runs/RUN                      the table again, on fresh seeds
  python train_agent.py --evaluate runs/RUN --env dsenv/FashionMNIST-Curriculum-v0
                                                                 the same policy on another data set
  python train_agent.py --evaluate runs/RUN --compare infobatch data_agent pods
                                                                 against published methods
  python train_agent.py --evaluate runs/RUN/policy.safetensors --env dsenv/FashionMNIST-Curriculum-v0
                                                                 a policy file, from anywhere
  python train_agent.py --report runs/RUN                        one HTML page of a run, or of several
  python train_agent.py --rehearse data.toml --minutes 2         what helps on data of your own
  tensorboard --logdir runs                                      see the curves

A run writes runs/<time>-<env>-<agent>-<seed>/: env.toml and agent.toml (resolved settings), run.toml
(versions, seed, command), TensorBoard events, checkpoint.safetensors (all that --resume and --evaluate
need), the best policy by validation reward as policy.safetensors for dsenv.DataPlan(policy=...), and after
the evaluation evaluation.json, accuracy.png, schedule.png, and noise.png and strength.png where there is any.
A study writes runs/<time>-<env>-<agent>-seeds-<N>/: study.toml (what was asked for), a run folder for each
agent seed, and after the last one table.md and evaluation.json, the table of all.
--report adds report.html and changes nothing else. For users of Stable-Baselines3: evaluations.npz, and
best_model.zip and last_model.zip, which dsenv never opens.

Ctrl-C and SIGTERM save the run at the next checkpoint; a second one stops at once."""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="train_agent.py",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )

    what = parser.add_argument_group("what to run")
    what.add_argument("--env", metavar="ID_OR_TOML", help=f"environment (default: {DEFAULT_ENV})")
    what.add_argument("--agent", metavar="NAME_OR_FILE", help=f"agent (default: {DEFAULT_AGENT})")
    what.add_argument(
        "--steps", type=int, help="environment steps to train the agent for (default: the agent's)"
    )
    what.add_argument("--num-envs", type=int, help="training runs side by side (default: the agent's)")
    what.add_argument("--seed", type=int, help="seed of the run (default: 0)")
    what.add_argument(
        "--agent-seeds",
        type=int,
        metavar="N",
        help="train N agents that differ by their seed alone, one after another: a study, in one folder, "
        "with one table whose intervals cover agent seeds and evaluation seeds",
    )
    for part in ("env", "agent"):
        what.add_argument(
            f"--{part}-set",
            metavar="KEY=VALUE",
            action="append",
            default=[],
            help=f"override a setting of the {part}'s TOML, with dots into its tables; may be repeated",
        )

    how = parser.add_argument_group("how and where")
    how.add_argument(
        "--device", help="where models train: auto, cpu, cuda, cuda:1 (default: auto; a resumed run's own)"
    )
    how.add_argument("--threads", type=int, help="torch threads on the CPU (default: 1; a resumed run's own)")
    how.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="train the agent on training runs in Ray actors: local, auto (the cluster of this machine), "
        "HOST:PORT, or none (default: none; a resumed run's own); docs/ray.md",
    )
    how.add_argument("--actors", type=int, help="Ray actors, which share --num-envs (default: 2)")
    how.add_argument(
        "--save-every",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="time between two checkpoints, beside those after each evaluation (default: 60)",
    )
    how.add_argument(
        "--out", type=Path, default=Path("runs"), metavar="DIR", help="folder of run folders (default: runs)"
    )
    how.add_argument(
        "--seeds",
        type=int,
        help=f"training runs of each agent in each context at evaluation (default: {SEEDS}; a study's own)",
    )
    how.add_argument(
        "--no-curves",
        action="store_true",
        help="do not score the test split after each interval of an evaluation; the table stays as it is",
    )
    how.add_argument(
        "--compare",
        metavar="AGENT",
        nargs="+",
        action="extend",
        default=[],
        help="further agents to evaluate beside the policy: infobatch, pods, a policy.safetensors, ...",
    )

    how.add_argument("--minutes", type=float, help="time limit of --rehearse (default: the file's, or 2)")

    else_ = parser.add_argument_group("instead of a new run")
    instead = else_.add_mutually_exclusive_group()
    instead.add_argument(
        "--resume",
        type=Path,
        metavar="RUN_OR_STUDY",
        help="go on with an interrupted run or study, or with a run for more --steps",
    )
    instead.add_argument(
        "--evaluate",
        type=Path,
        metavar="RUN_OR_FILE",
        help="evaluate the policy of a run, or a policy.safetensors; with --env elsewhere",
    )
    instead.add_argument(
        "--report",
        type=Path,
        nargs="+",
        action="extend",
        metavar="RUN_OR_STUDY",
        help="write a self-contained HTML page of what is in these folders: RUN/report.html, "
        "STUDY/report.html, or for several report-*.html in --out",
    )
    instead.add_argument(
        "--rehearse",
        type=Path,
        metavar="DATA.toml",
        help="which choice helps on your own data: small training runs of all of them (docs/rehearse.md)",
    )
    instead.add_argument("--list", action="store_true", help="list environments and agents")

    return parser


def parse_overrides(items: Sequence[str]) -> dict[str, Any]:
    """Turn `["context.label_noise=0.4"]` into `{"context": {"label_noise": 0.4}}`; values are TOML or text.

    Raises:
        ValueError: an item has no "=", or sets a value inside another value.
    """
    overrides: dict[str, Any] = {}
    for item in items:
        key, equals, text = item.partition("=")
        if not equals or not key:
            raise ValueError(f"an override has the form KEY=VALUE, got {item!r}")
        try:
            value: Any = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text

        *tables, last = key.strip().split(".")
        place = overrides
        for table in tables:
            place = place.setdefault(table, {})
            if not isinstance(place, dict):
                raise ValueError(
                    f"{item!r} sets a value inside {table}, which another override makes {place!r}"
                )
        place[last] = value

    return overrides
