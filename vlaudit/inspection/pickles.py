"""Pickles of every protocol, read as the machine that they are a program for, with nothing built and nothing run.

An unpickler runs a pickle opcode by opcode, so what stands before a break has run when the break is found. The names that it
imports are on its stack, in its memo or in the opcode itself; all three are followed here, and what stands where a name should be
and is not a text is a danger too. The stack holds no objects: texts, small numbers, tuples, and marks for all else.
"""

from __future__ import annotations

import codecs
import math
import pickletools
import re
from collections.abc import Callable, Sequence
from typing import Any

from vlaudit.inspection.names import CHECKED, FILLED, INERT, RUNS, canonical, kind_of
from vlaudit.inspection.sources import OPCODES, Look, NotLookedInto, Reader, Source

TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of torch's format without zip
SEARCH = 500_000  # opcodes that searching a file of an unknown format may take
LONGEST_TEXT = 256  # bytes of a text that is kept as such, and may be a name
_CODES = {info.code.encode("latin-1"): (info, f"do_{info.name.lower()}") for info in pickletools.opcodes}
_SIGNED = {"BININT", "LONG4", "BINSTRING", "EXT4"}
_INTEGER = re.compile(rb"\s*[+-]?\w*\s*(\0.*)?", re.DOTALL)  # what C unpicklers may take for one, the empty line too
_DTYPE = re.compile(r"[<>=|]?[?bBiufcmMSUVO]\d*")
_IDENTIFIERS = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")

_NO_TEXT = {"numpy.dtype", "joblib.numpy_pickle.NumpyArrayWrapper", "numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"}
"""Calls that never make a text, which alone can be a name."""

Inspect = Callable[[Source], object]  # looks into what torch loads from a pickle's bytes


class _Broken(ValueError):
    """Where an unpickler would stop."""


