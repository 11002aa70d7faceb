"""The versions that are pinned are among those that setup.cfg allows, and all are pinned."""

import configparser
import itertools
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
# Not installed by README's commands, for they are other people's layers to compare with.
NOT_PINNED = {"bench"}
# Of those that others bring along, and of the linters, any version would do.
BROUGHT_ALONG = {"cloudpickle"}


def read_setup() -> dict[str, dict[str, Requirement]]:
    """Return the requirements by section ("" for what is always installed) and by name."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    lists = {"": parser["options"]["install_requires"], **parser["options.extras_require"]}
    sections = {}
    for section, text in lists.items():
        requirements = [Requirement(line) for line in text.split("\n") if line.strip()]
        sections[section] = {canonicalize_name(r.name): r for r in requirements}
    return sections


def read_pins() -> dict[str, Requirement]:
    """Return the pinned packages, of the files that requirements.txt includes too."""
    lines, files = [], [ROOT / "requirements-dev.txt"]
    while files:
        file = files.pop()
        for line in file.read_text().splitlines():
            line = line.partition("#")[0].strip()
            if line.startswith("-r"):
                files.append(file.parent / line[2:].strip())
            elif line and not line.startswith("-"):
                lines.append(line)
    return {canonicalize_name(r.name): r for r in map(Requirement, lines)}


SETUP, PINS = read_setup(), read_pins()
WANTED = {
    (section, name): requirement
    for section, requirements in SETUP.items()
    if section not in NOT_PINNED
    for name, requirement in requirements.items()
    if name not in BROUGHT_ALONG
}


@pytest.mark.parametrize("name", PINS)
def test_pin_names_one_version(name: str) -> None:
    (specifier,) = PINS[name].specifier
    assert specifier.operator == "=="
    assert not specifier.version.endswith("*")
    Version(specifier.version)


@pytest.mark.parametrize(("section", "name"), WANTED)
def test_what_setup_allows_is_pinned_within_its_range(section: str, name: str) -> None:
    pin, requirement = PINS[name], WANTED[section, name]
    (specifier,) = pin.specifier
    assert requirement.specifier.contains(specifier.version)
    assert requirement.extras <= pin.extras


def test_what_is_imported_always_has_a_lower_bound() -> None:
    sections = (SETUP[name].values() for name in ("", "rl", "qiskit"))
    for requirement in itertools.chain.from_iterable(sections):
        assert ">=" in {specifier.operator for specifier in requirement.specifier}, requirement
