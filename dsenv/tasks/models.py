"""Models: a factory takes the sample shape and the number of classes, and returns an `nn.Module`."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod
from typing import Any

from torch import Tensor, nn

from dsenv.errors import check_count, check_share, pick, shown
from dsenv.tasks.dataset import MOST_CLASSES

ModelFactory = Callable[..., nn.Module]

LAYERS = 64  # most hidden layers
WIDEST_CNN = 2048  # channels of the first layer of a small_cnn
WIDEST = 1 << 16  # units of a layer
MOST_WEIGHTS = 1 << 30  # of a linear layer: 4 GiB of float32


def mlp(
    sample_shape: tuple[int, ...], classes: int, hidden: Sequence[int] = (64, 64), width_factor: float = 1.0
) -> nn.Module:
    """A multi-layer perceptron with ReLU.

    Args:
        sample_shape: shape of one sample; flattened.
        classes: number of outputs.
        hidden: width of each hidden layer.
        width_factor: share of the units of each hidden layer to build, (0, 1]; at least one.

    Raises:
        ValueError: a size is no whole number, or out of range.
    """
    inputs = prod(_checked_shape("mlp", sample_shape))
    if isinstance(hidden, str | bytes) or not isinstance(hidden, Sequence) or len(hidden) > LAYERS:
        raise ValueError(f"mlp: hidden must be a list of at most {LAYERS} widths, got {shown(hidden)}")
    share = check_share("mlp: width_factor", width_factor)
    widths = [narrowed(check_count("mlp: hidden", units, most=WIDEST), share) for units in hidden]
    sizes = (inputs, *widths, check_count("mlp: classes", classes, most=MOST_CLASSES))
    for fan_in, fan_out in pairwise(sizes):
        if fan_in * fan_out > MOST_WEIGHTS:
            raise ValueError(
                f"mlp: sample_shape, hidden and classes give a layer of {fan_in} x {fan_out} weights, "
                f"more than {MOST_WEIGHTS:,}"
            )

    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in pairwise(sizes[:-1]):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    layers.append(nn.Linear(sizes[-2], sizes[-1]))
    return nn.Sequential(*layers)


def _checked_shape(model: str, sample_shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of a sample, as Python ints."""
    if (
        isinstance(sample_shape, str | bytes)
        or not isinstance(sample_shape, Sequence)
        or not len(sample_shape)
    ):
        raise ValueError(
            f"{model}: sample_shape must be a tuple such as (1, 28, 28), got {shown(sample_shape)}"
        )
    return tuple(check_count(f"{model}: sample_shape", size) for size in sample_shape)


def narrowed(units: int, width_factor: float) -> int:
    """The share `width_factor` of some units, at least one."""
    return max(1, round(width_factor * units))


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "group": lambda channels: nn.GroupNorm(8, channels),
    "none": lambda _: nn.Identity(),
}


def small_cnn(
    sample_shape: tuple[int, ...],
    classes: int,
    width: int = 32,
    norm: str = "batch",
    width_factor: float = 1.0,
) -> nn.Module:
    """Three 3 x 3 convolutions with normalisation and pooling, then a linear layer: 57 k parameters.

    Args:
        sample_shape: (C, H, W), with H and W at least 8.
        classes: number of outputs.
        width: channels of the first layer; the others have twice as many. A multiple of 8.
        norm: "batch", "group" or "none". With the last two a sample's output does not depend on the rest of
            its batch, so that K replicas run as one tensor program on a GPU; on a CPU "group" is slow.
        width_factor: share of the channels of each layer to build, (0, 1]; at least one.

    Raises:
        ValueError: the samples are not images of that size, the width does not divide or the norm is unknown.
    """
    sample_shape = _checked_shape("small_cnn", sample_shape)
    if len(sample_shape) != 3 or min(sample_shape[1:]) < 8:
        raise ValueError(
            f"small_cnn needs images (C, H, W) of at least 8 x 8, got samples of shape {sample_shape}"
        )
    width = check_count("small_cnn: width", width, most=WIDEST_CNN)
    if width % 8:
        raise ValueError(f"small_cnn: width must be a multiple of 8, got {width}")
    classes = check_count("small_cnn: classes", classes, most=MOST_CLASSES)
    width_factor = check_share("small_cnn: width_factor", width_factor)

    make_norm = NORMS[pick("normalisation", norm, NORMS)]
    layers: list[nn.Module] = []
    channels = [narrowed(number, width_factor) for number in (width, 2 * width, 2 * width)]
    for fan_in, fan_out in pairwise((sample_shape[0], *channels)):
        convolution = nn.Conv2d(fan_in, fan_out, 3, padding=1, bias=norm != "batch")
        layers += [convolution, make_norm(fan_out), nn.ReLU(), nn.MaxPool2d(2)]

    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], classes)]
    return nn.Sequential(*layers)


