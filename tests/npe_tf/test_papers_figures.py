"""All figures of a synthetic run whose chains are in two modes."""

import pytest

from npe_tf.chain_store import ChainStore
from npe_tf.figure_data import figure_data
from npe_tf.papers_figures import papers_figures
from npe_tf.run import Run
from tests.npe_tf.synthetic_run import write_run

pytest.importorskip("matplotlib")


@pytest.mark.parametrize("with_truth", [True, False])
def test_modes_are_named_and_never_mixed(with_truth, tmp_path):
    catalogue, _ = write_run(tmp_path, with_truth=with_truth)
    with ChainStore.open(tmp_path / "chain.h5") as store:
        drawn = dict(papers_figures(figure_data(Run(store, catalogue), num_fields=6)))
    assert list(drawn) == [
        "figure_2_mass_function",
        "figure_3_traces",
        "figure_4_projections_psi_rises",
        "figure_5_fields_psi_rises",
        "figure_4_projections_psi_falls",
        "figure_5_fields_psi_falls",
        "figure_6_power",
    ]
    titles = [panel.get_title() for panel in drawn["figure_2_mass_function"].axes[:2]]
    assert titles == [
        r"$\psi$ rises with the density: chains 0, 2",
        r"$\psi$ falls with the density: chain 1",
    ]
    legend = drawn["figure_3_traces"].axes[-1].get_legend().get_texts()
    assert [text.get_text() for text in legend] == [
        "warm-up",
        r"chain 0: $\psi$ rises",
        r"chain 1: $\psi$ falls",
        r"chain 2: $\psi$ rises",
    ]
    bands = [line.get_label() for line in drawn["figure_6_power"].axes[0].lines]
    assert bands[1:3] == [r"$\psi$ rises, median and 68%", r"$\psi$ falls, median and 68%"]
    assert ("truth" in bands) == with_truth
    rows = [text.get_text() for panel in drawn["figure_4_projections_psi_falls"].axes
            for text in panel.texts if len(text.get_text()) > 4]  # fmt: skip
    assert rows == ["truth" if with_truth else "catalogue", "sample"]
    first = drawn["figure_5_fields_psi_falls"].axes[0].get_title()
    assert first == ("evolved density, truth" if with_truth else "haloes of the catalogue")
