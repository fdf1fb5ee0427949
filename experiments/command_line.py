"""What the programs say of themselves, and the flag files that come with them."""

from __future__ import annotations

import os
import re
import shlex
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from absl import flags

FLAGS = flags.FLAGS

FLAGFILES = Path(__file__).with_name("flagfiles")

_typed: str | None = None

_WIDTH = 96
_COLUMN = 26

# What other programs call something that a flag here says otherwise.
_OTHER_WORDS = {
    "redshift": "the epoch is --scale_factor, which is 1 / (1 + redshift)",
    "z": "the epoch is --scale_factor, which is 1 / (1 + redshift)",
    "units": "units are --length_unit and --mass_unit",
    "num_cells": "cells along each side are --grid",
    "resume": "a run goes on if the same command is given again",
    "overwrite": "another --output starts a new run; delete the old folder yourself",
}

# Titles and flags of the help; others follow under the last title.
GROUPS: dict[str, tuple[str, ...]] = {
    "Catalogue": (
        "catalogue", "format", "columns", "length_unit", "mass_unit", "box_size", "origin",
        "keep_subhaloes", "use_header", "mass_threshold",
    ),
    "Mesh and gravity": (
        "grid", "scale_factor", "gravity", "pm_steps", "pm_force_factor", "supersampling",
        "mass_assignment", "padding", "redshift_space", "light_cone", "dtype",
    ),
    "Survey": ("observer", "angular_mask", "radial_selection", "completeness"),
    "Bias model": (
        "bias", "kernel_size", "num_components", "softening", "parameterisation",
        "component_family", "counts",
    ),
    "Cosmology, where the catalogue's header does not state it": (
        "Omega_m", "Omega_b", "h", "sigma8", "n_s", "w0", "wa", "Omega_k", "T_cmb",
    ),
}  # fmt: skip


# What Python says of a text that is no number.
_PYTHONS_WORDS = {
    r"invalid literal for int\(\) with base \d+: .*": "expected an integer",
    r"could not convert string to float: .*": "expected a number",
}


def with_flagfiles(argv: Sequence[str]) -> list[str]:
    """Find flag files that come with the package, such as ``--flagfile=demo.flags``.

    Args:
        argv: the command line.

    Returns:
        The same with full paths; a file of that name in the working folder comes first.
    """
    found = list(argv)
    for place, argument in enumerate(argv):
        if argument == "--":
            break
        name, equals, value = argument.partition("=")
        if name not in ("--flagfile", "-flagfile"):
            continue
        if not equals and place + 1 < len(argv):
            found[place + 1] = _flagfile(argv[place + 1])
        elif equals:
            found[place] = f"{name}={_flagfile(value)}"
    return found


def _flagfile(name: str) -> str:
    shipped = FLAGFILES / name
    here = os.path.exists(os.path.expanduser(name))
    return (
        str(shipped) if os.path.basename(name) == name and not here and shipped.is_file() else name
    )


def parse(argv: Sequence[str]) -> list[str]:
    """Parse the command line; a mistake in it is one clear line and exit status 2.

    Args:
        argv: the command line.

    Returns:
        The program's name. Everything else must be a flag.
    """
    try:
        rest: list[str] = FLAGS(argv)
    except flags.Error as error:
        message = _flag_error(error)
    else:
        if len(rest) == 1:
            return rest
        given = " ".join(rest[1:])
        here = "catalogue" in FLAGS and os.path.exists(rest[1])
        better = f"--catalogue={rest[1]}" if here else "--name=value"
        message = f"Expected flags only, such as {better}. Received: {given}"
    print(
        f"error: {message} ({program_name()} --help tells all flags)", file=sys.stderr, flush=True
    )
    raise SystemExit(2)


def _flag_error(error: flags.Error) -> str:
    """What absl complains of, in our words where they are clearer."""
    if isinstance(error, flags.UnrecognizedFlagError):
        other = _OTHER_WORDS.get(error.flagname)
        if other is not None:
            return f"There is no flag --{error.flagname}: {other}"
    for name in FLAGS:
        if f"flag --{name}=None" in str(error):
            return f"The flag --{name} is needed: {FLAGS[name].help}"
    message = str(error).removeprefix("ERROR:: ")
    for python, ours in _PYTHONS_WORDS.items():
        message = re.sub(python, ours, message)
    return message


