"""The site has every page and every public name; `make docs` checks its links."""

import importlib
import re
from pathlib import Path

import npe_tf

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"


def documented_modules():
    """Modules whose docstrings the pages of the reference show."""
    pages = "\n".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    return re.findall(r"^::: (\S+)$", pages, re.MULTILINE)


def test_every_public_name_is_in_the_reference():
    modules = documented_modules()
    assert len(modules) == len(set(modules))
    homes = set(npe_tf._HOMES.values())
    for package in ("layers", "samplers"):
        public = importlib.import_module(package)
        homes |= {getattr(public, name).__module__ for name in public.__all__}
    assert homes <= set(modules), homes - set(modules)


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    assert pages == set(re.findall(r"\S+\.md", navigation))
