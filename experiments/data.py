"""Flags that say where the haloes are and how to read them, and what the header says of the model.

A file states some of box, units, epoch and cosmology. Flags state the rest; where both speak they
must agree.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
from absl import flags

from npe_tf.catalogue import Catalogue, read_fields
from npe_tf.catalogues.formats import FORMATS
from npe_tf.catalogues.header import conflict
from npe_tf.cosmology import Cosmology

FLAGS = flags.FLAGS

SHIPPED = "nbody_box_250"

# The amplitude is sigma8.
COSMOLOGY = tuple(f.name for f in dataclasses.fields(Cosmology) if f.name != "A_s")

# what a run must remember to read its catalogue again, where it was given
_READING = ("format", "columns", "length_unit", "mass_unit", "origin", "keep_subhaloes")


def define_data_flags() -> None:
    """Define the flags of the catalogue."""
    flags.DEFINE_string(
        "catalogue",
        SHIPPED,
        "Halo catalogue: ROCKSTAR, consistent-trees, PINOCCHIO, HDF5, CSV or other text, NumPy "
        f"npz, FITS or ECSV, also gzipped; '{SHIPPED}' is the one that comes with the package.",
    )
    flags.DEFINE_enum(
        "format", "auto", ["auto", *FORMATS], "Of the catalogue; 'auto' looks at the file."
    )
    flags.DEFINE_list(
        "columns",
        [],
        "Columns to read if they have unusual names: x=..,y=..,z=..,mass=..,parent=.. (or "
        "position=.. for three at once); for text also numbers, counted from 1.",
    )
    flags.DEFINE_string(
        "length_unit", None, "Of the positions (Mpc/h, Mpc, kpc/h, ...), if the file does not say."
    )
    flags.DEFINE_string(
        "mass_unit", None, "Of the masses (Msun/h, Msun, 1e10 Msun/h, ...), if the file does not."
    )
    flags.DEFINE_float("box_size", None, "Side of the box [Mpc/h], if the file does not say.")
    flags.register_validator(
        "box_size", lambda size: size is None or size > 0, "expected a positive length in Mpc/h"
    )
    flags.DEFINE_list(
        "origin",
        None,
        "Lowest corner x,y,z [Mpc/h] of a sub-box of --box_size to cut out; needs --padding=valid.",
    )
    flags.DEFINE_bool("keep_subhaloes", False, "Whether haloes with a parent id are used.")
    flags.DEFINE_bool(
        "use_header",
        True,
        "Whether scale factor and cosmology are taken from the file where it states them, and "
        "flags must agree with it.",
    )


def catalogue_path() -> Path:
    """The catalogue's file."""
    if FLAGS.catalogue == SHIPPED:
        from npe_tf.datasets import nbody_box_path

        return Path(nbody_box_path())
    return Path(FLAGS.catalogue)


def read_catalogue() -> Catalogue:
    """Read the catalogue and check it against the flags."""
    catalogue = Catalogue.read(
        catalogue_path(),
        box_size=FLAGS.box_size,
        h=FLAGS.h if FLAGS["h"].present else None,
        **reading_options(reading_from_flags()),
    )
    # what is wrong should show before the rest loads
    catalogue.require_padding(FLAGS.padding)
    catalogue.above(FLAGS.mass_threshold)
    parameters_of(catalogue)
    return catalogue


def reading_from_flags() -> dict[str, Any]:
    """The flags on how to read the catalogue that were given."""
    return {
        name: FLAGS[name].value for name in _READING if FLAGS[name].value != FLAGS[name].default
    }


def reading_attributes() -> dict[str, str]:
    """What a run must remember to read its catalogue again; nothing if no flag was given."""
    given = reading_from_flags()
    return {"catalogue_reading": json.dumps(given, sort_keys=True)} if given else {}


