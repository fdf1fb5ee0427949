import os
import pickle
import stat

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from npe_tf.catalogue import Catalogue, read_fields

BOX_SIZES = st.floats(1e-3, 1e6)


def catalogue(num_haloes=5, box_size=10.0, seed=0):
    rng = np.random.default_rng(seed)
    return Catalogue(
        rng.uniform(0, box_size, (num_haloes, 3)), 10 ** rng.uniform(12, 15, num_haloes), box_size
    )


@st.composite
def catalogues(draw):
    box_size = draw(BOX_SIZES)
    num_haloes = draw(st.integers(1, 20))
    unit = draw(hnp.arrays(np.float64, (num_haloes, 3), elements=st.floats(0, 1)))
    mass = draw(hnp.arrays(np.float64, num_haloes, elements=st.floats(1e-300, 1e300)))
    return Catalogue(np.minimum(unit * box_size, box_size), mass, box_size)


@given(catalogues())
def test_positions_are_in_the_half_open_box(haloes):
    assert haloes.positions.min() >= 0
    assert haloes.positions.max() < haloes.box_size
    assert haloes.positions.dtype == haloes.mass.dtype == np.float64
    assert haloes.positions.shape == (len(haloes), 3)
    np.testing.assert_array_equal(haloes.log_mass, np.log(haloes.mass))


@given(catalogues(), st.integers(1, 33))
def test_every_halo_is_at_the_nearest_vertex(haloes, num_cells):
    index = haloes.voxel_index(num_cells)
    assert index.shape == (len(haloes),)
    vertices = np.stack(np.unravel_index(index, (num_cells,) * 3), axis=1)
    cell = haloes.box_size / num_cells
    for position, vertex in zip(haloes.positions, vertices, strict=True):
        for coordinate, found in zip(position, vertex, strict=True):
            distance = abs(np.arange(num_cells) * cell - coordinate)
            distance = np.minimum(distance, haloes.box_size - distance)
            assert distance[found] <= distance.min() + 1e-9 * haloes.box_size


@given(catalogues(), st.integers(1, 9))
def test_counts_by_a_loop(haloes, num_cells):
    expected = np.zeros((num_cells,) * 3, dtype=int)
    for index in haloes.voxel_index(num_cells):
        expected[np.unravel_index(index, expected.shape)] += 1
    counts = haloes.counts(num_cells)
    np.testing.assert_array_equal(counts, expected)
    assert counts.sum() == len(haloes)


