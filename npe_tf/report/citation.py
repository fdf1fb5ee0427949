"""How to cite this package and the paper whose method it implements, as in ``CITATION.cff``."""

from __future__ import annotations

__all__ = ["BIBTEX", "REFERENCES"]

REFERENCES = (
    "npe_tf developers: npe_tf, neural physical engines in TensorFlow, version {version}.",
    "T. Charnock, G. Lavaux, B. D. Wandelt, S. Sarma Boruah, J. Jasche, M. J. Hudson: Neural "
    "physical engines for inferring the halo mass distribution function. Monthly Notices of the "
    "Royal Astronomical Society 494, 50 (2020), doi:10.1093/mnras/staa682.",
)
"""Sentences; ``{version}`` stands for the version of the package."""

BIBTEX = """\
@software{{npe_tf,
  author  = {{{{npe_tf developers}}}},
  title   = {{npe_tf: neural physical engines in TensorFlow}},
  version = {{{version}}}
}}
@article{{Charnock2020,
  author  = {{Charnock, Tom and Lavaux, Guilhem and Wandelt, Benjamin D. and Sarma Boruah, Supranta
             and Jasche, Jens and Hudson, Michael J.}},
  title   = {{Neural physical engines for inferring the halo mass distribution function}},
  journal = {{Monthly Notices of the Royal Astronomical Society}},
  volume  = {{494}},
  pages   = {{50}},
  year    = {{2020}},
  doi     = {{10.1093/mnras/staa682}}
}}
"""
"""The same for BibTeX; a format string with ``version``."""
