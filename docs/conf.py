"""Settings of the documentation: `make docs` builds it into out/site (decision 047)."""

from __future__ import annotations

import sys
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import SphinxError

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import pages  # noqa: E402

project = "Sirenscape"
copyright = "Sirenscape contributors"
version = release = version_of("sirenscape")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
default_role = "py:obj"
nitpicky = True  # with -W: a name or a page that isn't there fails

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

autosummary_generate = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
napoleon_use_rtype = False

html_theme = "furo"
html_title = "Sirenscape"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_last_updated_fmt = None


def _write_pages(app: Sphinx) -> None:
    pages.write_pages(Path(app.srcdir) / "reference")


def _public_name(app: Sphinx, env: Any, node: nodes.Element, contnode: nodes.Element) -> nodes.Node | None:
    """Leads a type like `objects.field.Field` to where `sirenscape.Field` is described; names of other libraries stay text."""
    if node.get("refdomain") != "py":
        return None
    target = node.get("reftarget", "")
    short = target.rpartition(".")[2]
    names = {name for listed in pages.sirenscape.TOPICS.values() for name in listed.split()}
    if short in names:
        py = env.get_domain("py")
        found = py.resolve_xref(env, node["refdoc"], app.builder, "obj", f"sirenscape.{short}", node, contnode)
        if found is not None:
            return found
    return None if target.startswith("sirenscape.") else contnode


def _skip_member(app: Sphinx, what: str, name: str, member: Any, skip: bool, options: Any) -> bool | None:
    """Leaves out the fields of named tuples: their class says what they are."""
    return True if (getattr(member, "__doc__", None) or "").startswith("Alias for field number") else None


def _check_offline(app: Sphinx, exception: Exception | None) -> None:
    """Fails where a page would load something from the network."""
    if exception is not None:
        return
    found = {
        f"{path.relative_to(app.outdir)}: {url}"
        for path in sorted(Path(app.outdir).rglob("*"))
        if path.suffix in (".html", ".css")
        for url in pages.remote_resources(path.read_text(encoding="utf-8"))
    }
    if found:
        raise SphinxError("pages load from the network:\n" + "\n".join(sorted(found)))


def setup(app: Sphinx) -> None:
    app.connect("builder-inited", _write_pages)
    app.connect("missing-reference", _public_name)
    app.connect("autodoc-skip-member", _skip_member)
    app.connect("build-finished", _check_offline)
