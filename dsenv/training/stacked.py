"""Layers with a replica axis: K networks of one `nn.Sequential` as one tensor program.

Linear layers become batched matrix products, convolutions become grouped convolutions. Between
layers, features are (K, B, F) and images (B, K * C, H, W).
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from dsenv.training.modules import is_hooked, is_tied

ELEMENTWISE = (nn.ReLU, nn.GELU, nn.SiLU, nn.ELU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid, nn.Identity)
POOLING = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
WEIGHTED = (nn.Linear, nn.Conv2d, nn.GroupNorm)
STACKED = (*WEIGHTED, nn.Flatten, *ELEMENTWISE, *POOLING)


def layers(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The layers of nested `nn.Sequential`s, in order, with the prefix of their parameters."""
    if not isinstance(model, nn.Sequential):
        yield prefix, model
        return
    for name, child in model._modules.items():  # `named_children` leaves out a layer's second place
        assert child is not None
        yield from layers(child, f"{prefix}{name}.")


def can_stack(model: nn.Module) -> bool:
    """Whether every layer of the model has a form with a replica axis, and nothing but layers is at work."""
    if not isinstance(model, nn.Sequential) or is_hooked(model):
        return False
    holders = [part for part in model.modules() if isinstance(part, nn.Sequential)]
    if any(type(part).forward is not nn.Sequential.forward or "forward" in vars(part) for part in holders):
        return False
    return not is_tied(model) and all(can_stack_layer(layer) for _, layer in layers(model))


def can_stack_layer(layer: nn.Module) -> bool:
    """Whether one layer has a form with a replica axis; a class derived from one may do anything."""
    if type(layer) not in STACKED or "forward" in vars(layer):
        return False
    if isinstance(layer, nn.Conv2d):
        return layer.groups == 1 and layer.padding_mode == "zeros"
    if isinstance(layer, nn.Flatten):
        return layer.start_dim == 1 and layer.end_dim == -1
    return True


def is_plain(model: nn.Module, sample_shape: Sequence[int]) -> bool:
    """Whether a model that can be stacked has layers in the usual order, so that its outputs are those alone.

    That is (Conv2d, GroupNorm or pooling, for images), Flatten, Linear, with elementwise layers anywhere. Any
    other model is tried before it is stacked.

    Args:
        model: `can_stack` is true of it.
        sample_shape: of one input.
    """
    if any(type(part) is not nn.Sequential for part in model.modules() if isinstance(part, nn.Sequential)):
        return False

    is_image, is_flat = len(sample_shape) == 3, len(sample_shape) == 1
    for _, layer in layers(model):
        has_place = is_image if isinstance(layer, (nn.Conv2d, nn.GroupNorm, *POOLING)) else True
        has_place = is_flat if isinstance(layer, nn.Linear) else has_place
        held = {"weight", "bias"} if isinstance(layer, WEIGHTED) else set()
        if not has_place or layer._buffers or layer._parameters.keys() != held:
            return False
        if isinstance(layer, nn.Flatten):
            is_image, is_flat = False, True
    return True


def stacked_forward(
    model: nn.Module, parameters: Mapping[str, Tensor], samples: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Outputs of K networks, and the inputs of their last linear layer.

    Args:
        model: the network's structure; its own parameters are not used.
        parameters: by name, the parameters of all K networks, (K, ...).
        samples: (K, B, ...) float inputs, different ones for each network.

    Returns:
        outputs: (K, B, C).
        features: (K, B, D), or None where the network has no linear layer.
    """
    replicas, batch = samples.shape[:2]
    is_image = samples.ndim == 5
    features = None

    # Images of all networks lie side by side along the channels
    x = samples.transpose(0, 1).flatten(1, 2) if is_image else samples
    for prefix, layer in layers(model):
        weight, bias = parameters.get(f"{prefix}weight"), parameters.get(f"{prefix}bias")
        if isinstance(layer, nn.Flatten):
            x = x.view(batch, replicas, -1).transpose(0, 1) if is_image else x.flatten(2)
            is_image = False
        elif isinstance(layer, nn.Linear):
            assert weight is not None and not is_image
            features, x = x, _linear(x, weight, bias)
        elif isinstance(layer, nn.Conv2d):
            assert weight is not None and is_image
            x = functional.conv2d(
                x,
                weight.flatten(0, 1),
                None if bias is None else bias.flatten(),
                stride=layer.stride,
                padding=layer.padding,
                dilation=layer.dilation,
                groups=replicas,
            )
        elif isinstance(layer, nn.GroupNorm):
            scale, shift = (None if p is None else p.flatten() for p in (weight, bias))
            x = functional.group_norm(x, replicas * layer.num_groups, scale, shift, layer.eps)
        else:
            x = layer(x)

    return x, features


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(K, B, F) times (K, G, F) plus (K, G) is (K, B, G)."""
    if bias is None:
        return torch.bmm(x, weight.transpose(1, 2))
    return torch.baddbmm(bias[:, None], x, weight.transpose(1, 2))
