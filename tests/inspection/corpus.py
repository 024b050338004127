"""Files that run code when their ordinary loader opens them, and files that do not, made anew wherever they are needed.

A payload does nothing but to create a file, its marker, whose path it is given; ``LOADERS`` hold for each kind of file how its
users open it.
"""

from __future__ import annotations

import bz2
import gzip
import importlib
import io
import lzma
import marshal
import pickle
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import textwrap
import time
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch


@dataclass(frozen=True)
class Dangerous:
    """A file, the loader that runs its payload (a key of ``LOADERS``), and the file that the payload creates."""

    kind: str
    path: Path
    loader: str
    marker: Path


LOADERS = {  # statements that open the file at ``p``, as its users do
    "pickle": "pickle.load(open(p, 'rb'))",
    "pickles": "f = open(p, 'rb')\nwhile True: pickle.load(f)",
    "header": "f = open(p, 'rb'); f.read(16); pickle.load(f)",
    "torch": "torch.load(p, weights_only=False)",
    "torch stream": "torch.load(open(p, 'rb'), weights_only=False)",
    "joblib": "joblib.load(p)",
    "numpy": "a = np.load(p, allow_pickle=True)\nif hasattr(a, 'files'): [a[k] for k in a.files]",
    "gzip": "pickle.load(gzip.open(p))",
    "bz2": "pickle.load(bz2.open(p))",
    "lzma": "pickle.load(lzma.open(p))",
    "zlib": "pickle.loads(zlib.decompress(open(p, 'rb').read()))",
    "zip": "z = zipfile.ZipFile(p); [pickle.loads(z.read(n)) for n in z.namelist() if n.endswith(('.pkl', '.p'))]",
    "tar": "t = tarfile.open(p); [pickle.load(t.extractfile(m)) for m in t if m.name.endswith('.pkl')]",
    "nemo": "t = tarfile.open(p); [torch.load(io.BytesIO(t.extractfile(m).read()), weights_only=False) for m in t if m.name.endswith('.ckpt')]",
    "unpack": "d = p + '-out'; os.makedirs(d); tarfile.open(p).extractall(d, filter='fully_trusted')",
    "export": "torch.export.load(p)",
    "jit": "torch.jit.load(p)(torch.ones(1))",
    "python": "runpy.run_path(p)",
    "import": "sys.path.insert(0, p); importlib.import_module('payload_in_zip'); sys.path.pop(0); del sys.modules['payload_in_zip']",
    "exec": "exec(open(p).read())",
    "script": "os.chmod(p, 0o755); subprocess.run([p])",
    "bash": "subprocess.run(['bash', p])",
    "library": "ctypes.CDLL(p)",
    "yaml": "yaml.unsafe_load(open(p))",
    "shelf": "d = shelve.open(p.removesuffix('.dat')); [d[k] for k in list(d)]",
    "sqlite": "pickle.loads(sqlite3.connect(p).execute('select b from t').fetchone()[0])",
}  # fmt: skip


class Call:
    """Pickled, it calls what is named ``module.name`` with arguments, which may be calls themselves."""

    def __init__(self, name: str, *arguments: Any) -> None:
        module, _, attribute = name.rpartition(".")
        self.what, self.arguments = getattr(importlib.import_module(module), attribute), arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.what, self.arguments


def calls(marker: str) -> list[Any]:
    """Many ways to create a file whose name begins with ``marker`` when unpickled."""
    make, shell, touch = f"open({marker!r}, 'w')", f"touch {marker}", ["touch", marker]
    system = Call("builtins.getattr", Call("importlib.import_module", "os"), "system")
    return [
        Call("posix.system", shell), Call("os.mkdir", marker), Call("os.open", marker, 0o101), Call("os.makedirs", marker),
        Call("os.mkfifo", marker), Call("os.symlink", "/", marker), Call("os.spawnlp", 0, "touch", *touch), Call("pty.spawn", touch),
        Call("subprocess.call", touch), Call("subprocess.getoutput", shell), Call("subprocess.check_output", touch),
        Call("builtins.exec", make), Call("builtins.eval", make), Call("builtins.open", marker, "w"), Call("io.FileIO", marker, "w"),
        Call("codecs.open", marker, "w"), Call("gzip.open", marker, "w"), Call("bz2.open", marker, "w"), Call("lzma.open", marker, "w"),
        Call("tarfile.open", marker, "w"), Call("zipfile.ZipFile", marker, "w"), Call("logging.FileHandler", marker),
        Call("shutil.copy", __file__, marker), Call("cProfile.run", make), Call("timeit.timeit", make, "pass", time.perf_counter, 1),
        Call("pydoc.pipepager", "", shell), Call("numpy.memmap", marker, "u1", "w+", 0, (1,)), Call("numpy.testing.runstring", make, {}),
        Call("torch.save", 0, marker), Call("torch.from_file", marker, True, 1), Call("torch.utils.collect_env.run", shell),
        Call("joblib.dump", 0, marker), Call("sqlite3.connect", f"{marker}.db"), Call("dbm.dumb.open", marker, "c"),
        Call("tempfile.mkdtemp", "x", Path(marker).name, str(Path(marker).parent)),
        Call("builtins.list", Call("builtins.map", system, [shell])),
        Call("builtins.list", Call("builtins.map", Call("operator.methodcaller", "system", shell), [Call("importlib.import_module", "os")])),
        Call("builtins.any", Call("builtins.filter", system, [shell])), Call("importlib._bootstrap_external._write_atomic", marker, b""),
        Call("shutil.make_archive", marker, "zip", str(Path(__file__).parent), "__init__.py"), Call("mailbox.Maildir", marker), Call("mailbox.mbox", marker),
        Call("os.link", __file__, marker), Call("os.mknod", marker),
        Call("builtins.list", Call("builtins.map", Call("operator.methodcaller", "touch"), [Path(marker)])),
    ]  # fmt: skip


