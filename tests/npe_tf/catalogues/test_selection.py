"""Units, subhaloes and edges of the box."""

import h5py
import numpy as np
import pytest

from npe_tf.catalogue import Catalogue
from npe_tf.grid import Grid
from npe_tf.likelihood import PoissonLikelihood
from tests.npe_tf.catalogues.files import Haloes, write

PLAIN = {"length_unit": "Mpc/h", "mass_unit": "Msun/h"}


def table(path, rows, header="# x y z mass"):
    path.write_text("\n".join([header, *(" ".join(map(str, row)) for row in rows)]) + "\n")
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "halos.txt"


def test_units_are_asked_for(path):
    table(path, [(1, 2, 3, 1e13)])
    with pytest.raises(ValueError, match="--length_unit.*halos.txt"):
        Catalogue.read(path, box_size=10.0, mass_unit="Msun/h")
    with pytest.raises(ValueError, match="--mass_unit.*halos.txt"):
        Catalogue.read(path, box_size=10.0, length_unit="Mpc/h")
    with pytest.raises(ValueError, match="--box_size.*halos.txt"):
        Catalogue.read(path, **PLAIN)
    with pytest.raises(ValueError, match="--h.*halos.txt"):
        Catalogue.read(path, box_size=10.0, length_unit="Mpc", mass_unit="Msun/h")


def test_units_are_converted(path):
    table(path, [(1000, 2000, 3000, 2.5)])
    found = Catalogue.read(path, box_size=10.0, length_unit="kpc", mass_unit="1e10 Msun", h=0.5)
    np.testing.assert_allclose(found.positions, [[0.5, 1.0, 1.5]])
    np.testing.assert_allclose(found.mass, [1.25e10])
    assert "lengths in kpc (as given)" in "\n".join(found.notes)
    assert "h=0.5" in "\n".join(found.notes)


def test_the_box_of_the_header_is_in_its_own_unit(path):
    table(path, [(1000, 2000, 3000, 2e13)], "# box_size = 20 Mpc\n# h = 0.5\n# x y z mass")
    found = Catalogue.read(path, length_unit="kpc/h", mass_unit="Msun/h")
    assert found.box_size == 10.0
    table(path, [(1000, 2000, 3000, 2e13)], "# box_size = 10000\n# x y z mass")
    assert Catalogue.read(path, length_unit="kpc/h", mass_unit="Msun/h").box_size == 10.0


def test_a_unit_must_be_that_of_the_file(path):
    table(path, [(1, 2, 3, 1e13)], "x[Mpc/h]\ty[Mpc/h]\tz[Mpc/h]\tmass[Msun/h]".replace("\t", " "))
    assert Catalogue.read(path, box_size=10.0, length_unit="h^-1 Mpc").positions[0, 0] == 1.0
    with pytest.raises(ValueError, match="`length_unit`.*Mpc/h.*halos.txt.*kpc/h"):
        Catalogue.read(path, box_size=10.0, length_unit="kpc/h")


def test_the_box_must_be_that_of_the_header(tmp_path):
    path, options = write(tmp_path, "rockstar", Haloes.draw())
    assert Catalogue.read(path, box_size=100.0, **options).box_size == 100.0
    with pytest.raises(ValueError, match="`box_size`.*100 Mpc/h.*--origin.*box_size=50"):
        Catalogue.read(path, box_size=50.0, **options)


def test_coordinates_at_the_far_face_are_wrapped(path):
    table(path, [(10, 1, 1, 1e13), (1, 10.000001, -1e-7, 2e13), (9.99, 1, 1, 3e13)])
    found = Catalogue.read(path, box_size=10.0, **PLAIN)
    np.testing.assert_array_equal(found.positions, [[0, 1, 1], [1, 0, 0], [9.99, 1, 1]])
    assert "wrapped to 0: 2" in "\n".join(found.notes)


def test_coordinates_outside_are_named_with_their_line(path):
    table(path, [(1, 1, 1, 1e13), (1, 10.1, 1, 1e13), (11, 1, 1, 1e13)])
    with pytest.raises(ValueError, match=r"\[1.0, 10.1, 1.0\] in line 3 of .*halos.txt.* 1 more"):
        Catalogue.read(path, box_size=10.0, **PLAIN)


def test_only_subhaloes(path):
    table(path, [(1, 1, 1, 1e13, 5)], "# x y z mass pid")
    with pytest.raises(ValueError, match="--keep_subhaloes"):
        Catalogue.read(path, box_size=10.0, **PLAIN)


def test_a_line_of_a_halo_behind_subhaloes(path):
    table(path, [(1, 1, 1, 1e13, 5), (1, 1, 1, 1e13, -1), (1, 1, 11, 1e13, -1)], "# x y z mass pid")
    with pytest.raises(ValueError, match="line 4 of"):
        Catalogue.read(path, box_size=10.0, **PLAIN)


