"""Figures from synthetic input: their panels, labels and data, and no warnings."""

from __future__ import annotations

import builtins
import warnings

import numpy as np
import pytest

from npe_tf import plots

matplotlib = pytest.importorskip("matplotlib")

RNG = np.random.default_rng(0)
K = np.linspace(0.03, 0.5, 8)
EDGES = np.linspace(12.3, 15.0, 10)


def drawn(figure, tmp_path):
    """Render in both formats with warnings as errors, and return the files."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return plots.save(figure, tmp_path / "figure")


def test_parameter_traces(tmp_path):
    names = [f"amplitude_kernel[0, {i}]" for i in range(17)]
    samples = RNG.normal(size=(50, 2, 17))
    figure = plots.parameter_traces(samples, names, num_warmup=10)
    png, pdf = drawn(figure, tmp_path)
    panels = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title() for axes in panels] == names
    for index, axes in enumerate(panels):
        assert len(axes.lines) == 2
        np.testing.assert_array_equal(axes.lines[1].get_ydata(), samples[:, 1, index])
    legend = [text.get_text() for text in figure.axes[-1].get_legend().get_texts()]
    assert legend == ["warm-up", "chain 0", "chain 1"]
    assert figure.get_supxlabel() == "sweep"
    with open(png, "rb") as file:
        assert file.read(4) == b"\x89PNG"
    with open(pdf, "rb") as file:
        assert file.read(4) == b"%PDF"


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 1, 3), (4, 3, 4)])
def test_parameter_traces_of_few(shape, tmp_path):
    samples = np.zeros(shape)
    figure = plots.parameter_traces(samples, [str(i) for i in range(shape[-1])])
    drawn(figure, tmp_path)


def test_warm_up_does_not_flatten_the_traces():
    samples = RNG.normal(size=(100, 1, 1))
    samples[:20] += 1e4
    axes = plots.parameter_traces(samples, ["a"], num_warmup=20).axes[0]
    low, high = axes.get_ylim()
    assert high - low < 20
    assert low < samples[20:].min() < samples[20:].max() < high


def test_field_slices(tmp_path):
    n, box = 8, 80.0
    fields = RNG.normal(size=(4, n, n, n))
    counts = RNG.poisson(2.0, size=(n, n, n))
    figure = plots.field_slices(*fields, counts, box, index=7, thickness=2)
    drawn(figure, tmp_path)
    panels = [axes for axes in figure.axes if axes.images]
    assert len(panels) == 5
    titles = [axes.get_title() for axes in panels]
    assert titles[:4] == [
        "initial density, mean",
        "final density, mean",
        "initial density, st. dev.",
        "final density, st. dev.",
    ]
    assert titles[4] == "haloes, $65 < z < 85$ Mpc/$h$"
    images = [axes.images[0] for axes in panels]
    for image, field in zip(images[:4], fields[[0, 2, 1, 3]], strict=True):
        np.testing.assert_allclose(image.get_array(), (field[..., 7] + field[..., 0]).T / 2)
        np.testing.assert_allclose(image.get_extent(), [-5.0, 75.0, -5.0, 75.0])
    np.testing.assert_array_equal(images[4].get_array(), (counts[..., 7] + counts[..., 0]).T)
    for image in images[:2]:
        assert image.get_cmap().name == "RdBu_r"
        assert image.norm.vmin == -image.norm.vmax
    assert {image.get_cmap().name for image in images[2:]} == {"viridis", "cividis"}
    assert panels[2].get_xlabel() == r"$x$ [Mpc/$h$]"
    assert panels[2].get_ylabel() == r"$y$ [Mpc/$h$]"


def test_field_slices_of_empty_fields(tmp_path):
    zero = np.zeros((4, 4, 4))
    drawn(plots.field_slices(zero, zero, zero, zero, zero, 10.0), tmp_path)


def test_power_spectra(tmp_path):
    prior = 1e4 * K**-1.0
    prior[-1] = np.nan
    samples = prior * RNG.uniform(0.9, 1.1, size=(20, 8))
    modes = np.array([18, 50, 100, 200, 300, 400, 500, 0])
    figure = plots.power_spectra(K, samples, prior, modes, prior)
    drawn(figure, tmp_path)
    top, bottom = figure.axes
    assert top.get_ylabel() == r"$P(k)$ [(Mpc/$h)^3$]"
    assert bottom.get_xlabel() == r"$k$ [$h$ Mpc$^{-1}$]"
    labels = [text.get_text() for text in top.get_legend().get_texts()]
    assert labels == [
        r"prior, $1\sigma$ of one field",
        "prior",
        "samples, median and 68%",
        "truth",
    ]
    band = bottom.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(1 + np.sqrt(2 / 18))
    assert band[:, 1].min() == pytest.approx(1 - np.sqrt(2 / 18))
    np.testing.assert_allclose(bottom.lines[1].get_ydata(), np.median(samples / prior, 0)[:-1])
    drawn(plots.power_spectra(K, samples[:1], prior, modes), tmp_path)


def test_mass_function_by_density(tmp_path):
    labels = ["void", "mean", "dense"]
    expected = np.outer([1.0, 3.0, 10.0], 300 * 10 ** -(EDGES[:-1] - 12.3))
    counts = RNG.poisson(expected)
    counts[0, -1] = 0
    bands = expected * np.array([0.9, 1.0, 1.1])[:, None, None]
    volumes = np.array([4.0, 2.0, 1.0])
    figure = plots.mass_function_by_density(EDGES, labels, counts, bands, volumes)
    drawn(figure, tmp_path)
    (axes,) = figure.axes
    assert axes.get_ylabel() == r"$\mathrm{d}n/\mathrm{d}\log_{10}M$ [(Mpc/$h)^{-3}$]"
    assert axes.get_xlabel() == r"$M$ [$M_\odot/h$]"
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == [*labels, "model, median and 68%"]
    points = [container.lines[0] for container in axes.containers]
    for index, point in enumerate(points):
        seen = counts[index] > 0
        np.testing.assert_allclose(
            point.get_ydata(), (counts[index] / volumes[index] / 0.3)[seen], rtol=1e-12
        )
    fractions = counts * 0.01  # means over samples can be of less than one halo
    drawn(plots.mass_function_by_density(EDGES, labels, fractions, bands, volumes), tmp_path)
    nothing = np.zeros_like(counts)
    drawn(plots.mass_function_by_density(EDGES, labels, nothing, bands, volumes), tmp_path)


def test_poisson_errors_against_exact_limits():
    """Gehrels' approximations are good to a few percent of the exact chi-squared limits."""
    chi2 = pytest.importorskip("scipy.stats").chi2
    counts = np.arange(0.0, 200.0)
    lower, upper = plots.poisson_interval(counts)
    np.testing.assert_allclose(upper, chi2.ppf(0.8413, 2 * (counts + 1)) / 2, rtol=0.02)
    assert lower[0] == 0.0
    np.testing.assert_allclose(lower[1:], chi2.ppf(0.1587, 2 * counts[1:]) / 2, rtol=0.06)