class _Name:
    """A global that the pickle imports."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = canonical(module, name)
        self.kind = kind_of(module, name)

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class _Made:
    """The result of a call."""

    def __init__(self, by: str, arguments: Any = ()) -> None:
        self.by, self.arguments, self.state = by, arguments, None
        code = arguments[0] if isinstance(arguments, tuple) and arguments else None
        known = isinstance(code, str) and by == "numpy.dtype" and _DTYPE.fullmatch(code)
        self.holds_objects: bool | None = "O" in str(code) if known else None  # of a type of numpy's; None where that cannot be told


class _Bytes:
    """A long text or bytes, where they lie."""

    def __init__(self, source: Source, is_text: bool) -> None:
        self.source, self.is_text = source, is_text

    def __len__(self) -> int:
        return self.source.size


class _Other:
    """A list, a set, a number: nothing that can be a name or be called."""


OTHER = _Other()
UNKNOWN = object()  # what the loader, not the pickle, puts there


class Machine:
    """Follows one pickle from ``at`` on. ``joblib``: as joblib's unpickler, which reads arrays from between the opcodes."""

    def __init__(self, source: Source, at: int, look: Look, inspect: Inspect, *, joblib: bool = True) -> None:
        self.reader, self.look, self.inspect, self.joblib = Reader(source, at), look, inspect, joblib
        self.is_marked = source.read(at, 1) == b"\x80"  # as pickles of protocol 2 and later begin
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.names: list[_Name] = []
        self.problems: list[str] = []
        self.called: list[_Name] = []
        self.unknown = self.extension = ""
        self.opcodes = 0
        self.frame_end = 0
        self.stopped = self.has_arrays = False
        self.result: Any = None

    def run(self) -> None:
        try:
            while not self.stopped:
                self.step()
        except (_Broken, EOFError, IndexError):
            pass
        except (ValueError, TypeError, AttributeError, RecursionError, MemoryError, OverflowError) as error:
            self.unknown = str(error) if isinstance(error, NotLookedInto) else "a pickle that cannot be followed"

    def step(self) -> None:
        info, step = _CODES.get(self.reader.read(1)) or (None, "")
        if info is None:
            raise _Broken
        self.look.opcodes += 1
        if self.look.opcodes > OPCODES:
            raise NotLookedInto(f"its pickles hold more than {OPCODES:,} steps")
        argument = self.argument(info)
        self.opcodes += 1
        getattr(self, step)(argument)

    # --- arguments --------------------------------------------------------------------------------------------------------

    def argument(self, info: pickletools.OpcodeInfo) -> Any:
        if info.arg is None:
            return None
        read, size = self.reader.read, info.arg.n
        if info.name in {"GLOBAL", "INST"}:
            return self.text(self.line()), self.text(self.line())
        if size == pickletools.UP_TO_NEWLINE:
            return self.line()
        if size >= 0:
            return int.from_bytes(read(size), "little", signed=info.name in _SIGNED) if info.name != "BINFLOAT" else read(8)
        width = {pickletools.TAKEN_FROM_ARGUMENT1: 1, pickletools.TAKEN_FROM_ARGUMENT4: 4,
                 pickletools.TAKEN_FROM_ARGUMENT4U: 4, pickletools.TAKEN_FROM_ARGUMENT8U: 8}[size]  # fmt: skip
        length = int.from_bytes(read(width), "little", signed=info.name in _SIGNED)
        start = self.reader.at
        if length < 0:
            raise _Broken
        if info.name.endswith(("UNICODE", "STRING", "UNICODE8")) and length <= LONGEST_TEXT:
            return self.text(read(length))
        if info.name in {"LONG1", "LONG4"}:
            return int.from_bytes(read(length), "little", signed=True) if length <= 64 else self.reader.skip(length)
        self.reader.skip(length)
        return _Bytes(self.reader.source.window(start, length), info.name.endswith(("UNICODE", "STRING", "UNICODE8")))

    def line(self) -> bytes:
        line = self.reader.line()
        self.look.spend(len(line) if len(line) > LONGEST_TEXT else 0)
        return line

    @staticmethod
    def text(content: bytes) -> str:
        try:
            return content.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            return content.decode("latin-1")

    # --- the stack --------------------------------------------------------------------------------------------------------

    def pop(self) -> Any:
        return self.stack.pop()

    def items(self) -> list[Any]:
        """What stands above the last mark."""
        found, self.stack = self.stack, self.outer.pop()
        return found

    def keep(self, values: Sequence[Any]) -> None:
        """Values that go into something: a call with checked arguments must not get out of sight."""
        for value in values:
            if type(value) is _Name and value.kind == CHECKED:
                self.problem(f"it passes {value} on")

    def problem(self, what: str) -> None:
        if what not in self.problems:
            self.problems.append(what)

    def name(self, module: str, name: str) -> _Name:
        found = _Name(module, name)
        self.names.append(found)
        self.look.names.add(str(found))
        return found

    def call(self, what: Any, arguments: Any, *, filled: bool = False) -> _Made:
        """A call, or with ``filled`` an object made without its constructor."""
        if not isinstance(what, _Name):
            if what is UNKNOWN or isinstance(what, _Made):
                self.problem("it calls something that only the loader knows")
                return _Made("")
            raise _Broken
        passed = arguments if isinstance(arguments, tuple) else [arguments]
        self.keep(passed)
        for value in passed if what.kind == INERT else ():
            if isinstance(value, _Name) and value.kind == FILLED:  # some of these call what they are given
                self.problem(f"it passes the constructor of {value} on")
        if what.kind not in {INERT, FILLED, CHECKED}:
            self.called.append(what)
        elif what.kind == FILLED and not filled:
            self.problem(f"it calls the constructor of {what}")
        elif what.kind == CHECKED:
            self.check(str(what), arguments)
        return _Made(str(what), arguments)

    def check(self, name: str, arguments: Any) -> None:
        """The arguments of calls that are inert with some only."""
        known = arguments if isinstance(arguments, tuple) else ()
        if name == "_codecs.encode":
            inert = len(known) == 2 and isinstance(known[0], (str, _Bytes)) and known[1] in ("latin1", "latin-1", "utf-8")
        elif name == "copyreg._reconstructor":
            inert = len(known) == 3 and isinstance(known[0], _Name) and str(known[1]).startswith("builtins.")
        else:
            content = self.content(known[0]) if len(known) == 1 else None
            inert = content is not None
            if content is not None:
                self.inspect(content)
        if not inert:
            self.problem(f"it calls {name} with arguments that are not looked into")

    def content(self, value: Any) -> Source | None:
        """Bytes as a pickle writes them."""
        if isinstance(value, _Bytes) and not value.is_text:
            return value.source
        if isinstance(value, _Made) and value.by == "_codecs.encode" and isinstance(value.arguments, tuple) and len(value.arguments) == 2:
            text = value.arguments[0]
            if isinstance(text, _Bytes):
                text = self.text(text.source.read(0, len(text)))
            if isinstance(text, str) and value.arguments[1] in ("latin1", "latin-1"):
                return Source.of_bytes(text.encode("latin-1", "replace"))
        return None

    # --- opcodes: names and calls -------------------------------------------------------------------------------------------

    def do_global(self, argument: tuple[str, str]) -> None:
        self.stack.append(self.name(*argument))

    def do_stack_global(self, _: None) -> None:
        name, module = self.pop(), self.pop()
        if isinstance(name, str) and isinstance(module, str):
            self.stack.append(self.name(module, name))
        elif any(value is UNKNOWN or isinstance(value, _Bytes) or (isinstance(value, _Made) and value.by not in _NO_TEXT) for value in (name, module)):
            self.problem("it imports a name that only the loader knows")
            self.stack.append(UNKNOWN)
        else:
            raise _Broken

    def do_inst(self, argument: tuple[str, str]) -> None:
        arguments = tuple(self.items())
        self.stack.append(self.call(self.name(*argument), arguments, filled=not arguments))

    def do_obj(self, _: None) -> None:
        items = self.items()
        what, arguments = items[0], items[1:]
        self.stack.append(self.call(what, tuple(arguments), filled=not arguments))

    def do_reduce(self, _: None) -> None:
        arguments, what = self.pop(), self.pop()
        self.stack.append(self.call(what, arguments))

    def do_newobj(self, _: None) -> None:
        arguments, what = self.pop(), self.pop()
        self.stack.append(self.call(what, arguments, filled=True))

    def do_newobj_ex(self, _: None) -> None:
        keywords, arguments, what = self.pop(), self.pop(), self.pop()
        self.keep([keywords])
        self.stack.append(self.call(what, arguments, filled=True))

    def do_ext1(self, argument: int) -> None:
        self.extension = f"it imports the name that copyreg holds under {argument}"
        self.stack.append(UNKNOWN)

    do_ext2 = do_ext4 = do_ext1

    def do_build(self, _: None) -> None:
        state = self.pop()
        self.keep([state])
        filled = self.stack[-1]
        if isinstance(filled, _Name):
            self.problem(f"it changes {filled} itself")
        elif isinstance(filled, _Made):
            filled.state = state
            if filled.by == "numpy.dtype":
                self.dtype(filled)
            if filled.by == "joblib.numpy_pickle.NumpyArrayWrapper":
                self.array(state)

    def dtype(self, made: _Made) -> None:
        """A type of numpy's takes from its state whether it holds objects, and then takes bytes for pointers, or for a pickle."""
        state = made.state if isinstance(made.state, tuple) else ()
        array, _, fields = state[2:5] if len(state) > 7 else (None, None, None)
        parts: list[Any] = list(fields.values()) if isinstance(fields, dict) else []
        parts = [part[0] if isinstance(part, tuple) and part else None for part in ([array] if array is not None else []) + parts]
        held = [made.holds_objects, *(part.holds_objects if isinstance(part, _Made) else None for part in parts)]
        made.holds_objects = None if None in held or OTHER in state[2:5] else any(held)
        flags = state[7] if len(state) > 7 else None
        if made.holds_objects is None or flags is None or not isinstance(flags, int) or flags & 3 != 3 * made.holds_objects:
            self.problem("it makes a numpy type that may lie about what it holds")

    def array(self, state: Any) -> None:
        """An array of joblib, whose bytes follow."""
        self.has_arrays = True
        if not self.joblib:
            return
        if self.reader.at < self.frame_end:
            raise NotLookedInto("an array within a frame")
        if not isinstance(state, dict) or OTHER in state:
            raise NotLookedInto("an array of a kind that is not known here")
        dtype, shape = state.get("dtype"), state.get("shape")
        code = dtype.arguments[0] if isinstance(dtype, _Made) and isinstance(dtype.arguments, tuple) and dtype.arguments else None
        if dtype is None or not isinstance(code, str) or not isinstance(shape, tuple) or not all(isinstance(n, int) for n in shape):
            raise NotLookedInto("an array of a kind that is not known here")
        part_of = dtype.state[2] if isinstance(dtype.state, tuple) and len(dtype.state) > 2 else None
        if dtype.by != "numpy.dtype":
            raise NotLookedInto("an array of a kind that is not known here")
        if dtype.holds_objects:
            inner = Machine(self.reader.source, self.reader.at, self.look, self.inspect)
            inner.run()
            self.take_over(inner)
            if not inner.stopped:
                raise _Broken
            self.reader.at = inner.reader.at
        elif not re.fullmatch(r"[<>=|]?[?bBiufcmMSUV]\d+", code) or dtype.holds_objects is None or part_of is not None:
            raise NotLookedInto("an array of a kind that is not known here")
        else:
            if state.get("numpy_array_alignment_bytes") is not None:
                self.reader.skip(self.reader.read(1)[0])
            size = int(code.lstrip("<>=|?bBiufcmMSUV")) * (4 if "U" in code else 1)
            if set(code) & set("SUV") and isinstance(dtype.state, tuple) and dtype.state[5:6] != (size,):
                raise NotLookedInto("an array of a kind that is not known here")
            self.reader.skip(math.prod(shape) * size)
        self.stack[-1] = OTHER

    def take_over(self, other: Machine) -> None:
        self.problems += other.problems
        self.names += other.names
        self.called += other.called
        self.unknown = self.unknown or other.unknown

    # --- opcodes: the machine -------------------------------------------------------------------------------------------------

    def do_stop(self, _: None) -> None:
        self.result, self.stopped = self.pop(), True

    def do_proto(self, version: int) -> None:
        if version > 5:
            if version < 16:
                raise NotLookedInto(f"a pickle of protocol {version}")
            raise _Broken

    def do_frame(self, size: int) -> None:
        self.frame_end = self.reader.at + size

    def do_mark(self, _: None) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def do_pop(self, _: None) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.items()

    def do_pop_mark(self, _: None) -> None:
        self.items()

    def do_dup(self, _: None) -> None:
        self.stack.append(self.stack[-1])

    def do_put(self, argument: bytes) -> None:
        self.memo[self.number(argument)] = self.stack[-1]

    def do_binput(self, argument: int) -> None:
        self.memo[argument] = self.stack[-1]

    do_long_binput = do_binput

    def do_memoize(self, _: None) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def do_get(self, argument: bytes) -> None:
        self.do_binget(self.number(argument))

    def do_binget(self, argument: int) -> None:
        if argument not in self.memo:
            raise _Broken
        self.stack.append(self.memo[argument])

    do_long_binget = do_binget

    def do_persid(self, _: bytes) -> None:
        self.stack.append(UNKNOWN)

    def do_binpersid(self, _: None) -> None:
        self.keep([self.pop()])
        self.stack.append(UNKNOWN)

    def do_readonly_buffer(self, _: None) -> None:
        self.stack[-1] = self.stack[-1]

    # --- opcodes: values --------------------------------------------------------------------------------------------------------

    @staticmethod
    def number(content: bytes) -> int:
        try:
            return int(content.partition(b"\0")[0])
        except ValueError as error:
            raise _Broken from error

    def do_int(self, argument: bytes) -> None:
        if not _INTEGER.fullmatch(argument):
            raise _Broken
        plain = argument.strip().removesuffix(b"L")
        self.stack.append(int(plain) if re.fullmatch(rb"-?[1-9]\d{0,9}|0", plain) else OTHER)

    do_long = do_int

    def do_float(self, argument: bytes) -> None:
        try:
            float(argument.partition(b"\0")[0])
        except ValueError as error:
            raise _Broken from error
        self.stack.append(OTHER)

    def do_string(self, argument: bytes) -> None:
        if len(argument) < 2 or argument[:1] != argument[-1:] or argument[:1] not in b"'\"":
            raise _Broken
        try:
            self.push(self.text(codecs.escape_decode(argument[1:-1])[0]))
        except ValueError as error:
            raise _Broken from error

    def do_unicode(self, argument: bytes) -> None:
        try:
            self.push(argument.decode("raw-unicode-escape"))
        except ValueError as error:
            raise _Broken from error

    def push(self, argument: Any) -> None:
        self.stack.append(OTHER if argument is None else argument)

    do_binunicode = do_short_binunicode = do_binunicode8 = do_binstring = do_short_binstring = push
    do_binbytes = do_short_binbytes = do_binbytes8 = do_bytearray8 = push
    do_binint = do_binint1 = do_binint2 = do_long1 = do_long4 = push

    def push_other(self, _: object) -> None:
        self.stack.append(OTHER)

    do_binfloat = do_newtrue = do_newfalse = do_empty_list = do_empty_set = do_next_buffer = push_other

    def do_none(self, _: None) -> None:
        self.stack.append(None)

    def do_tuple(self, _: None) -> None:
        found = tuple(self.items())
        self.keep(found)
        self.stack.append(found)

    def do_empty_tuple(self, _: None) -> None:
        self.stack.append(())

    def do_tuple1(self, _: None, count: int = 1) -> None:
        if len(self.stack) < count:
            raise _Broken
        found = tuple(self.stack[-count:])
        self.keep(found)
        self.stack[-count:] = [found]

    def do_tuple2(self, _: None) -> None:
        self.do_tuple1(None, 2)

    def do_tuple3(self, _: None) -> None:
        self.do_tuple1(None, 3)

    def do_list(self, _: None) -> None:
        self.keep(self.items())
        self.stack.append(OTHER)

    do_frozenset = do_list

    def do_empty_dict(self, _: None) -> None:
        self.stack.append({})

    def do_dict(self, _: None) -> None:
        found = self.items()
        self.stack.append({})
        self.set_items(found)

    def do_append(self, _: None) -> None:
        self.keep([self.pop()])
        self.grows()

    def do_appends(self, _: None) -> None:
        self.keep(self.items())
        self.grows()

    do_additems = do_appends

    def do_setitem(self, _: None) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def do_setitems(self, _: None) -> None:
        self.set_items(self.items())

    def set_items(self, found: list[Any]) -> None:
        self.keep(found)
        self.grows()
        if isinstance(self.stack[-1], dict):
            pairs = zip(found[::2], found[1::2], strict=False)
            self.stack[-1].update((key if isinstance(key, str) else OTHER, value) for key, value in pairs)

    def grows(self) -> None:
        if isinstance(self.stack[-1], _Name):
            self.problem(f"it changes {self.stack[-1]} itself")


