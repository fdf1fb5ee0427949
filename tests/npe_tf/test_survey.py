"""Survey windows against volumes known analytically, and against a loop over points."""

import builtins
import itertools

import numpy as np
import pytest

from npe_tf.catalogue import Catalogue
from npe_tf.grid import Grid
from npe_tf.likelihood import PoissonLikelihood
from npe_tf.survey import AngularMask, completeness, read_angular_mask

GRID = Grid(16, 100.0)
CENTRE = [50.0, 50.0, 50.0]
TOP_HAT = ([0.0, 40.0], [1.0, 1.0])


def hemisphere(directions):
    return np.where(directions[..., 2] > 0, 1.0, 0.0)


def test_without_selection_all_is_seen():
    np.testing.assert_array_equal(completeness(GRID, CENTRE), np.ones(GRID.shape))


def test_the_volume_of_a_ball():
    window = completeness(GRID, CENTRE, radial_selection=TOP_HAT, supersampling=4)
    assert window.shape == GRID.shape
    assert window.mean() == pytest.approx(4 / 3 * np.pi * 0.4**3, rel=5e-3)
    assert window[8, 8, 8] == 1
    assert window[0, 0, 0] == 0
    assert np.any((window > 0.1) & (window < 0.9))


def test_half_a_ball_in_a_hemisphere():
    both = completeness(GRID, CENTRE, radial_selection=TOP_HAT)
    half = completeness(GRID, CENTRE, hemisphere, TOP_HAT)
    assert half.mean() == pytest.approx(both.mean() / 2, rel=1e-12)
    # vertices are on the plane through the observer: their voxels are seen by half
    np.testing.assert_allclose(half[:, :, 8], both[:, :, 8] / 2)
    np.testing.assert_array_equal(half[:, :, 1:8], 0)
    np.testing.assert_array_equal(half[:, :, 9:], both[:, :, 9:])


@pytest.mark.parametrize("supersampling", [1, 3, 6])
def test_finer_sampling_converges(supersampling):
    """The flat side of half a ball is off by up to half the distance of two points."""
    window = completeness(
        GRID, [47.3, 52.9, 50.6], hemisphere, TOP_HAT, supersampling=supersampling
    )
    spacing = GRID.cell_size / supersampling
    exact = 2 / 3 * np.pi * 40.0**3
    assert abs(window.sum() * GRID.cell_volume - exact) < 0.55 * spacing * np.pi * 40.0**2


def test_the_voxels_at_the_faces_lie_at_both_ends():
    """An observer at the origin sees an octant, and of the first voxel an eighth."""
    window = completeness(GRID, [0, 0, 0], radial_selection=TOP_HAT, supersampling=4)
    assert window[0, 0, 0] == pytest.approx(1 / 8)
    assert window[0, 2, 3] == pytest.approx(1 / 2)
    assert window[-1, 0, 0] == 0
    assert window.mean() == pytest.approx(np.pi / 6 * 0.4**3, rel=1e-2)
    around = completeness(GRID, [0, 0, 0], radial_selection=TOP_HAT, supersampling=4, periodic=True)
    assert around[0, 0, 0] == 1
    assert around.mean() == pytest.approx(4 / 3 * np.pi * 0.4**3, rel=5e-3)
    centred = completeness(GRID, CENTRE, radial_selection=TOP_HAT, supersampling=4)
    np.testing.assert_allclose(np.roll(around, 8, (0, 1, 2)), centred, atol=1e-12)


@pytest.mark.parametrize("supersampling", [1, 3])
def test_against_a_loop_over_points(supersampling):
    grid = Grid(4, 20.0)
    observer = np.array([-3.0, 7.0, 11.0])
    angle = 0.7
    rotation = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    expected = np.zeros(grid.shape)
    steps = (np.arange(supersampling) + 0.5) / supersampling - 0.5
    for voxel in itertools.product(range(4), repeat=3):
        for step in itertools.product(steps, repeat=3):
            d = np.mod((np.array(voxel) + step) * 5.0, 20.0) - observer
            r = np.linalg.norm(d)
            ra = np.arctan2(d[1], d[0]) - angle
            value = (0.5 + 0.5 * np.cos(ra)) * np.exp(-r / 30)
            expected[voxel] += value / supersampling**3
    got = completeness(
        grid,
        observer,
        lambda v: 0.5 + 0.5 * np.cos(np.arctan2(v[..., 1], v[..., 0])),
        lambda r: np.exp(-r / 30),
        rotation=rotation,
        supersampling=supersampling,
    )
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_a_table_is_interpolated_and_ends():
    table = ([10.0, 30.0], [1.0, 0.5])
    grid = Grid(20, 100.0)
    window = completeness(grid, CENTRE, radial_selection=table, supersampling=1)
    np.testing.assert_allclose(window[10, 10, 10:18], [0, 0, 1, 0.875, 0.75, 0.625, 0.5, 0])


