"""Formats of weights, graphs and data that are no pickles and no archives. Each function returns the kind of a file that is of its
format, and None for any other; what is dangerous about it or not understood goes to the ``Look``."""

from __future__ import annotations

import ast
import builtins
import json
import math
import re
import struct
from collections.abc import Callable, Iterator
from typing import IO, Any, cast

from vlaudit.inspection.pickles import look_for_pickles
from vlaudit.inspection.sources import CHUNK, Look, NotLookedInto, Reader, Source, SourceFile

SEARCHED = 1 << 30  # bytes of a file that are searched for a word
LONGEST_HEADER = 32 << 20  # bytes; a header of a hundred thousand tensors has 10 MB
SOURCE = "program code, which no loader runs unless a config or somebody tells it to: read it"
LONGEST_CODE = 1 << 20  # characters of a text that is parsed as Python
LONGEST_JSON = 64 << 20  # characters
_DTYPE_BITS = {"BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8,
               "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64,
               "I64": 64, "U64": 64}  # fmt: skip


def look_into_safetensors(source: Source, look: Look) -> str | None:
    """A safetensors file, by its header: the tensors must fill what follows it to the last byte."""
    length = int.from_bytes(source.read(0, 8), "little")
    if source.size < 10 or source.read(8, 1) != b"{" or length > min(100_000_000, source.size - 8):
        return None
    if length > LONGEST_HEADER:
        look.unknown("its header is too long")
        return "safetensors"
    try:
        header = json.loads(source.read(8, length))
    except (ValueError, RecursionError):
        return None
    if not isinstance(header, dict):
        return None
    metadata = header.pop("__metadata__", {})
    fine = isinstance(metadata, dict) and all(isinstance(text, str) for text in metadata.values())
    spans = []
    for entry in header.values():
        try:
            (start, end), shape = entry["data_offsets"], entry["shape"]
            bits = math.prod(shape) * _DTYPE_BITS.get(entry["dtype"], 0)
            fine &= 0 <= start <= end and all(type(size) is int and size >= 0 for size in (*shape, start, end))
            fine &= entry["dtype"] not in _DTYPE_BITS or bits == 8 * (end - start)
            spans.append((start, end))
        except (TypeError, ValueError, KeyError, OverflowError):
            fine = False
    end = 0
    for start, stop in sorted(spans) if fine else []:
        fine &= start == end
        end = stop
    if not fine or 8 + length + end > source.size:
        look.unknown("a damaged safetensors header")
    elif 8 + length + end < source.size:
        look.unknown("data after its last tensor")
    return "safetensors"


def look_into_npy(source: Source, look: Look, pickles: Callable[[Source, int], object]) -> str | None:
    """Arrays as ``numpy.save`` writes them, one or more in a file; arrays of objects are pickles."""
    if source.read(0, 6) != b"\x93NUMPY":
        return None
    import numpy as np

    at = 0
    while source.read(at, 6) == b"\x93NUMPY":
        width = 2 if source.read(at + 6, 1) == b"\x01" else 4
        length = int.from_bytes(source.read(at + 8, width), "little")
        if length > CHUNK:
            look.unknown("its header is too long")
            return "numpy array"
        try:
            header = ast.literal_eval(source.read(at + 8 + width, length).decode("latin-1").strip())
            dtype, shape = np.lib.format.descr_to_dtype(header["descr"]), header["shape"]
            size = math.prod(shape) * dtype.itemsize
        except (ValueError, SyntaxError, TypeError, LookupError, RecursionError, MemoryError, OverflowError, AttributeError):
            look.unknown("a damaged numpy header")
            pickles(source, at + 8 + width + length)
            return "numpy array"
        at += 8 + width + length
        if dtype.hasobject:
            pickles(source, at)
            return "numpy array of objects"
        if size < 0 or at + size > source.size:
            look.unknown("it breaks off")
            return "numpy array"
        at += size
    if at < source.size:
        look.unknown("data after its array")
    return "numpy array"


