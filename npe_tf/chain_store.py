"""An append-only Markov chain in an HDF5 file that survives being killed at any instant.

The file's whole structure is made once, at full capacity, in a temporary file that is synchronised
to the disk and renamed into place. All datasets are contiguous and allocated early, so each one is
a plain range of bytes; from then on bytes are written at these offsets by the operating system and
the HDF5 library never touches the file's metadata again. A commit writes

1. the rows of the sweep and one of two checkpoint slots (commit number n takes slot n % 2), with
   the commit number and a CRC32 of that slot in `seal`; then synchronises;
2. the 8 bytes of `committed`, the number of finished sweeps; then synchronises.

Whatever lies beyond `committed` is as if it had never been written, so a crash costs the sweep
under way and nothing else.

Everything has a checksum (CRC32): each row, each constant, each slot, and the structure with the
attributes. What a failing disk or memory has changed is refused when it is read, by name.

Layout of the file: ``chain/<column>`` (rows; attribute `every`), ``checks/<column>`` (checksums of
the rows), ``checkpoint/0/<name>`` and ``checkpoint/1/<name>`` (the slots), ``constants/<name>``,
``seal`` (``[2, 2]``: commit number and CRC32 of each slot), ``committed``, and the run's attributes
on the root group. Files of the first format have no checksums but those of the slots; they can be
read and gone on with, and have them all once they are extended. Anybody may read the
file with h5py while it is being written, taking the first `committed` rows (`committed // every`
of a thinned column); h5py keeps small reads in a cache, so reopen the file, or use `ChainStore`,
to see it grow.

Needs a POSIX system. One process writes at a time: the writer holds `flock` on ``<path>.lock``,
which the kernel releases when the process dies. The lock is advisory on network file systems.
"""

from __future__ import annotations

import errno
import fcntl
import os
import types
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, Union

import h5py
import numpy as np
from numpy.typing import NDArray

from npe_tf.catalogues.heaps import file_has_sound_heaps
from npe_tf.chain_layout import (
    CHECK,
    FORMAT,
    FORMAT_WITHOUT_CHECKS,
    Column,
    Dataset,
    Extent,
    Plan,
    attribute,
    datasets_of,
    num_bytes,
    predicted_nbytes,
    require_positive_integer,
    structure_checksum,
)
from npe_tf.checksums import of_arrays, of_rows

__all__ = ["CHAIN_FILE", "ChainStore", "Column", "predicted_nbytes"]

CHAIN_FILE = "chain.h5"  # in the folder of a run

_MOST_TOLD = 5  # damaged rows that a message names
_CHUNK = 1 << 26  # bytes copied at a time

Array = NDArray[Any]
Path = Union[str, "os.PathLike[str]"]


def _checked(argument: str, name: str, value: Any, shape: Any, dtype: np.dtype[Any]) -> Array:
    array = np.asarray(value)
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(
            f"Invalid value for argument `{argument}`. Expected {name!r} with shape {shape} and "
            f"dtype {dtype}. Received: shape {array.shape} and dtype {array.dtype}"
        )
    return array


def _same_names(argument: str, received: Iterable[str], expected: Iterable[str]) -> None:
    if set(received) != set(expected):
        raise ValueError(
            f"Invalid value for argument `{argument}`. Expected the names {sorted(expected)}. "
            f"Received: {sorted(received)}"
        )


def _same_attribute(first: Any, second: Any) -> bool:
    if isinstance(first, np.ndarray) or isinstance(second, np.ndarray):
        first, second = np.asarray(first), np.asarray(second)
        nan = first.dtype.kind == "f" and second.dtype.kind == "f"
        return bool(np.array_equal(first, second, equal_nan=nan))
    return bool(first == second or (first != first and second != second))


def _bytes(array: Array) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _pwrite(descriptor: int, offset: int, array: Array) -> None:
    left = _bytes(array)
    while left:
        written = os.pwrite(descriptor, left[:_CHUNK], offset)
        left, offset = left[written:], offset + written


