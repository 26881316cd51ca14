"""A hook of MkDocs: links from the documents to files of the repository outside docs/ become plain names in the site.

In the repository they lead to the file. The site does not hold it. A link to a file that is not there stops the build.
"""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"\[([^\]]+)\]\((\.\./[^)#\s]+)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    """Replace links that leave docs/; MkDocs calls this for every page."""
    folder = Path(page.file.abs_src_path).parent

    def replace(match: re.Match[str]) -> str:
        target = (folder / match[2]).resolve()
        if target.is_relative_to(ROOT / "docs"):
            return match[0]
        if not target.exists():
            raise FileNotFoundError(f"{page.file.src_path}: {match[2]} is not there")
        return f"{match[1]} (`{target.relative_to(ROOT)}`)" if match[1].strip("`") != target.name else match[1]

    return _LINK.sub(replace, markdown)
