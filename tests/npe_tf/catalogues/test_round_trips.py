"""Every format against the haloes that a file was written from."""

import gzip
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from npe_tf.catalogue import Catalogue
from tests.npe_tf.catalogues.files import WRITERS, Haloes, write

EXTERNAL = os.environ.get("NPE_TF_EXTERNAL_CATALOGUES")
external = pytest.mark.skipif(
    EXTERNAL is None, reason="needs NPE_TF_EXTERNAL_CATALOGUES, a folder of other codes' files"
)


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", WRITERS)
def test_round_trip(tmp_path, name, compressed):
    haloes = Haloes.draw()
    has_parents, has_cosmology = WRITERS[name][2:]
    path, options = write(tmp_path, name, haloes, compressed)
    found = Catalogue.read(path, **options)
    kept = haloes.parent < 0 if has_parents else np.ones(len(haloes.mass), dtype=bool)
    np.testing.assert_allclose(found.positions, haloes.positions[kept], rtol=1e-14)
    np.testing.assert_allclose(found.mass, haloes.mass[kept], rtol=1e-14)
    assert found.box_size == 100.0
    assert found.periodic
    if name != "white_space":
        assert found.header["scale_factor"] == pytest.approx(0.5)
    if has_cosmology:
        assert found.header["Omega_m"] == pytest.approx(0.3)
        assert found.header["h"] == pytest.approx(0.7)
    assert "box_size" not in found.header
    text = "\n".join(found.notes)
    assert str(path) in text
    assert "Mpc/h" in text and "Msun/h" in text
    assert f"{len(found)} haloes" in text and "per (Mpc/h)^3" in text


@pytest.mark.parametrize("name", [name for name in WRITERS if WRITERS[name][2]])
def test_subhaloes_can_be_kept(tmp_path, name):
    haloes = Haloes.draw()
    path, options = write(tmp_path, name, haloes)
    found = Catalogue.read(path, keep_subhaloes=True, **options)
    np.testing.assert_allclose(found.mass, haloes.mass, rtol=1e-14)
    assert any("4 of them subhaloes, kept" in note for note in found.notes)


def test_another_mass_is_chosen_by_name(tmp_path):
    haloes = Haloes.draw()
    path, _ = write(tmp_path, "rockstar", haloes)
    found = Catalogue.read(path, columns={"mass": "M200b"}, keep_subhaloes=True)
    np.testing.assert_allclose(found.mass, 1.1 * haloes.mass, rtol=1e-14)


def test_our_own_files_are_read_as_before(tmp_path):
    haloes = Haloes.draw()
    path = tmp_path / "halos.h5"
    Catalogue(haloes.positions, haloes.mass, 100.0).write_hdf5(path)
    found, before = Catalogue.read(path), Catalogue.read_hdf5(path)
    np.testing.assert_array_equal(found.positions, before.positions)
    np.testing.assert_array_equal(found.mass, before.mass)
    assert found.box_size == before.box_size
    assert found.notes == before.notes == ()


def test_what_a_header_said_stays_with_the_haloes(tmp_path):
    path, options = write(tmp_path, "rockstar", Haloes.draw(100))
    found = Catalogue.read(path, origin=[0, 0, 0], box_size=80.0, **options)
    found.write_hdf5(tmp_path / "halos.h5")
    again = Catalogue.read(tmp_path / "halos.h5")
    assert again.header == found.header and found.header["Omega_m"] == 0.3
    assert not again.periodic
    assert again.box_size == 80.0
    np.testing.assert_array_equal(again.mass, found.mass)


@pytest.mark.parametrize("name", ["fits", "ecsv"])
def test_astropy_is_asked_for(tmp_path, name, monkeypatch):
    path, options = write(tmp_path, name, Haloes.draw())
    monkeypatch.setitem(sys.modules, "astropy", None)
    with pytest.raises(ImportError, match=r"pip install 'npe_tf\[formats\]'"):
        Catalogue.read(path, **options)


@external
def test_the_pinocchio_example():
    path = Path(EXTERNAL) / "pinocchio.0.0000.example.catalog.out.gz"
    with gzip.open(path, "rt") as file:
        naive = np.array([line.split() for line in file if not line.startswith("#")], dtype=float)
    found = Catalogue.read(path, box_size=500.0)
    assert len(found) == len(naive) == 9461
    np.testing.assert_array_equal(found.mass, naive[:, 1])
    positions = naive[:, 5:8]
    assert (positions == 500.0).sum() == 1  # wrapped
    np.testing.assert_array_equal(found.positions, np.where(positions == 500.0, 0.0, positions))
    assert found.header == {"scale_factor": 1.0}
    with pytest.raises(ValueError, match="--box_size"):
        Catalogue.read(path)


@external
def test_the_head_of_a_consistent_trees_list():
    path = Path(EXTERNAL) / "consistent_trees_head.list"
    rows = [line.split() for line in path.read_text().splitlines() if not line.startswith("#")]
    naive = np.array(rows, dtype=float)
    found = Catalogue.read(path)
    distinct = naive[:, 5] == -1
    np.testing.assert_array_equal(found.mass, naive[distinct, 10])
    np.testing.assert_array_equal(found.positions, naive[distinct, 17:20])
    assert found.box_size == 250.0
    assert found.header == {
        "scale_factor": 0.07812, "Omega_m": 0.307115, "h": 0.68, "Omega_k": 0.0
    }  # fmt: skip
