"""Lines of a text file of numbers, compressed or not, none of them trusted."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from npe_tf.catalogues.table import malformed

__all__ = ["Lines", "assignments", "numbers", "open_binary", "open_lines", "split"]

MAX_LINE = 2**18
"""Longest line that is taken for one [characters]."""

MAX_HEADER = 10_000
"""Most lines before the first halo."""

_ASSIGNMENT = re.compile(
    r"([A-Za-z][\w ]{0,40}?)\s*[=:]\s*([+-]?[\d.]+(?:[eE][+-]?\d+)?)\s*(.{0,40})"
)

_GZIP = b"\x1f\x8b"


@contextlib.contextmanager
def open_binary(path: str) -> Iterator[io.BufferedIOBase]:
    """Open a file, decompressed if it is gzip.

    Args:
        path: of the file.

    Yields:
        A stream of bytes.

    Raises:
        FileNotFoundError: if there is no such file.
        PermissionError: if it may not be read.
        ValueError: if what is read later turns out to be damaged.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(
            "Invalid value for argument `path`. Expected a halo catalogue. Received: "
            f"path={path!r}, which does not exist"
        )
    if not os.path.isfile(path):
        raise ValueError(
            "Invalid value for argument `path`. Expected a halo catalogue. Received: "
            f"path={path!r}, which is not a file"
        )
    with contextlib.ExitStack() as stack:
        raw: io.BufferedIOBase = stack.enter_context(open(path, "rb"))
        compressed = raw.read(2) == _GZIP
        raw.seek(0)
        if compressed:
            raw = stack.enter_context(gzip.GzipFile(fileobj=raw, mode="rb"))
        try:
            yield raw
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise malformed(path, "an undamaged gzip file", str(error)) from error


class Lines:
    """Iterates over numbered lines without their ends, of any of the three kinds.

    Args:
        path: of the file, for messages.
        stream: its bytes.

    Attributes:
        number: of the line last read, from 1.
        complete: whether the line last read had an end.
    """

    def __init__(self, path: str, stream: io.BufferedIOBase) -> None:
        self.path = path
        self.number = 0
        self.complete = True
        self._text = io.TextIOWrapper(
            stream,  # type: ignore[type-var]
            "utf-8",
            errors="surrogateescape",
            newline=None,
        )

    def __iter__(self) -> Iterator[str]:
        """Lines to the end of the file."""
        while line := self._text.readline(MAX_LINE + 1):
            self.number += 1
            if len(line) > MAX_LINE:
                raise malformed(
                    self.path, f"lines of at most {MAX_LINE} characters", "a longer one",
                    self.number,
                )  # fmt: skip
            self.complete = line.endswith("\n")
            yield line.rstrip("\n")

    def numbered(self, start: str) -> Iterator[tuple[int, str]]:
        """Lines with their numbers, from `start`, which is the one last read."""
        yield self.number, start
        for line in self:
            yield self.number, line

    def close(self) -> None:
        """Let go of the stream without closing it."""
        self._text.detach()


def split(line: str, delimiter: str | None) -> list[str]:
    """Fields of a line; `delimiter` None stands for white space."""
    if delimiter is None:
        return line.split()
    if '"' in line:
        return [field.strip() for field in next(csv.reader([line], delimiter=delimiter), [])]
    return [field.strip() for field in line.split(delimiter)]


def numbers(
    path: str,
    lines: Iterable[tuple[int, str]],
    source: Lines,
    width: int,
    indices: Sequence[int],
    names: Sequence[str],
    delimiter: str | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Read columns of finite numbers.

    Args:
        path: of the file, for messages.
        lines: numbered lines; empty ones and comments are left out.
        source: where they come from.
        width: number of columns that every line must have.
        indices: columns to read.
        names: of all columns.
        delimiter: between columns; None for white space.

    Returns:
        Numbers `[H, len(indices)]`, and the line of each row `[H]`.

    Raises:
        ValueError: if a line has another number of columns or what is no finite number, the last
            line has no end, or there is no line.
    """
    # a list of Python floats takes four times the memory of an array
    chunks: list[NDArray[np.float64]] = []
    rows: list[list[float]] = []
    at: list[int] = []
    for number, line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        fields = split(line, delimiter)
        if len(fields) != width:
            raise malformed(path, f"{width} columns", f"{len(fields)}", number)
        try:
            if not line.isascii() or "_" in line:
                rows.append([_strict(fields[index]) for index in indices])
            else:
                rows.append([float(fields[index]) for index in indices])
        except ValueError:
            wrong = next(i for i in indices if not _is_number(fields[i]))
            raise malformed(
                path, f"a number in the column {names[wrong]!r}", repr(fields[wrong][:60]), number
            ) from None
        at.append(number)
        if len(rows) == 65536:
            chunks.append(np.array(rows))
            rows = []
    if not at:
        raise malformed(path, "at least one halo", "no line of numbers")
    if not source.complete:
        raise malformed(
            path,
            "a last line with an end (if the file is complete, add a newline to it)",
            "a file that may have been cut there",
            source.number,
        )
    chunks.append(np.array(rows).reshape(-1, len(indices)))
    table = np.concatenate(chunks)
    finite = np.isfinite(table)
    if not finite.all():
        row, column = (int(i) for i in np.argwhere(~finite)[0])
        raise malformed(
            path,
            f"a finite number in the column {names[indices[column]]!r}",
            f"{table[row, column]}",
            at[row],
        )
    return table, np.array(at)


def _strict(field: str) -> float:
    if not field.isascii() or "_" in field:
        raise ValueError(field)
    return float(field)


def _is_number(field: str) -> bool:
    try:
        _strict(field)
    except ValueError:
        return False
    return True


def assignments(comment: str) -> list[tuple[str, float, str]]:
    """Numbers that a comment assigns to names: ``Om = 0.3; h = 0.7`` or ``Box size: 250 Mpc/h``.

    Args:
        comment: a line without its hash.

    Returns:
        Name, value, and what follows it up to the next semicolon or comma (a unit, or nothing).
    """
    found = []
    for part in re.split(r"[;,]", comment[:1000]):
        match = re.fullmatch(
            r"\s*([A-Za-z][\w ]{0,40}?)\s*[=:]\s*([+-]?[\d.]+(?:[eE][+-]?\d+)?)\s*(.{0,40}?)\s*",
            part,
        )
        if match:
            with contextlib.suppress(ValueError):
                found.append((match[1], float(match[2]), match[3]))
    return found


@contextlib.contextmanager
def open_lines(path: str) -> Iterator[Lines]:
    """Open a text file, decompressed if it is gzip; as `open_binary`, for lines."""
    with open_binary(path) as stream:
        lines = Lines(path, stream)
        try:
            yield lines
        finally:
            lines.close()
