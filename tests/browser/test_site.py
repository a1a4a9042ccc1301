"""Every page of the built site, opened in headless Chromium.

The site is served on this machine; a request to any other address is refused, recorded, and fails the test. Needs a
built site (``make docs``), ``chromium`` (Debian's, or the one that CHROMIUM names) and the package playwright.
"""

from __future__ import annotations

import functools
import http.server
import json
import re
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlparse

import pytest
from playwright.sync_api import Browser, Page

from espref import __version__
from espref.chapters import CHAPTERS

SITE = Path(__file__).parents[2] / "docs" / "_build" / "html"
PAGES = sorted(str(page.relative_to(SITE)) for page in SITE.rglob("*.html") if "_static" not in page.parts)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """No log."""


def article(name: str) -> str:
    """The markup of the main part of a page."""
    text = (SITE / name).read_text()
    return text[text.index("<article") : text.rindex("</article>")]


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(SITE))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


class Watch:
    """A page, with a record of its errors and of its requests to other addresses."""

    def __init__(self, page: Page, local: str) -> None:
        self.page, self.complaints = page, []
        page.on("console", lambda m: self.complaints.append(f"console: {m.text}") if m.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on("requestfailed", lambda request: self.complaints.append(f"failed: {request.url}"))
        page.on("response", lambda r: self.complaints.append(f"{r.status}: {r.url}") if r.status >= 400 else None)

        def local_only(route) -> None:
            url = route.request.url
            if url.startswith((local, "data:", "blob:")):
                route.continue_()
            else:
                self.complaints.append(f"asked for {url}")
                route.abort()

        page.route("**/*", local_only)

    def open(self, url: str) -> None:
        """Open an address and wait until all formulas are typeset."""
        self.page.goto(url)
        self.page.evaluate("() => window.MathJax?.startup?.promise")


@pytest.fixture
def watch(browser: Browser, address: str) -> Iterator[Watch]:
    page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
    yield Watch(page, address)
    page.close()


def test_there_are_pages() -> None:
    """The folder contains the site, and no cache of the build."""
    folders = {f"{name}/index.html" for name in ("tutorials", "how-to", "ledger", "api")}
    assert folders | {"index.html", "install.html", "faq.html", "search.html", "genindex.html", "404.html"} <= set(
        PAGES
    )
    assert {"api/plot.html", "api/claims.html", "api/maps.html"} <= set(PAGES)
    assert not list(SITE.rglob("*.doctree")) and not (SITE / ".doctrees").exists()


def test_titles_are_unique() -> None:
    """No two pages have the same title: search results and browser tabs show nothing else."""
    titles = [re.search(r"<title>(.*?)</title>", (SITE / page).read_text(), re.DOTALL)[1].strip() for page in PAGES]
    assert sorted(set(titles)) == sorted(titles)


@pytest.mark.parametrize("name", PAGES)
def test_page(name: str, watch: Watch, address: str) -> None:
    """No errors or foreign requests, formulas typeset, images shown and described, no sideways scrolling on a phone."""
    watch.open(address + name)
    page = watch.page
    untypeset = page.evaluate(
        "() => [...document.querySelectorAll('.math')].filter(e => !e.querySelector('mjx-container'))"
        ".map(e => e.textContent)"
    )
    assert not untypeset, "formulas left as text"
    assert page.locator("[data-mjx-error], mjx-merror").count() == 0, "formulas that MathJax refuses"
    markup = page.evaluate(  # in prose; code may contain \bar in the label of an axis
        r"() => { const body = document.body.cloneNode(true);"
        r"body.querySelectorAll('pre, script, mjx-container').forEach(e => e.remove());"
        r"return body.textContent.match(/\{[a-z:]+\}`|\\(frac|sum|bar)\b/g) }"
    )
    assert not markup, "markup left as text"
    for image in page.evaluate(
        "async () => { const all = [...document.images]; all.forEach(i => { i.loading = 'eager' });"
        "await Promise.all(all.map(i => i.decode().catch(() => {})));"
        "return all.map(i => ({src: i.src, alt: i.alt, width: i.naturalWidth})) }"
    ):
        assert image["width"] > 0, f"image not shown: {image['src']}"
        assert len(image["alt"].split()) >= 4, f"image without a description: {image['src']} ({image['alt']!r})"
    page.set_viewport_size({"width": 360, "height": 740})
    wide = page.evaluate("() => document.documentElement.scrollWidth - window.innerWidth")
    assert wide <= 0, f"{wide} pixels wider than a narrow screen"
    assert not watch.complaints


LUMINANCE = """(element) => {
  const channels = (colour) => colour.match(/[0-9.]+/g).map(Number);
  const light = (c) => c.slice(0, 3).map(v => v / 255).map(v => v <= 0.04 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
  const layers = [];
  for (let e = element; e; e = e.parentElement) layers.push(channels(getComputedStyle(e).backgroundColor));
  let paper = [255, 255, 255];
  for (const layer of layers.reverse()) {
    const opacity = layer[3] ?? 1;
    paper = paper.map((v, k) => (1 - opacity) * v + opacity * layer[k]);
  }
  return [light(channels(getComputedStyle(element).color)), light(paper)];
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(
    "name",
    [
        "index.html",
        "install.html",
        "tutorials/01_the_line.html",
        "how-to/move-points.html",
        "ledger/line.html",
        "api/line.html",
    ],
)
def test_themes(name: str, theme: str, browser: Browser, address: str) -> None:
    """The page follows the reader's theme; text, captions, code and links have a contrast of at least 4.5."""
    page = browser.new_page(color_scheme=theme)  # type: ignore[arg-type]
    page.goto(address + name)
    background = page.evaluate(LUMINANCE, page.locator("article").first.element_handle())[1]
    assert background > 0.8 if theme == "light" else background < 0.1
    for what in ("p", "figcaption p", "article a", "article code", "pre span", ".proof-title", "dt"):
        for element in page.locator(f"article {what.removeprefix('article ')}").element_handles()[:40]:
            if not (element.is_visible() and element.inner_text().strip()):
                continue
            ink, paper = sorted(page.evaluate(LUMINANCE, element), reverse=True)
            assert (ink + 0.05) / (paper + 0.05) >= 4.5, f"{what}: {element.inner_text()[:60]!r}"
    page.close()


def test_theorems_have_no_icon(watch: Watch, address: str) -> None:
    """The boxes of claims do not show the bell that the theme gives to admonitions without an icon of their own."""
    watch.open(address + "ledger/line.html")
    icons = watch.page.evaluate(
        "() => [...document.querySelectorAll('.proof > .admonition-title')]"
        ".map(title => getComputedStyle(title, '::after').content)"
    )
    assert icons and set(icons) <= {"none", "normal"}


CHAPTER_PAGES = [
    (f"{folder}/{chapter}.html", number)
    for folder in ("api", "ledger")
    for number, chapter in enumerate(CHAPTERS, start=1)
    if f"{folder}/{chapter}.html" in PAGES
]


@pytest.mark.parametrize(("name", "number"), CHAPTER_PAGES)
def test_chapters_have_one_number(name: str, number: int) -> None:
    """The API page and the ledger page of a chapter bear its number in espref.chapters, as its module does."""
    heading = re.search(r"<h1>(.*?)</h1>", article(name), re.DOTALL)[1]
    assert re.sub(r"<[^>]+>", "", heading).startswith(f"{number}. ")


def test_the_first_chapters_have_both_pages() -> None:
    """Every chapter has a page of the ledger, and every one but training a page of the API."""
    assert [page for page, _ in CHAPTER_PAGES] == [f"api/{name}.html" for name in CHAPTERS if name != "train"] + [
        f"ledger/{name}.html" for name in CHAPTERS
    ]


LONG = 1200  # words


@pytest.mark.parametrize("name", [name for name in PAGES if not name.startswith(("_modules", "genindex", "search"))])
def test_long_pages_have_contents(name: str) -> None:
    """A page of more than 1200 words has a table of contents: the theme's in the margin, or a list at the top."""
    words = len(re.sub(r"<script.*?</script>|<[^>]+>", " ", article(name), flags=re.DOTALL).split())
    margin = re.search(r'class="[^"]*page-toc.*?</nav>', (SITE / name).read_text(), re.DOTALL)
    links = margin[0].count("<li") if margin else 0
    links = max(links, article(name).split("</ul>")[0].count("<li") if "contents-list" in article(name) else 0)
    assert words < LONG or links >= 2, f"{words} words, {links} links"


@pytest.mark.parametrize("name", [name for name in PAGES if "/" in name or name in ("index.html", "install.html")])
def test_social_tags(name: str) -> None:
    """Every page says in its head what it is about, for search engines and for links in messages."""
    head = (SITE / name).read_text().split("</head>")[0]
    if not name.startswith("_modules"):
        tags = [dict(re.findall(r'(\w+)="(.*?)"', tag)) for tag in re.findall(r"<meta (.*?)/?>", head, re.DOTALL)]
        named = [(tag.get("name") or tag.get("property"), tag["content"]) for tag in tags if "content" in tag]
        for name_of_tag in ("description", "og:description", "og:title"):
            (content,) = [content for tag, content in named if tag == name_of_tag]
            assert "\\" not in content, "formulas as markup"
            assert name_of_tag == "og:title" or len(content) > 20


def test_version_is_beside_the_title(watch: Watch, address: str) -> None:
    """The sidebar of every page shows the version."""
    watch.open(address + "index.html")
    assert watch.page.locator(".navbar-brand >> visible=true").first.inner_text().strip() == f"espref {__version__}"


@pytest.mark.parametrize("name", [name for name in PAGES if name != "404.html"])
def test_origin_is_below(name: str) -> None:
    """Every page says which version and commit it was built from, and when; the run of the ledger says the same."""
    made_with = json.loads((SITE / "ledger.json").read_text())["environment"]
    text = (SITE / name).read_text()
    found = re.search(r"<p>espref (\S+), commit (\w+)[\w ]*, built on ([\d-]+)</p>", text)
    assert found and found.groups() == (made_with["espref"], made_with["commit"] or "unknown", made_with["date"])


def test_source_and_other_projects_are_linked() -> None:
    """Functions link to their source, and names of other projects to their documentation."""
    assert 'href="../_modules/espref/line.html#line_plan"' in article("api/line.html")
    assert 'href="https://docs.pytorch.org/docs/stable/generated/torch.nn.MultiheadAttention.html' in article(
        "api/nn.html"
    )


@pytest.mark.parametrize("name", ["EspAttention", "SoftmaxAttention", "SinkhornAttention", "DifferentialAttention"])
def test_forward_is_documented(name: str) -> None:
    """The page of PyTorch shows how the modules are called, though forward comes from a class that all share."""
    page = article("api/nn.html")
    start = page.index(f'id="espref.nn.{name}.forward"')
    text = page[start : page.index("</dl>", page.index("query_padding_mask", start))]
    assert "need_weights" in text and "average_attn_weights" in text


def test_search_for_install_finds_the_page(browser: Browser, address: str) -> None:
    """It is the first result."""
    page = browser.new_page()
    page.goto(address + "search.html?q=install")
    page.wait_for_selector("#search-results li a", timeout=20_000)
    page.wait_for_timeout(1500)  # results arrive one by one, and are sorted
    assert "install.html" in (page.locator("#search-results li a").first.get_attribute("href") or "")
    page.close()


def test_page_not_found(watch: Watch, address: str) -> None:
    """The page for wrong addresses has style and links at any depth."""
    watch.open(address + "404.html")
    assert watch.page.locator("article h1").inner_text().startswith("Page not found")
    links = [a.get_attribute("href") or "" for a in watch.page.locator("nav a.reference").element_handles()]
    assert links and all(link.startswith(("/", "#", "https://")) for link in links)


def test_theme_button(watch: Watch, address: str) -> None:
    """The menu in the header changes the theme."""
    watch.open(address + "index.html")
    for theme in ("dark", "light"):
        watch.page.locator("button.theme-switch-button >> visible=true").first.click()
        watch.page.locator(f"button.theme-change-button[data-mode={theme}] >> visible=true").first.click()
        assert watch.page.evaluate("() => document.documentElement.dataset.theme") == theme


@pytest.mark.parametrize("scheme", ["http", "file"])
def test_search(scheme: str, browser: Browser, address: str) -> None:
    """Search finds a word of a tutorial, and nothing for a word that is nowhere, served or read from disk."""
    root = address if scheme == "http" else SITE.as_uri() + "/"
    page = browser.new_page()
    page.goto(root + "search.html?q=monotone")
    page.wait_for_selector("#search-results li a", timeout=20_000)
    links = [link.get_attribute("href") or "" for link in page.locator("#search-results li a").element_handles()]
    assert any("01_the_line" in link for link in links), links
    page.goto(root + "search.html?q=xyzzyqwerty")
    page.wait_for_function("() => /did not match|could not|no documents/i.test(document.body.innerText)")
    assert page.locator("#search-results li a").count() == 0
    page.close()


def test_read_from_disk(browser: Browser) -> None:
    """Without a server, formulas are typeset and figures shown."""
    page = browser.new_page()
    page.goto((SITE / "tutorials/01_the_line.html").as_uri())
    page.evaluate("() => MathJax.startup.promise")
    assert page.locator("mjx-container").count() > 20
    assert page.evaluate("() => [...document.images].every(i => i.naturalWidth > 0)")
    page.close()


class _Links(HTMLParser):
    """Anchors and local targets of one page."""

    def __init__(self) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.targets: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        self.targets += [values[name] for name in ("href", "src") if name in values]


def test_links() -> None:
    """Every local link, image and script leads to a file of the site, and to an anchor that exists."""
    parsed = {}
    for name in PAGES:
        parsed[name] = _Links()
        parsed[name].feed((SITE / name).read_text())
    dead = []
    for name, links in parsed.items():
        for target in links.targets:
            if urlparse(target).scheme or target.startswith("//"):
                assert not re.search(r"\.(js|css|woff2?|png|svg)$", target), f"{name} loads {target}"
                continue
            target = target.removeprefix("/") if name == "404.html" else target  # a server shows it at any depth
            path, anchor = urldefrag(urljoin(name, unquote(re.sub(r"\?[^#]*", "", target))))
            path = path or name
            if not (SITE / path).exists() or (anchor and path in parsed and anchor not in parsed[path].anchors):
                dead.append(f"{name} -> {target}")
    assert not dead