def look_into_gguf(source: Source, look: Look) -> str | None:
    """GGUF: its metadata and the table of its tensors. A chat template in it is rendered in a sandbox like any other."""
    if source.read(0, 4) != b"GGUF":
        return None
    reader = Reader(source, 4)

    def number(width: int) -> int:
        return int.from_bytes(reader.read(width), "little")

    def skip(kind: int, depth: int = 0) -> None:
        if kind == 8:
            reader.skip(number(8))
        elif kind == 9 and depth < 4:
            of, count = number(4), number(8)
            if of in widths:
                reader.skip(widths[of] * count)
            elif count > source.size:
                raise EOFError
            else:
                for _ in range(count):
                    skip(of, depth + 1)
        else:
            reader.skip(widths[kind])

    widths = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
    try:
        version, tensors, entries = number(4), number(8), number(8)
        if version not in (2, 3):
            raise LookupError
        for _ in range(entries):
            reader.skip(number(8))
            skip(number(4))
        for _ in range(tensors):
            reader.skip(number(8))
            reader.skip(8 * number(4) + 12)
    except (EOFError, LookupError):
        look.unknown("a damaged GGUF header")
    return "GGUF"


def look_into_hdf5(source: Source, look: Look) -> str | None:
    """HDF5. Keras keeps a model's layers in it as JSON, PyTables and pandas keep pickles in it."""
    signature = b"\x89HDF\r\n\x1a\n"
    if not any(source.read(at, 8) == signature for at in (0, *(512 << n for n in range(12)))):
        return None
    look_for_pickles(source, look)
    if source.size > SEARCHED:
        look.unknown(f"HDF5 of more than {SEARCHED >> 30} GB")
    asks, tables, searched = False, False, 0
    for piece in source.chunks(1 << 20, SEARCHED):
        tables |= b"PYTABLES" in piece or b"pandas_type" in piece
        for found in re.finditer(rb"model_config|training_config|class_name", piece):
            asks, searched = True, searched + 1
            for problem in [] if searched > 1000 else keras_problems(_json_after(piece, max(found.start() - 64, 0))):
                look.danger(problem)
    if asks and not look.dangers:
        look.unknown("a Keras model, whose layers are programs; weights alone would be none")
    if tables:
        look.unknown("a table of PyTables or pandas, which may hold pickles")
    return "HDF5"


def _json_after(content: bytes, start: int) -> object:
    """The first JSON object from ``start`` on."""
    found = content.find(b'{"', start, start + 8192)
    if found >= 0:
        try:
            return json.JSONDecoder().raw_decode(content[found : found + (1 << 20)].decode("utf-8", "replace"))[0]
        except (ValueError, RecursionError):
            pass
    return None


_KERAS = {"keras", "keras_core", "tf_keras", "tensorflow", "keras_hub", "keras_nlp", "keras_cv", "builtins"}


def keras_problems(content: object) -> list[str]:
    """What the description of a Keras model asks to be run."""
    problems = []
    for entry in _walk(content):
        kind, module = entry.get("class_name"), entry.get("module")
        if kind in {"Lambda", "__lambda__", "TorchModuleWrapper", "TFSMLayer"}:
            problems.append(f"a Keras model whose {kind} layer runs code of the file")
        elif kind == "function" and module == "builtins" and hasattr(builtins, str(entry.get("config"))):
            problems.append(f"a Keras model that calls {entry['config']}")
        elif isinstance(kind, str) and isinstance(module, str) and module.split(".")[0] not in _KERAS:
            problems.append(f"a Keras model that imports {module}.{kind}")
    return list(dict.fromkeys(problems))


_CALL = re.compile(r"""\b[a-z_]\w*\s*\(|["'\[{:]|\.\s*[A-Za-z_]|__""")  # what arithmetic of sizes does not hold
_SYMBOL = re.compile(r"Symbol\('\w+'")


def json_problems(content: object) -> list[str]:
    """What a JSON file asks its ordinary loader to run, other than a model's config does."""
    from vlaudit.inspection.names import RUNS, kind_of

    problems = keras_problems(content)
    for entry in _walk(content):
        target = entry.get("_target_")
        if isinstance(target, str) and kind_of(*_split(target)) == RUNS:
            problems.append(f"a Hydra config that calls {target}")
        if "__loader__" in entry and isinstance(entry.get("__module__"), str):
            name = f"{entry['__module__']}.{entry.get('__class__')}"
            if kind_of(*_split(name)) == RUNS:
                problems.append(f"a skops model that calls {name}")
        if isinstance(expression := entry.get("expr_str"), str) and _CALL.search(_SYMBOL.sub("", expression)):
            problems.append(f"a graph of torch.export that evaluates {expression[:80]!r}")
        if entry.keys() & {"py/reduce", "py/repr"}:
            problems.append("JSON of jsonpickle that calls what it names")
        if entry.get("id") == "pickle" and "filters" in str(content)[:100_000]:
            problems.append("a zarr array whose chunks are pickles")
    return list(dict.fromkeys(problems))


