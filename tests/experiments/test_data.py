"""Where flags and headers speak of the same numbers."""

import json

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import data, infer  # noqa: F401  (defines the flags)
from npe_tf.catalogue import Catalogue
from npe_tf.cosmology import Cosmology

FLAGS = flags.FLAGS


@pytest.fixture
def parse():
    """Parses a command line; what was parsed is forgotten after the test."""
    with flagsaver.flagsaver():
        yield lambda *arguments: FLAGS(["infer", "--output=run", *arguments])


def catalogue(mass=(3e12, 4e13), **header):
    return Catalogue(np.ones((2, 3)), np.array(mass), 10.0, header=header)


def test_the_header_counts_where_flags_are_silent(parse):
    parse("--sigma8=0.9")
    values, line = data.parameters_of(catalogue(Omega_m=0.25, scale_factor=0.5, sigma8=0.9001))
    assert values["Omega_m"] == 0.25
    assert values["scale_factor"] == 0.5
    assert values["sigma8"] == 0.9  # the flag, within what headers print
    assert values["h"] == Cosmology().h
    assert "scale_factor=0.5, Omega_m=0.25 (header)" in line
    assert "sigma8=0.9 (flags)" in line
    assert "h=0.68" in line and line.endswith("(defaults)")


def test_flags_must_agree_with_the_header(parse):
    parse("--Omega_m=0.3", "--catalogue=halos.list")
    with pytest.raises(ValueError, match="`Omega_m`.*Omega_m=0.25.*halos.list.*--Omega_m=0.3"):
        data.parameters_of(catalogue(Omega_m=0.25))
    parse("--Omega_m=0.3", "--nouse_header")
    assert data.parameters_of(catalogue(Omega_m=0.25, h=0.7))[0]["Omega_m"] == 0.3
    assert data.parameters_of(catalogue(Omega_m=0.25, h=0.7))[0]["h"] == Cosmology().h


def test_a_default_that_the_header_confirms_stays_to_the_last_bit(parse):
    parse()
    value = np.nextafter(np.nextafter(Cosmology().Omega_m, 1), 1)
    assert data.parameters_of(catalogue(Omega_m=value))[0]["Omega_m"] == Cosmology().Omega_m


def test_runs_of_before_remember_nothing_new(parse):
    parse("--catalogue=halos.h5", "--box_size=10")
    assert data.reading_attributes() == {}


def test_what_a_run_remembers_reads_the_same_catalogue(parse):
    parse(
        "--columns=x=1,y=2, z=3,mass=Group/M 200", "--length_unit=kpc/h", "--origin=1,2.5,3",
        "--keep_subhaloes",
    )  # fmt: skip
    remembered = json.loads(data.reading_attributes()["catalogue_reading"])
    options = data.reading_options(remembered)
    assert options == data.reading_options(data.reading_from_flags())
    assert options == {
        "columns": {"x": "1", "y": "2", "z": "3", "mass": "Group/M 200"},
        "length_unit": "kpc/h",
        "origin": (1.0, 2.5, 3.0),
        "keep_subhaloes": True,
    }


@pytest.mark.parametrize("pairs", ["x", "x=1,x=2", "=3"])
def test_columns_that_are_not_written_as_such(parse, pairs):
    parse(f"--columns={pairs}")
    with pytest.raises(ValueError, match="`columns`"):
        Catalogue.read(__file__, **data.reading_options(data.reading_from_flags()))


def test_a_threshold_far_below_the_haloes_is_warned_of(parse):
    parse("--catalogue=halos.list", "--mass_threshold=2e12")
    assert not any("warning" in note for note in data.notes_of(catalogue()))
    notes = data.notes_of(catalogue(mass=(4e12, 5e12)))
    assert any("warning" in note and "4e+12" in note for note in notes)


def test_the_shipped_catalogue_is_read_without_a_word(parse):
    parse()
    assert data.notes_of(data.read_catalogue()) == []
    assert set(data.read_truth()) == {"delta_linear", "delta_final"}


def test_the_truth_of_a_box_is_not_that_of_a_sub_box(parse):
    parse("--origin=0,0,0", "--box_size=100", "--padding=valid")
    found = data.read_catalogue()
    assert found.box_size == 100.0 and not found.periodic
    assert data.read_truth() == {}
