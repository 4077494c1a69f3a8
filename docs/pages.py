"""Pages that are made from the code when the site is built: the command line, and the reference by topic."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import sirenscape
from rendering.views import keys
from scenes import cli

# What public methods return and no package exports, by topic.
RETURNED = {
    "Scenes": (
        "scenes.node_view.NodeView",
        "scenes.questions.Closest",
        "scenes.questions.RayHit",
        "scenes.questions.OverlapPair",
        "scenes.questions.Gap",
        "scenes.viewer.viewer.Viewer",
    ),
}
# Bases whose members belong to other libraries.
FOREIGN = "Module,ABC,tuple,BaseException,object"


def write_pages(folder: Path) -> None:
    """Writes all generated pages into a folder of their own; what is there and isn't made any longer goes."""
    folder.mkdir(exist_ok=True)
    made = dict(_pages())
    for old in folder.glob("*.md"):
        if old.name not in made:
            old.unlink()
    for name, text in made.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def _pages() -> Iterator[tuple[str, str]]:
    yield "command-line.md", command_line()
    yield "transforms.md", f"# transforms.json\n\n{inspect.getdoc(keys)}\n".replace("``", "`")
    topics = [(topic, package, names.split()) for (topic, package), names in sirenscape.TOPICS.items()]
    for topic, package, names in topics:
        yield f"{slug(topic)}.md", _topic(topic, package, names)
    yield "index.md", _index(topics)


def command_line() -> str:
    """All verbs with their keys, and the statements of ``edit``: what ``--help`` prints, as Markdown."""
    parts = [
        "# Command line\n\n`sirenscape VERB key=value ...`; `sirenscape VERB --help` prints what is written here.\n"
    ]
    for verb, run in cli.VERBS.items():
        text = escaped(inspect.getdoc(run) or "")
        statements = ""
        if verb == "edit":
            text = text.replace("VERBS", "").strip()
            statements = "\nStatements, with `;` between them:\n\n" + table(cli.statements(), code="statement")
        parts.append(f"## {verb}\n\n{text}\n\n{table(cli.keys_of(verb), code='key')}{statements}")
    return "\n".join(parts)


def _topic(topic: str, package: str, names: list[str]) -> str:
    lines = [f"# {topic}", "", f"`import sirenscape as ss`, or `from {package} import ...`.", "", "```{eval-rst}"]
    for path in [f"sirenscape.{name}" for name in names] + list(RETURNED.get(topic, ())):
        lines += _directive(path)
    return "\n".join([*lines, "```", ""])


def _directive(path: str) -> list[str]:
    """How Sphinx is told to show one name."""
    module, name = path.rsplit(".", 1)
    value = getattr(__import__(module, fromlist=[name]), name)
    if inspect.isclass(value):
        return [
            f".. autoclass:: {path}",
            "   :members:",
            f"   :inherited-members: {FOREIGN}",
            "",
        ]
    return [f".. {'autofunction' if callable(value) else 'autodata'}:: {path}", ""]


def _index(topics: Iterable[tuple[str, str, list[str]]]) -> str:
    topics = list(topics)
    lines = ["# Reference", "", "All public names by topic, each loaded from its package when it is asked for.", ""]
    lines += [
        "```{toctree}",
        ":hidden:",
        "",
        "command-line",
        "transforms",
        *(slug(topic) for topic, _, _ in topics),
        "```",
        "",
    ]
    for topic, package, names in topics:
        lines += [f"## [{topic}]({slug(topic)}.md)", "", f"`{package}`", ""]
        lines += ["```{eval-rst}", ".. currentmodule:: sirenscape", "", ".. autosummary::", ""]
        lines += [*(f"   {name}" for name in names), "```", ""]
    return "\n".join(lines)


def table(rows: list[dict[str, Any]], code: str) -> str:
    """Rows of equal keys as a Markdown table; the column ``code`` is set as code."""
    head = list(rows[0])

    def cells(row: dict[str, Any]) -> Iterator[str]:
        for name in head:
            value = row[name]
            text = str(value).lower() if isinstance(value, bool) else str(value)
            as_code = name == code or (name == "default" and text)
            yield f"`{text}`".replace("|", r"\|") if as_code else escaped(text)

    lines = [" | ".join(head), " | ".join("---" for _ in head), *(" | ".join(cells(row)) for row in rows)]
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def escaped(text: str) -> str:
    """Text of which Markdown makes nothing but paragraphs and code."""
    return re.sub(r"([*_<>|\[\]])", r"\\\1", text)


def slug(topic: str) -> str:
    return re.sub(r"\W+", "-", topic.lower())


# -- what a page loads -------------------------------------------------------------------------------------------------


def remote_resources(html: str) -> list[str]:
    """Addresses on the network that a page or style sheet loads by itself; links that a reader may follow are none."""
    tags = re.findall(r"<(?:link|script|img|iframe|source|video|audio|object|embed)\b[^>]*>", html)
    found = [url for tag in tags for url in re.findall(r"""\b(?:href|src|data|poster)\s*=\s*["']?([^"'\s>]+)""", tag)]
    found += re.findall(r"""url\(\s*["']?([^"')]+)""", html) + re.findall(r"""@import\s+["']([^"']+)""", html)
    return [url for url in found if re.match(r"(https?:)?//", url)]
