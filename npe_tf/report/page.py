"""The page of a report, from its numbers.

Standard library only. One file without scripts, in which style and figures are inline, so that it
can be sent by mail and read anywhere. What comes from files and flags is untrusted: all text goes
through `npe_tf.report.markup`, and a content security policy forbids scripts and requests besides.
"""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from npe_tf.report import provenance
from npe_tf.report.markup import (
    flagged,
    number,
    pairs,
    paragraphs,
    prose,
    table,
    text,
    time,
)
from npe_tf.report.style import STYLE_SHEET

__all__ = ["report_page"]

Numbers = Mapping[str, Any]

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'none'"
_TONES = {"CONVERGED": "good", "NOT CONVERGED": "poor", "TOO SHORT": "fair"}
_GREEK = {r"\alpha": "α", r"\mu": "μ", r"\sigma": "σ"}
_SYMBOL = re.compile(r"([wb])\^\{(\\alpha|\\mu|\\sigma)\}_(\d+)")
_WIDE = 1.3  # shape from which on a figure is scrolled on a phone rather than shrunk
_FAR = 3.0  # standard deviations
_COSMOLOGY = {
    "Omega_m": "Ω<sub>m</sub>",
    "Omega_b": "Ω<sub>b</sub>",
    "Omega_k": "Ω<sub>k</sub>",
    "h": "<i>h</i>",
    "sigma8": "σ<sub>8</sub>",
    "n_s": "<i>n</i><sub>s</sub>",
    "A_s": "<i>A</i><sub>s</sub>",
    "T_cmb": "<i>T</i><sub>CMB</sub>/K",
    "w0": "<i>w</i><sub>0</sub>",
    "wa": "<i>w</i><sub>a</sub>",
}
_H = "<i>h</i>"
_MPC, _MSUN = f"Mpc/{_H}", f"<i>M</i><sub>sun</sub>/{_H}"
_WAVENUMBER = f"<i>k</i> [{_H}/Mpc]"
_POWER_UNIT = f"[(Mpc/{_H})<sup>3</sup>]"


def report_page(numbers: Numbers, pictures: Mapping[str, bytes], can_draw: bool = True) -> str:
    """Make the page.

    Args:
        numbers: of `npe_tf.report.contents.report_numbers`.
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
        ("repeat", "How to repeat this run", provenance.repeat(numbers)),
        ("versions", "Versions", provenance.versions(numbers)),
        ("cost", "Cost", provenance.cost(numbers)),
        ("cite", "How to cite", provenance.citation(numbers)),
    ]
    links = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, title, _ in parts)
    sections = "\n".join(
        f'<section aria-labelledby="{name}"><h2 id="{name}">{title}</h2>\n{body}\n</section>'
        for name, title, body in parts
    )
    run, data = numbers["run"], numbers["data"]
    name = text(run["folder"])
    state = text(numbers["verdict"]["state"])
    facts = (
        f"{run['chains']} chain{'s' if run['chains'] > 1 else ''}, "
        f"{run['sweeps_of_warmup']:,} sweeps of warm-up and "
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
<p>Written {time(numbers["created"])}. The same numbers, with all digits, are in
<a href="report.json">report.json</a>.</p>
</footer>
</body>
</html>
"""


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
    advice = "".join(f"<li>{prose(sentence)}</li>" for sentence in verdict["advice"])
    tone = _TONES.get(verdict["state"], "fair")
    panel = (
        f'<div class="verdict {tone}"><p class="state">{text(verdict["state"])}</p>'
        f"{paragraphs([verdict['reason']])}{measures}"
        f"<h3>What to do next</h3><ol>{advice}</ol></div>"
    )
    if not verdict["kinds"]:
        return panel
    rows = [
        (
            text(kind["kind"]),
            f"{kind['quantities']}",
            flagged(number(kind["rhat"], ".3f"), _beyond_rhat(kind["rhat"], limits)),
            _name_of(numbers, kind["rhat_of"]),
            flagged(number(kind["ess_bulk"], ",.0f"), _beyond_ess(kind["ess_bulk"], limits)),
            flagged(number(kind["ess_tail"], ",.0f"), _beyond_ess(kind["ess_tail"], limits)),
            _name_of(numbers, kind["ess_of"]),
        )
        for kind in verdict["kinds"]
    ]
    shown = table(
        "kinds",
        "Worst of each kind of quantity that is watched; bold is beyond the limit",
        ("kind", "number", "R-hat", "of", "ESS bulk", "ESS tail", "of"),
        rows,
        texts=(3, 6),
    )
    moves = "" if numbers["moves"] is None else paragraphs([numbers["moves"]])
    return panel + shown + moves


