"""A study: agents that differ by their seed alone, trained one after another, and one table of all of them.

Its folder holds `study.toml`, which says what was asked for, and an ordinary run folder for each agent seed.
After the last one it also holds `evaluation.json` and `table.md`.
"""

import argparse
import contextlib
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsenv.agents.base import build_agent
from dsenv.catalogue import Definition
from dsenv.evaluation import storage
from dsenv.evaluation.compare import Evaluation, contexts_of
from dsenv.evaluation.page.check import check
from dsenv.workbench import checkpoint, facts
from dsenv.workbench.lock import locked
from dsenv.workbench.options import SEEDS
from dsenv.workbench.run import STUDY, TIME, Run, circumstances, new_folder, read_toml, write_toml
from dsenv.workbench.study_table import study_table, write_table
from dsenv.workbench.train import rules_beside
from dsenv.workbench.words import command, say
from dsenv.workbench.work import Part, evaluate, go_on, has_anything, train_and_evaluate, write_missing

LAYOUT = 1  # of study.toml
MOST = 100  # agent seeds of a study
APART = 1000
"""Between two agent seeds. Environment k of a run draws its episodes from the run's seed + k, so agents of
neighbouring seeds would be trained on, and chosen by, nearly the same episodes."""
ADVICE = (
    "dsenv writes it whole, when a study begins: put it right by hand, or go on with the runs in the folder "
    "one by one (--resume STUDY/RUN, --report STUDY/RUN ...)"
)


@dataclass(frozen=True)
class Study:
    """Agents that differ by their seed."""

    folder: Path
    env: Definition
    agent: Definition
    seeds: list[int]
    """Of the agents, in the order in which they are trained."""
    runs: list[str]
    """Names of their run folders, in that order."""
    facts: Mapping[str, Any]
    """What `study.toml` holds."""

    @classmethod
    def create(cls, env: Definition, agent: Definition, args: argparse.Namespace) -> "Study":
        """Make a new folder `<time>-<env>-<agent>-seeds-<N>` with a run folder for each agent seed.

        The folder appears with everything in it, or not at all.

        Args:
            env: the resolved environment.
            agent: the resolved agent.
            args: of the command line, with `agent_seeds`.

        Raises:
            ValueError: the number of agent seeds is out of range, or the agent does not learn.
        """
        seeds, cluster = _agent_seeds(agent, args), args.cluster
        begun = circumstances(args.device, args.threads, **(cluster.facts() if cluster else {}))
        about: dict[str, Any] = {
            "layout": LAYOUT,
            "env": _table(env),
            "agent": _table(agent),
            "seeds": seeds,
            "evaluation_seeds": args.seeds or SEEDS,
            "curves": not args.no_curves,
            "compare": [_anywhere(name) for name in args.compare],
            **begun,
        }

        def fill(folder: Path) -> None:
            runs = [Run.create(folder, env, agent, seed, args.device, begun=begun) for seed in seeds]
            write_toml(folder / STUDY, {**about, "runs": [run.folder.name for run in runs]})

        name = f"{begun['started']:{TIME}}-{env.name}-{agent.name}-seeds-{len(seeds)}"
        return cls.open(new_folder(args.out, name, fill))

    @classmethod
    def open(cls, folder: Path) -> "Study":
        """Read a study from its folder.

        Raises:
            FileNotFoundError: it has no study.toml.
            ValueError: that is damaged, or of a newer version.
        """
        path = folder / STUDY
        if not path.is_file():
            raise FileNotFoundError(f"{folder} is not the folder of a study: it has no {STUDY}")
        content = read_toml(
            path, ADVICE, layout=int, env=dict, agent=dict, seeds=list, runs=list, evaluation_seeds=int,
            curves=bool, compare=list, device=str, threads=int,
        )  # fmt: skip
        reason = _reason(content)
        if reason:
            raise ValueError(f"{path} is damaged ({reason}). {ADVICE}")

        env, agent = (
            Definition(f"{kind}s", found["name"], found["entry_point"], found["kwargs"])
            for kind, found in (("env", content["env"]), ("agent", content["agent"]))
        )
        return cls(folder, env, agent, content["seeds"], content["runs"], content)

    def folders(self) -> list[Path]:
        """The run folders, whether they are there or not."""
        return [self.folder / name for name in self.runs]

    def open_runs(self) -> list[Run]:
        """The runs, each as the study made it.

        Raises:
            FileNotFoundError: a run folder is missing.
            ValueError: one was changed.
        """
        runs = []
        for seed, folder in zip(self.seeds, self.folders(), strict=True):
            if not folder.is_dir():
                raise FileNotFoundError(
                    f"{self.folder} has no folder {folder.name}, which held agent seed {seed}: put it back, "
                    f"or {self._without(seed)}"
                )
            runs.append(Run.open(folder))
            self._check_same(runs[-1], seed)
        return runs

    def _without(self, seed: int) -> str:
        place = self.folder / STUDY
        return f"leave the seed out: take {seed} and its folder out of `seeds` and `runs` in {place}"

    def _check_same(self, run: Run, seed: int) -> None:
        wanted = {"seed": seed, "env": _table(self.env), "agent": _table(self.agent)}
        found = {"seed": run.seed, "env": _table(run.env), "agent": _table(run.agent)}
        if found != wanted:
            own, asked = facts.differing([found, wanted])
            raise ValueError(
                f"{run.folder} was changed since the study began: it has {own}, and {STUDY} has {asked}; put "
                f"it back, or {self._without(seed)}"
            )


