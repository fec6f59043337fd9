"""The catalogues `envs/` and `agents/`: one TOML file, one registered environment or agent.

A definition names an entry point, `module:attribute`, and the keyword arguments to call it with:

    entry_point = "dsenv.env:TrainingEnv"

    [kwargs]
    control = "curriculum"

Defaults stand only in the Python signature; a definition holds what differs from them.

An entry point is imported, checked to be of the kind asked for (`dsenv.kinds`), and only then called.
"""

import copy
import importlib
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import gymnasium

from dsenv.errors import check_count, check_keywords, missing_keywords, parameters_of, pick, shown
from dsenv.kinds import AgentLike, call_part, check_built, check_class, check_kind
from dsenv.toml_files import read_definition

NAMESPACE = "dsenv"

Choice = str | Mapping[str, Any] | Callable[..., Any]
"""How a part is chosen: a name, a table of its name and settings, a class, a factory, or the part itself."""


KINDS: dict[str, type] = {"envs": gymnasium.Env, "agents": AgentLike}
"""The catalogues, and what a definition in each builds."""


@dataclass(frozen=True)
class Definition:
    """One entry of a catalogue, as read from its TOML file."""

    kind: str
    name: str
    entry_point: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def resolve(self) -> Any:
        """Import and return what the entry point names; nothing is called.

        Raises:
            ValueError: it cannot be imported, or builds no environment (or agent).
        """
        expected = KINDS[pick("catalogue", self.kind, KINDS)]
        return import_kind(self.kind.removesuffix("s"), self.entry_point, expected)

    def with_overrides(self, overrides: Mapping[str, Any]) -> "Definition":
        """The same definition with some settings replaced; tables are merged key by key."""
        return Definition(self.kind, self.name, self.entry_point, merge(self.kwargs, overrides))

    def build(self, **further: Any) -> Any:
        """Call the entry point with the settings, and `further` ones.

        Raises:
            ValueError: a setting is unknown (the message names the nearest one), or the entry point builds
                something else.
        """
        built = self._call(self.resolve(), further)
        check_built(self.kind.removesuffix("s"), self.entry_point, built, KINDS[self.kind])
        return built

    def build_vector(self, num_envs: int, **further: Any) -> Any:
        """Build `num_envs` copies of an environment, stacked into one.

        Raises:
            ValueError: a setting is unknown, or the entry point is no class with a vector form.
        """
        count = check_count("num_envs", num_envs)
        return self._call(self.vector_class(), {"num_envs": count, **further})

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


def import_entry_point(entry_point: str, where: str = "") -> Any:
    """Import `module:attribute`; the module's code runs, the attribute is not called.

    Raises:
        ValueError: the form is wrong, the module cannot be imported or has no such attribute.
    """
    module_name, _, attribute = entry_point.partition(":") if isinstance(entry_point, str) else ("", "", "")
    if not all(part.isidentifier() for part in (*module_name.split("."), attribute)):
        raise ValueError(f"{where}an entry point has the form 'module:attribute', got {shown(entry_point)}")

    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(f"entry point {entry_point!r}: {error}; is its folder on PYTHONPATH?") from error
    except Exception as error:
        raise ValueError(
            f"entry point {entry_point!r}: importing {module_name} raised {type(error).__name__}: {error}"
        ) from error

    if not hasattr(module, attribute):
        public = [name for name in vars(module) if not name.startswith("_")]
        pick(f"attribute of {module_name}", attribute, public)
    return getattr(module, attribute)


def import_kind(kind: str, entry_point: str, expected: type) -> Any:
    """Import what `entry_point` names, checked to build an `expected` and not called; errors as there."""
    found = import_entry_point(entry_point, f"{kind}: ")
    check_kind(kind, entry_point, found, expected)
    return found


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
        f"{kind} must be a name, a table with a name, a class, a factory or the part itself, got "
        f"{shown(choice)}"
    )


