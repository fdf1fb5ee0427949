"""Writes what is known of the packages that this one stands on, from the environment it runs in.

``python -m tests.supply_chain`` writes three files, and ``--check`` tells whether they are stale:

* ``constraints/locked.txt``: every package of the tested environment at the version it has;
* ``constraints/lowest.txt``: the lower bounds of ``setup.cfg``;
* ``docs/licences.md``: the licence of each, by the metadata of its distribution.

``make test-locked`` and ``make test-lowest`` make environments with them and run the tests there;
``make test-newest`` makes one without. ``make audit`` looks the locked versions up among known
vulnerabilities.
"""

from __future__ import annotations

import argparse
import configparser
import re
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
LOCKED, LOWEST = ROOT / "constraints/locked.txt", ROOT / "constraints/lowest.txt"
LICENCES = ROOT / "docs/licences.md"
EXTRAS = ("test", "plots", "arviz", "formats")
"""What the tested environment is installed with."""


def requirements() -> dict[str, list[Requirement]]:
    """What setup.cfg asks for; the binding ones under ``""``, the others by extra."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    texts = {"": config["options"]["install_requires"], **config["options.extras_require"]}
    return {
        extra: [Requirement(line) for line in text.split("\n") if line and not line.startswith("#")]
        for extra, text in texts.items()
    }


def closure(roots: list[Requirement]) -> dict[str, metadata.Distribution]:
    """All installed distributions that these need, themselves included, by canonical name."""
    found: dict[str, metadata.Distribution] = {}
    seen: set[tuple[str, tuple[str, ...]]] = set()
    queue = list(roots)
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        key = (name, tuple(sorted(requirement.extras)))
        if key in seen:
            continue
        seen.add(key)
        found[name] = distribution = metadata.distribution(requirement.name)
        for text in distribution.requires or []:
            needed = Requirement(text)
            extras = ("", *requirement.extras)
            if needed.marker is None or any(
                needed.marker.evaluate({"extra": extra}) for extra in extras
            ):
                queue.append(needed)
    return dict(sorted(found.items()))


def tested() -> list[Requirement]:
    """Requirements of the tested environment."""
    wanted = requirements()
    return [each for extra in ("", *EXTRAS) for each in wanted[extra]]


def locked() -> str:
    """Text of the constraints that give the tested environment again."""
    python = ".".join(map(str, sys.version_info[:2]))
    lines = [f"# the tested environment, Python {python}; written by python -m tests.supply_chain"]
    lines += [f"{name}=={each.version}" for name, each in closure(tested()).items()]
    return "\n".join(lines) + "\n"


def lowest() -> str:
    """Text of the constraints to the lower bounds."""
    bounds: dict[str, str] = {}
    for requirement in tested():
        name = canonicalize_name(requirement.name)
        for bound in requirement.specifier:
            if bound.operator == ">=" and bounds.get(name, bound.version) == bound.version:
                bounds[name] = bound.version
            elif bound.operator == ">=":
                raise ValueError(f"two lower bounds of {name}: {bounds[name]}, {bound.version}")
    lines = ["# the lower bounds of setup.cfg; written by python -m tests.supply_chain"]
    return "\n".join(lines + [f"{name}=={bounds[name]}" for name in sorted(bounds)]) + "\n"


def licence(distribution: metadata.Distribution) -> str:
    """Licence by SPDX expression, by classifier or by the first line of a text that says it."""
    fields = distribution.metadata
    if fields.get("License-Expression"):
        return str(fields["License-Expression"])
    classifiers = [
        text.rpartition(" :: ")[2]
        for text in fields.get_all("Classifier", [])
        if text.startswith("License :: ") and not text.endswith("OSI Approved")
    ]
    free = str(fields.get("License") or "").strip().split("\n")[0][:60]
    files = [path for path in distribution.files or [] if path.name.upper().startswith("LICEN")]
    lines = [line for path in files[:1] for line in path.read_text().split("\n")]
    first = next((line for line in lines if "license" in line.lower()), "")
    return "; ".join(classifiers) or free or first.strip()[:60] or "not stated"


def licences() -> str:
    """Text of the page."""
    binding = closure(requirements()[""])
    lines = [
        "# Licences of what this stands on",
        "",
        "npe_tf is under Apache-2.0. It ships no code of others; these are the packages of the",
        "tested environment, with the licence that each states.",
        "`python -m tests.supply_chain` writes this page.",
        "",
        "| package | version | licence | needed |",
        "|---|---|---|---|",
    ]
    for name, each in closure(tested()).items():
        needed = "always" if name in binding else "tests and extras"
        text = re.sub(r"\s+", " ", licence(each)).replace("|", "/")
        lines.append(f"| {name} | {each.version} | {text} | {needed} |")
    return "\n".join(lines) + "\n"


def texts() -> dict[Path, str]:
    """The files and what should be in them."""
    return {LOCKED: locked(), LOWEST: lowest(), LICENCES: licences()}


def main() -> None:
    """Write or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    wanted = texts()
    stale = [path for path in wanted if not path.exists() or path.read_text() != wanted[path]]
    if check:
        sys.exit(f"stale: {', '.join(map(str, stale))}" if stale else 0)
    for path, text in wanted.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
