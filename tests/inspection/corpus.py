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
import pickletools
import shutil
import struct
import subprocess
import sys
import tarfile
import textwrap
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
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
    add("torch tar", "torch", lambda m: legacy_tar(opens(m)), "old.tar")
    for extra in ({}, {"compress": ("zlib", 3)}, {"compress": ("gzip", 3)}, {"compress": ("bz2", 3)}, {"compress": ("lzma", 3)}, {"compress": ("xz", 3)}):
        packing = extra["compress"][0] if extra else "raw"
        add(f"joblib, {packing}", "joblib", lambda m, e=extra: saved(lambda c, out: joblib.dump(c, out, **e), opens(m)), "estimator.pkl.z")
        add(f"joblib, {packing}", "joblib",
            lambda m, e=extra: saved(lambda c, out: joblib.dump(c, out, **e), [np.zeros(9), opens(m), np.ones(300)]), "model.joblib")  # fmt: skip
    add("joblib, raw", "joblib", lambda m: saved(joblib.dump, [np.zeros(9), np.array([Call("io.open", m, "w")], dtype=object)]))
    add("joblib array of opcodes", "pickle", array_of_opcodes)
    add("npy of objects", "numpy", lambda m: saved(lambda c, out: np.save(out, c, allow_pickle=True), np.array([Call("io.open", m, "w")], dtype=object)), "stats.npy")
    add("npy of objects", "numpy", lambda m: saved(lambda c, out: np.save(out, c, allow_pickle=True), np.array([[opens(m)]], dtype=object)), "x.safetensors")
    for compress in (np.savez, np.savez_compressed):
        add("npz of objects", "numpy", lambda m, c=compress: saved(lambda a, out: c(out, x=np.zeros(3), y=a), np.array([Call("io.open", m, "w")], dtype=object)), "stats.npz")
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
        import joblib, numpy as np, torch, warnings, yaml
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
