"""Scenes as USD (``.usda``, ``.usdc``), z up, in metres: a prim for each node, with time samples; meshes are shared prototypes.

Names that are no identifiers are kept as display names. With physics each object is a rigid body of its own.
"""
# pyright: reportAttributeAccessIssue=false
# (pxr comes without types)

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pxr import Gf, Sdf, Tf, Usd, UsdGeom, UsdLux, UsdPhysics, UsdShade, Vt

from objects.progress import Bar
from rendering.atomic import replacing
from rendering.camera import Camera
from rendering.lights import AmbientLight, DirectionalLight, Light, PointLight, linear_from_srgb
from scenes.io.asset_mesh import AssetMesh
from scenes.io.axes import camera_pose, toward
from scenes.io.export import Content, Part
from scenes.io.hulls import convex_hulls
from scenes.io.motion import Motion
from scenes.presence import Span
from scenes.track import Sim3

STATIC = "static"  # tag of objects that don't fall
_TOP, _PROTOTYPES = "/Scene", "/_meshes"
_RATE = 24.0  # time codes a second
_FILM = 0.36  # width of a camera's film, tenths of a metre, as USD counts it
_GRAVITY = 9.81  # m/s^2
_RADIUS = 0.01  # metres, of lamps


def write_usda(content: Content, target: Path) -> None:
    """Writes a file as text; what it can't hold is noted in ``content``.

    Raises:
        ValueError: It cannot be written; physics without coacd.
    """
    stage = _Writer(content).stage()
    with replacing(target) as part:
        stage.GetRootLayer().Export(str(part))


write_usdc = write_usda  # the library looks at the suffix


