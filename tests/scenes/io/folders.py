"""Scene folders of tests."""

import json
from pathlib import Path


def texts(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def changed(folder: Path, change) -> None:
    file = folder / "scene.json"
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


def node(data, name):
    return next(n for n in data["nodes"] if n["name"] == name)
