"""What several tests of scenes need: poses in short, the command line with what it prints."""

import math

from objects import SE3
from scenes.cli import main


def at(x, y=0.0, z=0.0) -> SE3:
    return SE3.from_translation([float(x), float(y), float(z)])


def turned(degrees, axis=(0.0, 0.0, 1.0)) -> SE3:
    return SE3.from_axis_angle(list(axis), math.radians(degrees))


def run(capsys, *arguments) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a command."""
    capsys.readouterr()
    code = main(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err