def _split(name: str) -> tuple[str, str]:
    module, _, last = name.rpartition(".")
    return module, last


def _walk(content: object) -> Iterator[dict[str, Any]]:
    """All objects in a JSON value."""
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield value
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


_MAPS = {bytes([head]) for head in (*range(0x80, 0x90), 0xDE, 0xDF)}


def look_into_msgpack(source: Source, look: Look) -> str | None:
    """A msgpack map that fills the file, as flax saves weights: plain values and the bytes of arrays."""
    reader = Reader(source)
    if source.read(0, 1) not in _MAPS:
        return None
    left = 1
    try:
        while left:
            look.opcodes += 1
            if look.opcodes > 1_000_000:
                return None
            left += _msgpack_value(reader) - 1
    except (EOFError, NotLookedInto, LookupError):
        return None
    return "msgpack" if reader.at == source.size else None


def _msgpack_value(reader: Reader) -> int:
    """Read one value's head, skip its bytes, and return how many values it holds."""

    def number(width: int) -> int:
        return int.from_bytes(reader.read(width), "big")

    head = number(1)
    if head <= 0x7F or head >= 0xE0 or head in (0xC0, 0xC2, 0xC3):
        return 0
    if head <= 0x8F:
        return 2 * (head & 15)
    if head <= 0x9F:
        return head & 15
    if head <= 0xBF:
        reader.skip(head & 31)
    elif head in (0xC4, 0xC5, 0xC6):
        reader.skip(number(1 << (head - 0xC4)))
    elif head in (0xC7, 0xC8, 0xC9):
        reader.skip(number(1 << (head - 0xC7)) + 1)
    elif head in (0xCA, 0xCB):
        reader.skip(4 << (head - 0xCA))
    elif 0xCC <= head <= 0xD3:
        reader.skip(1 << ((head - 0xCC) & 3))
    elif 0xD4 <= head <= 0xD8:
        reader.skip((1 << (head - 0xD4)) + 1)
    elif 0xD9 <= head <= 0xDB:
        reader.skip(number(1 << (head - 0xD9)))
    elif head in (0xDC, 0xDD):
        return number(2 << (head - 0xDC))
    elif head in (0xDE, 0xDF):
        return 2 * number(2 << (head - 0xDE))
    else:
        raise LookupError
    return 0


# --- protocol buffers --------------------------------------------------------------------------------------------------------


