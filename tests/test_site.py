"""The built site works for a stranger: no network, any screen, light and dark, by keyboard.

Build it first: `make book`.
"""

import functools
import http.server
import json
import os
import re
import threading
import zlib
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import nbformat
import pytest
from bs4 import BeautifulSoup

import rules

ROOT = Path(__file__).resolve().parent.parent
SITE = Path(os.environ.get("DLMINI_SITE", ROOT / "_build" / "html"))
PAGES = sorted(
    path.relative_to(SITE).as_posix()
    for path in SITE.rglob("*.html")
    if "_static" not in path.parts
)
MADE = ("index.html", "genindex.html", "search.html")
SOURCES = [page for page in PAGES if page.startswith("_modules/")]
READ = [page for page in PAGES if page not in (*MADE, *SOURCES)]
STICKING_OUT = """width => [...document.querySelectorAll('article *')]
    .filter(e => e.getBoundingClientRect().right > width + 1)
    .filter(e => !e.closest('pre, mjx-container, .output, .pst-scrollable-table-container'))
    .slice(0, 3).map(e => e.outerHTML.slice(0, 120))"""
CUT_OFF = """[...document.querySelectorAll('mjx-container mjx-c')]
    .filter(c => c.getBoundingClientRect().left < 0).map(c => c.closest('[id]').id)"""
SCROLLING = """[...document.querySelectorAll('article mjx-container[display]')]
    .filter(m => m.scrollWidth > m.clientWidth + 1)
    .map(m => `${m.closest('[id]').id}: ${m.scrollWidth} of ${m.clientWidth} px`)"""
BRIGHTNESS = """element => getComputedStyle(element).backgroundColor
    .match(/\\d+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0)"""
HAS_CHANGED = """([image, source]) => image.getAttribute('src') !== source
    && image.complete && image.naturalWidth > 0"""
TARGETS = "links => links.map(a => a.getAttribute('href'))"

pytestmark = [
    pytest.mark.site,
    pytest.mark.skipif(not PAGES, reason="the site is not built: run `make book` first"),
]


@functools.cache
def page_soup(page: str) -> BeautifulSoup:
    return BeautifulSoup((SITE / page).read_text(encoding="utf-8"), "html.parser")


@functools.cache
def anchors(page: str) -> set[str]:
    return {tag["id"] for tag in page_soup(page).find_all(id=True)}


def is_outside(address: str) -> bool:
    return bool(urlsplit(address).netloc) or urlsplit(address).scheme in ("http", "https")


# What stands in the files


def test_every_internal_link_resolves():
    broken = []
    for page in PAGES:
        for tag in page_soup(page).find_all(["a", "link", "img", "script", "source"]):
            address = tag.get("href") or tag.get("src") or ""
            if (
                is_outside(address)
                or not address
                or re.match(r"(data|mailto|javascript):", address)
            ):
                continue
            url = urlsplit(urljoin(page, address))
            target = unquote(url.path)
            if not (SITE / target).is_file():
                broken.append(f"{page}: {address}: no such file")
            elif (
                url.fragment
                and target.endswith(".html")
                and unquote(url.fragment) not in anchors(target)
            ):
                broken.append(f"{page}: {address}: no such place in {target}")
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("name", rules.contents())
def test_what_a_chapter_cites_has_its_place(name):
    """Equations, figures, claims and headings, by the names that plain links give them."""
    cells = nbformat.read(ROOT / f"chapters/{name}.ipynb", as_version=4).cells
    page = f"chapters/{name}.html"
    assert rules.Chapter(cells, name).places <= anchors(page)
    for figure in page_soup(page).select("figure[id^=fig-]"):
        caption = figure.find("figcaption", recursive=False)
        assert caption, f"{figure['id']} has no caption"
        assert caption.get_text().strip().startswith("Figure ")
        assert figure.select("img, .dl-explore, .dl-play"), f"{figure['id']} is empty"


def test_terms_and_papers_have_their_places():
    terms = {term["id"] for term in page_soup("chapters/glossary.html").select("dl.glossary dt")}
    assert terms == rules.terms()
    assert set(rules.papers()) <= anchors("chapters/bibliography.html")


