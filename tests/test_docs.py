"""The code in the documentation runs, and every picture in it is there."""

import re
import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
SLOW_SECTIONS = ("Example: fibres under a microscope", "In Python", "Saving and loading")


def sections():
    """(page, heading, Python blocks) of every section with code."""
    for page in sorted(DOCS.rglob("*.md")):
        for part in re.split(r"^## ", page.read_text(), flags=re.MULTILINE):
            blocks = re.findall(r"^```python\n(.*?)^```", part, re.MULTILINE | re.DOTALL)
            if blocks:
                yield str(page.relative_to(DOCS)), part.partition("\n")[0], blocks


def cases():
    """Slow sections stand alone; the others of a page follow each other in one namespace."""
    pages = {}
    for page, heading, blocks in sections():
        if heading in SLOW_SECTIONS:
            yield pytest.param(page, blocks, id=f"{page}: {heading}", marks=pytest.mark.slow)
        else:
            pages.setdefault(page, []).extend(blocks)
    for page, blocks in pages.items():
        yield pytest.param(page, blocks, id=page)


@pytest.mark.parametrize(("page", "blocks"), list(cases()))
def test_code_runs(page, blocks, tmp_path):
    # a file, since AutoGraph reads the source
    script = tmp_path / f"{Path(page).stem}.py"
    script.write_text("\n".join(blocks))
    runpy.run_path(str(script))


def test_slow_sections_exist():
    assert set(SLOW_SECTIONS) <= {heading for _, heading, _ in sections()}


def test_pictures_exist():
    for page in DOCS.rglob("*.md"):
        for name in re.findall(r"!\[.*?\]\((.*?)\)", page.read_text()):
            assert (page.parent / name).is_file(), name


def test_messages_of_the_questions_are_those_of_the_code():
    source = "".join(
        path.read_text()
        for package in ("npe_tf", "layers", "samplers", "experiments")
        for path in (DOCS.parent / package).rglob("*.py")
    )
    # strings go on over several lines, with what is put into them in braces
    source = re.sub(r'"\s*\n\s*f?"', "", source)
    headings = re.findall(r"^## `(.+)`$", (DOCS / "faq.md").read_text(), re.MULTILINE)
    assert len(headings) > 8
    for heading in headings:
        assert all(part.rstrip() in source for part in heading.split("...")), heading