def _pread(descriptor: int, extent: Extent) -> Array:
    array = np.empty(extent.shape, extent.dtype)
    flat = array.reshape(-1).view(np.uint8)
    done = 0
    while done < flat.size:
        piece = os.pread(descriptor, min(flat.size - done, _CHUNK), extent.offset + done)
        if not piece:
            raise OSError(errno.EIO, "The file is shorter than its header says")
        flat[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
        done += len(piece)
    return array


def _require_absent(path: str) -> None:
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, "Refusing to overwrite an existing file", path)


def _lock(path: str) -> int:
    """Take the writer's lock on a chain and return the lock's descriptor."""
    name = path + ".lock"
    try:
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise OSError(
            error.errno, f"Cannot write beside {path!r}: {error.strerror}", name
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        # a folder may be shared between machines, and a number means nothing on another one
        os.pwrite(descriptor, f"{os.getpid()} on {os.uname().nodename}".encode(), 0)
    except OSError as error:
        holder = os.pread(descriptor, 256, 0).decode(errors="replace")
        os.close(descriptor)
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise BlockingIOError(
                errno.EAGAIN, f"Another process writes to this chain (process {holder})", path
            ) from None
        raise OSError(error.errno, f"Cannot lock the chain: {error.strerror}", name) from error
    return descriptor


def _told(name: str, rows: list[int]) -> str:
    """Which rows of a column are damaged, in words."""
    first = ", ".join(map(str, rows[:_MOST_TOLD]))
    more = f" and {len(rows) - _MOST_TOLD} more" if len(rows) > _MOST_TOLD else ""
    return f"row{'s' if len(rows) > 1 else ''} {first}{more} of the column {name!r}"


def _below(prefix: str, extents: Mapping[str, Extent]) -> dict[str, Extent]:
    return {name[len(prefix) :]: e for name, e in extents.items() if name.startswith(prefix)}


def _publish(temporary: str, path: str, source: ChainStore | None) -> None:
    """Reserve a new file's space, fill it from `source` and put it durably in its place."""
    descriptor = os.open(temporary, os.O_RDWR)
    try:
        try:
            # Without this a disk that fills up later would stop a run in its last hours.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, os.fstat(descriptor).st_size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
        if source is not None:
            source._copy_to(temporary, descriptor)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(temporary, path)
    directory = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _make(path: str, plan: Plan, source: ChainStore | None = None) -> None:
    """Put a whole new file in place, empty or with the sweeps of `source`; or change nothing."""
    temporary = path + ".partial"
    try:
        plan.write(temporary)
        _publish(temporary, path, source)
    except OSError as error:
        # HDF5 says it in five lines
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise OSError(
            error.errno or errno.EIO,
            f"Cannot make a chain of {plan.nbytes / 2**20:.1f} MiB ({reason})",
            path,
        ) from error
    finally:
        if os.path.lexists(temporary):
            os.unlink(temporary)


class ChainStore:
    """A chain on disk; made by `ChainStore.create` or `ChainStore.open`.

    Example:
        >>> columns = {"theta": Column((17,)), "field": Column((32, 32, 32), "f4", every=10)}
        >>> state = {"seed": np.zeros(2, np.int32)}
        >>> with ChainStore.create("chain.h5", columns, 1000, state, {"grid": 32}) as chain:
        ...     chain.append({"theta": np.zeros(17)}, state)
    """

    def __init__(self, path: str, lock: int | None) -> None:
        """Read the structure of an existing chain; without a lock it cannot be written to."""
        self._path = path
        self._lock = lock
        self._descriptor: int | None = None
        self._failed = False
        self._load()

    @classmethod
    def create(
        cls,
        path: Path,
        columns: Mapping[str, Column],
        capacity: int,
        checkpoint: Mapping[str, Array],
        attributes: Mapping[str, Any],
        constants: Mapping[str, Array] | None = None,
    ) -> ChainStore:
        """Make an empty chain, its full size reserved on the disk, and open it for appending.

        Args:
            path: the file; must not exist yet, its folder must.
            columns: what is stored for every sweep. A "/" in a name makes a group.
            capacity: largest number of sweeps; `extend` raises it.
            checkpoint: a template of the state to continue from; names, shapes and types count.
            attributes: what identifies the run: strings, numbers, lists of strings, small arrays.
            constants: arrays written once.

        Returns:
            The chain, holding the writer's lock.

        Raises:
            FileExistsError: if the file exists.
            BlockingIOError: if another process is writing it.
            OSError: if the folder cannot be written to or the disk has too little space.
            ValueError: if an argument cannot be stored.
        """
        path = os.fspath(path)
        plan = Plan(columns, capacity, checkpoint, attributes, constants or {})
        if not os.path.isdir(os.path.dirname(os.path.abspath(path))):
            raise FileNotFoundError(errno.ENOENT, "The chain's folder does not exist", path)
        _require_absent(path)
        lock = _lock(path)
        try:
            _require_absent(path)
            _make(path, plan)
            return cls(path, lock)
        except BaseException:
            os.close(lock)
            raise

    @classmethod
    def open(
        cls, path: Path, mode: str = "r", expected: Mapping[str, Any] | None = None
    ) -> ChainStore:
        """Open an existing chain.

        Opening for appending verifies the newest checkpoint and rows. If they are damaged, which no
        crash of the program can do but a disk can that loses writes it has acknowledged, the chain
        falls back by one sweep with a `RuntimeWarning`, if the other slot is sound. `damage` looks
        at all rows.

        Args:
            path: the file.
            mode: "r" to read, also while another process appends, or "r+" to append.
            expected: attributes that the file must have.

        Returns:
            The chain.

        Raises:
            BlockingIOError: if `mode` is "r+" and another process is writing it.
            OSError: if the file is missing, not a chain, damaged, or may not be written to.
            ValueError: if the chain belongs to a different run, naming each differing attribute.
        """
        path = os.fspath(path)
        if mode not in ("r", "r+"):
            raise ValueError(
                f"Invalid value for argument `mode`. Expected 'r' or 'r+'. Received: mode={mode!r}"
            )
        if not os.path.isfile(path):
            raise FileNotFoundError(errno.ENOENT, "There is no chain", path)
        lock = _lock(path) if mode == "r+" else None
        store = None
        try:
            store = cls(path, lock)
            store._require_attributes(expected or {})
            if lock is not None:
                store._recover()
            return store
        except BaseException:
            if store is not None:
                store.close()
            elif lock is not None:
                os.close(lock)
            raise

    def _load(self) -> None:
        """Take over the offsets of all datasets; the HDF5 library is not needed after this."""
        flags = os.O_RDONLY if self._lock is None else os.O_RDWR
        while True:
            descriptor = os.open(self._path, flags)
            try:
                self._read_structure(os.fstat(descriptor).st_size)
                # A writer may have put an extended file in the place of the one just read.
                replaced = not os.path.samestat(os.stat(self._path), os.fstat(descriptor))
            except BaseException:
                os.close(descriptor)
                raise
            if not replaced:
                break
            os.close(descriptor)
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = descriptor
        try:
            self._require_possible_count()
        except BaseException:
            os.close(descriptor)
            self._descriptor = None
            raise

    def _require_possible_count(self) -> None:
        """Refuse a counter that fits no checkpoint: the disk has changed it."""
        while True:
            count = self.num_committed
            seals = [int(number) for number in _pread(self._current(), self._seal)[:, 0]]
            if 0 <= count <= self._capacity and (
                # one slot may be damaged, and the one of the second sweep is empty before it
                seals[count % 2] == count or (count and seals[(count - 1) % 2] == count - 1)
            ):
                return
            # a writer may have gone on between the two
            if self.num_committed == count:
                raise OSError(
                    errno.EIO,
                    f"Damaged chain: {count} sweeps committed, and checkpoints of sweeps "
                    f"{min(seals)} and {max(seals)}",
                    self._path,
                )

    def _read_structure(self, size: int) -> None:
        try:
            if not file_has_sound_heaps(self._path):
                raise ValueError("a heap of strings is damaged")
            with h5py.File(self._path, "r", locking=False) as file:
                mark = dict(file["committed"].attrs)
                if mark["format"] not in (FORMAT, FORMAT_WITHOUT_CHECKS):
                    raise ValueError(f"format {mark['format']!r} instead of {FORMAT!r}")
                self._capacity = int(mark["capacity"])
                self._attributes = {
                    name: attribute("attributes", name, value) for name, value in file.attrs.items()
                }
                datasets = datasets_of(file)
            if any(d.extent.offset + d.extent.nbytes > size for d in datasets.values()):
                raise ValueError("it is shorter than its header says")
            if mark["format"] == FORMAT:
                found = structure_checksum(datasets, self._capacity, self._attributes)
                if found != int(mark["structure"]):
                    raise ValueError("structure or attributes do not have their checksum")
            elif any(name.startswith("checks/") for name in datasets):
                raise ValueError(f"checksums in the format {FORMAT_WITHOUT_CHECKS!r}")
            self._take_over(datasets)
        except (
            OSError, KeyError, ValueError, RuntimeError, TypeError, AttributeError, OverflowError,
        ) as error:  # fmt: skip
            raise OSError(
                errno.EIO, f"Not a chain, or truncated or damaged ({error})", self._path
            ) from error

    def _take_over(self, datasets: Mapping[str, Dataset]) -> None:
        extents = {name: dataset.extent for name, dataset in datasets.items()}
        self._committed, self._seal = extents["committed"], extents["seal"]
        self._rows = _below("chain/", extents)
        self._checks = _below("checks/", extents)
        self._constants = _below("constants/", extents)
        self._constant_checks = {
            name: datasets[f"constants/{name}"].check for name in self._constants
        }
        self._slots = [_below(f"checkpoint/{slot}/", extents) for slot in range(2)]
        self._columns = {
            name: Column(extent.shape[1:], extent.dtype, datasets[f"chain/{name}"].every)
            for name, extent in self._rows.items()
        }
        # of the first format nothing else says that these fit each other
        number: np.dtype[Any] = np.dtype("<i8")
        expected: dict[str, tuple[tuple[int, ...], np.dtype[Any]]]
        expected = {"committed": ((), number), "seal": ((2, 2), number)}
        for name, column in self._columns.items():
            rows = column.num_rows(self._capacity)
            expected[f"chain/{name}"] = ((rows, *column.shape), column.dtype)
            if self._checks:
                expected[f"checks/{name}"] = ((rows,), CHECK)
        for name, (shape, dtype) in expected.items():
            if (extents[name].shape, extents[name].dtype) != (shape, dtype):
                raise ValueError(f"dataset {name!r} of shape {extents[name].shape}")
        if self._slots[0].keys() != self._slots[1].keys():
            raise ValueError("two checkpoints of different names")

    def _require_attributes(self, expected: Mapping[str, Any]) -> None:
        different = []
        for name, value in expected.items():
            if name not in self._attributes:
                different.append(f"  {name}: expected {value!r}, received none")
            elif not _same_attribute(attribute("expected", name, value), self._attributes[name]):
                different.append(
                    f"  {name}: expected {value!r}, received {self._attributes[name]!r}"
                )
        if different:
            raise ValueError(
                "Invalid value for argument `path`. Expected a chain of the same run. Received: "
                f"path={self._path!r}, the chain of a different run, with\n"
                + "\n".join(different)
                + "\nThe settings it was begun with go on with it; another folder starts anew."
            )

    def _recover(self) -> None:
        """Fall back to the sweep before if the newest checkpoint or row is damaged."""
        count = self.num_committed
        if count == 0 or (self._read_slot(count) is not None and self._has_sound_rows(count)):
            return
        if count > 1 and self._read_slot(count - 1) is None:
            raise self._damaged(count)
        warnings.warn(
            f"The checkpoint or a row of sweep {count} in {self._path!r} is damaged: continuing "
            f"from sweep {count - 1}.",
            RuntimeWarning,
            stacklevel=3,
        )
        self._commit(count - 1)

    def _has_sound_rows(self, count: int) -> bool:
        """Whether all rows that the last of so many sweeps has left have their checksums."""
        due = {name: c.num_rows(count) for name, c in self._columns.items() if count % c.every == 0}
        return not any(self._damaged_among(name, row - 1, row) for name, row in due.items())

    def _damaged_among(self, name: str, start: int, stop: int) -> list[int]:
        """Rows from `start` to `stop` of a column that do not have their checksums."""
        if name not in self._checks:
            return []
        column, found = self._rows[name], []
        step = max(1, _CHUNK // max(1, num_bytes(column.shape[1:], column.dtype)))
        for first in range(start, stop, step):
            rows = _pread(self._current(), column.rows(first, min(first + step, stop)))
            found += self._unequal(name, first, rows)
        return found

    def _unequal(self, name: str, first: int, rows: Array) -> list[int]:
        """Numbers of the rows, of which these are some, that do not have their checksums."""
        if name not in self._checks or not len(rows):
            return []
        extent = self._checks[name].rows(first, first + len(rows))
        different = of_rows(name, first, rows) != _pread(self._current(), extent)
        return [first + int(row) for row in np.flatnonzero(different)]

    def damage(self) -> list[str]:
        """Read all that is committed and compare it with its checksums.

        Returns:
            A line for every column with rows that are damaged, for the constants and for the
            checkpoint; none of a sound chain. Of the first format only the checkpoint is known.
        """
        lines = []
        for name, column in self._columns.items():
            rows = self._damaged_among(name, 0, column.num_rows(self.num_committed))
            if rows:
                lines.append(_told(name, rows))
        for name in self._constants:
            try:
                self.constant(name)
            except OSError:
                lines.append(f"the constant {name!r}")
        if self.num_committed and self._read_slot(self.num_committed) is None:
            lines.append(f"the checkpoint of sweep {self.num_committed}")
        return lines

    def _damaged(self, count: int) -> OSError:
        return OSError(
            errno.EIO,
            f"The checkpoint of sweep {count} is damaged; its rows can still be read",
            self._path,
        )

    @property
    def path(self) -> str:
        """The file."""
        return self._path

    @property
    def num_committed(self) -> int:
        """Number of sweeps that are safely on the disk."""
        return int(_pread(self._current(), self._committed))

    @property
    def capacity(self) -> int:
        """Largest number of sweeps."""
        return self._capacity

    @property
    def columns(self) -> Mapping[str, Column]:
        """What is stored for every sweep."""
        return types.MappingProxyType(self._columns)

    @property
    def attributes(self) -> Mapping[str, Any]:
        """What identifies the run."""
        return types.MappingProxyType(self._attributes)

    @property
    def nbytes(self) -> int:
        """Size of the file [bytes]."""
        return os.fstat(self._current()).st_size

    def _current(self) -> int:
        """Descriptor of the open file, the new one if a writer has extended it meanwhile."""
        if self._descriptor is None:
            raise ValueError(f"The chain {self._path!r} is closed.")
        if self._lock is None:
            try:
                replaced = not os.path.samestat(os.stat(self._path), os.fstat(self._descriptor))
            except FileNotFoundError:
                replaced = False
            if replaced:
                self._load()
        return self._descriptor

    def _writable(self) -> int:
        descriptor = self._current()
        if self._lock is None:
            raise PermissionError(errno.EACCES, "The chain is open for reading only", self._path)
        if self._failed:
            raise OSError(errno.EIO, "An earlier commit failed; open the chain again", self._path)
        return descriptor

    def append(self, rows: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> None:
        """Commit one sweep; when this returns the sweep is on the disk.

        Args:
            rows: a row of every column that is due at this sweep, with exactly its shape and type.
                Rows of columns that are not due are checked and not stored.
            checkpoint: the state after this sweep, with exactly the template's shapes and types.

        Raises:
            ValueError: if the names, shapes or types differ, or the chain is full; nothing has
                been written then.
            OSError: if writing failed. All earlier sweeps are intact; open the chain again.
        """
        descriptor = self._writable()
        sweep = self.num_committed
        if sweep >= self._capacity:
            raise ValueError(
                f"The chain {self._path!r} is full: {sweep} of {self._capacity} sweeps. Expected "
                "a call of `extend` first."
            )
        due = [name for name, column in self._columns.items() if (sweep + 1) % column.every == 0]
        _same_names("rows", {*rows, *(self._columns.keys() - {*due})}, self._columns)
        values = {
            name: _checked("rows", name, row, self._columns[name].shape, self._columns[name].dtype)
            for name, row in rows.items()
        }
        slot = self._slots[(sweep + 1) % 2]
        _same_names("checkpoint", checkpoint, slot)
        state = {
            name: _checked("checkpoint", name, value, slot[name].shape, slot[name].dtype)
            for name, value in checkpoint.items()
        }
        try:
            for name in due:
                row = (sweep + 1) // self._columns[name].every - 1
                _pwrite(descriptor, self._rows[name].rows(row, row + 1).offset, values[name])
                if name in self._checks:
                    check = of_rows(name, row, values[name][np.newaxis])
                    _pwrite(descriptor, self._checks[name].rows(row, row).offset, check)
            for name, value in state.items():
                _pwrite(descriptor, slot[name].offset, value)
            seal = self._seal.rows((sweep + 1) % 2, (sweep + 1) % 2 + 1)
            stamp = np.array([sweep + 1, of_arrays(str(sweep + 1), state)], self._seal.dtype)
            _pwrite(descriptor, seal.offset, stamp)
            os.fsync(descriptor)
            self._commit(sweep + 1)
        except OSError as error:
            raise OSError(
                error.errno,
                f"Cannot commit sweep {sweep + 1} ({error.strerror}); the sweeps before are intact",
                self._path,
            ) from error

    def _commit(self, count: int) -> None:
        try:
            _pwrite(self._writable(), self._committed.offset, np.array(count, "<i8"))
            os.fsync(self._writable())
        except BaseException:
            # What the disk now holds is unknown, so this object must not build upon it.
            self._failed = True
            raise

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Array:
        """Committed rows of one column.

        Args:
            name: the column.
            start: first row, as in a slice. Row r of a thinned column is that of sweep
                ``(r + 1) * every - 1``.
            stop: end of the rows, as in a slice.

        Returns:
            The rows, `[stop - start, *shape]`.

        Raises:
            OSError: if a row does not have its checksum, naming the rows.
            ValueError: if there is no such column.
        """
        descriptor = self._current()
        if name not in self._rows:
            raise ValueError(
                f"Invalid value for argument `name`. Expected one of {sorted(self._rows)}. "
                f"Received: name={name!r}"
            )
        count = self._columns[name].num_rows(int(_pread(descriptor, self._committed)))
        first, last, _ = slice(start, stop).indices(count)
        rows = _pread(descriptor, self._rows[name].rows(first, max(first, last)))
        damaged = self._unequal(name, first, rows)
        if damaged:
            raise OSError(
                errno.EIO,
                f"Damaged: {_told(name, damaged)}. The other rows can be read by `start` and "
                "`stop`; a run of the same seed makes the same rows again",
                self._path,
            )
        return rows

    def checkpoint(self) -> dict[str, Array] | None:
        """The state after the last committed sweep; None before the first.

        Raises:
            OSError: if it is damaged.
        """
        while True:
            count = self.num_committed
            if count == 0:
                return None
            state = self._read_slot(count)
            if state is not None:
                return state
            # A writer two sweeps ahead may have been filling the slot: then the counter has moved.
            if self.num_committed == count:
                raise self._damaged(count)

    def _read_slot(self, count: int) -> dict[str, Array] | None:
        descriptor, slot = self._current(), count % 2
        commit, crc = _pread(descriptor, self._seal)[slot]
        state = {name: _pread(descriptor, extent) for name, extent in self._slots[slot].items()}
        return state if commit == count and crc == of_arrays(str(count), state) else None

    @property
    def constants(self) -> tuple[str, ...]:
        """Names of the arrays that were written once."""
        return tuple(self._constants)

    def constant(self, name: str) -> Array:
        """One of the arrays that were written once.

        Raises:
            OSError: if it is damaged.
            ValueError: if there is no such array.
        """
        if name not in self._constants:
            raise ValueError(
                f"Invalid value for argument `name`. Expected one of {sorted(self._constants)}. "
                f"Received: name={name!r}"
            )
        constant = _pread(self._current(), self._constants[name])
        if self._constant_checks[name] not in (None, of_arrays(name, {name: constant})):
            raise OSError(errno.EIO, f"Damaged: the constant {name!r}", self._path)
        return constant

    def extend(self, new_capacity: int) -> None:
        """Make room for more sweeps, in a larger copy that replaces the file at once.

        Args:
            new_capacity: largest number of sweeps, above the present one. While the copy is made
                the disk holds both files.

        Raises:
            OSError: if the disk has too little space; the chain is as before.
        """
        self._writable()
        require_positive_integer("new_capacity", new_capacity)
        if new_capacity <= self._capacity:
            raise ValueError(
                "Invalid value for argument `new_capacity`. Expected more than the present "
                f"{self._capacity}. Received: new_capacity={new_capacity}"
            )
        template = {name: np.empty(e.shape, e.dtype) for name, e in self._slots[0].items()}
        fixed = {name: self.constant(name) for name in self._constants}
        plan = Plan(self._columns, new_capacity, template, self._attributes, fixed)
        _make(self._path, plan, self)
        self._load()

    def _copy_to(self, path: str, target: int) -> None:
        source = self._current()
        with ChainStore(path, None) as other:
            for name, column in self._columns.items():
                old, new = self._rows[name], other._rows[name]
                step = max(1, _CHUNK // max(1, num_bytes(column.shape, column.dtype)))
                count = column.num_rows(self.num_committed)
                for start in range(0, count, step):
                    rows = _pread(source, old.rows(start, min(start + step, count)))
                    _pwrite(target, new.rows(start, start).offset, rows)
                    # copied as they are, so that what is damaged stays known
                    check = (
                        _pread(source, self._checks[name].rows(start, start + len(rows)))
                        if name in self._checks
                        else of_rows(name, start, rows)
                    )
                    _pwrite(target, other._checks[name].rows(start, start).offset, check)
            pairs = [(self._seal, other._seal), (self._committed, other._committed)]
            for slot in range(2):
                pairs += [(e, other._slots[slot][name]) for name, e in self._slots[slot].items()]
            for old, new in pairs:
                _pwrite(target, new.offset, _pread(source, old))

    def close(self) -> None:
        """Close the file and give up the writer's lock."""
        descriptor, lock = self._descriptor, self._lock
        self._descriptor = self._lock = None
        for each in (descriptor, lock):
            if each is not None:
                os.close(each)

    def __enter__(self) -> ChainStore:
        """Return the chain itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the chain."""
        self.close()
