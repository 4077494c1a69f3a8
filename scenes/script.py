"""Edits as text: ``move table/tray by 0.2 0 0; duplicate table/tray/mug as table/mug2``.

One verb for each edit of `SceneGraph`, in the words of its log. Words with blanks are quoted as in a shell; statements end
with ``;`` or a new line.
"""

from __future__ import annotations

import difflib
import re
import shlex
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from objects.aabb import Aabb
from objects.files import load_field
from objects.pose import SE3
from rendering.camera import Camera
from rendering.lights import AmbientLight, DirectionalLight, PointLight
from scenes.graph import SceneGraph
from scenes.io.scene_folder import load_scene
from scenes.track import unit_quat

_QUOTES = "names with blanks need quotes"
_AXES = {"x": (1.0, 0.0, 0.0), "y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0)}


class Verb(NamedTuple):
    """``usage`` shows the grammar: capitals stand for values, ``[]`` for what may be left out, ``...`` for more of the same."""

    usage: str
    meaning: str
    run: Callable[[SceneGraph, Words], None]


class Words:
    """The words of one statement, taken from the left."""

    def __init__(self, words: list[str], usage: str) -> None:
        self._words, self._usage = words, usage

    def take(self, what: str) -> str:
        if not self._words:
            raise ValueError(f"expected {what} at the end; usage: {self._usage}")
        return self._words.pop(0)

    def keyword(self, *words: str) -> str:
        got = self.take(" or ".join(words))
        if got not in words:
            raise ValueError(f"expected {' or '.join(words)}, got {got!r}; usage: {self._usage} ({_QUOTES})")
        return got

    def number(self, what: str) -> float:
        got = self.take(what)
        try:
            return float(got)
        except ValueError:
            wanted = what if what.endswith("number") else f"{what}, a number"
            raise ValueError(f"expected {wanted}, got {got!r}; usage: {self._usage}") from None

    def seed(self) -> int:
        value = self.number("a seed")
        if not (0 <= value < 2**53 and value == int(value)):
            raise ValueError(f"expected a seed, a whole number of 0 or more, got {value:g}")
        return int(value)

    def whole(self, what: str) -> int:
        value = self.number(what)
        if not (1 <= value <= 16384 and value == int(value)):
            raise ValueError(f"expected {what}, a whole number from 1 to 16384, got {value:g}")
        return int(value)

    def numbers(self, n: int, what: str) -> list[float]:
        return [self.number(what) for _ in range(n)]

    def option(self, word: str) -> bool:
        """Takes ``word`` if it comes next."""
        return self.option_of(word) is not None

    def option_of(self, *words: str) -> str | None:
        """Takes one of ``words`` if it comes next."""
        return self._words.pop(0) if self._words and self._words[0] in words else None

    def until(self, word: str, what: str) -> list[str]:
        """All words up to ``word``, which is taken, too."""
        found = [self.take(what)]
        while not self.option(word):
            found.append(self.take(f"{what} or {word!r}"))
        return found

    def rest(self, what: str) -> list[str]:
        found = [self.take(what), *self._words]
        self._words = []
        return found

    @property
    def left(self) -> bool:
        """Whether more words follow."""
        return bool(self._words)

    def end(self) -> None:
        if self._words:
            raise ValueError(f"expected the end, got {' '.join(self._words)!r}; usage: {self._usage} ({_QUOTES})")


def _how(words: Words) -> dict[str, Any]:
    """The options ``frame F`` and ``time T``, in any order."""
    out: dict[str, Any] = {}
    while (word := words.option_of("frame", "time")) is not None:
        out[word] = words.keyword("world", "parent", "own") if word == "frame" else words.number("a time in seconds")
    return out


def _add(graph: SceneGraph, words: Words) -> None:
    path = words.take("a path")
    if words.option("field"):
        graph.add(path, load_field(words.take("a field file")))
    else:
        graph.add(path)


def _move(graph: SceneGraph, words: Words) -> None:
    path, how = words.take("a path"), words.keyword("by", "to")
    vector = words.numbers(3, "x y z")
    graph.move(path, **{how: vector}, **_how(words))


def _rotate(graph: SceneGraph, words: Words) -> None:
    path, _, degrees = words.take("a path"), words.keyword("by"), words.number("degrees")
    words.keyword("about")
    first = words.take("an axis: x, y, z or three numbers")
    if first in _AXES:
        axis = _AXES[first]
    else:
        x = Words([first], "an axis is x, y, z or three numbers").number("an axis")
        axis = (x, *words.numbers(2, "an axis"))
    about = words.numbers(3, "x y z") if words.option("pivot") else None
    graph.rotate(path, axis, degrees, about=about, **_how(words))


def _drop(graph: SceneGraph, words: Words) -> None:
    path, how = words.take("a path"), {}
    while (word := words.option_of("onto", "along", "time")) is not None:
        if word == "onto":
            how[word] = words.take("a path")
        elif word == "along":
            how["direction"] = words.numbers(3, "x y z")
        else:
            how[word] = words.number("a time in seconds")
    graph.drop(path, **how)


def _put(graph: SceneGraph, words: Words) -> None:
    path = words.take("a path")
    how: dict[str, Any] = {}
    while (word := words.option_of("near", "on", "within", "gap", "seed", "time")) is not None:
        if word == "near":
            how[word] = words.numbers(3, "x y z")
        elif word == "on":
            how[word] = words.take("a path")
        elif word == "within":
            how["region"] = Aabb(*(torch.tensor(words.numbers(3, "x y z")) for _ in range(2)))
        elif word == "seed":
            how[word] = words.seed()
        else:
            how[word] = words.number("a time in seconds" if word == "time" else "metres")
    graph.place_free(path, **how)


def _place(graph: SceneGraph, words: Words) -> None:
    path, _ = words.take("a path"), words.keyword("at")
    position, rotation = words.numbers(3, "x y z"), words.numbers(4, "a quaternion w x y z")
    graph.place(path, SE3(unit_quat(rotation), position), **_how(words))  # pyright: ignore[reportArgumentType]


def _scale(graph: SceneGraph, words: Words) -> None:
    path, _ = words.take("a path"), words.keyword("by")
    graph.scale(path, words.number("a factor"))


def _replace(graph: SceneGraph, words: Words) -> None:
    path, _ = words.take("a path"), words.keyword("with")
    graph.replace(path, load_field(words.take("a field file")))


def _duplicate(graph: SceneGraph, words: Words) -> None:
    path, _ = words.take("a path"), words.keyword("as")
    graph.duplicate(path, words.take("a new path"))


def _reparent(graph: SceneGraph, words: Words) -> None:
    path, _, parent = words.take("a path"), words.keyword("to"), words.take("a path, or / for the top")
    graph.reparent(path, parent, start=words.number("a time in seconds") if words.option("from") else None)


def _group(graph: SceneGraph, words: Words) -> None:
    members = words.until("as", "a path")
    graph.group(words.take("a new path"), members)


def _rename(graph: SceneGraph, words: Words) -> None:
    path, _ = words.take("a path"), words.keyword("to")
    graph.rename(path, words.take("a name"))


def _retime(graph: SceneGraph, words: Words) -> None:
    path = words.take("a path")
    values = {words.keyword("shift", "factor"): words.number("a number")}
    for word in ("shift", "factor"):
        if words.option(word):
            values[word] = words.number("a number")
    graph.retime(path, **values)


def _clock(graph: SceneGraph, words: Words) -> None:
    path = words.take("a path")
    values: dict[str, Any] = {}
    word = words.keyword("offset", "speed", "loop")
    while word:
        values[word] = words.keyword("on", "off") == "on" if word == "loop" else words.number("a number")
        word = next((name for name in ("offset", "speed", "loop") if words.option(name)), "")
    graph.set_clock(path, **values)


def _include(graph: SceneGraph, words: Words) -> None:
    other, _ = Path(words.take("a scene folder")), words.keyword("at")
    graph.include(load_scene(other), words.take("a new path"))


def _limit(graph: SceneGraph, words: Words) -> None:
    path, _ = words.take("a path"), words.keyword("to")
    if words.option("always"):
        graph.limit(path, [])
        return
    spans = [words.numbers(2, "seconds")]
    while words.left:
        spans.append(words.numbers(2, "seconds"))
    graph.limit(path, spans)


def _lit(graph: SceneGraph, words: Words) -> None:
    path = words.take("a path")
    graph.set_lit(path, words.keyword("on", "off") == "on")


def _light(graph: SceneGraph, words: Words) -> None:
    path, kind = words.take("a path"), words.keyword("ambient", "directional", "point", "off")
    values: dict[str, Any] = {}
    while (word := words.option_of("intensity", "color", "direction")) is not None:
        values[word] = words.number(word) if word == "intensity" else tuple(words.numbers(3, word))
    if kind == "off" and values:
        raise ValueError(f"expected nothing after off, got {next(iter(values))}")
    if "direction" in values and kind != "directional":
        raise ValueError(f"direction belongs to a directional light, not to {kind}")
    if kind == "directional":
        values.setdefault("direction", (0.0, 0.0, -1.0))
    if kind == "point":
        values["position"] = (0.0, 0.0, 0.0)
    made = {"ambient": AmbientLight, "directional": DirectionalLight, "point": PointLight}
    graph.set_light(path, None if kind == "off" else made[kind](**values))


def _camera(graph: SceneGraph, words: Words) -> None:
    path, kind = words.take("a path"), words.keyword("on", "off")
    fov, size = 50.0, [640, 480]
    while (word := words.option_of("fov", "size")) is not None:
        if word == "fov":
            fov = words.number("degrees")
        else:
            size = [words.whole("pixels"), words.whole("pixels")]
    ahead = Camera.look_at((0, 0, 0), (0, 0, 1), size[0], size[1], fov)
    graph.set_camera(path, replace(ahead, T_world_cam=SE3.identity()) if kind == "on" else None)


def _tag(graph: SceneGraph, words: Words) -> None:
    path, _ = words.take("a path"), words.keyword("with")
    graph.tag(path, *words.rest("a word"))


def _untag(graph: SceneGraph, words: Words) -> None:
    path, _ = words.take("a path"), words.keyword("of")
    graph.untag(path, *words.rest("a word"))


def _steps(words: Words) -> int:
    left = words.rest("") if words._words else ["1"]
    if len(left) != 1 or not left[0].isdigit():
        raise ValueError(f"expected a whole number of steps, got {' '.join(left)!r}")
    return int(left[0])


VERBS: dict[str, Verb] = {
    "add": Verb("add PATH [field FILE]", "a group, or an object from a field file", _add),
    "remove": Verb("remove PATH", "it and all beneath it", lambda g, w: g.remove(w.take("a path"))),
    "move": Verb("move PATH by|to X Y Z [frame world|parent|own] [time T]", "metres; time sets a key", _move),
    "rotate": Verb(
        "rotate PATH by DEGREES about x|y|z|X Y Z [pivot X Y Z] [frame F] [time T]",
        "in place, or about a point",
        _rotate,
    ),
    "place": Verb("place PATH at X Y Z QW QX QY QZ [frame world|parent] [time T]", "a whole pose", _place),
    "put": Verb(
        "put PATH [near X Y Z] [on OTHER] [within LO HI] [gap G] [seed N] [time T]",
        "where it overlaps nothing, near a place; LO, HI: corners of a box",
        _put,
    ),
    "drop": Verb(
        "drop PATH [onto OTHER] [along X Y Z] [time T]", "down (or along) until it touches what is there", _drop
    ),
    "scale": Verb("scale PATH by FACTOR", "it and all beneath it", _scale),
    "replace": Verb("replace PATH with FILE", "another field in its place", _replace),
    "duplicate": Verb("duplicate PATH as NEW", "a copy that shares weights", _duplicate),
    "reparent": Verb(
        "reparent PATH to PARENT [from T]", "stays where it stands; from a time on: handed over", _reparent
    ),
    "group": Verb("group PATH ... as NEW", "under a new group", _group),
    "ungroup": Verb("ungroup PATH", "its children stay", lambda g, w: g.ungroup(w.take("a path"))),
    "hide": Verb("hide PATH", "leave out of pictures", lambda g, w: g.hide(w.take("a path"))),
    "show": Verb("show PATH", "take back hide", lambda g, w: g.show(w.take("a path"))),
    "limit": Verb("limit PATH to always|FROM TO ...", "when it is there, seconds; -inf and inf for open ends", _limit),
    "rename": Verb("rename PATH to NAME", "another last name", _rename),
    "retime": Verb("retime PATH [shift S] [factor F]", "what it does: from t to F t + S seconds", _retime),
    "clock": Verb("clock PATH [offset S] [speed F] [loop on|off]", "of what bends: at t it is as at F t + S", _clock),
    "include": Verb("include OTHER.scene at NEW", "another scene under a new group", _include),
    "lit": Verb("lit PATH on|off", "whether lights act on it", _lit),
    "light": Verb(
        "light PATH ambient|directional|point|off [intensity I] [color R G B] [direction X Y Z]",
        "another light",
        _light,
    ),
    "camera": Verb("camera PATH on|off [fov DEGREES] [size WIDTH HEIGHT]", "another camera", _camera),
    "tag": Verb("tag PATH with WORD ...", "words to select by", _tag),
    "untag": Verb("untag PATH of WORD ...", "take words away", _untag),
    "undo": Verb("undo [N]", "the last edits, also of earlier commands", lambda g, w: g.undo(_steps(w))),
    "redo": Verb("redo [N]", "what was undone", lambda g, w: g.redo(_steps(w))),
}


def statements(script: str) -> list[list[str]]:
    """The words of each statement.

    Raises:
        ValueError: A quote that is not closed.
    """
    parts = re.findall(r"""(?:'[^']*'|"[^"]*"|[^;\n'"])+|['"]""", script)  # whole up to a ; or new line outside quotes
    try:
        return [words for part in parts if (words := shlex.split(part))]
    except ValueError as error:
        raise ValueError(f"{script!r}: a quote is not closed") from error


def _short(text: str, most: int) -> str:
    """In one line of so many characters at most."""
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 3] + "..."


