"""No file gives anything but a clear error or a correct catalogue."""

import gzip
import io
import zipfile

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from npe_tf.catalogue import Catalogue, read_fields
from tests.npe_tf.catalogues.files import WRITERS, Haloes, write

TEXT = ["rockstar", "consistent_trees", "pinocchio", "comma_separated", "white_space"]
SHARED = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
HALOES = Haloes.draw()


def attempt(path, options):
    """The catalogue of a file, or None after an error on one line with its name."""
    try:
        return Catalogue.read(path, keep_subhaloes=True, **options)
    except (ValueError, OSError) as error:
        message = str(error)
        assert path.name in message, message
        assert "\n" not in message, message
        assert len(message) < 10_000
        return None


def is_part(found):
    """Whether what was read are haloes of the original, numbers and order kept."""
    if found is None:
        return True
    where = [np.flatnonzero(np.isclose(HALOES.mass, m, rtol=1e-12)) for m in found.mass]
    if any(len(w) != 1 for w in where):
        return False
    index = np.concatenate(where)
    return bool(
        np.all(np.diff(index) > 0)
        and np.allclose(found.positions, HALOES.positions[index], rtol=1e-12)
    )


@pytest.mark.parametrize("name", WRITERS)
@given(share=st.floats(0.0, 1.0, exclude_max=True), compressed=st.booleans())
@SHARED
def test_truncated(tmp_path, name, share, compressed):
    path, options = write(tmp_path, name, HALOES, compressed)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    found = attempt(path, options)
    assert is_part(found)
    assert not compressed or found is None


@pytest.mark.parametrize("name", TEXT)
@pytest.mark.parametrize("change", ["fewer", "more", "nan", "inf", "word", "negative mass"])
def test_a_wrong_line_is_named(tmp_path, name, change):
    path, options = write(tmp_path, name, HALOES)
    lines = path.read_text().splitlines()
    delimiter = "," if name == "comma_separated" else " "
    fields = [field for field in lines[-2].split(delimiter) if field]
    mass = {"rockstar": 2, "consistent_trees": 6, "pinocchio": 1, "comma_separated": 4}.get(name, 0)
    if change == "fewer":
        del fields[-1]
    elif change == "more":
        fields.append("1")
    else:
        fields[mass] = {"negative mass": "-1e13"}.get(change, change)
    lines[-2] = delimiter.join(fields)
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=f"line {len(lines) - 1} of .*{path.name}"):
        Catalogue.read(path, keep_subhaloes=True, **options)


@pytest.mark.parametrize("name", TEXT)
@pytest.mark.parametrize("end", ["\r\n", "\r", "mixed"])
def test_ends_of_lines_do_not_matter(tmp_path, name, end):
    path, options = write(tmp_path, name, HALOES)
    lines = path.read_text().splitlines()
    ends = ["\r\n", "\r", "\n"] if end == "mixed" else [end]
    text = "".join(line + ends[i % len(ends)] for i, line in enumerate(lines))
    path.write_bytes(text.encode())
    found = Catalogue.read(path, keep_subhaloes=True, **options)
    np.testing.assert_allclose(found.mass, HALOES.mass, rtol=1e-14)
    np.testing.assert_allclose(found.positions, HALOES.positions, rtol=1e-14)


@pytest.mark.parametrize("format", ["auto", "hdf5", "rockstar", "pinocchio", "text", "npz"])
@given(data=st.binary(max_size=300))
@SHARED
def test_garbage(tmp_path, format, data):
    path = tmp_path / "garbage.dat"
    path.write_bytes(data)
    assert attempt(path, {"format": format, "box_size": 100.0}) is None


@pytest.mark.parametrize("format", ["fits", "ecsv"])
@given(data=st.binary(max_size=300))
@SHARED
def test_garbage_for_astropy(tmp_path, format, data):
    pytest.importorskip("astropy")
    path = tmp_path / "garbage.dat"
    path.write_bytes(data)
    assert attempt(path, {"format": format, "box_size": 100.0}) is None


@pytest.mark.parametrize("name", ["hdf5", "npz", "fits", "ecsv", "rockstar", "pinocchio"])
@given(where=st.floats(0.0, 1.0, exclude_max=True), value=st.integers(1, 255))
@SHARED
def test_a_changed_byte_raises_nothing_else(tmp_path, name, where, value):
    path, options = write(tmp_path, name, HALOES)
    data = bytearray(path.read_bytes())
    data[int(where * len(data))] ^= value
    path.write_bytes(data)
    found = attempt(path, options)
    # what one byte of a number without a checksum may change is a number
    assert found is None or 0 < len(found) <= len(HALOES.mass)


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """Bytes of a file in our own layout."""
    path = tmp_path_factory.mktemp("ours") / "ours.h5"
    catalogue = Catalogue(HALOES.positions, HALOES.mass, 100.0, header={"Omega_m": 0.3})
    catalogue.write_hdf5(path, fields={"delta_linear": np.zeros((4, 4, 4))})
    return path.read_bytes()


