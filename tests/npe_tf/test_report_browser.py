"""The report in a real browser: no overflow, no requests, no complaints, all pictures there."""

import pytest

from npe_tf.report.contents import write_report
from npe_tf.report.style import DARK, LIGHT
from npe_tf.run_history import record_start
from npe_tf.summary import summarise
from tests.browser import Page, chromium
from tests.npe_tf.synthetic_run import write_run

pytestmark = pytest.mark.skipif(
    chromium() is None,
    reason="no Chromium found (Debian: apt install chromium; or its path in CHROMIUM)",
)

WINDOWS = [(360, 740), (1280, 900)]
SCHEMES = {"light": LIGHT, "dark": DARK}
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
LOST = (
    "Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth > 0, "
    "() => false))).then(good => [good.length, good.filter(x => !x).length])"
)
# elements that stick out at the right and are not inside something that scrolls
STICKING = """[...document.querySelectorAll('body *')].filter(e =>
    e.getBoundingClientRect().right > document.documentElement.clientWidth + 1
    && !e.closest('.scroll, .plate')).map(e => e.tagName + '.' + e.className)"""


@pytest.fixture(scope="module")
def browser():
    with Page() as page:
        yield page


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser") / ("a_run_with_a_long_name_" * 6)
    folder.mkdir()
    catalogue, _ = write_run(folder, for_summary=True)
    record_start(folder, 0, "npe-infer --catalogue=" + "a" * 300 + " '<img src=http://x.test/a>'")
    path, _ = write_report(folder, catalogue, summarise(folder, catalogue, folder / "figures"))
    return path


@pytest.mark.parametrize(("width", "height"), WINDOWS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_page_as_it_is_shown(browser, report, width, height, scheme):
    browser.open(report, width, height, scheme)
    assert browser.evaluate("[innerWidth, innerHeight]") == [width, height]
    assert browser.evaluate(OVERFLOW) <= 0
    assert browser.evaluate(STICKING) == []
    assert browser.evaluate(LOST) == [6, 0]
    # what is hidden at first as well
    browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.evaluate(OVERFLOW) <= 0
    assert browser.requests == [report.as_uri()]
    assert browser.complaints == []
    ground = SCHEMES[scheme]["page"]
    colour = "rgb({}, {}, {})".format(*(int(ground[i : i + 2], 16) for i in (1, 3, 5)))
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == colour


def test_wide_tables_scroll_by_themselves_on_a_phone(browser, report):
    browser.open(report, *WINDOWS[0])
    scrolled = """(() => {
        const box = document.querySelector('[aria-labelledby="table-bias"].scroll');
        box.scrollLeft = 200;
        return [box.scrollWidth > box.clientWidth, box.scrollLeft, scrollX];
    })()"""
    assert browser.evaluate(scrolled) == [True, 200, 0]


def test_faults_would_be_seen(browser, tmp_path):
    path = tmp_path / "bad.html"
    path.write_text(
        "<!DOCTYPE html><meta name=viewport content='width=device-width'><body>"
        "<div style='width:900px'>wide</div><img src='data:image/png;base64,AAAA'>"
        "<img src='missing.png'><script>console.error('no')</script>"
    )
    browser.open(path, *WINDOWS[0])
    assert browser.evaluate(OVERFLOW) > 0
    assert "DIV." in browser.evaluate(STICKING)
    assert browser.evaluate(LOST) == [2, 2]
    assert len(browser.requests) == 2
    assert browser.complaints


def test_a_script_in_the_page_would_not_run(browser, report, tmp_path):
    path = tmp_path / "injected.html"
    injected = "<script>document.title = 'caught'</script><img src='http://127.0.0.1:9/a'>"
    path.write_text(report.read_text().replace("<main>", "<main>" + injected))
    browser.open(path, *WINDOWS[1])
    assert browser.evaluate("document.title") != "caught"
    assert len(browser.complaints) >= 2  # the policy forbids both, and says so
