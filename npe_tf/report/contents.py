"""What the report of a run says, and its two files.

``docs/report.md`` is the schema. The page is made from the numbers alone, so that it says nothing
that they do not.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from npe_tf.catalogue import Catalogue
from npe_tf.chain_store import CHAIN_FILE, ChainStore
from npe_tf.convergence import Limits, worst_ess, worst_rhat
from npe_tf.diagnostics import ParameterRow
from npe_tf.energy import COST_COLUMNS, WATTS_PER_CORE, Cost
from npe_tf.figures import readable_name
from npe_tf.health import health_of
from npe_tf.plot_style import has_matplotlib
from npe_tf.report.citation import BIBTEX, REFERENCES
from npe_tf.report.legends import legend_of
from npe_tf.report.page import report_page
from npe_tf.run_history import package_versions, read_starts
from npe_tf.summary import Summary
from npe_tf.verdict import CONVERGED, verdict_of
from npe_tf.whole_files import write_whole

__all__ = ["REPORT_JSON", "REPORT_PAGE", "SCHEMA_VERSION", "report_numbers", "write_report"]

SCHEMA_VERSION = 1
"""Of the JSON; a number is added when a key is removed or changes its meaning."""

REPORT_PAGE = "report.html"
REPORT_JSON = "report.json"

_MATHS = re.compile(r",? ?(?P<role>weight|bias)? ?\$(?P<symbol>[^$]*)\$$")

Numbers = dict[str, Any]


def report_numbers(
    run: str | os.PathLike[str],
    catalogue: Catalogue,
    summary: Summary | None = None,
    watts_per_core: float = WATTS_PER_CORE,
) -> Numbers:
    """All that the report says, as strict JSON can hold it: what is not known is ``None``.

    Args:
        run: folder of the run, finished or still being written.
        catalogue: the catalogue that it is about.
        summary: of `npe_tf.summary`; without it, for a run that is too short for one, the report
            has no posterior.
        watts_per_core: power of a busy core [W], for the energy where it was not measured.

    Returns:
        The numbers, by the keys of ``docs/report.md``.

    Raises:
        OSError: if there is no run.
    """
    with ChainStore.open(Path(run) / CHAIN_FILE) as store:
        attributes = dict(store.attributes)
        done = store.num_committed
        warmup = int(attributes["num_warmup"])
        num_chains = store.columns["theta"].shape[0]
        samples = max(0, done - warmup)
        told = summary.verdict if summary is not None else None
        if told is None:
            told = verdict_of(
                None,
                samples,
                num_chains,
                run=os.fspath(run),
                sweeps_left=store.capacity - warmup - samples,
            )
        versions = package_versions()
        numbers = {
            "schema_version": SCHEMA_VERSION,
            "created": _now(),
            "run": {
                "folder": Path(run).resolve().name,
                "scheme": attributes.get("scheme", "gibbs"),
                "seed": attributes.get("seed"),
                "chains": num_chains,
                "sweeps_of_warmup": warmup,
                "sweeps_of_sampling": samples,
                "sweeps_asked_for": store.capacity,
                "gradients_after_warmup": None if summary is None else summary.gradients,
            },
            "verdict": {
                "state": told.state,
                "converged": told.state == CONVERGED,
                "reason": told.reason,
                "advice": list(told.advice),
                **_convergence(summary),
            },
            "data": _data(store, catalogue, summary),
            "parameters": [] if summary is None else [_parameter(r) for r in summary.parameters],
            "modes": [] if summary is None else summary.modes,
            "moves": None if summary is None else summary.moves,
            "fields": None if summary is None else _fields(summary),
            "figures": [],
            "warnings": [*_warnings_of_data(catalogue, attributes), *_warnings_of_chains(store)],
            "history": [dataclasses.asdict(start) for start in read_starts(run)],
            "settings": _settings(attributes),
            "versions": versions,
            "cost": _cost(store, watts_per_core),
            "citation": {
                "references": [_with_version(text, versions) for text in REFERENCES],
                "bibtex": _with_version(BIBTEX, versions),
            },
        }
    if summary is not None:
        numbers["figures"] = [_figure(path) for path in _pictures(summary)]
    return dict(_strict(numbers))


def write_report(
    run: str | os.PathLike[str],
    catalogue: Catalogue,
    summary: Summary | None = None,
    folder: str | os.PathLike[str] | None = None,
    watts_per_core: float = WATTS_PER_CORE,
) -> tuple[Path, Path]:
    """Write the report of a run.

    Whoever reads meanwhile finds the old files or the new ones, whole.

    Args:
        run: as in `report_numbers`.
        catalogue: as in `report_numbers`.
        summary: as in `report_numbers`; its figures go into the page.
        folder: for the files; by default that of the run.
        watts_per_core: as in `report_numbers`.

    Returns:
        The page and the JSON.

    Raises:
        OSError: if there is no run, or the folder cannot be written to.
    """
    numbers = report_numbers(run, catalogue, summary, watts_per_core)
    pictures = {
        path.stem: path.read_bytes() for path in ([] if summary is None else _pictures(summary))
    }
    target = Path(run if folder is None else folder)
    target.mkdir(parents=True, exist_ok=True)
    page = report_page(numbers, pictures, has_matplotlib())
    text = json.dumps(numbers, indent=1, allow_nan=False) + "\n"
    write_whole(target / REPORT_PAGE, page)
    write_whole(target / REPORT_JSON, text)
    return target / REPORT_PAGE, target / REPORT_JSON


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def _strict(value: Any) -> Any:
    """The same in the types of JSON; numbers that are not finite are not known."""
    if isinstance(value, Mapping):
        return {str(name): _strict(x) for name, x in value.items()}
    if isinstance(value, np.ndarray):
        return _strict(value.tolist())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_strict(x) for x in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float):
        return value
    # names of files can have bytes that are no text
    return str(value).encode("utf-8", "replace").decode("utf-8")


def _with_version(text: str, versions: Mapping[str, str]) -> str:
    return text.format(version=versions.get("npe_tf", "unknown"))


def _convergence(summary: Summary | None) -> Numbers:
    """What was asked for, what is worst, in all and of each kind."""
    limits = Limits()
    asked = {"max_rhat": limits.max_rhat, "min_ess": limits.min_ess}
    if summary is None:
        return {"limits": asked, "worst_rhat": None, "worst_ess": None, "kinds": []}
    kinds = []
    for kind, rows in summary.convergence.by_kind.items():
        rhat, ess = worst_rhat(rows), worst_ess(rows)
        kinds.append(
            {
                "kind": kind,
                "quantities": len(rows),
                "rhat": rhat.rhat,
                "rhat_of": rhat.name,
                "ess_bulk": ess.ess,
                "ess_tail": ess.tail,
                "ess_of": ess.name,
            }
        )
    rhat, ess = summary.convergence.worst_rhat, summary.convergence.worst_ess
    return {
        "limits": asked,
        "worst_rhat": {"name": rhat.name, "rhat": rhat.rhat},
        "worst_ess": {"name": ess.name, "bulk": ess.ess, "tail": ess.tail},
        "kinds": kinds,
    }


def _data(store: ChainStore, catalogue: Catalogue, summary: Summary | None) -> Numbers:
    """Which haloes are used, in which box, at which epoch."""
    attributes = store.attributes
    threshold = float(attributes["mass_threshold"])
    box_size = float(catalogue.box_size)
    num_cells = int(attributes["num_cells"])
    valid = attributes.get("padding", "periodic") == "valid"
    num_kept = num_cells - 2 * (int(attributes.get("kernel_size", 3)) // 2 if valid else 0)
    above = catalogue.mass[catalogue.mass >= threshold]
    used = int(attributes.get("num_haloes", len(above)))
    volume = box_size**3 * (num_kept / num_cells) ** 3
    scale_factor = float(attributes.get("scale_factor", 1.0))
    expected = None if summary is None or not summary.expected.size else summary.expected
    return {
        "catalogue": re.split(r"[/\\]", str(attributes.get("catalogue", "")))[-1] or None,
        "catalogue_sha256": attributes.get("catalogue_sha256"),
        "haloes_in_catalogue": len(catalogue),
        "haloes_used": used,
        "haloes_below_threshold": len(catalogue) - len(above),
        "haloes_at_faces": len(above) - used,
        "haloes_expected_mean": None if expected is None else expected.mean(),
        "haloes_expected_sd": None if expected is None else expected.std(),
        "mass_threshold_msun_h": threshold,
        "largest_mass_msun_h": above.max() if len(above) else None,
        "number_density_h3_mpc3": used / volume,
        "box_size_mpc_h": box_size,
        "periodic": not valid,
        "cells_per_side": num_cells,
        "cell_size_mpc_h": box_size / num_cells,
        "scale_factor": scale_factor,
        "redshift": 1.0 / scale_factor - 1.0,
        "has_completeness": "completeness" in store.constants,
        "has_truth": "true_delta_linear" in store.constants,
        "cosmology": {
            name.removeprefix("cosmology."): value
            for name, value in attributes.items()
            if name.startswith("cosmology.")
        },
        "notes": list(catalogue.notes),
    }


def _warnings_of_data(catalogue: Catalogue, attributes: Mapping[str, Any]) -> list[str]:
    smallest, threshold = float(catalogue.mass.min()), float(attributes["mass_threshold"])
    if smallest <= 1.5 * threshold:
        return []
    return [
        f"The smallest halo has {smallest:.3g} Msun/h, the threshold is {threshold:.3g}: the model "
        "takes the range between for empty. Set --mass_threshold to the mass above which the "
        "catalogue is complete."
    ]


def _warnings_of_chains(store: ChainStore) -> list[str]:
    if "acceptance" not in store.columns:
        return []
    return [line[:1].upper() + line[1:] + "." for line in health_of(store).lines()]


def _parameter(row: ParameterRow) -> Numbers:
    """A row of the table; the symbol, if there is one, is TeX."""
    spoken = readable_name(row.name)
    maths = _MATHS.search(spoken)
    label = spoken if maths is None else spoken[: maths.start()]
    if maths is not None and maths["role"]:
        label += f", {maths['role']}"
    return {
        "name": row.name,
        "label": label,
        "symbol": None if maths is None else maths["symbol"],
        "mean": row.mean,
        "sd": row.sd,
        "q05": row.q05,
        "q50": row.q50,
        "q95": row.q95,
        "rhat": row.rhat,
        "ess_bulk": row.ess,
        "ess_tail": row.tail,
    }


def _fields(summary: Summary) -> Numbers:
    """The sampled fields against the prior, and the truth if it is known."""
    power = summary.power
    shells = [
        {
            "k": power.k[i],
            "modes": power.modes[i],
            "prior": power.prior[i],
            "q16": power.q16[i],
            "q50": power.q50[i],
            "q84": power.q84[i],
            "departure": power.departure[i],
            "truth": None if power.truth is None else power.truth[i],
        }
        for i in range(len(power.k))
        if power.modes[i]
    ]
    correlation = None
    if summary.r is not None:
        pairs = zip(summary.k, summary.r, strict=True)
        correlation = [{"k": k, "r": r} for k, r in pairs if np.isfinite(k)]
    checks = summary.fields
    noise = None
    if checks is not None:
        noise = {
            "chi_squared": checks.chi_squared,
            "shells": [
                {
                    "k": checks.k[i],
                    "numbers": checks.num_numbers[i],
                    "power": checks.power[i],
                    "power_sd": checks.power_sd[i],
                    "departure": checks.departure[i],
                    "true_power": _at(checks.true_power, i),
                    "r": _at(checks.correlation, i),
                    "inside_68": _at(checks.inside_68, i),
                    "inside_95": _at(checks.inside_95, i),
                }
                for i in range(len(checks.k))
            ],
        }
    return {"correlation": correlation, "power": shells, "white_noise": noise}


def _at(values: Any, index: int) -> Any:
    return None if values is None else values[index]


def _settings(attributes: Mapping[str, Any]) -> Numbers:
    """What identifies the run, without what is long or said elsewhere."""
    return {
        name: value
        for name, value in sorted(attributes.items())
        if not name.startswith(("names.", "watched.", "cosmology."))
        and name not in ("parameters", "catalogue", "catalogue_sha256", "initial_theta")
        and isinstance(value, str | int | float)
    }


def _cost(store: ChainStore, watts_per_core: float) -> Numbers | None:
    if not set(COST_COLUMNS) <= set(store.columns) or not store.num_committed:
        return None
    cost = Cost.of(*(store.read(name) for name in COST_COLUMNS))
    measured = math.isfinite(cost.energy_joules)
    return {
        "wall_hours": cost.wall_seconds / 3600.0,
        "core_hours": cost.core_hours,
        "kilowatt_hours": cost.kilowatt_hours(watts_per_core),
        "energy_is_measured": measured,
        "watts_per_core": None if measured else watts_per_core,
    }


def _pictures(summary: Summary) -> list[Path]:
    return [path for path in summary.figures if path.suffix == ".png"]


def _figure(path: Path) -> Numbers:
    return {"name": path.stem, **legend_of(path.stem)._asdict()}
