import copy
import errno
import functools
import hashlib
import json
import math
import os
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from objects import files
from objects.aabb import Aabb
from objects.analytic_warps import Twist
from objects.field import Difference, Field, FieldSample, Intersection, Union, structure
from objects.field_tree import KINDS
from objects.files import FieldFileError, field_hash, is_unread, load_field, load_lazily, save_field, storable
from objects.placed import Placed
from objects.pose import SE3
from objects.primitives import Box, Capsule, Cylinder, Sphere, Torus
from objects.siren import SirenField
from objects.warped import Warped

POSE = SE3.exp(torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]))
BOX = Aabb(torch.tensor([-1.0, -2, -3]), torch.tensor([1.0, 1.5, 2.0]))


def _siren(seed=0):
    field = SirenField(
        BOX, width=8, layers=2, color_width=6, color_layers=1, feature_width=2, omega_first=17.5, seed=seed
    )
    field.lipschitz_estimate.fill_(1.37)
    return field


def _parts(short=False):
    field = SirenField(BOX, width=8, layers=1, color_width=6, color_layers=2, color_parts=3, seed=5)
    if short:
        field.appearance.shorten()
    return field


FIELDS = {
    "siren": _siren(),
    "parts": _parts(),
    "short parts": _parts(short=True),
    "sphere": Sphere(1.0, color=(0.1, 0.2, 0.3), feature=[1.0, 2.0]),
    "box": Box((1.0, 2.0, 3.0), rounding=0.2),
    "cylinder": Cylinder(1.0, 0.5),
    "capsule": Capsule(0.3, 0.5),
    "torus": Torus(1.0, 0.3),
    "warped": Warped(_siren(4), Twist(BOX, (0, 0, 1), (0, 0, 0), (0, 1), (0, 0.5))),
    "placed": Placed(_siren(1), POSE, 0.1),
    "nested": Difference(Union(_siren(2), Placed(Sphere(1.0), POSE), smooth=0.2), Torus(1.0, 0.3))
    & Box((1.0, 1.0, 1.0)),
    "double": _siren(3).double(),
}
every_field = pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS)


def _bytes(field, folder):
    save_field(field, folder / "f.safetensors")
    return (folder / "f.safetensors").read_bytes()


def _equal(a, b):
    a_state, b_state = a.state_dict(), b.state_dict()
    return structure(a) == structure(b) and all(
        a_state[k].dtype == b_state[k].dtype and a_state[k].numpy().tobytes() == b_state[k].numpy().tobytes()
        for k in a_state
    )


@every_field
def test_a_field_comes_back_bit_for_bit(field, tmp_path):
    data = _bytes(field, tmp_path)
    back = load_field(tmp_path / "f.safetensors")
    assert type(back) is type(field)
    assert _equal(back, field)
    assert back.lipschitz == field.lipschitz and torch.equal(back.bounds.lo, field.bounds.lo)
    assert not any(p.requires_grad for p in back.parameters())
    p = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).to(field.box_lo.dtype)
    torch.testing.assert_close(back(p), field(p), rtol=0, atol=0)
    assert _bytes(back, tmp_path) == data


@every_field
def test_other_safetensors_readers_see_the_same_tensors(field, tmp_path):
    _bytes(field, tmp_path)
    tensors = safetensors.torch.load_file(tmp_path / "f.safetensors")
    state = field.state_dict()
    small = [name for name, tensor in tensors.items() if tensor.dtype == torch.int8]
    scales = {f"{name}.scale": tensors.pop(f"{name}.scale") for name in small}
    assert tensors.keys() == state.keys()
    for name, tensor in state.items():
        scale = scales[f"{name}.scale"][:, None, None] if f"{name}.scale" in scales else 1
        assert torch.equal(tensors[name].to(tensor.dtype) * scale, tensor)


def _header(data):
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])


