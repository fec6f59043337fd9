"""Tables of settings: registered environments and agents from their TOMLs, settings from the code."""

import ast
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tables_format import table

from dsenv.catalogue import definition, import_entry_point, names
from dsenv.tasks.task import DATASETS

ROOT = Path(__file__).resolve().parents[1]
SIZES = {"digits": (1797, None), "fashion_mnist": (60_000, 10_000), "cifar10": (50_000, 10_000)}
SIZES.update(cifar100=(50_000, 10_000), breast_cancer=(569, None), wine=(178, None), iris=(150, None))
"""Samples to train on, and those of a test split that comes apart; None where it is cut from them."""
TITLES = {"fashion_mnist": "Fashion-MNIST", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}


# Environments


def environments() -> str:
    """A row for each registered environment, from its TOML."""
    heads = [
        "id",
        "control",
        "data (train / validation / test)",
        "model",
        "intervals",
        "ratio",
        "label noise",
    ]
    return table(heads, [environment(name) for name in names("envs")])


def environment(name: str) -> list[str]:
    settings = definition("envs", name).kwargs
    defaults = dataclass_defaults("dsenv.env:EnvConfig")
    several = settings.get("datasets", ())
    own = [{**settings["task"], **one} for one in several] or [settings["task"]]
    return [
        f"`dsenv/{name}`",
        choice(settings.get("control", "curriculum")),
        "; ".join(data(task["dataset"]) for task in own),
        choice(settings["task"]["model"]),
        str(settings.get("intervals", defaults["intervals"])),
        f"{settings.get('ratio', float(defaults['ratio'])):g}",
        noise(settings.get("context", {}).get("label_noise", 0.0)),
    ]


def choice(part: str | Mapping[str, Any]) -> str:
    """A name with the settings that differ from the defaults."""
    table = {"name": part} if isinstance(part, str) else dict(part)
    name = table.pop("name")
    said = ", ".join(f"`{key} = {shown(value)}`" for key, value in table.items())
    return f"`{name}`" + (f", {said}" if said else "")


def shown(value: Any) -> str:
    """A value as in TOML."""
    if isinstance(value, str):
        return f'"{value}"'
    return str(value).lower() if isinstance(value, bool) else str(value)


def data(chosen: Mapping[str, Any]) -> str:
    """Name and sizes of the splits: of the TOML, else the defaults of the function that reads them."""
    function = import_entry_point(DATASETS[chosen["name"]])
    sizes = {name: own.default for name, own in inspect.signature(function).parameters.items()}
    sizes.update(chosen)
    train, validation, test = (sizes.get(name) for name in ("train", "validation", "test"))
    there, apart = SIZES.get(chosen["name"], (None, None))
    if train is None and there:
        train = there - validation - (0 if apart else test or 0)
    if test is None:
        test = apart or (there - train - validation if there else None)
    numbers = " / ".join("the rest" if size is None else f"{size:,}" for size in (train, validation, test))
    return f"{TITLES.get(chosen['name'], chosen['name'].replace('_', ' '))}, {numbers}"


def noise(value: Any) -> str:
    if isinstance(value, list):
        return f"{100 * value[0]:.0f} to {100 * value[1]:.0f} %"
    return f"{100 * value:.0f} %"


# Agents


def agents() -> str:
    """Every agent with the first line of its TOML."""
    body = []
    for name in names("agents"):
        first = (ROOT / "agents" / f"{name}.toml").read_text("utf-8").splitlines()[0]
        body.append([f"`{name}`", first.removeprefix("#").strip()])
    return table(["name", "what it is"], body)


# Settings


def source_of(target: str) -> ast.ClassDef:
    """The class of "module:Class" as it stands in its file."""
    kind = import_entry_point(target)
    file = ast.parse(Path(inspect.getfile(kind)).read_text("utf-8"))
    return next(node for node in file.body if isinstance(node, ast.ClassDef) and node.name == kind.__name__)


def fields(target: str) -> Iterator[tuple[str, str, str]]:
    """Name, default and text below it of each field of a dataclass."""
    body = source_of(target).body
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            text = after.value.value if isinstance(after, ast.Expr) else ""  # type: ignore[attr-defined]
            yield node.target.id, default(node.value), " ".join(str(text).split())


def default(node: ast.expr | None) -> str:
    if node is None:
        return "required"
    text = ast.unparse(node)
    made = re.fullmatch(r"field\(default_factory=(\w+)\)", text)
    return {"dict": "{}", "list": "[]"}.get(made[1], text) if made else text.replace("'", '"')


def dataclass_defaults(target: str) -> dict[str, str]:
    return {name: value for name, value, _ in fields(target)}


def settings(target: str) -> str:
    """Every setting of a class with its default and meaning."""
    body = [[f"`{name}`", f"`{value}`", cell(text)] for name, value, text in fields(target)]
    return table(["setting", "default", "meaning"], body)


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("``", "`")


TABLES: dict[str, Callable[[], str]] = {
    "environments": environments,
    "agents": agents,
    "environment-settings": lambda: settings("dsenv.env:EnvConfig"),
    "recipe-settings": lambda: settings("dsenv.tasks:Recipe"),
}
