"""The page of a report, from its numbers.

Standard library only. One file without scripts, in which style and figures are inline, so that it
can be sent by mail and read anywhere. What comes from files and flags is untrusted: all text goes
through `_text`, and a content security policy forbids scripts and requests besides.
"""

from __future__ import annotations

import base64
import html
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from npe_tf.report_style import STYLE_SHEET

__all__ = ["number", "report_page"]

Numbers = Mapping[str, Any]

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'none'"
_TONES = {"CONVERGED": "good", "NOT CONVERGED": "poor", "TOO SHORT": "fair"}
_GREEK = {r"\alpha": "α", r"\mu": "μ", r"\sigma": "σ"}
_SYMBOL = re.compile(r"([wb])\^\{(\\alpha|\\mu|\\sigma)\}_(\d+)")
_WIDE = 1.3  # shape from which on a figure is scrolled on a phone rather than shrunk
_FAR = 3.0  # standard deviations
_H = "<i>h</i>"
_MPC, _MSUN = f"Mpc/{_H}", f"<i>M</i><sub>sun</sub>/{_H}"
_WAVENUMBER = f"<i>k</i> [{_H}/Mpc]"
_POWER_UNIT = f"[(Mpc/{_H})<sup>3</sup>]"


def report_page(numbers: Numbers, pictures: Mapping[str, bytes], can_draw: bool = True) -> str:
    """Make the page.

    Args:
        numbers: of `npe_tf.report.report_numbers`.
        pictures: PNG files of the figures by name; those that are missing are left out.
        can_draw: whether matplotlib is installed; without figures the page says what to do.

    Returns:
        HTML.
    """
    parts = [
        ("verdict", "Verdict", _verdict(numbers)),
        ("data", "Data", _data(numbers["data"])),
        ("parameters", "Parameters", _parameters(numbers)),
        ("fields", "Initial field", _fields(numbers)),
        ("figures", "Figures", _figures(numbers["figures"], pictures, can_draw)),
        ("warnings", "Warnings", _warnings(numbers["warnings"])),
        ("repeat", "How to repeat this run", _repeat(numbers)),
        ("versions", "Versions", _versions(numbers)),
        ("cost", "Cost", _cost(numbers["cost"])),
        ("cite", "How to cite", _citation(numbers["citation"])),
    ]
    links = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, title, _ in parts)
    sections = "\n".join(
        f'<section aria-labelledby="{name}"><h2 id="{name}">{title}</h2>\n{body}\n</section>'
        for name, title, body in parts
    )
    run, data = numbers["run"], numbers["data"]
    name = _text(run["folder"])
    state = _text(numbers["verdict"]["state"])
    facts = (
        f"{run['chains']} chains, {run['sweeps_of_warmup']:,} sweeps of warm-up and "
        f"{run['sweeps_of_sampling']:,} of sampling, {data['cells_per_side']}<sup>3</sup> cells of "
        f"{number(data['cell_size_mpc_h'], '.3g')} {_MPC}"
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="npe_tf">
<link rel="icon" href="data:,">
<title>{name}: {state.lower()} - npe_tf report</title>
<style>{STYLE_SHEET}</style>
</head>
<body>
<header>
<p class="eyebrow">Report of a run of npe_tf</p>
<h1>{name}</h1>
<p class="facts">{facts}</p>
<nav aria-label="Contents"><ul>{links}</ul></nav>
</header>
<main>
{sections}
</main>
<footer>
<p>Written {_text(numbers["created"])}. The same numbers, with all digits, are in
<a href="report.json">report.json</a>.</p>
</footer>
</body>
</html>
"""


def number(value: Any, form: str) -> str:
    """A number for the page, as HTML.

    Args:
        value: the number; ``None`` if it is not known.
        form: as in `format`; of ``g`` the exponent is set as a power of ten.

    Returns:
        It, with a true minus sign; a dash if it is not known.
    """
    if value is None:
        return "–"
    written = format(value, form)
    mantissa, exponent, power = written.partition("e")
    if exponent:
        written = f"{mantissa}&times;10<sup>{int(power)}</sup>"
    return written.replace("-", "−")


def _text(value: Any) -> str:
    """Any text, with nothing in it that HTML would act upon or show in a wrong order."""
    kept = "".join(c if c.isprintable() or c in "\n\t" else "�" for c in str(value))
    return html.escape(kept, quote=True)


def _paragraphs(sentences: Iterable[str]) -> str:
    return "".join(
        f"<p>{_text(sentence[:1].upper() + sentence[1:])}.</p>" for sentence in sentences
    )


def _table(
    caption: str, header: Sequence[str], rows: Iterable[Sequence[str]], texts: Sequence[int] = ()
) -> str:
    """A table that scrolls by itself.

    Args:
        caption: HTML.
        header: HTML of the columns' names.
        rows: HTML of the cells, the first of which names the row.
        texts: columns that are no numbers.
    """

    def cell(column: int, content: str) -> str:
        if column == 0:
            return f'<th scope="row">{content}</th>'
        return f'<td class="text">{content}</td>' if column in texts else f"<td>{content}</td>"

    head = "".join(
        f'<th scope="col"{" class=text" if i in texts else ""}>{name}</th>'
        for i, name in enumerate(header)
    )
    body = "\n".join(
        "<tr>" + "".join(cell(i, content) for i, content in enumerate(row)) + "</tr>"
        for row in rows
    )
    label = html.escape(re.sub("<[^>]*>", "", html.unescape(caption)), quote=True)
    return (
        f'<div class="scroll" role="region" aria-label="{label}" tabindex="0"><table>'
        f"<caption>{caption}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody>"
        "</table></div>"
    )


def _pairs(pairs: Iterable[tuple[str, str]]) -> str:
    """A list of names and values, both HTML."""
    items = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in pairs)
    return f'<dl class="pairs">{items}</dl>'


def _flagged(content: str, beyond: bool) -> str:
    return f'<span class="beyond">{content}</span>' if beyond else content


def _beyond_rhat(value: float | None, limits: Numbers) -> bool:
    return value is None or value > limits["max_rhat"]


def _beyond_ess(value: float | None, limits: Numbers) -> bool:
    return value is None or value < limits["min_ess"]


def _verdict(numbers: Numbers) -> str:
    verdict = numbers["verdict"]
    limits, rhat, ess = verdict["limits"], verdict["worst_rhat"], verdict["worst_ess"]
    measures = ""
    if rhat is not None and ess is not None:
        measures = (
            '<dl class="measures">'
            f"<div><dt>Worst R-hat (at most {limits['max_rhat']:g} wanted)</dt>"
            f'<dd class="value">{number(rhat["rhat"], ".3f")}</dd>'
            f'<dd class="of">{_name_of(numbers, rhat["name"])}</dd></div>'
            f"<div><dt>Fewest effective samples ({limits['min_ess']:g} wanted)</dt>"
            f'<dd class="value">{number(_fewer(ess["bulk"], ess["tail"]), ",.0f")}</dd>'
            f'<dd class="of">{_name_of(numbers, ess["name"])}</dd></div></dl>'
        )
    advice = "".join(f"<li>{_text(sentence)}</li>" for sentence in verdict["advice"])
    tone = _TONES.get(verdict["state"], "fair")
    panel = (
        f'<div class="verdict {tone}"><p class="state">{_text(verdict["state"])}</p>'
        f"{_paragraphs([verdict['reason']])}{measures}"
        f"<h3>What to do next</h3><ol>{advice}</ol></div>"
    )
    if not verdict["kinds"]:
        return panel
    rows = [
        (
            _text(kind["kind"]),
            f"{kind['quantities']}",
            _flagged(number(kind["rhat"], ".3f"), _beyond_rhat(kind["rhat"], limits)),
            _name_of(numbers, kind["rhat_of"]),
            _flagged(number(kind["ess_bulk"], ",.0f"), _beyond_ess(kind["ess_bulk"], limits)),
            _flagged(number(kind["ess_tail"], ",.0f"), _beyond_ess(kind["ess_tail"], limits)),
            _name_of(numbers, kind["ess_of"]),
        )
        for kind in verdict["kinds"]
    ]
    table = _table(
        "Worst of each kind of quantity that is watched; bold is beyond the limit",
        ("kind", "number", "R-hat", "of", "ESS bulk", "ESS tail", "of"),
        rows,
        texts=(3, 6),
    )
    moves = "" if numbers["moves"] is None else _paragraphs([numbers["moves"]])
    return panel + table + moves


def _fewer(bulk: float | None, tail: float | None) -> float | None:
    return None if bulk is None or tail is None else min(bulk, tail)


def _name_of(numbers: Numbers, name: str) -> str:
    """A quantity by its spoken name, if it is a parameter that has one."""
    for row in numbers["parameters"]:
        if row["name"] == name:
            return _parameter_name(row)
    return _text(name)


def _parameter_name(row: Numbers) -> str:
    symbol = _SYMBOL.fullmatch(row["symbol"] or "")
    label = _text(row["label"])
    if symbol is None:
        return label
    letter, greek, component = symbol.groups()
    return f"{label} <i>{letter}</i><sup>{_GREEK[greek]}</sup><sub>{component}</sub>"


def _data(data: Numbers) -> str:
    used, expected = data["haloes_used"], data["haloes_expected_mean"]
    dropped = [f"{data['haloes_below_threshold']:,} below the threshold"]
    if data["haloes_at_faces"]:
        dropped.append(f"{data['haloes_at_faces']:,} at the faces of the box")
    pairs = [
        ("Catalogue", "not recorded" if data["catalogue"] is None else _text(data["catalogue"])),
        ("Haloes used", f"{used:,} of {data['haloes_in_catalogue']:,}"),
        ("Haloes dropped", ", ".join(dropped)),
    ]
    if expected is not None:
        spread = number(data["haloes_expected_sd"], ",.0f")
        pairs.append(("Haloes expected", f"{number(expected, ',.0f')} ± {spread}"))
    pairs += [
        ("Mass threshold", f"{number(data['mass_threshold_msun_h'], '.4g')} {_MSUN}"),
        ("Largest mass", f"{number(data['largest_mass_msun_h'], '.4g')} {_MSUN}"),
        (
            "Number density",
            f"{number(data['number_density_h3_mpc3'], '.4g')} {_H}<sup>3</sup> Mpc<sup>−3</sup>",
        ),
        (
            "Box",
            f"{number(data['box_size_mpc_h'], '.6g')} {_MPC}, "
            + ("periodic" if data["periodic"] else "open: only the interior counts"),
        ),
        (
            "Mesh",
            f"{data['cells_per_side']}<sup>3</sup> cells of "
            f"{number(data['cell_size_mpc_h'], '.4g')} {_MPC}",
        ),
        (
            "Redshift",
            f"{number(abs(data['redshift']), '.4g')} "
            f"(scale factor {number(data['scale_factor'], '.5g')})",
        ),
        (
            "Cosmology",
            ", ".join(
                f"{_text(name)} = {number(value, '.5g')}"
                for name, value in data["cosmology"].items()
            ),
        ),
        ("Completeness", "a field was given" if data["has_completeness"] else "taken for one"),
        ("True field", "known" if data["has_truth"] else "not known"),
    ]
    if data["catalogue_sha256"] is not None:
        pairs.append(("SHA-256", f"<code>{_text(data['catalogue_sha256'])}</code>"))
    notes = "".join(f"<li>{_text(note)}</li>" for note in data["notes"])
    return _pairs(pairs) + (f"<h3>How the file was read</h3><ul>{notes}</ul>" if notes else "")


def _parameters(numbers: Numbers) -> str:
    rows, limits = numbers["parameters"], numbers["verdict"]["limits"]
    if not rows:
        return "<p>There are too few sweeps after the warm-up for a posterior.</p>"
    known = [row[q] for row in rows for q in ("q05", "q95") if row[q] is not None]
    low, high = min([*known, 0.0]), max([*known, 0.0])
    cells = [
        (
            _parameter_name(row),
            *(number(row[name], ".4g") for name in ("mean", "sd", "q05", "q50", "q95")),
            _bar(row, low, high),
            _flagged(number(row["rhat"], ".3f"), _beyond_rhat(row["rhat"], limits)),
            _flagged(number(row["ess_bulk"], ",.0f"), _beyond_ess(row["ess_bulk"], limits)),
            _flagged(number(row["ess_tail"], ",.0f"), _beyond_ess(row["ess_tail"], limits)),
        )
        for row in rows
    ]
    header = ("parameter", "mean", "sd", "5%", "50%", "95%", "5% to 95%", "R-hat", "ESS bulk",
              "ESS tail")  # fmt: skip
    caption = (
        "Posterior of the bias parameters, all chains together; bold is beyond the limit, the bars "
        "share one scale with a line at zero"
    )
    explained = ""
    if any(row["symbol"] for row in rows):
        explained = (
            "<p>The kernel weighs the log density of a voxel (centre) and of its neighbours across "
            "a face, an edge and a corner, and makes one number ψ of it. Amplitude, mean and width "
            "of each component of the halo mass function are functions of ψ with a weight "
            "<i>w</i> and a bias <i>b</i> (equations 12 to 15 of the paper).</p>"
        )
    return _paragraphs(numbers["modes"]) + _table(caption, header, cells) + explained


def _bar(row: Numbers, low: float, high: float) -> str:
    """The interval of a parameter on the scale of all."""
    if None in (row["q05"], row["q50"], row["q95"]) or not high > low:
        return "–"

    def place(value: float) -> str:
        return f"{4 + 136 * (value - low) / (high - low):.1f}"

    return (
        '<svg class="bar" viewBox="0 0 144 18" aria-hidden="true" focusable="false">'
        f'<line class="zero" x1="{place(0)}" x2="{place(0)}" y1="0" y2="18"/>'
        f'<line class="range" x1="{place(row["q05"])}" x2="{place(row["q95"])}" y1="9" y2="9"/>'
        f'<circle class="middle" cx="{place(row["q50"])}" cy="9" r="4"/></svg>'
    )


def _fields(numbers: Numbers) -> str:
    fields = numbers["fields"]
    if fields is None:
        return "<p>There are too few sweeps after the warm-up for a posterior.</p>"
    parts = ["<h3>Correlation with the true field</h3>"]
    if fields["correlation"] is None:
        parts.append("<p>The true field is not known, so that there is no r(k).</p>")
    else:
        parts.append(
            _table(
                "Correlation of the posterior mean of the linear field with the true one",
                (_WAVENUMBER, "<i>r</i>(<i>k</i>)"),
                [
                    (number(shell["k"], ".3f"), number(shell["r"], ".3f"))
                    for shell in fields["correlation"]
                ],
            )
        )
    parts.append("<h3>Power against the prior</h3>")
    header = [_WAVENUMBER, "modes", f"prior {_POWER_UNIT}", "16%", "50%", "84%", "50% / prior",
              "departure"]  # fmt: skip
    with_truth = any(shell["truth"] is not None for shell in fields["power"])
    if with_truth:
        header.append("truth")
    rows = []
    for shell in fields["power"]:
        ratio = None
        if shell["q50"] is not None and shell["prior"]:
            ratio = shell["q50"] / shell["prior"]
        cells = [
            number(shell["k"], ".3f"),
            f"{shell['modes']:,}",
            *(number(shell[name], ".4g") for name in ("prior", "q16", "q50", "q84")),
            number(ratio, ".3f"),
            _departure(shell["departure"]),
        ]
        rows.append([*cells, number(shell["truth"], ".4g")] if with_truth else cells)
    caption = (
        "Power of the sampled linear fields in shells: percentiles of all samples; departure of "
        "their mean in standard deviations of the prior for one field, bold beyond 3"
    )
    parts.append(_table(caption, header, rows))
    if fields["white_noise"] is not None:
        parts.append(_white_noise(fields["white_noise"]))
    return "".join(parts)


def _departure(value: float | None) -> str:
    return _flagged(number(value, ".2f"), value is not None and abs(value) > _FAR)


def _white_noise(noise: Numbers) -> str:
    shells = noise["shells"]
    with_truth = any(shell["true_power"] is not None for shell in shells)
    header = [_WAVENUMBER, "numbers", "power / prior", "sd", "departure"]
    if with_truth:
        header += ["true power", "<i>r</i>(<i>k</i>)", "in 68%", "in 95%"]
    rows = [
        [
            number(shell["k"], ".3f"),
            f"{shell['numbers']:,}",
            number(shell["power"], ".3f"),
            number(shell["power_sd"], ".3f"),
            _departure(shell["departure"]),
            *(
                [number(shell[x], ".3f") for x in ("true_power", "r", "inside_68", "inside_95")]
                if with_truth
                else []
            ),
        ]
        for shell in shells
    ]
    caption = "White noise of the stored fields; chi-squared of the departures is "
    caption += f"{number(noise['chi_squared'], '.1f')} for {len(shells)} shells"
    if with_truth:
        caption += (
            "; the last columns are the share of the true numbers in the posterior's intervals"
        )
    return "<h3>White noise against the prior</h3>" + _table(caption, header, rows)


def _figures(figures: Sequence[Numbers], pictures: Mapping[str, bytes], can_draw: bool) -> str:
    shown = [figure for figure in figures if figure["name"] in pictures]
    if not shown and not can_draw:
        return (
            "<p>Figures need matplotlib: <code>pip install 'npe_tf[plots]'</code>, then write the "
            "report again.</p>"
        )
    if not shown:
        return "<p>There are none.</p>"
    parts = []
    for figure in shown:
        picture = pictures[figure["name"]]
        width, height = _size(picture)
        wide = ' class="wide"' if width > _WIDE * height or width > 1200 else ""
        source = base64.b64encode(picture).decode("ascii")
        title = _text(figure["title"])
        parts.append(
            f'<figure><div class="plate" role="region" aria-label="{title}" tabindex="0">'
            f'<img{wide} src="data:image/png;base64,{source}" width="{width // 2}" '
            f'height="{height // 2}" alt="{_text(figure["alt"])}"></div>'
            f"<figcaption><strong>{title}.</strong> {_text(figure['caption'])}</figcaption>"
            "</figure>"
        )
    return "\n".join(parts)


def _size(picture: bytes) -> tuple[int, int]:
    """Width and height of a PNG, from its header [pixels]."""
    width, height = struct.unpack(">II", picture[16:24])
    return int(width), int(height)


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return (
            "<p>None: all numbers are finite, no chain stands still, and moves are accepted as "
            "they should be.</p>"
        )
    items = "".join(f"<li>{_text(warning)}</li>" for warning in warnings)
    return f'<ul class="warnings">{items}</ul>'


def _repeat(numbers: Numbers) -> str:
    history = numbers["history"]
    commands = list(dict.fromkeys(start["command"] for start in history if start["command"]))
    parts = []
    if commands:
        several = "commands were" if len(commands) > 1 else "command was"
        parts.append(f"<p>The {several} given, as typed; paths are from where they were given:</p>")
        parts += [f"<pre>{_text(command)}</pre>" for command in commands]
    else:
        parts.append(
            "<p>No command was recorded: the run was started from Python or by an earlier "
            "version. The settings below are what it was made with.</p>"
        )
    if len(history) > 1:
        rows = [
            (_text(start["time"]), f"{start['sweeps']:,}", _text(start["command"] or "from Python"))
            for start in history
        ]
        table = _table("Starts of the run", ("time", "sweeps", "command"), rows, texts=(2,))
        parts.append(f"<details><summary>All {len(history)} starts</summary>{table}</details>")
    rows = [(_text(name), _text(value)) for name, value in numbers["settings"].items()]
    table = _table("Settings, as the chain file has them", ("setting", "value"), rows, texts=(1,))
    parts.append(f"<details><summary>All settings</summary>{table}</details>")
    return "".join(parts)


def _versions(numbers: Numbers) -> str:
    now = numbers["versions"]
    history = numbers["history"]
    then: Mapping[str, str] = history[-1]["versions"] if history else {}
    rows = [
        (_text(name), _text(then.get(name, "–")), _text(now.get(name, "–")))
        for name in dict.fromkeys([*now, *then])
    ]
    caption = "Versions when the run was last started, and of what wrote this report"
    return _table(caption, ("package", "run", "report"), rows)


def _cost(cost: Numbers | None) -> str:
    if cost is None:
        return "<p>The run did not measure what it cost.</p>"
    energy = f"{number(cost['kilowatt_hours'], '.3g')} kWh"
    told = (
        "measured by the processors' counters"
        if cost["energy_is_measured"]
        else f"estimated at {number(cost['watts_per_core'], 'g')} W for each busy core"
    )
    pairs = [
        ("Processor time", f"{number(cost['core_hours'], '.3g')} core-hours"),
        ("Wall time", f"{number(cost['wall_hours'], '.3g')} hours"),
        ("Energy", f"{energy}, {told}"),
    ]
    return (
        _pairs(pairs)
        + "<p>Of the whole run, warm-up and restarts included. Memory, cooling and graphics cards "
        "are left out.</p>"
    )


def _citation(citation: Numbers) -> str:
    items = "".join(f"<li>{_text(reference)}</li>" for reference in citation["references"])
    return (
        "<p>Please cite the software and the paper whose method it implements.</p>"
        f"<ul>{items}</ul><pre>{_text(citation['bibtex'].strip())}</pre>"
    )
