"""Files of white noise, written here byte by byte."""

import struct

import h5py
import numpy as np
import pytest

from npe_tf.cosmology import Cosmology
from npe_tf.grid import Grid
from npe_tf.initial_field import InitialField
from npe_tf.white_noise import read_white_noise

N = 8
NOISE = np.random.default_rng(0).standard_normal((N, N, N)).astype(np.float32)


def grafic(noise, order="<", marker="i", number="f", seed=42):
    """Records of the planes of constant z, x fastest, number by number."""
    nx, ny, nz = noise.shape

    def record(payload):
        length = struct.pack(order + marker, len(payload))
        return length + payload + length

    data = record(struct.pack(f"{order}4i", nx, ny, nz, seed))
    for z in range(nz):
        plane = [noise[x, y, z] for y in range(ny) for x in range(nx)]
        data += record(struct.pack(f"{order}{nx * ny}{number}", *plane))
    return data


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("marker", ["i", "q"])
@pytest.mark.parametrize("number", ["f", "d"])
def test_grafic(tmp_path, order, marker, number):
    path = tmp_path / "wnoise.bin"
    path.write_bytes(grafic(NOISE, order, marker, number))
    got = read_white_noise(path, num_cells=N)
    assert got.dtype == np.float64
    assert got.flags.c_contiguous
    assert got.flags.writeable
    np.testing.assert_array_equal(got, NOISE)
    np.testing.assert_array_equal(read_white_noise(path, sign=-1), -NOISE)
    np.testing.assert_array_equal(read_white_noise(path, axis_order="xyz"), NOISE.T)
    np.testing.assert_array_equal(
        read_white_noise(path, axis_order="zxy"), NOISE.transpose(1, 0, 2)
    )


def test_npy(tmp_path):
    path = tmp_path / "noise.npy"
    np.save(path, NOISE)
    np.testing.assert_array_equal(read_white_noise(str(path)), NOISE)
    # stored [z, x, y]: the element [z, x, y] of the file is [x, y, z] here
    stored = read_white_noise(path, axis_order="zxy")
    assert stored[1, 2, 3] == NOISE[3, 1, 2]


def test_hdf5(tmp_path):
    path = tmp_path / "noise.h5"
    with h5py.File(path, "w") as file:
        file["level/white"] = NOISE
    np.testing.assert_array_equal(read_white_noise(path), NOISE)
    np.testing.assert_array_equal(read_white_noise(path, dataset="level/white"), NOISE)
    with pytest.raises(ValueError, match=r"`dataset`.*level/white.*dataset='black'"):
        read_white_noise(path, dataset="black")
    with h5py.File(path, "a") as file:
        file["other"] = NOISE
    with pytest.raises(ValueError, match=r"`dataset`.*level/white.*other.*dataset=None"):
        read_white_noise(path)


def test_the_white_noise_of_a_linear_field_is_accepted(tmp_path):
    """Its Nyquist planes are empty, which lowers the variance by a tenth on 32^3."""
    field = InitialField(Grid(32, 250.0), Cosmology())
    noise = np.random.default_rng(1).standard_normal((32, 32, 32))
    emptied = field.white_noise(field(noise).numpy())
    assert emptied.var() < 0.93
    np.save(tmp_path / "noise.npy", emptied)
    np.testing.assert_allclose(read_white_noise(tmp_path / "noise.npy"), emptied)
    with pytest.raises(ValueError, match="variance 1"):
        read_white_noise(tmp_path / "noise.npy", tolerance=0.02)


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        (NOISE[:, :, :4], r"\(N, N, N\).*shape \(8, 8, 4\)"),
        (NOISE[0], r"\(N, N, N\).*shape \(8, 8\)"),
        (NOISE[:7, :7, :7], "even.*shape"),
        (np.where(NOISE.max() == NOISE, np.nan, NOISE), "finite.*1 that are NaN"),
        (NOISE + 0.5, "mean 0.*mean 0.4"),
        (1.5 * NOISE, "variance 1.*variance 2.*"),
        (0.5 * NOISE, "variance 1.*variance 0.2"),
        (NOISE.astype(int), "floating point.*int64"),
    ],
)
def test_what_is_no_white_noise_is_named(tmp_path, noise, message):
    path = tmp_path / "noise.npy"
    np.save(path, noise)
    with pytest.raises(ValueError, match="`path`.*" + message):
        read_white_noise(path)


def test_another_number_of_cells(tmp_path):
    path = tmp_path / "noise.npy"
    np.save(path, NOISE)
    with pytest.raises(ValueError, match=r"num_cells=16.*\(8, 8, 8\)"):
        read_white_noise(path, num_cells=16)


def damaged(position, value, data=None):
    data = bytearray(data or grafic(NOISE))
    data[position : position + len(value)] = value
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "16 bytes"),
        (b"no white noise, just a text of some length", "16 bytes"),
        (damaged(4, struct.pack("<i", -8)), "nx=-8"),
        (damaged(20, struct.pack("<i", 7)), "header is damaged"),
        (damaged(24, struct.pack("<i", 100)), "8 x 8 numbers has 100 bytes"),
        (grafic(NOISE)[:-300], "should have 2112 bytes and have 1812"),
        (grafic(NOISE) + b"more", "and have 2116"),
        (damaged(24 + 264, struct.pack("<i", 255)), "markers"),
        (damaged(24 + 264 - 4, struct.pack("<i", 255)), "markers"),
        (grafic(NOISE[:, :, :4]), r"shape \(4, 8, 8\)"),
        (b"\x93NUMPY\x01\x00broken", "NumPy's format"),
        (b"\x89HDF\r\n\x1a\nbroken", "HDF5"),
    ],
)
def test_damaged_files_are_named(tmp_path, data, message):
    path = tmp_path / "wnoise.bin"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="`path`.*" + message):
        read_white_noise(path)


def test_bad_arguments(tmp_path):
    with pytest.raises(FileNotFoundError, match="`path`.*nowhere"):
        read_white_noise(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="`axis_order`.*'xxy'"):
        read_white_noise(tmp_path / "x", axis_order="xxy")
    with pytest.raises(ValueError, match="`sign`.*sign=0"):
        read_white_noise(tmp_path / "x", sign=0)
