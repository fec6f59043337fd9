"""Data of the papers' own settings: read from files that are there, or small ones written for a smoke run."""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, distributed
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Subset

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PAD = 4  # pixels around a CIFAR image, of which 32 x 32 are cut out
CLASSES, SMOKE = 3, 48  # of the generated data
LETTERS = "ABCDEFGHIJ"


@dataclass
class Loaded:
    """What a setting trains on, and how a trained model is scored."""

    train: Any
    train_labels: Any
    """Of the training samples, or anything as long."""
    shape: tuple[int, ...]
    classes: int
    """Classes; of a language model the size of its vocabulary."""
    transform: Callable[[Any], Any] | None
    score: Callable[[Any], float]
    """Metric of a `Training` on the test split."""
    loads: bool = False
    """Whether samples come from a loader."""
    collate: Callable[[Any], Any] | None = None
    model: Any = field(default=None)


class Normalise:
    """Bytes, or floats in [0, 1], (B, 3, H, W) to what the model sees; flipped and shifted where `crop`."""

    def __init__(self, mean: Any, std: Any, device: torch.device, crop: int = 0, seed: int = 0) -> None:
        self.mean, self.std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (mean, std))
        self.crop, self.draw = crop, torch.Generator(device).manual_seed(seed)

    def __call__(self, images: Tensor) -> Tensor:
        images = images.float() / (255 if images.dtype == torch.uint8 else 1)
        images = (images - self.mean) / self.std
        if self.crop:
            images = flipped_and_shifted(images, self.crop, self.draw)
        return images.contiguous(memory_format=torch.channels_last)


def flipped_and_shifted(images: Tensor, pad: int, draw: torch.Generator) -> Tensor:
    """Images (B, C, H, W), half of them flipped, each cut at random from itself with reflected borders."""
    size, height, width = len(images), images.shape[2], images.shape[3]
    padded = F.pad(images, (pad,) * 4, mode="reflect")
    down, right = torch.randint(0, 2 * pad + 1, (2, size, 1), generator=draw, device=images.device)
    flip = torch.rand(size, 1, generator=draw, device=images.device) < 0.5
    rows = down + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    columns = right + torch.where(flip, width - 1 - columns, columns)
    place = torch.arange(size, device=images.device)[:, None, None]
    return padded[place, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def accuracy(training: Any, batches: Any) -> float:
    """Share of images that are classified right; over all ranks."""
    model, device = training.own.eval(), training.device
    counts = torch.zeros(2, dtype=torch.float64, device=device)
    with torch.no_grad(), training.precision():
        for inputs, labels in batches:
            right = model(training.data.transform.plain(inputs.to(device))).argmax(1) == labels.to(device)
            counts += torch.stack([right.sum(), torch.tensor(len(labels), device=device)])
    if distributed.is_initialized():
        distributed.all_reduce(counts)
    model.train()
    return float(counts[0] / counts[1])


class Views:
    """The transform of training, and `plain`, that of a test."""

    def __init__(self, train: Normalise, plain: Normalise) -> None:
        self.train, self.plain = train, plain

    def __call__(self, images: Tensor) -> Tensor:
        return self.train(images)


def cifar(name: str, args: argparse.Namespace, device: torch.device) -> Loaded:
    import torchvision.datasets

    if args.smoke:
        from dsenv.tasks.generated_images import generated_images

        made = generated_images(10, 2.0, train=SMOKE, validation=2, test=SMOKE, side=32)
        pairs = [(part.images.expand(-1, 3, -1, -1), part.labels) for part in (made.train, made.test)]
    else:
        kind = getattr(torchvision.datasets, name)
        found = [kind(args.data, train=train) for train in (True, False)]
        pairs = [(torch.from_numpy(f.data).permute(0, 3, 1, 2), torch.tensor(f.targets)) for f in found]
    (images, labels), test = [(a.contiguous().to(device), b.to(device)) for a, b in pairs]
    views = Views(
        Normalise(CIFAR_MEAN, CIFAR_STD, device, PAD, args.seed), Normalise(CIFAR_MEAN, CIFAR_STD, device)
    )

    def score(training: Any) -> float:
        world, own = _world()
        return accuracy(
            training,
            [(a[own::world], b[own::world]) for a, b in zip(*(t.split(1000) for t in test), strict=True)],
        )

    return Loaded((images, labels), labels, tuple(images.shape[1:]), int(labels.max()) + 1, views, score)


def cifar10(args: argparse.Namespace, device: torch.device) -> Loaded:
    """--data: the folder in which torchvision keeps cifar-10-batches-py."""
    return cifar("CIFAR10", args, device)


def cifar100(args: argparse.Namespace, device: torch.device) -> Loaded:
    """--data: the folder in which torchvision keeps cifar-100-python."""
    return cifar("CIFAR100", args, device)


def _world() -> tuple[int, int]:
    """Number of ranks, and this one's."""
    if not distributed.is_initialized():
        return 1, 0
    return distributed.get_world_size(), distributed.get_rank()


def folder(args: argparse.Namespace, device: torch.device) -> Loaded:
    """--data: a folder with train/CLASS/IMAGE and val/CLASS/IMAGE (or test/CLASS/IMAGE)."""
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    side = 16 if args.smoke else args.size or 224
    drawn = v2.Compose([v2.RandomResizedCrop(side), v2.RandomHorizontalFlip(), v2.PILToTensor()])
    fixed = v2.Compose([v2.Resize(round(side / 0.875)), v2.CenterCrop(side), v2.PILToTensor()])
    held = next((args.data / part for part in ("val", "test") if (args.data / part).is_dir()), None)
    if held is None:
        raise FileNotFoundError(f"{args.data} has neither val nor test beside train, with a folder a class")
    train, test = ImageFolder(args.data / "train", drawn), ImageFolder(held, fixed)
    plain = Normalise(IMAGE_MEAN, IMAGE_STD, device)

    def score(training: Any) -> float:
        world, own = _world()
        part = Subset(test, range(own, len(test), world))
        return accuracy(training, DataLoader(part, 256, num_workers=0 if args.smoke else 8))

    shape = (3, side, side)
    return Loaded(train, train.targets, shape, len(train.classes), Views(plain, plain), score, loads=True)


class Masks(Dataset):
    """Pairs of an image and its mask, of equal names in images/ and masks/; a mask is a PNG of classes."""

    def __init__(self, root: Path, side: int) -> None:
        self.images = sorted((root / "images").iterdir())
        self.masks = [root / "masks" / f"{path.stem}.png" for path in self.images]
        self.side = side

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        """Image (3, side, side) uint8 and mask (side, side) int64, resized."""
        size = (self.side, self.side)
        image = Image.open(self.images[position]).convert("RGB").resize(size, Image.Resampling.BILINEAR)
        mask = Image.open(self.masks[position]).resize(size, Image.Resampling.NEAREST)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1), torch.from_numpy(np.array(mask)).long()


