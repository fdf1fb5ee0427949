"""The report of a run: what it says, that it says it twice alike, and that nothing gets into it."""

import dataclasses
import json
import math
import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from npe_tf.catalogue import Catalogue
from npe_tf.health import Health
from npe_tf.report import contents
from npe_tf.report.citation import BIBTEX, REFERENCES
from npe_tf.report.contents import REPORT_JSON, REPORT_PAGE, report_numbers, write_report
from npe_tf.report.markup import number, prose, text
from npe_tf.report.page import report_page
from npe_tf.report.style import DARK, LIGHT
from npe_tf.run_history import record_start
from npe_tf.summary import summarise
from tests.npe_tf.synthetic_run import SWEEPS, WARMUP, write_run

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = "\"><script>alert(1)</script><img src=http://x.test/a onerror=alert(2)>'&</style>"
VOID = {"meta", "link", "img", "br"}
FREE = {"data.cosmology", "settings", "versions", "history[].versions"}  # any keys


class Reader(HTMLParser):
    """Tags with their attributes, text, headings, and tables by their names."""

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.tags, self.text, self.tables, self.open = [], "", {}, []
        self._table = None
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self._table = self.tables.setdefault(dict(attrs)["aria-labelledby"], [])
        elif tag == "tr":
            self._table.append([])
        elif tag in ("td", "th"):
            self._table[-1].append("")
        elif tag == "sup" and self._table:
            self.handle_data("^")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "table":
            self._table = None

    def handle_data(self, data):
        self.text += data
        if self._table is not None and {"td", "th"} & set(self.open):
            self._table[-1][-1] += data


def value(cell):
    """The number of a cell."""
    if cell == "–":
        return None
    return float(cell.replace("−", "-").replace(",", "").replace("×10^", "e"))


def same(cell, expected, digits):
    """Whether a cell is a number rounded to so many significant digits, or decimals if negative."""
    found = value(cell)
    if found is None or expected is None:
        return found is None and expected is None
    form = f".{digits}g" if digits > 0 else f".{-digits}f"
    return found == pytest.approx(float(format(expected, form)), abs=1e-12)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "my run"
    folder.mkdir()
    catalogue, rows = write_run(folder, for_summary=True)
    record_start(folder, 0, f"npe-infer --catalogue='{HOSTILE}' --grid=8")
    summary = summarise(folder, catalogue, folder / "figures")
    files = write_report(folder, catalogue, summary)
    return folder, catalogue, rows, summary, files


@pytest.fixture(scope="module")
def numbers(made):
    def refuse(constant):
        raise AssertionError(constant)

    return json.loads((made[0] / REPORT_JSON).read_text(), parse_constant=refuse)


@pytest.fixture(scope="module")
def page(made):
    return Reader((made[0] / REPORT_PAGE).read_text())


def test_files_are_beside_the_chain(made):
    folder, *_, files = made
    assert files == (folder / "report.html", folder / "report.json")
    assert {path.name for path in folder.iterdir()} >= {"chain.h5", "report.html", "report.json"}
    assert not [path for path in folder.iterdir() if path.name.endswith(".tmp")]


def test_numbers_are_those_of_the_summary(made, numbers):
    _, catalogue, rows, summary, _ = made
    for found, row in zip(numbers["parameters"], summary.parameters, strict=True):
        told = (found["mean"], found["sd"], found["q05"], found["q50"], found["q95"],
                found["rhat"], found["ess_bulk"], found["ess_tail"])  # fmt: skip
        known = (row.mean, row.sd, row.q05, row.q50, row.q95, row.rhat, row.ess, row.tail)
        assert told == known
    draws = rows["theta"][WARMUP:].reshape(-1, 17)
    np.testing.assert_allclose([p["mean"] for p in numbers["parameters"]], draws.mean(axis=0))
    data, cost = numbers["data"], numbers["cost"]
    assert data["haloes_used"] == len(catalogue) == summary.observed
    assert data["number_density_h3_mpc3"] == pytest.approx(len(catalogue) / 60.0**3)
    assert (data["redshift"], data["box_size_mpc_h"], data["cells_per_side"]) == (0.0, 60.0, 8)
    assert data["catalogue"] == "haloes.h5"
    assert cost["core_hours"] == pytest.approx(rows["cpu_seconds"].sum() / 3600)
    assert cost["kilowatt_hours"] == pytest.approx(rows["cpu_seconds"].sum() * 12.0 / 3.6e6)
    assert not cost["energy_is_measured"]
    power = rows["power"][WARMUP:].reshape(-1, 4)
    shells = numbers["fields"]["power"]
    np.testing.assert_allclose([s["q50"] for s in shells], np.median(power, axis=0))
    departures = [
        (mean / shell["prior"] - 1) * math.sqrt(shell["modes"] / 2)
        for mean, shell in zip(power.mean(axis=0), shells, strict=True)
    ]
    np.testing.assert_allclose([s["departure"] for s in shells], departures)
    verdict = numbers["verdict"]
    assert verdict["state"] == "TOO SHORT" and verdict["converged"] is False
    assert verdict["worst_rhat"]["rhat"] == summary.convergence.worst_rhat.rhat


