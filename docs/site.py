"""A hook of mkdocs (`make docs`): the checkout's own pages, which stand beside `docs`, become pages of the site."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

# By what they become.
_PAGES = {"index.md": "README.md", **{name: name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")}}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages; their links into `docs` are links beside them there."""
    root = Path(config.config_file_path).parent
    for name, source in _PAGES.items():
        text = (root / source).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=text.replace("](docs/", "](")))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """A page's links to those pages."""
    return markdown.replace("](../", "](")