def test_the_observers_own_voxel():
    window = completeness(GRID, CENTRE, lambda v: (v[..., 0] == 1).astype(float), supersampling=1)
    assert np.all(np.isfinite(window))
    np.testing.assert_array_equal(window[8:, 8, 8], 1)
    assert window.sum() == 8


def test_the_likelihood_takes_it():
    window = completeness(GRID, CENTRE, hemisphere, TOP_HAT)
    haloes = Catalogue(np.array([[50.0, 50.0, 70.0]]), np.array([1e13]), 100.0)
    likelihood = PoissonLikelihood(GRID, haloes, 1e12, completeness=window)
    np.testing.assert_array_equal(likelihood.completeness, window)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"observer": [1.0, 2.0]}, "`observer`.*three"),
        ({"observer": [1.0, 2.0, np.nan]}, "`observer`.*finite"),
        ({"angular_mask": lambda v: v[..., 0]}, r"`angular_mask`.*\[0, 1\]"),
        ({"angular_mask": lambda v: np.full(5, 0.5)}, "`angular_mask`.*shape"),
        ({"angular_mask": np.ones(13)}, "`angular_mask`.*12 nside"),
        ({"angular_mask": np.full(12, 2.0)}, r"`angular_mask`.*\[0, 1\]"),
        ({"radial_selection": lambda r: r}, r"`radial_selection`.*\[0, 1\]"),
        ({"radial_selection": lambda r: np.nan * r}, r"`radial_selection`.*nan"),
        ({"radial_selection": ([0.0, 1.0], [0.5, 1.5])}, r"`radial_selection`.*\[0, 1\]"),
        ({"radial_selection": ([1.0, 0.0], [1.0, 1.0])}, "`radial_selection`.*increase"),
        ({"radial_selection": ([0.0], [1.0])}, "`radial_selection`.*table"),
        ({"radial_selection": 3}, "`radial_selection`.*table"),
        ({"rotation": np.diag([1, 1, 2])}, "`rotation`"),
        ({"rotation": np.diag([1, 1, -1])}, "`rotation`"),
        ({"rotation": np.eye(2)}, "`rotation`"),
        ({"supersampling": 0}, "`supersampling`"),
        ({"supersampling": 1.5}, "`supersampling`"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        completeness(GRID, **{"observer": CENTRE, **arguments})


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (np.ones(100), {}, "12 nside"),
        (np.ones((12, 1)), {}, "12 nside"),
        (np.full(12, -0.1), {}, r"\[0, 1\]"),
        (np.ones(12 * 9), {"nested": True}, "power of two.*nside=3"),
    ],
)
def test_bad_maps_are_named(values, options, message):
    with pytest.raises(ValueError, match=message):
        AngularMask(values, **options)


def test_the_error_without_the_extra_says_what_to_install(monkeypatch, tmp_path):
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("astropy"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"npe_tf\[survey\]"):
        completeness(GRID, CENTRE, np.ones(12))
    (tmp_path / "map.fits").write_bytes(b"")
    with pytest.raises(ImportError, match=r"npe_tf\[survey\]"):
        read_angular_mask(tmp_path / "map.fits")


def test_no_file():
    with pytest.raises(FileNotFoundError, match="`path`.*nowhere"):
        read_angular_mask("nowhere.fits")


@pytest.fixture
def healpix():
    pytest.importorskip("astropy")
    return pytest.importorskip("astropy_healpix")


def pixel_centres(healpix, nside, order):
    """Unit vectors of the pixels' centres."""
    lon, lat = healpix.healpix_to_lonlat(np.arange(12 * nside**2), nside, order=order)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], -1).value


def write_map(path, values, header, pixels=None, row=1):
    from astropy.io import fits

    columns = [fits.Column("MASK", f"{row}E" if row > 1 else "E", array=values.reshape(-1, row))]
    if row == 1:
        columns = [fits.Column("MASK", "E", array=values)]
    if pixels is not None:
        columns.insert(0, fits.Column("PIXEL", "J", array=pixels))
    table = fits.BinTableHDU.from_columns(columns)
    table.header.update(header)
    table.writeto(path)


