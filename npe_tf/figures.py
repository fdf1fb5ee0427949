"""The figures 2 to 6 of Charnock et al. 2020 (MNRAS 494, 50), from arrays.

`npe_tf.figure_data` makes the numbers of a run; every function here returns a
`matplotlib.figure.Figure` and leaves matplotlib's global state alone.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npe_tf.plot_style import MUTED, STYLE, checked_array, finish, import_matplotlib
from npe_tf.plots import draw_mass_functions, environment_colours, poisson_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "HaloCounts",
    "field_moments",
    "mass_functions",
    "projections",
    "readable_name",
]

Array = NDArray[np.float64]

_SHELLS = ("centre", "face", "edge", "corner")
_QUANTITIES = {"amplitude": r"\alpha", "mean": r"\mu", "scale": r"\sigma"}
_SPOKEN = {"scale": "width"}
_EMPTY = "0.94"  # where there is nothing to show
_FEWEST = 5  # haloes of a bin whose ratio to the mean is shown


def readable_name(name: str) -> str:
    r"""What a parameter of the paper's network is, for a title.

    The four weights of a 3^3 kernel are those of the voxel itself (centre) and of its 6 neighbours
    across a face, 12 across an edge and 8 across a corner. Amplitude, mean and width of component
    t have a weight w_t of psi and a bias b_t (eqs. 12 to 15 of the paper).

    Args:
        name: as in a chain file, such as ``"amplitude_kernel[0, 1]"``.

    Returns:
        For instance ``"amplitude 2, weight $w^{\alpha}_2$"``; names of other networks as they are.
    """
    shell = re.fullmatch(r"kernel_weights\[(\d+), 0, 0\]", name)
    if shell:
        number = int(shell[1])
        known = number < len(_SHELLS)
        return f"kernel, {_SHELLS[number] if known else f'shell {number}'}"
    if name == "bias[0]":
        return "kernel, bias"
    part = re.fullmatch(r"(amplitude|mean|scale)_(?:kernel\[0, (\d+)\]|bias\[(\d+)\])", name)
    if part is None:
        return name
    kind, of_weight, of_bias = part.groups()
    number = int(of_weight or of_bias) + 1
    letter, role = ("w", "weight") if of_weight else ("b", "bias")
    spoken = _SPOKEN.get(kind, kind)
    return rf"{spoken} {number}, {role} ${letter}^{{{_QUANTITIES[kind]}}}_{number}$"


@dataclasses.dataclass(frozen=True)
class HaloCounts:
    """Haloes of D environments and M bins of mass, for one panel.

    Attributes:
        title: of the panel.
        found: of the catalogue, `[D, M]`.
        mean: expected, `[D, M]`.
        std: its standard deviation over samples, `[D, M]`.
        start: expected at the start, `[D, M]`.
        volumes: of the environments, `[D]` [(Mpc/h)^3].
    """

    title: str
    found: ArrayLike
    mean: ArrayLike
    std: ArrayLike
    start: ArrayLike
    volumes: ArrayLike


def mass_functions(
    log_mass_edges: ArrayLike, labels: Sequence[str], panels: Sequence[HaloCounts], start: str
) -> Figure:
    """The halo mass function by environment, one column for each mode (figure 2 of the paper).

    Args:
        log_mass_edges: edges of the mass bins, `[M + 1]` [log10 of Msun/h].
        labels: of the D environments.
        panels: one for each mode.
        start: what the dotted lines are.

    Returns:
        The figure: above the mass functions, points with Poisson errors, mean and 1 sigma of the
        samples and the start; below the ratio to the mean, where there are five haloes or more.
    """
    edges = checked_array("log_mass_edges", log_mass_edges, ("M + 1",))
    size = (len(labels), len(edges) - 1)
    matplotlib = import_matplotlib()
    masses = 10.0 ** (0.5 * (edges[1:] + edges[:-1]))
    with matplotlib.rc_context(STYLE):
        colours = environment_colours(len(labels))
        figure: Figure = matplotlib.figure.Figure(
            figsize=(0.9 + 3.6 * len(panels), 5.0), layout="constrained"
        )
        grid = figure.subplots(
            2,
            len(panels),
            sharex=True,
            sharey="row",
            squeeze=False,
            gridspec_kw={"height_ratios": (5, 2)},
        )
        shown: list[Array] = []
        for (top, bottom), given in zip(grid.T, panels, strict=True):
            found, mean, std, at_start = (
                checked_array(name, getattr(given, name), size)
                for name in ("found", "mean", "std", "start")
            )
            volumes = checked_array("volumes", given.volumes, size[:1])
            norm = volumes[:, None] * np.diff(edges)
            band = np.stack([mean - std, mean, mean + std])
            draw_mass_functions(top, edges, labels, found, band, volumes)
            lower, upper = poisson_interval(found)
            for index, colour in enumerate(colours):
                top.plot(masses, at_start[index] / norm[index], ":", color=colour, lw=1.1)
                seen = (found[index] >= _FEWEST) & (mean[index] > 0)
                # side by side, so that errors of different environments can be told apart
                place = masses[seen] * 10.0 ** (
                    (index - (len(labels) - 1) / 2) * 0.12 * np.diff(edges)[0]
                )
                unit = mean[index, seen]
                bottom.errorbar(
                    place,
                    found[index, seen] / unit,
                    yerr=[
                        (found - lower)[index, seen] / unit,
                        (upper - found)[index, seen] / unit,
                    ],
                    fmt="o",
                    ms=3.0,
                    lw=0.9,
                    color=colour,
                )
                width = (std[index] / np.where(mean[index] > 0, mean[index], np.inf))[seen]
                bottom.fill_between(
                    masses[seen], 1 - width, 1 + width, color=colour, alpha=0.25, lw=0
                )
            shown.append((found / norm)[found > 0])
            top.set_title(given.title)
            bottom.axhline(1.0, color=MUTED, lw=0.7)
            bottom.set(xscale="log", xlim=10.0 ** edges[[0, -1]])
            bottom.set_xlabel(r"$M$ [$M_\odot/h$]")
            top.set(xlabel="", ylabel="")
            finish(top, bottom)
        low, high = grid[1, 0].get_ylim()
        grid[1, 0].set_ylim(max(low, 0.0), min(high, 2.5))
        values = np.concatenate(shown)
        if values.size:
            grid[0, 0].set_ylim(0.3 * values.min(), 3.0 * values.max())
        grid[0, 0].set_ylabel(r"$\mathrm{d}n/\mathrm{d}\log_{10}M$ [(Mpc/$h)^{-3}$]")
        grid[1, 0].set_ylabel("data / mean")
        _legend_of_mass_functions(grid[0], start)
        figure.align_ylabels()
    return figure


def _legend_of_mass_functions(panels: Sequence[Axes], start: str) -> None:
    """Environments in the first panel, kinds of lines in the last."""
    matplotlib = import_matplotlib()
    handles, texts = panels[0].get_legend_handles_labels()
    line = matplotlib.lines.Line2D([], [], color=MUTED)
    band = matplotlib.patches.Patch(color=MUTED, alpha=0.3, lw=0)
    dotted = matplotlib.lines.Line2D([], [], color=MUTED, ls=":", lw=1.1)
    points = matplotlib.lines.Line2D([], [], color=MUTED, ls="", marker="o", ms=3.5)
    kinds = {
        "catalogue, Poisson errors": points,
        r"samples, mean and $1\sigma$": (band, line),
        start: dotted,
    }
    if len(panels) == 1:
        panels[0].legend([*handles, *kinds.values()], [*texts, *kinds], loc="lower left")
        return
    panels[0].legend(handles, texts, loc="lower left")
    panels[-1].legend(list(kinds.values()), list(kinds), loc="lower left")


@dataclasses.dataclass(frozen=True)
class _Look:
    """How a kind of field is coloured."""

    label: str
    colours: str
    scale: str  # "signed", "linear" or "log"
    project: str = "mean"  # along the line of sight; or "sum"
    tail: float = 0.2  # percentage of the values that the scale leaves out at each end


_LOOKS: Mapping[str, _Look] = {
    "initial": _Look(r"$\delta_\mathrm{L}$", "RdBu_r", "signed"),
    "evolved": _Look(r"$1+\delta$", "inferno", "log"),
    "psi": _Look(r"$\psi$", "viridis", "linear"),
    "counts": _Look("haloes", "cividis", "linear", "sum", 0.0),
    "halo_mass": _Look(r"halo mass [$M_\odot/h$]", "cividis", "log", "sum", 0.0),
    "evolved_variance": _Look(r"variance of $\delta$", "magma", "log"),
    "psi_variance": _Look(r"variance of $\psi$", "magma", "log"),
}


def _norm(look: _Look, values: Sequence[Array]) -> Any:
    """One colour scale for several images."""
    from matplotlib.colors import LogNorm, Normalize

    known = np.concatenate([v[np.isfinite(v)] for v in values])
    if look.scale == "log":
        known = known[known > 0]
    if not known.size:
        return Normalize(0.0, 1.0)
    low, high = np.percentile(known, (look.tail, 100.0 - look.tail))
    if look.scale == "signed":
        limit = max(-low, high) or 1.0
        return Normalize(-limit, limit)
    if look.scale == "log":
        return LogNorm(low, high) if high > low else LogNorm(0.5 * low, 2.0 * low)
    return Normalize(low, high if high > low else low + 1.0)


def _extend(norm: Any, values: Sequence[Array]) -> str:
    known = np.concatenate([v[np.isfinite(v) & (v > 0 if _is_log(norm) else True)] for v in values])
    if not known.size:
        return "neither"
    below, above = bool(known.min() < norm.vmin), bool(known.max() > norm.vmax)
    return {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[int(below), int(above)]


def _is_log(norm: Any) -> bool:
    from matplotlib.colors import LogNorm

    return isinstance(norm, LogNorm)


def _label_logarithms(axis: Any, norm: Any) -> None:
    """Plain numbers along a short logarithmic colour bar; powers of ten do for a long one."""
    from matplotlib.ticker import LogLocator, NullFormatter

    if _is_log(norm) and norm.vmin > 1e-2 and norm.vmax < 1e3:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())


def _paint(look: _Look) -> Any:
    return import_matplotlib().colormaps[look.colours].with_extremes(bad=_EMPTY)


def _visible(values: Array, norm: Any) -> Any:
    """Without what a logarithm cannot show: empty voxels, and those that do not count."""
    return np.ma.masked_where(~np.isfinite(values) | (_is_log(norm) & (values <= 0)), values)


def _behind_faces(field: Array, depth: int, project: str) -> list[Array]:
    """Projections of slabs behind the far faces of x, y and z, `[N, N]` each."""
    faces = []
    for axis in range(3):
        slab = np.take(field, np.arange(-depth, 0), axis)
        known = np.isfinite(slab)
        total = np.where(known, slab, 0.0).sum(axis)
        number = known.sum(axis)
        share = total if project == "sum" else total / np.maximum(number, 1)
        faces.append(np.where(number > 0, share, np.nan))
    return faces


def _seen(x: Any, y: Any, z: Any) -> tuple[Any, Any]:
    """Where a point is on paper, looked at from the far end of the box's diagonal."""
    return (y - x) * np.sqrt(0.75), z - 0.5 * (x + y)