def _fields(source: Source, most: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of a protobuf message: number, wire type, and where its bytes are (start and length). Raises LookupError or
    EOFError where it is none, and when it holds more than ``most``."""
    reader, count = Reader(source), 0

    def varint() -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = reader.read(1)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise LookupError

    while reader.at < source.size:
        tag, count = varint(), count + 1
        number, wire = tag >> 3, tag & 7
        if number == 0 or wire not in (0, 1, 2, 5) or count > most:
            raise LookupError
        length = varint() if wire == 2 else {0: 0, 1: 8, 5: 4}[wire]
        start = reader.at
        if wire == 0:
            varint()
        reader.skip(length)
        yield number, wire, start, length


def look_into_protobuf(source: Source, look: Look) -> str | None:
    """SentencePiece vocabularies, which run nothing, and graphs of ONNX and TensorFlow."""
    if source.read(0, 1) not in (b"\x08", b"\x0a"):
        return None
    shape: set[tuple[int, int]] = set()
    kept: dict[int, list[Source]] = {}
    try:
        for number, wire, start, length in _fields(source, 1_000_000):
            shape.add((number, wire))
            if wire == 2 and len(kept.setdefault(number, [])) < 1000:
                kept[number].append(source.window(start, length))
    except (LookupError, EOFError):
        return None
    parts = {number for number, _ in shape}
    texts_alone = {(1, 2), (2, 2), (3, 2)} <= shape <= {(number, 2) for number in range(1, 6)}
    if texts_alone and all(_is_piece(piece) for piece in kept[1]):
        return "SentencePiece vocabulary"
    if (1, 0) in shape and (7, 2) in shape and parts <= {1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26}:
        return _onnx(kept, look)
    words = _tensorflow_words(source) if (2, 2) in shape and parts <= {1, 2, 3, 4} else set()
    for word in sorted(words & _TENSORFLOW_CALLS):
        look.danger(f"a TensorFlow graph that calls {word.decode()}")
    if words:
        look.unknown("a TensorFlow graph, which is a program")
    return "TensorFlow graph" if words else None


_TENSORFLOW_CALLS = {b"PyFunc", b"PyFuncStateless", b"EagerPyFunc", b"ReadFile", b"WriteFile", b"MatchingFiles", b"RemoteCall"}


def _tensorflow_words(source: Source) -> set[bytes]:
    """Names of operations in a graph: field 2 of its nodes, a text that begins with a capital letter."""
    found: set[bytes] = set()
    for piece in source.chunks(128, SEARCHED):
        for match in re.finditer(rb"\x12([\x02-\x40])(?=([A-Z][A-Za-z0-9]+))", piece):
            length = match[1][0]
            if len(match[2]) >= length:
                found.add(match[2][:length])
    return found


def _is_piece(source: Source) -> bool:
    try:
        return {(number, wire) for number, wire, *_ in _fields(source, 16)} <= {(1, 2), (2, 5), (3, 0)}
    except (LookupError, EOFError):
        return False


_ONNX_DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training", "com.microsoft", "com.microsoft.nchwc"}


def _onnx(parts: dict[int, list[Source]], look: Look) -> str:
    """An ONNX graph: which operators it needs, and where its tensors lie."""
    for operators in parts.get(8, []):
        for number, wire, start, length in _fields(operators, 16):
            domain = operators.read(start, min(length, 256)).decode("utf-8", "replace") if (number, wire) == (1, 2) else ""
            if domain not in _ONNX_DOMAINS:
                look.unknown(f"an ONNX graph with operators of {domain}")
    for graph in parts[7]:
        if graph.size > SEARCHED:
            look.unknown(f"an ONNX graph of more than {SEARCHED >> 30} GB")
        for piece in graph.chunks(4096, SEARCHED):
            for found in re.finditer(rb"\x0a\x08location\x12([\x01-\x7f]|[\x80-\xff][\x01-\x1f])", piece):
                size = found[1][0] & 127 | (found[1][1] << 7 if len(found[1]) > 1 else 0)
                path = piece[found.end() : found.end() + size].decode("utf-8", "replace").replace("\\", "/")
                if path.startswith("/") or ".." in path.split("/") or ":" in path:
                    look.danger(f"an ONNX graph that reads the file {path} outside of its folder")
    return "ONNX graph"


# --- what is inert or a program by its first bytes --------------------------------------------------------------------------------


_PROGRAMS = {
    b"\x7fELF": "a program or library (ELF)", b"\xfe\xed\xfa\xce": "a program or library (Mach-O)",
    b"\xfe\xed\xfa\xcf": "a program or library (Mach-O)", b"\xce\xfa\xed\xfe": "a program or library (Mach-O)",
    b"\xcf\xfa\xed\xfe": "a program or library (Mach-O)", b"\xca\xfe\xba\xbe": "a program (Mach-O or Java)",
    b"\0asm": "a program (WebAssembly)", b"dex\n": "a program (Dalvik)", b"MZqFpD": "a program (APE, as llamafiles are)",
    b"BC\xc0\xde": "a program (LLVM bitcode)", b"\x1bLua": "a program (Lua)", b"\xac\xed\0\x05": "serialised Java objects",
    b"jartsr=": "a program (APE, as llamafiles are)", b"\x1bLJ": "a program (Lua)",
}  # fmt: skip
_INERT = {
    b"%PDF-": "PDF", b"ID3": "sound", b"fLaC": "sound", b"OggS": "sound", b"\0\x01\0\0": "font", b"OTTO": "font", b"wOFF": "font", b"wOF2": "font",
}  # fmt: skip


def look_into_program(source: Source, look: Look) -> str | None:
    """Native programs and libraries, and compiled Python."""
    head = source.read(0, 64)
    what = next((what for magic, what in _PROGRAMS.items() if head.startswith(magic)), None)
    if what is None and head[:2] == b"MZ" and len(head) == 64:
        at = int.from_bytes(head[60:64], "little")
        what = "a program or library (PE)" if source.read(at, 2) in (b"PE", b"NE", b"LE", b"LX") or b"\0" in head else None
    if what is None and head[2:4] == b"\r\n" and 0x0C00 <= int.from_bytes(head[:2], "little") <= 0x0FFF and len(head) > 16:
        what = "compiled Python"
    if what is None and head[:2] in (b"\x03\xf3", b"\xd1\xf2") and head[2:4] == b"\r\n":
        what = "compiled Python"
    if what is None:
        return None
    look.danger(f"{what}, which runs when it is loaded")
    return "program"


def look_into_picture(source: Source, look: Look) -> str | None:
    """Pictures that Pillow knows by their header, and other media and databases by their first bytes."""
    head = source.read(0, 16)
    for magic, kind in _INERT.items():
        if head.startswith(magic):
            return kind
    if head[:4] == b"RIFF" and head[8:12] in (b"WAVE", b"AVI "):
        return "sound or film"
    if head[4:8] == b"ftyp":
        return "film or picture"
    if head == b"SQLite format 3\0":
        look_for_pickles(source, look)
        return "SQLite database"
    if head[:4] not in (b"\x89PNG", b"GIF8", b"RIFF", b"II*\0", b"MM\0*", b"\0\0\x01\0") and head[:2] not in (b"\xff\xd8", b"BM"):
        return None
    from PIL import Image

    try:
        with Image.open(cast(IO[bytes], SourceFile(source)), formats=["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "ICO"]) as picture:
            return f"{picture.format} picture"
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError, struct.error, LookupError, TypeError):
        return None


# --- texts ------------------------------------------------------------------------------------------------------------------------

_SCRIPTS = (".py", ".pyw", ".pyi", ".sh", ".bash", ".bat", ".cmd", ".ps1", ".vbs", ".wsf", ".command")
_CONTROL = bytes(set(range(32)) - {9, 10, 12, 13, 27}) + b"\x7f"
_YAML_CODE = re.compile(r"!<?(!|tag:yaml\.org,2002:)?python/|(?:^|[\r\x85\u2028\u2029])%TAG[ \t]+!\S*[ \t]+[^!\s]", re.MULTILINE | re.IGNORECASE)
_TARGET = re.compile(r"""_target_["']?\s*:\s*(?:[!&|>]\S*\s+)*["']?([\w.]+)""")
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4}))")


