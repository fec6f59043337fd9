"""`train_agent.py --rehearse DATA.toml`: a rehearsal from a file, in a folder of its own."""

import argparse
import io
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from dsenv import files
from dsenv.catalogue import build_part
from dsenv.errors import pick, shown
from dsenv.tasks.dataset import Dataset
from dsenv.tasks.task import DATASETS
from dsenv.toml_files import read_toml
from dsenv.workbench.run import TIME, circumstances, new_folder, write_toml
from dsenv.workbench.words import say

TABLES = ("dataset", "model", "recipe", "candidates")
SETTINGS = ("epochs", "ratio", "minutes", "folds", "most_samples", "seed")
IDLE = (
    "env", "agent", "steps", "num_envs", "env_set", "agent_set", "compare", "seeds", "agent_seeds",
    "ray", "actors",
)  # fmt: skip


def rehearse_file(args: argparse.Namespace) -> int:
    """Rehearse what a file describes; returns the exit status.

    Raises:
        ValueError: an option does not fit, or the file is no description of a rehearsal.
        FileNotFoundError: there is no such file.
    """
    from dsenv.rehearsal import rehearse

    for name in IDLE:
        if getattr(args, name) not in (None, []):
            raise ValueError(
                f"--rehearse takes data, model and recipe from {args.rehearse}: leave out "
                f"--{name.replace('_', '-')}"
            )

    content = read_rehearsal(args.rehearse)
    tables = {key: content.pop(key) for key in TABLES if key in content}
    if args.minutes is not None:
        content["minutes"] = args.minutes
    if args.seed is not None:
        content["seed"] = args.seed
    data = build_part("dataset", DATASETS, tables.pop("dataset"), expected=Dataset)

    found = rehearse(data, **tables, **content, device=args.device or "auto")
    say(str(found))
    name = f"{datetime.now():{TIME}}-rehearsal-{args.rehearse.stem}"
    folder = new_folder(args.out, name, _filler(found, args))
    say(f"\n{folder}")
    return 0


def read_rehearsal(path: Path) -> dict[str, Any]:
    """The tables and settings of a rehearsal's file.

    Raises:
        ValueError: a key is unknown, the data set is missing, or a table is none.
    """
    content = read_toml(path)
    for key in content:
        pick(f"key of {path}", key, (*TABLES, *SETTINGS))
    for key in TABLES:
        if key in content and not isinstance(content[key], Mapping):
            raise ValueError(f"{path}: {key} must be a table, [{key}], got {shown(content[key])}")
    if "name" not in content.get("dataset", {}):
        raise ValueError(
            f"{path} names no data set: write [dataset] with name = one of {', '.join(DATASETS)}, or "
            "name = 'module:function' of a function of yours, def mine(...) -> dsenv.tasks.Dataset"
        )
    if "model" in content and "name" not in content["model"]:
        raise ValueError(f"{path}: [model] has no name; write one, or leave the table out")
    return content


def _filler(found: Any, args: argparse.Namespace) -> Any:
    """What writes a rehearsal into its folder."""

    def fill(folder: Path) -> None:
        found.save(folder / "rehearsal.json")
        files.write(folder / "rehearsal.png", _png(found.picture()))
        files.write_text(folder / "rehearsal.txt", f"{found}\n")
        write_toml(folder / "data.toml", read_toml(args.rehearse))
        facts = circumstances(args.device or "auto", 1)
        write_toml(folder / "rehearsal.toml", {"file": str(args.rehearse), **facts})
        found.log_to(folder)

    return fill


def _png(picture: Any) -> bytes:
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(picture).save(content, format="png")
    return content.getvalue()