@pytest.mark.parametrize("order", ["ring", "nested"])
@pytest.mark.parametrize("row", [1, 32])
def test_a_map_from_fits_has_its_value_in_the_middle_of_every_pixel(healpix, tmp_path, order, row):
    values = np.random.default_rng(0).uniform(size=12 * 8**2).astype(np.float32)
    header = {"PIXTYPE": "HEALPIX", "ORDERING": order.upper(), "NSIDE": 8}
    write_map(tmp_path / "map.fits", values, header, row=row)
    mask = read_angular_mask(tmp_path / "map.fits")
    assert mask.nside == 8
    assert mask.nested == (order == "nested")
    np.testing.assert_array_equal(mask(pixel_centres(healpix, 8, order)), values)


def test_pixels_that_are_not_seen(healpix, tmp_path):
    values = np.ones(12, np.float32)
    values[[0, 1, 2]] = [-1.6375e30, np.nan, np.inf]
    write_map(tmp_path / "map.fits", values, {"ORDERING": "RING"})
    mask = read_angular_mask(tmp_path / "map.fits")
    np.testing.assert_array_equal(mask.values, [0, 0, 0, *[1] * 9])


def test_a_map_that_lists_some_pixels(healpix, tmp_path):
    header = {"ORDERING": "NESTED", "INDXSCHM": "EXPLICIT", "NSIDE": 2}
    values = np.array([0.25, 0.75], np.float32)
    write_map(tmp_path / "map.fits", values, header, pixels=np.array([40, 7]))
    expected = np.zeros(48)
    expected[[40, 7]] = values
    np.testing.assert_array_equal(read_angular_mask(tmp_path / "map.fits").values, expected)
    write_map(tmp_path / "beyond.fits", values, header, pixels=np.array([48, 7]))
    with pytest.raises(ValueError, match="NSIDE=2"):
        read_angular_mask(tmp_path / "beyond.fits")


def test_a_galactic_map_is_turned(healpix, tmp_path):
    from astropy.coordinates import SkyCoord

    values = np.random.default_rng(1).uniform(size=12 * 4**2).astype(np.float32)
    write_map(tmp_path / "map.fits", values, {"ORDERING": "RING", "COORDSYS": "G"})
    mask = read_angular_mask(tmp_path / "map.fits")
    directions = np.random.default_rng(2).standard_normal((500, 3))
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    sky = SkyCoord(*directions.T, representation_type="cartesian", frame="icrs").galactic
    pixels = healpix.lonlat_to_healpix(sky.l, sky.b, 4, order="ring")
    np.testing.assert_array_equal(mask(directions), values[pixels])


def test_a_hemisphere_as_a_map(healpix):
    """Of the ring-ordered map the first half is the north, but for the rows at the equator."""
    mask = hemisphere(pixel_centres(healpix, 32, "ring"))
    got = completeness(GRID, CENTRE, mask, TOP_HAT)
    expected = completeness(GRID, CENTRE, hemisphere, TOP_HAT)
    assert got.mean() == pytest.approx(expected.mean(), rel=0.03)
    np.testing.assert_array_equal(got[8, 8, [4, 12]], [0, 1])


@pytest.mark.parametrize(
    ("values", "header", "options", "message"),
    [
        (np.ones(12), {}, {}, "ORDERING"),
        (np.ones(13), {"ORDERING": "RING"}, {}, "12 nside.*in the file"),
        (np.full(12, 3.0), {"ORDERING": "RING"}, {}, r"\[0, 1\].*in the file"),
        (np.full(12, -1.0), {"ORDERING": "RING"}, {}, r"\[0, 1\].*in the file"),
        (np.ones(12), {"ORDERING": "RING", "COORDSYS": "E"}, {}, "COORDSYS='E'"),
        (np.ones(12), {"ORDERING": "RING"}, {"column": 1}, "column number 1.*MASK"),
        (np.ones(12), {"ORDERING": "RING"}, {"hdu": 2}, "extension number 2"),
        (np.ones(12), {"ORDERING": "RING"}, {"hdu": 0}, "`path`"),
    ],
)
def test_bad_files_are_named(healpix, tmp_path, values, header, options, message):
    write_map(tmp_path / "map.fits", values, header)
    with pytest.raises(ValueError, match=message):
        read_angular_mask(tmp_path / "map.fits", **options)


def test_no_fits_file(healpix, tmp_path):
    (tmp_path / "map.fits").write_bytes(b"no map " * 1000)
    with pytest.raises(ValueError, match="`path`.*FITS"):
        read_angular_mask(tmp_path / "map.fits")