def read_text(source: Source, limit: int) -> str | None:
    """The text of a file of at most ``limit`` bytes that holds nothing but text: UTF-8, or UTF-16 with its mark."""
    start = source.read(0, 4096)
    if source.size > limit or (start[:2] not in (b"\xff\xfe", b"\xfe\xff") and any(code in start for code in _CONTROL)):
        return None
    content = source.read(0, source.size)
    try:
        if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
            return content.decode("utf-16")
        if content.translate(None, _CONTROL) != content:
            return None
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None


def look_into_text(text: str, name: str, look: Look) -> str:
    """A text: scripts, and configs that ask for code."""
    from vlaudit.inspection.names import RUNS, kind_of

    if text.startswith("#!"):
        look.unknown(SOURCE)
        return "script"
    if name.lower().endswith(_SCRIPTS) or text.lstrip().lower().startswith("@echo off") or is_python(text):
        if text.strip():
            look.unknown(SOURCE)
        return "script"
    if text.lstrip()[:1] in ("{", "["):
        if len(text) > LONGEST_JSON:
            look.unknown("JSON that is too long")
            return "JSON"
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            content = None
        if content is not None:
            for problem in json_problems(content):
                look.danger(problem)
            if isinstance(content, dict) and "graph_module" in content:
                look.unknown("a graph of torch.export, which is a program")
            return "JSON"
    if len(text) > LONGEST_CODE and re.search(r"^(import \w|from [\w.]+ import |def \w+\(|class \w+[:(])", text, re.MULTILINE):
        look.unknown("a long text with lines of Python")
    if text.startswith("%!"):
        look.unknown("PostScript, which is a program")
    if name.lower().endswith(".pth") and re.search(r"^import[ \t]", text, re.MULTILINE):
        look.danger("a path file whose lines Python runs when it starts")
    from urllib.parse import unquote

    plain = unquote(text) if "%" in text and "!" in text else text
    if "\\" in text:
        text = _ESCAPE.sub(lambda found: chr(int(found[1] or found[2], 16)), text)
    if _YAML_CODE.search(plain):
        look.danger("YAML that builds Python objects when loaded")
    for found in _TARGET.finditer(text):
        if kind_of(*_split(found[1])) == RUNS:
            look.danger(f"a Hydra config that calls {found[1]}")
    return "text"


def is_python(text: str) -> bool:
    """Whether a text is Python code that does something: it imports, defines, or runs other code."""
    if len(text) > LONGEST_CODE or not re.search(r"\b(import|def|class|exec|eval|__import__|compile|open)\b", text):
        return False
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    kinds = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    names = {"exec", "eval", "__import__", "compile", "open"}
    for node in ast.walk(tree):
        if isinstance(node, kinds) or (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names):
            return True
    return False