def masks(args: argparse.Namespace, device: torch.device) -> Loaded:
    """--data: a folder with images and masks, as PNGs of classes, in train and in val; 255 is ignored."""
    side = 16 if args.smoke else args.size or 512
    train, test = (Masks(args.data / part, side) for part in ("train", "val"))
    seen = {int(v) for path in train.masks for v in np.unique(np.array(Image.open(path))) if v != 255}
    plain = Normalise(IMAGE_MEAN, IMAGE_STD, device)

    @torch.no_grad()
    def score(training: Any) -> float:
        model, kind = training.own.eval(), training.plan.kind
        sums: Any = 0.0
        for inputs, labels in DataLoader(test, 16):
            outputs, labels = model(plain(inputs.to(device))), labels.to(device)
            sums = sums + kind.statistics(outputs, labels, kind.sample_loss(outputs, labels)).sum(0)
        return float(kind.metric(sums))

    return Loaded(train, train.masks, (3, side, side), max(seen) + 1, Views(plain, plain), score, loads=True)


def text(args: argparse.Namespace, device: torch.device) -> Loaded:
    """--data: lines {"prompt", "answer"}; --test: {"question", "choices", "answer": number}; --model."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from dsenv.text import Collate, encode_pair

    for name in ("model", "test"):
        if getattr(args, name) is None:
            raise ValueError(f"instruct needs --{name}")
    tokenizer = AutoTokenizer.from_pretrained(args.model, local_files_only=True)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype, local_files_only=True)
    if args.lora:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(
            model, LoraConfig(r=args.lora, lora_alpha=2 * args.lora, task_type="CAUSAL_LM")
        )
    lines = [json.loads(line) for line in args.data.read_text().splitlines()]
    train = [encode_pair(tokenizer, line["prompt"], line["answer"]) for line in lines]
    questions = [json.loads(line) for line in args.test.read_text().splitlines()]

    def score(training: Any) -> float:
        world, own = _world()
        counts = multiple_choice(training.own, tokenizer, questions[own::world], device)
        if distributed.is_initialized():
            distributed.all_reduce(counts)
        return float(counts[0] / counts[1])

    vocabulary = model.get_output_embeddings().weight.shape[0]
    collate = Collate(tokenizer)
    return Loaded(train, train, (), vocabulary, None, score, loads=True, collate=collate, model=model)


def as_prompt(question: str, choices: list[str]) -> str:
    """A question in MMLU's form: the choices under letters, and "Answer:"."""
    listed = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    return f"{question}\n{listed}\nAnswer:"