def _fewer(bulk: float | None, tail: float | None) -> float | None:
    return None if bulk is None or tail is None else min(bulk, tail)


def _name_of(numbers: Numbers, name: str) -> str:
    """A quantity by its spoken name, if it is a parameter that has one."""
    for row in numbers["parameters"]:
        if row["name"] == name:
            return _parameter_name(row)
    return text(name)


def _parameter_name(row: Numbers) -> str:
    symbol = _SYMBOL.fullmatch(row["symbol"] or "")
    label = text(row["label"])
    if symbol is None:
        return label
    letter, greek, component = symbol.groups()
    return f"{label} <i>{letter}</i><sup>{_GREEK[greek]}</sup><sub>{component}</sub>"


def _data(data: Numbers) -> str:
    used, expected = data["haloes_used"], data["haloes_expected_mean"]
    dropped = [f"{data['haloes_below_threshold']:,} below the threshold"]
    if data["haloes_at_faces"]:
        dropped.append(f"{data['haloes_at_faces']:,} at the faces of the box")
    items = [
        ("Catalogue", "not recorded" if data["catalogue"] is None else text(data["catalogue"])),
        ("Haloes used", f"{used:,} of {data['haloes_in_catalogue']:,}"),
        ("Haloes dropped", ", ".join(dropped)),
    ]
    if expected is not None:
        spread = number(data["haloes_expected_sd"], ",.0f")
        items.append(("Haloes expected", f"{number(expected, ',.0f')} ± {spread}"))
    items += [
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
                f"{_COSMOLOGY.get(name, text(name))} = {number(value, '.5g')}"
                for name, value in data["cosmology"].items()
            ),
        ),
        ("Completeness", "a field was given" if data["has_completeness"] else "taken for one"),
        ("True field", "known" if data["has_truth"] else "not known"),
    ]
    if data["catalogue_sha256"] is not None:
        items.append(("SHA-256", f"<code>{text(data['catalogue_sha256'])}</code>"))
    notes = "".join(f"<li>{text(note)}</li>" for note in data["notes"])
    return pairs(items) + (f"<h3>How the file was read</h3><ul>{notes}</ul>" if notes else "")


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
            flagged(number(row["rhat"], ".3f"), _beyond_rhat(row["rhat"], limits)),
            flagged(number(row["ess_bulk"], ",.0f"), _beyond_ess(row["ess_bulk"], limits)),
            flagged(number(row["ess_tail"], ",.0f"), _beyond_ess(row["ess_tail"], limits)),
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
    return paragraphs(numbers["modes"]) + table("bias", caption, header, cells) + explained


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
            table(
                "correlation",
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
    parts.append(table("power", caption, header, rows))
    if fields["white_noise"] is not None:
        parts.append(_white_noise(fields["white_noise"]))
    return "".join(parts)


def _departure(value: float | None) -> str:
    return flagged(number(value, ".2f"), value is not None and abs(value) > _FAR)


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
    return "<h3>White noise against the prior</h3>" + table("noise", caption, header, rows)


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
        title = text(figure["title"])
        parts.append(
            f'<figure><div class="plate" role="region" aria-label="{title}" tabindex="0">'
            f'<img{wide} src="data:image/png;base64,{source}" width="{width // 2}" '
            f'height="{height // 2}" alt="{text(figure["alt"])}"></div>'
            f"<figcaption><strong>{title}.</strong> {text(figure['caption'])}</figcaption>"
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
            "<p>None: all numbers are finite, no chain stands still, and no sweep has diverged.</p>"
        )
    items = "".join(f"<li>{prose(warning)}</li>" for warning in warnings)
    return f'<ul class="warnings">{items}</ul>'