class _Writer:
    def __init__(self, content: Content) -> None:
        self.content = content
        self._stage = stage = Usd.Stage.CreateInMemory()
        stage.SetDefaultPrim(UsdGeom.Xform.Define(stage, _TOP).GetPrim())
        UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.z)
        UsdGeom.SetStageMetersPerUnit(stage, 1.0)
        stage.SetTimeCodesPerSecond(_RATE)
        stage.SetStartTimeCode(content.span[0] * _RATE)
        stage.SetEndTimeCode(content.span[1] * _RATE)
        self._taken: dict[str, set[str]] = {_TOP: {"materials", "physics"}}  # names beneath each prim
        self._materials: dict[bool, UsdShade.Material] = {}

    def stage(self) -> Usd.Stage:
        content, stage = self.content, self._stage
        if content.meshes:
            stage.CreateClassPrim(_PROTOTYPES)
        for number, mesh in enumerate(
            Bar(content.meshes, desc="hulls", unit="object", disable=content.density is None)
        ):
            self._prototype(number, mesh)
        if content.density is not None:
            scene = UsdPhysics.Scene.Define(stage, f"{_TOP}/physics")
            scene.CreateGravityDirectionAttr(Gf.Vec3f(0, 0, -1))
            scene.CreateGravityMagnitudeAttr(_GRAVITY)
        places: list[str] = []
        motions = []
        for part in content.parts:
            place = self._new(_TOP if part.parent < 0 else places[part.parent], part.name)
            places.append(place)
            xform = UsdGeom.Xform.Define(stage, place)
            if part.node.tags:
                xform.GetPrim().SetCustomDataByKey("tags", Vt.StringArray(list(part.node.tags)))
            body = part.mesh >= 0 and content.density is not None
            loose = body and part.parent >= 0  # a body stands in the world, not in what carries it
            if loose:
                xform.SetResetXformStack(True)
            motion = content.motion(part, in_world=loose)
            motions.append((part, motion))
            _limit(xform, part.node.spans)
            _place(xform, content.world(part) if loose else content.pose(part), motion)
            if part.mesh >= 0:
                self._add_mesh(place, part)
            if body:
                self._add_body(xform.GetPrim(), part, motion)
            if part.node.light is not None:
                self._add_light(place, part, part.node.light)
            if part.node.camera is not None:
                self._add_camera(place, part.node.camera)
        content.note_motions(motions)
        if content.density is not None and not any(STATIC in part.node.tags for part in content.parts):
            content.notes.append("no object has the tag 'static': in a simulation all fall, floors and walls too")
        return stage

    def _new(self, parent: str, name: str) -> str:
        """Path of a new prim beneath another; the name itself becomes its display name, where it is no identifier."""
        taken = self._taken.setdefault(parent, set())
        word = plain = name if Sdf.Path.IsValidIdentifier(name) else Tf.MakeValidIdentifier(name)
        n = 1
        while word in taken:
            n += 1
            word = f"{plain}_{n}"
        taken.add(word)
        if word != name:
            self._stage.DefinePrim(f"{parent}/{word}").SetDisplayName(name)
        return f"{parent}/{word}"

    # -- shapes --------------------------------------------------------------------------------------------------------

    def _prototype(self, number: int, mesh: AssetMesh) -> None:
        place = f"{_PROTOTYPES}/mesh_{number}"
        UsdGeom.Xform.Define(self._stage, place)
        made = _mesh(self._stage, f"{place}/mesh", mesh.vertices, mesh.faces)
        primvars = UsdGeom.PrimvarsAPI(made)
        for name, kind, values in (
            ("normals", Sdf.ValueTypeNames.Normal3fArray, mesh.normals),
            ("displayColor", Sdf.ValueTypeNames.Color3fArray, _linear(mesh.rgb)),
        ):
            primvar = primvars.CreatePrimvar(name, kind, UsdGeom.Tokens.faceVarying)
            primvar.Set(Vt.Vec3fArray.FromNumpy(values))
            primvar.SetIndices(Vt.IntArray.FromNumpy(mesh.corners.ravel()))
        if (bending := self.content.bendings[number]) is not None:
            normals = primvars.GetPrimvar("normals")
            for seconds, p, n in zip(bending.times.tolist(), bending.vertices, bending.normals, strict=True):
                code = Usd.TimeCode(seconds * _RATE)
                made.GetPointsAttr().Set(Vt.Vec3fArray.FromNumpy(p), code)
                made.GetExtentAttr().Set(Vt.Vec3fArray.FromNumpy(np.stack([p.min(0), p.max(0)])), code)
                normals.Set(Vt.Vec3fArray.FromNumpy(n), code)
        if self.content.density is None:
            return
        for i, (vertices, faces) in enumerate(convex_hulls(*self.content.shapes[number])):
            hull = _mesh(self._stage, f"{place}/hull_{i}", vertices, faces)
            hull.CreatePurposeAttr(UsdGeom.Tokens.guide)
            UsdPhysics.CollisionAPI.Apply(hull.GetPrim())
            UsdPhysics.MeshCollisionAPI.Apply(hull.GetPrim()).CreateApproximationAttr(UsdPhysics.Tokens.convexHull)

    def _add_mesh(self, place: str, part: Part) -> None:
        prim = UsdGeom.Xform.Define(self._stage, self._new(place, "geometry")).GetPrim()
        prim.GetReferences().AddInternalReference(f"{_PROTOTYPES}/mesh_{part.mesh}")
        prim.SetInstanceable(True)
        UsdShade.MaterialBindingAPI.Apply(prim).Bind(self._material(part.node.lit))

    def _material(self, lit: bool) -> UsdShade.Material:
        """Colours of vertices, as a matt surface or (unlit) as its own light."""
        if lit not in self._materials:
            place = f"{_TOP}/materials/{'lit' if lit else 'unlit'}"
            UsdGeom.Scope.Define(self._stage, f"{_TOP}/materials")
            material = UsdShade.Material.Define(self._stage, place)
            colors = UsdShade.Shader.Define(self._stage, f"{place}/colors")
            colors.CreateIdAttr("UsdPrimvarReader_float3")
            colors.CreateInput("varname", Sdf.ValueTypeNames.String).Set("displayColor")
            found = colors.CreateOutput("result", Sdf.ValueTypeNames.Float3)
            surface = UsdShade.Shader.Define(self._stage, f"{place}/surface")
            surface.CreateIdAttr("UsdPreviewSurface")
            surface.CreateInput("roughness", Sdf.ValueTypeNames.Float).Set(1.0)
            shown = "diffuseColor" if lit else "emissiveColor"
            surface.CreateInput(shown, Sdf.ValueTypeNames.Color3f).ConnectToSource(found)
            if not lit:
                surface.CreateInput("diffuseColor", Sdf.ValueTypeNames.Color3f).Set(Gf.Vec3f(0, 0, 0))
            out = surface.CreateOutput("surface", Sdf.ValueTypeNames.Token)
            material.CreateSurfaceOutput().ConnectToSource(out)
            self._materials[lit] = material
        return self._materials[lit]

    def _add_body(self, prim: Usd.Prim, part: Part, motion: Motion) -> None:
        """A rigid body; one that the scene moves is kinematic, one with the tag ``static`` is none and only in the way."""
        if STATIC in part.node.tags:
            return
        body = UsdPhysics.RigidBodyAPI.Apply(prim)
        if motion.moves:
            body.CreateKinematicEnabledAttr(True)
        volume = _volume(self.content.meshes[part.mesh]) * self.content.world(part).scale ** 3
        UsdPhysics.MassAPI.Apply(prim).CreateMassAttr((self.content.density or 0.0) * volume)

    # -- lights and cameras --------------------------------------------------------------------------------------------

    def _add_light(self, place: str, part: Part, light: Light) -> None:
        """A surface of albedo a shows a*E/pi of an irradiance E in USD, and a*E here."""
        made: Any
        color, pose = getattr(light, "color", (1.0, 1.0, 1.0)), Sim3()
        place = self._new(place, "light")
        if isinstance(light, DirectionalLight):
            made = UsdLux.DistantLight.Define(self._stage, place)
            made.CreateNormalizeAttr(True)
            made.CreateIntensityAttr(math.pi * light.intensity)
            pose = Sim3(toward(light.direction))
        elif isinstance(light, PointLight):
            made = UsdLux.SphereLight.Define(self._stage, place)
            made.CreateRadiusAttr(_RADIUS)
            made.CreateTreatAsPointAttr(True)
            made.CreateNormalizeAttr(True)  # its radiance is intensity / (4 pi radius^2)
            made.CreateIntensityAttr(4 * math.pi * light.intensity)
            pose = Sim3(trans=light.position)
        elif isinstance(light, AmbientLight):
            made = UsdLux.DomeLight.Define(self._stage, place)
            made.CreateIntensityAttr(light.intensity)
            if light.ground_color is not None:
                self.content.notes.append(f"{part.path}: its light from below has the colour of that from above in USD")
        else:
            raise ValueError(
                f"{part.path}: expected an ambient, directional or point light, got {type(light).__name__}"
            )
        made.CreateColorAttr(Gf.Vec3f(*_linear(np.array([color]))[0].tolist()))
        _place(made, pose)

    def _add_camera(self, place: str, camera: Camera) -> None:
        made = UsdGeom.Camera.Define(self._stage, self._new(place, "camera"))
        focal = _FILM * camera.fx / camera.width
        made.CreateFocalLengthAttr(focal)
        made.CreateHorizontalApertureAttr(_FILM)
        made.CreateVerticalApertureAttr(focal * camera.height / camera.fy)
        made.CreateHorizontalApertureOffsetAttr(focal * (0.5 * camera.width - camera.cx) / camera.fx)
        made.CreateVerticalApertureOffsetAttr(focal * (camera.cy - 0.5 * camera.height) / camera.fy)
        made.CreateClippingRangeAttr(Gf.Vec2f(0.01, 1e5))
        _place(made, camera_pose(camera))