def _name_axes(panel: Axes, box_size: float) -> None:
    """Letters beside the lower edges of a box."""
    half, beside = 0.5 * box_size, 1.08 * box_size
    places = {
        "x": (half, beside, 0.0),
        "y": (beside, half, 0.0),
        "z": (-0.1 * box_size, box_size, half),
    }
    for letter, place in places.items():
        panel.text(*_seen(*place), f"${letter}$", ha="center", va="center")


def _draw_cube(panel: Axes, faces: Sequence[Array], box_size: float, **options: Any) -> None:
    """Paint three faces of a box as it looks from the far corner of the diagonal."""
    size = len(faces[0])
    edges = (np.arange(size + 1) - 0.5) * box_size / size  # mesh values sit at vertices
    a, b = np.meshgrid(edges, edges, indexing="ij")
    far = np.full_like(a, edges[-1])
    places = ((far, a, b), (a, far, b), (a, b, far))
    for (x, y, z), face in zip(places, faces, strict=True):
        panel.pcolormesh(*_seen(x, y, z), face, rasterized=True, **options)
    low, high = edges[[0, -1]]
    outline = np.array(
        [
            (high, low, low), (high, high, low), (low, high, low), (low, high, high),
            (low, low, high), (high, low, high), (high, low, low),
        ]
    )  # fmt: skip
    near = np.full(3, high)
    spokes = [np.array([near, np.where(np.arange(3) == axis, low, near)]) for axis in range(3)]
    for line in (outline, *spokes):
        panel.plot(*_seen(*line.T), color="k", lw=0.6)
    panel.set_aspect("equal")
    panel.set_axis_off()
    panel.margins(0.02)


