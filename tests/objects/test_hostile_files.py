"""Field files that are damaged, hostile or of another version are refused."""

import functools
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from objects import files
from objects.field import Union
from objects.files import FieldFileError, load_field, save_field
from objects.placed import Placed
from objects.primitives import Box, Sphere, Torus
from tests.objects.field_files import (
    FIELDS,
    POSE,
    config,
    edited,
    field_bytes,
    joined,
    load,
    metadata,
    parts,
    refused,
    siren,
)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "got 0 bytes"),
        (b"hello", "got 5 bytes"),
        (b"solid cube\nfacet normal", "expected a header within"),
        ((2**63).to_bytes(8, "little"), "expected a header within"),
        (joined(b"{", b""), "expected JSON in its header"),
        (joined(b"[]", b""), "expected a JSON object"),
        (joined(b"\xff\xfe{}", b""), "expected JSON in its header"),
        (joined(b"[" * 200_000, b""), "expected JSON in its header"),
        (joined({}, b""), "another safetensors file"),
        (joined({"__metadata__": {"format": "pt"}}, b""), "another safetensors file"),
        (joined(b'{"a": NaN}', b""), "NaN"),
        (joined(b'{"a": 1, "a": 1}', b""), "twice"),
        (joined(b'{"a": 1' + b"0" * 10_000 + b"}", b""), "expected JSON in its header"),
    ],
)
def test_what_is_no_field_file_is_refused(data, message, tmp_path):
    refused(data, tmp_path, message)


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
        save_field(siren(), tmp_path / "f.safetensors")
    refused(b"\0" * 2000, tmp_path, "at most 1000 bytes")


def test_every_truncation_is_refused(tmp_path):
    data = field_bytes(FIELDS["placed"], tmp_path)
    for n in [*range(0, len(data) - 1, 97), len(data) - 1]:
        refused(data[:n], tmp_path, None)
    refused(data + b"\0", tmp_path, "bytes of tensors")


def _entry(name, **change):
    return lambda header, tree, body: header[name].update(change)


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
    "newer version": (metadata(version="5"), "newer program"),
    "version 0": (metadata(version="0"), "version from 1"),
    "odd version": (metadata(version="1.0"), "version number"),
    "version as a number": (metadata(version=1), "version number"),
    "tree is no text": (metadata(tree=3), "tree as JSON text"),
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
    "huge width": (config(width=4096, layers=64), "numbers"),
    "absurd width": (config(width=10**12), "width"),
    "wider than the file": (config(width=256), "it holds"),
    "width is a float": (config(width=8.0), "width"),
    "width is a bool": (config(width=True), "width"),
    "width is text": (config(width="8"), "width"),
    "width is 0": (config(width=0), "width"),
    "negative features": (config(feature_width=-1), "feature_width"),
    "other features": (config(feature_width=3), "shape|it holds"),
    "omega is nothing": (config(omega_first=None), "omega_first"),
    "omega is infinite": (config(omega_first=1e300), "omega_first"),
    "unknown config": (config(evil=1), "config"),
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
    "many parts": (config(color_parts=4000), "it holds"),
    "one part": (config(color_parts=1), "color_parts"),
    "other parts": (config(color_parts=2), "expected shape"),
    "blend of 0": (_put("appearance.tree.blend", 0.0), "blend of its parts"),
    "half extent of 0": (_put("appearance.half_extent", 0.0), "half_extent"),
}


@pytest.mark.parametrize("name", HOSTILE_PARTS)
def test_hostile_parts_are_refused(name, tmp_path):
    edit, message = HOSTILE_PARTS[name]
    refused(edited(field_bytes(parts(short=True), tmp_path), edit), tmp_path, message)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(name, tmp_path):
    edit, message = HOSTILE[name]
    refused(edited(field_bytes(siren(), tmp_path), edit), tmp_path, message)


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
    refused(edited(field_bytes(field, tmp_path), _put(name, value)), tmp_path, message)


@pytest.mark.parametrize("depth", [65, 300, 100_000])
def test_deep_trees_are_refused(depth, tmp_path):
    text = '{"kind":"placed","config":{},"children":[' * depth + "{}" + "]}" * depth
    metadata = {"format": "sirenscape.field", "version": "1", "tree": text}
    refused(joined({"__metadata__": metadata}, b""), tmp_path, "64 levels|JSON in its tree|header within")


def test_broad_trees_are_refused_before_they_are_built(tmp_path):
    node = '{"kind":"sphere","config":{"feature_width":0}}'
    while node.count("{") < 20_000:
        node = f'{{"kind":"union","config":{{}},"children":[{node},{node}]}}'
    metadata = {"format": "sirenscape.field", "version": "1", "tree": node}
    refused(joined({"__metadata__": metadata}, b""), tmp_path, "4096 nodes")


def _survives(data, folder):
    """A damaged file is refused in one line, or is a valid file of another field."""
    refusal = None
    try:
        field = load(data, folder)
    except FieldFileError as error:
        refusal = str(error)
    if refusal is not None:
        assert "\n" not in refusal
        return False
    assert all(torch.isfinite(t).all() for t in field.state_dict().values())
    field_bytes(field, folder)
    return True


@functools.cache
def _placed():
    with tempfile.TemporaryDirectory() as folder:
        return field_bytes(FIELDS["placed"], Path(folder))


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

    _survives(edited(_placed(), edit), tmp_path)
