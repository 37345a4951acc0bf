"""MkDocs hook: pages link into the repository as on GitHub, and the site brings what they link to along.

The front page is README.md. A link to a file outside of docs/ leads to a copy below `repository/`; a link to
a folder stays as text.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
COPIES = "repository"
FRONT_PAGES = {"README.md": "index.md"}
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s:#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the front page, and what pages link to outside of docs/."""
    texts = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
    linked = set(texts)
    for page in [*texts, *DOCS.rglob("*.md")]:
        linked |= {target for target in _targets(page) if target.is_file() and not _is_in_docs(target)}
    for path in sorted(linked):
        files.append(File.generated(config, _uri(path), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to where the site has their targets."""
    source = Path(page.file.abs_src_path or "")
    here = Path(page.file.src_uri).parent

    def rewritten(link: re.Match[str]) -> str:
        image, text, name, anchor = link.groups()
        target = (source.parent / name).resolve()
        if target.is_dir():
            return text
        return f"{image}[{text}]({Path(os.path.relpath(_uri(target), here)).as_posix()}{anchor or ''})"

    return _LINK.sub(rewritten, markdown)


def _targets(page: Path) -> set[Path]:
    return {(page.parent / link[3]).resolve() for link in _LINK.finditer(page.read_text("utf-8"))}


def _is_in_docs(path: Path) -> bool:
    return path.is_relative_to(DOCS)


def _uri(path: Path) -> str:
    """Return where in the site's sources a file of the repository stands."""
    if _is_in_docs(path):
        return path.relative_to(DOCS).as_posix()
    name = path.relative_to(ROOT).as_posix()
    return FRONT_PAGES.get(name, f"{COPIES}/{name}")
