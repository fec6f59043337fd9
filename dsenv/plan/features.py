"""Outputs of a model together with the inputs of its last layer."""

from typing import Any

from torch import Tensor, nn


class FeatureForward:
    """Calls a model and gives (logits, features), where features are what its head was given.

    The model is left as it is: a hook stands on the head during the call alone.

    Args:
        model: gives logits (B, C).
        head: its last linear layer, a module within it.

    Raises:
        ValueError: the head is not part of the model.
    """

    def __init__(self, model: nn.Module, head: nn.Module) -> None:
        if not any(module is head for module in model.modules()):
            raise ValueError(f"head {head} is not a module of the model; pass for example model.fc")
        self.model, self.head = model, head

    def __call__(self, inputs: Any) -> tuple[Tensor, Tensor]:
        """Logits (B, C) and features (B, D)."""
        caught: list[Tensor] = []

        def catch(_module: nn.Module, arguments: tuple[Any, ...]) -> None:
            caught.append(arguments[0])

        hook = self.head.register_forward_pre_hook(catch)
        try:
            logits: Tensor = self.model(inputs)
        finally:
            hook.remove()
        if not caught:
            raise ValueError(
                f"the model did not call its head {self.head}; a compiled model that ran before goes on "
                "without the hook: make its first call through FeatureForward, or wrap the model as it was"
            )
        return logits, caught[-1]
