"""The command ``sirenscape VERB key=value ...``.

A verb is one function in `VERBS` and one file ``configs/VERB.yaml`` with its keys and their defaults; the comment above a
key is what ``--help`` says of it. The default gives the type: a number, true or false, text (null: none), and an empty
list for a key that may be given more than once. Hydra composes the file with what was given. Values are quoted before
Hydra sees them, so that any path is taken as it stands.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import json
import math
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf

from scenes import paths
from scenes.decompose_verb import decompose
from scenes.export_verb import export
from scenes.fit_verb import fit
from scenes.paths import Report, Settings, defaults_of, flat, folder_for, output_file, user_path
from scenes.verbs import build, edit, info, render
from scenes.view_verb import view

VERBS: dict[str, Callable[[Settings], Report]] = {
    "fit": fit,
    "build": build,
    "edit": edit,
    "render": render,
    "info": info,
    "export": export,
    "decompose": decompose,
    "view": view,
}


# -- settings --------------------------------------------------------------------------------------------------------


def read_settings(verb: str, arguments: list[str]) -> Settings:
    """The settings of a verb: its defaults with ``key=value`` arguments laid over them.

    Raises:
        ValueError: An argument that is no ``key=value``, an unknown key, one given twice, a value of the wrong type.
    """
    defaults = defaults_of(verb)
    given: dict[str, list[str]] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            hint = f"; did you mean {next(iter(defaults))}={argument}?" if Path(argument).exists() else ""
            raise ValueError(f"expected key=value, got {argument!r}{hint}")
        if key not in defaults:
            raise ValueError(f"unknown key {key!r} of {verb}" + _suggestion(key, defaults))
        given.setdefault(key, []).append(value)
    overrides = []
    for key, values in given.items():
        if isinstance(defaults[key], list):
            overrides.append(f"{key}=[{','.join(map(_quoted, values))}]")
        elif len(values) > 1:
            raise ValueError(f"{key}: expected once, got {len(values)} times")
        else:
            overrides.append(f"{key}={_literal(key, values[0], defaults[key])}")
    try:
        with initialize_config_dir(str(paths.CONFIGS), job_name="sirenscape", version_base="1.3"):
            composed = OmegaConf.to_container(compose(verb, overrides=overrides), resolve=False)
    except HydraException as error:
        raise ValueError(f"values that cannot be read: {error}") from error
    return flat(composed)


def _literal(key: str, text: str, default: Any) -> str:
    """A value as Hydra reads it, of the type of the default."""
    if isinstance(default, bool):
        known = {"true": "true", "yes": "true", "1": "true", "false": "false", "no": "false", "0": "false"}
        if text.lower() not in known:
            raise ValueError(f"{key}: expected true or false, got {text!r}")
        return known[text.lower()]
    if isinstance(default, int | float):
        kind = type(default)
        with contextlib.suppress(ValueError):
            if math.isfinite(number := kind(text)):
                return repr(number)
        raise ValueError(f"{key}: expected {'a whole number' if kind is int else 'a number'}, got {text!r}")
    return _quoted(text) if text else "null"


def _quoted(text: str) -> str:
    """A Hydra quoted string: a quote is escaped, backslashes are doubled only before a quote or at the end."""
    text = re.sub(r"(\\*)'", lambda match: match[1] * 2 + r"\'", text)
    return "'" + re.sub(r"\\+$", lambda match: match[0] * 2, text) + "'"


def _suggestion(word: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(word.lower().lstrip("-"), known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; there is {', '.join(known)}"


# -- help and tables -------------------------------------------------------------------------------------------------


def keys_of(verb: str) -> list[dict[str, Any]]:
    """The keys of a verb, with their defaults and the comments above them."""
    meanings, comment, section = {}, [], ""
    for line in (paths.CONFIGS / f"{verb}.yaml").read_text(encoding="utf-8").splitlines():
        if line.lstrip().startswith("#"):
            comment.append(line.lstrip("# "))
        elif match := re.match(r"( *)(\w+):( *\S)?", line):
            section = section if match[1] else ("" if match[3] else f"{match[2]}.")
            meanings[section * bool(match[1]) + match[2]], comment = " ".join(comment), []
        else:
            comment = []
    return [
        {"key": key, "default": "" if value in (None, []) else value, "meaning": meanings[key]}
        for key, value in defaults_of(verb).items()
    ]


def statements() -> list[dict[str, Any]]:
    """What ``edit do=`` can be told, and what it does."""
    from scenes.script import VERBS as STATEMENTS

    return [{"statement": verb.usage, "meaning": verb.meaning} for verb in STATEMENTS.values()]


def help_of(verb: str) -> str:
    """What a verb does and a table of its keys, their defaults and meanings."""
    meaning = inspect.getdoc(VERBS[verb]) or ""
    if verb == "edit":
        meaning = meaning.replace("VERBS", table(statements()))
    return f"sirenscape {verb} key=value ...\n\n{meaning}\n\n{table(keys_of(verb))}"


def general_help() -> str:
    """All verbs, the first sentence of each."""
    texts = {verb: " ".join((inspect.getdoc(run) or "").split()) for verb, run in VERBS.items()}
    rows = [{"verb": verb, "meaning": re.split(r"(?<=\w\w\.)\s", text)[0]} for verb, text in texts.items()]
    return f"sirenscape VERB key=value ...\n\n{table(rows)}\n\nsirenscape VERB --help lists the keys of a verb."


def table(rows: list[dict[str, Any]]) -> str:
    """Rows of equal keys as aligned text, the keys as its head; numbers to the right."""
    if not rows:
        return ""
    names = list(rows[0])
    cells = [names] + [[shown(row[name]) for name in names] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    right = [isinstance(rows[0][name], int | float) and "meaning" not in names for name in names]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if r else cell.ljust(width) for cell, width, r in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in cells
    )


def shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return " x ".join(map(shown, value))
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)


# -- main ------------------------------------------------------------------------------------------------------------


OUT_OF_MEMORY = (
    "not enough memory; a further object of a kind takes about 1 KB, each kind about 200 KB, a picture 50 bytes a pixel: "
    "give fewer objects, a smaller picture, or a machine with more"
)


# What functions call their arguments, and keys that stand for them.
_KEYS = (
    (r"path(?=: )", "out"),
    (r"meshes\[\d+\](?= |: )", "mesh"),
    (r"frames\[(\d+)\](?= |: )", r"sequence: frame \1"),
    (r"fit_(mesh|points|sequence)(?=: )", r"\1"),
    (r"fit_meshes(?=: )", "mesh"),
    (r"(load|fit)_views(?=: )", "images"),
)


def in_keys(message: str) -> str:
    """A message in one line, whose first word is a key and not the argument of a function."""
    text = " ".join(message.split())
    for argument, key in _KEYS:
        if re.match(argument, text):
            text = re.sub(argument, key, text, count=1)
            break
    return re.sub(r"\bfit_(mesh|points|sequence)\b", r"fit \1=", text)


def main(arguments: list[str] | None = None) -> int:
    """Runs one command. Returns the exit code: 0; 2 for an error of the user's, told in one line; 130 after Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _note
            _run(arguments)
    except KeyboardInterrupt:
        learns = arguments[:1] in (["fit"], ["build"])
        print("sirenscape: stopped" + "; the same command goes on where it was" * learns, file=sys.stderr)
        return 130
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "allocate memory" not in str(error):  # as torch says it
            raise
        print(f"sirenscape: {OUT_OF_MEMORY}", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        message = str(error)
        if isinstance(error, OSError) and error.strerror:
            message = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        print("sirenscape:", in_keys(message) or type(error).__name__, file=sys.stderr)
        return 2
    return 0


def _note(message: Warning | str, *_: Any, **__: Any) -> None:
    """A warning as one line, without the place in the code."""
    print("sirenscape: note:", in_keys(str(message)), file=sys.stderr)


def _run(arguments: list[str]) -> None:
    wants_help = any(word in ("-h", "--help", "help") for word in arguments)
    verb, *rest = [word for word in arguments if word not in ("-h", "--help", "help")] or [""]
    if verb in ("--version", "-V"):
        print(f"sirenscape {_version()}")
    elif not verb:
        print(general_help())
    elif verb not in VERBS:
        raise ValueError(f"unknown verb {verb!r}" + _suggestion(verb, VERBS))
    elif wants_help:
        print(help_of(verb))
    else:
        _execute(verb, read_settings(verb, rest))


def _execute(verb: str, settings: Settings) -> None:
    summary = settings.pop("summary")
    path = _summary_file(summary, settings) if summary else None
    began = time.perf_counter()
    report = VERBS[verb](settings)
    seconds = round(time.perf_counter() - began, 2)
    if report.text:
        print(report.text)
    if report.rows:
        print(table(report.rows))
    print(f"{seconds:.1f} s")
    if report.next_step:
        print(report.next_step)
    if path:
        made = {"verb": verb, "settings": settings, "seconds": seconds, "rows": report.rows, **report.details}
        made["next"] = report.next_step
        with folder_for(path):
            path.write_text(json.dumps(made, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _summary_file(summary: str, settings: Settings) -> Path:
    """Where the summary goes, if that is no place that the verb reads or writes itself."""
    path = user_path(summary)
    for key in ("mesh", "points", "init", "scene", "video", "out", "sheet", "graph"):
        given = settings.get(key)
        for value in given if isinstance(given, list) else [given]:
            other = user_path(value).resolve() if value else None
            if other is not None and (path.resolve() == other or path.resolve().is_relative_to(other)):
                raise ValueError(f"summary: {summary!r} is also {key}= or inside it")
    return output_file("summary", summary)


def _version() -> str:
    try:
        return version("sirenscape")
    except PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
