""""""

import copy
import errno
import hashlib
import json
import math
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

from objects.aabb import Aabb
from objects.field import Field, FieldSample, Intersection, Union, structure
from objects.field_tree import KINDS
from objects.files import FieldFileError, field_hash, is_unread, load_field, load_lazily, save_field, storable
from objects.placed import Placed
from objects.pose import SE3
from objects.primitives import Sphere
from objects.siren import SirenField
from tests.objects.field_files import (
    BOX,
    FIELDS,
    config,
    edited,
    equal,
    every_field,
    field_bytes,
    header,
    metadata,
    parts,
    refused,
    siren,
)


@every_field
def test_a_field_comes_back_bit_for_bit(field, tmp_path):
    data = field_bytes(field, tmp_path)
    back = load_field(tmp_path / "f.safetensors")
    assert type(back) is type(field)
    assert equal(back, field)
    assert back.lipschitz == field.lipschitz and torch.equal(back.bounds.lo, field.bounds.lo)
    assert not any(p.requires_grad for p in back.parameters())
    p = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).to(field.box_lo.dtype)
    torch.testing.assert_close(back(p), field(p), rtol=0, atol=0)
    assert field_bytes(back, tmp_path) == data


@every_field
def test_other_safetensors_readers_see_the_same_tensors(field, tmp_path):
    field_bytes(field, tmp_path)
    tensors = safetensors.torch.load_file(tmp_path / "f.safetensors")
    state = field.state_dict()
    small = [name for name, tensor in tensors.items() if tensor.dtype == torch.int8]
    scales = {f"{name}.scale": tensors.pop(f"{name}.scale") for name in small}
    assert tensors.keys() == state.keys()
    for name, tensor in state.items():
        scale = scales[f"{name}.scale"][:, None, None] if f"{name}.scale" in scales else 1
        assert torch.equal(tensors[name].to(tensor.dtype) * scale, tensor)


def test_numbers_rounded_for_it_take_a_byte_or_two_each(tmp_path):
    long, short = (header(field_bytes(parts(k), tmp_path)) for k in (False, True))
    kinds = {name: entry["dtype"] for name, entry in short.items() if name.startswith("appearance.")}
    assert [kinds[f"appearance.weights.{k}"] for k in range(3)] == ["F16", "I8", "I8"]
    assert {kinds[f"appearance.biases.{k}"] for k in range(3)} == {"F16"}
    assert all(entry["dtype"] == "F32" for name, entry in long.items() if name != "__metadata__")


def test_files_written_by_the_safetensors_library_are_read(tmp_path):
    field = FIELDS["nested"]
    metadata = {"format": "sirenscape.field", "version": "1", "tree": json.dumps(structure(field))}
    safetensors.torch.save_file(field.state_dict(), tmp_path / "f.safetensors", metadata)
    assert equal(load_field(tmp_path / "f.safetensors"), field)


def test_the_table_names_every_kind_by_its_own_name():
    assert all(kind.cls.kind == name for name, kind in KINDS.items())
    built = {part.kind for field in FIELDS.values() for part in field.modules() if isinstance(part, Field)}
    assert built | {Intersection.kind} == set(KINDS)


def test_hashes_tell_fields_apart_and_equal_fields_share_one():
    assert field_hash(siren()) == field_hash(siren())
    assert len({field_hash(field) for field in FIELDS.values()}) == len(FIELDS)
    nudged = Sphere(1.0)
    nudged.lipschitz_estimate.fill_(1.0000001)
    assert field_hash(nudged) != field_hash(Sphere(1.0))


def test_hash_is_that_of_the_file(tmp_path):
    assert field_hash(siren()) == hashlib.sha256(field_bytes(siren(), tmp_path)).hexdigest()


# -- saving ----------------------------------------------------------------------------------------------------------


