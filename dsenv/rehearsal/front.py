"""`dsenv.rehearse`: which choice helps on one's own data, by small training runs of all of them."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from dsenv.catalogue import Choice
from dsenv.env.interface import choose_device, model_name
from dsenv.errors import check_count, check_flag, check_positive, check_seed, check_share
from dsenv.rehearsal.candidates import Candidate, own_candidates, usual_candidates
from dsenv.rehearsal.data import LEAST_SAMPLES, Samples, read_samples
from dsenv.rehearsal.halving import Clock, Halving
from dsenv.rehearsal.result import Rehearsal, Setup, make_result
from dsenv.rehearsal.runs import check_candidate
from dsenv.tasks.task import Recipe, Task
from dsenv.training.replicas import make_replicas

FOLDS = 5
MOST_SAMPLES = 5000
MOST_FOLDS = 50
MOST_EPOCHS = 100_000
SMALL_IMAGE = 16 * 16  # pixels up to which the usual model is an MLP
USUAL_RECIPE: dict[str, Any] = {"optimizer": "adamw", "lr": 1e-3, "schedule": "constant", "batch_size": 32}


def rehearse(
    data: Any,
    model: Choice | Callable[[], nn.Module] | None = None,
    *,
    recipe: Recipe | Mapping[str, Any] | None = None,
    epochs: int = 12,
    ratio: float | Sequence[float] = 0.5,
    candidates: Any = None,
    minutes: float | None = 2.0,
    folds: int = FOLDS,
    most_samples: int = MOST_SAMPLES,
    classes: int | None = None,
    seed: int = 0,
    progress: bool = True,
    log_to: Any = None,
    device: str = "auto",
) -> Rehearsal:
    """Find out on your own data what to train on: everything, a random share, a rule or a shipped policy.

    Each candidate trains small models on your data, side by side as one tensor program where the model
    allows it. The data are cut into `folds` parts, of each class its share in each; each training run leaves
    one part out and is scored on it, under your own labels, which may be wrong. All candidates use the same
    cuts and initial parameters, so differences are paired. The better half goes on to the next round
    (successive halving), with PODS on the best of the selectors beside them. Your test split is not needed:
    do not pass it.

    The answer has the largest gain over random selection less its standard error. It is random selection
    where that is above 0 for no choice, or a subset is too small to speak of the whole.

    Use::

        import torch
        import dsenv

        inputs = torch.randn(300, 8)
        labels = (inputs[:, 0] > 0).long() + 2 * (inputs[:, 1] > 0).long()
        found = dsenv.rehearse(
            (inputs, labels), model={"name": "mlp", "hidden": [16]}, recipe={"lr": 0.1, "batch_size": 32},
            candidates=["trim", "infobatch"], epochs=4, minutes=0.5, progress=False,
        )  # without candidates: everything that is worth a try
        print(found)  # a table, advice, and the line to paste
        plan = dsenv.DataPlan((inputs, labels), epochs=4, batch_size=32, **found.settings)

    Args:
        data: training samples and labels: a pair of tensors or arrays, a `TensorDataset` of two, a map-style
            data set of (input, label), or a `Dataset`, of which the training split is used alone. Inputs are
            uint8, which are standardised, or floating, used as they are.
        model: a function without arguments that builds your model, any `nn.Module` from (B, ...) to logits
            (B, C); or a name or table of `dsenv.tasks` ({"name": "mlp", "hidden": [64]}). None for an MLP
            of two layers of 64, or a small CNN for images above 16 x 16.
        recipe: optimiser, rate, schedule and batch size of your training run, as for `Task`; None for AdamW
            at 1e-3, constant, batches of 32.
        epochs: length of your training run, >= 2.
        ratio: share of the data that you would train on, (0, 1), or several to compare. The first is that of
            the baseline.
        candidates: names of selectors, or a table of name -> keyword arguments of `DataPlan` (selector,
            volume, augment, policy, ratio); random selection and all data are run beside them. None for all
            data, random, trim, small_loss, infobatch, order_dp and the shipped policies.
        minutes: time limit; samples, training runs and candidates are cut to keep it, which is said. None for
            none: then the result depends on no clock.
        folds: parts of the data, 2 to 50; each training run leaves one out.
        most_samples: of more than these a stratified subset is rehearsed on.
        classes: C; None to read it off.
        seed: decides subset, cuts and initial parameters.
        progress: show a progress bar.
        log_to: a `SummaryWriter`, or the path of a folder for one: table, picture and curves.
        device: "auto", "cpu", "cuda" or "cuda:1".

    Returns:
        A `Rehearsal`: print it, and pass its `settings` to `DataPlan`.

    Raises:
        ValueError: data, model, recipe or a setting cannot be used; the message says what was allowed.
    """
    ratios, place = _ratios(ratio), choose_device(device)
    epochs, folds = check_count("epochs", epochs, 2, MOST_EPOCHS), check_count("folds", folds, 2, MOST_FOLDS)
    clock = Clock(None if minutes is None else 60 * check_positive("minutes", minutes))
    show, seed = check_flag("progress", progress), check_seed("seed", seed)
    samples = read_samples(data, check_count("most_samples", most_samples, LEAST_SAMPLES), seed, classes)

    # A mistake in model, recipe or candidates must show before anything is trained
    make_task = _tasks(samples, model, recipe)
    task = make_task(samples)
    tried, left_out = _candidates(candidates, ratios, samples)
    threads = _threads(task, place)
    if candidates is not None:
        for candidate in tried:
            check_candidate(candidate, task, epochs, place)

    with _one_thread(), tqdm(unit="run", disable=not show, leave=False, mininterval=0.5) as bar:
        halving = Halving(
            samples,
            make_task,
            tried,
            epochs=epochs,
            folds=folds,
            seed=seed,
            device=place,
            threads=threads,
            clock=clock,
            report=_reporter(bar),
        )
        found = halving.run()

    setup = _setup(halving, task, clock)
    result = make_result(found, tried, left_out, halving.samples.labels, setup)
    if log_to is not None:
        result.log_to(log_to)
    return result


def _ratios(ratio: Any) -> list[float]:
    """The ratios, each once.

    Raises:
        ValueError: one is no share below 1.
    """
    given = [ratio] if isinstance(ratio, int | float) or not isinstance(ratio, Sequence) else list(ratio)
    if not given:
        raise ValueError("ratio must be a share of the data in (0, 1), or several; got none")
    for value in given:
        if check_share("ratio", value) == 1:
            raise ValueError("ratio 1 is all data, which is rehearsed in any case; give shares below 1")
    return list(dict.fromkeys(float(value) for value in given))


def _tasks(
    samples: Samples, model: Any, recipe: Recipe | Mapping[str, Any] | None
) -> Callable[[Samples], Task]:
    """What makes the task on some of the samples."""
    own_model = _usual_model(samples) if model is None else model
    own_recipe = USUAL_RECIPE if recipe is None else recipe
    return lambda part: Task.from_config(dataset=part.dataset(), model=own_model, recipe=own_recipe)


def _usual_model(samples: Samples) -> dict[str, Any]:
    """A small CNN for images, else an MLP."""
    shape = samples.inputs.shape[1:]
    is_image = len(shape) == 3 and min(shape[1:]) >= 8 and shape[1] * shape[2] > SMALL_IMAGE
    return {"name": "small_cnn", "width": 16} if is_image else {"name": "mlp", "hidden": [64, 64]}


def _candidates(given: Any, ratios: Sequence[float], samples: Samples) -> tuple[list[Candidate], list[str]]:
    """What is rehearsed, and in words which policies are left out."""
    if given is not None:
        return own_candidates(given, ratios), []
    return usual_candidates(ratios, images=samples.inputs.dtype == torch.uint8 and samples.inputs.ndim == 4)


def _threads(task: Task, device: torch.device) -> int:
    """Training runs at the same time: one a core where they run in a loop on a CPU and may.

    Raises:
        ValueError: the model does not fit the data.
    """
    make_replicas(task, 2, device)
    if device.type != "cpu":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        make_replicas(task, 2, device, threads=cores)
    except ValueError:  # dropout, whose stream threads cannot share
        return 1
    return cores


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread of torch's own: training runs share the cores, and numbers do not depend on how many."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _reporter(bar: Any) -> Callable[[str, int, int], None]:
    """What moves the progress bar."""

    def report(name: str, done: int, planned: int) -> None:
        bar.set_description(f"rehearsing {name}", refresh=False)
        bar.total = planned
        bar.update(done - bar.n)

    return report


def _setup(halving: Halving, task: Task, clock: Clock) -> Setup:
    """What was rehearsed on, and how."""
    samples = halving.samples
    return Setup(
        data=samples.name,
        model=model_name(task.model),
        samples=len(samples),
        total=samples.total,
        classes=samples.classes,
        epochs=halving.epochs,
        batch_size=task.recipe.batch_size,
        folds=halving.folds,
        rounds=halving.found.rounds,
        seed=halving.seed,
        seconds=clock.spent,
        minutes=None if clock.limit is None else clock.limit / 60,
    )
