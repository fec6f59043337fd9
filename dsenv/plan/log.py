"""A plan that writes what it decided and saw to TensorBoard, after each epoch."""

import warnings
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsenv.errors import check_count
from dsenv.plan.collate import CallState
from dsenv.plan.data import ArrayPair, split_sample
from dsenv.plan.metrics import BINS, EpochNote, PlanMetrics, Series
from dsenv.plan.source import Source
from dsenv.tracking import names
from dsenv.tracking.constant import NORMAL
from dsenv.tracking.layout import plan_layout
from dsenv.tracking.pictures import MOST_IMAGES, as_pixels, bins_picture, sheet

METHODS = ("add_scalar", "add_histogram", "add_image", "add_custom_scalars")  # of a writer
CHANNELS = (1, 2, 3, 4)  # that an image may have
_LAST: "WeakKeyDictionary[Any, int]" = WeakKeyDictionary()  # writer -> epoch that it got last from any plan


def check_writer(writer: Any) -> None:
    """Check that something can be written to.

    Raises:
        ValueError: a method is missing.
    """
    missing = [name for name in METHODS if not callable(getattr(writer, name, None))]
    if missing or isinstance(writer, type):
        what = f"the class {writer.__name__}" if isinstance(writer, type) else type(writer).__name__
        lacks = "make an object of it" if isinstance(writer, type) else f"it has no {', '.join(missing)}"
        raise ValueError(
            f"writer must have the methods {', '.join(METHODS)}, got {what}: {lacks}; give "
            "torch.utils.tensorboard.SummaryWriter(folder), or log plan.metrics() yourself"
        )


def _note_step(writer: Any, epoch: int) -> None:
    """Warn where a writer gets an epoch that it has: its curves would run back."""
    try:
        last = _LAST.get(writer)
        _LAST[writer] = epoch
    except TypeError:  # a writer that has no weak references or no hash
        return
    if last is not None and last >= epoch:
        warnings.warn(
            f"this writer has epoch {last} of a plan and gets epoch {epoch} now: its curves run back; give "
            "each plan a SummaryWriter(folder) of its own, and one that was resumed a "
            "SummaryWriter(folder, purge_step=plan.epoch)",
            stacklevel=4,
        )


@dataclass
class PlanLog:
    """Writes a plan's metrics and pictures.

    Args:
        metrics: what is written.
        source: gives the images.
        writer: see `check_writer`; None for no log.
        pictures: pictures are made every so many epochs and after the last; 0 for none.
    """

    metrics: PlanMetrics
    source: Source
    writer: Any = None
    pictures: int = 0

    is_in_loop = False
    """The training run is in the loop over `epochs_left`, which ends the last epoch too."""
    _shows_images = True  # until reading one fails

    def attach(self, writer: Any, pictures: int) -> None:
        """Write to `writer` from now on; errors as for `check_writer`."""
        check_writer(writer)
        pictures = check_count("pictures", pictures, 0)
        self.writer, self.pictures = writer, pictures
        self.metrics.series = self.metrics.series or Series()
        guarded = self.metrics.epoch_sampler.guard is not None
        writer.add_custom_scalars(plan_layout(BINS, guarded=guarded))

    def __getstate__(self) -> dict[str, Any]:
        """A copy of a plan has no writer."""
        return {**vars(self), "writer": None, "is_in_loop": False}

    def leave(self) -> None:
        """The loop was left: write the epoch where all of it was trained on."""
        sampler = self.metrics.epoch_sampler
        self.is_in_loop = False
        if self.writer is not None and sampler.is_done:
            self.metrics.feedback.settle(sampler.epoch)
            self.write()

    def write_last(self) -> None:
        """Write the last epoch of all after its last batch, in loops in which nobody ends it."""
        if not self.is_in_loop:
            self.write()

    def write(self) -> None:
        """Write the epoch that the metrics speak of, once."""
        note = self.metrics.note() if self.writer is not None else None
        if note is None or note.epoch == self.metrics.written:
            return
        self.metrics.written = note.epoch
        _note_step(self.writer, note.epoch)
        found, series = self.metrics.read(), self.metrics.series
        assert series is not None

        # Curves
        for name, value in found.items():
            for step, number in series.changing.points(name, note.epoch, value, NORMAL.get(name)):
                self.writer.add_scalar(name, number, step)
        if names.loss_bin(0) in found:
            series.bins[note.epoch] = [found[names.loss_bin(b)] for b in range(BINS)]

        # What is known of all samples, and pictures
        self._histograms(note.epoch)
        is_last = note.epoch == self.metrics.epoch_sampler.epoch_schedule.epochs - 1
        if self.pictures and (is_last or (note.epoch + 1) % self.pictures == 0):
            self._pictures(note, series)

    def _histograms(self, step: int) -> None:
        """Losses and confidences of the samples that were seen with finite values."""
        signals, values = self.metrics.feedback.signals, self.metrics.feedback.values
        known = signals.times_trained > values.count
        if not bool(known.any()):
            return
        self.writer.add_histogram(names.pool("losses"), signals.loss[known].cpu().numpy(), step)
        if signals.knows("confidence"):
            confidence = signals.confidence[known].cpu().numpy()
            self.writer.add_histogram(names.pool("confidences"), confidence, step)

    def _pictures(self, note: EpochNote, series: Series) -> None:
        """Where the chosen came from over the epochs, and images of this one."""
        if series.bins:
            epochs = sorted(series.bins)
            shares = np.array([series.bins[epoch] for epoch in epochs], np.float32)
            self.writer.add_image(
                names.BY_BIN, bins_picture(epochs, shares, "epoch"), note.epoch, dataformats="HWC"
            )

        found = self._sheet(note) if self._shows_images and note.chosen is not None else None
        if found is not None:
            self.writer.add_image(names.IMAGES, found, note.epoch, dataformats="HWC")

    def _sheet(self, note: EpochNote) -> NDArray[np.uint8] | None:
        """Images that were chosen and that were left out; None where the samples are no images."""
        assert note.chosen is not None
        is_left_out = torch.ones(len(self.source.dataset), dtype=torch.bool, device=note.chosen.device)
        is_left_out[note.chosen] = False
        left_out = is_left_out.nonzero().flatten()
        if len(left_out) > MOST_IMAGES:  # spread over all of them
            left_out = left_out[torch.linspace(0, len(left_out) - 1, MOST_IMAGES).long().to(left_out.device)]
        chosen = note.chosen[:MOST_IMAGES]  # in training order, which is random

        try:
            images = read_images(self.source, torch.cat([chosen, left_out]))
        except Exception as error:  # noqa: BLE001  # of a data set of the user's own
            self._shows_images = False
            warnings.warn(
                f"the log has no more sheets of images, and is whole otherwise: reading samples {chosen[0]}, "
                f"... of the data set in this process failed with {error!r}; plan.log_to(writer, pictures=0) "
                "reads none",
                stacklevel=5,
            )
            return None
        return _drawn(images, len(chosen))


