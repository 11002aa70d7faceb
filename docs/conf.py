"""How the documentation is built: ``sphinx-build -W docs docs/_build``."""

import logging
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from plasticity import __version__  # noqa: E402

# An example uses qiskit, which logs what it does.
logging.getLogger("qiskit").setLevel(logging.WARNING)

project = "quantum-plasticity"
author = "the authors of quantum-plasticity"
release = __version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx-mathjax-offline",
    "sphinx_gallery.gen_gallery",
    "cards",
]
exclude_patterns = ["_build", "examples", "records", "static", "README.md"]
html_theme = "furo"
html_title = "quantum-plasticity"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_format = "short"
# What is imported for type checkers alone is a short name in a signature. Where two modules have
# the same name, say Row, Sphinx takes the first and warns of it.
suppress_warnings = ["ref.python"]
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_memory": False,
    "min_reported_time": 1,
    "within_subsection_order": "FileNameSortKey",
    "remove_config_comments": True,
    "show_signature": False,
    "reset_modules": (),
    "plot_gallery": True,
    "write_computation_times": False,
}