def projections(
    rows: Mapping[str, Mapping[str, ArrayLike]],
    box_size: float,
    depth: int,
    title: str = "",
) -> Figure:
    """Fields as boxes seen from outside, on common colour scales (figure 4 of the paper).

    Args:
        rows: by the name of the row, fields `[N, N, N]` by what they are: ``"initial"`` (linear
            overdensity), ``"evolved"`` (overdensity), ``"psi"``, ``"halo_mass"`` [Msun/h]. What a
            row lacks is left out.
        box_size: [Mpc/h].
        depth: layers behind each visible face that are projected onto it: their mean, or the sum
            of the masses.
        title: of the figure.

    Returns:
        The figure.
    """
    columns = {
        "initial": "initial density",
        "evolved": "evolved density",
        "psi": r"$\psi$",
        "halo_mass": "haloes",
    }
    columns = {
        kind: heading for kind, heading in columns.items() if any(kind in r for r in rows.values())
    }
    matplotlib = import_matplotlib()
    with matplotlib.rc_context(STYLE):
        figure: Figure = matplotlib.figure.Figure(
            figsize=(9.2, 0.8 + 2.3 * len(rows)), layout="constrained"
        )
        grid = figure.subplots(len(rows), len(columns), squeeze=False)
        for column, (kind, heading) in enumerate(columns.items()):
            look = _LOOKS[kind]
            faces: dict[int, list[Array]] = {}
            for index, fields in enumerate(rows.values()):
                if kind in fields:
                    field = checked_array(kind, fields[kind], ("N", "N", "N"))
                    field = field + 1.0 if kind == "evolved" else field
                    faces[index] = _behind_faces(field, depth, look.project)
            every = [face for three in faces.values() for face in three]
            norm = _norm(look, every)
            for index, panel in enumerate(grid[:, column]):
                panel.set_axis_off()
                if index in faces:
                    visible = [_visible(face, norm) for face in faces[index]]
                    _draw_cube(panel, visible, box_size, norm=norm, cmap=_paint(look))
            grid[0, column].set_title(heading)
            image = matplotlib.cm.ScalarMappable(norm, _paint(look))
            bar = figure.colorbar(
                image,
                ax=grid[:, column],
                orientation="horizontal",
                label=look.label,
                extend=_extend(norm, every),
                shrink=0.8,
                aspect=18,
            )
            _label_logarithms(bar.ax.xaxis, norm)
        _name_axes(grid[-1, 0], box_size)
        for panel, name in zip(grid[:, 0], rows, strict=True):
            panel.text(
                -0.04, 0.5, name, transform=panel.transAxes, rotation=90, ha="right", va="center"
            )
        cell = box_size / len(np.asarray(next(iter(next(iter(rows.values())).values()))))
        said = f"box of {box_size:g} Mpc/$h$; slabs of {depth * cell:.3g} Mpc/$h$ behind each face"
        figure.suptitle(f"{title}; {said}" if title else said, fontsize=STYLE["axes.titlesize"])
    return figure