def test_voxel_index_of_known_places():
    # cells of 2.5: halfway goes to the even vertex, and beyond the last vertex comes the first
    x = [0.0, 1.24, 1.25, 1.26, 3.75, 8.74, 8.76, 9.999]
    haloes = Catalogue(np.stack([x, np.zeros(8), np.zeros(8)], 1), np.ones(8), 10.0)
    np.testing.assert_array_equal(haloes.voxel_index(4) // 16, [0, 0, 0, 1, 2, 3, 0, 0])
    one = Catalogue([[2.5, 5.0, 7.5]], [1.0], 10.0)
    assert one.voxel_index(4).tolist() == [1 * 16 + 2 * 4 + 3]
    assert one.counts(4)[1, 2, 3] == 1


@pytest.mark.parametrize("num_cells", [0, -4, 2.0, "8", None, True])
def test_meshes_of_no_cells_are_refused(num_cells):
    for method in (catalogue().voxel_index, catalogue().counts):
        with pytest.raises(ValueError, match="`num_cells`.*Received: num_cells="):
            method(num_cells)


@given(BOX_SIZES, st.sampled_from([np.float32, np.float64]))
def test_a_halo_at_the_box_size_is_wrapped(box_size, dtype):
    edge = np.array([[box_size, 0, 0], [0, box_size, box_size]], dtype=dtype)
    haloes = Catalogue(edge, [1.0, 1.0], box_size)
    rounded_down = float(dtype(box_size)) < box_size
    expected = edge.astype(np.float64) if rounded_down else np.zeros((2, 3))
    np.testing.assert_array_equal(haloes.positions, expected)
    # either way it belongs to the vertices at the origin
    assert haloes.voxel_index(8).tolist() == [0, 0]


def test_integers_are_positions_too():
    haloes = Catalogue([[0, 5, 10]], [1], 10)
    assert haloes.positions.tolist() == [[0.0, 5.0, 0.0]]
    assert isinstance(haloes.box_size, float)


@given(
    st.integers(0, 19),
    st.integers(0, 2),
    st.sampled_from([-1e-9, -0.5, 10.0 + 1e-9, 11.0, 1e300, -1e300]),
)
def test_a_position_outside_the_box_is_refused(halo, axis, coordinate):
    positions = np.full((20, 3), 5.0)
    positions[halo, axis] = coordinate
    with pytest.raises(ValueError, match=r"`positions`. Expected .*\[0, box_size=10\)") as error:
        Catalogue(positions, np.ones(20), 10.0)
    assert f"in 1 of 20 haloes, first positions[{halo}]=" in str(error.value)
    assert repr(coordinate) in str(error.value)


@given(st.lists(st.integers(0, 19), min_size=1, unique=True), st.sampled_from([np.nan, np.inf]))
def test_a_position_that_is_not_finite_is_refused(chosen, value):
    positions = np.full((20, 3), 5.0)
    positions[chosen, 1] = value
    with pytest.raises(ValueError, match="`positions`. Expected finite") as error:
        Catalogue(positions, np.ones(20), 10.0)
    assert f"in {len(chosen)} of 20 haloes, first positions[{min(chosen)}]=" in str(error.value)


@given(
    st.lists(st.integers(0, 19), min_size=1, unique=True),
    st.sampled_from([np.nan, np.inf, -np.inf, 0.0, -1e12]),
)
def test_an_unphysical_mass_is_refused(chosen, value):
    mass = np.full(20, 1e13)
    mass[chosen] = value
    with pytest.raises(ValueError, match="`mass`. Expected finite and positive") as error:
        Catalogue(np.full((20, 3), 5.0), mass, 10.0)
    assert f"in {len(chosen)} of 20 haloes, first mass[{min(chosen)}]={value}" in str(error.value)


@pytest.mark.parametrize("box_size", [0.0, -1.0, np.nan, np.inf, "wide", None, [1.0, 2.0]])
def test_an_unphysical_box_is_refused(box_size):
    with pytest.raises(ValueError, match="`box_size`. Expected a positive .*Received: box_size="):
        Catalogue([[0.0, 0.0, 0.0]], [1.0], box_size)


@given(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
def test_positions_of_another_shape_are_refused(shape):
    if len(shape) == 2 and shape[1] == 3:
        shape = (*shape, 1)
    with pytest.raises(ValueError, match="`positions`. Expected shape"):
        Catalogue(np.zeros(shape), np.ones(4), 10.0)


@given(st.integers(1, 9), st.integers(0, 9))
def test_lengths_that_differ_are_refused(num_positions, num_masses):
    if num_positions == num_masses:
        num_masses += 1
    with pytest.raises(ValueError, match=f"Expected {num_positions} masses.*{num_masses} masses"):
        Catalogue(np.zeros((num_positions, 3)), np.ones(num_masses), 10.0)


@pytest.mark.parametrize(
    ("positions", "mass", "name"),
    [
        (np.zeros((0, 3)), np.zeros(0), "positions"),
        (np.zeros((2, 3)), np.ones((2, 1)), "mass"),
        ([["a", "b", "c"]], [1.0], "positions"),
        ([[0.0, 0.0, 0.0]], ["heavy"], "mass"),
        ([[0.0, 0.0, 0.0]], [1j], "mass"),
        ([[0.0, 0.0, 0.0]], [True], "mass"),
        ([[0.0, 0.0], [0.0, 0.0, 0.0]], [1.0, 1.0], "positions"),
        (None, [1.0], "positions"),
    ],
)
def test_empty_and_strange_input_is_refused(positions, mass, name):
    with pytest.raises(ValueError, match=f"`{name}`. Expected .*Received"):
        Catalogue(positions, mass, 10.0)


def test_a_catalogue_neither_changes_nor_is_changed():
    positions, mass = np.full((2, 3), 5.0), np.ones(2)
    haloes = Catalogue(positions, mass, 10.0)
    positions[:] = -1.0
    mass[:] = -1.0
    assert np.all(haloes.positions == 5.0)
    assert np.all(haloes.mass == 1.0)
    with pytest.raises(ValueError, match="read-only"):
        haloes.mass[0] = 2.0
    with pytest.raises(AttributeError):
        haloes.box_size = 20.0


def test_repr_and_pickle():
    haloes = catalogue()
    assert repr(haloes).startswith("Catalogue(5 haloes of ")
    copy = pickle.loads(pickle.dumps(haloes))
    np.testing.assert_array_equal(copy.positions, haloes.positions)


@given(catalogues(), st.data())
def test_above_keeps_order_and_the_threshold_itself(haloes, data):
    threshold = data.draw(st.sampled_from(haloes.mass.tolist()))
    kept = haloes.above(threshold)
    expected = [i for i, mass in enumerate(haloes.mass) if mass >= threshold]
    np.testing.assert_array_equal(kept.mass, haloes.mass[expected])
    np.testing.assert_array_equal(kept.positions, haloes.positions[expected])
    assert kept.box_size == haloes.box_size


def test_no_halo_above_the_threshold():
    haloes = Catalogue(np.zeros((2, 3)), [1e12, 3.5e13], 10.0)
    with pytest.raises(ValueError, match=r"`mass_threshold`.*largest of the 2 has 3.5e\+13"):
        haloes.above(1e14)


@pytest.mark.parametrize("threshold", [0.0, -1.0, np.nan, np.inf, "heavy", None])
def test_an_unphysical_threshold_is_refused(threshold):
    with pytest.raises(ValueError, match="`mass_threshold`. Expected a positive finite mass"):
        catalogue().above(threshold)


@settings(max_examples=20)
@given(haloes=catalogues())
def test_write_then_read(haloes, tmp_path_factory):
    path = tmp_path_factory.mktemp("catalogue") / "haloes.h5"
    haloes.write_hdf5(path)
    copy = Catalogue.read_hdf5(path)
    np.testing.assert_array_equal(copy.positions, haloes.positions)
    np.testing.assert_array_equal(copy.mass, haloes.mass)
    assert copy.box_size == haloes.box_size
    assert read_fields(path) == {}


def test_fields_keep_their_precision(tmp_path):
    path = tmp_path / "haloes.h5"
    single = np.random.default_rng(0).standard_normal((4, 4, 4)).astype(np.float32)
    catalogue().write_hdf5(path, fields={"delta_final": single})
    assert set(read_fields(path)) == {"delta_final"}
    assert read_fields(path)["delta_final"].dtype == np.float32
    catalogue().write_hdf5(str(path), fields={"delta_linear": single.astype(float) / 3})
    fields = read_fields(str(path))
    assert set(fields) == {"delta_linear"}
    np.testing.assert_array_equal(fields["delta_linear"], single.astype(float) / 3)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"delta": np.zeros((2, 2, 2))}, "`fields`. Expected names out of"),
        ({"delta_final": np.zeros((2, 2, 3))}, "`delta_final`. Expected shape"),
        ({"delta_final": np.zeros((0, 0, 0))}, "`delta_final`. Expected shape"),
        ({"delta_final": np.full((2, 2, 2), np.nan)}, "`delta_final`. Expected finite.*8 values"),
    ],
)
def test_bad_fields_are_refused_before_writing(tmp_path, fields, complaint):
    with pytest.raises(ValueError, match=complaint):
        catalogue().write_hdf5(tmp_path / "haloes.h5", fields=fields)
    assert os.listdir(tmp_path) == []


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "haloes.h5"
    catalogue(5).write_hdf5(path)

    def full_disk(descriptor):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        catalogue(7).write_hdf5(path)
    assert len(Catalogue.read_hdf5(path)) == 5
    assert os.listdir(tmp_path) == ["haloes.h5"]


