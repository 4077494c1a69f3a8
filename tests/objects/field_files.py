"""Field files of tests."""

import json

import pytest
import torch

from objects.aabb import Aabb
from objects.analytic_warps import Twist
from objects.field import Difference, Union, structure
from objects.files import FieldFileError, load_field, save_field
from objects.placed import Placed
from objects.pose import SE3
from objects.primitives import Box, Capsule, Cylinder, Sphere, Torus
from objects.siren import SirenField
from objects.warped import Warped

POSE = SE3.exp(torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]))


BOX = Aabb(torch.tensor([-1.0, -2, -3]), torch.tensor([1.0, 1.5, 2.0]))


def siren(seed=0):
    field = SirenField(
        BOX, width=8, layers=2, color_width=6, color_layers=1, feature_width=2, omega_first=17.5, seed=seed
    )
    field.lipschitz_estimate.fill_(1.37)
    return field


def parts(short=False):
    field = SirenField(BOX, width=8, layers=1, color_width=6, color_layers=2, color_parts=3, seed=5)
    if short:
        field.appearance.shorten()
    return field


FIELDS = {
    "siren": siren(),
    "parts": parts(),
    "short parts": parts(short=True),
    "sphere": Sphere(1.0, color=(0.1, 0.2, 0.3), feature=[1.0, 2.0]),
    "box": Box((1.0, 2.0, 3.0), rounding=0.2),
    "cylinder": Cylinder(1.0, 0.5),
    "capsule": Capsule(0.3, 0.5),
    "torus": Torus(1.0, 0.3),
    "warped": Warped(siren(4), Twist(BOX, (0, 0, 1), (0, 0, 0), (0, 1), (0, 0.5))),
    "placed": Placed(siren(1), POSE, 0.1),
    "nested": Difference(Union(siren(2), Placed(Sphere(1.0), POSE), smooth=0.2), Torus(1.0, 0.3))
    & Box((1.0, 1.0, 1.0)),
    "double": siren(3).double(),
}


every_field = pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS)


def field_bytes(field, folder):
    save_field(field, folder / "f.safetensors")
    return (folder / "f.safetensors").read_bytes()


def equal(a, b):
    a_state, b_state = a.state_dict(), b.state_dict()
    return structure(a) == structure(b) and all(
        a_state[k].dtype == b_state[k].dtype and a_state[k].numpy().tobytes() == b_state[k].numpy().tobytes()
        for k in a_state
    )


def header(data):
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])


def split(data):
    n = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + n]), data[8 + n :]


def joined(header, body):
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(head).to_bytes(8, "little") + head + body


def edited(data, edit):
    """A file's bytes after ``edit(header, tree, body)``, which may give a new body."""
    header, body = split(data)
    text = header["__metadata__"]["tree"]
    tree = json.loads(text)
    new_body = edit(header, tree, bytearray(body))
    if isinstance(header["__metadata__"], dict) and header["__metadata__"].get("tree") == text:
        header["__metadata__"]["tree"] = json.dumps(tree)
    return joined(header, body if new_body is None else bytes(new_body))


def load(data, folder):
    (folder / "bad.safetensors").write_bytes(data)
    return load_field(folder / "bad.safetensors")


def refused(data, folder, message):
    with pytest.raises(FieldFileError, match=message) as caught:
        load(data, folder)
    assert "bad.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)


def config(**change):
    return lambda header, tree, body: tree["config"].update(change)


def metadata(**change):
    return lambda header, tree, body: header["__metadata__"].update(change)