@given(
    where=st.lists(
        st.tuples(st.floats(0.0, 1.0, exclude_max=True), st.integers(1, 255)), max_size=3
    ),
    share=st.floats(0.0, 1.0),
)
@settings(SHARED, max_examples=100)
def test_our_own_files_spoiled(tmp_path, ours, where, share):
    path = tmp_path / "ours.h5"
    data = bytearray(ours)
    for place, value in where:  # most of the structure is in the first part
        data[int(place**2 * len(data))] ^= value
    path.write_bytes(data if share > 0.5 else data[: int(2 * share * len(data))])
    attempt(path, {})
    try:
        read_fields(path)
    except (ValueError, OSError) as error:
        assert path.name in str(error) and "\n" not in str(error)


@given(text=st.text(alphabet="0123456789.eE+-nainf xyzm#,;=:\t\n\r\"'()[]/_", max_size=400))
@SHARED
def test_lines_of_signs(tmp_path, text):
    path = tmp_path / "signs.txt"
    path.write_bytes(text.encode())
    attempt(path, {"box_size": 100.0, "length_unit": "Mpc/h", "mass_unit": "Msun/h"})


def test_empty(tmp_path):
    path = tmp_path / "empty.list"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="an empty file in .*empty.list"):
        Catalogue.read(path)
    path.write_bytes(gzip.compress(b""))
    with pytest.raises(ValueError, match="an empty file in .*empty.list"):
        Catalogue.read(path)


@pytest.mark.parametrize("name", TEXT)
def test_no_haloes(tmp_path, name):
    path, options = write(tmp_path, name, Haloes.draw(0))
    with pytest.raises(ValueError, match="at least one halo"):
        Catalogue.read(path, **options)


def test_there_is_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.list.*does not exist"):
        Catalogue.read(tmp_path / "nowhere.list")
    with pytest.raises(ValueError, match="not a file"):
        Catalogue.read(tmp_path)


def test_a_line_without_end(tmp_path):
    path = tmp_path / "long.txt"
    path.write_bytes(b"1 " * 2**20)
    with pytest.raises(ValueError, match="lines of at most .* line 1"):
        Catalogue.read(path)


def test_a_huge_header(tmp_path):
    path, options = write(tmp_path, "rockstar", HALOES)
    first, rest = path.read_bytes().split(b"\n", 1)
    path.write_bytes(first + b"\n" + b"#\n" * 20_000 + rest)
    with pytest.raises(ValueError, match="fewer comments"):
        Catalogue.read(path, **options)


def test_a_number_with_an_underscore_is_none(tmp_path):
    path = tmp_path / "underscore.txt"
    path.write_text("# x y z mass\n1 2 3 1_0e13\n")
    with pytest.raises(ValueError, match="1_0e13.*line 2"):
        Catalogue.read(path, box_size=100.0, length_unit="Mpc/h", mass_unit="Msun/h")


def test_hdf5_that_claims_more_than_it_stores(tmp_path):
    for name, position in {"ours.h5": "halos/position", "other.h5": "Group/pos"}.items():
        path = tmp_path / name
        with h5py.File(path, "w") as file:
            file.create_dataset(position, (2**40, 3), "f8", chunks=(1024, 3))
            file["halos/mass"] = np.ones(3)
            file.attrs["box_size"] = 100.0
        columns = None if name == "ours.h5" else {"position": position}
        with pytest.raises(ValueError, match="bytes"):
            Catalogue.read(path, columns=columns, length_unit=columns and "Mpc/h")


def npz_with(**members):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return out.getvalue()


def npy(array, shape=None):
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    if shape is None:
        return out.getvalue()
    claims = io.BytesIO()
    header = {"descr": array.dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(claims, header)
    return claims.getvalue() + array.tobytes()


def test_npz_that_claims_more_than_it_stores(tmp_path):
    path = tmp_path / "claims.npz"
    path.write_bytes(npz_with(pos=npy(np.ones((4, 3)), (4 * 10**14, 3)), mass=npy(np.ones(4))))
    with pytest.raises(ValueError, match="'pos'.*claims.npz"):
        Catalogue.read(path)


def test_nothing_is_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    path = tmp_path / "trap.npz"
    mass = np.array([Trap()] * 4, dtype=object)
    path.write_bytes(npz_with(pos=npy(np.ones((4, 3))), mass=npy(mass)))
    with pytest.raises(ValueError, match="'mass'.*trap.npz"):
        Catalogue.read(path)
