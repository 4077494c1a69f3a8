"""YAML read by the types that are expected of it: every mistake is found, each with its line and the word that was meant.

What YAML 1.1 makes of bare words doesn't count, the expected type does: a node may be called ``on``, ``1e3`` or ``2001-01-01``;
where a number is expected ``1e3`` is one and ``010`` is ten; where true or false is expected, ``yes`` and ``off`` are. A key
given twice is a mistake and not a silent loss. Aliases and merge keys (``<<``) are followed, up to a number of values.
"""

from __future__ import annotations

import contextlib
import difflib
import math
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import msgspec.inspect as types
import yaml
from PIL import ImageColor

MAX_VALUES = 1_000_000  # aliases expanded
MAX_NUMBER = 1e15  # beyond, squares and differences mean nothing
MAX_LISTED = 20  # mistakes in one message
COLOR = {"color": True}  # ``extra`` of the type of a colour: three numbers, or a word that CSS knows, or "#rrggbb"

_BAD: Any = object()
_PREFIX = "tag:yaml.org,2002:"
_SCALARS = frozenset(_PREFIX + word for word in ("str", "int", "float", "bool", "null", "timestamp", "value", "merge"))
_TRUE, _FALSE = ("true", "yes", "on"), ("false", "no", "off")


class DescriptionError(ValueError):
    """All that is wrong with a file, in one line; ``mistakes`` has one text for each."""

    def __init__(self, where: str, mistakes: list[str]) -> None:
        self.mistakes = mistakes
        if len(mistakes) == 1:
            text = mistakes[0]
        else:
            shown = [f"({k}) {mistake}" for k, mistake in enumerate(mistakes[:MAX_LISTED], 1)]
            more = len(mistakes) - len(shown)
            text = f"{len(mistakes)} mistakes: " + " ".join(shown) + (f" and {more} more" if more else "")
        super().__init__(f"{where}: {text}")


class Mistakes:
    """What was found wrong so far, by line of the file."""

    def __init__(self) -> None:
        self._found: dict[tuple[int, str], None] = {}

    def add(self, line: int, text: str) -> None:
        self._found[line, " ".join(text.split())] = None

    @contextlib.contextmanager
    def noting(self, line: int, what: str = "") -> Iterator[None]:
        """Takes a ``ValueError`` of what runs inside for a mistake."""
        try:
            yield
        except ValueError as error:
            self.add(line, f"{what}{': ' if what else ''}{error}")

    def __bool__(self) -> bool:
        return bool(self._found)

    def error(self, where: str) -> DescriptionError:
        return DescriptionError(where, [f"line {line}: {text}" for line, text in sorted(self._found)])


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint after a word that isn't known: the nearest one that is, or what there is."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5) or [k for k in known if k.lower() == word.lower()]
    listed = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
    return f"; did you mean {close[0]!r}?" if close else f"; there is {listed or 'nothing'}"