def _limit(prim: UsdGeom.Imageable, spans: Sequence[Span]) -> None:
    """When a prim and all beneath it are visible."""
    if not spans:
        return
    shown = prim.CreateVisibilityAttr()
    if math.isfinite(spans[0][0]):  # before the first sample a value holds backwards
        shown.Set(UsdGeom.Tokens.invisible, Usd.TimeCode((spans[0][0] - 1) * _RATE))
    for start, end in spans:
        code = start * _RATE if math.isfinite(start) else min(end * _RATE, 0.0) - 1
        shown.Set(UsdGeom.Tokens.inherited, Usd.TimeCode(code))
        if math.isfinite(end):
            shown.Set(UsdGeom.Tokens.invisible, Usd.TimeCode(math.nextafter(end * _RATE, math.inf)))


def _place(prim: UsdGeom.Xformable, pose: Sim3, motion: Motion | None = None) -> None:
    """Where a prim stands, at rest and over time."""
    moving = motion is not None and motion.moves
    if not moving and pose == Sim3():
        return
    move = prim.AddTranslateOp(UsdGeom.XformOp.PrecisionDouble)
    turn = prim.AddOrientOp(UsdGeom.XformOp.PrecisionDouble)
    size = prim.AddScaleOp(UsdGeom.XformOp.PrecisionDouble) if moving or pose.scale != 1 else None

    def put(quat: Sequence[float], trans: Sequence[float], scale: float, code: Usd.TimeCode) -> None:
        move.Set(Gf.Vec3d(*trans), code)
        turn.Set(Gf.Quatd(*quat), code)
        if size is not None:
            size.Set(Gf.Vec3d(scale, scale, scale), code)

    put(pose.quat, pose.trans, pose.scale, Usd.TimeCode.Default())
    if motion is None or not moving:
        return
    codes, rows = _codes(motion)
    quats, trans, scales = motion.quats.tolist(), motion.translations.tolist(), motion.scales.tolist()
    for code, k in zip(codes, rows, strict=True):
        put(quats[k], trans[k], scales[k], Usd.TimeCode(code))


