"""The versions that CI tests as the lowest are those that pyproject.toml promises."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]


def only_version(requirement: Requirement, operator: str) -> Version:
    """The version of a requirement that has this operator and no other."""
    (specifier,) = requirement.specifier
    assert specifier.operator == operator, requirement
    return Version(specifier.version)


def promised() -> dict[str, Version]:
    """The floor of every package that `pip install -e ".[test]"` asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [Requirement(line) for line in project["dependencies"] + extras["test"] + extras["contrib"]]

    others = [line for line in lines if line.name != project["name"]]
    return {canonicalize_name(line.name): only_version(line, ">=") for line in others}


def pinned() -> dict[str, Version]:
    """The versions in the constraints file of CI."""
    lines = (ROOT / ".github/lowest.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): only_version(pin, "==") for pin in pins}


def test_ci_tests_the_lowest_versions_that_are_promised() -> None:
    assert pinned() == promised()
