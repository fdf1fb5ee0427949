import pytest

from npe_tf.catalogues.units import length_unit, mass_unit


@pytest.mark.parametrize(
    ("text", "factor", "per_h"),
    [
        ("Mpc/h", 1.0, True),
        ("Mpc / h (comoving)", 1.0, True),
        ("Mpc/h comoving", 1.0, True),
        ("h^-1 Mpc", 1.0, True),
        ("Mpc h-1", 1.0, True),
        ("Mpc h**-1", 1.0, True),
        ("Mpc / littleh", 1.0, True),
        ("cMpc/h", 1.0, True),
        ("kpc/h", 1e-3, True),
        ("ckpc", 1e-3, False),
        ("kpc", 1e-3, False),
        ("MPC", 1.0, False),
        ("Gpc/h", 1e3, True),
    ],
)
def test_lengths(text, factor, per_h):
    unit = length_unit(text)
    assert unit.factor == pytest.approx(factor)
    assert unit.per_h is per_h


@pytest.mark.parametrize(
    ("text", "factor", "per_h"),
    [
        ("Msun/h", 1.0, True),
        ("Msun / h", 1.0, True),
        ("M_sun", 1.0, False),
        ("solMass / littleh", 1.0, True),
        ("1e10 Msun/h", 1e10, True),
        ("10^10 Msun/h", 1e10, True),
        ("10**10 h^-1 Msun", 1e10, True),
        ("1.0e+10 solMass", 1e10, False),
    ],
)
def test_masses(text, factor, per_h):
    unit = mass_unit(text)
    assert unit.factor == pytest.approx(factor)
    assert unit.per_h is per_h
    assert mass_unit(unit.name) == unit  # what is printed is understood again


@pytest.mark.parametrize(
    "text",
    ["", "Mpc/h/h", "h-1 Mpc/h", "Mpc h", "Mpc*h", "pc/m", "furlong", "Msun", "Mpc/h physical",
     "pkpc", "Mpc/h2", "0 Mpc", "1e999 Mpc", "Mpc" * 1000],
)  # fmt: skip
def test_what_is_no_comoving_length(text):
    with pytest.raises(ValueError, match="`length_unit`.*Expected a comoving length"):
        length_unit(text)


@pytest.mark.parametrize("text", ["", "Mpc", "kg", "Msun h", "10^999 Msun", "Msun/h^2"])
def test_what_is_no_mass(text):
    with pytest.raises(ValueError, match="`mass_unit`.*Expected a mass"):
        mass_unit(text)


def test_units_without_h_need_it():
    assert length_unit("kpc").to_internal(0.7) == pytest.approx(0.7e-3)
    assert mass_unit("Msun/h").to_internal(None) == 1.0
    with pytest.raises(ValueError, match="--h.*Mpc into Mpc/h"):
        length_unit("Mpc").to_internal(None)
