"""Gadget's initial conditions: what is in the file, in its units, and that it is never half one."""

import os
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from npe_tf.cosmology import Cosmology
from npe_tf.gadget import (
    CRITICAL_DENSITY,
    read_initial_conditions,
    write_initial_conditions,
)

RNG = np.random.default_rng(0)
POSITIONS = RNG.uniform(-50, 150, (64, 3))
VELOCITIES = RNG.normal(0, 300, (64, 3))
OPTIONS = {"box_size": 100.0, "redshift": 49.0, "cosmology": Cosmology()}


def write(path, positions=POSITIONS, velocities=VELOCITIES, **options):
    write_initial_conditions(path, positions, velocities, **{**OPTIONS, **options})


@pytest.mark.parametrize("length_unit", ["kpc/h", "Mpc/h"])
@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-14), ("float32", 1e-6)])
def test_round_trip(tmp_path, length_unit, dtype, rtol):
    path = tmp_path / "ics.hdf5"
    ids = RNG.permutation(64) + 5
    write(path, ids=ids, length_unit=length_unit, dtype=dtype)
    got = read_initial_conditions(path)
    np.testing.assert_allclose(got.positions, POSITIONS % 100.0, rtol=rtol, atol=1e-12)
    np.testing.assert_allclose(got.velocities, VELOCITIES, rtol=rtol)
    np.testing.assert_array_equal(got.ids, ids)
    assert (got.box_size, got.redshift) == (pytest.approx(100.0), 49.0)
    assert (got.Omega_m, got.Omega_lambda, got.h) == (0.315, pytest.approx(0.685), 0.68)
    assert got.mass == pytest.approx(0.315 * 2.77536627e11 * 1e6 / 64, rel=1e-12)


def test_the_file_is_in_gadgets_units(tmp_path):
    path = tmp_path / "ics.hdf5"
    write(path)
    with h5py.File(path) as file:
        assert set(file) == {"Header", "PartType1"}
        assert set(file["PartType1"]) == {"Coordinates", "Velocities", "ParticleIDs"}
        header, group = file["Header"].attrs, file["PartType1"]
        np.testing.assert_allclose(group["Coordinates"][:], POSITIONS % 100.0 * 1000)
        # u = v / sqrt(a), a = 1/50
        np.testing.assert_allclose(group["Velocities"][:], VELOCITIES * np.sqrt(50))
        np.testing.assert_array_equal(group["ParticleIDs"][:], np.arange(1, 65))
        assert group["ParticleIDs"].dtype == np.uint32
        for name, value in {
            "NumPart_ThisFile": [0, 64, 0, 0, 0, 0],
            "NumPart_Total": [0, 64, 0, 0, 0, 0],
            "NumPart_Total_HighWord": [0] * 6,
            "MassTable": [0, 0.315 * 27.7536627 * 1e6 / 64, 0, 0, 0, 0],
            "Time": 0.02,
            "Redshift": 49.0,
            "BoxSize": 100_000.0,
            "NumFilesPerSnapshot": 1,
            "Omega0": 0.315,
            "OmegaLambda": 0.685,
            "HubbleParam": 0.68,
            "Flag_Sfr": 0,
            "Flag_Cooling": 0,
            "Flag_StellarAge": 0,
            "Flag_Metals": 0,
            "Flag_Feedback": 0,
            "Flag_Entropy_ICs": 0,
            "Flag_DoublePrecision": 1,
            "UnitLength_in_cm": 3.085678e21,
            "UnitMass_in_g": 1.989e43,
            "UnitVelocity_in_cm_per_s": 1e5,
        }.items():
            np.testing.assert_allclose(header[name], value, rtol=1e-12, err_msg=name)
            if name.startswith(("Num", "Flag")):
                assert np.asarray(header[name]).dtype.kind in "iu", name
    write(path, length_unit="Mpc/h")
    with h5py.File(path) as file:
        np.testing.assert_allclose(file["PartType1/Coordinates"][:], POSITIONS % 100.0)
        assert file["Header"].attrs["BoxSize"] == 100.0


def test_the_critical_density():
    """3 H^2 / (8 pi G) with H = 100 km/s/Mpc and the constants of CODATA 2018 and the IAU."""
    gravity, sun, megaparsec = 6.6743e-11, 1.32712440018e20 / 6.6743e-11, 3.0856775814913673e22
    density = 3 * (1e5 / megaparsec) ** 2 / (8 * np.pi * gravity)
    assert density * megaparsec**3 / sun == pytest.approx(CRITICAL_DENSITY, rel=1e-6)


