"""Sphinx configuration of the site. Everything it shows is local: it can be built and read without a network."""

import os
import shutil
import sys
from pathlib import Path
from urllib.parse import urlsplit

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE / "_ext")]
# The kernels that execute the tutorials import this copy of the package, and use one thread each.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Sphinx reads only what is below docs/, so the tutorials are copied there.
shutil.rmtree(HERE / "tutorials", ignore_errors=True)
shutil.copytree(ROOT / "tutorials", HERE / "tutorials", ignore=shutil.ignore_patterns(".*"))

import inventories  # noqa: E402

import espref  # noqa: E402
from espref import citation  # noqa: E402
from espref._environment import environment  # noqa: E402

about, built_with = citation.project(), environment()
project = "espref"
author = ", ".join(about.authors)
copyright = author
version = release = espref.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx.ext.intersphinx",
    "sphinxcontrib.bibtex",
    "sphinx_proof",
    "sphinx_exercise",
    "sphinx_design",
    "sphinx_copybutton",
    "sphinx_togglebutton",
    "sphinxext.opengraph",
    "notfound.extension",
    "api",
    "descriptions",
    "ledger",
    "notebooks",
    "panels",
    "tables",
    "themes",
]
exclude_patterns = ["_build", "_static", "**.ipynb_checkpoints", "figures", "records"]

# Tutorials and how-to pages are executed at every build, each in an empty folder, as a downloaded notebook would be.
myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath", "smartquotes"]
myst_heading_anchors = 3
nb_execution_mode = os.environ.get("ESPREF_DOCS_EXECUTION", "force")  # "off" while writing prose
nb_execution_show_tb = True  # a failing cell is a warning, and warnings fail the build
nb_execution_timeout = 300
nb_execution_in_temp = True
nb_merge_streams = True
nb_number_source_lines = False

# The claims are checked at every build (docs/_ext/ledger.py).
ledger_require_tutorial = True

# API: one page per chapter (docs/_ext/api.py).
autodoc_typehints = "none"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False
napoleon_google_docstring = False
napoleon_use_param = False
napoleon_use_rtype = False
napoleon_use_ivar = True

# Links to NumPy, SciPy, PyTorch and POT, from a table in this repository: the build uses no network.
intersphinx_mapping = inventories.write(HERE / "_build" / "inventories")
viewcode_line_numbers = True

# All boxes of a ledger chapter share one counter: Theorem 4.1, Proposition 4.2, ...
numfig = True
numfig_secnum_depth = 1
prf_realtyp_to_countertyp = {"proposition": "theorem", "observation": "theorem"}

bibtex_bibfiles = [str(ROOT / "espref" / "references.bib")]
bibtex_default_style = "plain"
bibtex_reference_style = "author_year"

# One file contains MathJax and its fonts.
mathjax_path = "mathjax/tex-svg.js"
mathjax3_config = {"options": {"enableMenu": False}, "svg": {"fontCache": "global"}}

html_theme = "sphinx_book_theme"
html_title = "espref"
html_static_path = ["_static"]
html_css_files = ["espref.css"]
html_theme_options = {
    "logo": {"text": f"espref {version}"},
    "use_download_button": True,
    "use_fullscreen_button": False,
    "navbar_persistent": [],  # one search field, in the sidebar
    "show_toc_level": 2,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
# On every page: what it was built from, and when.
state = " with uncommitted changes" if built_with["dirty"] else ""
commit = f"commit {built_with['commit']}{state}" if built_with["commit"] else "commit unknown"
html_theme_options["extra_footer"] = f"<p>espref {release}, {commit}, built on {built_with['date']}</p>"
html_show_copyright = False
html_context = {"default_mode": "auto"}
if about.published:  # once pyproject.toml has an address, pages link the repository, their own source, and its issues
    html_theme_options |= {
        "repository_url": about.repository,
        "repository_branch": "main",
        "use_repository_button": True,
        "use_issues_button": True,
        "use_edit_page_button": True,
    }
    # Tutorials stand beside docs/; the pages of api/ and ledger/ are made from modules.
    html_context["edit_page_provider_name"] = "the repository"
    html_context["edit_page_url_template"] = (
        f"{about.repository}/edit/main/"
        "{% set page = file_name.split('/') %}"
        "{% if page[0] in ('api', 'ledger') and page[1] != 'index.md' %}"
        "espref/{{ 'claims/' if page[0] == 'ledger' }}{{ page[1][:-3].replace('.', '/') }}"
        "{{ '/__init__' if page[0] == 'api' and page[1][:-3] in ('nn', 'claims') }}.py"
        "{% else %}{{ '' if page[0] == 'tutorials' else 'docs/' }}{{ file_name }}{% endif %}"
    )
html_domain_indices = False
nitpicky = True

# Where the site will stand, for the links of the page 404.html, which a server shows at any depth, and of social tags.
html_baseurl = os.environ.get("ESPREF_DOCS_URL", "")  # "https://example.org/espref/"
notfound_urls_prefix = urlsplit(html_baseurl).path or "/"
notfound_context = {
    "title": "Page not found",
    "body": "<h1>Page not found</h1><p>There is no page at this address. The search and the contents lead on.</p>",
}
ogp_site_url = html_baseurl
ogp_site_name = "espref"
ogp_social_cards = {"enable": False}  # pictures of the title; they would be drawn at every build
