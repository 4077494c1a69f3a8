"""What the verbs of the command line share: settings, reports, files that were given and files that were asked for."""

from __future__ import annotations

import difflib
import gc
import math
import os
import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from objects import Field
    from rendering import LearnedViews

CONFIGS = Path(__file__).resolve().parent.parent / "configs"

Settings = dict[str, Any]


def defaults_of(verb: str) -> Settings:
    """The keys of a verb and their defaults."""
    return flat(yaml.safe_load((CONFIGS / f"{verb}.yaml").read_text(encoding="utf-8")))


def preload(*modules: str) -> None:
    """Imports modules while the garbage collector rests: it would look at all of them many times, a sixth of a start."""
    resting = not gc.isenabled()
    gc.disable()
    try:
        for module in modules:
            import_module(module)
    finally:
        if not resting:
            gc.enable()


def flat(values: Any, prefix: str = "") -> Settings:
    """Nested settings by dotted keys, ``camera.eye``."""
    found: Settings = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


@dataclass(frozen=True)
class Report:
    """What a verb did: text to print, a table with one row for each thing, a line on what one may do next; ``details`` go into
    the summary alone."""

    rows: list[dict[str, Any]]
    next_step: str = ""
    text: str = ""
    details: dict[str, Any] = field(default_factory=dict)


def command(verb: str, **keys: Any) -> str:
    """A command line, as one would type it."""
    return f"sirenscape {verb} " + " ".join(f"{key}={shlex.quote(str(value))}" for key, value in keys.items())


def solid_settings(settings: Settings) -> dict[str, Any]:
    """How meshes and points are understood, as their configurations take it."""
    origin = tuple(numbers("origin", settings["origin"], 3)) if settings["origin"] is not None else (0.0, 0.0, 0.0)
    return {"facing": settings["facing"], "thickness": settings["thickness"], "origin": origin}


def preview_file(beside: Path) -> Path:
    """Where a picture goes that shows how far learning is."""
    return output_file("out", str(beside.with_name(f"{beside.stem}-preview.png")))


def quality(learned: LearnedViews, preview: Path) -> str:
    """How well pictures were learned, in words."""
    seen = f"preview: {preview}\n" if preview.is_file() else ""
    notes = "".join(f"\nnote: {note}" for note in learned.notes)
    return f"{seen}the pictures are explained to {learned.psnr_db:.1f} dB (PSNR of what was learned from){notes}"


def error_columns(field: Field) -> dict[str, float | str]:
    """What a learned field misses, for a table: the mean distance and the median angle of its normals; dashes where none was
    measured."""
    shown = {"distance error %": "distance_pct", "normal error deg": "normal_deg"}
    return {title: field.measured.get(name, "-") for title, name in shown.items()}


def input_file(key: str, value: str) -> Path:
    """The file that a key names.

    Raises:
        ValueError: No such file (names that look alike are suggested), a folder, or an empty file.
    """
    if not value:
        raise ValueError(f"{key}: expected a file name, got nothing")
    path = user_path(value)
    if path.is_dir():
        raise ValueError(f"{key}: expected a file, got the folder {value!r}")
    if not path.exists():
        raise ValueError(f"{key}: no file {value!r}" + lookalikes(path))
    if path.is_file() and path.stat().st_size == 0:
        raise ValueError(f"{key}: the file {value!r} is empty")
    return path


def picture_folder(key: str, value: str) -> Path:
    """The folder of pictures that a key names.

    Raises:
        ValueError: No such folder (names that look alike are suggested).
    """
    path = user_path(value)
    if not path.is_dir():
        raise ValueError(f"{key}: expected a folder of pictures, there is no folder {value!r}" + lookalikes(path))
    return path


def scene_folder(key: str, value: str | None, *, or_file: bool = False) -> Path:
    """The scene folder that a key names; with ``or_file`` also a file to build from.

    Raises:
        ValueError: Nothing there (names that look alike are suggested), or something else.
    """
    if not value:
        raise ValueError(f"{key}: expected {key}=NAME.scene" + (", a .yaml or a .glb file" if or_file else ""))
    path = user_path(value)
    if not path.exists():
        raise ValueError(f"{key}: there is no {value!r}" + lookalikes(path))
    if path.is_dir():
        if (path / "decomposition").is_dir() and not (path / "scene.json").is_file():
            raise ValueError(f"{key}: {value!r} holds what decompose found (decomposition/), no scene yet")
        if not (path / "scene.json").is_file():
            raise ValueError(f"{key}: expected a scene folder, got {value!r} without a scene.json")
        return path
    if or_file:
        return input_file(key, value)
    hint = "; build a scene of it first: sirenscape build" if path.suffix in (".yaml", ".yml", ".glb", ".gltf") else ""
    raise ValueError(f"{key}: expected a scene folder, got the file {value!r}{hint}")


def output_file(key: str, value: str, inputs: Iterable[Path] = ()) -> Path:
    """The file that a key asks for. Its folder may be missing; `folder_for` makes it when something is written.

    Raises:
        ValueError: A folder of that name, a file that is also an input, or a folder that can't be made.
    """
    path = user_path(value)
    if path.is_dir():
        raise ValueError(f"{key}: expected a file name, got the folder {value!r}")
    if path.exists() and any(path.samefile(other) for other in inputs):
        raise ValueError(f"{key}: {value!r} is also an input and would be overwritten")
    there = next((parent for parent in path.parents if parent.exists() or parent.is_symlink()), Path())
    if not there.is_dir():
        raise ValueError(f"{key}: cannot make the folder {str(path.parent)!r}, a file is in the way")
    if not os.access(there, os.W_OK):
        raise ValueError(f"{key}: {value!r} cannot be written: no permission in {str(there)!r}")
    return path