def test_the_page_says_the_same_as_the_json(numbers, page):
    table = page.tables["table-bias"][1:]
    keys = ("mean", "sd", "q05", "q50", "q95")
    for cells, row in zip(table, numbers["parameters"], strict=True):
        assert all(same(c, row[k], 4) for c, k in zip(cells[1:6], keys, strict=True))
        assert same(cells[7], row["rhat"], -3)
        assert value(cells[8]) == round(row["ess_bulk"])
        assert value(cells[9]) == round(row["ess_tail"])
    fields = numbers["fields"]
    table = page.tables["table-power"][1:]
    for cells, shell in zip(table, fields["power"], strict=True):
        assert same(cells[0], shell["k"], -3) and value(cells[1]) == shell["modes"]
        names = ("prior", "q16", "q50", "q84")
        assert all(same(c, shell[n], 4) for c, n in zip(cells[2:6], names, strict=True))
        assert same(cells[7], shell["departure"], -2) and same(cells[8], shell["truth"], 4)
    table = page.tables["table-correlation"][1:]
    for cells, shell in zip(table, fields["correlation"], strict=True):
        assert same(cells[0], shell["k"], -3) and same(cells[1], shell["r"], -3)
    table = page.tables["table-noise"][1:]
    for cells, shell in zip(table, fields["white_noise"]["shells"], strict=True):
        assert same(cells[2], shell["power"], -3) and same(cells[8], shell["inside_95"], -3)
    table = page.tables["table-kinds"][1:]
    for cells, kind in zip(table, numbers["verdict"]["kinds"], strict=True):
        assert cells[0] == kind["kind"] and same(cells[2], kind["rhat"], -3)
    versions = {cells[0]: cells[2] for cells in page.tables["table-versions"][1:]}
    assert versions == numbers["versions"]
    assert f"{numbers['data']['haloes_used']:,} of" in page.text
    for sentence in (*numbers["verdict"]["advice"], numbers["verdict"]["reason"]):
        assert sentence in page.text


def test_parameters_have_the_names_of_the_paper(page):
    names = [cells[0] for cells in page.tables["table-bias"][1:]]
    assert names[:5] == [f"kernel, {x}" for x in ("centre", "face", "edge", "corner", "bias")]
    assert names[5] == "amplitude 1, weight w^α1" and names[-1] == "width 2, bias b^σ2"


def test_commands_are_shown_as_they_were_typed(numbers, page):
    command = f"npe-infer --catalogue='{HOSTILE}' --grid=8"
    assert [start["command"] for start in numbers["history"]] == [command]
    assert command in page.text
    assert numbers["history"][0]["versions"]["numpy"] == np.__version__


def check_harmless(source):
    """What the page is made of can neither run nor ask for anything."""
    reader = Reader(source)
    assert not reader.open
    tags = {tag for tag, _ in reader.tags}
    assert tags <= {
        "html", "head", "meta", "link", "title", "style", "body", "header", "p", "h1", "h2", "h3",
        "sup", "sub", "i", "nav", "ul", "ol", "li", "a", "main", "section", "div", "dl", "dt", "dd",
        "table", "thead", "tbody", "tr", "th", "td", "span", "svg", "line", "circle", "figure",
        "img", "figcaption", "strong", "details", "summary", "pre", "code", "footer",
    }  # fmt: skip
    for tag, attributes in reader.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        assert "style" not in attributes
        if "src" in attributes:
            assert attributes["src"].startswith("data:image/png;base64,")
        if "href" in attributes:
            assert re.fullmatch(r"#[a-z]+|report\.json|data:,", attributes["href"])
    assert sum(tag == "style" for tag, _ in reader.tags) == 1
    return reader


def hostile(value):
    """The same with every text replaced, and a hostile key beside those that are free."""
    if isinstance(value, dict):
        return {key: hostile(x) for key, x in value.items()}
    if isinstance(value, list):
        return [hostile(x) for x in value]
    return HOSTILE if isinstance(value, str) else value


