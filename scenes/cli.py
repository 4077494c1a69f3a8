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
import shlex
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf

CONFIGS = Path(__file__).resolve().parent.parent / "configs"

Settings = dict[str, Any]


@dataclass(frozen=True)
class Report:
    """What a verb did: a table with one row for each thing made, and a line on what one may do next."""

    rows: list[dict[str, Any]]
    next_step: str = ""


# -- verbs -----------------------------------------------------------------------------------------------------------


def fit(settings: Settings) -> Report:
    """Learn objects from meshes or point clouds; each becomes a field file.

    A mesh learned before with the same settings comes from the cache; a stopped run goes on where it was.
    """
    meshes, clouds = settings["mesh"], settings["points"]
    if bool(meshes) == bool(clouds):
        raise ValueError("mesh: expected mesh=FILE or points=FILE, got " + ("both" if meshes else "neither"))
    if clouds and settings["init"] is not None:
        raise ValueError("init: expected only together with mesh=, got it with points=")
    for key, value in settings.items():
        if isinstance(value, int | float) and not (0 <= value < 2**63 if key == "seed" else value > 0):
            raise ValueError(f"{key}: expected {'0 or more' if key == 'seed' else 'a number above 0'}, got {value}")
    sources = [input_file("mesh" if meshes else "points", value) for value in meshes or clouds]
    init = [input_file("init", settings["init"])] if settings["init"] is not None else []
    targets = _targets(sources, settings["out"], [*sources, *init])

    from objects import FitConfig, FitError, PointsConfig, SirenField, fit_meshes, fit_points, load_field, save_field
    from scenes.point_files import read_points

    seed = settings["seed"]
    networks = {f.name: settings[f.name] for f in fields(PointsConfig) if f.name in settings and f.name != "steps"}
    try:
        if meshes:
            start = load_field(init[0]) if init else None
            if start is not None and not isinstance(start, SirenField):
                raise ValueError(f"init: expected a SIREN field, {settings['init']!r} is a {start.kind}")
            config = FitConfig(steps=settings["steps"], warm_steps=settings["warm_steps"], **networks)
            learned = fit_meshes(sources, seed=seed, init=[start] * len(sources), config=config)
        else:
            config = PointsConfig(steps=settings["point_steps"], **networks)
            learned = [fit_points(*read_points(source), seed=seed, config=config) for source in sources]
    except FitError as error:
        raise ValueError(f"{'mesh' if meshes else 'points'}: {error}") from error

    rows = []
    for source, target, field in zip(sources, targets, learned, strict=True):
        save_field(field, target)
        rows.append(
            {
                "object": source.stem,
                "parameters": sum(p.numel() for p in field.parameters()),
                "bytes": target.stat().st_size,
                "box": field.bounds.size.tolist(),
                "file": str(target),
            }
        )
    load = f"load_field({str(targets[0])!r}).to_mesh().export({sources[0].stem + '.glb'!r})"
    return Report(
        rows, "Next, to see what was learned: python -c " + shlex.quote(f"from objects import load_field; {load}")
    )


def _targets(sources: list[Path], out: str | None, inputs: list[Path]) -> list[Path]:
    """Where each field goes: ``out`` itself, or a file in the folder ``out``."""
    if not out:
        raise ValueError("out: expected out=FILE.safetensors" + (" or a folder" if len(sources) > 1 else ""))
    path = _path(out)
    if path.suffix == ".safetensors" and not path.is_dir():
        if len(sources) > 1:
            raise ValueError(f"out: expected a folder for {len(sources)} objects, got the file name {out!r}")
        targets = [path]
    elif len(sources) > 1 or path.is_dir() or out.endswith("/"):
        targets = [path / f"{source.stem}.safetensors" for source in sources]
    else:
        raise ValueError(f"out: expected a name that ends in .safetensors, or a folder that ends in /, got {out!r}")
    for i, target in enumerate(targets):
        if target in targets[:i]:
            raise ValueError(f"out: two objects would both be written to {str(target)!r}; give their files other names")
    return [output_file("out", str(target), inputs) for target in targets]


VERBS: dict[str, Callable[[Settings], Report]] = {"fit": fit}


# -- files given and files asked for ---------------------------------------------------------------------------------


def input_file(key: str, value: str) -> Path:
    """The file that a key names.

    Raises:
        ValueError: No such file (names that look alike are suggested), a folder, or an empty file.
    """
    if not value:
        raise ValueError(f"{key}: expected a file name, got nothing")
    path = _path(value)
    if path.is_dir():
        raise ValueError(f"{key}: expected a file, got the folder {value!r}")
    if not path.exists():
        raise ValueError(f"{key}: no file {value!r}" + _lookalikes(path))
    if path.is_file() and path.stat().st_size == 0:
        raise ValueError(f"{key}: the file {value!r} is empty")
    return path


