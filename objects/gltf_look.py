"""Materials of a glTF file as paint: base colour, emission of what only emits, textures; the rest is told."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pygltflib as gl
from jaxtyping import Float, Int

from objects.gltf_file import GltfFile, clean, extension, fields_of, numbers, pick, whole
from objects.mesh_parts import few
from objects.paint import PictureError, Texture, Wrap, read_picture

_GLOSS = "KHR_materials_pbrSpecularGlossiness"
_WRAPS: dict[Any, Wrap] = {10497: "repeat", 33071: "clamp", 33648: "mirror"}
_NEAREST = (9728,)
# Extensions of a material that show where a factor isn't 0: the factor, its default, and what it is called.
_EFFECTS = {
    "KHR_materials_transmission": ("transmissionFactor", 0, "transmission (it is opaque here)"),
    "KHR_materials_diffuse_transmission": ("diffuseTransmissionFactor", 0, "diffuse transmission (it is opaque here)"),
    "KHR_materials_volume": ("thicknessFactor", 0, "volume (it is opaque here)"),
    "KHR_materials_volume_scatter": ("", 1, "scattering"),
    "KHR_materials_clearcoat": ("clearcoatFactor", 0, "clear coat"),
    "KHR_materials_sheen": ("sheenColorFactor", 0, "sheen"),
    "KHR_materials_iridescence": ("iridescenceFactor", 0, "iridescence"),
    "KHR_materials_anisotropy": ("anisotropyStrength", 0, "anisotropy"),
    "KHR_materials_specular": ("", 1, "specular colour"),
    "KHR_materials_dispersion": ("dispersion", 0, "dispersion"),
}
_OTHER_TEXTURES = {"KHR_texture_basisu": "KTX2 (Basis)", "EXT_texture_avif": "AVIF", "MSFT_texture_dds": "DDS"}


@dataclass(frozen=True, eq=False)
class Look:
    """How a material looks.

    Attributes:
        rgb: Factor, linear light.
        texture, uv_set, uv_matrix: What is looked up, at which coordinates, after which affine map of them.
        lit: Whether light falls on it.
        stated: Whether there is a material at all.
    """

    rgb: Float[np.ndarray, "3"] = field(default_factory=lambda: np.ones(3))
    texture: Texture | None = None
    uv_set: int = 0
    uv_matrix: Float[np.ndarray, "2 3"] = field(default_factory=lambda: np.eye(2, 3))
    lit: bool = True
    stated: bool = True


class Looks:
    """The materials of a file, each read once."""

    def __init__(self, file: GltfFile) -> None:
        self._file, self._gltf = file, file.gltf
        self._looks: dict[int, Look] = {}
        self._images: dict[int, Int[np.ndarray, "h w 3"] | None] = {}
        self._left_out: dict[str, list[str]] = {}  # what, and the materials that have it

    def look(self, index: Any, what: str) -> Look:
        """A material of the file; errors call what has it ``what``."""
        if index is None:
            return Look(stated=False)
        material = pick(self._gltf.materials, index, gl.Material, f"{what}: material")
        if index not in self._looks:
            name = clean(material.name) or f"{index}"
            self._looks[index] = self._read(material, f"{what}: material {index}", name)
        return self._looks[index]

    def tell(self) -> None:
        """Notes of what was left out, one for each kind of thing."""
        for text, names in self._left_out.items():
            label = "material" if len(set(names)) == 1 else "materials"
            self._file.note(f"{label} {few(names)}", text)

    def _miss(self, name: str, text: str) -> None:
        names = self._left_out.setdefault(text, [])
        if name not in names:
            names.append(name)

    def _read(self, material: gl.Material, what: str, name: str) -> Look:
        gloss, metal = extension(material, _GLOSS), fields_of(material.pbrMetallicRoughness)
        if gloss is not None:
            factor, texture = gloss.get("diffuseFactor"), gloss.get("diffuseTexture")
            if gloss.get("specularGlossinessTexture") is not None:
                self._miss(name, "its specular-glossiness map was left out")
        else:
            factor, texture = metal.get("baseColorFactor"), metal.get("baseColorTexture")
        rgba = np.clip(numbers([1, 1, 1, 1] if factor is None else factor, 4, f"{what}: base colour"), 0, 1)
        unlit = extension(material, "KHR_materials_unlit") is not None
        self._tell_opacity(material, float(rgba[3]), what, name)
        self._tell_effects(material, metal, name)
        emission = numbers(material.emissiveFactor or [0, 0, 0], 3, f"{what}: emissiveFactor")
        found, uv_set, matrix = self._texture(texture, what, name)
        if any(e > 0 for e in emission) and not unlit:
            if not rgba[:3].any() or (found is not None and not found.image.any()):
                return self._emitting(material, np.array(emission), what, name)
            self._miss(name, "its emission was left out; its base colour was taken")
        return Look(rgba[:3], found, uv_set, matrix, lit=not unlit)

    def _emitting(self, material: gl.Material, emission: np.ndarray, what: str, name: str) -> Look:
        """A black surface that shines: what it emits is its colour, and light adds nothing."""
        strength = (extension(material, "KHR_materials_emissive_strength") or {}).get("emissiveStrength", 1)
        emission = emission * numbers([strength], 1, f"{what}: emissiveStrength")[0]
        over = "; what is brighter than white is white" if emission.max() > 1 else ""
        self._miss(name, f"its emission was taken as its colour, unlit{over}")
        found, uv_set, matrix = self._texture(material.emissiveTexture, what, name)
        return Look(np.clip(emission, 0, 1), found, uv_set, matrix, lit=False)

    def _tell_opacity(self, material: gl.Material, alpha: float, what: str, name: str) -> None:
        if material.alphaMode == "BLEND":
            self._miss(name, f"its transparency (alphaMode BLEND, opacity {alpha:.2g}) was left out; it is opaque here")
        elif material.alphaMode == "MASK":
            self._miss(name, "its cut-outs (alphaMode MASK) were left out; they are filled here")

    def _tell_effects(self, material: gl.Material, metal: dict[str, Any], name: str) -> None:
        maps = [
            (material.normalTexture, "normal map"),
            (material.occlusionTexture, "occlusion map"),
            (metal.get("metallicRoughnessTexture"), "metallic-roughness map"),
        ]
        for texture, text in maps:
            if texture is not None:
                self._miss(name, f"its {text} was left out")
        for key, (factor, default, text) in _EFFECTS.items():
            if (found := extension(material, key)) is not None:
                value = found.get(factor, default)
                if any(value) if isinstance(value, list) else value:
                    self._miss(name, f"its {text} was left out")

    # -- textures ------------------------------------------------------------------------------------------------------

    def _texture(self, texture: Any, what: str, name: str) -> tuple[Texture | None, int, np.ndarray]:
        """What a texture info looks up (None: nothing, or it is told why not), its set of coordinates and their map."""
        nothing = (None, 0, np.eye(2, 3))
        if texture is None:
            return nothing
        info = fields_of(texture)
        entry = pick(self._gltf.textures, info.get("index"), gl.Texture, f"{what}: texture")
        webp = (extension(entry, "EXT_texture_webp") or {}).get("source")
        source = entry.source if webp is None else webp
        if source is None:
            kinds = [kind for key, kind in _OTHER_TEXTURES.items() if extension(entry, key) is not None]
            self._miss(
                name, f"its texture was left out: {few(kinds) or 'a kind that'} is not read here; export PNG or JPEG"
            )
            return nothing
        image = self._image(source, what, name)
        if image is None and webp is not None and entry.source is not None:
            image = self._image(entry.source, what, name)
        if image is None:
            return nothing
        wrap: tuple[Wrap, Wrap] = ("repeat", "repeat")
        nearest = False
        if entry.sampler is not None:
            sampler = pick(self._gltf.samplers, entry.sampler, gl.Sampler, f"{what}: sampler")
            wrap = (_WRAPS.get(sampler.wrapS, "repeat"), _WRAPS.get(sampler.wrapT, "repeat"))
            nearest = sampler.magFilter in _NEAREST
        extensions = info.get("extensions")
        moved = extensions.get("KHR_texture_transform") if isinstance(extensions, dict) else None
        moved = moved if isinstance(moved, dict) else {}
        uv_set = whole(moved.get("texCoord", info.get("texCoord")) or 0, f"{what}: texCoord")
        return Texture(image, wrap, nearest), uv_set, _moved(moved, what)

    def _image(self, index: Any, what: str, name: str) -> Int[np.ndarray, "h w 3"] | None:
        """The texels of an image; None, and told, where it is missing or damaged."""
        image, what = pick(self._gltf.images, index, gl.Image, f"{what}: image"), f"{what}: image {index}"
        if index not in self._images:
            label = clean(image.name) or f"image-{index}"
            if isinstance(image.uri, str) and not image.uri.startswith("data:"):
                label = image.uri[:80]
            self._images[index] = None
            try:
                inside = image.bufferView is not None
                data = (
                    bytes(self._file.view(image.bufferView, what)[0])
                    if inside
                    else self._file.from_uri(image.uri, what)
                )  # pyright: ignore[reportArgumentType]
                self._images[index] = read_picture(data)
            except FileNotFoundError:
                self._miss(name, f"its texture {label!r} is missing and was left out; copy it beside the file")
            except PictureError as error:
                self._miss(name, f"its texture {label!r} cannot be read and was left out: {error}")
        return self._images[index]


def _moved(moved: dict[str, Any], what: str) -> Float[np.ndarray, "2 3"]:
    """The map of coordinates of KHR_texture_transform: scaled, then turned counter-clockwise as seen (v points down: KhronosGroup
    glTF issue 1563), then shifted.
    """
    su, sv = numbers(moved.get("scale", [1, 1]), 2, f"{what}: texture scale")
    (angle,) = numbers([moved.get("rotation", 0)], 1, f"{what}: texture rotation")
    du, dv = numbers(moved.get("offset", [0, 0]), 2, f"{what}: texture offset")
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos * su, sin * sv, du], [-sin * su, cos * sv, dv]])
