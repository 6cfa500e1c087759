"""Trees to measure archives with: seeded, so that every run and every machine packs the same files.

Counts, sizes and mix are those of the fact sheet (archive, head); its source-like text must deflate 3.5 to
5 times at level 6, or ratios shift. `python -m bench.trees M DIR` makes one and says what it holds.
"""

import argparse
import base64
import functools
import itertools
import json
import os
import random
import sqlite3
import string
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

MB = 1_000_000
TRANSCRIPT = Path("talk/session.jsonl")
OLDEST_MTIME = 1_500_000_000
_SUFFIXES = (".rs", ".py", ".ts", ".md", ".toml", ".json")
_ODD_NAMES = (
    "caf\u00e9.txt",
    "cafe\u0301.txt",
    "with space.md",
    "\u6587\u4ef6.py",
    "back\\slash",
    "-rf",
    "x" * 200,
)


@dataclass(frozen=True)
class Large:
    """Files that are not source text: how many, the bytes of each, and what fills them."""

    name: str
    count: int
    size: int
    fill: Callable[["Filler", Path, int], None]


@dataclass(frozen=True)
class Plan:
    """`files` and `size` count the large ones and the transcript too."""

    name: str
    files: int
    size: int
    directories: int
    links: int
    large: tuple[Large, ...]


