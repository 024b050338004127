"""A copy of an audit folder: manifest, trials and the evidence that they name, and nothing that the folder was made to lead to."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from vlaudit.audit.journal import TRIALS, TRIALS_BYTES, Journal, open_part, read_manifest
from vlaudit.errors import UsageError
from vlaudit.files import Unreadable, disk_error, file_sha256, make_folder, read_bytes, write_atomically
from vlaudit.probe.artifacts import place_for

ARTIFACT = re.compile(rb'"artifacts/([0-9a-f]{2}/([0-9a-f]{64})\.[a-z0-9]{1,8})"')
"""How a line of a journal names a file of evidence: its place and its hash."""


def copy_audit(folder: Path, out: Path) -> None:
    """Copy an audit that was judged, and so read, into ``out``, a new or empty folder. Raises UsageError for another."""
    manifest, named = read_manifest(folder), set[tuple[bytes, bytes]]()
    if os.path.lexists(out) and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"'{out}' is there already, and not empty.", "Choose another --out.")
    if out.resolve().is_relative_to(folder.resolve()):
        raise UsageError(f"'{out}' lies in the audit that is judged, which stays as it is.", "Choose another --out.")
    make_folder(out)
    try:
        if os.path.lexists(folder / TRIALS):
            with open_part(folder, TRIALS, TRIALS_BYTES) as there, open(out / TRIALS, "xb") as here:
                for line in there:
                    here.write(line)
                    named.update(ARTIFACT.findall(line))
    except OSError as error:
        raise disk_error(error, out) from error
    for name, sha256 in sorted(named):
        copy_evidence(folder, out, name.decode(), sha256.decode())
    begun = manifest.folder and os.path.relpath(folder.resolve() / manifest.folder, out.resolve())
    Journal(out).write_manifest(manifest.model_copy(update={"folder": begun and Path(begun).as_posix()}))


def copy_evidence(folder: Path, out: Path, name: str, sha256: str) -> bool:
    """Copy a file of evidence that is what its name says. A report says of one that is not there that it is lost. Raises UsageError
    where ``out`` leads out of itself."""
    there, here = folder / "artifacts", place_for(out, f"artifacts/{name}")
    if here.is_file() and not here.is_symlink() and file_sha256(here) == sha256:
        return True
    if there.is_symlink() or (there / name).parent.is_symlink():
        return False
    try:
        content = read_bytes(there / name, follow=False)
    except Unreadable:
        return False
    if hashlib.sha256(content).hexdigest() != sha256:
        return False
    write_atomically(here, content)
    return True