def wants_help(argv: Sequence[str]) -> bool:
    """Whether the command line asks for help; ``-h 0.7`` is the Hubble constant."""
    before = argv[1 : argv.index("--")] if "--" in argv else argv[1:]
    asked = {"--help", "-help", "-?", "--helpshort", "-helpshort"} & set(before)
    return bool(asked) or list(before[-1:]) == ["-h"]


def help_text(module: Any, program: str) -> str:
    """What a program does, how to call it, and its flags by subject.

    Args:
        module: the program's module; its docstring is the first part.
        program: how it is called.

    Returns:
        Lines of at most 100 characters.
    """
    by_module = FLAGS.flags_by_module_dict()
    own = by_module.get(sys.argv[0] if module.__name__ == "__main__" else module.__name__, [])
    shared = [
        flag
        for name, theirs in by_module.items()
        if name.startswith("experiments.") and name != module.__name__
        for flag in theirs
    ]
    known = {flag.name: flag for flag in (*own, *shared)}
    parts = [(module.__doc__ or "").strip(), _section(f"Flags of {program}", own)]
    grouped = {flag.name for flag in own}
    for title, names in GROUPS.items():
        found = [known[name] for name in names if name in known and name not in grouped]
        parts.append(_section(title, found))
        grouped.update(names)
    parts.append(_section("Other", [flag for flag in shared if flag.name not in grouped]))
    presets = ", ".join(sorted(path.name for path in FLAGFILES.glob("*.flags")))
    parts.append(
        f"--flagfile=FILE reads flags from a file, one a line; {presets} come with the package "
        f"(in {FLAGFILES}).\n--verbosity=-1 prints errors only. --helpfull lists the "
        "flags of the libraries too."
    )
    return "\n\n".join(part for part in parts if part)


def _section(title: str, found: Iterable[Any]) -> str:
    lines = [line for flag in found for line in _flag_lines(flag)]
    return "\n".join([f"{title}:", *lines]) if lines else ""


def _flag_lines(flag: Any) -> list[str]:
    values = getattr(flag.parser, "enum_values", None)
    default = flag.default_as_str
    default = default.strip("'") if default else None
    if flag.boolean:
        name = f"--[no]{flag.name}"
    else:
        name = f"--{flag.name}={'|'.join(values) if values else '...'}"
    # absl puts the values of an enumeration before the help
    said = flag.help.strip().removeprefix(f"<{'|'.join(values or ())}>: ")
    if isinstance(flag.default, float):
        default = f"{flag.default:g}"
    elif isinstance(flag.default, list):
        default = ", ".join(flag.default)
    if default is not None and default != "":
        said += f" [{default}]"
    elif FLAGS[flag.name].using_default_value and _is_required(flag):
        said += " [required]"
    lines = textwrap.wrap(said, _WIDTH - _COLUMN, break_long_words=False)
    if len(name) > _WIDTH - 2:
        # broken between its values
        *others, name = textwrap.wrap(
            name.replace("|", "| "), _WIDTH - 2, subsequent_indent="    ", break_long_words=False
        )
        before = [f"  {part.replace('| ', '|')}" for part in others]
        told = [" " * _COLUMN + line for line in lines]
        return [*before, f"  {name.replace('| ', '|')}", *told]
    first = f"  {name}".ljust(_COLUMN)
    if not first.endswith("  ") or not lines:
        return [f"  {name}", *(" " * _COLUMN + line for line in lines)]
    return [first + lines[0], *(" " * _COLUMN + line for line in lines[1:])]


def _is_required(flag: Any) -> bool:
    # absl keeps no list of them: a validator refuses the value None
    for validator in flag.validators:
        try:
            validator.verify(FLAGS)
        except flags.ValidationError:
            return True
    return False


def program_name(module: Any = None) -> str:
    """How the program was called."""
    name = Path(sys.argv[0]).name
    return f"python -m experiments.{Path(name).stem}" if name.endswith(".py") else name


def prepare(module: Any) -> None:
    """Answer a call for help, and find the flag files of the command line.

    Args:
        module: the program's module.
    """
    if wants_help(sys.argv):
        print(help_text(module, program_name(module)))
        raise SystemExit(0)
    global _typed
    _typed = " ".join([program_name(module), shlex.join(sys.argv[1:])]).strip()
    sys.argv[:] = with_flagfiles(sys.argv)


def typed() -> str | None:
    """The command line as the user typed it; `None` outside of a program."""
    return _typed