def part_source(
    kind: str, known: Mapping[str, Any], name: Any, expected: type = object
) -> Callable[..., Any]:
    """The class or function behind the name of a part, checked and not called; errors as for `build_part`."""
    if inspect.isclass(name):
        check_class(kind, part_words(name), name, expected)
    if not callable(name) and not isinstance(name, str):
        raise ValueError(f"{kind} needs a name: one of {', '.join(known)}, or 'module:attribute'")

    if not isinstance(name, str):
        found = name
    elif ":" in name:
        found = import_kind(kind, name, expected)
    else:
        found = known[pick(kind, name, known)]
    source: Callable[..., Any] = import_entry_point(found) if isinstance(found, str) else found
    return source


def part_type(kind: str, known: Mapping[str, Any], choice: Any, expected: type = object) -> Any:
    """What is known of a part before it is built: its class or factory, which bears its declared facts."""
    if not isinstance(choice, str | Mapping) and not callable(choice):
        return type(choice)
    return part_source(kind, known, as_table(kind, choice)["name"], expected)


def check_part(
    kind: str,
    known: Mapping[str, Any],
    choice: Choice,
    given: Mapping[str, Any] | None = None,
    expected: type = object,
) -> None:
    """Check the name and the names of the settings of a part that is built later; see `build_part`."""
    table = as_table(kind, choice)
    name = table.pop("name")
    _filled(kind, part_words(name), part_source(kind, known, name, expected), table, given or {})


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
    source, words = part_source(kind, known, name, expected), part_words(name)
    settings = _filled(kind, words, source, table, given or {})

    part = call_part(kind, words, source, settings)
    if not isinstance(part, expected):
        check_built(kind, words, part, expected)
    return part


def _filled(
    kind: str, words: str, source: Callable[..., Any], own: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """A part's own settings, and those of `given` that it takes.

    Raises:
        ValueError: a setting is missing or unknown.
    """
    takes = parameters_of(f"{kind} {words!r}", source)
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
    if not callable(name):
        return shown(name)
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
    settings of one part mean nothing to another. A part that stands as its name alone takes settings too.
    """
    merged = dict(base)
    for key, value in overrides.items():
        old = merged.get(key)
        if isinstance(old, str) and isinstance(value, Mapping) and "name" not in value:
            old = {"name": old}
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            same_part = (
                "name" not in value
                or value["name"] is old.get("name")
                or (isinstance(value["name"], str) and value["name"] == old.get("name"))
            )
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


def definition(kind: str, name_or_path: str | os.PathLike[str]) -> Definition:
    """Read one definition; nothing that it names is imported.

    Args:
        kind: "envs" or "agents".
        name_or_path: a catalogue name (an environment's id works too), or the path of a TOML file.

    Raises:
        ValueError: the name is unknown, or the file is not a definition.
        FileNotFoundError: a path was given, and no file is there.
    """
    pick("catalogue", kind, KINDS)
    if not isinstance(name_or_path, str | os.PathLike):
        raise ValueError(f"expected a name or the path of a TOML file, got {shown(name_or_path)}")

    given = os.fspath(name_or_path)
    if not given.endswith(".toml"):
        name = pick(kind.removesuffix("s"), given.removeprefix(f"{NAMESPACE}/"), names(kind))
        return Definition(kind, name, *read_definition(_folder(kind) / f"{name}.toml"))

    path = Path(os.path.expanduser(given))
    if not path.exists():
        raise FileNotFoundError(f"no definition at {given!r} (looked in {Path.cwd()})")
    return Definition(kind, path.stem, *read_definition(path))


def summary(kind: str, name: str) -> str:
    """The first comment line of a catalogue's definition."""
    text = (_folder(kind) / f"{name}.toml").read_text(encoding="utf-8")
    return text.partition("\n")[0].lstrip("# ").strip()


def load(kind: str, name_or_path: str | os.PathLike[str], **overrides: Any) -> Any:
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


def make_env(definition_name: str, **overrides: Any) -> gymnasium.Env[Any, Any]:
    """Entry point of every registered id: one environment."""
    env: gymnasium.Env[Any, Any] = load("envs", definition_name, **overrides)
    return env


def load_vector(name_or_path: str | os.PathLike[str], num_envs: int = 1, **overrides: Any) -> Any:
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
