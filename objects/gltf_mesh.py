"""The meshes of a glTF file as meshes of trimesh, with their colours."""

from __future__ import annotations

import io
import struct
import warnings
from typing import Any, NamedTuple

import numpy as np
import pygltflib as gl
import trimesh
from jaxtyping import Float, Int
from PIL import Image
from trimesh.visual.material import SimpleMaterial
from trimesh.visual.texture import TextureVisuals

from objects.gltf_file import BROKEN, DTYPES, SAME, GltfFile, clean, extension, numbers, pick, whole
from objects.mesh_files import MAX_FACES
from objects.paint import GREY

_GLOSS = "KHR_materials_pbrSpecularGlossiness"


class _Look(NamedTuple):
    """A material: base colour (0..1), number of the image, of its texture coordinates, their scale and offset."""

    rgba: Float[np.ndarray, "4"] | None = None
    image: int | None = None
    uv_set: int = 0
    uv_scale: Float[np.ndarray, "2"] | float = 1.0
    uv_offset: Float[np.ndarray, "2"] | float = 0.0


class _Part(NamedTuple):
    """Triangles of one material. Colours are as the file has them, 0..1; ``image`` numbers one of the file's images."""

    vertices: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]
    rgba: Float[np.ndarray, "v 4"] | None
    uv: Float[np.ndarray, "v 2"] | None
    image: int | None
    factor: Float[np.ndarray, "4"]


