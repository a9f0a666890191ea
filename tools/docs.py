"""Hooks of mkdocs: pages and passages of the documentation that are made from the program itself.

Commands come from the command line's own help, the library's page from its public names, tables of tasks,
verdicts and limits from the code and the committed results, the schema of activation files from
activations/README.md, results and pictures from reports/.
"""

import os
import re
import shutil
from pathlib import Path

import docs_pages
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]


SCRATCH = ROOT / "build" / "tutorials"
"""Where tutorials are run, so that what they write stays out of the tree."""


def on_pre_build(config: MkDocsConfig) -> None:
    """Run tutorials in an empty folder."""
    shutil.rmtree(SCRATCH, ignore_errors=True)
    SCRATCH.mkdir(parents=True)
    os.chdir(SCRATCH)


def on_post_build(config: MkDocsConfig) -> None:
    """Back to where one was."""
    os.chdir(ROOT)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and the pictures that pages show."""
    for name, page in docs_pages.PAGES.items():
        files.append(File.generated(config, name, content=page()))
    pages = [path.read_text(encoding="utf-8") for path in Path(config.docs_dir).rglob("*.md")]
    for report, picture in sorted(set(re.findall(r"figures/(\w+)/([\w-]+\.png)", "\n".join(pages)))):
        source = ROOT / "reports" / report / "figures" / picture
        files.append(File.generated(config, f"figures/{report}/{picture}", abs_src_path=str(source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill the passages that a page leaves to the program."""
    return docs_pages.filled(markdown)