def test_log_posterior_trace(tmp_path):
    log_prob = RNG.normal(size=(60, 2)) - 2e5
    log_prob[0] = -np.inf
    acceptance = {"field": np.full((60, 2), 0.7), "parameters": RNG.random((60, 2)) < 0.8}
    figure = plots.log_posterior_trace(log_prob, acceptance, num_warmup=20)
    drawn(figure, tmp_path)
    top, bottom = figure.axes
    assert top.get_ylabel() == "log posterior"
    assert bottom.get_ylabel() == "acceptance"
    assert bottom.get_xlabel() == "sweep"
    np.testing.assert_allclose(bottom.lines[0].get_ydata(), 0.7)
    low, high = top.get_ylim()
    assert high - low < 30
    alone = plots.log_posterior_trace(log_prob)
    drawn(alone, tmp_path)
    assert len(alone.axes) == 1
    drawn(plots.log_posterior_trace([[1.0]], {"field": [[1.0]]}), tmp_path)


def test_cross_correlation(tmp_path):
    r = np.exp(-K)
    figure = plots.cross_correlation(K, {"mean": r, "samples": r * RNG.random((9, 8))})
    drawn(figure, tmp_path)
    (axes,) = figure.axes
    assert axes.get_ylabel() == r"$r(k)$"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["mean", "samples"]
    gap = np.where(np.arange(8) == 3, np.nan, K)
    alone = plots.cross_correlation(gap, r)
    drawn(alone, tmp_path)
    assert alone.axes[0].get_legend() is None


def test_save_takes_a_path_with_or_without_ending(tmp_path):
    figure = plots.cross_correlation(K, np.exp(-K))
    for name, stem in (("a", "a"), ("b.png", "b"), ("c.pdf", "c"), ("d.1", "d.1")):
        files = plots.save(figure, tmp_path / name)
        assert files == (str(tmp_path / f"{stem}.png"), str(tmp_path / f"{stem}.pdf"))
        assert all((tmp_path / f"{stem}.{e}").stat().st_size > 1000 for e in ("png", "pdf"))


def test_global_state_is_left_alone():
    before = dict(matplotlib.rcParams)
    plots.cross_correlation(K, np.exp(-K))
    assert dict(matplotlib.rcParams) == before


def test_missing_matplotlib(monkeypatch):
    importing = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == "matplotlib":
            raise ImportError(name)
        return importing(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install npe_tf\[plots\]"):
        plots.cross_correlation(K, np.exp(-K))


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.parameter_traces(np.zeros((5, 2, 3)), ["a"]), r"`samples`.*\[S, C, 1\]"),
        (lambda: plots.parameter_traces(np.zeros((0, 2, 1)), ["a"]), "`samples`"),
        (lambda: plots.power_spectra(K, np.ones((3, 7)), K, K), r"`samples_power`.*\[S, 8\]"),
        (lambda: plots.cross_correlation(K, np.ones(7)), "`r`"),
        (lambda: plots.field_slices(*np.zeros((4, 4, 4, 4)), np.zeros((8, 8)), 1.0), "`counts`"),
        (
            lambda: plots.field_slices(*np.zeros((5, 4, 4, 4)), 1.0, thickness=5),
            "`thickness`.*thickness=5",
        ),
        (
            lambda: plots.mass_function_by_density(
                EDGES, ["a"], np.ones((1, 9)), np.ones((2, 1, 9)), [1.0]
            ),
            "`model_counts`",
        ),
        (lambda: plots.log_posterior_trace(np.ones(5)), "`log_prob`"),
    ],
)
def test_wrong_shapes_are_refused(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