@contextmanager
def folder_for(*files: Path) -> Iterator[None]:
    """Makes the folders of files that are about to be written; after an error, those that it made and that are empty go."""
    missing: dict[Path, None] = {}
    for file in files:
        missing |= dict.fromkeys(parent for parent in (file.parent, *file.parent.parents) if not parent.exists())
    try:
        for file in files:
            file.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for folder in sorted(missing, key=lambda path: -len(path.parts)):
            with suppress(OSError):  # not empty, or not made
                folder.rmdir()
        raise


def user_path(value: str) -> Path:
    """The path that was typed; a shell does not always expand the ``~/`` in ``key=~/file``."""
    return Path.home() / value[2:] if value.startswith("~/") else Path(value)


def lookalikes(path: Path) -> str:
    """A hint after a file that isn't there: names in its folder that are nearly the same."""
    folder = path.parent
    if not folder.is_dir():
        return f": there is no folder {str(folder)!r}" + lookalikes(folder) if folder != path else ""
    names = {name.lower(): name for name in sorted(entry.name for entry in folder.iterdir())}
    close = difflib.get_close_matches(path.name.lower(), names, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(repr(str(folder / names[name])) for name in close)}?" if close else ""


def numbers(key: str, text: str, n: int) -> list[float]:
    """``[1,2,3]``, ``1,2,3`` or ``1 2 3`` as numbers."""
    words = text.strip().removeprefix("[").removesuffix("]").replace(",", " ").split()
    try:
        values = [float(word) for word in words]
    except ValueError:
        values = []
    if len(values) != n or not all(map(math.isfinite, values)):
        wanted = "a number" if n == 1 else f"{n} numbers such as [{','.join('1234'[:n])}]"
        raise ValueError(f"{key}: expected {wanted}, got {text!r}")
    return values


def whole_number(key: str, text: str) -> int:
    """A whole number, for keys that are null without one."""
    if not text.strip().lstrip("+-").isdecimal():
        raise ValueError(f"{key}: expected a whole number, got {text!r}")
    return int(text)


LAYERS = ("rgb", "depth", "depth_npy", "depth_view", "normal", "owner", "ids", "alpha", "seen", "canonical")
NUMBERS = ("depth", "depth_npy", "ids")  # layers that are measured values, not looks
DATASETS = ("nerfstudio", "bop", "coco")


def layer_names(text: str | None) -> list[str]:
    layers = (text or "").strip().removeprefix("[").removesuffix("]").replace(",", " ").split()
    if not layers:
        raise ValueError(f"layers: expected one or more of {', '.join(LAYERS)}")
    return list(dict.fromkeys(one_of("layers", layer, LAYERS) for layer in layers))


def one_of(key: str, word: str, known: tuple[str, ...]) -> str:
    """The word, if it is one of these.

    Raises:
        ValueError: It isn't; the nearest one is suggested.
    """
    if word in known:
        return word
    close = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.6)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"{key}: expected one of {', '.join(known)}, got {word!r}{hint}")


def picture_files(out: str | None, layers: list[str], is_film: bool, source: Path) -> dict[str, Path]:
    """The file of each layer."""
    path = _outside(out, source)
    suffix = path.suffix.lower()
    if is_film:
        pictures = [layer for layer in LAYERS if layer not in NUMBERS]
        if len(layers) > 1 or layers[0] in NUMBERS:
            raise ValueError(
                f"layers: expected one of {', '.join(pictures)} for a film, got {', '.join(layers)}; "
                "dataset=nerfstudio writes all of them as pictures"
            )
        return {layers[0]: output_file("out", str(path))}
    if suffix not in (".png", ".npy") or path.is_dir():
        folder = _folder(path, str(out))
        return {
            layer: output_file("out", str(folder / f"{layer.removesuffix('_npy')}{_suffix(layer)}")) for layer in layers
        }
    if len(layers) == 1 and suffix != _suffix(layers[0]):
        raise ValueError(f"out: expected a name that ends in {_suffix(layers[0])} for {layers[0]}, got {out!r}")
    files = {}
    for layer in layers:
        beside = path.with_name(f"{path.stem}-{layer.removesuffix('_npy')}{_suffix(layer)}")
        files[layer] = output_file("out", str(path if layer == "rgb" or len(layers) == 1 else beside))
    return files


def dataset_folder(out: str | None, source: Path) -> Path:
    """The folder of a data set."""
    folder = _folder(_outside(out, source), str(out))
    output_file("out", str(folder / "images"))
    return folder


def _suffix(layer: str) -> str:
    return ".npy" if layer == "depth_npy" else ".png"


def _outside(out: str | None, source: Path) -> Path:
    if not out:
        raise ValueError("out: expected out=FILE.png, out=FILE.mp4 or out=FOLDER/")
    path = user_path(out)
    if path.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"out: expected a place outside the scene {str(source)!r}, got {out!r}")
    return path


def _folder(path: Path, out: str) -> Path:
    if path.suffix and not path.is_dir() and not out.endswith("/"):
        raise ValueError(f"out: expected a name that ends in .png or .mp4, or a folder that ends in /, got {out!r}")
    return path