def _codes(motion: Motion) -> tuple[list[float], list[int]]:
    """Time codes of samples and the keys they show: USD goes in lines, so what holds or jumps has a sample just before."""
    codes, rows = [], []
    times = (motion.times * _RATE).tolist()
    for k, code in enumerate(times):
        if motion.interpolation == "step" and k > 0:
            codes.append(math.nextafter(code, -math.inf))
            rows.append(k - 1)
        jumps = k + 1 < len(times) and times[k + 1] == code
        codes.append(math.nextafter(code, -math.inf) if jumps else code)
        rows.append(k)
    return codes, rows


def _mesh(stage: Usd.Stage, place: str, vertices: np.ndarray, faces: np.ndarray) -> UsdGeom.Mesh:
    made = UsdGeom.Mesh.Define(stage, place)
    made.CreatePointsAttr(Vt.Vec3fArray.FromNumpy(vertices))
    made.CreateFaceVertexCountsAttr(Vt.IntArray.FromNumpy(np.full(len(faces), 3, np.int32)))
    made.CreateFaceVertexIndicesAttr(Vt.IntArray.FromNumpy(faces.astype(np.int32).ravel()))
    made.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)
    made.CreateExtentAttr(Vt.Vec3fArray.FromNumpy(np.stack([vertices.min(0), vertices.max(0)])))
    return made


def _linear(srgb: np.ndarray) -> np.ndarray:
    return linear_from_srgb(torch.from_numpy(srgb.astype(np.float64))).float().numpy()


def _volume(mesh: AssetMesh) -> float:
    a, b, c = mesh.vertices.astype(np.float64)[mesh.faces].transpose(1, 0, 2)
    return float(np.einsum("ni,ni->", a, np.cross(b, c))) / 6