def test_hostile_text_stays_text(made, numbers):
    check_harmless((made[0] / REPORT_PAGE).read_text())
    bad = hostile(numbers)
    bad["warnings"] = [HOSTILE]
    bad["data"]["notes"] = [HOSTILE]
    bad["data"]["cosmology"][HOSTILE] = 1.0
    bad["settings"][HOSTILE] = bad["versions"][HOSTILE] = HOSTILE
    pictures = {HOSTILE: (made[0] / "figures" / "fields.png").read_bytes()}
    reader = check_harmless(report_page(bad, pictures))
    for figure in bad["figures"]:
        assert figure["alt"] == HOSTILE
    assert reader.text.count("alert(1)") > 50


def test_text_that_would_be_shown_in_another_order():
    assert text("a\u202eb\x00c") == "a\ufffdb\ufffdc"
    assert text("<a href='x'>") == "&lt;a href=&#x27;x&#x27;&gt;"
    assert prose("see --psi=rises, then npe-check --run='a b'.") == (
        'see <code class="flag">--psi=rises</code>, then <code class="flag">npe-check</code> '
        '<code class="flag">--run=&#x27;a b&#x27;</code>.'
    )
    assert "<b>" not in prose("--run=<b>x</b>")


@pytest.mark.parametrize(
    ("given", "form", "expected"),
    [
        (None, ".3f", "–"),
        (-1.5, ".2f", "−1.50"),
        (2e12, ".4g", "2&times;10<sup>12</sup>"),
        (-8.36e-5, ".3g", "−8.36&times;10<sup>−5</sup>"),
        (31967, ",.0f", "31,967"),
    ],
)
def test_numbers(given, form, expected):
    assert number(given, form) == expected


