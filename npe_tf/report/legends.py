"""What the figures of a report are called and show."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Legend", "legend_of"]

_CHAINS = "one colour for each chain; what is on grey is the warm-up and does not count"


class Legend(NamedTuple):
    """Of a figure.

    Attributes:
        title: a few words.
        caption: what is drawn, and how it looks if all is well.
        alt: for those who do not see it.
    """

    title: str
    caption: str
    alt: str


_LEGENDS = {
    "parameter_traces": Legend(
        "Traces of the parameters",
        f"The path of each parameter, {_CHAINS}. Chains that have converged lie over each other "
        "like a band without a trend.",
        "Small panels, one for each parameter, with its value along the sweeps.",
    ),
    "log_posterior": Legend(
        "Log posterior and acceptance",
        f"Above, the log posterior density along the chains, {_CHAINS}; below, how many moves were "
        "accepted.",
        "Lines of the log posterior and of the acceptance along the sweeps.",
    ),
    "fields": Legend(
        "Initial and evolved field",
        "A slice through the box: posterior mean and standard deviation of the linear field (left) "
        "and of the evolved field (middle), and the haloes (right). The standard deviation is "
        "small where haloes say what the field is.",
        "Maps of mean and standard deviation of the initial and the evolved density, and a map of "
        "the haloes.",
    ),
    "power_spectra": Legend(
        "Power of the initial field",
        "Power spectra of the sampled linear fields, median and central 68 per cent, against the "
        "prior and the scatter that it has for one field; dashed is the true field, if it is "
        "known.",
        "Power against wavenumber above, and its ratio to the prior below.",
    ),
    "mass_function": Legend(
        "Halo mass function by density",
        "Haloes per volume and decade of mass in environments of different density, with Poisson "
        "errors; lines and bands are what the samples expect, median and central 68 per cent.",
        "Points of the catalogue and lines of the model against halo mass, one colour for each "
        "environment.",
    ),
    "cross_correlation": Legend(
        "Correlation with the true field",
        "Correlation r(k) of the posterior mean of the linear field with the true one. One is "
        "perfect; where it falls to zero the haloes say nothing of the field.",
        "The correlation coefficient against wavenumber.",
    ),
}


def legend_of(name: str) -> Legend:
    """Legend of a figure of `npe_tf.summary`.

    Args:
        name: of its file, without an ending.
    """
    return _LEGENDS.get(name, Legend(name.replace("_", " "), "", "A figure."))
