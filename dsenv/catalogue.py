"""The catalogues `envs/` and `agents/`: one TOML file, one registered environment or agent.

A definition names an entry point, `module:attribute`, and the keyword arguments to call it with:

    entry_point = "dsenv.env:TrainingEnv"

    [kwargs]
    control = "curriculum"

Defaults stand only in the Python signature; a definition holds what differs from them.
"""

import copy
import importlib
import inspect
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import gymnasium

from dsenv.errors import check_keywords, missing_keywords, pick

KINDS = ("envs", "agents")
NAMESPACE = "dsenv"

Choice = str | Mapping[str, Any] | Callable[..., Any]
"""How a part is chosen: a name, a table of its name and settings, a class, a factory, or the part itself."""


@dataclass(frozen=True)
class Definition:
    """One entry of a catalogue, as read from its TOML file."""

    kind: str
    name: str
    entry_point: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def resolve(self) -> Any:
        """Import and return what the entry point names."""
        return import_entry_point(self.entry_point)

    def with_overrides(self, overrides: Mapping[str, Any]) -> "Definition":
        """The same definition with some settings replaced; tables are merged key by key."""
        return Definition(self.kind, self.name, self.entry_point, merge(self.kwargs, overrides))

    def build(self, **further: Any) -> Any:
        """Call the entry point with the settings, and `further` ones.

        Raises:
            ValueError: a setting is unknown; the message names the nearest one.
        """
        return self._call(self.resolve(), further)

    def build_vector(self, num_envs: int, **further: Any) -> Any:
        """Build `num_envs` copies of an environment, stacked into one.

        Raises:
            ValueError: a setting is unknown, or the entry point is no class with a vector form.
        """
        return self._call(self.vector_class(), {"num_envs": num_envs, **further})

    def vector_class(self) -> Any:
        """The class of the environment's vector form, as its own class names it."""
        target = self.resolve()
        if not hasattr(target, "vector_class"):
            raise ValueError(
                f"{self.entry_point} has no vector form: the entry point of an environment must be "
                "dsenv.env:TrainingEnv or a class derived from it"
            )
        return target.vector_class()

    def _call(self, target: Any, further: Mapping[str, Any]) -> Any:
        settings = {**self.kwargs, **further}
        check_keywords(f"{self.kind}/{self.name}", target, settings)
        return target(**settings)

    def as_dict(self) -> dict[str, Any]:
        """The definition in the form its TOML file has."""
        return {"entry_point": self.entry_point, "kwargs": dict(self.kwargs)}


def import_entry_point(entry_point: str) -> Any:
    """Import `module:attribute`.

    Raises:
        ValueError: the form is wrong, the module cannot be found or has no such attribute.
    """
    module_name, _, attribute = entry_point.partition(":")
    if not module_name or not attribute:
        raise ValueError(f"an entry point has the form 'module:attribute', got {entry_point!r}")

    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(f"entry point {entry_point!r}: {error}; is its folder on PYTHONPATH?") from error

    if not hasattr(module, attribute):
        public = [name for name in vars(module) if not name.startswith("_")]
        pick(f"attribute of {module_name}", attribute, public)
    return getattr(module, attribute)


def as_table(kind: str, choice: Choice) -> dict[str, Any]:
    """The choice of a part as a fresh table, whose `name` may be a class or factory.

    Raises:
        ValueError: it is none of the forms of `Choice`.
    """
    if isinstance(choice, Mapping):
        return {"name": None, **choice}
    if isinstance(choice, str) or callable(choice):
        return {"name": choice}
    raise ValueError(
        f"{kind} must be a name, a table with a name, a class, a factory or the part itself, got {choice!r}"
    )