def test_writing_replaces_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "haloes.h5"
    for num_haloes in (5, 7):
        catalogue(num_haloes).write_hdf5(path)
    assert len(Catalogue.read_hdf5(path)) == 7
    assert os.listdir(tmp_path) == ["haloes.h5"]
    with pytest.raises(FileNotFoundError, match="`path`. Expected a file in an existing folder"):
        catalogue().write_hdf5(tmp_path / "nowhere" / "haloes.h5")


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "haloes.h5"
    catalogue().write_hdf5(path)
    return path


READERS = pytest.mark.parametrize("read", [Catalogue.read_hdf5, read_fields])


@READERS
def test_a_missing_file(tmp_path, read):
    with pytest.raises(FileNotFoundError, match="`path`.*nothing.h5.*does not exist"):
        read(tmp_path / "nothing.h5")


@READERS
@pytest.mark.parametrize("content", [b"", b"# x y z mass\n1 2 3 4\n", b"\x89HDF\r\n\x1a\n"])
def test_a_file_that_is_not_hdf5(tmp_path, read, content):
    path = tmp_path / "haloes.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="`path`. Expected an HDF5 file.*haloes.txt"):
        read(path)


@READERS
def test_a_folder_and_a_truncated_file(path, read):
    with pytest.raises(ValueError, match="`path`. Expected an HDF5 file"):
        read(path.parent)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ValueError, match="`path`. Expected an HDF5 file.*truncated"):
        read(path)