@torch.no_grad()
def multiple_choice(
    model: Any, tokenizer: Any, questions: list[dict[str, Any]], device: torch.device
) -> Tensor:
    """Right answers and questions, (2,): the letter that is likeliest after "Answer:" is the answer."""
    from dsenv.text import Collate, causal_lm_losses, encode_pair

    model.eval()
    collate, right = Collate(tokenizer), 0
    for asked in questions:
        prompt = as_prompt(asked["question"], asked["choices"])
        letters = LETTERS[: len(asked["choices"])]
        rows = [encode_pair(tokenizer, prompt, f" {letter}", end=False) for letter in letters]
        batch = {name: value.to(device) for name, value in collate(rows).items()}
        right += int(causal_lm_losses(model, batch).sums.argmin()) == asked["answer"]
    model.train()
    return torch.tensor([right, len(questions)], dtype=torch.float64, device=device)


DATA: dict[str, Callable[[argparse.Namespace, torch.device], Loaded]] = {
    "cifar10": cifar10,
    "cifar100": cifar100,
    "folder": folder,
    "masks": masks,
    "text": text,
}


def smoke_files(data: str, root: Path, args: argparse.Namespace) -> None:
    """Write small generated files in the form that the setting reads, and point the command line at them."""
    args.data = root
    draw = np.random.default_rng(0)
    if data == "folder":
        for part, label, number in np.ndindex(2, CLASSES, SMOKE // CLASSES):
            where = root / ("train", "val")[part] / f"class{label}"
            where.mkdir(parents=True, exist_ok=True)
            pixels = draw.integers(0, 120, (20, 24, 3)) + 60 * label
            Image.fromarray(pixels.astype(np.uint8)).save(where / f"{number}.png")
    if data == "masks":
        for part, number in np.ndindex(2, SMOKE):
            where = root / ("train", "val")[part]
            for name in ("images", "masks"):
                (where / name).mkdir(parents=True, exist_ok=True)
            classes = np.kron(draw.integers(0, CLASSES, (2, 2)), np.ones((8, 8))).astype(np.uint8)
            pixels = np.repeat((60 * classes + draw.integers(0, 60, (16, 16)))[:, :, None], 3, 2)
            Image.fromarray(pixels.astype(np.uint8)).save(where / "images" / f"{number}.png")
            Image.fromarray(classes).save(where / "masks" / f"{number}.png")
    if data == "text":
        smoke_text(root, args)


def smoke_text(root: Path, args: argparse.Namespace) -> None:
    """A tiny Llama with random weights, a tokenizer of words, sums to learn and to choose from."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<end>", "<unknown>", "Answer", ":", ".", "plus", "is", *LETTERS, *map(str, range(20))]
    made = Tokenizer(
        models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unknown>")
    )
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>", unk_token="<unknown>")
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(words), max_position_embeddings=64, **shape))
    args.model = root / "model"
    model.save_pretrained(args.model)
    tokenizer.save_pretrained(args.model)

    pairs = [(a, b) for a in range(8) for b in range(8)]
    train = [{"prompt": f"{a} plus {b} is", "answer": f"{a + b}"} for a, b in pairs]
    test = []
    for number, (a, b) in enumerate(pairs[:8]):
        choices = [str(a + b + (place != number % 2)) for place in range(2)]
        test.append({"question": f"{a} plus {b} is", "choices": choices, "answer": number % 2})
    for name, lines in (("train", train), ("test", test)):
        (root / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    args.data, args.test = root / "train.jsonl", root / "test.jsonl"
