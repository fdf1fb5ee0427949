"""Sections of the report on how a run came to be: commands, versions, cost, and how to cite."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from npe_tf.report.markup import number, pairs, table, text, time

__all__ = ["citation", "cost", "repeat", "versions"]

Numbers = Mapping[str, Any]

_ARGUMENT = re.compile(r"((?:'[^']*'|[^\s'])+)")


def repeat(numbers: Numbers) -> str:
    """The commands and settings of the run."""
    history = numbers["history"]
    commands = list(dict.fromkeys(start["command"] for start in history if start["command"]))
    parts = []
    if commands:
        these = "these commands, one after another" if len(commands) > 1 else "this command"
        parts.append(
            f"<p>It was started by {these}; relative paths are as seen from where it was typed:</p>"
        )
        parts += [f"<pre>{_arguments(command)}</pre>" for command in commands]
    else:
        parts.append(
            "<p>No command was recorded: the run was started from Python or by an earlier "
            "version. The settings below are what it was made with.</p>"
        )
    if len(history) > 1:
        rows = [
            (time(start["time"]), f"{start['sweeps']:,}", text(start["command"] or "from Python"))
            for start in history
        ]
        shown = table(
            "starts", "Starts of the run", ("time", "sweeps", "command"), rows, texts=(2,)
        )
        parts.append(f"<details><summary>All {len(history)} starts</summary>{shown}</details>")
    settings = [(text(name), text(value)) for name, value in numbers["settings"].items()]
    shown = table(
        "settings",
        "Settings, as the chain file has them",
        ("setting", "value"),
        settings,
        texts=(1,),
    )
    parts.append(f"<details><summary>All settings</summary>{shown}</details>")
    return "".join(parts)


def _arguments(command: str) -> str:
    """A command that is broken between its arguments, rather than at their hyphens."""
    pieces = [text(piece) for piece in _ARGUMENT.split(command)]
    pieces[1::2] = [f'<span class="argument">{piece}</span>' for piece in pieces[1::2]]
    return "".join(pieces)


def versions(numbers: Numbers) -> str:
    """What the run and the report were made with."""
    now = numbers["versions"]
    history = numbers["history"]
    then: Mapping[str, str] = history[-1]["versions"] if history else {}
    rows = [
        (text(name), text(then.get(name, "–")), text(now.get(name, "–")))
        for name in dict.fromkeys([*now, *then])
    ]
    caption = "Versions when the run was last started, and of what wrote this report"
    return table("versions", caption, ("package", "run", "report"), rows)


def cost(numbers: Numbers) -> str:
    """Time and energy."""
    spent = numbers["cost"]
    if spent is None:
        return "<p>The run did not measure what it cost.</p>"
    energy = f"{number(spent['kilowatt_hours'], '.3g')} kWh"
    told = (
        "measured by the processors' counters"
        if spent["energy_is_measured"]
        else f"estimated at {number(spent['watts_per_core'], 'g')} W for each busy core"
    )
    items = [
        ("Processor time", f"{number(spent['core_hours'], '.3g')} core-hours"),
        ("Wall time", _duration(spent["wall_hours"])),
        ("Energy", f"{energy}, {told}"),
    ]
    return (
        pairs(items)
        + "<p>Of the whole run, warm-up and restarts included. Memory, cooling and graphics cards "
        "are left out.</p>"
    )


def _duration(hours: float | None) -> str:
    if hours is not None and hours < 1.0:
        return f"{number(60.0 * hours, '.3g')} minutes"
    return f"{number(hours, '.3g')} hours"


def citation(numbers: Numbers) -> str:
    """References, and the same for BibTeX."""
    cited = numbers["citation"]
    items = "".join(f"<li>{text(reference)}</li>" for reference in cited["references"])
    return (
        "<p>Please cite the software and the paper whose method it implements.</p>"
        f"<ul>{items}</ul><pre>{text(cited['bibtex'].strip())}</pre>"
    )