def small_fcn(sample_shape: tuple[int, ...], classes: int, width: int = 16) -> nn.Module:
    """A small fully convolutional network with skips, for the class of each pixel: 38 k parameters.

    Two convolutions of stride 2 on the way down, two steps of 2 up again, each added to the layer of its
    size; group normalisation, so that a sample's output does not depend on the rest of its batch.

    Use::

        import torch
        from dsenv.tasks.models import small_fcn

        model = small_fcn((3, 32, 48), classes=5)
        logits = model(torch.rand(2, 3, 32, 48))  # (2, 5, 32, 48)

    Args:
        sample_shape: (C, H, W), with H and W multiples of 4, at least 8.
        classes: number of classes of a pixel.
        width: channels at full size; below there are twice as many. A multiple of 8.

    Raises:
        ValueError: the samples are not images of that size, or the width does not divide.
    """
    sample_shape = _checked_shape("small_fcn", sample_shape)
    if len(sample_shape) != 3 or min(sample_shape[1:]) < 8 or any(side % 4 for side in sample_shape[1:]):
        raise ValueError(
            "small_fcn needs images (C, H, W) of at least 8 x 8, with sides that are multiples of 4, got "
            f"samples of shape {sample_shape}; pad or resize them"
        )
    width = check_count("small_fcn: width", width, most=WIDEST_CNN)
    if width % 8:
        raise ValueError(f"small_fcn: width must be a multiple of 8, got {width}")
    return SmallFCN(sample_shape[0], check_count("small_fcn: classes", classes, most=MOST_CLASSES), width)


class SmallFCN(nn.Module):
    """The network that `small_fcn` builds.

    Args:
        channels: of the images.
        classes: number of classes of a pixel.
        width: channels at full size.
    """

    def __init__(self, channels: int, classes: int, width: int) -> None:
        super().__init__()
        self.enter = _convolution(channels, width)
        self.down = _convolution(width, 2 * width, stride=2)
        self.down_again = _convolution(2 * width, 2 * width, stride=2)
        self.middle = _convolution(2 * width, 2 * width)
        self.up = _convolution(2 * width, 2 * width)
        self.up_again = _convolution(2 * width, width)
        self.enlarge = nn.Upsample(scale_factor=2)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes, H, W) of images (B, C, H, W)."""
        whole = self.enter(images)
        half = self.down(whole)
        quarter = self.middle(self.down_again(half))

        half = self.up(half + self.enlarge(quarter))
        logits: Tensor = self.head(whole + self.up_again(self.enlarge(half)))
        return logits


def _convolution(fan_in: int, fan_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(fan_in, fan_out, 3, stride, padding=1, bias=False), nn.GroupNorm(8, fan_out), nn.ReLU()
    )


def resnet18(sample_shape: tuple[int, ...], classes: int) -> nn.Module:
    """ResNet-18 with the CIFAR stem: a 3 x 3 convolution of stride 1 and no first pooling."""
    return _cifar_resnet("resnet18", sample_shape, classes)


def resnet50(sample_shape: tuple[int, ...], classes: int) -> nn.Module:
    """ResNet-50 with the CIFAR stem: a 3 x 3 convolution of stride 1 and no first pooling."""
    return _cifar_resnet("resnet50", sample_shape, classes)


def _cifar_resnet(name: str, sample_shape: tuple[int, ...], classes: int) -> nn.Module:
    import torchvision.models

    sample_shape = _checked_shape(name, sample_shape)
    classes = check_count(f"{name}: classes", classes, most=MOST_CLASSES)
    if len(sample_shape) != 3:
        raise ValueError(f"{name} needs images (C, H, W), got samples of shape {sample_shape}")
    model: Any = getattr(torchvision.models, name)(num_classes=classes)
    model.conv1 = nn.Conv2d(sample_shape[0], 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    resnet: nn.Module = model
    return resnet