@READERS
@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(path, read):
    path.chmod(stat.S_IWUSR)
    with pytest.raises(PermissionError):
        read(path)


@pytest.mark.parametrize("name", ["halos/position", "halos/mass"])
def test_a_missing_dataset_lists_what_is_there(path, name):
    with h5py.File(path, "r+") as file:
        del file[name]
        file["galaxies/position"] = [1.0]
    with pytest.raises(ValueError, match=f"Expected the dataset '{name}'") as error:
        Catalogue.read_hdf5(path)
    assert "'galaxies/position'" in str(error.value)


def test_a_group_is_not_a_dataset(path):
    with h5py.File(path, "r+") as file:
        del file["halos/mass"]
        file["halos/mass/m200"] = np.ones(5)
    with pytest.raises(ValueError, match="Expected the dataset 'halos/mass'.*'halos/mass/m200'"):
        Catalogue.read_hdf5(path)


def test_a_missing_box_size_lists_the_attributes(path):
    with h5py.File(path, "r+") as file:
        del file.attrs["box_size"]
        file.attrs["BoxSize"] = 10.0
    with pytest.raises(ValueError, match="attribute 'box_size'.*BoxSize"):
        Catalogue.read_hdf5(path)


@pytest.mark.parametrize("box_size", [10.0, np.float32(10.0), 10, [10.0], [[10.0]]])
def test_ways_to_write_a_box_size(path, box_size):
    with h5py.File(path, "r+") as file:
        file.attrs["box_size"] = box_size
    assert Catalogue.read_hdf5(path).box_size == 10.0


def test_a_box_size_given_beside_the_file(path):
    assert Catalogue.read_hdf5(path, box_size=10.0).box_size == 10.0
    with pytest.raises(ValueError, match="`box_size`.*the 10 Mpc/h of the file.*=12"):
        Catalogue.read_hdf5(path, box_size=12.0)
    with pytest.raises(ValueError, match="`box_size`.*positive"):
        Catalogue.read_hdf5(path, box_size=-10.0)
    with h5py.File(path, "r+") as file:
        del file.attrs["box_size"]
    assert Catalogue.read_hdf5(path, box_size=12.0).box_size == 12.0


@pytest.mark.parametrize("box_size", [0.0, -10.0, np.nan, [10.0, 10.0, 10.0], "wide", []])
def test_a_bad_box_size_in_a_file(path, box_size):
    with h5py.File(path, "r+") as file:
        file.attrs["box_size"] = box_size
    with pytest.raises(ValueError, match="`box_size`.*in the file .*haloes.h5"):
        Catalogue.read_hdf5(path)


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("halos/mass", [1.0, np.nan, 1.0, 1.0, -1.0], r"in 2 of 5 haloes, first mass\[1\]=nan"),
        ("halos/mass", np.ones(4), "Expected 5 masses"),
        ("halos/mass", [b"a"] * 5, "Expected an array of real numbers"),
        ("halos/position", np.full((5, 3), 10.5), "in 5 of 5 haloes"),
        ("halos/position", np.ones((3, 5)), "Expected shape"),
    ],
)
def test_bad_haloes_in_a_file_name_the_file(path, name, value, complaint):
    with h5py.File(path, "r+") as file:
        del file[name]
        file[name] = value
    with pytest.raises(ValueError, match=complaint) as error:
        Catalogue.read_hdf5(path)
    assert "haloes.h5" in str(error.value)


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (np.zeros((2, 2)), "Expected shape"),
        (np.full((2, 2, 2), np.inf), "Expected finite"),
        ([b"a"], "Expected an array of real numbers"),
    ],
)
def test_bad_fields_in_a_file(path, value, complaint):
    with h5py.File(path, "r+") as file:
        file["fields/delta_linear"] = value
    with pytest.raises(ValueError, match=f"`delta_linear`. {complaint}.*haloes.h5"):
        read_fields(path)


def test_a_damaged_dataset_names_it(path):
    with h5py.File(path, "r+") as file:
        del file["halos/mass"]
        mass = file.create_dataset(
            "halos/mass", data=np.full(5, 1e13), chunks=(5,), fletcher32=True
        )
        offset = mass.id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[offset] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ValueError, match="undamaged dataset 'halos/mass'.*haloes.h5"):
        Catalogue.read_hdf5(path)