# --- packings --------------------------------------------------------------------------------------------------------------


def legacy_tar(call: Any) -> bytes:
    """Torch's first format."""
    nothing, out = pickle.dumps(0, 2), io.BytesIO()
    parts = {"sys_info": pickle.dumps({}, 2), "storages": nothing + pickle.dumps([], 2), "tensors": nothing, "pickle": pickle.dumps(call, 2)}
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in parts.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def saved(save: Callable[[Any, Any], object], what: Any) -> bytes:
    """What ``save(what, file)`` writes."""
    out = io.BytesIO()
    save(what, out)
    return out.getvalue()


def torch_zip(what: Any, **options: Any) -> bytes:
    return saved(lambda content, out: torch.save(content, out, **options), what)


def zipped(parts: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return out.getvalue()


def tarred(parts: dict[str, bytes], mode: str = "w") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in parts.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def safetensors(tensors: bytes = b"\0" * 16) -> bytes:
    header = b'{"a":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (len(tensors), len(tensors))
    return len(header).to_bytes(8, "little") + header + tensors


def by_hand(marker: str) -> dict[str, bytes]:
    """Pickles that no pickler writes."""
    path = marker.encode()
    text = b"X" + len(path).to_bytes(4, "little") + path
    call = b"cio\nopen\n" + text + b"X\x01\0\0\0w\x86R"
    torch_bytes = pickle.dumps(Call("builtins.open", marker, "w"), 2)
    nested = b"ctorch.storage\n_load_from_bytes\n"
    return {
        "names from the memo": b"\x80\x04\x8c\x02io\x94\x8c\x04open\x940h\x00h\x01\x93" + text + b"X\x01\0\0\0w\x86R.",
        "names below others": b"\x80\x04\x8c\x02io\x8c\x04openN0\x93" + text + b"X\x01\0\0\0w\x86R.",
        "names as long texts": b"\x80\x04\x8d" + (2).to_bytes(8, "little") + b"io\x8d" + (4).to_bytes(8, "little") + b"open\x93" + text + b"X\x01\0\0\0w\x86R.",
        "names as strings": b"U\x02ioS'\\x6fpen'\n\x93" + text + b"X\x01\0\0\0w\x86R.",
        "names as escapes": b"Vi\\u006f\nVope\\u006e\n\x93" + text + b"X\x01\0\0\0w\x86R.",
        "dotted names": b"\x80\x04\x8c\x06codecs\x8c\x0dbuiltins.open\x93" + text + b"X\x01\0\0\0w\x86R.",
        "dotted names of torch": b"\x80\x04\x8c\x05torch\x8c\x0fstorage.io.open\x93" + text + b"X\x01\0\0\0w\x86R.",
        "INST": b"(" + text + b"X\x01\0\0\0wiio\nopen\n.",
        "INST in ASCII": b"(V" + path + b"\nVw\niio\nopen\n.",
        "OBJ": b"(cio\nFileIO\n" + text + b"X\x01\0\0\0wo.",
        "NEWOBJ": b"\x80\x02cpathlib\nPath\n" + text + b"\x85\x810c_io\nopen\n" + text + b"X\x01\0\0\0w\x86R.",
        "an empty integer": b"I\0\n0" + call + b".",
        "an octal integer": b"I0123\n0" + call + b".",
        "an integer with a zero byte": b"I1\0junk\n0" + call + b".",
        "a long line": b"V" + b"a" * 200_000 + b"\n0(V" + path + b"\nVw\niio\nopen\n.",
        "no end": b"\x80\x02" + call,
        "no end, in ASCII": b"(V" + path + b"\nVw\niio\nopen\n",
        "an invalid opcode behind": b"\x80\x02" + call + b"\xff\xff",
        "an underflow behind": b"\x80\x02" + call + b"000000R",
        "a length beyond the end behind": b"\x80\x04" + call + b"\x8e" + (1 << 60).to_bytes(8, "little"),
        "two protocols": b"\x80\x02N0\x80\x05" + call + b".",
        "marks that are thrown away": b"\x80\x02((((0000" + call + b".",
        "bytes in torch's own call": b"\x80\x03" + nested + b"B" + len(torch_bytes).to_bytes(4, "little") + torch_bytes + b"\x85R.",
        "torch's own call under another name": b"\x80\x04\x8c\x05torch\x8c\x18storage._load_from_bytes\x93B"
        + len(torch_bytes).to_bytes(4, "little") + torch_bytes + b"\x85R.",
        "torch's own call passed on": b"\x80\x03cbuiltins\nlist\ncbuiltins\nmap\n" + nested + b"]B" + len(torch_bytes).to_bytes(4, "little")
        + torch_bytes + b"a\x86R\x85R.",
        "a default factory": b"\x80\x03ccollections\ndefaultdict\n" + nested + b"\x85R0" + call + b".",
        "Python 2 names": b"c__builtin__\nopen\n" + text + b"X\x01\0\0\0w\x86R.",
        "Python 2 modules": b"ccommands\ngetoutput\n(Vtouch " + path + b"\ntR.",
        "a rebuilt tensor": b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n(cio\nopen\nctorch\nTensor\n" + text + b"X\x01\0\0\0w\x86}tR.",
    }  # fmt: skip


def dangerous(folder: Path) -> list[Dangerous]:
    """The files, written into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "markers").mkdir()
    found: list[Dangerous] = []

    def add(kind: str, loader: str, content: Callable[[str], bytes], name: str = "file.bin") -> None:
        number = len(found)
        marker = folder / "markers" / f"m{number:03d}-"
        path = folder / f"{number:03d}" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(content(str(marker)))
        found.append(Dangerous(kind, path, loader, marker))

    def opens(marker: str) -> Any:
        return {"weights": [1, 2.5, "three", None, (b"four",)], "w": Call("builtins.open", marker, "w")}

    for index in range(len(calls("/nowhere/"))):
        protocol = index % 6
        add(f"pickle of protocol {protocol}", "pickle", lambda m, i=index, p=protocol: pickle.dumps(calls(m)[i], p), f"a{index}.dat")
    for protocol in range(6):
        for name in ("vocab.txt", "MODEL.BIN", ".hidden", "model.safetensors", "tokenizer.json"):
            add(f"pickle of protocol {protocol}", "pickle", lambda m, p=protocol: pickle.dumps(opens(m), p), name)
        add("two pickles", "pickles", lambda m, p=protocol: pickle.dumps({"a": 1}, p) + pickle.dumps(opens(m), p))
        add("torch zip", "torch", lambda m, p=protocol: torch_zip(opens(m), pickle_protocol=max(p, 2)), "sub/consolidated.00.pth.tar-50")
    for kind in by_hand("/nowhere/"):
        add("pickle by hand", "pickle", lambda m, k=kind: by_hand(m)[k])
        if "torch" not in kind and "no end" not in kind and "behind" not in kind and "ASCII" not in kind and "line" not in kind:
            add("torch zip by hand", "torch", lambda m, k=kind: zipped({"archive/data.pkl": by_hand(m)[k], "archive/version": b"3"}, 0))
    for name in ("consolidated.dat", "PYTORCH_MODEL.BIN", "adapter_model.safetensors", "checkpoint-1/pytorch_model.bin", "model.pt.txt"):
        add("torch zip", "torch stream", lambda m: torch_zip(opens(m)), name)
        add("torch without zip", "torch stream", lambda m: torch_zip(opens(m), _use_new_zipfile_serialization=False), name)
    add("torch zip, deflated", "torch", lambda m: zipped({"x/data.pkl": pickle.dumps(opens(m), 2), "x/version": b"3"}))
    add("torch zip, two tables", "torch", two_tables, "pytorch_model.bin")
    add("torch.export", "export", exported, "model.pt2")
    add("torch tar", "torch", lambda m: legacy_tar(opens(m)), "old.tar")
    for extra in ({}, {"compress": ("zlib", 3)}, {"compress": ("gzip", 3)}, {"compress": ("bz2", 3)}, {"compress": ("lzma", 3)}, {"compress": ("xz", 3)}):
        packing = extra["compress"][0] if extra else "raw"
        add(f"joblib, {packing}", "joblib", lambda m, e=extra: saved(lambda c, out: joblib.dump(c, out, **e), opens(m)), "estimator.pkl.z")
        add(f"joblib, {packing}", "joblib",
            lambda m, e=extra: saved(lambda c, out: joblib.dump(c, out, **e), [np.zeros(9), opens(m), np.ones(300)]), "model.joblib")  # fmt: skip
    add("joblib, raw", "joblib", lambda m: saved(joblib.dump, [np.zeros(9), np.array([Call("io.open", m, "w")], dtype=object)]))
    add("joblib array of opcodes", "pickle", array_of_opcodes)
    for kind in arrays_that_lie("/nowhere/"):
        add(f"joblib, {kind}", "joblib", lambda m, k=kind: arrays_that_lie(m)[k])
    add("npy of objects", "numpy", lambda m: saved(lambda c, out: np.save(out, c, allow_pickle=True), np.array([Call("io.open", m, "w")], dtype=object)), "stats.npy")
    add("npy of objects", "numpy", lambda m: saved(lambda c, out: np.save(out, c, allow_pickle=True), np.array([[opens(m)]], dtype=object)), "x.safetensors")
    for compress in (np.savez, np.savez_compressed):
        add("npz of objects", "numpy", lambda m, c=compress: saved(lambda a, out: c(out, x=np.zeros(3), y=a), np.array([Call("io.open", m, "w")], dtype=object)), "stats.npz")
    add("npz in the place of tensors", "numpy", lambda m: zipped({"x/data.pkl": pickle.dumps({}), "x/data/0": saved(
        lambda a, out: np.save(out, a, allow_pickle=True), np.array([Call("io.open", m, "w")], dtype=object))}, 0), "stats.npz")  # fmt: skip
    add("numpy.load of a pickle", "numpy", lambda m: pickle.dumps(opens(m), 4), "array.npy")
    add("gzip", "gzip", lambda m: gzip.compress(pickle.dumps(opens(m))), "a.gz")
    add("gzip, two parts", "gzip", lambda m: gzip.compress(pickle.dumps(opens(m))[:20]) + gzip.compress(pickle.dumps(opens(m))[20:]), "a.gz")
    add("bzip2", "bz2", lambda m: bz2.compress(pickle.dumps(opens(m))), "a.bin")
    add("lzma", "lzma", lambda m: lzma.compress(pickle.dumps(opens(m))), "a.bin")
    add("lzma", "lzma", lambda m: lzma.compress(pickle.dumps(opens(m)), lzma.FORMAT_ALONE), "a.bin")
    add("zlib", "zlib", lambda m: zlib.compress(pickle.dumps(opens(m), 0), 9), "a.bin")
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        add("zip", "zip", lambda m, z=method: zipped({"README.md": b"# x", "a/b.pkl": pickle.dumps(opens(m), z % 6)}, z), "data.zip")
    add("zip behind a picture", "zip", lambda m: picture("PNG") + zipped({"a.pkl": pickle.dumps(opens(m))}), "logo.png")
    add("zip behind safetensors", "zip", lambda m: safetensors() + zipped({"a.pkl": pickle.dumps(opens(m))}), "model.safetensors")
    add("zip as a tensor of safetensors", "zip", lambda m: safetensors(zipped({"a.pkl": pickle.dumps(opens(m))})), "model.safetensors")
    add("zip behind a text", "zip", lambda m: b"# a model\n" + zipped({"a.pkl": pickle.dumps(opens(m))}), "README.md")
    add("tar", "tar", lambda m: tarred({"README.md": b"# x", "a/b.pkl": pickle.dumps(opens(m))}), "data.tar")
    add("tar, compressed", "tar", lambda m: tarred({"a/b.pkl": pickle.dumps(opens(m))}, "w:gz"), "data.tgz")
    add("tar, compressed", "tar", lambda m: tarred({"a/b.pkl": pickle.dumps(opens(m))}, "w:xz"), "data")
    add("NeMo", "nemo", lambda m: tarred({"model_config.yaml": b"a: 1", "weights.ckpt": torch_zip(opens(m))}), "model.nemo")
    add("NeMo", "nemo", lambda m: tarred({"model_config.yaml": b"a: 1", "weights.ckpt": torch_zip(opens(m))}, "w:gz"), "model.nemo")
    add("tar that leaves its folder", "unpack", lambda m: tarred({f"../../markers/{Path(m).name}": b""}), "data.tar")
    add("tar that leaves its folder", "unpack", lambda m: tarred({m: b""}), "data.tar")
    add("TorchScript", "jit", torch_script, "model.pt")
    add("TorchScript", "jit", torch_script, "model.safetensors")
    make = "import os\nopen({!r}, 'w')\n"
    add("Python", "python", lambda m: make.format(m).encode(), "modeling.py")
    add("Python", "python", lambda m: make.format(m).encode(), "MODELING.PY")
    add("Python", "exec", lambda m: make.format(m).encode(), "config")
    add("Python", "exec", lambda m: f"eval({f'open({m!r}, chr(119))'!r})".encode(), "a.txt")
    add("Python in a zip", "import", lambda m: zipped({"payload_in_zip.py": make.format(m).encode()}), "package.whl")
    add("compiled Python", "python", lambda m: compiled(make.format(m)), "cache.pyc")
    add("compiled Python", "python", lambda m: compiled(make.format(m)), "weights.bin")
    add("script", "script", lambda m: f"#!/bin/sh\ntouch {m}\n".encode(), "run")
    add("script", "script", lambda m: f"#!{sys.executable}\n{make.format(m)}".encode(), "model.llamafile")
    add("script", "bash", lambda m: f"touch {m}\n".encode(), "setup.sh")
    if shutil.which("gcc"):
        add("library", "library", library, "model.so")
        add("library", "library", library, "weights.bin")
    add("YAML", "yaml", lambda m: f"a: !!python/object/apply:builtins.open [{m}, w]\n".encode(), "config.yaml")
    add("YAML", "yaml", lambda m: f"%TAG !p! tag:yaml.org,2002:pyth\n---\na: !p!on/object/apply:builtins.open [{m}, w]\n".encode(), "config.yml")
    add("YAML", "yaml", lambda m: f"%TAG !p! tag:yam\n---\na: !p!l.org,2002:python/object/apply:builtins.open [{m}, w]\n".encode(), "c.yml")
    add("YAML", "yaml", lambda m: f"a: !!pytho%6e/object/apply:builtins.open [{m}, w]\n".encode(), "config.txt")
    add("shelf", "shelf", lambda m: shelf({"a": 1, "b": opens(m)})[".dat"], "cache.dat")
    (found[-1].path.parent / "cache.dir").write_bytes(shelf({"a": 1, "b": opens(str(found[-1].marker))})[".dir"])
    add("SQLite", "sqlite", lambda m: database(pickle.dumps(opens(m))), "cache.sqlite3")
    add("pickle behind a header", "header", lambda m: b"MODELFILE 1.0 \0\1" + pickle.dumps(opens(m)), "model.bin")
    add("cloudpickle", "pickle", by_cloudpickle, "function.pkl")
    return found


def picture(kind: str) -> bytes:
    from PIL import Image

    return saved(lambda image, out: image.save(out, kind), Image.new("RGB", (8, 8), (9, 99, 199)))


def torch_script(marker: str) -> bytes:
    """A program that saves a tensor under the marker's name when it is used."""
    source = f"def forward(self, x: Tensor) -> Tensor:\n    torch.save(x, {marker!r})\n    return x\n"
    module = type(f"Payload{zlib.crc32(marker.encode())}", (torch.jit.ScriptModule,), {})()  # a class has one forward
    module.define(source)
    return saved(torch.jit.save, module)


def compiled(source: str) -> bytes:
    return importlib.util.MAGIC_NUMBER + b"\0" * 12 + marshal.dumps(compile(source, "payload", "exec"))


def library(marker: str) -> bytes:
    source, out = Path(f"{marker}.c"), Path(f"{marker}.so")
    source.write_text(f'''#include <fcntl.h>
        __attribute__((constructor)) static void payload(void) {{ open("{marker}", O_CREAT | O_WRONLY, 0600); }}''')
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", out, source], check=True)
    content = out.read_bytes()
    source.unlink()
    out.unlink()
    return content


def shelf(entries: dict[str, Any]) -> dict[str, bytes]:
    """The files of a shelf without a database library."""
    import dbm.dumb
    import shelve
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        with shelve.Shelf(dbm.dumb.open(f"{folder}/cache", "c")) as opened:  # type: ignore[arg-type]
            opened.update(entries)
        return {suffix: Path(f"{folder}/cache{suffix}").read_bytes() for suffix in (".dat", ".dir")}


def array_of_opcodes(marker: str) -> bytes:
    """An array for joblib, opcodes for any other unpickler; the bytes that align it are opcodes as well."""
    content = saved(joblib.dump, np.frombuffer(f"0cio\nopen\n(V{marker}\nVw\ntR.".encode(), dtype="u1"))
    end = content.index(b"ub", content.index(b"numpy_array_alignment_bytes")) + 2
    return content[:end] + b"N" + b"N0" * (ord("N") // 2) + content[end + 1 + content[end] :]


def arrays_that_lie(marker: str) -> dict[str, bytes]:
    """Arrays that joblib takes for pickles and whose types look plain. For any other unpickler the memo holds other names."""

    def text(content: str) -> bytes:
        return b"X" + len(content).to_bytes(4, "little") + content.encode()

    payload = b"\x80\x04\x8c\x02io\x94\x8c\x04open\x9400h\x00h\x01\x93" + text(marker) + text("w") + b"\x86R."
    payload += bytes(-len(payload) % 8)
    plain, objects, void = (b"cnumpy\ndtype\n" + text(code) + b"\x85R" for code in ("f8", "O8", "V8"))
    types = {
        "a forged type": text("dtype") + void + b"(K\x03" + text("|") + b"NNNK\x08K\x01K\x3ftb",
        "a made key": text("dtype") + plain + b"cbuiltins\nstr\n" + text("dtype") + b"\x85R" + objects,
    }
    head = b"\x80\x02" + text("collections") + b"q\x00" + text("OrderedDict") + b"q\x0100cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81("
    head += text("subclass") + b"cnumpy\nndarray\n" + text("shape") + b"K" + bytes([len(payload) // 8]) + b"\x85" + text("order") + text("C")
    return {kind: head + entry + text("allow_mmap") + b"\x89db" + payload + b"." for kind, entry in types.items()}


def two_tables(marker: str) -> bytes:
    """An archive of which torch believes the first table of contents, and Python's zipfile the second."""
    parts = []
    for content in (Call("builtins.open", marker, "w"), {"a": 1}):
        archive = zipped({"x/data.pkl": pickle.dumps(content, 2), "x/version": b"3"}, 0)
        end = archive.rindex(b"PK\5\6")
        start = int.from_bytes(archive[end + 16 : end + 20], "little")
        parts.append((archive[:start], archive[start:end], archive[end:]))
    (evil, evil_table, _), (good, good_table, end_of) = parts
    moved = bytearray(good_table)
    for at in (found.start() for found in re.finditer(b"PK\1\2", good_table)):
        where = int.from_bytes(moved[at + 42 : at + 46], "little") + len(evil) - len(good)
        moved[at + 42 : at + 46] = where.to_bytes(4, "little")
    return evil + evil_table + good + bytes(moved) + end_of[:16] + len(evil).to_bytes(4, "little") + end_of[20:]


def exported(marker: str) -> bytes:
    """A graph whose sizes are expressions, which Python evaluates."""
    import torch.export

    out = io.BytesIO()
    torch.export.save(torch.export.export(torch.nn.Flatten(0), (torch.ones(3, 2),), dynamic_shapes={"input": {0: torch.export.Dim.AUTO}}), out)
    with zipfile.ZipFile(out) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    call = b'"expr_str": "open(\'' + marker.encode() + b"', 'w') or "
    return zipped({name: part.replace(b'"expr_str": "', call) for name, part in content.items()}, 0)


def database(content: bytes) -> bytes:
    import sqlite3

    connection = sqlite3.connect(":memory:")
    connection.execute("create table t (b blob)")
    connection.execute("insert into t values (?)", (content,))
    connection.commit()
    return connection.serialize()


def by_cloudpickle(marker: str) -> bytes:
    """An object whose unpickling calls a function that the file brings along."""
    import cloudpickle

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return (lambda path: open(path, "w"), (marker,))

    return cloudpickle.dumps(Payload())


def run_loaders(files: list[Dangerous]) -> list[Dangerous]:
    """Open each file with its ordinary loader, all in one other process. Returns those whose payload has run."""
    import json
    import os

    program = textwrap.dedent('''
        import bz2, ctypes, gzip, importlib, io, json, lzma, os, pickle, runpy, shelve, sqlite3, subprocess, sys, tarfile, zipfile, zlib
        import joblib, numpy as np, torch, torch.export, warnings, yaml
        warnings.simplefilter("ignore")
        for p, statements in json.load(open(sys.argv[1])):
            try:
                exec(statements)
            except BaseException as error:
                print(p, repr(error)[:200])
    ''')
    listed = files[0].marker.parent / "list.json"
    listed.write_text(json.dumps([(str(file.path), LOADERS[file.loader]) for file in files]))
    done = subprocess.run([sys.executable, "-c", program, str(listed)], capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL,
                          cwd=listed.parent, env=os.environ | {"OMP_NUM_THREADS": "1"})  # fmt: skip
    there = os.listdir(listed.parent)
    ran = [file for file in files if any(name.startswith(file.marker.name) for name in there)]
    if len(ran) < len(files):
        print(done.stdout, done.stderr[-2000:])
    return ran


# --- what runs nothing -----------------------------------------------------------------------------------------------------


def harmless(folder: Path) -> list[Path]:
    """Files as the libraries themselves write them."""
    folder.mkdir(parents=True, exist_ok=True)

    def add(name: str, content: bytes | str) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    _plain_values(add)
    _checkpoints(add)
    _texts_and_media(add)
    _libraries(folder)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _plain_values(add: Callable[[str, bytes | str], None]) -> None:
    import collections
    import datetime
    import pathlib

    import safetensors.torch

    plain = {"text": ["a", 1, 2.5, None, True, b"bytes", 2**70], "set": {1, 2}, "frozen": frozenset("ab"), "complex": 1j, "slice": slice(1, 2)}
    more = [collections.OrderedDict(a=1), collections.Counter("aab"), collections.deque([1]), collections.defaultdict(list, a=[1]),
            datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC), datetime.timedelta(1), pathlib.PurePosixPath("a/b"), bytearray(b"x"), range(3)]  # fmt: skip
    arrays = [np.zeros(3), np.ones((2, 3), order="F"), np.float32(1), np.int64(7), np.bool_(True), np.dtype("f4"), np.array(["a", "b"]),
              np.array([1, "a", None], dtype=object), np.zeros(2, dtype=[("a", "f4"), ("b", "i8")]), np.array(["2020"], dtype="M8[D]"),
              np.ma.masked_array([1, 2], [0, 1]), np.random.default_rng(0), np.random.RandomState(0)]  # fmt: skip
    tensors = [torch.zeros(3), torch.nn.Parameter(torch.ones(2)), torch.float16, torch.Size([1]), torch.device("cpu")]
    for protocol in range(6):
        add(f"plain-{protocol}.pkl", pickle.dumps(plain, protocol))
        add(f"more-{protocol}.pkl", pickle.dumps(more, protocol))
        add(f"arrays-{protocol}.pkl", pickle.dumps(arrays, protocol))
        add(f"tensors-{protocol}.pkl", pickle.dumps(tensors, protocol))
        add(f"several-{protocol}.pkl", pickle.dumps(plain, protocol) * 3)
    for index, array in enumerate([np.zeros(4, "f4"), np.arange(9), np.ones((2, 2), "c16"), np.array(["a"]), np.array([True]), np.zeros(0),
                                   np.float64(3), np.zeros((2, 3), order="F"), np.zeros(2, dtype=[("a", "f4")]), np.array(["2020"], "M8[D]")]):  # fmt: skip
        add(f"array-{index}.npy", saved(lambda a, out: np.save(out, a), array))
    add("objects.npy", saved(lambda a, out: np.save(out, a, allow_pickle=True), np.array(["a", None, 1.5], dtype=object)))
    add("two.npy", saved(lambda a, out: (np.save(out, a), np.save(out, a)), np.zeros(3)))
    for index, save in enumerate((np.savez, np.savez_compressed)):
        add(f"arrays-{index}.npz", saved(lambda a, out, save=save: save(out, x=a, y=np.arange(99)), np.zeros(3)))
    for packing in (0, ("zlib", 3), ("gzip", 3), ("bz2", 3), ("lzma", 3), ("xz", 3)):
        name = packing[0] if packing else "raw"
        content = {"a": np.zeros(100), "b": ["text", np.float32(1)], "c": np.array(["x", "yy"]), "d": np.array([1, None], dtype=object)}
        parts = np.array([(1, "a")], dtype=[("a", "f4"), ("b", "U5")])
        for kind, array in {"objects": np.array([1, "a"], dtype=object), "parts": parts, "both": parts.astype([("a", "O"), ("b", "U5")])}.items():
            add(f"{kind}-{name}.joblib", saved(lambda c, out, packing=packing: joblib.dump(c, out, compress=packing), array))
        add(f"values-{name}.joblib", saved(lambda c, out, packing=packing: joblib.dump(c, out, compress=packing), content))
    dtypes = ("float32", "float16", "bfloat16", "float64", "int8", "uint8", "int16", "int32", "int64", "bool", "float8_e4m3fn", "float8_e5m2", "complex64")
    for index, name in enumerate(dtypes):
        tensor = torch.zeros(3, index).to(getattr(torch, name))
        add(f"{name}.safetensors", safetensors.torch.save({"a": tensor, "b": tensor[:0].clone()}, {"format": "pt"}))
        add(f"{name}.pt", torch_zip({"a": tensor, "b": tensor.t()}))
    add("length-640.safetensors", safetensors.torch.save({"a": torch.zeros(2)}, {"x": "y" * (640 - 8 - 71)}))


def _checkpoints(add: Callable[[str, bytes | str], None]) -> None:
    import argparse
    import random

    from transformers import Seq2SeqTrainingArguments, TrainingArguments

    def optimizer(kind: Any, **options: Any) -> Any:
        weight = torch.nn.Parameter(torch.ones(4, 3))
        made = kind([weight], lr=0.1, **options)
        weight.grad = torch.ones_like(weight)
        if kind is not torch.optim.LBFGS:
            made.step()
        return made

    state = {"state_dict": torch.nn.Linear(3, 2).state_dict(), "epoch": 5}
    kinds = [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adamax, torch.optim.NAdam, torch.optim.RAdam, torch.optim.RMSprop,
             torch.optim.Rprop, torch.optim.Adagrad, torch.optim.Adadelta, torch.optim.ASGD, torch.optim.LBFGS]  # fmt: skip
    for kind in kinds:
        add(f"optimizer-{kind.__name__}.pt", torch_zip(optimizer(kind).state_dict()))
        add(f"whole-{kind.__name__}.pth", torch_zip(state | {"optimizer": optimizer(kind)}))
    schedulers = torch.optim.lr_scheduler
    for name, options in {"StepLR": {"step_size": 2}, "MultiStepLR": {"milestones": [2, 3]}, "ConstantLR": {}, "LinearLR": {}, "ExponentialLR": {"gamma": 0.9},
                          "PolynomialLR": {}, "CosineAnnealingLR": {"T_max": 9}, "CosineAnnealingWarmRestarts": {"T_0": 3},
                          "OneCycleLR": {"max_lr": 1.0, "total_steps": 9}, "ReduceLROnPlateau": {}}.items():  # fmt: skip
        scheduler = getattr(schedulers, name)(optimizer(torch.optim.SGD, momentum=0.9), **options)
        add(f"{name}/scheduler.pt", torch_zip(scheduler.state_dict()))
        add(f"{name}/model.pth.tar-50", torch_zip(state | {"optimizer": scheduler.optimizer.state_dict(), "scheduler": {"successor": scheduler}}))
    cosine = schedulers.CosineAnnealingLR(optimizer(torch.optim.SGD), 3)
    for legacy in (True, False):
        save: Callable[[Any], bytes] = lambda what, legacy=legacy: torch_zip(what, _use_new_zipfile_serialization=not legacy)  # noqa: E731
        add(f"{legacy}/state.bin", save(state["state_dict"]))
        add(f"{legacy}/namespace.pth", save(state | {"args": argparse.Namespace(lr=0.1, names=["a"])}))
        add(f"{legacy}/numpy.pth", save(state | {"best": np.float64(0.5), "mean": np.zeros(3)}))
        add(f"{legacy}/settings.pth", save(state | {"cfg": yacs_settings(), "scheduler": cosine.state_dict(), "val_result": None}))
        add(f"{legacy}/rng_state.pth", save({"python": random.getstate(), "numpy": np.random.get_state(), "cpu": torch.random.get_rng_state()}))
        add(f"{legacy}/training_args.bin", save(TrainingArguments("nowhere", use_cpu=True)))
        add(f"{legacy}/seq2seq/training_args.bin", save(Seq2SeqTrainingArguments("nowhere", use_cpu=True, report_to=[])))
        add(f"{legacy}/more.pt", save({"sparse": torch.eye(2).to_sparse(), "buffer": torch.nn.Buffer(torch.ones(1)), "conj": torch.ones(1, dtype=torch.complex64).conj(),
                                       "meta": torch.empty(2, device="meta")}))  # fmt: skip
    add("scaler.pt", torch_zip(torch.amp.GradScaler("cpu").state_dict()))
    add("pickled-5.pt", torch_zip(state, pickle_protocol=5))


def yacs_settings() -> Any:
    """The settings object of yacs, which Dassl keeps in checkpoints."""
    import types

    module = types.ModuleType("yacs.config")
    module.CfgNode = type("CfgNode", (dict,), {"__module__": "yacs.config"})  # type: ignore[attr-defined]
    sys.modules.setdefault("yacs", types.ModuleType("yacs"))
    kind = sys.modules.setdefault("yacs.config", module).CfgNode
    settings = kind(TRAINER=kind(NAME="CoOp", N_CTX=16), SEED=1)
    settings.__dict__["__immutable__"] = True
    return settings


def gguf() -> bytes:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    entries = [text("general.name") + struct.pack("<I", 8) + text("tiny"), text("tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b"),
               text("tokenizer.chat_template") + struct.pack("<I", 8) + text("{{ messages }}"), text("size") + struct.pack("<II", 4, 3)]  # fmt: skip
    tensor = text("a") + struct.pack("<IQIQ", 1, 8, 0, 0)
    return (b"GGUF" + struct.pack("<IQQ", 3, 1, len(entries)) + b"".join(entries) + tensor).ljust(256, b"\0") + bytes(32)


def sentencepiece() -> bytes:
    def message(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content)]) + content

    pieces = b"".join(message(1, message(1, piece.encode()) + b"\x15" + struct.pack("<f", -1.0)) for piece in ("▁the", "cat", "s"))
    return pieces + message(2, message(1, b"corpus.txt")) + message(3, message(1, b"nmt_nfkc"))


def msgpack() -> bytes:
    array = b"\x93\x91\x02\xa7float32" + b"\xc4\x08" + bytes(8)
    return b"\x82\xa6params\x81\xa1w\xc7" + bytes([len(array)]) + b"\x01" + array + b"\xa4step\x05"


def _texts_and_media(add: Callable[[str, bytes | str], None]) -> None:
    texts = {
        "README.md": "# (a model)\n\nIt is tiny: `import torch` first, then `torch.load`.\n", "LICENSE": "Copyright (c) nobody\nAll rights.\n",
        "copying.txt": "copyright nobody\nand others\n", "in.txt": "(in short) it is\nthe second line\n", "merges.txt": "#version: 0.2\ni n\nt h\n",
        "vocab.txt": "[PAD]\n[UNK]\ncat\ndog\n.\n", "labels.txt": "cat\ndog\nbird\n", "labels-2.txt": "cos\nsin\nlog\n", "single.txt": "N", "poem.txt": "I am\nSo Fine\n",
        "wordlist": "(\n(i\n)\n", "data.csv": "file_name,label\na.png,cat\n", "data.jsonl": '{"a": 1}\n{"a": 2}\n', "config.yaml": "model:\n  _target_: my.Model\n",
        ".gitattributes": "*.bin filter=lfs\n", "pointer.safetensors": "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        "chat_template.jinja": "{% for m in messages %}{{ m.content }}{% endfor %}", "page.html": "<html><script>1</script></html>",
        "card.ko.md": "# 모델\n설명\n", "requirements.txt": "torch>=2.9\nnumpy==2.0\n", "setup.cfg": "[metadata]\nname = a\n", "trainer_state.json": '{"log_history": []}',
        "model.safetensors.index.json": '{"metadata": {}, "weight_map": {"a": "model-00001.safetensors"}}', "notes.rst": "Title\n=====\n\nclass and import\n",
    }  # fmt: skip
    for name, text in texts.items():
        add(f"texts/{name}", text)
    add("texts/utf16.txt", "a text".encode("utf-16"))
    add("texts/bom.json", b"\xef\xbb\xbf{}")
    add("texts/empty.lock", b"")
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "ICO"):
        add(f"pictures/a.{kind.lower()}", picture(kind))
    add("model.gguf", gguf())
    add("spiece.model", sentencepiece())
    add("flax_model.msgpack", msgpack())
    add("texts.zip", zipped({"a.txt": b"a text", "b/c.json": b"{}"}))
    add("texts.tar.gz", tarred({"a.txt": b"a text", "b/c.json": b"{}"}, "w:gz"))
    add("vocab.txt.gz", gzip.compress(b"a text\n" * 99))
    add("model.nemo", tarred({"model_config.yaml": b"a: 1\n", "weights.ckpt": torch_zip({"a": torch.ones(2)})}))
    add("cache.sqlite3", database(b"only bytes"))


def _libraries(folder: Path) -> None:
    """Whole folders as transformers, peft, diffusers and torch.distributed save them."""
    import torch.distributed.checkpoint as distributed
    from peft import LoraConfig, get_peft_model
    from transformers import CLIPModel, GenerationConfig

    from tests.conftest import save_tiny_clip
    from tests.tiny_pipelines import stable_diffusion

    clip = folder / "clip"
    clip.mkdir()
    save_tiny_clip(clip)
    model = CLIPModel.from_pretrained(clip)
    torch.save(model.state_dict(), clip / "pytorch_model.bin")
    model.save_pretrained(folder / "sharded", max_shard_size="20KB")
    GenerationConfig().save_pretrained(folder / "sharded")
    get_peft_model(model, LoraConfig(target_modules=["q_proj"], r=2)).save_pretrained(folder / "lora")
    stable_diffusion(folder / "pipeline")
    distributed.save({"a": torch.ones(2), "b": 3}, checkpoint_id=folder / "distributed")
