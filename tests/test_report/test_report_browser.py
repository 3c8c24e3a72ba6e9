"""The report's page in Chromium: what it shows at every width, how it is filtered, read by keyboard, printed."""

import shutil

import pytest
from fabricated_runs import write_run, write_sweep
from test_report_build import TOY

from hessflat.analysis.experiment import StoredExperiment, Table
from hessflat.analysis.results import load_run
from hessflat.report.build import build_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install -e '.[dev]'")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is found; Debian's is the package chromium"),
]
# As wide as any table is.
WIDE = Table("wide", tuple(f"experiment_{i}" for i in range(14)), (("-0.123* [-0.45, +0.67]",) * 14,) * 3)
GRID = TOY._replace(
    id="grid", paper="M", regularisers=("optim.l2",), claims=TOY.claims[:2], tabulate=lambda runs: [WIDE]
)

# What of an element that is shown lies beyond the window, but for what is hidden from all but screen readers.
BEYOND = """() => [...document.querySelectorAll("body *")]
  .filter((node) => node.checkVisibility() && !node.closest(".skip, dialog"))
  .filter((node) => node.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5
    || node.scrollWidth > node.clientWidth + 1 && getComputedStyle(node).overflowX !== "visible")
  .map((node) => node.outerHTML.slice(0, 120))"""
# By the definitions of WCAG 2.2: relative luminance, and text that counts as large.
FAINT = """() => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => [0.2126, 0.7152, 0.0722].reduce((sum, weight, i) => {
    const c = [r, g, b][i] / 255;
    return sum + weight * (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  }, 0);
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const colour = channels(getComputedStyle(node).backgroundColor);
      if (colour.length === 3) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let seen = 0;
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !node.checkVisibility() || node.closest("script, style, .skip")) continue;
    seen += 1;
    const style = getComputedStyle(node);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    const [light, dark] = [luminance(channels(style.color)), luminance(behind(node))].sort((a, b) => b - a);
    const ratio = (light + 0.05) / (dark + 0.05);
    if (ratio < (large ? 3 : 4.5)) found.push([ratio, node.outerHTML.slice(0, 120)]);
  }
  return [seen, found];
}"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report with claims of two papers at two scales, with figures, tables, correlations and a run that diverged."""
    place = tmp_path_factory.mktemp("report")
    runs = [load_run(folder) for folder in write_sweep(place, (0.0, 1e-4, 5e-4, 1e-3, 2e-3), range(3))]
    lost = write_run(place, 5e-3, 0, status="diverged", reason="loss is NaN at step 31", epochs=(0, 1), spectra=False)
    stored = [
        StoredExperiment(TOY, "small", [*runs, load_run(lost)]),
        StoredExperiment(TOY, "paper", [], 15),
        StoredExperiment(GRID, "small", runs),
    ]
    build_report(stored, place / "out")
    return place / "out" / "index.html"


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        # Scrollbars take room from the page.
        started = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"], ignore_default_args=["--hide-scrollbars"]
        )
        yield started
        started.close()


@pytest.fixture
def shown(browser, report):
    """A function that opens the report in a window, and afterwards holds that nothing was an error."""
    problems, contexts = [], []

    def show(width=1280, height=800, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("requestfailed", lambda request: problems.append(f"failed: {request.url[:80]}"))
        page.goto(report.as_uri())
        return page

    yield show
    for context in contexts:
        context.close()
    assert problems == []


def claims(page):
    return [node.get_attribute("id") for node in page.locator(".claim:visible").all()]


def open_everything(page):
    page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_is_cut_off_and_all_text_has_contrast(shown, width, scheme):
    page = shown(width, color_scheme=scheme)
    page.wait_for_function("[...document.images].every((image) => image.complete && image.src)")
    assert page.evaluate("[...document.querySelectorAll('figure img')].every((image) => image.naturalWidth > 100)")
    open_everything(page)
    whole, beside_scrollbar = (
        page.evaluate(f"document.documentElement.{name}") for name in ("scrollWidth", "clientWidth")
    )
    assert whole <= beside_scrollbar <= width
    assert page.evaluate(BEYOND) == []
    seen, found = page.evaluate(FAINT)
    assert seen > 200
    assert found == []


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (360, 740)])
def test_the_first_screen_has_question_answer_and_picture(shown, width, height):
    page = shown(width, height)
    assert page.locator("h1").inner_text() == "Do flat minima generalise?"
    said = [one.inner_text() for one in page.locator(".answer").all()]
    assert 1 <= len(said) <= 3
    assert "over 15 runs that fit their training data" in said[0]
    assert said[-1].startswith("The 8 claims of the papers and our own: ")
    for place in ("h1", ".answer >> nth=-1"):
        box = page.locator(place).bounding_box()
        assert box["y"] + box["height"] < height
    assert page.locator(".opening img").bounding_box()["y"] < height - 60
    name = page.evaluate(
        "document.querySelector('.opening img').currentSrc === document.querySelector('source').srcset"
    )
    assert name == (width == 360)


