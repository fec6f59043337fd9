"""Which device to train on."""

import torch


def choose_device(name: str) -> torch.device:
    """The device called `name`; "auto" is the GPU where there is one, else the CPU.

    Raises:
        ValueError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"no device called {name!r}; use 'auto', 'cpu', 'cuda' or 'cuda:1'") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device {name!r} was asked for, but torch finds no CUDA GPU here; use 'auto' or 'cpu'"
        )
    return device
