"""Gives damaged and hostile files to everything that reads files of others.

Usage: ``python -m tests.fuzz --seconds 600``, or ``make fuzz``. Needs the extra ``fuzz`` (atheris,
which steers by the lines of code that an input reaches); with ``--engine mutation``, or where
atheris is not installed, valid files are changed at random.

A reader may return, or raise OSError or ValueError, the latter in the house's words. Anything else
is a finding: another exception, a MemoryError (memory is limited, so a header that claims 10^12
rows must be refused by what the file has), a crash, an input that takes more than 20 s. The input
of a finding is kept in the folder that ``--findings`` names, and is shown by ``--replay FILE``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import warnings
import zlib
from pathlib import Path

try:
    import atheris
except ImportError:
    atheris = None

# what is to be steered by must be imported within
with atheris.instrument_imports(include=["npe_tf"]) if atheris else contextlib.nullcontext():
    from npe_tf.catalogue import Catalogue
    from npe_tf.catalogues.formats import read_table
    from npe_tf.chain_store import ChainStore, Column
    from npe_tf.gadget import read_initial_conditions, write_initial_conditions
    from npe_tf.white_noise import read_white_noise

import h5py
import numpy as np

SPARE = 2 << 30
"""Memory that a reader may take [bytes]."""

PATIENCE = 20
"""Longest time for one input [s]."""


def read_chain(path: str) -> None:
    """Read all of a chain."""
    with ChainStore.open(path) as store:
        for name in store.columns:
            store.read(name)
        for name in store.constants:
            store.constant(name)
        store.checkpoint()


READERS = [
    read_table,
    Catalogue.read_hdf5,
    read_chain,
    read_white_noise,
    read_initial_conditions,
    lambda path: read_table(path, "text", {"x": "1", "y": "2", "z": "3", "mass": "4"}),
]


def valid_files(folder: Path) -> list[tuple[int, bytes]]:
    """Numbers of readers, and files that they read."""
    rng = np.random.default_rng(0)
    positions, mass = rng.uniform(0, 100, (20, 3)), rng.uniform(1e12, 1e14, 20)
    found: list[tuple[int, bytes]] = []

    def add(reader: int, name: str) -> None:
        found.append((reader, (folder / name).read_bytes()))

    catalogue = Catalogue(positions, mass, 100.0)
    catalogue.write_hdf5(folder / "ours.h5")
    add(1, "ours.h5")
    with h5py.File(folder / "other.hdf5", "w") as file:
        file.attrs["BoxSize"], file.attrs["Redshift"] = 100.0, 0.5
        for name, column in zip("xyz", positions.T, strict=True):
            file.create_dataset(f"Group/{name}", data=column, chunks=(7,), compression="gzip")
        file["Group/mass"] = mass
    add(0, "other.hdf5")
    np.savez(folder / "a.npz", x=positions[:, 0], y=positions[:, 1], z=positions[:, 2], mass=mass)
    add(0, "a.npz")
    np.savez_compressed(folder / "b.npz", pos=positions, mass=mass, box_size=100.0)
    add(0, "b.npz")
    rows = "".join(
        f"{n} {x:.3f} {y:.3f} {z:.3f} {m:.4g} -1\n"
        for n, ((x, y, z), m) in enumerate(zip(positions, mass, strict=True))
    )
    texts = {
        "rockstar": "#ID X Y Z Mvir PID\n#a = 0.5\n#Om = 0.3; Ol = 0.7; h = 0.7\n"
        "#Box size: 100.000000 Mpc/h\n" + rows,
        "pinocchio": "# Group catalog for redshift 0.5 and minimal mass of 10 particles\n"
        "#    1) group ID\n#    2- 4) final position (Mpc/h)\n#    5) group mass (Msun/h)\n"
        "#    6) flag\n" + rows,
        "csv": "# box_size = 100 Mpc/h\nid,x [Mpc/h],y [Mpc/h],z [Mpc/h],mass [Msun/h],pid\n"
        + rows.replace(" ", ","),
        "ecsv": "# %ECSV 1.0\n# ---\n# datatype:\n"
        + "".join(f"# - {{name: {n}, datatype: float64}}\n" for n in ["id", *"xyz", "mass", "pid"])
        + "id x y z mass pid\n" + rows,
    }  # fmt: skip
    for text in texts.values():
        found.append((0, text.encode()))
    compressed = zlib.compressobj(wbits=31)
    found.append((0, compressed.compress(texts["csv"].encode()) + compressed.flush()))
    found.append((5, b"1 2 3 1e12\n4 5 6 1e13\n"))
    with contextlib.suppress(ImportError):
        from astropy.table import Table

        table = Table(
            {"x": positions[:, 0], "y": positions[:, 1], "z": positions[:, 2], "mass": mass}
        )
        table.write(folder / "a.fits")
        add(0, "a.fits")
    state = {"a": np.arange(3.0), "b": np.int64(4)}
    columns = {"theta": Column((2,)), "field": Column((2, 2), np.float32, every=2)}
    chain = ChainStore.create(folder / "c.h5", columns, 6, state, {"n": 4, "names": ["a", "b"]})
    with chain:
        for _ in range(3):
            chain.append({"theta": np.ones(2), "field": np.ones((2, 2), np.float32)}, state)
    add(2, "c.h5")
    np.save(folder / "n.npy", rng.standard_normal((4, 4, 4)).astype(np.float32))
    add(3, "n.npy")
    with h5py.File(folder / "n.h5", "w") as file:
        file["noise"] = rng.standard_normal((4, 4, 4))
    add(3, "n.h5")
    noise = rng.standard_normal((4, 4, 4)).astype("<f4")
    record = struct.pack("<i", 64)
    header = struct.pack("<6i", 16, 4, 4, 4, 1, 16)
    found.append((3, header + b"".join(record + plane.tobytes() + record for plane in noise)))

    class Cosmology:
        Omega_m, h = 0.3, 0.7

    write_initial_conditions(
        folder / "ics.hdf5", positions, positions, box_size=100.0, redshift=9.0, cosmology=Cosmology
    )
    add(4, "ics.hdf5")
    return found


def run_one(data: bytes) -> None:
    """Give an input to a reader; the first byte says to which."""
    if len(data) < 2:
        return
    path = os.path.join(SCRATCH, "input")
    with open(path, "wb") as file:
        file.write(data[1:])
    signal.alarm(PATIENCE)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            READERS[data[0] % len(READERS)](path)
    except OSError:
        pass
    except ValueError as error:
        # words of a library alone do not tell what is wrong with which file
        if "Expected" not in str(error):
            raise
    finally:
        signal.alarm(0)


SIZES = [0, 1, -1, 127, 255, 2**15, 2**31 - 1, -(2**31), 10**12, 2**63 - 1, -(2**63)]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """A valid input with a few changes: bits, runs of bytes, sizes, a cut, a copy of a part."""
    new = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        at, kind = rng.randrange(1, len(new)), rng.randrange(6)
        length = rng.choice((1, 2, 8, 64))
        if kind == 0:
            new[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            new[at : at + length] = rng.randbytes(length)
        elif kind == 2:
            width = rng.choice((2, 4, 8))
            size = (rng.choice(SIZES) % 2 ** (8 * width)).to_bytes(
                width, rng.choice(("little", "big"))
            )
            new[at : at + width] = size
        elif kind == 3:
            new[at:at] = rng.choice((b"9" * 12, b"-", b"nan", b"1e999", b"\n", b"#", b"\0", b","))
        elif kind == 4 and len(new) > 8:
            del new[at : at + length]
        else:
            start = rng.randrange(len(new))
            new[at:at] = new[start : start + length]
        if len(new) < 2:
            return bytes(data)
    return bytes(new)


def mutation_engine(corpus: list[bytes], seconds: float, seed: int, findings: Path) -> int:
    """Change valid inputs at random; the number of findings."""
    rng, count = random.Random(seed), 0
    kinds: dict[str, int] = {}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        data = mutated(rng.choice(corpus), rng)
        (findings / "last").write_bytes(data)  # what is left if the process crashes
        count += 1
        try:
            run_one(data)
        except BaseException as error:
            place = error.__traceback__
            while place and place.tb_next:
                place = place.tb_next
            kind = f"{type(error).__name__} {place.tb_frame.f_code.co_name if place else ''}"
            kinds[kind] = kinds.get(kind, 0) + 1
            if kinds[kind] == 1:
                name = findings / f"finding-{len(kinds)}"
                name.write_bytes(data)
                print(f"{kind}: {str(error)[:300]} ({name})", flush=True)
            if isinstance(error, KeyboardInterrupt):
                break
    (findings / "last").unlink(missing_ok=True)
    print(f"Done {count} runs in {seconds:.0f} second(s); findings: {kinds or 'none'}")
    return len(kinds)


def main() -> None:
    """Fuzz."""
    global SCRATCH
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--engine", choices=["atheris", "mutation"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--findings", type=Path, default=Path("runs/fuzz"))
    parser.add_argument("--replay", type=Path)
    options = parser.parse_args()
    engine = options.engine or ("atheris" if atheris else "mutation")

    class TooLong(Exception):
        """Not an OSError, which readers may raise."""

    def alarm(signum: int, frame: object) -> None:
        raise TooLong(f"an input took more than {PATIENCE} s")

    signal.signal(signal.SIGALRM, alarm)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + SPARE, resource.RLIM_INFINITY))
    options.findings.mkdir(parents=True, exist_ok=True)
    shared = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=shared) as SCRATCH:
        if options.replay:
            run_one(options.replay.read_bytes())
            return
        folder = Path(SCRATCH) / "valid"
        folder.mkdir()
        corpus = [bytes([reader]) + data for reader, data in valid_files(folder)]
        for data in corpus:
            run_valid(data)
        if engine == "mutation":
            sys.exit(bool(mutation_engine(corpus, options.seconds, options.seed, options.findings)))
        seeds = Path(SCRATCH) / "corpus"
        seeds.mkdir()
        for number, data in enumerate(corpus):
            (seeds / str(number)).write_bytes(data)
        atheris.Setup(
            [
                sys.argv[0], str(seeds), f"-max_total_time={options.seconds}",
                f"-seed={options.seed + 1}", "-max_len=65536", "-print_final_stats=1",
                f"-artifact_prefix={options.findings}/", "-verbosity=0",
            ],
            run_one,
        )  # fmt: skip
        atheris.Fuzz()


def run_valid(data: bytes) -> None:
    """The valid files must be read, or the fuzzer would see no more than the first refusal."""
    path = os.path.join(SCRATCH, "input")
    Path(path).write_bytes(data[1:])
    READERS[data[0]](path)


SCRATCH = ""

if __name__ == "__main__":
    main()
