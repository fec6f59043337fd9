"""Models: a factory takes the sample shape and the number of classes, and returns an `nn.Module`."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from torch import nn

from dsenv.errors import pick

ModelFactory = Callable[..., nn.Module]


def mlp(
    sample_shape: tuple[int, ...], classes: int, hidden: Sequence[int] = (64, 64), width_factor: float = 1.0
) -> nn.Module:
    """A multi-layer perceptron with ReLU.

    Args:
        sample_shape: shape of one sample; flattened.
        classes: number of outputs.
        hidden: width of each hidden layer.
        width_factor: share of the units of each hidden layer to build, (0, 1]; at least one.
    """
    hidden = [narrowed(units, width_factor) for units in hidden]
    inputs = 1
    for length in sample_shape:
        inputs *= length

    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in pairwise((inputs, *hidden)):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    layers.append(nn.Linear((inputs, *hidden)[-1], classes))
    return nn.Sequential(*layers)


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
        norm: "batch", "group" or "none". With "group" or "none" a sample's output does not depend on the rest
            of its batch, so that K replicas can run as one tensor program (a gain on a GPU); on a CPU group
            normalisation takes most of the time.
        width_factor: share of the channels of each layer to build, (0, 1]; at least one.

    Raises:
        ValueError: the samples are not images of that size, the width does not divide or the norm is unknown.
    """
    if len(sample_shape) != 3 or min(sample_shape[1:]) < 8:
        raise ValueError(
            f"small_cnn needs images (C, H, W) of at least 8 x 8, got samples of shape {sample_shape}"
        )
    if width % 8:
        raise ValueError(f"small_cnn: width must be a multiple of 8, got {width}")

    make_norm = NORMS[pick("normalisation", norm, NORMS)]
    layers: list[nn.Module] = []
    channels = [narrowed(number, width_factor) for number in (width, 2 * width, 2 * width)]
    for fan_in, fan_out in pairwise((sample_shape[0], *channels)):
        convolution = nn.Conv2d(fan_in, fan_out, 3, padding=1, bias=norm != "batch")
        layers += [convolution, make_norm(fan_out), nn.ReLU(), nn.MaxPool2d(2)]

    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], classes)]
    return nn.Sequential(*layers)


def resnet18(sample_shape: tuple[int, ...], classes: int) -> nn.Module:
    """ResNet-18 with the CIFAR stem: a 3 x 3 convolution of stride 1 and no first pooling."""
    return _cifar_resnet("resnet18", sample_shape, classes)


def resnet50(sample_shape: tuple[int, ...], classes: int) -> nn.Module:
    """ResNet-50 with the CIFAR stem: a 3 x 3 convolution of stride 1 and no first pooling."""
    return _cifar_resnet("resnet50", sample_shape, classes)


def _cifar_resnet(name: str, sample_shape: tuple[int, ...], classes: int) -> nn.Module:
    import torchvision.models

    if len(sample_shape) != 3:
        raise ValueError(f"{name} needs images (C, H, W), got samples of shape {sample_shape}")
    model: Any = getattr(torchvision.models, name)(num_classes=classes)
    model.conv1 = nn.Conv2d(sample_shape[0], 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    resnet: nn.Module = model
    return resnet