def field_moments(
    reference: Mapping[str, ArrayLike],
    mean: Mapping[str, ArrayLike],
    variance: Mapping[str, ArrayLike],
    box_size: float,
    headings: Sequence[str],
    title: str = "",
    index: int | None = None,
) -> Figure:
    """One layer of evolved density and psi: reference, mean, variance (figure 5 of the paper).

    Args:
        reference: two fields `[N, N, N]` by what they are, one for each row: ``"evolved"`` and
            ``"psi"``, which share the colour scale of their mean, or ``"counts"`` and
            ``"halo_mass"``, which have their own.
        mean: ``"evolved"`` and ``"psi"``, `[N, N, N]`.
        variance: of the same, `[N, N, N]`.
        box_size: [Mpc/h].
        headings: of the two rows' references.
        title: of the figure.
        index: of the layer; the middle of the box by default.

    Returns:
        The figure.
    """
    size = len(np.asarray(mean["evolved"]))
    layer = size // 2 if index is None else index
    matplotlib = import_matplotlib()
    cell = box_size / size
    extent = (-0.5 * cell, box_size - 0.5 * cell) * 2

    def cut(name: str, field: ArrayLike, kind: str) -> Array:
        values = checked_array(name, field, (size, size, size))[..., layer]
        return values + 1.0 if kind == "evolved" else values

    with matplotlib.rc_context(STYLE):
        figure: Figure = matplotlib.figure.Figure(figsize=(9.2, 6.0), layout="constrained")
        grid = figure.subplots(2, 3, sharex=True, sharey=True)
        names = ("evolved", "psi")
        for row, (kind, reference_kind) in enumerate(zip(names, reference, strict=True)):
            images = {
                0: (reference_kind, cut("reference", reference[reference_kind], reference_kind)),
                1: (kind, cut("mean", mean[kind], kind)),
                2: (f"{kind}_variance", cut("variance", variance[kind], "")),
            }
            for column, (of, values) in images.items():
                same = [v for k, v in images.values() if k == of]
                look = _LOOKS[of]
                norm = _norm(look, same)
                panel = grid[row, column]
                image = panel.imshow(
                    _visible(values, norm).T,
                    origin="lower",
                    extent=extent,
                    interpolation="nearest",
                    norm=norm,
                    cmap=_paint(look),
                )
                if column == 0 and len(same) > 1:
                    continue  # the colours are those of the next panel
                place = panel.inset_axes((1.03, 0.0, 0.05, 1.0))
                bar = figure.colorbar(
                    image,
                    cax=place,
                    label=look.label,
                    extend=_extend(norm, same),
                    extendfrac=0.04,
                )
                _label_logarithms(bar.ax.yaxis, norm)
            spoken = "evolved density" if kind == "evolved" else r"$\psi$"
            grid[row, 0].set_title(headings[row])
            grid[row, 1].set_title(f"{spoken}, mean")
            grid[row, 2].set_title(f"{spoken}, variance")
            grid[row, 0].set_ylabel(r"$y$ [Mpc/$h$]")
        for panel in grid[1]:
            panel.set_xlabel(r"$x$ [Mpc/$h$]")
        where = rf"layer at $z={layer * cell:.4g}$ Mpc/$h$, {cell:.3g} Mpc/$h$ thick"
        figure.suptitle(f"{title}; {where}" if title else where, fontsize=STYLE["axes.titlesize"])
    return figure
