"""The documentation site: ``sphinx-build -W -n docs site``. Without a network, and without torch.

Sphinx, because it fails on a broken reference by itself and is maintained; MkDocs had its last release in 2024.
"""

import sys
from pathlib import Path

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent))

from _generate import write_pages

from vlaudit import __version__

project = "vlaudit"
version = release = __version__
copyright = "the vlaudit authors, Apache-2.0"

extensions = ["myst_parser", "sphinx_click"]
exclude_patterns = ["_*"]
nitpicky = True
smartquotes = False  # commands are copied as they stand
myst_heading_anchors = 3
myst_enable_extensions = ["attrs_inline"]

html_theme = "furo"
html_title = "vlaudit"
html_copy_source = False
html_show_sphinx = False
html_show_search_summary = False  # it fetches pages, which browsers refuse where the site is a folder
html_theme_options = {"source_repository": "", "footer_icons": []}
default_role = "code"  # single backticks in the help of commands
pygments_style = "friendly"
pygments_dark_style = "github-dark"


def setup(app: Sphinx) -> None:
    """Write the pages that come from the code before Sphinx looks for pages."""
    app.connect("builder-inited", lambda app: write_pages(Path(app.srcdir)))