def part_source(kind: str, known: Mapping[str, Any], name: Any) -> Callable[..., Any]:
    """The class or function behind the name of a part; a class or function is returned as it is.

    Raises:
        ValueError: the name is unknown; the message names the nearest one.
    """
    if callable(name):
        source: Callable[..., Any] = name
        return source
    if not isinstance(name, str):
        raise ValueError(f"{kind} needs a name: one of {', '.join(known)}, or 'module:attribute'")

    found = name if ":" in name else known[pick(kind, name, known)]
    source = import_entry_point(found) if isinstance(found, str) else found
    return source


def part_type(kind: str, known: Mapping[str, Any], choice: Any) -> Any:
    """What is known of a part before it is built: its class or factory, which bears its declared facts."""
    if not isinstance(choice, str | Mapping) and not callable(choice):
        return type(choice)
    return part_source(kind, known, as_table(kind, choice)["name"])


def build_part(
    kind: str,
    known: Mapping[str, Any],
    choice: Any,
    given: Mapping[str, Any] | None = None,
    expected: type = object,
    *,
    fresh: bool = False,
) -> Any:
    """Build a replaceable part: selector, schedule, controller, reward, control, data set, model.

    Args:
        kind: what the part is, in errors.
        known: name -> class or function, or its entry point.
        choice: a name among `known`, "module:attribute" of the user's own, a table with `name` and settings,
            a class or factory, or the part itself.
        given: settings that the caller knows; those that the part takes are filled in.
        expected: class that the part must be of.
        fresh: copy a part that is given as an object, for callers that need one of their own each time.

    Raises:
        ValueError: a name or setting is unknown, a needed one is missing, or the part is of another class.
    """
    if not isinstance(choice, str | Mapping | type) and isinstance(choice, expected):
        return copy.deepcopy(choice) if fresh else choice
    table = as_table(kind, choice)
    name = table.pop("name")
    source, words = part_source(kind, known, name), part_words(name)
    settings = _filled(kind, words, source, table, given or {})

    part = source(**settings)
    if not isinstance(part, expected):
        raise ValueError(f"{kind} {words!r} must be a {expected.__name__}, got {type(part).__name__}")
    return part