def read_images(source: Source, index: Tensor) -> list[NDArray[np.generic] | None]:
    """The samples at the positions (B,), as images (C, H, W); None for each that is none.

    A data set is left as it was: its attributes, the generators that it holds, and the global streams.
    """
    if source.gathers and isinstance(source.dataset, ArrayPair):
        shape = source.dataset.inputs.shape
        return [as_image(each) for each in source.dataset.read(index.cpu())] if len(shape) > 2 else []
    if source.gathers:
        inputs = source.tensors[0]
        return [as_image(each) for each in inputs[index.to(inputs.device)]] if inputs.dim() > 2 else []

    before = CallState(source.dataset)
    try:
        return [as_image(split_sample(source.dataset[position])[0]) for position in index.tolist()]
    finally:
        before.restore()


def as_image(sample: Any) -> NDArray[np.generic] | None:
    """The inputs of a sample as an image (C, H, W); None where they are none.

    Tensors and arrays of three axes, one of them 1 to 4 channels; of two, where they are bytes; images of
    Pillow; and the first of these in a mapping.
    """
    if isinstance(sample, dict):
        return next((image for each in sample.values() if (image := as_image(each)) is not None), None)
    if isinstance(sample, Tensor):
        value = sample.detach().cpu()
        sample = (value.float() if value.is_floating_point() else value).numpy()
    elif callable(getattr(sample, "convert", None)):
        sample = np.asarray(sample.convert("RGB"))
    if not isinstance(sample, np.ndarray) or min(sample.shape, default=0) < 1:
        return None

    if sample.ndim == 2 and sample.dtype == np.uint8:
        sample = sample[None]
    if sample.ndim == 3 and sample.shape[0] not in CHANNELS and sample.shape[2] in CHANNELS:
        sample = sample.transpose(2, 0, 1)
    is_image = sample.ndim == 3 and sample.shape[0] in CHANNELS and min(sample.shape[1:]) > 1
    return sample if is_image else None


def _drawn(images: list[NDArray[np.generic] | None], chosen: int) -> NDArray[np.uint8] | None:
    """A sheet of the first `chosen` images and of the others, of one size: that of the first image."""
    first = next((image for image in images if image is not None), None)
    if first is None:
        return None

    form = (first.shape, first.dtype)
    is_kept = [image is not None and (image.shape, image.dtype) == form for image in images]
    kept = [image for image, keep in zip(images, is_kept, strict=True) if keep and image is not None]
    found = as_pixels(np.stack(kept))
    number = sum(is_kept[:chosen])
    return None if found is None else sheet(found[:number], found[number:])