def test_a_mass_of_ones_own_and_a_curved_space(tmp_path):
    path = tmp_path / "ics.hdf5"
    write(path, mass=3e9, cosmology=SimpleNamespace(Omega_m=0.3, h=0.7, Omega_k=0.1))
    got = read_initial_conditions(path)
    assert got.mass == pytest.approx(3e9)
    assert got.Omega_lambda == pytest.approx(0.6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nothing_lies_on_the_far_face(tmp_path, dtype):
    """Not even what rounds to it: just below the box size, or just below zero."""
    edge = np.array([[100.0, np.nextafter(100.0, 0), -1e-30], [99.9999999, 200.0, -100.0]])
    write(tmp_path / "ics.hdf5", edge, np.zeros((2, 3)), dtype=dtype)
    with h5py.File(tmp_path / "ics.hdf5") as file:
        stored = file["PartType1/Coordinates"][:]
        assert np.all((stored >= 0) & (stored < file["Header"].attrs["BoxSize"]))
    got = read_initial_conditions(tmp_path / "ics.hdf5").positions
    distance = np.abs(got - edge) % 100
    assert np.all(np.minimum(distance, 100 - distance) < 1e-5)


def test_numbers_of_64_bits(tmp_path):
    ids = np.arange(64) + 2**32
    write(tmp_path / "ics.hdf5", ids=ids)
    got = read_initial_conditions(tmp_path / "ics.hdf5").ids
    assert got.dtype == np.uint64
    np.testing.assert_array_equal(got, ids)


class Crash(Exception):
    pass


@pytest.mark.parametrize("at", ["replace", "fsync", "group"])
def test_a_crash_leaves_the_old_file(tmp_path, monkeypatch, at):
    path = tmp_path / "ics.hdf5"
    write(path)
    before = path.read_bytes()

    def crash(*args, **kwargs):
        raise Crash

    owner, name = (h5py.File, "create_group") if at == "group" else (os, at)
    monkeypatch.setattr(owner, name, crash)
    with pytest.raises(Crash):
        write(path, velocities=VELOCITIES + 1)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["ics.hdf5"]
    monkeypatch.undo()
    write(path, velocities=VELOCITIES + 1)
    np.testing.assert_allclose(read_initial_conditions(path).velocities, VELOCITIES + 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"positions": POSITIONS[:, :2]}, r"`positions`.*\(64, 2\)"),
        ({"positions": np.zeros((0, 3))}, "`positions`.*P > 0"),
        ({"positions": [["a", "b", "c"]]}, "`positions`.*real numbers"),
        ({"positions": np.where(POSITIONS > 149, np.nan, POSITIONS)}, r"`positions`.*NaN.*first"),
        ({"velocities": VELOCITIES[:5]}, r"`velocities`.*64 vectors.*\(5, 3\)"),
        ({"velocities": np.full((64, 3), np.inf)}, "`velocities`.*64 of 64"),
        ({"box_size": 0.0}, "`box_size`"),
        ({"redshift": -1.0}, "`redshift`"),
        ({"redshift": None}, "`redshift`"),
        ({"mass": -1e10}, "`mass`"),
        ({"ids": np.arange(63)}, "`ids`.*64 integers"),
        ({"ids": np.arange(64.0)}, "`ids`.*float64"),
        ({"ids": np.arange(64) - 1}, "`ids`.*not negative"),
        ({"ids": np.zeros(64, int)}, "`ids`.*1 numbers for 64"),
        ({"cosmology": SimpleNamespace(h=0.7)}, r"`cosmology`.*\['Omega_m'\]"),
        ({"cosmology": SimpleNamespace(h=0.7, Omega_m=-0.3)}, "`cosmology.Omega_m`"),
        ({"length_unit": "m"}, "`length_unit`.*'m'"),
        ({"dtype": "float16"}, "`dtype`"),
    ],
)
def test_bad_arguments_are_named_before_anything_is_written(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "ics.hdf5", **arguments)
    assert os.listdir(tmp_path) == []


def test_folders_and_files_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="existing folder"):
        write(tmp_path / "nowhere" / "ics.hdf5")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_initial_conditions(tmp_path / "ics.hdf5")


def edited(**attributes):
    def edit(file):
        for name, value in attributes.items():
            file["Header"].attrs[name] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (edited(NumPart_ThisFile=[1, 64, 0, 0, 0, 0]), "only dark matter"),
        (edited(NumPart_Total=[0, 128, 0, 0, 0, 0]), "all particles in one file"),
        (edited(MassTable=[0.0] * 6), "equal mass"),
        (lambda file: file.pop("PartType1"), "PartType1"),
        (lambda file: file["Header"].attrs.pop("Time"), "Time"),
        (lambda file: file["Header"].attrs.pop("UnitLength_in_cm"), "`length_unit`"),
    ],
)
def test_other_files_are_refused(tmp_path, edit, message):
    path = tmp_path / "ics.hdf5"
    write(path)
    with h5py.File(path, "a") as file:
        edit(file)
    with pytest.raises(ValueError, match=message):
        read_initial_conditions(path)


def test_a_file_that_does_not_say_its_unit(tmp_path):
    path = tmp_path / "ics.hdf5"
    write(path, length_unit="Mpc/h")
    with h5py.File(path, "a") as file:
        del file["Header"].attrs["UnitLength_in_cm"]
    got = read_initial_conditions(path, length_unit="Mpc/h")
    np.testing.assert_allclose(got.positions, POSITIONS % 100.0)
    with pytest.raises(ValueError, match="`length_unit`"):
        read_initial_conditions(path, length_unit="pc")
    path.write_bytes(b"text")
    with pytest.raises(ValueError, match="HDF5"):
        read_initial_conditions(path)