def test_no_page_loads_anything_from_outside():
    """Links that a reader may follow can point anywhere; what a page loads by itself may not."""
    outside = []
    for page in PAGES:
        soup = page_soup(page)
        for tag in soup.find_all(
            ["script", "img", "iframe", "source", "video", "audio", "embed", "object"]
        ):
            outside += [
                f"{page}: {tag[key][:80]}"
                for key in ("src", "data")
                if is_outside(tag.get(key, ""))
            ]
        for tag in soup.find_all("link"):
            if not {"canonical"} & set(tag.get("rel", [])) and is_outside(tag.get("href", "")):
                outside.append(f"{page}: {tag['href']}")
        for tag in soup.find_all("style"):
            outside += [f"{page}: {url}" for url in css_loads(tag.string or "") if is_outside(url)]
    for sheet in SITE.rglob("*.css"):
        urls = css_loads(sheet.read_text(encoding="utf-8"))
        outside += [f"{sheet.relative_to(SITE)}: {url}" for url in urls if is_outside(url)]
    assert not outside, "\n".join(outside)


def css_loads(css: str) -> list[str]:
    urls = re.findall(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)", css)
    return [a or b for a, b in urls]


def test_no_output_is_an_error_or_was_left_out():
    for page in READ:
        assert not page_soup(page).select(".cell_output .traceback"), f"{page} shows an error"


@pytest.mark.parametrize("page", READ)
def test_page_says_what_it_is(page):
    """Language, title, description, one h1, no skipped heading level, a text for every image."""
    soup = page_soup(page)
    assert soup.html.get("lang") == "en"
    assert len(soup.select("article h1")) == 1
    assert soup.title.string.strip()
    assert soup.find("meta", attrs={"name": "description"})["content"].strip()
    for image in soup.select("article img"):
        assert image.get("alt", "").strip(), (
            f"an image of {page} has no alt text: {image.get('src', '')[:60]}"
        )
    levels = [
        int(tag.name[1]) for tag in soup.select("article h1, article h2, article h3, article h4")
    ]
    for above, below in zip(levels, levels[1:], strict=False):
        assert below <= above + 1, f"{page} jumps from h{above} to h{below}"


def test_the_reference_has_a_place_for_every_public_name():
    """Under the names that other books and the search use, and each with its code."""
    packed = (SITE / "objects.inv").read_bytes().split(b"\n", 4)[4]
    lines = zlib.decompress(packed).decode().splitlines()
    places = {line.split(" ")[0]: line.split(" ")[3] for line in lines if " py:" in line}
    defined = re.compile(r"(?m)^(?:(?:def|class) ([A-Za-z]\w*)|([A-Za-z]\w*)(?:: [^=]+)? = )")
    count = 0
    for path in (ROOT / "dlmini").rglob("*.py"):
        if re.match("_[^_]", path.name) or path.match("exercises/[!_]*"):  # checkers: no reading
            continue
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for match in defined.finditer(path.read_text(encoding="utf-8")):
            name = match[1] or match[2]
            page, _, place = places[f"{module}.{name}"].partition("#")
            place = place.replace("$", f"{module}.{name}")
            assert place in anchors(page), f"{module}.{name}"
            [entry] = page_soup(page).select(f"dt:has([id='{place}']), dt[id='{place}']")
            [source] = entry.select(".viewcode-link")[:1] or [None]
            if match[1]:  # a function or a class
                target = urlsplit(urljoin(page, source.parent["href"]))
                assert target.fragment in anchors(target.path), f"{module}.{name} shows no code"
            count += 1
    assert count > 150
    assert places["dlmini.relu"] == places["dlmini.ops.relu"].replace("$", "dlmini.ops.relu")


# What happens in a browser with the network off