def look_into_pickles(source: Source, look: Look, inspect: Inspect, at: int = 0, *, text: bool = False) -> str | None:
    """Follow all pickles that begin at ``at``, one after the other. Returns their kind, or None where there is no pickle.

    ``text``: the file can be read as a text, and many a text begins with letters that are opcodes.
    """
    kind, begin = None, at
    while at < source.size:
        machine = Machine(source, at, look, inspect)
        machine.run()
        found = _problems(machine, text)
        if machine.has_arrays:  # another unpickler would take the arrays' bytes for opcodes
            plain = Machine(source, at, look, inspect, joblib=False)
            plain.run()
            found += [problem for problem in _problems(plain, text=False) if problem not in found]
        for problem in found:
            look.danger(f"a pickle that would run code when loaded: {problem}")
        if machine.unknown:
            look.unknown(machine.unknown)
        if not machine.stopped:
            begins = machine.is_marked and machine.opcodes > 1 and kind != "torch checkpoint"
            if begins and not machine.unknown:
                look.unknown("a pickle that breaks off")
            kind = kind or ("pickle" if begins or found else None)
            break
        if at == begin and machine.result == TORCH_MAGIC:
            kind = "torch checkpoint"
        kind = "joblib file" if machine.has_arrays else kind or "pickle"
        at = machine.reader.at
    if kind not in {None, "torch checkpoint"} and not text and source.read(at, 4096).strip(b"\0 \r\n\t"):
        look.unknown("data after its pickle")
    return kind