def decoded(data: bytes, where: str) -> str:
    """Text in UTF-8, or in UTF-16 with its mark; else it is taken as Windows-1252, and that is said.

    Raises:
        ValueError: None of them.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        with contextlib.suppress(UnicodeDecodeError):
            return data.decode("utf-16")
    else:
        with contextlib.suppress(UnicodeDecodeError):
            return data.decode("utf-8-sig")
        with contextlib.suppress(UnicodeDecodeError):
            text = data.decode("cp1252")
            if "\0" not in text:
                warnings.warn(f"{where}: not UTF-8; read as Windows-1252 (Latin-1); save it as UTF-8", stacklevel=4)
                return text
    raise ValueError(f"{where}: the text is neither UTF-8 nor UTF-16; save it as UTF-8")


def read_strictly(
    text: str, kind: type[msgspec.Struct], where: str, mistakes: Mistakes
) -> tuple[Any, dict[tuple[str, ...], int]]:
    """The value that a text describes, and the line of each key by the keys that lead to it.

    What is wrong goes to ``mistakes`` and is left out; a value whose essentials are missing comes out as None.

    Raises:
        ValueError: It is no YAML at all, nested too deep, or blown up by aliases.
    """
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            raise ValueError(f"{where}: it is empty" + _wanted(types.type_info(kind)))
        reader = _Reader(mistakes)
        value = reader.take(root, types.type_info(kind), ())
    except yaml.YAMLError as error:
        raise ValueError(f"{where}: not YAML: {_explained(error)}") from None
    except RecursionError:
        raise ValueError(f"{where}: nested too deep") from None
    except _TooManyError:
        raise ValueError(f"{where}: expected at most {MAX_VALUES:,} values, got more (by aliases)") from None
    return (None if value is _BAD else value), reader.lines


class _TooManyError(Exception):
    pass


def _explained(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.reader.ReaderError):
        return f"the character {error.character!r} is not allowed"
    mark = getattr(error, "problem_mark", None)
    text = " ".join(str(getattr(error, "problem", None) or error).split())[:200]
    if "'\\t'" in text or "\\t" in text:
        text = "a tab; indent with blanks"
    return f"line {mark.line + 1}, column {mark.column + 1}: {text}" if mark is not None else text


class _Reader:
    def __init__(self, mistakes: Mistakes) -> None:
        self.lines: dict[tuple[str, ...], int] = {}
        self._mistakes, self._pairs, self._open, self._n = mistakes, {}, set(), 0

    def take(self, node: yaml.Node, kind: types.Type, keys: tuple[str, ...]) -> Any:
        """The value of ``node`` as a ``kind``, or ``_BAD`` once it was said what is wrong."""
        self._n += 1
        if self._n > MAX_VALUES:
            raise _TooManyError
        self.lines.setdefault(keys, _line(node))
        if isinstance(kind, types.Metadata):
            return self._color(node, kind.type, keys) if kind.extra == COLOR else self.take(node, kind.type, keys)
        if isinstance(kind, types.UnionType):
            return self._union(node, kind, keys)
        if id(node) in self._open:
            return self._say(node, keys, "it holds itself, by an alias")
        self._open.add(id(node))
        try:
            if isinstance(kind, types.StructType):
                return self._struct(node, kind, keys)
            if isinstance(kind, types.DictType):
                return self._dict(node, kind, keys)
            if isinstance(kind, types.ListType | types.TupleType):
                return self._list(node, kind, keys)
            return self._scalar(node, kind, keys)
        finally:
            self._open.discard(id(node))

    def _say(self, node: yaml.Node, keys: tuple[str, ...], text: str) -> Any:
        path = _path(keys)
        self._mistakes.add(_line(node), f"{path}: {text}" if path else text)
        return _BAD

    def _unlike(self, node: yaml.Node, kind: types.Type, keys: tuple[str, ...]) -> Any:
        return self._say(node, keys, f"expected {_named(kind)}, got {_shown(node)}")

    def _union(self, node: yaml.Node, kind: types.UnionType, keys: tuple[str, ...]) -> Any:
        if node.tag == _PREFIX + "null" and any(isinstance(t, types.NoneType) for t in kind.types):
            return None
        wanted = [t for t in kind.types if not isinstance(t, types.NoneType)]
        if isinstance(node, yaml.MappingNode):
            structs = [t for t in wanted if isinstance(t, types.StructType)]
            if len(structs) > 1:
                return self._tagged(node, structs, keys)
            wanted = structs or wanted
        elif len(wanted) > 1:
            others = [t for t in wanted if not isinstance(t, types.StructType)]
            if not others:
                return self._unlike(node, kind, keys)
            wanted = others
        return self.take(node, wanted[0], keys)

    def _tagged(self, node: yaml.MappingNode, structs: list[types.StructType], keys: tuple[str, ...]) -> Any:
        kinds = {str(s.tag): s for s in structs}
        field = str(structs[0].tag_field)
        pair = self._members(node, keys).get(field)
        if pair is None:
            return self._say(node, keys, f"expected a {field}: one of {', '.join(kinds)}")
        value = pair[1]
        if not isinstance(value, yaml.ScalarNode) or value.value not in kinds:
            word = value.value if isinstance(value, yaml.ScalarNode) else ""
            hint = nearest(word, kinds) if word else ""
            return self._say(
                value, (*keys, field), f"expected one of {', '.join(kinds)}, got {_shown(value)}" + _only_near(hint)
            )
        return self.take(node, kinds[value.value], keys)

    def _struct(self, node: yaml.Node, kind: types.StructType, keys: tuple[str, ...]) -> Any:
        if not isinstance(node, yaml.MappingNode):
            return self._unlike(node, kind, keys)
        members = self._members(node, keys)
        known = {f.encode_name: f for f in kind.fields}
        values, whole = {}, True
        for name, (key, value) in members.items():
            if name == kind.tag_field:
                continue
            if name not in known:
                self._say(key, keys, f"unknown key {_short(name)}" + nearest(name, known))
                continue
            got = self.take(value, known[name].type, (*keys, name))
            if got is not _BAD:
                values[known[name].name] = got
            elif known[name].required:
                whole = False
        for name, f in known.items():
            if f.required and name not in members:
                self._say(node, keys, f"expected {name}: {_named(f.type)}")
                whole = False
        return kind.cls(**values) if whole else _BAD

    def _dict(self, node: yaml.Node, kind: types.DictType, keys: tuple[str, ...]) -> Any:
        if not isinstance(node, yaml.MappingNode):
            return self._unlike(node, kind, keys)
        taken = {
            name: self.take(value, kind.value_type, (*keys, name))
            for name, (_, value) in self._members(node, keys).items()
        }
        return {name: value for name, value in taken.items() if value is not _BAD}

    def _list(self, node: yaml.Node, kind: types.ListType | types.TupleType, keys: tuple[str, ...]) -> Any:
        if not isinstance(node, yaml.SequenceNode) or node.tag != _PREFIX + "seq":
            return self._unlike(node, kind, keys)
        if isinstance(kind, types.ListType):
            taken = [self.take(v, kind.item_type, (*keys, f"[{k}]")) for k, v in enumerate(node.value)]
            return [value for value in taken if value is not _BAD]
        if len(node.value) != len(kind.item_types):
            return self._say(node, keys, f"expected {_named(kind)}, got {len(node.value)} values")
        numbers = [self.take(v, t, keys) for v, t in zip(node.value, kind.item_types, strict=True)]
        return _BAD if _BAD in numbers else tuple(numbers)

    def _color(self, node: yaml.Node, kind: types.Type, keys: tuple[str, ...]) -> Any:
        if not isinstance(node, yaml.ScalarNode):
            return self.take(node, kind, keys)
        word = node.value.strip().lower()
        if node.tag == _PREFIX + "null":
            return self._say(node, keys, "expected a colour, got nothing; '#ff8800' needs quotes, # begins a comment")
        try:
            red, green, blue = ImageColor.getrgb(word)[:3]
        except ValueError:
            hint = _only_near(nearest(word, ImageColor.colormap))
            what = "expected a colour: three numbers in 0..1, a word such as orange, or '#ff8800'"
            return self._say(node, keys, f"{what}, got {_shown(node)}{hint}")
        return red / 255, green / 255, blue / 255

    def _scalar(self, node: yaml.Node, kind: types.Type, keys: tuple[str, ...]) -> Any:
        if not isinstance(node, yaml.ScalarNode) or node.tag not in _SCALARS:
            return self._unlike(node, kind, keys)
        text = node.value
        if node.tag == _PREFIX + "null" and not (text and isinstance(kind, types.StrType)):
            return self._unlike(node, kind, keys)
        if isinstance(kind, types.StrType):
            return text
        if isinstance(kind, types.BoolType):
            word = text.lower()
            return word in _TRUE if word in (*_TRUE, *_FALSE) else self._unlike(node, kind, keys)
        if isinstance(kind, types.LiteralType):
            hint = _only_near(nearest(text, [str(v) for v in kind.values]))
            what = f"expected {_named(kind)}, got {_shown(node)}{hint}"
            return text if text in kind.values else self._say(node, keys, what)
        return self._number(node, kind, keys)

    def _number(self, node: yaml.ScalarNode, kind: Any, keys: tuple[str, ...]) -> Any:
        text = node.value.strip().lower()
        text = text.replace(".inf", "inf").replace(".nan", "nan")
        try:
            value = float(text)
        except ValueError:
            return self._unlike(node, kind, keys)
        whole = isinstance(kind, types.IntType)
        if not math.isfinite(value) or (whole and value != int(value)):
            return self._say(
                node, keys, f"expected a {'whole' if whole else 'finite'} number, got {_short(node.value, quotes='')}"
            )
        if abs(value) > MAX_NUMBER:
            return self._say(node, keys, f"expected a number up to {MAX_NUMBER:g}, got {_short(node.value, quotes='')}")
        low = (kind.gt is None or value > kind.gt) and (kind.ge is None or value >= kind.ge)
        if not low or (kind.le is not None and value > kind.le):
            return self._unlike(node, kind, keys)
        return int(value) if whole else value

    def _members(self, node: yaml.MappingNode, keys: tuple[str, ...]) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Keys and values by the text of the key, merged ones beneath its own; what is given twice was said."""
        if node.tag != _PREFIX + "map":
            self._say(node, keys, f"expected plain keys and values, got {_short(node.tag)}")
            return {}
        if id(node) in self._pairs:
            return self._pairs[id(node)]
        own: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        self._pairs[id(node)] = own  # of one that merges itself
        for key, value in node.value:
            if key.tag == _PREFIX + "merge":
                for other in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    if isinstance(other, yaml.MappingNode):
                        merged = self._members(other, keys) | merged
                    else:
                        self._say(other, keys, f"<< expects keys and values, got {_shown(other)}")
            elif not isinstance(key, yaml.ScalarNode):
                self._say(key, keys, f"expected a word as key, got {_shown(key)}")
            elif key.value in own:
                first = _line(own[key.value][0])
                self._say(key, keys, f"{_short(key.value)} is given twice, first in line {first}")
            else:
                own[key.value] = (key, value)
        self._pairs[id(node)] = merged | own
        return self._pairs[id(node)]


