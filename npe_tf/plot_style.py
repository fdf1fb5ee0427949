"""How figures look, and how they are written.

Colours follow Okabe and Ito's palette for colour-blind readers; no text is smaller than 8 points.
Nothing here touches matplotlib's global state.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "COLOURS",
    "FORMATS",
    "MUTED",
    "SHADE",
    "STYLE",
    "checked_array",
    "colour_of",
    "finish",
    "has_matplotlib",
    "import_matplotlib",
    "save",
]

FORMATS = ("png", "pdf")

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MUTED = "0.55"
SHADE = "0.92"
STYLE: dict[str, Any] = {
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.labelsize": 9.0,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.fontsize": 8.0,
    "legend.frameon": False,
    "axes.linewidth": 0.7,
    "lines.linewidth": 1.2,
    "pdf.fonttype": 42,
}

Array = NDArray[np.float64]


def has_matplotlib() -> bool:
    """Whether figures can be drawn."""
    return importlib.util.find_spec("matplotlib") is not None


def import_matplotlib() -> Any:
    """Matplotlib; an `ImportError` that says how to get it where it is missing."""
    try:
        import matplotlib
        import matplotlib.figure
        import matplotlib.lines
        import matplotlib.patches
    except ImportError as error:
        raise ImportError("Figures need matplotlib: pip install npe_tf[plots]") from error
    return matplotlib


def colour_of(index: int) -> str:
    """A colour of the palette, which repeats."""
    return COLOURS[index % len(COLOURS)]


def checked_array(name: str, value: ArrayLike, shape: Sequence[int | str]) -> Array:
    """The value as float64; refuses other shapes than `shape`, where a string is any length."""
    array = np.asarray(value, dtype=np.float64)
    fits = array.ndim == len(shape) and all(
        isinstance(n, str) or n == m for n, m in zip(shape, array.shape, strict=True)
    )
    if not fits or array.size == 0:
        expected = ", ".join(map(str, shape))
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected a non-empty array of shape "
            f"[{expected}]. Received: shape {array.shape}"
        )
    return array


def finish(*panels: Axes) -> None:
    """Turn the ticks of panels inwards, on all sides."""
    for panel in panels:
        panel.tick_params(which="both", direction="in", top=True, right=True)


def save(
    figure: Figure,
    path: str | os.PathLike[str],
    formats: Sequence[str] = FORMATS,
    dpi: float = 200.0,
) -> tuple[str, ...]:
    """Write a figure, by default as PNG and as PDF.

    Args:
        figure: the figure.
        path: the files' path without an ending, or with one that is replaced.
        formats: endings of the files, of `FORMATS`.
        dpi: dots per inch of a PNG, and of what is no line art in a PDF.

    Returns:
        Paths of the files.

    Raises:
        ValueError: if there is no format, or one that is not known.
    """
    if isinstance(formats, str) or not formats or not set(formats) <= set(FORMATS):
        raise ValueError(
            f"Invalid value for argument `formats`. Expected some of {FORMATS}. Received: "
            f"formats={formats!r}"
        )
    matplotlib = import_matplotlib()
    stem, ending = os.path.splitext(os.fspath(path))
    stem = stem if ending.lower() in (".png", ".pdf") else stem + ending
    files = tuple(f"{stem}.{ending}" for ending in dict.fromkeys(formats))
    with matplotlib.rc_context(STYLE):
        for file in files:
            # equal figures make equal files
            metadata = {"CreationDate": None} if file.endswith(".pdf") else None
            figure.savefig(file, dpi=dpi, metadata=metadata)
    return files
