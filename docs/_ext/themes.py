"""Figures for the light and the dark theme: grey lines and text of SVG files get a shade that can be read on both.

``espref.figures`` draws text and axes in one grey, because a figure does not know its background. On the site a rule
inside each SVG replaces it, and the stylesheet gives every picture the colour scheme of the page's theme.
"""

from __future__ import annotations

from pathlib import Path

from sphinx.application import Sphinx

#: The grey of espref.figures, and what it becomes: at least 4.5 to 1 against the background (WCAG 2.1, AA).
GREY, SHADES = "#808080", {"light": "#595959", "dark": "#b4b8be"}


def themed(svg: str) -> str:
    """The same picture with a rule for each colour scheme."""
    rules = "".join(
        f"@media (prefers-color-scheme: {scheme}) {{"
        + "".join(f' [style*="{part}: {GREY}"] {{ {part}: {shade} !important }}' for part in ("fill", "stroke"))
        + " }"
        for scheme, shade in SHADES.items()
    )
    start = svg.index(">", svg.index("<svg")) + 1
    return f"{svg[:start]}<style>{rules}</style>{svg[start:]}"


def write(app: Sphinx, error: Exception | None) -> None:
    """Change every SVG of the site that was drawn in this grey."""
    if error or app.builder.format != "html":
        return
    for path in sorted(Path(app.outdir, "_images").glob("*.svg")):
        svg = path.read_text(encoding="utf-8")
        if GREY in svg and "prefers-color-scheme" not in svg:
            path.write_text(themed(svg), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