def output_file(key: str, value: str, inputs: Iterable[Path] = ()) -> Path:
    """The file that a key asks for; its folder is made if missing.

    Raises:
        ValueError: A folder of that name, or a file that is also an input.
        OSError: The folder cannot be made.
    """
    path = _path(value)
    if path.is_dir():
        raise ValueError(f"{key}: expected a file name, got the folder {value!r}")
    if path.exists() and any(path.samefile(other) for other in inputs):
        raise ValueError(f"{key}: {value!r} is also an input and would be overwritten")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(f"{key}: cannot make the folder {str(path.parent)!r}, a file is in the way") from error
    return path


def _path(value: str) -> Path:
    """The path that was typed; a shell does not always expand the ``~/`` in ``key=~/file``."""
    return Path.home() / value[2:] if value.startswith("~/") else Path(value)


def _lookalikes(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f": there is no folder {str(folder)!r}" + _lookalikes(folder) if folder != path else ""
    names = {name.lower(): name for name in sorted(entry.name for entry in folder.iterdir())}
    close = difflib.get_close_matches(path.name.lower(), names, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(repr(str(folder / names[name])) for name in close)}?" if close else ""


# -- settings --------------------------------------------------------------------------------------------------------


def read_settings(verb: str, arguments: list[str]) -> Settings:
    """The settings of a verb: its defaults with ``key=value`` arguments laid over them.

    Raises:
        ValueError: An argument that is no ``key=value``, an unknown key, one given twice, a value of the wrong type.
    """
    defaults = _defaults(verb)
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
        with initialize_config_dir(str(CONFIGS), job_name="sirenscape", version_base="1.3"):
            composed = OmegaConf.to_container(compose(verb, overrides=overrides), resolve=False)
    except HydraException as error:
        raise ValueError(f"values that cannot be read: {error}") from error
    return {str(key): value for key, value in dict(composed).items()}  # pyright: ignore[reportArgumentType, reportCallIssue]


def _defaults(verb: str) -> Settings:
    return yaml.safe_load((CONFIGS / f"{verb}.yaml").read_text(encoding="utf-8"))


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


def help_of(verb: str) -> str:
    """What a verb does and a table of its keys, their defaults and meanings."""
    meanings, comment = {}, []
    for line in (CONFIGS / f"{verb}.yaml").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            comment.append(line.lstrip("# "))
        elif match := re.match(r"(\w+):", line):
            meanings[match[1]], comment = " ".join(comment), []
        else:
            comment = []
    rows = [
        {"key": key, "default": "" if value in (None, []) else value, "meaning": meanings[key]}
        for key, value in _defaults(verb).items()
    ]
    return f"sirenscape {verb} key=value ...\n\n{inspect.getdoc(VERBS[verb])}\n\n{table(rows)}"


def general_help() -> str:
    """All verbs, one line each."""
    rows = [{"verb": verb, "meaning": (run.__doc__ or "").splitlines()[0]} for verb, run in VERBS.items()]
    return f"sirenscape VERB key=value ...\n\n{table(rows)}\n\nsirenscape VERB --help lists the keys of a verb."


def table(rows: list[dict[str, Any]]) -> str:
    """Rows of equal keys as aligned text, the keys as its head; numbers to the right."""
    if not rows:
        return ""
    names = list(rows[0])
    cells = [names] + [[_shown(row[name]) for name in names] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    right = [isinstance(rows[0][name], int | float) and "meaning" not in names for name in names]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if r else cell.ljust(width) for cell, width, r in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in cells
    )


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return " x ".join(map(_shown, value))
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)


# -- main ------------------------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """Runs one command. Returns the exit code: 0; 2 for an error of the user's, told in one line; 130 after Ctrl-C."""
    try:
        _run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        print("sirenscape: stopped", file=sys.stderr)
        return 130
    except (ValueError, OSError, MemoryError) as error:
        message = str(error)
        if isinstance(error, OSError) and error.strerror:
            message = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        print("sirenscape:", " ".join(message.split()) or type(error).__name__, file=sys.stderr)
        return 2
    return 0


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
    values = [v for value in settings.values() for v in (value if isinstance(value, list) else [value])]
    inputs = [file for v in values if isinstance(v, str) and (file := _path(v)).is_file()]
    path = output_file("summary", summary, inputs) if summary else None
    began = time.perf_counter()
    report = VERBS[verb](settings)
    seconds = round(time.perf_counter() - began, 2)
    print(table(report.rows))
    print(f"{seconds:.1f} s")
    if report.next_step:
        print(report.next_step)
    if path:
        made = {"verb": verb, "settings": settings, "seconds": seconds, "rows": report.rows, "next": report.next_step}
        path.write_text(json.dumps(made, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _version() -> str:
    try:
        return version("sirenscape")
    except PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