# -- words -------------------------------------------------------------------------------------------------------------


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


def _path(keys: tuple[str, ...]) -> str:
    """``nodes table children mug shape`` reads ``table/mug: shape``."""
    names: list[str] = []
    rest = list(keys)
    while rest[:1] in (["nodes"], ["children"]) and len(rest) > 1:
        names.append(rest[1][:60])
        rest = rest[2:]
    inner = ".".join(rest).replace(".[", "[")
    return ": ".join(part for part in ("/".join(names)[:200], inner) if part)


def _short(text: str, quotes: str = "'") -> str:
    text = text if len(text) <= 40 else text[:37] + "..."
    return repr(text) if quotes else text


def _shown(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return "nothing" if node.tag == _PREFIX + "null" else _short(node.value)
    if isinstance(node, yaml.SequenceNode):
        return f"a list of {len(node.value)}"
    return "keys and values"


def _only_near(hint: str) -> str:
    """The hint where it names a word; what there is was said already."""
    return hint if "did you mean" in hint else ""


def _named(kind: types.Type) -> str:
    """What is expected, in words."""
    if isinstance(kind, types.Metadata):
        return _named(kind.type)
    if isinstance(kind, types.UnionType):
        wanted = [t for t in kind.types if not isinstance(t, types.NoneType)]
        if len(wanted) > 1 and all(isinstance(t, types.StructType) for t in wanted):
            return f"keys with a kind: one of {', '.join(str(getattr(t, 'tag', '')) for t in wanted)}"
        return " or ".join(map(_named, wanted))
    if isinstance(kind, types.StructType):
        names = [f.encode_name for f in kind.fields]
        return f"keys such as {', '.join(names[:4])}"
    if isinstance(kind, types.DictType):
        return "names, each with keys of its own"
    if isinstance(kind, types.ListType):
        return "a list"
    if isinstance(kind, types.TupleType):
        low = isinstance(first := kind.item_types[0], types.FloatType) and first.ge == 0
        return f"{len(kind.item_types)} numbers" + (" in 0..1" if low else "")
    if isinstance(kind, types.LiteralType):
        return f"one of {', '.join(sorted(map(str, kind.values)))}"
    if isinstance(kind, types.BoolType):
        return "true or false"
    if isinstance(kind, types.FloatType | types.IntType):
        bound = " above 0" if kind.gt == 0 else f" in {kind.ge:g}..{kind.le:g}" if kind.ge is not None else ""
        return f"a {'whole ' if isinstance(kind, types.IntType) else ''}number{bound}"
    return "text"


def _wanted(kind: types.Type) -> str:
    return f"; expected {_named(kind)}" if isinstance(kind, types.StructType) else ""