def reading_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `Catalogue.read` for flags by name.

    Raises:
        ValueError: if columns or the origin are not written as they should be.
    """
    options = dict(given)
    if "columns" in options:
        options["columns"] = _columns(options["columns"])
    if "origin" in options:
        options["origin"] = _origin(options["origin"])
    return options


def _columns(pairs: list[str]) -> dict[str, str]:
    columns = {}
    for pair in pairs:
        what, equals, name = pair.partition("=")
        if not equals or what.strip() in columns:
            raise ValueError(
                "Invalid value for argument `columns`. Expected --columns=x=NAME,y=NAME,z=NAME,"
                f"mass=NAME, each once. Received: {','.join(pairs)}"
            )
        columns[what.strip()] = name.strip()
    return columns


def _origin(written: list[str]) -> tuple[float, ...]:
    try:
        origin = tuple(float(number) for number in written)
    except ValueError:
        origin = ()
    if len(origin) != 3:
        raise ValueError(
            "Invalid value for argument `origin`. Expected three numbers x,y,z in Mpc/h. Received: "
            f"{','.join(written)}"
        )
    return origin


def parameters_of(catalogue: Catalogue) -> tuple[dict[str, float], str]:
    """Cosmology and scale factor, from the flags and the catalogue's header.

    Args:
        catalogue: as it was read.

    Returns:
        Values of the parameters of `Cosmology` and of ``"scale_factor"``, and a line that says
        which of them are whose.

    Raises:
        ValueError: if a flag that was given contradicts the header.
    """
    values: dict[str, float] = {}
    sources: dict[str, list[str]] = {"header": [], "flags": [], "defaults": []}
    header = catalogue.header if FLAGS.use_header else {}
    for name in ("scale_factor", *COSMOLOGY):
        value, source = getattr(FLAGS, name), "defaults"
        if FLAGS[name].present:
            source = "flags"
            if conflict(header, name, value):
                raise ValueError(
                    f"Invalid value for argument `{name}`. Expected the {name}={header[name]:g} of "
                    f"the header of {str(catalogue_path())!r} (--nouse_header to overrule it). "
                    f"Received: --{name}={value:g}"
                )
        elif name in header:
            source = "header"
            # a default that the header only confirms stays the same to the last bit
            if abs(header[name] - value) > 1e-9:
                value = header[name]
        values[name] = value
        sources[source].append(f"{name}={value:g}")
    told = [f"{', '.join(names)} ({source})" for source, names in sources.items() if names]
    return values, "; ".join(told)


def notes_of(catalogue: Catalogue) -> list[str]:
    """Lines on how the catalogue was read, and what may be wrong with it."""
    lines = list(catalogue.notes)
    if FLAGS.catalogue != SHIPPED:
        lines.append(parameters_of(catalogue)[1])
    lines += [f"warning: {doubt}" for doubt in catalogue.doubts(FLAGS.mass_threshold)]
    return lines


def read_truth() -> dict[str, Any]:
    """Fields of the catalogue's file, if it has any that are those of the box in use."""
    return {} if FLAGS.origin is not None else fields_of(catalogue_path())


def fields_of(path: Path, catalogue: Catalogue | None = None) -> dict[str, Any]:
    """Fields of a catalogue's file; none for a box that was cut out, or a file of other codes.

    Args:
        path: of the file.
        catalogue: what was read of it.
    """
    if (catalogue is not None and not catalogue.periodic) or not h5py.is_hdf5(path):
        return {}
    return dict(read_fields(path))


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def catalogue_of_run(run: str, moved_to: str | None = None) -> tuple[Catalogue, Path]:
    """Read the catalogue that a run is about, as the run did.

    Args:
        run: folder of the run.
        moved_to: the catalogue's file, if it is no longer where the run found it.

    Returns:
        The catalogue and its file.

    Raises:
        OSError: if there is no run or no catalogue.
        ValueError: if the file is another one.
    """
    from npe_tf.chain_store import CHAIN_FILE, ChainStore
    from npe_tf.datasets import nbody_box_path

    with ChainStore.open(Path(run) / CHAIN_FILE) as store:
        attributes = dict(store.attributes)
    shipped = Path(nbody_box_path())
    recorded = str(attributes["catalogue"])
    path = Path(moved_to or (shipped if recorded == shipped.name else recorded))
    if path.is_file() and checksum(path) != attributes["catalogue_sha256"]:
        raise ValueError(
            "Invalid value for argument `catalogue`. Expected the file the run is about (SHA-256 "
            f"{attributes['catalogue_sha256']}). Received: {path}, another file"
        )
    reading = json.loads(str(attributes.get("catalogue_reading", "{}")))
    catalogue = Catalogue.read(
        path,
        box_size=float(attributes["box_size"]),
        h=float(attributes["cosmology.h"]),
        **reading_options(reading),
    )
    return catalogue, path