class Meshes:
    """The meshes of a file, each read once."""

    def __init__(self, file: GltfFile) -> None:
        self._file, self._gltf = file, file.gltf
        self._images: dict[int, bytes] = {}
        self._meshes: dict[int, trimesh.Trimesh | None] = {}
        self._baked: dict[tuple[int, bytes], trimesh.Trimesh] = {}

    def shape(self, index: int, residual: np.ndarray | None, label: str) -> trimesh.Trimesh | None:
        """A mesh of the file (None: it has no triangles), the same object each time.

        Its vertices went through ``residual`` (``[3, 3]``; None: identity). Errors call the node that shows it ``label``.
        """
        mesh = self._mesh(index, label)
        if residual is None or mesh is None:
            return mesh
        stretch = np.linalg.svd(residual, compute_uv=False)
        if stretch[2] <= 1e-9 * max(float(stretch[0]), 1e-3):
            raise ValueError(f"{label}: its scale flattens its mesh to nothing; give it a scale other than 0")
        key = (index, (np.round(residual / stretch[0], 9) + 0.0).tobytes() + struct.pack("<f", stretch[0]))
        if key not in self._baked:
            matrix = np.eye(4)
            matrix[:3, :3] = residual
            self._baked[key] = mesh.copy()
            self._baked[key].apply_transform(matrix)  # turns faces round where this mirrors
        return self._baked[key]

    def _mesh(self, index: int, label: str) -> trimesh.Trimesh | None:
        entry = pick(self._gltf.meshes, index, gl.Mesh, f"{label}: mesh")
        if index in self._meshes:
            return self._meshes[index]
        name, what = f"mesh {clean(entry.name) or f'mesh-{index}'}", f"{label}: mesh {index}"
        parts, count, skipped, morphs = [], 0, 0, False
        for k in range(len(entry.primitives or [])):
            primitive = pick(entry.primitives, k, gl.Primitive, f"{what}: primitive")
            morphs = morphs or bool(primitive.targets)
            if (mode := 4 if primitive.mode is None else primitive.mode) in (0, 1, 2, 3):
                skipped += 1
            elif mode not in (4, 5, 6):
                raise ValueError(f"{what}: primitive {k}: mode must be 0 to 6, got {mode!r}")
            elif part := self._part(primitive, mode, f"{what}: primitive {k}", name):
                parts.append(part)
                count += len(part.faces)
                if count > MAX_FACES:
                    raise ValueError(f"{what}: expected at most {MAX_FACES:,} faces, got {count:,}; simplify it")
        if skipped:
            self._file.note(name, f"its {skipped} primitives of points or lines were left out")
        if morphs:
            self._file.note(name, "its morph targets were left out; it keeps its base shape")
        if not parts:
            self._file.note(name, "it has no triangles; its nodes are empty")
        self._meshes[index] = self._trimesh(parts, name, what) if parts else None
        return self._meshes[index]

    def _part(self, primitive: gl.Primitive, mode: int, what: str, name: str) -> _Part | None:
        attributes = vars(primitive.attributes) if isinstance(primitive.attributes, gl.Attributes) else {}
        if extension(primitive, "KHR_draco_mesh_compression") is not None:
            raise ValueError(f"{what}: it is compressed with Draco; export it without compression")
        vertices = self._file.floats(attributes.get("POSITION"), ("VEC3",), f"{what}: POSITION")
        flat = np.arange(len(vertices))
        if primitive.indices is not None:
            rows = self._file.stored(primitive.indices, ("SCALAR",), f"{what}: indices")
            flat = rows[:, 0].astype(np.int64)
            if rows.dtype.kind != "u" or (len(flat) and flat.max() >= len(vertices)):
                raise ValueError(f"{what}: indices must be whole numbers below {len(vertices)}")
        if mode == gl.TRIANGLES:
            faces = flat[: len(flat) // 3 * 3].reshape(-1, 3)
        elif mode == gl.TRIANGLE_STRIP:
            faces = np.stack([flat[:-2], flat[1:-1], flat[2:]], -1)
            faces[1::2] = faces[1::2, [1, 0, 2]]
        else:
            faces = np.stack([np.broadcast_to(flat[:1], flat[2:].shape), flat[1:-1], flat[2:]], -1)
        if len(faces) == 0:
            return None
        used, faces = np.unique(faces, return_inverse=True)
        look = self._look(primitive.material, what, name)
        uv = rgba = None
        painted, place = attributes.get("COLOR_0"), attributes.get(f"TEXCOORD_{look.uv_set}")
        if look.image is not None and place is not None:
            uv = self._file.floats(place, ("VEC2",), f"{what}: TEXCOORD_{look.uv_set}") * look.uv_scale + look.uv_offset
        elif painted is not None:
            colors = self._file.floats(painted, ("VEC3", "VEC4"), f"{what}: COLOR_0")
            rgba = np.ones((len(colors), 4))
            rgba[:, : colors.shape[1]] = colors
            rgba *= 1.0 if look.rgba is None else look.rgba
        elif look.rgba is not None:
            rgba = np.broadcast_to(look.rgba, (len(vertices), 4))
        for each in (uv, rgba):
            if each is not None and len(each) != len(vertices):
                raise ValueError(f"{what}: expected a colour for each of {len(vertices)} vertices, got {len(each)}")
        if uv is not None and painted is not None:
            self._file.note(name, "its vertex colours were left out where it has a texture")
        return _Part(
            vertices[used],
            faces.reshape(-1, 3),
            None if rgba is None else rgba[used],
            None if uv is None else uv[used],
            None if uv is None else look.image,
            np.ones(4) if look.rgba is None else look.rgba,
        )

    def _look(self, index: int | None, what: str, name: str) -> _Look:
        if index is None:
            return _Look()
        material = pick(self._gltf.materials, index, gl.Material, f"{what}: material")
        what = f"{what}: material {index}"
        gloss, metal = extension(material, _GLOSS), material.pbrMetallicRoughness
        if gloss is not None:
            factor, texture = gloss.get("diffuseFactor"), gloss.get("diffuseTexture")
        else:
            factor, texture = (metal.baseColorFactor, metal.baseColorTexture) if metal else (None, None)
        rgba = np.clip(numbers([1, 1, 1, 1] if factor is None else factor, 4, f"{what}: base colour"), 0, 1)
        if texture is None:
            return _Look(rgba)
        info = texture if isinstance(texture, dict) else getattr(texture, "__dict__", {})
        entry = pick(self._gltf.textures, info.get("index"), gl.Texture, f"{what}: texture")
        source = (extension(entry, "EXT_texture_webp") or {}).get("source", entry.source)
        if source is None:
            self._file.note(name, "a texture of a kind that is not read here was left out")
            return _Look(rgba)
        self._image(source, what)
        extensions = info.get("extensions")
        moved = extensions.get("KHR_texture_transform") if isinstance(extensions, dict) else None
        if not isinstance(moved, dict):
            moved = {}
        if moved.get("rotation"):
            self._file.note(name, "the rotation of its texture was left out")
        scale = np.array(numbers(moved.get("scale", [1, 1]), 2, f"{what}: texture scale"))
        offset = np.array(numbers(moved.get("offset", [0, 0]), 2, f"{what}: texture offset"))
        uv_set = whole(moved.get("texCoord", info.get("texCoord")) or 0, f"{what}: texCoord")
        return _Look(rgba, source, uv_set, scale, offset)

    def _image(self, index: int, what: str) -> bytes:
        """An image file, known to be readable."""
        image, what = pick(self._gltf.images, index, gl.Image, f"{what}: image"), f"{what}: image {index}"
        if index not in self._images:
            if image.bufferView is not None:
                data = bytes(self._file.view(image.bufferView, what)[0])
            else:
                data = self._file.from_uri(image.uri, what)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")).load()
            except BROKEN as error:
                raise ValueError(f"{what}: cannot be read: {error or type(error).__name__}") from error
            self._images[index] = data
        return self._images[index]

    def _trimesh(self, parts: list[_Part], name: str, what: str) -> trimesh.Trimesh:
        """One mesh of all parts, made by trimesh from a glTF that holds nothing else."""
        small = _Small()
        painted = any(p.rgba is not None or p.image is not None for p in parts)
        joined = len({None if p.image is None else (p.image, p.factor.tobytes()) for p in parts}) > 1
        for part in parts:
            if painted and part.rgba is None and part.image is None:
                part = part._replace(rgba=np.full((len(part.vertices), 4), GREY))
            if joined and part.uv is not None:
                # The images are joined to one, in which a texture cannot repeat.
                shifted = part.uv - np.floor(part.uv.min(0) + SAME)
                part = part._replace(uv=shifted)
                if shifted.max() > 1 + 1e-3:
                    self._file.note(name, "a texture that repeats beside other materials: its colours are not exact")
            small.add(part, None if part.image is None else self._image(part.image, what))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                loaded = trimesh.load(io.BytesIO(small.glb()), file_type="glb", process=False)
                pieces = [g for g in loaded.geometry.values() if isinstance(g, trimesh.Trimesh)]  # pyright: ignore[reportAttributeAccessIssue]
                for piece in pieces if joined else ():
                    _simplify(piece)
                mesh = pieces[0] if len(pieces) == 1 else trimesh.util.concatenate(pieces)
        except BROKEN as error:
            raise ValueError(f"{what}: cannot be read: {type(error).__name__}: {error}") from error
        if not isinstance(mesh, trimesh.Trimesh) or len(mesh.faces) != sum(len(p.faces) for p in parts):
            raise ValueError(f"{what}: cannot be read: its triangles were lost")
        if painted and getattr(mesh.visual, "kind", None) is None:
            self._file.note(name, "its colours could not be joined and were left out")
        return mesh


def _simplify(mesh: trimesh.Trimesh) -> None:
    """Make the look of a textured mesh a plain image: trimesh cannot join other materials with vertex colours."""
    visual = mesh.visual
    if isinstance(visual, TextureVisuals):
        texture, factor = (getattr(visual.material, name) for name in ("baseColorTexture", "baseColorFactor"))
        pixels = np.asarray(texture.convert("RGB"), np.float32) * (factor[:3] / 255)
        image = Image.fromarray(np.round(pixels).astype(np.uint8))
        mesh.visual = TextureVisuals(uv=visual.uv, material=SimpleMaterial(image=image))


class _Small:
    """A glTF of one mesh, to be read by trimesh."""

    def __init__(self) -> None:
        self._blob = bytearray()
        self._materials: dict[tuple[int, bytes], int] = {}  # image and factor to the index of what shows them
        self._gltf = gl.GLTF2(scene=0, scenes=[gl.Scene(nodes=[0])], nodes=[gl.Node(mesh=0)], meshes=[gl.Mesh()])

    def _view(self, data: bytes) -> Any:
        self._gltf.bufferViews.append(gl.BufferView(buffer=0, byteOffset=len(self._blob), byteLength=len(data)))
        self._blob += data + bytes(-len(data) % 4)
        return len(self._gltf.bufferViews) - 1

    def _accessor(self, rows: np.ndarray, code: int, kind: str) -> Any:
        view = self._view(rows.astype(DTYPES[code]).tobytes())
        small = code == gl.UNSIGNED_BYTE
        entry = gl.Accessor(bufferView=view, componentType=code, count=len(rows), type=kind, normalized=small)
        self._gltf.accessors.append(entry)
        return len(self._gltf.accessors) - 1

    def add(self, part: _Part, image: bytes | None) -> None:
        """Add a primitive, with a texture where there is an ``image`` (a file)."""
        gltf, material = self._gltf, None
        attributes = gl.Attributes(POSITION=self._accessor(part.vertices, gl.FLOAT, "VEC3"))
        if image is not None and part.uv is not None and part.image is not None:
            attributes.TEXCOORD_0 = self._accessor(part.uv, gl.FLOAT, "VEC2")
            key = (part.image, part.factor.tobytes())
            if key not in self._materials:
                self._materials[key] = len(gltf.materials)
                gltf.images.append(gl.Image(bufferView=self._view(image)))
                gltf.textures.append(gl.Texture(source=len(gltf.materials)))
                texture = gl.TextureInfo(index=len(gltf.materials))
                look = gl.PbrMetallicRoughness(baseColorFactor=part.factor.tolist(), baseColorTexture=texture)
                gltf.materials.append(gl.Material(pbrMetallicRoughness=look))
            material = self._materials[key]
        elif part.rgba is not None:
            attributes.COLOR_0 = self._accessor(np.round(np.clip(part.rgba, 0, 1) * 255), gl.UNSIGNED_BYTE, "VEC4")
        indices = self._accessor(part.faces.reshape(-1, 1), gl.UNSIGNED_INT, "SCALAR")
        gltf.meshes[0].primitives.append(gl.Primitive(attributes=attributes, indices=indices, material=material))

    def glb(self) -> bytes:
        self._gltf.buffers = [gl.Buffer(byteLength=len(self._blob))]
        self._gltf.set_binary_blob(bytes(self._blob))
        return b"".join(bytes(piece) for piece in self._gltf.save_to_bytes())
