"""What tests share: both array libraries, and one headless browser.

In the browser no name resolves, and it does no errands.
"""

import shutil

import pytest

import dlmini as dl

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
OFFLINE = """--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync
    --disable-background-networking --disable-component-update""".split()
OFFLINE.append("--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1")


@pytest.fixture(params=["numpy", "torch"])
def library(request):
    """The test on arrays of each library, in double precision."""
    if request.param == "torch":
        pytest.importorskip("torch", reason="torch is not installed")
    dl.use(request.param, "float64")
    dl.seed(0)
    yield request.param
    dl.use("numpy")


@pytest.fixture(scope="session")
def browser():
    if not CHROMIUM:
        pytest.skip("no Chromium or Chrome on this machine: on Debian, `apt install chromium`")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=OFFLINE)
        yield browser
        browser.close()


@pytest.fixture
def open_html(browser, tmp_path):
    """open_html(html, **context options): a tab with the HTML as a page opened from a file.

    What goes wrong in it (console errors, exceptions, requests) is in `tab.trouble`.
    """
    contexts = []

    def start(html, **options):
        file = tmp_path / f"page{len(contexts)}.html"
        file.write_text(
            '<!doctype html><html lang="en"><meta charset="utf-8">'
            f'<meta name="viewport" content="width=device-width"><title>test</title>\n{html}\n',
            encoding="utf-8",
        )
        context = browser.new_context(**{"viewport": {"width": 900, "height": 900}, **options})
        contexts.append(context)
        tab = context.new_page()
        tab.trouble = []
        tab.on("console", lambda m: m.type in ("error", "warning") and tab.trouble.append(m.text))
        tab.on("pageerror", lambda error: tab.trouble.append(str(error)))
        tab.on("requestfailed", lambda r: tab.trouble.append(r.url[:120]))
        tab.goto(file.as_uri())
        return tab

    yield start
    for context in contexts:
        context.close()
