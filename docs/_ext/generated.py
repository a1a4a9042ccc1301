"""The text of a page that is written at build time: description for search engines and links, title, one directive."""

from __future__ import annotations


def page(title: str, description: str, directive: str, argument: str) -> str:
    """A page in MyST markup."""
    return (
        f'---\nmyst:\n  html_meta:\n    description: "{description}"\n"og:description": "{description}"\n---\n\n'
        f"# {title}\n\n```{{{directive}}} {argument}\n```\n"
    )