def test_the_page_is_accessible(page):
    tags = page.tags
    assert dict(tags)["html"] == {"lang": "en"}
    levels = [int(tag[1]) for tag, _ in tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    images = [attributes for tag, attributes in tags if tag == "img"]
    assert len(images) == 6 and all(len(image["alt"]) > 20 for image in images)
    heads = [attributes for tag, attributes in tags if tag == "th"]
    assert {attributes["scope"] for attributes in heads} == {"col", "row"}
    names = {attributes["id"] for _, attributes in tags if "id" in attributes}
    pointed = {a["aria-labelledby"] for _, a in tags if "aria-labelledby" in a}
    pointed |= {a["href"][1:] for _, a in tags if a.get("href", "").startswith("#")}
    assert pointed <= names
    sections = [a["id"] for tag, a in tags if tag == "h2"]
    assert sections == [
        "verdict", "data", "parameters", "fields", "figures", "warnings", "repeat", "versions",
        "cost", "cite",
    ]  # fmt: skip


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_contrast(colours):
    # WCAG 2.2, 1.4.3: 4.5 for text
    for ground in ("page", "panel"):
        for ink in ("text", "muted", "link", "good", "fair", "poor"):
            low, high = sorted((luminance(colours[ground]), luminance(colours[ink])))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (ground, ink)


def paths_of(value, at=""):
    """Paths of all leaves, a list as `[]`."""
    if isinstance(value, dict) and at not in FREE:
        return {p for key, x in value.items() for p in paths_of(x, f"{at}.{key}".lstrip("."))}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return {p for x in value for p in paths_of(x, f"{at}[]")}
    return {at}


def test_the_schema_is_documented(numbers):
    rows = re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs/report.md").read_text(), re.MULTILINE)
    assert len(rows) == len(set(rows))
    assert set(rows) == paths_of(numbers)


def test_a_run_without_truth(made, tmp_path):
    catalogue, _ = write_run(tmp_path, for_summary=True, with_truth=False)
    summary = summarise(tmp_path, catalogue)
    numbers = report_numbers(tmp_path, catalogue, summary)
    assert numbers["fields"]["correlation"] is None
    assert not numbers["data"]["has_truth"] and numbers["history"] == []
    page = Reader(report_page(numbers, {}))
    assert "The true field is not known" in page.text
    assert "No command was recorded" in page.text
    assert "table-correlation" not in page.tables
    assert page.tables["table-power"][0][-1] == "departure"
    assert page.tables["table-noise"][0][-1] == "departure"


def test_a_run_of_too_few_sweeps(tmp_path):
    catalogue, _ = write_run(tmp_path, for_summary=True, num_warmup=SWEEPS - 3)
    with pytest.raises(ValueError, match="at least 4 sweeps"):
        summarise(tmp_path, catalogue)
    path, _ = write_report(tmp_path, catalogue, folder=tmp_path / "elsewhere" / "deep")
    numbers = json.loads((tmp_path / "elsewhere" / "deep" / REPORT_JSON).read_text())
    assert numbers["verdict"]["state"] == "TOO SHORT"
    assert numbers["verdict"]["worst_rhat"] is None and numbers["parameters"] == []
    assert numbers["fields"] is None and numbers["data"]["haloes_used"] == len(catalogue)
    page = check_harmless(path.read_text())
    assert "9 draws after the warm-up (3 sweeps of 3 chains)" in page.text
    assert "too few sweeps" in page.text
    assert not (tmp_path / REPORT_PAGE).exists()


def test_without_matplotlib_there_is_a_page_without_figures(made, tmp_path, monkeypatch):
    folder, catalogue, *_ = made
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    summary = summarise(folder, catalogue, tmp_path / "figures")
    assert summary.figures == [] and (tmp_path / "figures" / "summary.txt").is_file()
    path, _ = write_report(folder, catalogue, summary, tmp_path)
    page = Reader(path.read_text())
    assert "pip install 'npe_tf[plots]'" in page.text
    assert not [tag for tag, _ in page.tags if tag == "img"]


def test_a_failed_write_leaves_the_old_report(made, tmp_path, monkeypatch):
    folder, catalogue, _, summary, _ = made
    (tmp_path / REPORT_PAGE).write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_report(folder, catalogue, summary, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [REPORT_PAGE]
    assert (tmp_path / REPORT_PAGE).read_text() == "old"


def test_what_went_wrong_is_told(made, numbers, monkeypatch):
    folder, catalogue, _, summary, _ = made
    assert numbers["warnings"] == []
    none, some = np.zeros(3, int), np.array([0, 25, 0])
    monkeypatch.setattr(contents, "health_of", lambda store: Health(40, some, none, some, none))
    heavy = Catalogue(catalogue.positions, 2.0 * catalogue.mass, catalogue.box_size)
    found = report_numbers(folder, heavy, summary)
    starts = ("The smallest halo has", "Divergent sweeps by chain: 0 25 0 of 40", "STUCK: chain 1")
    assert len(found["warnings"]) == 3
    for told, start in zip(found["warnings"], starts, strict=True):
        assert told.startswith(start) and told.endswith(".")
    page = check_harmless(report_page(found, {}))
    assert all(told in page.text for told in found["warnings"])


def test_what_is_not_known_is_null(made, tmp_path):
    folder, catalogue, _, summary, _ = made
    lost = dataclasses.replace(summary.parameters[0], rhat=math.nan, ess=math.inf)
    summary = dataclasses.replace(summary, parameters=[lost, *summary.parameters[1:]])
    path, numbers = write_report(folder, catalogue, summary, tmp_path)
    row = json.loads(numbers.read_text())["parameters"][0]
    assert row["rhat"] is None and row["ess_bulk"] is None
    assert Reader(path.read_text()).tables["table-bias"][1][7:9] == ["–", "–"]


def test_names_of_files_that_are_no_text(made, tmp_path):
    _, catalogue, *_ = made
    write_run(tmp_path, for_summary=True)
    notes = ("read from b\udcffd.csv",)
    odd = Catalogue(catalogue.positions, catalogue.mass, catalogue.box_size, notes=notes)
    path, numbers = write_report(tmp_path, odd)
    assert json.loads(numbers.read_text())["data"]["notes"] == ["read from b?d.csv"]
    assert "read from b?d.csv" in path.read_text()


def test_haloes_that_are_dropped_are_counted(tmp_path):
    catalogue, _ = write_run(tmp_path, for_summary=True, padding="valid")
    small = np.full(5, 1e12)
    more = Catalogue(
        np.concatenate([catalogue.positions, np.full((5, 3), 30.0)]),
        np.concatenate([catalogue.mass, small]),
        catalogue.box_size,
    )
    data = report_numbers(tmp_path, more)["data"]
    away = np.abs(np.round(catalogue.positions / 7.5) % 8 - 3.5) < 3  # voxels 1 to 6
    used = int(away.all(axis=1).sum())
    assert data["haloes_used"] == used
    assert data["haloes_below_threshold"] == 5
    assert data["haloes_at_faces"] == len(catalogue) - used > 0
    assert data["number_density_h3_mpc3"] == pytest.approx(used / (6 * 7.5) ** 3)
    assert not data["periodic"]


def test_the_citation_is_that_of_the_repository():
    said = (ROOT / "CITATION.cff").read_text()
    (doi,) = re.findall(r"doi: (\S+)", said)
    (title,) = re.findall(r"\n    title: (.+)", said)
    assert doi in BIBTEX and doi in REFERENCES[1]
    assert title in BIBTEX and title in REFERENCES[1]
    for family in re.findall(r"family-names: (.+)", said):
        assert family in BIBTEX and family in REFERENCES[1]
    assert BIBTEX.format(version="1.2").count("1.2") == 1