class _FullDisk:
    def __init__(self, *_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    old = field_bytes(Sphere(1.0), tmp_path)
    monkeypatch.setattr(os, "fsync", _FullDisk)
    with pytest.raises(FieldFileError, match=r"f\.safetensors: cannot be written: No space left"):
        save_field(Sphere(2.0), tmp_path / "f.safetensors")
    assert (tmp_path / "f.safetensors").read_bytes() == old
    assert [path.name for path in tmp_path.iterdir()] == ["f.safetensors"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_interrupt_while_saving_leaves_the_old_file_and_no_other(step, tmp_path, monkeypatch):
    old = field_bytes(Sphere(1.0), tmp_path)

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
    field = siren()
    with torch.no_grad():
        field.get_parameter("distance.linears.0.bias")[0] = float("nan")
    return field


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: _Unknown(BOX), "kind of field"),
        (_with_nan, "expected finite numbers"),
        (lambda: siren().half(), "float32 or float64"),
        (lambda: Union(Sphere(1.0), Sphere(1.0).double()), "one dtype"),
        (lambda: _deep(70), "64 levels"),
        (lambda: Sphere(1.0, feature=torch.zeros(5000)), "feature_width"),
    ],
    ids=["unknown kind", "nan", "half", "mixed", "deep", "wide"],
)
def test_what_could_not_be_read_again_is_not_written(make, message, tmp_path):
    old = field_bytes(Sphere(1.0), tmp_path)
    with pytest.raises(FieldFileError, match=message):
        save_field(make(), tmp_path / "f.safetensors")
    assert (tmp_path / "f.safetensors").read_bytes() == old


def test_places_that_cannot_be_written_are_named(tmp_path):
    with pytest.raises(FieldFileError, match=r"none/f\.safetensors: cannot be written: No such file or directory"):
        save_field(Sphere(1.0), tmp_path / "none" / "f.safetensors")
    with pytest.raises(FieldFileError, match="cannot be written"):
        save_field(Sphere(1.0), tmp_path)


# -- what a file keeps ---------------------------------------------------------------------------------------------


def test_measured_errors_come_back_and_belong_to_the_hash(tmp_path):
    field = siren()
    bare = field_hash(field)
    field.measured = {"distance_pct": 0.03, "normal_deg": 2.0}
    save_field(field, tmp_path / "f.safetensors")
    assert load_field(tmp_path / "f.safetensors").measured == field.measured
    assert load_lazily(tmp_path / "f.safetensors", field_hash(field)).measured == field.measured
    assert field_hash(field) != bare
    save_field(siren(), tmp_path / "f.safetensors")
    assert not load_field(tmp_path / "f.safetensors").measured


@pytest.mark.parametrize("value", ["3", "[1]", "{", '{"a":-1}', '{"a":"b"}', '{"a":NaN}', '{"a":true}', '{"a b":1}'])
def test_measured_errors_that_are_no_numbers_by_name_are_refused(value, tmp_path):
    refused(edited(field_bytes(siren(), tmp_path), metadata(measured=value)), tmp_path, "measured errors")


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
    assert b'"version":"1"' in field_bytes(Union(Sphere(1.0), siren()), tmp_path)  # what an older program reads, too
    assert b'"version":"2"' in field_bytes(Union(Sphere(1.0), field), tmp_path)


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
        (config(feature_width=8), "at least 9"),
        (config(channels={}), "config"),
        (config(tinted=2), "1..1"),
    ):
        refused(edited(old.read_bytes(), edit), tmp_path, message)


@pytest.mark.parametrize(
    "channels", [["a"], {"a b": 1}, {"sdf": 1}, {"feature": 2}, {"a": 0}, {"a": 1.0}, {"a": 5000}, {"tint": 8}]
)
def test_channels_that_no_field_can_have_are_refused(channels, tmp_path):
    start = field_bytes(SirenField(BOX, width=8, color_width=8, channels={"semantic": 3}), tmp_path)
    refused(edited(start, config(channels=channels)), tmp_path, "channel|config")


@pytest.mark.parametrize("channels", [{"a b": 1}, {"rgb": 1}, {"a": -1}, {"a": 1.0}, {"tint": 8}])
def test_channels_that_no_field_can_have_are_not_made(channels):
    with pytest.raises(ValueError, match="channels"):
        SirenField(BOX, width=8, color_width=8, channels=channels)


@every_field
def test_a_lazily_loaded_field_is_its_bytes_until_something_is_asked_of_it(field, tmp_path):
    data = field_bytes(field, tmp_path)
    path = tmp_path / "f.safetensors"
    lazy = [load_lazily(path, field_hash(field)) for _ in range(4)]
    assert all(isinstance(one, type(field)) and one.kind == field.kind and storable(one) for one in lazy)
    assert field_hash(lazy[0]) == field_hash(field) and field_bytes(lazy[0], tmp_path) == data
    assert all(is_unread(one) for one in lazy)
    p = torch.rand(5, 3).to(field.box_lo.dtype)
    for one in (lazy[0], copy.deepcopy(lazy[1]), copy.copy(lazy[2])):
        torch.testing.assert_close(one(p), field(p), rtol=0, atol=0)
        assert type(one) is type(field) and not is_unread(one) and equal(one, field)
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
