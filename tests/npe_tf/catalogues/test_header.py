import h5py
import numpy as np
import pytest

from npe_tf.catalogue import Catalogue
from npe_tf.catalogues.header import conflict, header_of


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ({"Om": 0.3, "Ol": 0.7, "h": 0.7, "a": 0.5}, (0.3, 0.0, 0.7, 0.5)),
        ({"Omega_M": 0.3, "Omega_L": 0.6, "h0": 0.7, "Redshift": 1}, (0.3, 0.1, 0.7, 0.5)),
        (
            {"Omega0": 0.3, "OmegaLambda": 0.7, "HubbleParam": 0.7, "z_snap": 1},
            (0.3, 0.0, 0.7, 0.5),
        ),
        ({"OMEGA_M": 0.3, "Omega_k": 0.0, "H0": 70.0, "aexp": 0.5}, (0.3, 0.0, 0.7, 0.5)),
        # what is printed with few digits is flat
        ({"Om": 0.311, "Ol": 0.689, "h": 0.7, "a": 0.5}, (0.311, 0.0, 0.7, 0.5)),
    ],
)
def test_words_of_many_codes(items, expected):
    found = header_of(items.items())
    values = [found[name] for name in ("Omega_m", "Omega_k", "h", "scale_factor")]
    np.testing.assert_allclose(values, expected, atol=1e-12)


def test_what_is_not_known_or_no_number_is_left_alone():
    items = {"h": "0.7", "seed": 3, "Omega_m": np.array([0.3, 0.3]), "a": None, "w0": np.nan,
             "sigma8": np.array([0.8]), "Omega_b": True}  # fmt: skip
    assert header_of(items.items()) == {"sigma8": 0.8}


@pytest.mark.parametrize(
    "items", [{"redshift": 1.0, "a": 1.0}, {"h": -0.7}, {"Om": 0.0}, {"h": 0.7, "H0": 68.0}]
)
def test_contradictions(items):
    with pytest.raises(ValueError, match="Expected"):
        header_of(items.items())


def test_a_conflict_is_more_than_the_digits_printed():
    header = {"Omega_m": 0.307115, "Omega_k": 0.0}
    assert not conflict(header, "Omega_m", 0.3071)
    assert conflict(header, "Omega_m", 0.31)
    assert not conflict(header, "Omega_k", 0.0)
    assert conflict(header, "Omega_k", 0.01)
    assert not conflict(header, "h", 0.7)


def test_attributes_that_are_not_understood_do_not_spoil_our_own_files(tmp_path):
    path = tmp_path / "halos.h5"
    Catalogue(np.ones((2, 3)), np.array([1e13, 2e13]), 10.0).write_hdf5(path)
    with h5py.File(path, "r+") as file:
        file.attrs["h"] = -1.0
    found = Catalogue.read(path)
    assert len(found) == 2
    assert found.header == {}
    assert "h=" in found.notes[0]