def test_numbers_rounded_for_it_take_a_byte_or_two_each(tmp_path):
    long, short = (_header(_bytes(_parts(k), tmp_path)) for k in (False, True))
    kinds = {name: entry["dtype"] for name, entry in short.items() if name.startswith("appearance.")}
    assert [kinds[f"appearance.weights.{k}"] for k in range(3)] == ["F16", "I8", "I8"]
    assert {kinds[f"appearance.biases.{k}"] for k in range(3)} == {"F16"}
    assert all(entry["dtype"] == "F32" for name, entry in long.items() if name != "__metadata__")


def test_files_written_by_the_safetensors_library_are_read(tmp_path):
    field = FIELDS["nested"]
    metadata = {"format": "sirenscape.field", "version": "1", "tree": json.dumps(structure(field))}
    safetensors.torch.save_file(field.state_dict(), tmp_path / "f.safetensors", metadata)
    assert _equal(load_field(tmp_path / "f.safetensors"), field)


def test_the_table_names_every_kind_by_its_own_name():
    assert all(kind.cls.kind == name for name, kind in KINDS.items())
    built = {part.kind for field in FIELDS.values() for part in field.modules() if isinstance(part, Field)}
    assert built | {Intersection.kind} == set(KINDS)


def test_hashes_tell_fields_apart_and_equal_fields_share_one():
    assert field_hash(_siren()) == field_hash(_siren())
    assert len({field_hash(field) for field in FIELDS.values()}) == len(FIELDS)
    nudged = Sphere(1.0)
    nudged.lipschitz_estimate.fill_(1.0000001)
    assert field_hash(nudged) != field_hash(Sphere(1.0))


def test_hash_is_that_of_the_file(tmp_path):
    assert field_hash(_siren()) == hashlib.sha256(_bytes(_siren(), tmp_path)).hexdigest()


# -- saving ----------------------------------------------------------------------------------------------------------


class _FullDisk:
    def __init__(self, *_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    old = _bytes(Sphere(1.0), tmp_path)
    monkeypatch.setattr(os, "fsync", _FullDisk)
    with pytest.raises(FieldFileError, match=r"f\.safetensors: cannot be written: No space left"):
        save_field(Sphere(2.0), tmp_path / "f.safetensors")
    assert (tmp_path / "f.safetensors").read_bytes() == old
    assert [path.name for path in tmp_path.iterdir()] == ["f.safetensors"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_interrupt_while_saving_leaves_the_old_file_and_no_other(step, tmp_path, monkeypatch):
    old = _bytes(Sphere(1.0), tmp_path)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, step, interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_field(Sphere(2.0), tmp_path / "f.safetensors")
    assert (tmp_path / "f.safetensors").read_bytes() == old
    assert len(list(tmp_path.iterdir())) == 1


class _Unknown(Field):
    kind = "unknown"

    def inside(self, p_obj, time):
        return FieldSample(p_obj[:, 0], p_obj, p_obj[:, :0])


def _deep(levels):
    field = Sphere(1.0)
    for _ in range(levels):
        field = Placed(field, SE3.identity())
    return field


def _with_nan():
    field = _siren()
    with torch.no_grad():
        field.get_parameter("distance.linears.0.bias")[0] = float("nan")
    return field


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: _Unknown(BOX), "kind of field"),
        (_with_nan, "expected finite numbers"),
        (lambda: _siren().half(), "float32 or float64"),
        (lambda: Union(Sphere(1.0), Sphere(1.0).double()), "one dtype"),
        (lambda: _deep(70), "64 levels"),
        (lambda: Sphere(1.0, feature=torch.zeros(5000)), "feature_width"),
    ],
    ids=["unknown kind", "nan", "half", "mixed", "deep", "wide"],
)
def test_what_could_not_be_read_again_is_not_written(make, message, tmp_path):
    old = _bytes(Sphere(1.0), tmp_path)
    with pytest.raises(FieldFileError, match=message):
        save_field(make(), tmp_path / "f.safetensors")
    assert (tmp_path / "f.safetensors").read_bytes() == old


