"""Images per second from stored bytes to a normalised batch on the device, with and without augmentation.

    OMP_NUM_THREADS=1 python benchmarks/pipeline.py [--json PATH]

Each rival takes its turn at the same samples, batch after batch in random order, from uint8 images in memory
(Fashion-MNIST, or scikit-learn's digits where it is not installed, resized for 32 x 32 x 3). On a CPU the
clock counts the time of this process on it, so that other jobs on the machine do not count.

"plain" is gather and normalise; "augmented" adds one op at one strength, drawn for every image anew from
TrivialAugment's fourteen ops in its wide space:

- dsenv: `TrivialAugment(magnitudes=WIDE)`, batched, every image its own op and strength;
- DataLoader, PIL: a data set of images, torchvision's transforms on each PIL image, no worker processes;
- loop, torchvision: its v2 transforms on each tensor in a Python loop, then one batch;
- loop, dsenv: dsenv's ops, called with one image at a time;
- batch, torchvision: its v2 transforms on whole batches, ONE op at one strength for all images of a batch;
- batch, kornia: `kornia.augmentation.auto.TrivialAugment` on whole batches, ONE op a batch, at a strength for
  each image; skipped where kornia is not installed.

The last two therefore do less than the others: they run one kernel a batch where dsenv runs fourteen on parts
of it. "over ..." is how many times faster dsenv is (median and quartiles of the rounds).
"""

import argparse
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import common
import torch
from common import Spread
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from dsenv.augment import STANDARD_OPS, WIDE, TrivialAugment, apply_ops, draw_ops, op_codes
from dsenv.signals import SampleSignals
from dsenv.tasks.digits import digits
from dsenv.tasks.fashion_mnist import fashion_mnist

SHAPES = ((1, 28, 28), (3, 32, 32))
MEAN, STD = 0.2860, 0.3530


class PilImages(Dataset[Tensor]):
    """Images as PIL makes them, transformed one by one."""

    def __init__(self, images: Tensor, transform: Callable[[Any], Tensor]) -> None:
        self.images, self.transform = [TF.to_pil_image(image) for image in images], transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(self.images[index])


class Order:
    """Positions of one pass, a new order each time."""

    def __init__(self, size: int, batch: int, device: torch.device) -> None:
        self.size, self.batch, self.device = size, batch, device
        self._generator = torch.Generator().manual_seed(0)

    def __iter__(self) -> Iterator[Tensor]:
        order = torch.randperm(self.size, generator=self._generator).to(self.device)
        return iter(order.split(self.batch))


def every(order: Order, make: Callable[[Tensor], Tensor]) -> Callable[[], None]:
    """One pass: make each batch."""

    def run() -> None:
        for index in order:
            make(index)

    return run


def dsenv_calls(images: Tensor, order: Order) -> dict[str, Callable[[], None]]:
    """The resident path, plain and augmented, and its ops in a loop."""
    device = images.device
    shift, scale = (torch.tensor(value, device=device) for value in (-MEAN / STD, 1 / (255 * STD)))
    signals = SampleSignals(len(images), 10, device=device)
    controller, codes = TrivialAugment(magnitudes=WIDE), op_codes(STANDARD_OPS).to(device)
    generator = torch.Generator(device).manual_seed(0)

    def plain(index: Tensor) -> Tensor:
        return torch.addcmul(shift, images.index_select(0, index), scale)

    def augmented(index: Tensor) -> Tensor:
        batch = controller.augment(images.index_select(0, index), signals, index, generator)
        return torch.addcmul(shift, batch, scale)

    def one_by_one(index: Tensor) -> Tensor:
        done = []
        for at in index:
            op, strength = draw_ops(codes, 1, generator), torch.rand(1, generator=generator, device=device)
            done.append(apply_ops(images[at][None], op, strength, generator, WIDE))
        return torch.addcmul(shift, torch.cat(done), scale)

    return {
        "plain, dsenv": every(order, plain),
        "augmented, dsenv": every(order, augmented),
        "augmented, loop, dsenv": every(order, one_by_one),
    }


