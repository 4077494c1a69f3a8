"""OBJ files with their materials (MTL): polygons, colours by vertex, one texture for each material."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from objects.mesh_parts import MeshPart, cut, decoded, few, floats
from objects.paint import GREY, Paint, Texture, shares
from objects.pictures import beside, find_picture

_SHAPES = {"curv", "curv2", "surf"}
_HARMLESS = {"vn", "vp", "g", "o", "s", "mg", "lod", "bevel", "c_interp", "d_interp", "cstype", "deg", "bmat", "step", "parm",
             "trim", "hole", "scrv", "sp", "end", "con", "maplib", "shadow_obj", "trace_obj", "ctech", "stech"}  # fmt: skip
_OPTIONS = {
    "-blendu": 1,
    "-blendv": 1,
    "-cc": 1,
    "-clamp": 1,
    "-texres": 1,
    "-imfchan": 1,
    "-type": 1,
    "-bm": 1,
    "-boost": 1,
    "-mm": 2,
}
_VECTORS = ("-s", "-o", "-t")  # one to three numbers
# Keys of a material that say nothing of the colour of a matt surface, or what they stand for in a note.
_LOOKS = {
    "map_bump": "bump map", "bump": "bump map", "norm": "normal map", "disp": "displacement", "map_disp": "displacement",
    "decal": "decal", "map_ka": "ambient map", "map_d": "cut-outs", "map_tr": "cut-outs", "map_ke": "emission",
    "map_ks": "gloss map", "map_ns": "gloss map", "map_pr": "roughness map", "map_pm": "metal map", "refl": "reflection",
}  # fmt: skip


@dataclass(eq=False)
class _Material:
    """What a material says of colour."""

    kd: tuple[float, ...] | None = None
    ke: tuple[float, ...] = (0.0,)
    picture: str | None = None
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)
    clamp: bool = False
    opacity: float = 1.0
    left_out: list[str] = field(default_factory=list)


@dataclass(eq=False)
class _Run:
    """Faces of one material: the texts of their corners, and how many vertices and coordinates came before each face."""

    faces: list[list[str]] = field(default_factory=list)
    before: list[tuple[int, int]] = field(default_factory=list)


def obj_mesh(path: Path, notes: list[str]) -> list[MeshPart]:
    """The mesh of an OBJ file, a part for each material, coordinates in float64; notes are added to ``notes``.

    Text may be UTF-8 or UTF-16 with a byte order mark, or Latin-1. Materials that are missing, and what they say beyond a
    colour and its texture, are told.

    Raises:
        ValueError: It cannot be read, or has no faces.
    """
    text = _Text(decoded(path.read_bytes()), notes)
    vertices, rgb = _vertices(text.vertices, notes)
    uv = _coordinates(text.uv)
    materials = _materials(path.parent, text.libraries, notes)
    missing = [name for name in text.runs if name and name not in materials]
    if missing and text.libraries and materials:
        notes.append(f"the materials {few(missing)} are in none of its material files; they are grey")
    elif missing and not text.libraries:
        notes.append(f"it names materials ({few(missing)}) but no file of them (mtllib); they are grey")
    parts: list[MeshPart] = []
    painter = _Painter(path.parent, notes, any(m.kd or m.picture for m in materials.values()))
    for name, run in text.runs.items():
        if not run.faces:
            continue
        flat, uv_flat, counts = _corners(run, len(uv))
        triangles = cut(vertices, flat, counts)
        places = None if uv_flat is None else uv_flat[triangles.corners]
        bare = np.ones(len(triangles.corners), bool) if places is None else (places < 0).any(1)
        for some in (~bare, bare):  # faces with and without texture coordinates
            if not some.any():
                continue
            faces = flat[triangles.corners[some]]
            corner_rgb = None if rgb is None else rgb[faces]
            corner_uv = None if places is None or some is bare else uv[places[some]]
            paint = painter.paint(name, materials.get(name), corner_rgb, corner_uv, len(faces))
            index, local = np.unique(faces, return_inverse=True)
            parts.append(MeshPart(vertices[index], local.reshape(-1, 3), paint))
    if not parts:
        got = (
            "lines or points" if text.others & {"l", "p"} else "curves or surfaces" if text.others & _SHAPES else "none"
        )
        raise ValueError(f"expected faces, got {got}")
    painter.tell({name: m for name, m in materials.items() if name in text.runs})
    return parts


# -- the text ----------------------------------------------------------------------------------------------------------


class _Text:
    """The lines of a file, sorted by what they say."""

    def __init__(self, text: str, notes: list[str]) -> None:
        self.vertices: list[list[str]] = []
        self.uv: list[list[str]] = []
        self.libraries: list[str] = []
        self.runs: dict[str, _Run] = {"": _Run()}
        self.others: set[str] = set()
        run, unknown = self.runs[""], []
        for line in re.sub(r"\\[ \t]*(\r\n|\n|\r)", " ", text).splitlines():
            words = line.split()
            if not words or words[0][0] == "#":
                continue
            key = words[0].lower()
            if "#" in line and key in ("v", "vt", "f", "fo"):
                words = line.partition("#")[0].split()
            if key == "v":
                self.vertices.append(words[1:])
            elif key == "vt":
                self.uv.append(words[1:])
            elif key in ("f", "fo"):
                run.faces.append(words[1:])
                run.before.append((len(self.vertices), len(self.uv)))
            elif key == "usemtl":
                run = self.runs.setdefault(line.split(None, 1)[1].strip() if len(words) > 1 else "", _Run())
            elif key == "mtllib" and len(words) > 1:
                self.libraries.append(line.split(None, 1)[1].strip())
            elif key in ("l", "p", "usemap", "call", "csh") or key in _SHAPES:
                self.others.add(key)
            elif key not in _HARMLESS and key != "vn":
                unknown.append(key)
        if self.others & {"l", "p"}:
            notes.append("its lines and points were left out")
        if self.others & _SHAPES:
            notes.append("its curves and surfaces (curv, surf) were left out; convert them to polygons")
        if "call" in self.others or "csh" in self.others:
            notes.append("the files and commands that it calls (call, csh) were left out")
        if "usemap" in self.others:
            notes.append("its texture maps by usemap were left out; name them in the material file (map_Kd)")
        if unknown:
            if not self.vertices:
                raise ValueError(f"expected an OBJ file, got lines that begin with {few(unknown)}")
            notes.append(f"its lines that begin with {few(unknown)} were left out")


def _vertices(
    rows: list[list[str]], notes: list[str]
) -> tuple[Float[np.ndarray, "v 3"], Float[np.ndarray, "v 3"] | None]:
    """Positions, and colours where a line has six numbers or more (``x y z r g b``)."""
    if any(len(row) < 3 for row in rows):
        raise ValueError("expected three numbers for each vertex (v)")
    vertices = floats([word for row in rows for word in row[:3]], "v").reshape(-1, 3)
    painted = np.array([len(row) >= 6 for row in rows], bool)
    if not painted.any():
        if any(len(row) == 4 and row[3] not in ("1", "1.0", "1.000000") for row in rows):
            notes.append("the weights of its vertices were left out")
        return vertices, None
    stored = floats([word for row in rows if len(row) >= 6 for word in row[3:6]], "v").reshape(-1, 3)
    rgb = np.ones((len(rows), 3))
    rgb[painted], said = shares(stored)
    notes += [said] * bool(said)
    return vertices, rgb


def _coordinates(rows: list[list[str]]) -> Float[np.ndarray, "n 2"]:
    """Texture coordinates, v down."""
    if any(len(row) < 1 for row in rows):
        raise ValueError("expected numbers for each texture coordinate (vt)")
    uv = floats([word for row in rows for word in (*row[:2], "0")[:2]], "vt").reshape(-1, 2)
    return np.clip(np.nan_to_num(uv), -1e9, 1e9)


def _corners(run: _Run, n_uv: int) -> tuple[Int[np.ndarray, "c"], Int[np.ndarray, "c"] | None, Int[np.ndarray, "p"]]:
    """Vertices and texture coordinates (None: no corner has one; -1: this one has none) of all corners, and their numbers.

    Numbers count from 1; negative ones go back from the line that they stand in.
    """
    counts = np.array([len(words) for words in run.faces], np.int64)
    before = np.repeat(np.array(run.before, np.int64).reshape(-1, 2), counts, axis=0)
    words = [word.split("/") for face in run.faces for word in face]
    flat = _numbers([word[0] for word in words])
    if (flat == 0).any():
        raise ValueError("a face names vertex 0; vertices are counted from 1")
    flat = np.where(flat < 0, before[:, 0] + flat, flat - 1)
    if (flat < 0).any():
        raise ValueError("a face goes back to a vertex before the first one; is the file whole?")
    texts = [word[1] if len(word) > 1 and word[1] else "0" for word in words]
    uv = _numbers(texts) if any(text != "0" for text in texts) else np.zeros(len(flat), np.int64)
    if not (uv != 0).any():
        return flat, None, counts
    uv = np.where(uv < 0, before[:, 1] + uv, uv - 1)
    if uv.max() >= n_uv or uv.min() < -1:
        raise ValueError(
            f"a face names a texture coordinate that isn't among the {n_uv} of the file; is the file whole?"
        )
    return flat, uv, counts


def _numbers(words: list[str]) -> Int[np.ndarray, "n"]:
    try:
        return np.array(words, np.int64) if words else np.zeros(0, np.int64)
    except (ValueError, OverflowError):
        values = floats(words, "f")
        if not (np.abs(values) < 2**53).all() or (values != np.round(values)).any():
            raise ValueError("a face names a vertex by what is no whole number") from None
        return values.astype(np.int64)


# -- materials ---------------------------------------------------------------------------------------------------------


def _materials(folder: Path, libraries: list[str], notes: list[str]) -> dict[str, _Material]:
    """The materials of all material files by name; files that are missing are told."""
    found: dict[str, _Material] = {}
    for line in dict.fromkeys(libraries):
        # A line is one name with spaces, or several names.
        whole = beside(folder, line)
        names = [line] if whole else line.split()
        for name in names:
            file = whole or beside(folder, name)
            if file is None:
                notes.append(f"its material file {name[:80]!r} is missing; copy it beside the file for its colours")
                continue
            try:
                text = decoded(file.read_bytes())
            except (OSError, ValueError) as error:
                notes.append(f"its material file {name[:80]!r} cannot be read: {error}")
                continue
            for key, material in _parse_mtl(text, notes).items():
                found.setdefault(key, material)
    return found


def _parse_mtl(text: str, notes: list[str]) -> dict[str, _Material]:
    found: dict[str, _Material] = {}
    material = _Material()
    for line in re.sub(r"\\[ \t]*(\r\n|\n|\r)", " ", text).splitlines():
        words = line.split()
        if not words or words[0][0] == "#":
            continue
        key, rest = words[0].lower(), words[1:]
        if key == "newmtl":
            material = found.setdefault(line.split(None, 1)[1].strip() if rest else "", _Material())
        elif key in ("kd", "ke"):
            if (rgb := _color(line.partition("#")[0].split()[1:])) is None:
                notes.append(f"a colour of its materials is not understood and was left out: {' '.join(words)[:60]}")
            elif key == "kd":
                material.kd = rgb
            else:
                material.ke = rgb
        elif key == "map_kd":
            _map(material, line.split(None, 1)[1] if rest else "")
        elif key in ("d", "tr") and rest:
            try:
                value = float(rest[-1])
                material.opacity = value if key == "d" else 1 - value
            except ValueError:
                continue
        elif key in _LOOKS and rest:
            material.left_out.append(_LOOKS[key])
    return found


def _color(words: list[str]) -> tuple[float, ...] | None:
    """``r g b``, or one number for a grey; None for anything else (spectral, xyz)."""
    try:
        rgb = tuple(float(word) for word in words[:3])
    except ValueError:
        return None
    return rgb * (3 // len(rgb)) if len(rgb) in (1, 3) and all(map(math.isfinite, rgb)) else None


def _map(material: _Material, text: str) -> None:
    """``map_Kd`` with its options; the name is what remains of the line."""
    words = text.strip()

    def take() -> str:
        nonlocal words
        head, words = (*words.split(None, 1), "", "")[:2]
        return head

    while words.startswith("-"):
        option = take().lower()
        if option in _VECTORS:
            numbers = []
            while len(numbers) < 3 and re.match(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?(\s|$)", words):
                numbers.append(min(max(float(take()), -1e9), 1e9))
            default = 1.0 if option == "-s" else 0.0
            u, v = ([*numbers, default, default])[:2]
            if option == "-s":
                material.scale = (u, v)
            elif option == "-o":
                material.offset = (u, v)
            else:
                material.left_out.append("turbulence of its texture (-t)")
            continue
        values = [take() for _ in range(_OPTIONS.get(option, 0))]
        if option == "-clamp":
            material.clamp = values[:1] == ["on"]
        elif option == "-mm" and [v.rstrip("0").rstrip(".") for v in values] not in (["", "1"], ["0", "1"]):
            material.left_out.append("gain of its texture (-mm)")
        elif option not in _OPTIONS:
            material.left_out.append(f"option {option[:20]} of its texture")
    material.picture = words.strip()


class _Painter:
    """Paints of parts, each picture read once."""

    def __init__(self, folder: Path, notes: list[str], painted: bool) -> None:
        self._folder, self._notes, self._painted = folder, notes, painted
        self._images: dict[str, Int[np.ndarray, "h w 3"] | None] = {}
        self._said: list[str] = []

    def paint(
        self,
        name: str,
        material: _Material | None,
        rgb: Float[np.ndarray, "f 3 3"] | None,
        uv: Float[np.ndarray, "f 3 2"] | None,
        n_faces: int,
    ) -> Paint | None:
        """The paint of faces of a material, of given colours by vertex and texture coordinates (v up)."""
        if material is not None and material.picture:
            if uv is None:
                self._say(f"material {name}: faces without texture coordinates; these have its colour alone")
            elif (image := self._image(material.picture)) is not None:
                kd = np.clip(material.kd or (1.0, 1.0, 1.0), 0, 1)
                if np.ptp(kd) < 1e-3 and kd[0] < 1:  # what exporters write beside a texture, from 0 to 0.8
                    self._say(f"material {name}: its grey (Kd {kd[0]:.2g}) was left out beside its texture")
                    kd = np.ones(3)
                if rgb is not None:
                    self._say("its colours by vertex were left out where it has a texture")
                uv = uv * material.scale + material.offset
                wrap = "clamp" if material.clamp else "repeat"
                texture = Texture(image, (wrap, wrap))
                tint = None if (kd == 1).all() else Paint.flat(kd, n_faces).corner_rgb
                return Paint(tint, uv * (1, -1) + (0, 1), texture)
        if rgb is not None:
            return Paint(rgb)
        if material is not None and any(material.ke) and not any(material.kd or (1.0,)):
            self._say(f"material {name}: its emission (Ke) was taken as its colour")
            return Paint.flat(np.clip(material.ke, 0, 1), n_faces)
        if material is not None and material.kd is not None:
            return Paint.flat(np.clip(material.kd, 0, 1), n_faces)
        return Paint.flat((GREY, GREY, GREY), n_faces) if self._painted else None

    def _image(self, name: str) -> Int[np.ndarray, "h w 3"] | None:
        if name not in self._images:
            self._images[name] = find_picture(self._folder, name, self._notes)
        return self._images[name]

    def _say(self, text: str) -> None:
        if text not in self._notes:
            self._notes.append(text)

    def tell(self, materials: dict[str, _Material]) -> None:
        """Notes of what materials say beyond colour."""
        for what in dict.fromkeys(what for m in materials.values() for what in m.left_out):
            names = [
                n for n, m in materials.items() if what in m.left_out and not (what == "ambient map" and m.picture)
            ]
            if names:
                self._say(f"material {few(names)}: the {what} was left out")
        if lit := [name for name, m in materials.items() if any(m.ke) and (any(m.kd or (1.0,)) or m.picture)]:
            self._say(f"material {few(lit)}: the emission was left out")
        if clear := [name for name, m in materials.items() if m.opacity < 0.99]:
            self._say(f"material {few(clear)}: its opacity was left out; it is opaque here")