def _agent_seeds(agent: Definition, args: argparse.Namespace) -> list[int]:
    """Seeds of the agents of a new study.

    Raises:
        ValueError: the number or the first one is out of range, or the agent does not learn.
    """
    count: int = args.agent_seeds
    first: int = args.seed or 0
    if not 1 <= count <= MOST:
        raise ValueError(f"--agent-seeds must be from 1 to {MOST}, got {count}")
    if first < 0:
        raise ValueError(f"--seed must be a whole number from 0 on, got {first}")

    built: Any = build_agent(agent)
    if not built.learns:
        raise ValueError(
            f"{agent.name} is a fixed rule, so there is nothing to train with {count} agent seeds: leave out "
            "--agent-seeds"
        )
    apart = APART * math.ceil(built.num_envs / APART)
    return [first + apart * number for number in range(count)]


def _table(found: Definition) -> dict[str, Any]:
    return {"name": found.name, **found.as_dict()}


def _anywhere(name: str) -> str:
    """The name of an agent, or its path as it holds in any working directory."""
    is_path = name.endswith((".toml", ".safetensors"))
    return str(Path(name).expanduser().resolve()) if is_path else name


def _reason(content: Mapping[str, Any]) -> str:
    """What is wrong with the values of a study.toml; "" where nothing is."""
    if content["layout"] > LAYOUT:
        return f"it has layout {content['layout']}, and this version of dsenv reads up to {LAYOUT}"
    for what in ("env", "agent"):
        kinds = [type(content[what].get(key)) for key in ("name", "entry_point", "kwargs")]
        if kinds != [str, str, dict]:
            return f"{what} must have a name, an entry_point and kwargs, got {sorted(content[what])}"

    seeds, runs = content["seeds"], content["runs"]
    if not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        return f"seeds must be whole numbers from 0 on, at least one, got {seeds}"
    if not all(isinstance(name, str) and name == Path(name).name and name not in ("", "..") for name in runs):
        return f"runs must be names of folders inside the study, got {runs}"
    if len(set(seeds)) != len(seeds) or len(set(runs)) != len(runs) or len(runs) != len(seeds):
        return f"seeds and runs must be equally many and each different, got {seeds} and {runs}"
    if content["evaluation_seeds"] < 1 or content["threads"] < 1:
        return "evaluation_seeds and threads must be at least 1"
    if not all(isinstance(name, str) for name in content["compare"]):
        return f"compare must hold names of agents, got {content['compare']}"
    return ""


# Working


