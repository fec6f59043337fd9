"""Any folder of images: one sub-folder for each class."""

from pathlib import Path

import torch

from dsenv.tasks.dataset import Dataset, split_pools


def image_folder(
    root: str,
    size: int = 32,
    channels: int = 3,
    train: int | None = None,
    validation: int = 1000,
    test: int | None = None,
    split_seed: int = 0,
) -> Dataset:
    """Read `root/<class>/<image>` (torchvision's ImageFolder layout), resized and kept as uint8.

    Mean and standard deviation are those of the training split.

    Args:
        root: folder of the class folders.
        size: height and width in pixels; images are resized and cropped at the centre.
        channels: 3 for colour, 1 for grey.
        train: training samples; None for all that are left.
        validation: trusted validation samples.
        test: test samples; None for all that are left (one of train and test must be a number).
        split_seed: decides which sample falls into which split.

    Raises:
        FileNotFoundError: there is no such folder, or no image in it.
        ValueError: `channels` is neither 1 nor 3, or both train and test are None.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 or 3, got {channels}")
    if train is None and test is None:
        raise ValueError(
            "image_folder: give a number of samples for train or for test; one of them takes the rest"
        )

    path = _existing(root)
    images, labels, classes = _read(path, size, channels)
    splits = split_pools(path.name, (images, labels), None, (train, validation, test), split_seed)

    pixels = splits[0].images.float() / 255
    mean, std = pixels.mean((0, 2, 3)).tolist(), pixels.std((0, 2, 3)).clamp(min=1e-3).tolist()
    return Dataset(path.name, *splits, classes=classes, mean=tuple(mean), std=tuple(std))


def _existing(root: str) -> Path:
    path = Path(root).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(
            f"no folder of images at {path}; dataset.root must hold one sub-folder a class"
        )
    return path


def _read(path: Path, size: int, channels: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2
    from tqdm.auto import tqdm

    transform = v2.Compose(
        [
            v2.PILToTensor(),
            v2.Grayscale() if channels == 1 else v2.RGB(),
            v2.Resize(size, antialias=True),
            v2.CenterCrop(size),
        ]
    )

    source = ImageFolder(str(path), transform)  # says which folders hold no image
    pairs = [pair for pair in tqdm(source, desc=f"reading {path.name}", disable=len(source) < 2000)]
    images = torch.stack([image for image, _ in pairs])
    return images, torch.tensor([label for _, label in pairs]), len(source.classes)
