"""Bring mermaid along where `make docs` found it: a page with a diagram then loads nothing from elsewhere."""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.utils import get_relative_url

MERMAID = Path(__file__).resolve().parents[1] / ".docs" / "package" / "dist" / "mermaid.min.js"
URL = "assets/javascripts/mermaid.min.js"


def on_files(files: Files, config: Any) -> Files:
    """Copy mermaid into the site."""
    if MERMAID.is_file():
        files.append(File.generated(config, URL, abs_src_path=str(MERMAID)))
    return files


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Load it in pages that hold a diagram; Material's own loader then finds it there."""
    if not MERMAID.is_file() or 'class="mermaid"' not in output:
        return output
    script = f'<script src="{get_relative_url(URL, page.url)}"></script>'
    return output.replace("</head>", f"{script}</head>", 1)