def _problems(machine: Machine, text: bool) -> list[str]:
    """What is dangerous about a pickle that was followed, known ways to run code first."""
    names = [name for name in machine.names if name.kind not in {INERT, FILLED, CHECKED}]
    if text:  # one that begins like a pickle: what Python can import counts, if it is called, or is returned and of Python's own
        names = [name for name in names if _IDENTIFIERS.fullmatch(str(name))]
        names = [name for name in names if name in machine.called or (machine.stopped and name.kind == RUNS)]
    runs = [f"it {'calls' if name in machine.called else 'imports'} {name}" for name in names if name.kind == RUNS]
    foreign = [f"it builds {name}, which runs that module's code" for name in names if name.kind != RUNS]
    extension = [machine.extension] if machine.extension and (machine.stopped or machine.is_marked) else []
    return list(dict.fromkeys([*runs, *extension, *machine.problems, *foreign]))


def look_for_pickles(source: Source, look: Look, limit: int = 64 << 20) -> None:
    """Search bytes that no format accounts for, for pickles that run code."""
    at, tries, own = 0, 0, Look(opcodes=OPCODES - SEARCH)
    for piece in source.chunks(1, limit):
        for found in re.finditer(rb"\x80[\x02-\x05]", piece):
            tries += 1
            if tries > 10_000 or own.opcodes > OPCODES:
                return
            start = at + found.start()
            machine = Machine(source, start, own, lambda _: None)
            machine.run()
            named = next((name for name in machine.called if name.kind == RUNS), None)
            if named is not None:
                look.danger(f"a pickle within it that would run code when loaded: it calls {named}")
                return
        at += len(piece) - 1
