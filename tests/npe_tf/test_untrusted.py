"""Files that claim more than they hold, or data that are not theirs."""

import io
import zipfile

import h5py
import numpy as np
import pytest

from npe_tf.catalogues.formats import read_table
from npe_tf.catalogues.heaps import file_has_sound_heaps
from npe_tf.catalogues.npz import read_npy
from npe_tf.chain_store import ChainStore
from npe_tf.gadget import read_initial_conditions, write_initial_conditions
from npe_tf.white_noise import read_white_noise

HUGE = 10**12


def npy(shape="(4, 4, 4)", descr="<f8", values=64, version=(1, 0)):
    """An array's file with any header."""
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}"
    header += " " * (118 - len(header) - 1) + "\n"
    size = len(header).to_bytes(2 if version == (1, 0) else 4, "little")
    values = np.random.default_rng(0).standard_normal(values).tobytes()
    return b"\x93NUMPY" + bytes(version) + size + header.encode() + values


def test_arrays_are_read_as_they_are(tmp_path):
    path = tmp_path / "a.npy"
    for array in (np.arange(24.0).reshape(2, 3, 4), np.array([True, False]), np.float32(3.0)):
        for order in (np.ascontiguousarray, np.asfortranarray):
            np.save(path, order(array))
            found = read_npy(str(path))
            np.testing.assert_array_equal(found, np.load(path))
            assert found.dtype == np.load(path).dtype
    path.write_bytes(npy(version=(2, 0)))
    np.testing.assert_array_equal(read_npy(str(path)), np.load(path))


@pytest.mark.parametrize(
    "content",
    [
        npy(shape=f"({HUGE},)"),
        npy(shape="(-4, -4, 4)"),
        npy(values=63),
        npy(shape="(4, 4"),
        npy(descr="|O"),
        b"\x93NUMPY",
        b"",
    ],
    ids=["huge", "negative", "cut", "unclosed", "objects", "start", "empty"],
)
def test_headers_of_arrays_are_not_believed(tmp_path, content):
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"`path`.*Expected an .*a\.npy"):
        read_npy(str(path))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in ("x", "y", "z", "mass"):
            archive.writestr(f"{name}.npy", content)
    (tmp_path / "a.npz").write_bytes(packed.getvalue())
    with pytest.raises(ValueError, match=r"Expected .*a\.npz"):
        read_table(tmp_path / "a.npz")


def empty_chunks(file, name, shape):
    """A dataset of which nothing is stored."""
    file.create_dataset(name, shape=shape, dtype="f8", chunks=tuple(min(n, 64) for n in shape))


def test_datasets_of_which_nothing_is_stored_take_no_memory(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for name in ("x", "y", "z", "mass"):
            empty_chunks(file, name, (HUGE,))
    with pytest.raises(ValueError, match=r"of which 0 bytes are stored.*a\.h5"):
        read_table(path)
    with h5py.File(path, "w") as file:
        empty_chunks(file, "noise", (2**14, 2**14, 2**14))
    with pytest.raises(ValueError, match=r"of which 0 bytes are stored.*a\.h5"):
        read_white_noise(path)


class Cosmology:
    Omega_m, h = 0.3, 0.7


@pytest.fixture
def particles(tmp_path):
    path = tmp_path / "ics.hdf5"
    x = np.random.default_rng(0).uniform(size=(8, 3))
    write_initial_conditions(path, x, x, box_size=1.0, redshift=9.0, cosmology=Cosmology)
    return path


def test_particles_that_are_not_there_are_refused(particles):
    with h5py.File(particles, "a") as file:
        del file["PartType1/Coordinates"]
        empty_chunks(file, "PartType1/Coordinates", (HUGE, 3))
    with pytest.raises(ValueError, match=r"of which 0 bytes are stored.*ics\.hdf5"):
        read_initial_conditions(particles)


@pytest.mark.parametrize("name", ["Coordinates", "Velocities", "ParticleIDs"])
def test_particles_of_another_shape_are_refused(particles, name):
    with h5py.File(particles, "a") as file:
        del file[f"PartType1/{name}"]
        file[f"PartType1/{name}"] = np.ones((8, 2))
    with pytest.raises(ValueError, match=r"`path`.*Expected .*shapes.*"):
        read_initial_conditions(particles)


@pytest.mark.parametrize("kind", ["external", "virtual", "link"])
def test_data_of_other_files_are_not_read(tmp_path, kind):
    secret, path = tmp_path / "secret", tmp_path / "a.h5"
    np.ones(64).tofile(secret)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["noise"] = np.ones((4, 4, 4))
    with h5py.File(path, "w") as file:
        if kind == "external":
            file.create_dataset("noise", (4, 4, 4), "f8", external=[(secret, 0, 512)])
        elif kind == "virtual":
            layout = h5py.VirtualLayout((4, 4, 4), "f8")
            layout[...] = h5py.VirtualSource(tmp_path / "b.h5", "noise", (4, 4, 4))
            file.create_virtual_dataset("noise", layout)
        else:
            file["noise"] = h5py.ExternalLink(tmp_path / "b.h5", "noise")
    with pytest.raises(ValueError, match=r"in the file itself"):
        read_white_noise(path, dataset="noise")


def test_heaps_that_hdf5_would_walk_through_for_ever_are_refused(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for name in ("x", "y", "z", "mass"):
            file[name] = np.linspace(1.0, 2.0, 4)
        for number in range(3):
            file.attrs[f"text {number}"] = "Mpc/h"[: 3 + number]
    whole = path.read_bytes()
    assert file_has_sound_heaps(str(path))
    assert len(read_table(path).mass) == 4
    heap = whole.index(b"GCOL")
    # the second of three objects of 16 + 8 bytes; the third is free space, then there are zeros
    size = heap + 16 + 24 + 8
    assert whole[size : size + 8] == (4).to_bytes(8, "little")
    damaged = bytearray(whole)
    damaged[size] ^= 64
    path.write_bytes(damaged)
    assert not file_has_sound_heaps(str(path))
    with pytest.raises(ValueError, match=r"a damaged heap of strings.*a\.h5"):
        read_table(path)
    with pytest.raises(OSError, match=r"a heap of strings is damaged.*a\.h5"):
        ChainStore.open(path)


def test_heaps_at_the_ends_of_a_large_file_are_found(tmp_path):
    heap = b"GCOL\x01\0\0\0" + (4096).to_bytes(8, "little") + bytes(4080)
    path = tmp_path / "large"
    for place in (0, 2**27 - len(heap)):
        with open(path, "wb") as file:  # with a hole
            file.truncate(2**27)
            file.seek(place)
            file.write(heap)
        assert not file_has_sound_heaps(str(path))