def test_claims_are_filtered_by_paper_verdict_scale_and_words(shown):
    page = shown()
    state = page.get_by_role("status")
    everything = claims(page)
    assert len(everything) == 8
    assert state.inner_text() == "8 of 8 claims are shown."
    page.locator("[name=verdict][value='not run']").focus()
    page.keyboard.press("Space")
    assert claims(page) == ["toy-paper-sharper", "toy-paper-gap", "toy-paper-broken"]
    assert [one.get_attribute("id") for one in page.locator(".experiment:visible").all()] == ["toy-paper"]
    page.locator("[name=paper][value=G]").check()
    assert claims(page) == ["toy-paper-sharper"]
    page.locator("[name=scale][value=small]").check()
    assert claims(page) == []
    assert state.inner_text() == "0 of 8 claims are shown."
    page.get_by_role("button", name="Show all").click()
    assert claims(page) == everything
    page.get_by_label("Search").fill("GROWS gap")
    assert claims(page) == [name for name in everything if name.endswith("gap")]
    # A link leads to a claim also where that is filtered out.
    page.evaluate("location.hash = 'toy-small-broken'")
    page.wait_for_function("document.querySelector('#toy-small-broken').checkVisibility()")
    assert claims(page) == everything


def test_a_figure_is_enlarged_and_closed_by_keyboard(shown):
    page = shown(360, 740)
    page.wait_for_function("[...document.images].every((image) => image.src)")
    button = page.locator("#toy-small-against-l2 button")
    button.focus()
    assert button.evaluate("(node) => getComputedStyle(node).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    enlarged = page.get_by_role("dialog").locator("img")
    assert enlarged.bounding_box()["width"] > 2 * 360
    assert enlarged.get_attribute("src") == button.locator("img").get_attribute("src")
    page.keyboard.press("Escape")
    assert not page.get_by_role("dialog").is_visible()
    assert button.evaluate("(node) => node === document.activeElement")


def test_everything_that_can_be_clicked_is_reached_by_tab(shown):
    page = shown()
    wanted = page.locator("a[href]:visible, button:visible, input:visible, summary:visible").count()
    reached = set()
    for _ in range(wanted + 2):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("(() => { const all = [...document.querySelectorAll('*')];"
                                  " return all.indexOf(document.activeElement); })()"))  # fmt: skip
    assert len(reached) >= wanted


def test_print_has_whole_claims_and_nothing_cut_off(shown):
    page = shown(690, 1000, color_scheme="dark")
    page.wait_for_function("[...document.images].every((image) => image.src)")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate(BEYOND) == []
    assert page.evaluate(FAINT)[1] == []
    assert page.locator("#toy-small-sharper dt", has_text="rule").bounding_box()["height"] > 10
    assert not page.locator(".filters").is_visible()
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_without_scripts_all_claims_and_figures_are_there(shown):
    page = shown(java_script_enabled=False)
    assert page.locator(".claim:visible").count() == 8
    assert page.locator("figure noscript img").count() == 5
    assert not page.locator(".filters").is_visible()
