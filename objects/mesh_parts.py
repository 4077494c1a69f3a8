"""What readers of mesh files give, and what they share: parts, errors, text in any encoding, polygons as triangles."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from objects.paint import Paint
from objects.polygons import triangulate

MAX_FACES = 5_000_000


class MeshError(ValueError):
    """A mesh that cannot be learned; the message names the argument, what was expected and what came."""


@dataclass(frozen=True, eq=False)
class MeshPart:
    """Triangles with one kind of colour (``paint`` None: the file doesn't say), in the frame and units of their file."""

    vertices: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]
    paint: Paint | None = None

    def transformed(self, matrix: Float[np.ndarray, "4 4"]) -> MeshPart:
        """The part under an affine map; one that mirrors turns the faces round, so that outside stays outside."""
        with np.errstate(invalid="ignore", over="ignore"):  # what isn't finite is refused where meshes are understood
            part = replace(self, vertices=self.vertices @ matrix[:3, :3].T + matrix[:3, 3])
            mirrors = np.linalg.det(matrix[:3, :3]) < 0
        if not mirrors:
            return part
        return replace(part, faces=self.faces[:, ::-1], paint=None if self.paint is None else self.paint.reversed())


def decoded(data: bytes) -> str:
    """Text as UTF-8, or as UTF-16 or UTF-32 where a byte order mark says so, else as Latin-1.

    Raises:
        ValueError: No text: it holds zero bytes.
    """
    for mark, name in (
        (b"\xff\xfe\x00\x00", "utf-32"),
        (b"\x00\x00\xfe\xff", "utf-32"),
        (b"\xff\xfe", "utf-16"),
        (b"\xfe\xff", "utf-16"),
    ):
        if data.startswith(mark):
            return data.decode(name, "replace")
    if b"\0" in data:
        raise ValueError("expected text, got zero bytes; is the file whole, and does its name end as its format wants?")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def floats(words: list[str], what: str) -> Float[np.ndarray, "n"]:
    """Numbers from their texts.

    Raises:
        ValueError: One is no number.
    """
    try:
        return np.array(words, np.float64)
    except ValueError:
        bad = next(word for word in words if not _is_number(word))
        hint = "; write decimal points" if "," in bad else ""
        raise ValueError(f"{what}: expected a number, got {bad:.40}{hint}") from None


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, eq=False)
class Cut:
    """Polygons that became triangles.

    Attributes:
        corners: For each triangle, which corners of the file it has (rows of what lists the polygons' corners).
        polygon: For each triangle, the polygon that it is part of.
    """

    corners: Int[np.ndarray, "t 3"]
    polygon: Int[np.ndarray, "t"]


def cut(vertices: Float[np.ndarray, "v 3"], flat: Int[np.ndarray, "c"], counts: Int[np.ndarray, "p"]) -> Cut:
    """Polygons, given by the vertices of all their corners one after another, as triangles.

    Raises:
        ValueError: A corner's vertex isn't there, or there are too many faces.
    """
    if len(flat) and not (flat.min() >= 0 and flat.max() < len(vertices)):
        bad = flat.max() if flat.min() >= 0 else flat.min()
        raise ValueError(f"a face names vertex {bad} (counted from 0) of {len(vertices)}; is the file whole?")
    if (total := int(np.maximum(counts - 2, 0).sum())) > MAX_FACES:
        raise ValueError(f"expected at most {MAX_FACES:,} triangles, got {total:,}; simplify the mesh first")
    return Cut(*triangulate(vertices[flat], counts))


def few(names: list[str], most: int = 3) -> str:
    """Names for a note: the first ones, and how many more."""
    kept = list(dict.fromkeys(names))
    more = f" and {len(kept) - most} more" if len(kept) > most else ""
    return ", ".join(name if len(name) <= 60 else name[:60] + "..." for name in kept[:most]) + more