def test_places_that_cannot_be_written_are_named(tmp_path):
    with pytest.raises(FieldFileError, match=r"none/f\.safetensors: cannot be written: No such file or directory"):
        save_field(Sphere(1.0), tmp_path / "none" / "f.safetensors")
    with pytest.raises(FieldFileError, match="cannot be written"):
        save_field(Sphere(1.0), tmp_path)


# -- hostile files ---------------------------------------------------------------------------------------------------


def _split(data):
    n = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + n]), data[8 + n :]


def _joined(header, body):
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(head).to_bytes(8, "little") + head + body


def _edited(data, edit):
    """A file's bytes after ``edit(header, tree, body)``, which may give a new body."""
    header, body = _split(data)
    text = header["__metadata__"]["tree"]
    tree = json.loads(text)
    new_body = edit(header, tree, bytearray(body))
    if isinstance(header["__metadata__"], dict) and header["__metadata__"].get("tree") == text:
        header["__metadata__"]["tree"] = json.dumps(tree)
    return _joined(header, body if new_body is None else bytes(new_body))


def _load(data, folder):
    (folder / "bad.safetensors").write_bytes(data)
    return load_field(folder / "bad.safetensors")


def _refused(data, folder, message):
    with pytest.raises(FieldFileError, match=message) as caught:
        _load(data, folder)
    assert "bad.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "got 0 bytes"),
        (b"hello", "got 5 bytes"),
        (b"solid cube\nfacet normal", "expected a header within"),
        ((2**63).to_bytes(8, "little"), "expected a header within"),
        (_joined(b"{", b""), "expected JSON in its header"),
        (_joined(b"[]", b""), "expected a JSON object"),
        (_joined(b"\xff\xfe{}", b""), "expected JSON in its header"),
        (_joined(b"[" * 200_000, b""), "expected JSON in its header"),
        (_joined({}, b""), "another safetensors file"),
        (_joined({"__metadata__": {"format": "pt"}}, b""), "another safetensors file"),
        (_joined(b'{"a": NaN}', b""), "NaN"),
        (_joined(b'{"a": 1, "a": 1}', b""), "twice"),
        (_joined(b'{"a": 1' + b"0" * 10_000 + b"}", b""), "expected JSON in its header"),
    ],
)
def test_what_is_no_field_file_is_refused(data, message, tmp_path):
    _refused(data, tmp_path, message)


def test_missing_files_folders_and_devices_are_refused(tmp_path):
    with pytest.raises(FieldFileError, match=r"none\.safetensors: expected a field file, found nothing"):
        load_field(tmp_path / "none.safetensors")
    with pytest.raises(FieldFileError, match="not a file"):
        load_field(tmp_path)
    with pytest.raises(FieldFileError, match="not a file"):
        load_field("/dev/zero")
    with pytest.raises(FieldFileError):
        load_field("null\0byte")


def test_files_above_the_limit_are_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 1000)
    with pytest.raises(FieldFileError, match="at most 1000 bytes"):
        save_field(_siren(), tmp_path / "f.safetensors")
    _refused(b"\0" * 2000, tmp_path, "at most 1000 bytes")


def test_every_truncation_is_refused(tmp_path):
    data = _bytes(FIELDS["placed"], tmp_path)
    for n in [*range(0, len(data) - 1, 97), len(data) - 1]:
        _refused(data[:n], tmp_path, None)
    _refused(data + b"\0", tmp_path, "bytes of tensors")


def _entry(name, **change):
    return lambda header, tree, body: header[name].update(change)


def _config(**change):
    return lambda header, tree, body: tree["config"].update(change)


def _metadata(**change):
    return lambda header, tree, body: header["__metadata__"].update(change)


def _tree_of(**change):
    return lambda header, tree, body: tree.update(change)


