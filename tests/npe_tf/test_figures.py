"""The paper's figures from made-up arrays: what is drawn where, on which scale."""

import numpy as np
import pytest

from npe_tf import figures
from npe_tf.plot_style import save
from tests.npe_tf.test_plots import drawn

pytest.importorskip("matplotlib")

RNG = np.random.default_rng(0)
EDGES = np.linspace(12.3, 15.0, 10)
LABELS = ("void", "dense")


def halo_counts(title="all"):
    mean = np.outer([1.0, 5.0], 300 * 10 ** -(EDGES[:-1] - 12.3))
    found = RNG.poisson(mean).astype(float)
    found[0, -1] = 0.0
    return figures.HaloCounts(title, found, mean, 0.1 * mean, 2.0 * mean, np.array([4.0, 2.0]))


@pytest.mark.parametrize(
    ("name", "readable"),
    [
        ("kernel_weights[0, 0, 0]", "kernel, centre"),
        ("kernel_weights[1, 0, 0]", "kernel, face"),
        ("kernel_weights[2, 0, 0]", "kernel, edge"),
        ("kernel_weights[3, 0, 0]", "kernel, corner"),
        ("kernel_weights[4, 0, 0]", "kernel, shell 4"),
        ("bias[0]", "kernel, bias"),
        ("amplitude_kernel[0, 1]", r"amplitude 2, weight $w^{\alpha}_2$"),
        ("mean_bias[0]", r"mean 1, bias $b^{\mu}_1$"),
        ("scale_bias[1]", r"width 2, bias $b^{\sigma}_2$"),
        ("dense[3]", "dense[3]"),
    ],
)
def test_readable_names(name, readable):
    assert figures.readable_name(name) == readable


@pytest.mark.parametrize("modes", [1, 2])
def test_mass_functions(modes, tmp_path):
    panels = [halo_counts(f"mode {i}") for i in range(modes)]
    figure = figures.mass_functions(EDGES, LABELS, panels, "the start")
    drawn(figure, tmp_path)
    tops, bottoms = figure.axes[:modes], figure.axes[modes:]
    for top, bottom, given in zip(tops, bottoms, panels, strict=True):
        assert top.get_title() == given.title
        norm = given.volumes[:, None] * 0.3
        dotted = [line for line in top.lines if line.get_linestyle() == ":"]
        for index, line in enumerate(dotted):
            np.testing.assert_allclose(line.get_ydata(), given.start[index] / norm[index])
        points = [container.lines[0].get_ydata() for container in bottom.containers]
        for index, point in enumerate(points):
            enough = given.found[index] >= 5
            np.testing.assert_allclose(point, (given.found / given.mean)[index, enough])
    texts = [t.get_text() for panel in tops for t in panel.get_legend().get_texts()]
    assert texts == [
        *LABELS,
        "catalogue, Poisson errors",
        r"samples, mean and $1\sigma$",
        "the start",
    ]


def test_projections_share_a_scale_and_leave_out_what_is_not_known(tmp_path):
    fields = {name: RNG.normal(size=(4, 4, 4)) for name in ("initial", "psi")}
    fields["evolved"] = RNG.uniform(-0.5, 3.0, (4, 4, 4))
    fields["halo_mass"] = np.where(RNG.random((4, 4, 4)) < 0.5, 0.0, 1e13)
    fields["psi"][0] = np.nan
    rows = {"catalogue": {"halo_mass": 3.0 * fields["halo_mass"]}, "sample": fields}
    figure = figures.projections(rows, 40.0, 2, "title")
    drawn(figure, tmp_path)
    assert figure.get_suptitle() == "title; box of 40 Mpc/$h$; slabs of 20 Mpc/$h$ behind each face"
    panels = np.array(figure.axes[:8]).reshape(2, 4)
    assert [len(panel.collections) for panel in panels[0]] == [0, 0, 0, 3]
    assert [len(panel.collections) for panel in panels[1]] == [3, 3, 3, 3]
    slab = np.array(fields["evolved"][-2:].mean(0) + 1.0)
    np.testing.assert_allclose(panels[1, 1].collections[0].get_array(), slab)
    mass = fields["halo_mass"][:, -2:].sum(1)
    shown = panels[1, 3].collections[1].get_array()
    np.testing.assert_allclose(shown.filled(0.0), mass)
    assert panels[0, 3].collections[0].norm is panels[1, 3].collections[0].norm
    norm = panels[1, 0].collections[0].norm
    assert norm.vmin == -norm.vmax