def run_script(graph: SceneGraph, script: str) -> list[str]:
    """Carries out all statements, or none: at the first mistake the scene is put back as it was.

    Returns:
        What was done, in the words of the log.

    Raises:
        ValueError: A statement that can't be carried out; the text names it.
    """
    todo = statements(script)
    if not todo:
        raise ValueError("expected at least one statement, such as 'move table/tray by 0.2 0 0'")
    before, start = graph.checkpoint(), len(graph.log)
    for words in todo:
        try:
            verb = VERBS.get(words[0])
            if verb is None:
                close = difflib.get_close_matches(words[0], VERBS, n=1, cutoff=0.5)
                hint = f"did you mean {close[0]!r}?" if close else f"there is {', '.join(VERBS)}"
                raise ValueError(f"unknown verb {words[0]!r}; {hint}")
            left, done = Words(words[1:], verb.usage), len(graph.log)
            verb.run(graph, left)
            left.end()
            if len(graph.log) == done:
                warnings.warn(f"{_short(shlex.join(words), 150)}: this changes nothing", stacklevel=2)
        except (ValueError, OSError) as error:
            graph.go_back(before)
            raise ValueError(f"{_short(shlex.join(words), 150)}: {_short(str(error), 400)}") from error
        except BaseException:
            graph.go_back(before)
            raise
    return graph.log[start:]