def work_on(study: Study, args: argparse.Namespace) -> int:
    """Train and evaluate what is not done, then write the table; returns the exit status.

    Args:
        study: what to do.
        args: of the command line; what the study keeps is taken from its study.toml.

    Raises:
        ValueError: a run was changed, or another process works on the study.
        OSError: a run is missing, or a file cannot be written.
    """
    kept = study.facts
    own = {"seeds": kept["evaluation_seeds"], "compare": kept["compare"], "no_curves": not kept["curves"]}
    args = argparse.Namespace(**{**vars(args), **own})

    with locked(study.folder), _saying_how_to_go_on(study):
        runs = study.open_runs()
        rules = sorted(rules_beside(study.agent, study.env, args.device, args.compare))

        known: Evaluation | None = None
        for number, run in enumerate(runs):
            say(f"\nagent {number + 1} of {len(runs)}, seed {run.seed} -> {run.folder}")
            status = _work_on_run(run, rules, Part(study.folder, known), args)
            if status:
                return status
            known = known or storage.load(run.folder / storage.RESULT)[0]
        return _conclude(study, runs)


@contextlib.contextmanager
def _saying_how_to_go_on(study: Study) -> Iterator[None]:
    """Say what to do after an error or a second signal, where there is anything to go on with."""
    try:
        yield
    except (Exception, KeyboardInterrupt):
        if any((folder / checkpoint.FILE).exists() for folder in study.folders()):
            say(f"\nthe study stops here, and keeps what is done; go on with: "
                f"{command('--resume', study.folder)}")  # fmt: skip
        raise


def _work_on_run(run: Run, rules: Sequence[str], part: Part, args: argparse.Namespace) -> int:
    """Do what is left of one run; returns the exit status."""
    agent: Any = build_agent(run.agent)
    with locked(run.folder):
        state = checkpoint.read(run)
        if state is None:
            run.warn_of_other_versions()
            return train_and_evaluate(run, agent, args, part=part)
        if checkpoint.steps_done(state) < agent.steps:
            return go_on(run, agent, args, part=part)

        write_missing(run, agent, state, args)
        reason = _reason_to_evaluate(run, state, rules, args)
        if not reason:
            say("done before: kept")
            return 0
        say(f"trained before, and {reason}")
        return evaluate(run, run.env, args, part=part)


def _reason_to_evaluate(
    run: Run, state: checkpoint.State, rules: Sequence[str], args: argparse.Namespace
) -> str:
    """Why a run that is trained has to be evaluated; "" where its evaluation is what the study needs."""
    path = run.folder / storage.RESULT
    if not path.is_file():
        return "not evaluated yet"
    try:
        found, about = storage.load(path)
        check(found)
    except (ValueError, OSError) as error:
        return f"evaluated again, because its evaluation cannot be read: {error}"

    seeds = {len(trace.accuracy) for traces in found.traces.values() for trace in traces}
    best = int(checkpoint.best_of(state)["numbers"]["num_timesteps"])
    if about.get("trained") != best:
        return f"evaluated again, because its evaluation is not of its policy of step {best}"
    if seeds != {args.seeds} or found.contexts != contexts_of(run.env):
        return f"evaluated again, because its evaluation is not on the study's {args.seeds} seeds"
    if not {run.agent.name, *rules} <= found.traces.keys():
        return "evaluated again, because its evaluation has not all agents that the study compares"
    return ""


def _conclude(study: Study, runs: Sequence[Run]) -> int:
    """Write and show the table of all runs, which are done; returns the exit status."""
    done = {run.folder.name: _steps(run) for run in runs}
    if len(set(done.values())) > 1:
        raise ValueError(
            f"the agents of {study.folder} were trained for different numbers of steps, {done}: a run went "
            f"on by itself. Leave it out of `seeds` and `runs` in {study.folder / STUDY}, or begin a new "
            "study with more --steps"
        )

    evaluations = [storage.load(run.folder / storage.RESULT)[0] for run in runs]
    text = study_table(study.seeds, evaluations)
    write_table(study.folder, study.seeds, study.runs, evaluations, text)
    say(f"\n{text}")
    say(f"written to {study.folder}; see it with: tensorboard --logdir {study.folder}")
    say(f"one page of it: {command('--report', study.folder)}")
    return 0


def _steps(run: Run) -> int:
    state = checkpoint.read(run)
    return 0 if state is None else checkpoint.steps_done(state)


def remove_if_empty(study: Study) -> None:
    """Remove the folder of a study that failed before there was anything to keep."""
    if not any(has_anything(Run(folder, study.env, study.agent, 0)) for folder in study.folders()):
        shutil.rmtree(study.folder, ignore_errors=True)
