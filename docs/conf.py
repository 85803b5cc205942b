"""Configuration of the documentation: `make docs` builds it, offline, with warnings as errors."""

import logging
import os
import sys
from pathlib import Path

from jupyter_client import KernelManager

sys.path.insert(0, str(Path(__file__).parent / "extensions"))
import ufm_jax

# Tutorials talk to their kernels over encrypted ports, and say nothing of it.
KernelManager.transport_encryption.default_value = "auto"
logging.getLogger("traitlets").setLevel(logging.WARNING)

project = "ufm_jax"
author = "The ufm_jax authors"
copyright = f"2026, {author}"
version = release = ufm_jax.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "mathml",
    "atlas_pages",
    "commands",
    "gallery",
    "docstrings",
    "checked",
    "rooms",
    "public",
]
exclude_patterns = ["_build"]
default_role = "code"  # docstrings mark code with single backticks
html_theme = "furo"
html_title = f"ufm_jax {version}"
html_static_path = ["static"]
html_css_files = ["ufm.css"]
html_math_renderer = "mathml"
html_show_sourcelink = False

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
myst_dmath_double_inline = True

# Tutorials are programs: they run whenever the pages are built, in a folder of their own, and must not fail.
nb_execution_mode = os.environ.get("UFM_DOCS_EXECUTE", "force")
nb_execution_in_temp = True
nb_execution_timeout = 1200  # of a cell, in seconds: half a minute on a free core, minutes on a busy one
nb_execution_raise_on_error = True
nb_output_stderr = "show"
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