def test_a_sub_box(tmp_path):
    haloes = Haloes.draw(300)
    path, options = write(tmp_path, "rockstar", haloes)
    corner, size = np.array([20.0, 0.0, 50.0]), 50.0
    found = Catalogue.read(path, origin=corner, box_size=size, keep_subhaloes=True, **options)
    inside = ((haloes.positions >= corner) & (haloes.positions < corner + size)).all(axis=1)
    assert 10 < inside.sum() < 100
    np.testing.assert_allclose(found.positions, (haloes.positions - corner)[inside], rtol=1e-12)
    np.testing.assert_allclose(found.mass, haloes.mass[inside], rtol=1e-14)
    assert found.box_size == size
    assert not found.periodic
    assert not found.above(1e12).periodic
    assert any("not periodic" in note for note in found.notes)
    # its edges do not touch, which the model must know
    with pytest.raises(ValueError, match="--padding=valid"):
        PoissonLikelihood(Grid(8, size), found, 1e12, padding="periodic")
    assert PoissonLikelihood(Grid(8, size), found, 1e12, padding="valid", margin=1).num_dropped > 0


@pytest.mark.parametrize(
    ("origin", "box_size", "complaint"),
    [
        ([60.0, 0.0, 0.0], 50.0, "inside the 100 Mpc/h"),
        ([-1.0, 0.0, 0.0], 50.0, "inside the 100 Mpc/h"),
        ([0.0, 0.0], 50.0, "three finite numbers"),
        ([0.0, 0.0, np.nan], 50.0, "three finite numbers"),
        ([0.0, 0.0, 0.0], None, "--box_size"),
        ([0.0, 0.0, 0.0], 1e-3, "a halo in it"),
    ],
)
def test_no_sub_box(tmp_path, origin, box_size, complaint):
    path, options = write(tmp_path, "rockstar", Haloes.draw())
    with pytest.raises(ValueError, match=complaint):
        Catalogue.read(path, origin=origin, box_size=box_size, **options)


def test_a_sub_box_of_our_own_file(tmp_path):
    haloes = Haloes.draw(300)
    path = tmp_path / "halos.h5"
    with h5py.File(path, "w") as file:  # units are those of the layout
        file["halos/position"], file["halos/mass"] = haloes.positions, haloes.mass
        file.attrs["box_size"] = 100.0
    found = Catalogue.read(path, origin=[0.0, 0.0, 0.0], box_size=50.0)
    inside = (haloes.positions < 50.0).all(axis=1)
    np.testing.assert_array_equal(found.positions, haloes.positions[inside])


def test_columns(path):
    path.write_text("1 13 7 8 9 2e13\n2 14 4 5 6 3e13\n")
    with pytest.raises(ValueError, match=r"--columns=x=1,y=2,z=3,mass=4.*6 columns"):
        Catalogue.read(path, box_size=10.0, **PLAIN)
    columns = {"x": "3", "y": "4", "z": "5", "mass": "6"}
    found = Catalogue.read(path, columns=columns, box_size=10.0, **PLAIN)
    np.testing.assert_array_equal(found.positions, [[7, 8, 9], [4, 5, 6]])
    np.testing.assert_array_equal(found.mass, [2e13, 3e13])
    for wrong in ("0", "7", "-1", "mass", "1e0", "9" * 50):
        with pytest.raises(ValueError, match="`columns`.*mass"):
            Catalogue.read(path, columns={**columns, "mass": wrong}, box_size=10.0, **PLAIN)
    with pytest.raises(ValueError, match="`columns`.*velocity"):
        Catalogue.read(path, columns={"velocity": "3"}, box_size=10.0, **PLAIN)


def test_columns_that_could_be_meant_are_listed(path):
    table(path, [(1, 2, 3, 1e13, 2e13)], "# x y z M200c M500c")
    with pytest.raises(ValueError, match=r"--columns=mass=NAME.*\['M200c', 'M500c'\]"):
        Catalogue.read(path, box_size=10.0, **PLAIN)
    found = Catalogue.read(path, columns={"mass": "m500C"}, box_size=10.0, **PLAIN)
    assert found.mass[0] == 2e13
    table(path, [(1, 2, 3, 1e13)], "# ra dec z mass")
    with pytest.raises(ValueError, match="--columns=x=NAME.*'ra', 'dec'"):
        Catalogue.read(path, box_size=10.0, **PLAIN)


def test_one_epoch(tmp_path):
    path, options = write(tmp_path, "consistent_trees", Haloes.draw())
    text = path.read_text()
    last = text.rstrip("\n").rpartition("\n")[2]
    path.write_text(text + last.replace("0.50000", "0.60000", 1) + "\n")
    with pytest.raises(ValueError, match="one epoch.*2 scale factors from 0.5 to 0.6"):
        Catalogue.read(path, **options)


def test_no_such_format(path):
    table(path, [(1, 2, 3, 1e13)])
    with pytest.raises(ValueError, match="`format`.*'rockstar'.*format='gadget'"):
        Catalogue.read(path, "gadget")