def test_the_faces_of_a_box_meet():
    """A field that depends on z alone has equal upright faces, and a flat top."""
    z = np.broadcast_to(np.arange(4.0), (4, 4, 4))
    x_face, y_face, z_face = figures._behind_faces(z, 1, "mean")
    np.testing.assert_array_equal(x_face, y_face)
    np.testing.assert_array_equal(x_face, z[0])
    assert np.all(z_face == 3.0)
    # the edge where the faces of x and y meet is the same line on paper from both sides
    edge = np.linspace(0.0, 1.0, 5)
    assert figures._seen(1.0, 1.0, edge)[0] == 0.0


@pytest.mark.parametrize("known", [True, False])
def test_field_moments(known, tmp_path):
    evolved, psi = RNG.uniform(-0.5, 3.0, (4, 4, 4)), RNG.random((4, 4, 4))
    if known:
        reference = {"evolved": 2.0 * evolved + 1.0, "psi": psi + 1.0}
    else:
        reference = {"counts": RNG.poisson(2.0, (4, 4, 4)), "halo_mass": 1e13 * psi}
    figure = figures.field_moments(
        reference,
        {"evolved": evolved, "psi": psi},
        {"evolved": evolved**2, "psi": psi**2},
        40.0,
        ("one", "two"),
        index=1,
    )
    drawn(figure, tmp_path)
    panels = np.array(figure.axes[:6]).reshape(2, 3)
    images = [[panel.images[0] for panel in row] for row in panels]
    np.testing.assert_allclose(images[0][1].get_array(), evolved[..., 1].T + 1.0)
    np.testing.assert_allclose(images[1][2].get_array(), psi[..., 1].T ** 2)
    np.testing.assert_allclose(images[0][0].get_extent(), [-5.0, 35.0, -5.0, 35.0])
    for row in images:
        same = (row[0].norm.vmin, row[0].norm.vmax) == (row[1].norm.vmin, row[1].norm.vmax)
        assert same == known
    assert [panel.get_title() for panel in panels[:, 0]] == ["one", "two"]
    assert figure.get_suptitle() == "layer at $z=10$ Mpc/$h$, 10 Mpc/$h$ thick"


def test_fields_of_nothing(tmp_path):
    zero = np.zeros((4, 4, 4))
    fields = {"evolved": zero, "psi": zero}
    drawn(figures.field_moments(fields, fields, fields, 1.0, ("a", "b")), tmp_path)
    drawn(figures.projections({"": {"halo_mass": zero, "initial": zero}}, 1.0, 1), tmp_path)


def test_wrong_shapes_and_formats_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`psi`.*\[N, N, N\]"):
        figures.projections({"": {"psi": np.zeros((4, 4))}}, 1.0, 1)
    with pytest.raises(ValueError, match=r"`found`.*\[1, 9\]"):
        figures.mass_functions(EDGES, ("a",), [halo_counts()], "start")
    zero = np.zeros((4, 4, 4))
    figure = figures.projections({"": {"psi": zero}}, 1.0, 1)
    for formats in ("png", (), ("png", "svg")):
        with pytest.raises(ValueError, match="`formats`"):
            save(figure, tmp_path / "a", formats)
    assert save(figure, tmp_path / "a", ("png",)) == (str(tmp_path / "a.png"),)
    assert not (tmp_path / "a.pdf").exists()
