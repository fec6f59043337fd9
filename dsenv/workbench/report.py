"""`train_agent.py --report`: one HTML page of one or several run folders, which are read alone."""

import hashlib
import json
import shlex
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dsenv import files
from dsenv.evaluation.compare import Evaluation
from dsenv.evaluation.page import Note, Part, Subject, Training, render
from dsenv.evaluation.page.check import check
from dsenv.evaluation.page.render import GENERATOR
from dsenv.evaluation.storage import RESULT, load
from dsenv.workbench import facts
from dsenv.workbench.run import Run

COMMAND = "python train_agent.py"
PAGE = "report.html"
RECORD = "evaluations.npz"
UNREADABLE = (
    OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, RuntimeError, OverflowError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What NumPy and zipfile raise for a file that is not what it should be."""
LARGEST_RECORD = 2**28  # bytes of the record of a training; one evaluation has a few hundred
LEARNED = (RECORD, "checkpoint.safetensors", "last_model.zip")
"""One of these lies in the folder of a run that trains its agent."""


@dataclass
class Found:
    """What is in a run folder."""

    run: Run
    evaluation: Evaluation | None = None
    elsewhere: dict[str, Evaluation] = field(default_factory=dict)
    """By prefix of the file: evaluations in other environments."""
    step: int | None = None
    trained: int | None = None
    """Environment steps that the evaluated policy was trained for."""
    record: tuple[np.ndarray, np.ndarray] | None = None
    """Steps and rewards of the evaluations during training."""
    done: int | None = None
    """Environment steps done at the last checkpoint; None where nobody knows."""
    notes: list[Note] = field(default_factory=list)
    label: str = ""
    family: str = ""

    @property
    def learned(self) -> bool:
        """Whether the run trains its agent."""
        return any((self.run.folder / name).exists() for name in LEARNED)


def report(folders: Sequence[Path], out: Path, study: Path | None = None) -> Path:
    """Write the page; nothing else is written, and no file of a run is changed.

    Args:
        folders: of the runs.
        out: where the page of several runs goes; that of one run goes into its folder.
        study: the folder of the study that the runs are; it takes the page then.

    Returns:
        The page.

    Raises:
        ValueError: none of the folders has anything to show.
        OSError: the page cannot be written.
    """
    found, notes = _read_all(folders)
    if not found:
        raise ValueError(
            "; ".join(note.text for note in notes)
            + f". --report takes folders that {COMMAND} wrote, runs/<time>-<env>-<agent>-<seed>; "
            f"make one with: {COMMAND}"
        )

    _name_all(found)
    parts = _parts(found)
    if len(parts) > 1:
        notes.insert(0, Note(f"These runs are on {len(parts)} environments: a section for each. Gains and "
                             "accuracies of different environments are not compared."))  # fmt: skip
    html = render(_title(found, parts), parts, notes)
    return files.write_text(_place([one.run.folder for one in found], out, study), html)


# Reading


def _read_all(folders: Sequence[Path]) -> tuple[list[Found], list[Note]]:
    """What is in the folders, each once, and what could not be read."""
    found, notes = [], []
    given: dict[Path, Path] = {}
    for folder in folders:
        given.setdefault(folder.resolve(), folder)
    for folder in given.values():
        try:
            found.append(_read(Run.open(folder)))
        except (ValueError, OSError) as error:
            notes.append(Note(str(error)))
    return found, notes


def _read(run: Run) -> Found:
    found = Found(run)
    folder = shlex.quote(str(run.folder))
    path = run.folder / RESULT
    again = f"{COMMAND} --evaluate {folder}"

    try:
        found.evaluation, known = _load(path)
        step = known.get("step")
        found.step = step if isinstance(step, int) else None
        steps = known.get("trained")
        found.trained = steps if isinstance(steps, int) else None
    except FileNotFoundError:
        found.notes.append(_not_evaluated(found, again))
    except (ValueError, OSError) as error:
        reason = str(error).partition(": make it again")[0]
        found.notes.append(Note(f"The evaluation cannot be shown: {reason}. Make it again with:", again))
    if found.evaluation is not None and not found.evaluation.traces:
        found.notes.append(
            Note(
                f"{path} was written by an older version of dsenv, which kept the table alone: there are no "
                "curves, schedules, classes and seeds to show. Evaluate again to have them:", again,
            )
        )  # fmt: skip

    for other in sorted(run.folder.glob(f"*-{RESULT}")):
        try:
            found.elsewhere[other.name.removesuffix(f"-{RESULT}")] = _load(other)[0]
        except (ValueError, OSError) as error:
            found.notes.append(Note(f"One of its further evaluations cannot be shown: {error}"))
    _read_record(found)
    return found


def _load(path: Path) -> tuple[Evaluation, dict[str, object]]:
    evaluation, known = load(path)
    try:
        check(evaluation)
    except ValueError as error:
        raise ValueError(f"{path} does not fit together: {error}") from error
    return evaluation, known


def _not_evaluated(found: Found, again: str) -> Note:
    """What to do with a run that has no evaluation."""
    folder = found.run.folder
    if not found.learned:
        return Note(f"{folder} was not evaluated. Do that with:", again)
    resume = f"{COMMAND} --resume {shlex.quote(str(folder))}"
    return Note(f"{folder} was not evaluated. Go on with its training, and evaluate it then, with:", resume)


def _read_record(found: Found) -> None:
    """The validation reward during training."""
    path = found.run.folder / RECORD
    if not path.is_file():
        return
    try:
        with zipfile.ZipFile(path) as packed:
            size = sum(member.file_size for member in packed.infolist())
        if size > LARGEST_RECORD:
            raise ValueError(f"it unpacks to {size:,} bytes")
        with np.load(path, allow_pickle=False) as record:
            steps, rewards = record["timesteps"], record["results"]
            done = int(record["saved_at"]) if "saved_at" in record else None
        if (
            rewards.ndim != 2
            or steps.shape != rewards.shape[:1]
            or f"{steps.dtype.kind}{rewards.dtype.kind}" != "if"
        ):
            raise ValueError(f"timesteps {steps.shape} and results {rewards.shape} do not fit together")
        found.record, found.done = (steps, rewards), done
    except UNREADABLE as error:
        found.notes.append(Note(f"{path} is damaged ({error}): the agent's training is not shown."))


# Names


def _name_all(found: Sequence[Found]) -> None:
    """Give every run a label of its own, and learned agents a family."""
    by_agent: dict[str, list[Found]] = {}
    for one in found:
        by_agent.setdefault(one.run.agent.name, []).append(one)
    for name, group in by_agent.items():
        apart = facts.differing([one.run.agent.as_dict()["kwargs"] for one in group])
        for one, words in zip(group, apart, strict=True):
            one.family = f"{name}, {words}" if words else name

    several = len(found) > 1
    for one in found:
        one.label = f"{one.family}, seed {one.run.seed}" if several and one.learned else one.family
    labels = [one.label for one in found]
    for one in found:
        if labels.count(one.label) > 1 and one.learned:
            one.label = f"{one.label} ({facts.stem(one.run.folder)})"
    labels = [one.label for one in found]
    for number, one in enumerate(found):
        if labels.count(labels[number]) > 1 and one.learned:
            one.label = f"{one.label} ({one.run.folder})"


def _title(found: Sequence[Found], parts: Sequence[Part]) -> str:
    names = list(dict.fromkeys(one.family for one in found))
    agents = " and ".join(names) if len(names) < 3 else f"{len(names)} agents"
    if len(parts) > 1:
        return f"{agents} on {len({part.title for part in parts})} environments"
    return f"{agents} on {parts[0].title}" + (f", {len(found)} runs" if len(found) > 1 else "")


# Putting together


def _parts(found: Sequence[Found]) -> list[Part]:
    """The runs by environment, and their evaluations elsewhere."""
    groups: dict[str, list[Found]] = {}
    for one in found:
        settings = json.dumps([one.run.env.name, one.run.env.as_dict()], default=str, sort_keys=True)
        groups.setdefault(settings, []).append(one)

    firsts = [group[0].run.env for group in groups.values()]
    titles = {}
    for name in {env.name for env in firsts}:
        same = [env for env in firsts if env.name == name]
        for env, words in zip(same, facts.differing([env.kwargs for env in same]), strict=True):
            titles[id(env)] = f"{name}, {words}" if words else name

    own = [_part(titles[id(group[0].run.env)], group) for group in groups.values()]
    return [*own, *_elsewhere(found)]


def _part(title: str, group: Sequence[Found]) -> Part:
    trainings = [Training(one.label, *one.record) for one in group if one.record is not None]
    return Part(
        title,
        facts=[("Environment", facts.environment(group[0].run)), *_run_facts(group)],
        subjects=[_subject(one, one.evaluation) for one in group if one.evaluation is not None],
        trainings=trainings,
        notes=[note for one in group for note in one.notes],
        summary=facts.summary(group[0].run, _seeds(group)),
        trained=facts.trained([(one.label, one.run, took) for one in group if (took := _training(one))]),
    )


def _training(one: Found) -> facts.Training | None:
    """What the training of a run's agent took; None where it has none, or nobody knows."""
    steps, rewards = one.record or (np.zeros(0, np.int64), np.zeros((0, 0)))
    known = [int(steps.max()) if len(steps) else 0, one.trained or 0, one.done or 0]
    if not one.learned or max(known) <= 0:
        return None
    return facts.Training(max(known), one.done == max(known), rewards.size)


def _seeds(group: Sequence[Found]) -> list[int]:
    """Numbers of evaluation seeds that occur."""
    return sorted({one.evaluation.rows[0].seeds for one in group if one.evaluation is not None})


def _run_facts(group: Sequence[Found]) -> list[tuple[str, facts.Facts]]:
    """What was run; what is the same in all runs stands once."""
    found = []
    for one in group:
        seeds = None if one.evaluation is None else one.evaluation.rows[0].seeds
        found.append(facts.agent(one.run, one.step, seeds))
    if len(group) == 1:
        return [(group[0].label, found[0])]

    shared = [fact for fact in found[0] if all(fact in other for other in found)]
    own = [[fact for fact in each if fact not in shared] for each in found]
    labels = [one.label for one in group]
    return [("All runs", shared), *zip(labels, own, strict=True)]


def _subject(one: Found, evaluation: Evaluation) -> Subject:
    return Subject(one.label, evaluation, one.family if one.learned else "", one.run.seed)


def _elsewhere(found: Sequence[Found]) -> list[Part]:
    """Evaluations of the runs in other environments, by what they were evaluated with."""
    groups: dict[tuple[str, str], list[Subject]] = {}
    for one in found:
        for prefix, evaluation in one.elsewhere.items():
            groups.setdefault((evaluation.env, prefix), []).append(_subject(one, evaluation))
    parts = []
    for (env, prefix), subjects in groups.items():
        about = [("environment", env), ("file", f"{prefix}-{RESULT}")]
        parts.append(Part(f"{env}, evaluated as {prefix}", [("Evaluated elsewhere", about)], subjects))
    return parts


# Writing


def _place(folders: Sequence[Path], out: Path, study: Path | None) -> Path:
    """Where the page goes: a name that is free, or that of an earlier page of the same runs."""
    if study is not None or len(folders) == 1:
        wanted = (study or folders[0]) / PAGE
    else:
        out.mkdir(parents=True, exist_ok=True)
        paths = sorted(str(folder.resolve()) for folder in folders)
        digest = hashlib.sha256("\n".join(paths).encode()).hexdigest()[:8]
        first = min(facts.stem(folder) for folder in folders)[:60]
        wanted = out / f"report-{first}-and-{len(folders) - 1}-more-{digest}.html"

    path, number = wanted, 2
    while path.exists() and not _is_ours(path):
        path, number = wanted.with_name(f"{wanted.stem}-{number}.html"), number + 1
    return path


def _is_ours(path: Path) -> bool:
    """Whether a file is a page that was written here."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return f'<meta name="generator" content="{GENERATOR}">'.encode() in file.read(2000)