def loader_calls(images: Tensor, order: Order) -> dict[str, Callable[[], None]]:
    """A DataLoader over PIL images."""
    device, tail = images.device, [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    found = {}
    for name, first in (("plain", []), ("augmented", [transforms.TrivialAugmentWide()])):
        data = PilImages(images.cpu(), transforms.Compose([*first, *tail]))
        loader = DataLoader(data, order.batch, shuffle=True)

        def run(loader: DataLoader[Tensor] = loader) -> None:
            for batch in loader:
                batch.to(device)

        found[f"{name}, DataLoader, PIL"] = run
    return found


def torchvision_calls(images: Tensor, order: Order) -> dict[str, Callable[[], None]]:
    """Transforms v2 of torchvision on whole batches and on each image."""
    tail = [v2.ToDtype(torch.float32, scale=True), v2.Normalize([MEAN], [STD])]
    plain, augment = v2.Compose(tail), v2.TrivialAugmentWide()

    def looped(index: Tensor) -> Tensor:
        found: Tensor = plain(torch.stack([augment(image) for image in images.index_select(0, index)]))
        return found

    return {
        "plain, batch, torchvision": every(order, lambda index: plain(images.index_select(0, index))),
        "augmented, loop, torchvision": every(order, looped),
        "augmented, batch, torchvision": every(
            order, lambda index: plain(augment(images.index_select(0, index)))
        ),
    }


def kornia_calls(images: Tensor, order: Order) -> dict[str, Callable[[], None]]:
    """Transforms of kornia on whole batches of floats; nothing where it is not installed."""
    if not importlib.util.find_spec("kornia"):
        return {}
    import kornia.augmentation as kornia

    channels = images.shape[1]
    normalize = kornia.Normalize(torch.full((channels,), MEAN), torch.full((channels,), STD))
    augment = kornia.auto.TrivialAugment()

    def scaled(index: Tensor) -> Tensor:
        return images.index_select(0, index).float() / 255

    return {
        "plain, batch, kornia": every(order, lambda index: normalize(scaled(index))),
        "augmented, batch, kornia": every(order, lambda index: normalize(augment(scaled(index)))),
    }


def measure(images: Tensor, batch: int, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The rows of one shape and batch size."""
    order = Order(len(images), batch, images.device)
    makers = (dsenv_calls, loader_calls, torchvision_calls, kornia_calls)
    calls = {name: call for make in makers for name, call in make(images, order).items()}
    times = common.interleaved(calls, args.repeats, images.device, cpu_time=True)
    shape = "x".join(str(n) for n in (*images.shape[2:], images.shape[1]))
    for name in calls:
        kind, _, rival = name.partition(", ")
        rate = Spread.of([len(images) / t for t in times[name]])
        over = common.speedup(times, f"{kind}, dsenv", name)
        thousands = Spread(*(value / 1e3 for value in rate))
        cells = [shape, str(batch), kind, rival, thousands.text(",.1f", " k")]
        cells.append("" if rival == "dsenv" else over.text(",.1f", "x"))
        figures = {"shape": shape, "batch": batch, "kind": kind, "rival": rival, "seconds": times[name]}
        yield {
            **figures,
            "images_per_second": rate._asdict(),
            "dsenv_over": over._asdict(),
            "cells": cells,
        }


def load(count: int, shape: tuple[int, int, int], device: torch.device) -> Tensor:
    """Byte images (count, *shape)."""
    try:
        images = fashion_mnist(train=count).train.images
    except FileNotFoundError:
        images = digits(train=min(count, 1000)).train.images
    if images.shape[1:] != shape:
        images = F.interpolate(images.float(), shape[1:]).round().byte().expand(-1, shape[0], -1, -1)
    return images.contiguous().to(device)


def main() -> None:
    """Print the table."""
    parser = common.parser(__doc__, repeats=7)
    parser.add_argument("--samples", type=int, default=4096, help="images a pass (default 4,096)")
    parser.add_argument("--batches", type=int, nargs="+", default=[128, 512], metavar="B", help="batch sizes")
    args = parser.parse_args()
    if args.quick:
        args.samples, args.batches, args.repeats = 128, [64], 1
    device = common.choose_device(args.device)
    rows = []
    for shape in SHAPES:
        images = load(args.samples, shape, device)
        for batch in args.batches:
            rows += measure(images, batch, args)
    heads = ["shape", "batch", "", "", "images/s", "dsenv is faster by"]
    common.report(args, common.facts(device, ("torchvision", "kornia", "pillow")), heads, rows)


if __name__ == "__main__":
    main()