@pytest.fixture(scope="module")
def address():
    """The site on a static server of this process, as any host would serve it."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=SITE)
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


class Visit:
    """A browser tab that notes what goes wrong."""

    def __init__(self, browser, base, **options):
        self.base, self.trouble = base, []
        self.context = browser.new_context(**options)
        self.tab = self.context.new_page()
        self.tab.on("console", self._console)
        self.tab.on("pageerror", lambda error: self.trouble.append(f"error: {error}"))
        self.tab.on("request", self._request)
        self.tab.on("requestfailed", self._failed)
        self.tab.on("response", self._response)

    def _console(self, message):
        if message.type in ("error", "warning"):
            self.trouble.append(f"console {message.type}: {message.text}")

    def _request(self, request):
        if not request.url.startswith((self.base, "data:", "blob:")):
            self.trouble.append(f"outside: {request.url[:120]}")

    def _failed(self, request):
        if "ERR_ABORTED" not in request.failure:  # the tab went on to the next page
            self.trouble.append(f"failed: {request.url[:120]} {request.failure}")

    def _response(self, response):
        if response.status >= 400:
            self.trouble.append(f"{response.status}: {response.url[:120]}")

    def open(self, page):
        self.tab.goto(self.base + page)
        self.tab.wait_for_load_state("load")
        self.tab.evaluate("window.MathJax?.startup?.promise")
        self.tab.evaluate("document.fonts.ready.then(() => true)")
        return self.tab


@pytest.fixture
def visit(browser, address):
    visits = []

    def start(base=address, **options):
        visits.append(
            Visit(browser, base, **{"viewport": {"width": 1280, "height": 900}, **options})
        )
        return visits[-1]

    yield start
    for one in visits:
        one.context.close()


@pytest.mark.parametrize("page", READ)
def test_page_works_with_the_network_off(visit, page):
    one = visit()
    tab = one.open(page)
    assert one.trouble == []
    formulas = tab.locator("article .math").count()
    assert tab.locator("article .math mjx-container").count() >= formulas, (
        "some mathematics is not rendered"
    )
    assert tab.locator("mjx-merror").count() == 0, tab.locator("mjx-merror").first.text_content()
    raw = re.findall(
        r"\\(?:begin|frac|nabla|theta|eta)\b|\$\$", tab.locator("article").inner_text()
    )
    assert not raw, f"raw TeX in the text: {raw[:3]}"
    # icons and formulas come with their fonts
    loaded = tab.evaluate(
        "[...document.fonts].filter(f => f.status === 'loaded').map(f => f.family).join()"
    )
    assert "Font Awesome" in loaded
    assert not formulas or "MJX" in loaded


@pytest.mark.parametrize("width", [390, 320])
def test_no_page_scrolls_sideways_on_a_phone(visit, width):
    one = visit(viewport={"width": width, "height": 844}, is_mobile=True, has_touch=True)
    wide = {}
    for page in READ:
        tab = one.open(page)
        tab.evaluate("document.querySelectorAll('article details').forEach(d => d.open = true)")
        got = tab.evaluate("document.documentElement.scrollWidth")
        assert tab.evaluate(CUT_OFF) == [], f"a formula of {page} begins left of the screen"
        if got > width:
            wide[page] = got, tab.evaluate(STICKING_OUT, width)
    assert not wide, wide
    assert one.trouble == []


@pytest.mark.parametrize("name", rules.contents())
def test_formulas_fit_a_phone(visit, name):
    tab = visit(viewport={"width": 390, "height": 844}, is_mobile=True).open(
        f"chapters/{name}.html"
    )
    wide = tab.evaluate(SCROLLING)
    assert not wide, "break these with aligned: " + "; ".join(wide)


def test_search_finds_a_term(visit):
    one = visit()
    tab = one.open("intro.html")
    tab.keyboard.press("Control+k")
    tab.keyboard.type("momentum")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#search-results li a")
    tab.wait_for_load_state("networkidle")
    found = tab.locator("#search-results li a").evaluate_all(TARGETS)
    assert any("glossary" in link for link in found), found
    tab.locator("#search-results li a").first.click()
    tab.wait_for_load_state("load")
    assert "momentum" in tab.locator("article").inner_text().lower()
    assert one.trouble == []


def test_dark_mode_follows_the_system_and_the_button(visit):
    one = visit(color_scheme="dark")
    tab = one.open("intro.html")
    assert tab.evaluate("document.documentElement.dataset.theme") == "dark"
    assert tab.locator("body").evaluate(BRIGHTNESS) < 150
    button = tab.locator(".theme-switch-button:visible").first
    for _ in range(3):
        button.click()
        if tab.evaluate("document.documentElement.dataset.theme") == "light":
            break
    assert tab.locator("body").evaluate(BRIGHTNESS) > 600
    tab = one.open(READ[0])  # the choice is kept on the next page
    assert tab.evaluate("document.documentElement.dataset.theme") == "light"
    assert one.trouble == []


def test_figures_are_turned_in_dark_mode(visit):
    pages = [page for page in READ if page_soup(page).select(".cell_output img")]
    assert pages, "no page of the site has a figure"
    one = visit(color_scheme="dark")
    for page in pages:
        tab = one.open(page)
        for image in tab.locator("div.cell_output img").all():
            assert "invert" in image.evaluate("el => getComputedStyle(el).filter")
            assert image.evaluate("el => getComputedStyle(el).padding") == "0px", (
                "a bright frame around the figure"
            )


def test_every_interactive_figure_obeys_the_keyboard(visit):
    pages = [page for page in READ if page_soup(page).select(".dl-explore")]
    assert pages, "no page of the site has an interactive figure"
    one = visit()
    for page in pages:
        tab = one.open(page)
        for figure in tab.locator(".dl-explore").all():
            for slider in figure.locator("input[type=range]").all():
                assert slider.evaluate("s => s.labels.length > 0 || s.ariaLabel"), (
                    "a slider without a name"
                )
                before, said = (
                    figure.locator("img").get_attribute("src"),
                    slider.get_attribute("aria-valuetext"),
                )
                slider.focus()
                at_end = slider.evaluate("s => s.value === s.max")
                tab.keyboard.press("ArrowLeft" if at_end else "ArrowRight")
                tab.wait_for_function(
                    HAS_CHANGED,
                    arg=[figure.locator("img").element_handle(), before],
                    timeout=5000,
                )
                assert slider.get_attribute("aria-valuetext") != said, (
                    "a screen reader would not hear the new value"
                )
    assert one.trouble == []


def test_claims_in_the_ledger_lead_to_their_cells(visit):
    one = visit()
    tab = one.open("chapters/ledger.html")
    links = tab.locator("article a[href*='#claim-']").evaluate_all(TARGETS)
    assert links, "the ledger links to no claim"
    tab.locator("article a[href*='#claim-']").first.click()
    tab.wait_for_load_state("load")
    anchor = urlsplit(tab.url).fragment
    assert anchor.startswith("claim-")
    assert tab.locator(f"[id='{anchor}']").is_visible()


def test_hints_open_by_keyboard(visit):
    pages = [
        page for page in READ if page_soup(page).select("article details:not(.hide) > summary")
    ]
    assert pages, "no page of the site has a hint or a solution"
    tab = visit().open(pages[0])
    summary = tab.locator("article details:not(.hide) > summary").first
    summary.focus()
    tab.keyboard.press("Enter")
    assert summary.evaluate("s => s.parentElement.open")


def test_a_page_opens_from_the_file_system(visit):
    one = visit(base=SITE.as_uri() + "/")
    page = next(page for page in READ if page_soup(page).select("article .math"))
    tab = one.open(page)
    assert tab.locator("article .math mjx-container").count() > 0
    assert one.trouble == []


def test_paper_shows_solutions_and_hides_buttons(visit):
    both = "article:has(details.hide):has(details:not(.hide))"
    tab = visit().open(next(page for page in READ if page_soup(page).select(both)))
    tab.emulate_media(media="print")
    assert tab.locator("article details:not(.hide) > :not(summary)").first.evaluate(
        "e => e.checkVisibility()"
    )
    assert not tab.locator(".bd-sidebar-primary").is_visible()
    assert not tab.locator(".bd-header-article").is_visible()
    for folded in tab.locator("div.cell details.hide > summary").all():
        assert not folded.is_visible(), "no one can unfold code on paper"


def test_the_code_of_a_name_opens_by_keyboard(visit):
    one = visit()
    tab = one.open("chapters/api/optimizers.html#dlmini.optim.clip_grad_norm")
    entry = tab.locator("dl.py:has(> dt [id='dlmini.optim.clip_grad_norm'])")
    assert "min(1, max_norm/‖g‖)" in entry.inner_text()
    entry.locator(".viewcode-link").locator("..").focus()
    tab.keyboard.press("Enter")
    tab.wait_for_url("**/_modules/dlmini/optim.html#clip_grad_norm")
    code = tab.locator("[id='clip_grad_norm']")
    assert code.inner_text().replace("[docs]", "").strip().startswith("def clip_grad_norm(")
    assert one.trouble == []


def test_the_reference_begins_with_the_table_of_derivatives():
    table = page_soup("chapters/api/tensors.html").select_one("table.dl-rules")
    rows = {row.td.get_text(): row for row in table.select("tbody tr") if row.td}
    assert {"add", "matmul", "tanh", "sum", "where"} <= set(rows)
    said = [td.get_text(" ", strip=True) for td in rows["tanh"].select("td")]
    assert said == ["tanh", "tanh(x)", "∂x g * (1.0 - z * z)"]
    assert rows["tanh"].a["href"].endswith("#dlmini.ops.tanh")
    entry = page_soup("chapters/api/tensors.html").select_one("[id='dlmini.ops.tanh']")
    assert "g * (1.0 - z * z)" in entry.find_parent("dl").get_text()


def test_names_in_the_cells_of_a_chapter_lead_to_the_reference():
    for page in READ:
        if not page_soup(page).select(".cell_input"):
            continue
        links = page_soup(page).select(".cell_input a.sphinx-codeautolink-a")
        where = {a.get_text(): urljoin(page, a["href"]) for a in links}
        used = re.search(r"\bdl\.use\(", page_soup(page).get_text())
        assert not used or where["dl.use"] == "chapters/api/tensors.html#dlmini.backend.use", page


def test_search_finds_a_function_and_not_every_line_of_code_with_its_name(visit):
    one = visit()
    tab = one.open("search.html?q=clip_grad_norm")
    tab.wait_for_selector("#search-results li a")
    tab.wait_for_load_state("networkidle")
    found = tab.locator("#search-results li a").evaluate_all(TARGETS)
    assert "optimizers.html#dlmini.optim.clip_grad_norm" in found[0]
    words = json.loads((SITE / "searchindex.js").read_text()[len("Search.setIndex(") : -1])
    assert "strict" not in words["terms"], "the search reads the code of the reference"
    assert one.trouble == []


CONTRAST = """selector => {
    const parts = colour => (colour.match(/[\\d.]+/g) || []).map(Number);
    const light = colour => { const [r, g, b] = parts(colour).map(v => v / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
    const ground = e => { for (; e; e = e.parentElement) {
        const c = getComputedStyle(e).backgroundColor, p = parts(c);
        if (p.length === 3 || p[3] === 1) return c; } return 'rgb(255, 255, 255)'; };
    return [...document.querySelectorAll(selector)].filter(e => e.textContent.trim()).map(e => {
        const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => y - x);
        return [(a + 0.05) / (b + 0.05), e.outerHTML.slice(0, 100)]; }); }"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_reference_is_legible(visit, scheme):
    one, seen = visit(color_scheme=scheme), 0
    for page in ("chapters/api.html", "chapters/api/tensors.html", "_modules/dlmini/flat.html"):
        tab = one.open(page)
        tab.evaluate("document.querySelectorAll('article details').forEach(d => d.open = true)")
        for selector in (
            "dt.sig span, dt.sig em",
            ".field-list :is(dt, dd, strong, code)",
            "table.autosummary :is(td, a, code)",
            "table.dl-rules :is(td, a, code)",
            ".highlight pre span",
        ):
            found = tab.evaluate(CONTRAST, selector)
            seen += len(found)
            faint = [each for each in found if each[0] < 4.5]
            assert not faint, faint[:3]
    assert seen > 1000