def _drop(name):
    return lambda header, tree, body: tree["config"].pop(name) and None


def _overlap(header, tree, body):
    header["box_hi"]["data_offsets"] = header["box_lo"]["data_offsets"]


def _rename(header, tree, body):
    header["other"] = header.pop("box_lo")


def _transpose(header, tree, body):
    header["distance.linears.0.weight"]["shape"].reverse()


def _put(name, value):
    def edit(header, tree, body):
        start, end = header[name]["data_offsets"]
        body[start:end] = np.full((end - start) // 4, value, "<f4").tobytes()
        return body

    return edit


HOSTILE = {
    "newer version": (_metadata(version="5"), "newer program"),
    "version 0": (_metadata(version="0"), "version from 1"),
    "odd version": (_metadata(version="1.0"), "version number"),
    "version as a number": (_metadata(version=1), "version number"),
    "tree is no text": (_metadata(tree=3), "tree as JSON text"),
    "huge shape": (_entry("box_lo", shape=[2**40]), "box_lo"),
    "huge shape and offsets": (_entry("box_lo", shape=[2**20], data_offsets=[0, 2**22]), "within .* bytes"),
    "negative shape": (_entry("box_lo", shape=[-3]), "whole numbers"),
    "shape of floats": (_entry("box_lo", shape=[3.0]), "whole numbers"),
    "shape of bools": (_entry("box_lo", shape=[True]), "whole numbers"),
    "many axes": (_entry("box_lo", shape=[1] * 1000 + [3]), "whole numbers"),
    "offsets beyond": (_entry("box_lo", data_offsets=[10**6, 10**6 + 12]), "within .* bytes"),
    "offsets backward": (_entry("box_lo", data_offsets=[12, 0]), "within .* bytes"),
    "offsets overlap": (_overlap, "overlap"),
    "wrong dtype": (_entry("box_lo", dtype="I32"), "F32 or F64"),
    "dtype of another size": (_entry("box_lo", dtype="F64"), "data of shape"),
    "dtype is a list": (_entry("box_lo", dtype=["F32"]), "F32 or F64"),
    "unknown entry": (_entry("box_lo", more=1), "expected dtype, shape and data_offsets"),
    "renamed tensor": (_rename, "1 missing"),
    "transposed weight": (_transpose, "expected shape"),
    "unknown kind": (_tree_of(kind="os.system"), "kind of field"),
    "kind is a list": (_tree_of(kind=[]), "kind of field"),
    "kind of another make-up": (_tree_of(kind="union"), "config"),
    "node with more": (_tree_of(command="x"), "expected a node"),
    "children of a leaf": (_tree_of(children=[{}]), "0 children"),
    "config is a list": (_tree_of(config=[]), "config"),
    "huge width": (_config(width=4096, layers=64), "numbers"),
    "absurd width": (_config(width=10**12), "width"),
    "wider than the file": (_config(width=256), "it holds"),
    "width is a float": (_config(width=8.0), "width"),
    "width is a bool": (_config(width=True), "width"),
    "width is text": (_config(width="8"), "width"),
    "width is 0": (_config(width=0), "width"),
    "negative features": (_config(feature_width=-1), "feature_width"),
    "other features": (_config(feature_width=3), "shape|it holds"),
    "omega is nothing": (_config(omega_first=None), "omega_first"),
    "omega is infinite": (_config(omega_first=1e300), "omega_first"),
    "unknown config": (_config(evil=1), "config"),
    "missing config": (_drop("width"), "config"),
    "nan weights": (_put("distance.linears.0.weight", np.nan), "distance.linears.0.weight: expected finite"),
    "inf weights": (_put("distance.linears.0.weight", np.inf), "expected finite"),
    "box without volume": (_put("box_lo", 5.0), "lo < hi"),
    "lipschitz of 0": (_put("lipschitz_estimate", 0.0), "lipschitz"),
    "half extent of 0": (_put("half_extent", 0.0), "half_extent"),
}


def _unscaled(header, tree, body):
    header["appearance.weights.1.scales"] = header.pop("appearance.weights.1.scale")


HOSTILE_PARTS = {
    "no scale": (_unscaled, "expected bytes with a scale"),
    "scale of another shape": (_entry("appearance.weights.1.scale", shape=[1, 3]), "expected bytes with a scale"),
    "many parts": (_config(color_parts=4000), "it holds"),
    "one part": (_config(color_parts=1), "color_parts"),
    "other parts": (_config(color_parts=2), "expected shape"),
    "blend of 0": (_put("appearance.tree.blend", 0.0), "blend of its parts"),
    "half extent of 0": (_put("appearance.half_extent", 0.0), "half_extent"),
}


@pytest.mark.parametrize("name", HOSTILE_PARTS)
def test_hostile_parts_are_refused(name, tmp_path):
    edit, message = HOSTILE_PARTS[name]
    _refused(_edited(_bytes(_parts(short=True), tmp_path), edit), tmp_path, message)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(name, tmp_path):
    edit, message = HOSTILE[name]
    _refused(_edited(_bytes(_siren(), tmp_path), edit), tmp_path, message)


@pytest.mark.parametrize(
    ("field", "name", "value", "message"),
    [
        (Sphere(1.0), "radius", -1.0, "sphere: radius"),
        (Sphere(1.0), "color", 2.0, "sphere: color"),
        (Torus(1.0, 0.3), "minor", 2.0, "torus: minor"),
        (Box((1.0, 1.0, 1.0)), "rounding", 0.6, "box: rounding"),
        (Union(Sphere(1.0), Sphere(2.0)), "smooth", -1.0, "union: smooth"),
        (Union(Sphere(1.0), Sphere(2.0)), "a.radius", 0.0, "sphere: radius"),
        (Placed(Sphere(1.0), POSE), "scale", 0.0, "placed: scale"),
        (Placed(Sphere(1.0), POSE), "quat_wxyz", 0.0, "zero length"),
    ],
)
def test_numbers_that_make_no_such_field_are_refused(field, name, value, message, tmp_path):
    _refused(_edited(_bytes(field, tmp_path), _put(name, value)), tmp_path, message)


@pytest.mark.parametrize("depth", [65, 300, 100_000])
def test_deep_trees_are_refused(depth, tmp_path):
    text = '{"kind":"placed","config":{},"children":[' * depth + "{}" + "]}" * depth
    metadata = {"format": "sirenscape.field", "version": "1", "tree": text}
    _refused(_joined({"__metadata__": metadata}, b""), tmp_path, "64 levels|JSON in its tree|header within")


def test_broad_trees_are_refused_before_they_are_built(tmp_path):
    node = '{"kind":"sphere","config":{"feature_width":0}}'
    while node.count("{") < 20_000:
        node = f'{{"kind":"union","config":{{}},"children":[{node},{node}]}}'
    metadata = {"format": "sirenscape.field", "version": "1", "tree": node}
    _refused(_joined({"__metadata__": metadata}, b""), tmp_path, "4096 nodes")


def _survives(data, folder):
    """A damaged file is refused in one line, or is a valid file of another field."""
    refusal = None
    try:
        field = _load(data, folder)
    except FieldFileError as error:
        refusal = str(error)
    if refusal is not None:
        assert "\n" not in refusal
        return False
    assert all(torch.isfinite(t).all() for t in field.state_dict().values())
    _bytes(field, folder)
    return True


@functools.cache
def _placed():
    with tempfile.TemporaryDirectory() as folder:
        return _bytes(FIELDS["placed"], Path(folder))


PROPERTY = settings(
    deadline=None, derandomize=True, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@PROPERTY
@given(edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4), header=st.booleans())
def test_damaged_bytes_are_refused_or_another_valid_field(edits, header, tmp_path):
    data = bytearray(_placed())
    end = 8 + int.from_bytes(data[:8], "little") if header else len(data)
    for where, value in edits:
        data[min(int(where * end), end - 1)] = value
    _survives(bytes(data), tmp_path)


@PROPERTY
@given(data=st.binary(max_size=200), keep=st.floats(0, 1))
def test_foreign_bytes_are_refused(data, keep, tmp_path):
    start = _placed()
    assert not _survives(data, tmp_path)
    _survives(start[: int(keep * len(start))] + data, tmp_path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@PROPERTY
@given(value=json_values, spot=st.integers(0, 9))
def test_any_json_in_any_place_is_refused_or_valid(value, spot, tmp_path):
    def edit(header, tree, body):
        entry = header["child.box_lo"]
        places = [
            (header, "__metadata__"), (header["__metadata__"], "format"), (header["__metadata__"], "version"),
            (header, "child.box_lo"), (entry, "shape"), (entry, "data_offsets"), (entry, "dtype"),
            (tree, "kind"), (tree, "config"), (tree, "children"),
        ]  # fmt: skip
        holder, key = places[spot]
        holder[key] = value

    _survives(_edited(_placed(), edit), tmp_path)


def test_measured_errors_come_back_and_belong_to_the_hash(tmp_path):
    field = _siren()
    bare = field_hash(field)
    field.measured = {"distance_pct": 0.03, "normal_deg": 2.0}
    save_field(field, tmp_path / "f.safetensors")
    assert load_field(tmp_path / "f.safetensors").measured == field.measured
    assert load_lazily(tmp_path / "f.safetensors", field_hash(field)).measured == field.measured
    assert field_hash(field) != bare
    save_field(_siren(), tmp_path / "f.safetensors")
    assert not load_field(tmp_path / "f.safetensors").measured


@pytest.mark.parametrize("value", ["3", "[1]", "{", '{"a":-1}', '{"a":"b"}', '{"a":NaN}', '{"a":true}', '{"a b":1}'])
def test_measured_errors_that_are_no_numbers_by_name_are_refused(value, tmp_path):
    _refused(_edited(_bytes(_siren(), tmp_path), _metadata(measured=value)), tmp_path, "measured errors")


def test_a_field_with_a_grid_of_what_was_seen_comes_back_to_the_bit(tmp_path):
    field = SirenField(Aabb(-torch.ones(3), torch.ones(3)), width=8, color_width=8, observed=True)
    field.observed[3, 4, 5] = 0.75
    save_field(field, tmp_path / "seen.safetensors")
    assert torch.equal(load_field(tmp_path / "seen.safetensors").observed, field.observed)


@pytest.mark.parametrize("value", [-0.1, 1.5, math.nan])
def test_a_grid_of_what_was_seen_beyond_0_to_1_is_refused(tmp_path, value):
    field = SirenField(Aabb(-torch.ones(3), torch.ones(3)), width=8, color_width=8, observed=True)
    field.observed[0, 0, 0] = value
    with pytest.raises(FieldFileError):
        save_field(field, tmp_path / "seen.safetensors")


def test_a_field_with_channels_comes_back_with_them(tmp_path):
    field = SirenField(BOX, width=8, color_width=8, feature_width=2, channels={"tint": 9, "semantic": 3})
    path = tmp_path / "channels.safetensors"
    save_field(field, path)
    again, p = load_field(path), torch.rand(20, 3)
    assert list(again.channels.items()) == [("feature", 2), ("semantic", 3), ("tint", 9)]
    for name in field.channels:
        assert torch.equal(again(p).channel(name), field(p).channel(name))
    assert b'"version":"2"' in path.read_bytes()
    assert b'"version":"1"' in _bytes(Union(Sphere(1.0), _siren()), tmp_path)  # what an older program reads, too
    assert b'"version":"2"' in _bytes(Union(Sphere(1.0), field), tmp_path)


def test_a_tint_in_the_last_features_of_version_1_is_read_as_a_channel(tmp_path):
    """The file was written by the last program that knew no names."""
    old = Path(__file__).parent / "tint_version_1.safetensors"
    assert b'"version":"1"' in old.read_bytes()
    field = load_field(old)
    assert field.channels == {"feature": 2, "tint": 9}
    sample = field(torch.tensor([[0.1, 0.2, 0.3]]))
    feature, tint = [-0.4288, 0.4755], [0.4488, -0.7105, -0.6920, 0.2371, 0.3550, 0.6298, 0.0960, 0.4832, -0.5074]
    torch.testing.assert_close(sample.feature, torch.tensor([feature]), rtol=0, atol=1e-4)
    torch.testing.assert_close(sample.channel("tint"), torch.tensor([tint]), rtol=0, atol=1e-4)
    save_field(field, tmp_path / "new.safetensors")
    again = load_field(tmp_path / "new.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(field.parameters(), again.parameters(), strict=True))
    for edit, message in (
        (_config(feature_width=8), "at least 9"),
        (_config(channels={}), "config"),
        (_config(tinted=2), "1..1"),
    ):
        _refused(_edited(old.read_bytes(), edit), tmp_path, message)


@pytest.mark.parametrize(
    "channels", [["a"], {"a b": 1}, {"sdf": 1}, {"feature": 2}, {"a": 0}, {"a": 1.0}, {"a": 5000}, {"tint": 8}]
)
def test_channels_that_no_field_can_have_are_refused(channels, tmp_path):
    start = _bytes(SirenField(BOX, width=8, color_width=8, channels={"semantic": 3}), tmp_path)
    _refused(_edited(start, _config(channels=channels)), tmp_path, "channel|config")


@pytest.mark.parametrize("channels", [{"a b": 1}, {"rgb": 1}, {"a": -1}, {"a": 1.0}, {"tint": 8}])
def test_channels_that_no_field_can_have_are_not_made(channels):
    with pytest.raises(ValueError, match="channels"):
        SirenField(BOX, width=8, color_width=8, channels=channels)


@every_field
def test_a_lazily_loaded_field_is_its_bytes_until_something_is_asked_of_it(field, tmp_path):
    data = _bytes(field, tmp_path)
    path = tmp_path / "f.safetensors"
    lazy = [load_lazily(path, field_hash(field)) for _ in range(4)]
    assert all(isinstance(one, type(field)) and one.kind == field.kind and storable(one) for one in lazy)
    assert field_hash(lazy[0]) == field_hash(field) and _bytes(lazy[0], tmp_path) == data
    assert all(is_unread(one) for one in lazy)
    p = torch.rand(5, 3).to(field.box_lo.dtype)
    for one in (lazy[0], copy.deepcopy(lazy[1]), copy.copy(lazy[2])):
        torch.testing.assert_close(one(p), field(p), rtol=0, atol=0)
        assert type(one) is type(field) and not is_unread(one) and _equal(one, field)
    assert lazy[3].bounds.lo.tolist() == field.bounds.lo.tolist() and not is_unread(lazy[3])


def test_many_threads_may_ask_a_lazily_loaded_field_at_once(tmp_path):
    field = SirenField(Aabb([-1, -1, -1], [1, 1, 1]), width=64, layers=4, seed=1)
    save_field(field, path := tmp_path / "f.safetensors")
    p = torch.rand(50, 3)
    for _ in range(10):
        lazy, start = load_lazily(path, field_hash(field)), threading.Barrier(6)

        def ask(lazy=lazy, start=start):
            start.wait()
            return lazy.sdf(p), field_hash(lazy)

        with ThreadPoolExecutor(6) as pool:
            for sdf, name in [job.result() for job in [pool.submit(ask) for _ in range(6)]]:
                assert torch.equal(sdf, field.sdf(p)) and name == field_hash(field)
        assert not is_unread(lazy)
