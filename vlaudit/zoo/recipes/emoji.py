"""Build the bundled pictures from the two npm packages of emoji.

`build` fetches the pinned packages with `npm pack`.
"""

from __future__ import annotations

import csv
import json
import random
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path

from PIL import Image

from vlaudit.data.emoji import COLUMNS, ROLES, SIZE, STYLES, TONES, Emoji

VERSION = "16.0.0"
SEED = 16
_TONE_CODES = dict(zip(("1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"), TONES[1:], strict=True))
_WORKERS = {"1F9D1": "person", "1F468": "man", "1F469": "woman"}
_DUPLICATE_NAMES = {"1F935": "person in tuxedo", "1F473": "person with turban"}

ATTRIBUTION = """\
# Where the pictures come from

Both sets were taken from the npm packages `emoji-datasource-google` and `emoji-datasource-twitter`, version {version}
(https://github.com/iamcal/emoji-data; its metadata, here `emoji.csv`, under the MIT licence: `LICENSE-emoji-data`).

* `google.webp`: Noto Emoji, Copyright Google Inc., Apache License 2.0 (https://github.com/googlefonts/noto-emoji).
* `twitter.webp`: Twemoji, Copyright 2020 Twitter, Inc and other contributors, Creative Commons Attribution 4.0
  (https://creativecommons.org/licenses/by/4.0/, https://github.com/jdecked/twemoji).

Changes made: each picture was laid on white, reduced to {size} x {size} pixels and placed in a sprite sheet.
"""


def build(folder: Path) -> None:
    """Write sprite sheets, metadata and licences to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        packages = {style: _fetch(style, Path(scratch)) for style in STYLES}
        table: list[Emoji] = []
        for style, package in packages.items():
            rows, files = zip(*_emoji_of(style, package), strict=True)
            _sprite_sheet([package / "img" / style / "64" / name for name in files]).save(
                folder / f"{style}.webp", lossless=True, quality=100, method=6
            )
            table.extend(rows)
        shutil.copyfile(packages["google"] / "LICENSE", folder / "LICENSE-emoji-data")
    (folder / "ATTRIBUTION.md").write_text(ATTRIBUTION.format(version=VERSION, size=SIZE), encoding="utf-8")
    with (folder / "emoji.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Emoji)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in split(table, random.Random(SEED)))


def split(table: list[Emoji], rng: random.Random) -> list[Emoji]:
    """Give every emoji its split.

    Roles: a quarter of each role and gender goes to `pretrain`. Elsewhere one style of every second emoji is held
    back, so that the flagship knows the name from the other style. What is held back is halved at random into `train`
    and `test`.
    """
    cells: dict[tuple[str, ...], list[Emoji]] = defaultdict(list)
    for row in table:
        cells[(row.role, row.gender) if row.role else ("", row.unified)].append(row)
    splits: dict[tuple[str, int], str] = {}
    turn = 0  # alternates over all cells, so that cells of odd size do not favour one half
    for (role, _), cell in cells.items():
        rng.shuffle(cell)
        held_back = cell[len(cell) // 4 :] if role else cell[: rng.randrange(2)]
        splits |= {(row.style, row.index): "pretrain" for row in cell}
        for row in held_back:
            splits[row.style, row.index] = ("train", "test")[turn % 2]
            turn += 1
    return [replace(row, split=splits[row.style, row.index]) for row in table]


def _fetch(style: str, scratch: Path) -> Path:
    name = f"emoji-datasource-{style}"
    subprocess.run(["npm", "pack", f"{name}@{VERSION}"], cwd=scratch, check=True, capture_output=True)
    with tarfile.open(scratch / f"{name}-{VERSION}.tgz") as archive:
        archive.extractall(scratch / style, filter="data")
    return scratch / style / "package"


def _emoji_of(style: str, package: Path) -> Iterator[tuple[Emoji, str]]:
    """Yield each emoji and its tone variants with the file name of the picture."""
    index = 0
    for entry in json.loads((package / "emoji.json").read_text(encoding="utf-8")):
        variants = entry.get("skin_variations", {})
        tones = {"default" if variants else "": entry} | {_tone(key): value for key, value in variants.items()}
        name = _DUPLICATE_NAMES.get(entry["unified"]) or " ".join(re.findall(r"[\w&*.'’-]+", entry["name"].lower()))
        role, gender = _role_and_gender(entry, name)
        for tone, variant in tones.items():
            if variant[f"has_img_{style}"]:
                kind = entry["category"], entry["subcategory"]
                yield Emoji(index, style, variant["unified"], name, *kind, role, gender, tone, ""), variant["image"]
                index += 1


def _tone(codes: str) -> str:
    return " and ".join(_TONE_CODES[code] for code in codes.split("-"))


def _role_and_gender(entry: dict[str, str], name: str) -> tuple[str, str]:
    words = name.split()
    worker = _WORKERS.get(entry["unified"].split("-")[0], "")
    role = name.removeprefix(worker).strip()
    if worker and role in ROLES:
        return role, worker
    if not entry["subcategory"].startswith("person"):
        return "", ""
    return "", next((gender for gender in ("woman", "man") if gender in words), "person")


def _sprite_sheet(files: list[Path]) -> Image.Image:
    sheet = Image.new("RGB", (COLUMNS * SIZE, -(-len(files) // COLUMNS) * SIZE), "white")
    for index, file in enumerate(files):
        with Image.open(file) as image:
            drawn = image.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn).convert("RGB")
        top, left = (SIZE * n for n in divmod(index, COLUMNS))
        sheet.paste(picture.resize((SIZE, SIZE), Image.Resampling.LANCZOS), (left, top))
    return sheet