class Filler:
    """Writes content of one kind. Text is drawn line by line from a pool, as real sources repeat themselves."""

    def __init__(self, seed: random.Random) -> None:
        self._seed = seed
        words = ["".join(seed.choices(string.ascii_lowercase, k=seed.randint(3, 9))) for _ in range(6000)]
        self._weights = list(itertools.accumulate(1 / (rank + 8) for rank in range(len(words))))
        self._words = words
        self._lines = [self._line() for _ in range(60_000)]

    def _line(self) -> bytes:
        draw = self._seed
        first, second, third, fourth = draw.choices(self._words, cum_weights=self._weights, k=4)
        form = draw.choice(
            (
                f"let {first} = {second}.{third}({fourth});",
                f"def {first}_{second}(self, {third}: {fourth.title()}) -> None:",
                f"return {first}.{second}[{draw.randint(0, 99)}]",
                f"if {first}.is_{second}() and not {third}:",
                f"// {first} {second} {third} {fourth} {draw.choice(self._words)}",
                f'"{first}": "{second}-{third}",',
                f"self.{first} = {second}_{third}",
                f"import {first}.{second}.{third}",
                "}",
                "",
            )
        )
        return b"    " * draw.randint(0, 4) + form.encode() + b"\n"

    @functools.cached_property
    def _exponents(self) -> bytes:
        return bytes(self._seed.choices(range(112, 128), [2**n for n in range(16)], k=4 * MB))

    def text(self, size: int) -> bytes:
        """A file keeps to its own corner of the pool, and says many lines again."""
        draw = self._seed
        corner = draw.randrange(len(self._lines))
        near = self._lines[corner : corner + 40 + size // 80] or self._lines[:40]
        return b"".join(draw.choices(near, k=size // 20 + 20))[:size]

    def source(self, path: Path, size: int) -> None:
        path.write_bytes(self.text(size))

    def noise(self, path: Path, size: int) -> None:
        """As video and jpg: nothing to gain."""
        self._write(path, size, self._seed.randbytes)

    def weights(self, path: Path, size: int) -> None:
        """bf16 numbers: noise in the mantissa, few exponents."""
        self._write(path, size, self._numbers)

    def _numbers(self, size: int) -> bytes:
        block = bytearray(size)
        half = (size + 1) // 2
        block[0::2] = self._seed.randbytes(half)
        start = self._seed.randrange(len(self._exponents) - half)
        block[1::2] = self._exponents[start : start + size // 2]
        return bytes(block)

    def table(self, path: Path, size: int) -> None:
        self._write(path, size, self._rows)

    def _rows(self, size: int) -> bytes:
        draw = self._seed
        rows = (
            f"{draw.getrandbits(32)},{draw.choice(self._words)},{draw.random():.6f},{draw.randint(0, 9)}\n"
            for _ in range(size // 20)
        )
        return "".join(rows).encode()[:size]

    def database(self, path: Path, size: int) -> None:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("CREATE TABLE notes(id INTEGER PRIMARY KEY, tag TEXT, body TEXT)")
            rows = ((self._seed.choice(self._words), self.text(900).decode()) for _ in range(size // 950))
            connection.executemany("INSERT INTO notes(tag, body) VALUES(?, ?)", rows)

    def talk(self, path: Path, size: int) -> None:
        """A transcript: text in JSON lines, with ids and encoded bytes that do not shrink."""
        with path.open("wb") as file:
            written = 0
            while written < size:
                written += file.write(self.talk_line())

    def talk_line(self) -> bytes:
        line = {
            "uuid": self._seed.randbytes(16).hex(),
            "text": self.text(self._seed.randint(200, 4000)).decode(),
            "signature": base64.b64encode(self._seed.randbytes(350)).decode(),
        }
        return json.dumps(line).encode() + b"\n"

    def _write(self, path: Path, size: int, make: Callable[[int], bytes]) -> None:
        with path.open("wb") as file:
            for at in range(0, size, MB):
                file.write(make(min(MB, size - at)))


M = Plan("M", 11_062, 82 * MB, 880, 33, (Large("talk/session.jsonl", 1, 5 * MB, Filler.talk),))
L = Plan(
    "L",
    50_034,
    1270 * MB,
    3560,
    53,
    (
        Large("talk/session.jsonl", 1, 20 * MB, Filler.talk),
        Large("models/weights-{}.bin", 2, 175 * MB, Filler.weights),
        Large("media/video.mp4", 1, 200 * MB, Filler.noise),
        Large("data/rows.csv", 1, 80 * MB, Filler.table),
        Large("data/notes.sqlite", 1, 60 * MB, Filler.database),
        Large("media/photo-{}.jpg", 20, 3 * MB, Filler.noise),
    ),
)
S = Plan("S", 61, 900_000, 12, 2, ())
PLANS = {plan.name: plan for plan in (S, M, L)}


def make_tree(plan: Plan, root: Path, seed: int = 4) -> None:
    """Below `root`, which must not exist. L takes about a minute."""
    draw = random.Random(seed)
    filler = Filler(draw)
    directories = list(_directories(root, plan.directories, draw))
    for path, size, fill in _files(plan, root, directories, draw):
        fill(filler, path, size)
        mtime_ns = OLDEST_MTIME * 10**9 + draw.randrange(250_000_000 * 10**9)
        os.utime(path, ns=(mtime_ns, mtime_ns))
    for number in range(plan.links):
        (draw.choice(directories) / f"link-{number}").symlink_to(f"../file-{number}")


def _directories(root: Path, count: int, draw: random.Random) -> Iterator[Path]:
    made = [root]
    root.mkdir(parents=True)
    for number in range(count):
        above = draw.choice(made[-200:])
        path = above if len(above.relative_to(root).parts) < 8 else root
        made.append(path / f"module_{number}")
        made[-1].mkdir()
        yield made[-1]


def _files(
    plan: Plan, root: Path, directories: list[Path], draw: random.Random
) -> Iterator[tuple[Path, int, Callable[[Filler, Path, int], None]]]:
    for large in plan.large:
        for number in range(large.count):
            path = root / large.name.format(number)
            path.parent.mkdir(exist_ok=True)
            yield path, large.size, large.fill
    count = plan.files - sum(large.count for large in plan.large)
    total = plan.size - sum(large.count * large.size for large in plan.large)
    drawn = [draw.lognormvariate(0, 1.3) for _ in range(count)]
    unit = total / sum(drawn)
    for number, share in enumerate(drawn):
        odd = _ODD_NAMES[number] if number < len(_ODD_NAMES) else None
        name = odd or f"file_{number}{draw.choice(_SUFFIXES)}"
        yield draw.choice(directories) / name, int(share * unit), Filler.source


def change(root: Path, round_number: int) -> None:
    """What an hour of work does (archive, 5): 4 files grow by 300 bytes, one of 3 kB is new, 50 kB are said."""
    draw = random.Random(round_number)
    filler = Filler(draw)
    sources = sorted(path for path in root.glob("module_*/file_*") if path.is_file())
    for path in draw.sample(sources, 4):
        with path.open("ab") as file:
            file.write(filler.text(300))
    (root / f"new-{round_number}.py").write_bytes(filler.text(3000))
    with (root / TRANSCRIPT).open("ab") as file:
        file.writelines(filler.talk_line() for _ in range(20))


def deflation(root: Path) -> float:
    """How many times the source text shrinks at level 6, each file alone."""
    sources = sorted(root.glob("module_*/**/file_*"))[::10]
    bodies = [path.read_bytes() for path in sources]
    return sum(map(len, bodies)) / sum(len(zlib.compress(body, 6)) for body in bodies)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plan", choices=PLANS)
    parser.add_argument("directory", type=Path)
    asked = parser.parse_args()
    make_tree(PLANS[asked.plan], asked.directory)
    files = [path for path in asked.directory.rglob("*") if path.is_file() and not path.is_symlink()]
    size = sum(path.stat().st_size for path in files)
    print(f"{len(files)} files, {size / MB:.0f} MB, text deflates {deflation(asked.directory):.1f} times")


if __name__ == "__main__":
    main()