def _filled(
    kind: str, words: str, source: Callable[..., Any], own: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """A part's own settings, and those of `given` that it takes.

    Raises:
        ValueError: a setting is missing or unknown.
    """
    takes = inspect.signature(source).parameters
    settings = {key: given[key] for key in takes if given.get(key) is not None} | dict(own)

    for key in missing_keywords(source, settings):
        where = f"{key}=..." if key in given else f"{kind}={{'name': {words!r}, {key!r}: ...}}"
        raise ValueError(f"{kind} {words!r} needs the setting {key!r}; give {where}")
    check_keywords(f"{kind} {words}", source, settings)
    return settings


def part_words(name: Any) -> str:
    """The name of a part in words; for a class or function where it stands."""
    if isinstance(name, str):
        return name
    source = getattr(name, "func", name)  # of a functools.partial
    return f"{source.__module__}:{getattr(source, '__qualname__', type(source).__qualname__)}"


def describe_part(choice: Any) -> str:
    """The choice of a part in words, with its plain settings: to tell one choice from another."""
    if choice is None:
        return "none"
    if not isinstance(choice, str | Mapping) and not callable(choice):
        return part_words(type(choice))

    table = as_table("part", choice)
    name = part_words(table.pop("name") or "")
    plain = {key: value for key, value in table.items() if isinstance(value, str | int | float)}
    return name if not plain else f"{name} {dict(sorted(plain.items()))}"


def merge(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Lay `overrides` over `base`, table by table.

    A table that names another part (a different `name`) replaces the old table whole, since the
    settings of one part mean nothing to another.
    """
    merged = dict(base)
    for key, value in overrides.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            same_part = "name" not in value or value["name"] == old.get("name")
            merged[key] = merge(old, value) if same_part else dict(value)
        else:
            merged[key] = value

    return merged


def _folder(kind: str) -> Traversable:
    """`envs/` or `agents/`: inside an installed wheel, else at the top of the source tree."""
    pick("catalogue", kind, KINDS)
    source = Path(__file__).resolve().parents[1] / kind
    shipped = files("dsenv") / "_catalogue" / kind
    return shipped if shipped.is_dir() else source


def names(kind: str) -> list[str]:
    """Names of a catalogue's definitions, sorted: the stems of its TOML files.

    Use::

        import dsenv

        print(dsenv.names("envs"), dsenv.names("agents"))

    Args:
        kind: "envs" or "agents".
    """
    stems = (
        entry.name.removesuffix(".toml") for entry in _folder(kind).iterdir() if entry.name.endswith(".toml")
    )
    return sorted(stems)


def definition(kind: str, name_or_path: str) -> Definition:
    """Read one definition.

    Args:
        kind: "envs" or "agents".
        name_or_path: a catalogue name (an environment's id works too), or the path of a TOML file.

    Raises:
        ValueError: the name is unknown, or the file is not a definition.
        FileNotFoundError: a path was given, and no file is there.
    """
    if name_or_path.endswith(".toml"):
        path: Traversable = Path(name_or_path).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"no definition at {name_or_path!r} (looked in {Path.cwd()})")
        name = Path(name_or_path).stem
    else:
        name = pick(kind.removesuffix("s"), name_or_path.removeprefix(f"{NAMESPACE}/"), names(kind))
        path = _folder(kind) / f"{name}.toml"

    return _parse(kind, name, path.read_text(encoding="utf-8"))


def summary(kind: str, name: str) -> str:
    """The first comment line of a catalogue's definition."""
    text = (_folder(kind) / f"{name}.toml").read_text(encoding="utf-8")
    return text.partition("\n")[0].lstrip("# ").strip()


def _parse(kind: str, name: str, text: str) -> Definition:
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{kind}/{name}.toml is not valid TOML: {error}") from error

    for key in content:
        pick(f"key of {kind}/{name}.toml", key, ("entry_point", "kwargs"))
    if not isinstance(content.get("entry_point"), str):
        raise ValueError(f"{kind}/{name}.toml has no entry_point; write entry_point = 'module:attribute'")
    return Definition(kind, name, content["entry_point"], content.get("kwargs", {}))


def load(kind: str, name_or_path: str, **overrides: Any) -> Any:
    """Build an environment or agent from its definition.

    Use::

        import dsenv

        env = dsenv.load("envs", "Tiny-Curriculum-v0", context={"label_noise": 0.4})
        observation, info = env.reset(seed=0)
        agent = dsenv.load("agents", "ppo", hyperparameters={"gamma": 0.99})

    Args:
        kind: "envs" or "agents".
        name_or_path: a catalogue name, an environment id, or the path of a TOML file.
        overrides: settings that replace those of the definition; tables are merged.

    Returns:
        What the definition's entry point returns: a `TrainingEnv`, or an agent.
    """
    return definition(kind, name_or_path).with_overrides(overrides).build()


def make_env(definition_name: str, **overrides: Any) -> Any:
    """Entry point of every registered id: one environment."""
    return load("envs", definition_name, **overrides)


def load_vector(name_or_path: str, num_envs: int = 1, **overrides: Any) -> Any:
    """Build `num_envs` copies of an environment, stacked into one; see `load`."""
    return definition("envs", name_or_path).with_overrides(overrides).build_vector(num_envs)


def make_vector(definition_name: str, num_envs: int = 1, **overrides: Any) -> Any:
    """Vector entry point of every registered id: `num_envs` environments stacked into one."""
    return load_vector(definition_name, num_envs, **overrides)


def register_envs() -> None:
    """Register every definition in `envs/` with Gymnasium; no TOML is read and nothing is imported."""
    for name in names("envs"):
        gymnasium.register(
            id=f"{NAMESPACE}/{name}",
            entry_point="dsenv.catalogue:make_env",
            vector_entry_point="dsenv.catalogue:make_vector",
            kwargs={"definition_name": name},
        )
