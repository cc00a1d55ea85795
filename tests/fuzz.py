"""Mutates what a stranger may send, and reads it: all that may come of it is an answer or an error of our own.

    python tests/fuzz.py SECONDS [SEED]

The targets are the manifest, the log, the arrays, the prompt and the tokenizer's texts; the C++ code has its own
(`tests/native`).
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from attacks.make import forge
from by_hand import write_bundle

from rar.runtime import Bundle, Memory
from rar.runtime.encoder.tokenizer import PlainText, Tokenizer
from rar.runtime.errors import RarError
from rar.runtime.rank.mllm.prompt import Mode, Prompt

# What numbers and texts are replaced by.
_ODD: tuple[Any, ...] = (
    -1, 0, 1, 2**31, 2**63, 10**30, -0.5, 1e308, float("inf"), float("nan"), True, None, "", "\0", "x" * 5000, "../x",
    [], {}, [[]], {"": 0}, "\ud800",
)  # fmt: skip
_PROMPT = {
    "template": ["a ", {"ids": [0, 3]}, {"slot": "instruction"}, {"slot": "image"}, {"slot": "question"}, ":"],
    "modes": {
        "choice": {"instruction": "pick", "question": "which {candidates} of {k}", "answer": ""},
        "likelihood": {"instruction": "pick", "question": "which {candidates}", "answer": "it is "},
    },
    "lead": " ", "stop_ids": [1], "letters": {"A": 2, "B": 3, "C": 4}, "image_tokens": 4, "context": 512,
    "position_dims": 1, "image_positions": None,
    "exemplars": {
        "template": [{"slot": "instruction"}, {"slot": "exemplars"}, {"slot": "image"}, {"slot": "question"}, ":"],
        "each": ["b ", {"slot": "name"}, ": ", {"slot": "image"}],
    },
}  # fmt: skip


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Bytes with some flipped, cut out, doubled, or replaced by odd numbers."""
    data = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 5])):
        at, kind = chance.randrange(len(data) + 1), chance.randrange(5)
        length = chance.choice([1, 2, 4, 8, 40])
        if kind == 0 and at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del data[at : at + length]
        elif kind == 2:
            data[at:at] = data[at : at + length]
        elif kind == 3:
            data[at : at + length] = chance.choice([b"\0", b"\xff"]) * length
        else:
            data[at : at + length] = chance.randbytes(length)
    return bytes(data)


def altered(value: Any, chance: random.Random) -> Any:
    """A value of JSON with one place in it replaced, left out or repeated."""
    value = json.loads(json.dumps(value))
    place, key = value, None
    while isinstance(place, (dict, list)) and place and (key is None or chance.random() < 0.8):
        above, key = place, chance.choice(list(place) if isinstance(place, dict) else range(len(place)))
        place = above[key]
    if key is None:
        return chance.choice(_ODD)
    if chance.random() < 0.2:
        del above[key]
    else:
        above[key] = chance.choice(_ODD)
    return value


def read(root: Path) -> None:
    """Opens a bundle's memory, searches it and decodes its log."""
    bundle = Bundle.open(root)
    bundle.verify()
    memory = Memory.open(bundle, threads=1)
    memory.search(np.eye(memory.dim, dtype=np.float32)[:2], k=1)
    memory.search(np.eye(memory.dim, dtype=np.float32)[:2], k=1, exact=True)


class Targets:
    """One mutation and reading of each kind."""

    def __init__(self, folder: Path) -> None:
        self._good = write_bundle(folder / "good")
        self._root = folder / "bundle"
        self._manifest = json.loads((self._good / "bundle.json").read_text())
        text = (self._good / "clip" / "tokenizer.json").read_text()
        self._tokenizer = tokenizers.Tokenizer.from_str(text)
        self._texts = Tokenizer(tokenizers.Tokenizer.from_str(text))

    def _fresh(self) -> Path:
        shutil.rmtree(self._root, ignore_errors=True)
        return Path(shutil.copytree(self._good, self._root))

    def manifest_bytes(self, chance: random.Random) -> None:
        root = self._fresh()
        (root / "bundle.json").write_bytes(mutated((root / "bundle.json").read_bytes(), chance))
        read(root)

    def manifest_values(self, chance: random.Random) -> None:
        root = self._fresh()
        text = json.dumps(altered(self._manifest, chance))
        (root / "bundle.json").write_text(text)
        read(root)

    def log(self, chance: random.Random) -> None:
        root = self._fresh()
        (root / "memory.log").write_bytes(mutated((root / "memory.log").read_bytes(), chance))
        read(root)

    def arrays(self, chance: random.Random) -> None:
        root = self._fresh()
        files = self._manifest["components"]["memory"]["files"]
        name = chance.choice([name for name in files if name.endswith((".npy", ".npz", ".usearch", ".json"))])
        forge(root, "memory", name, mutated((root / "memory" / name).read_bytes(), chance))
        read(root)

    def prompt(self, chance: random.Random) -> None:
        settings = altered(_PROMPT, chance)
        prompt = Prompt.from_dict(settings, tokenizers.Tokenizer.from_str(self._tokenizer.to_str()))
        names = ["cat", "</s>", 'a\n"b"]']
        modes: tuple[Mode, ...] = ("choice", "likelihood")
        for mode in modes:
            prompt.head(mode)
            prompt.picture(mode)
            prompt.answers(mode, names, names)
            if prompt.several is not None:
                prompt.of_several().opening(mode, names[1:2])

    def texts(self, chance: random.Random) -> None:
        text = "".join(chance.choice("abc </>[PAD]\uff1c\u0301\u200b\U0001f600\ud800\0\n") for _ in range(20))
        plain = PlainText(tokenizers.Tokenizer.from_str(self._tokenizer.to_str()), [5])
        clean = text.encode("utf-8", "replace").decode()
        assert 5 not in plain([clean])[0]
        assert self._texts([clean]).shape == (1, 8)

    def all(self) -> Iterator[Callable[[random.Random], None]]:
        yield from (
            self.manifest_bytes, self.manifest_values, self.log, self.arrays, self.prompt, self.texts,
        )  # fmt: skip


def run(seed: int, targets: Targets) -> dict[str, str]:
    """Tries each target once with a seed; what was wrong, by target."""
    wrong = {}
    for target in targets.all():
        try:
            target(random.Random(f"{seed} {target.__name__}"))
        except RarError:
            pass
        except Exception as error:
            wrong[target.__name__] = repr(error)[:500]
    return wrong


def main(seconds: float, seed: int) -> int:
    end = time.monotonic() + seconds
    count = 0
    with tempfile.TemporaryDirectory() as folder:
        targets = Targets(Path(folder))
        while time.monotonic() < end:
            if wrong := run(seed + count, targets):
                print(f"seed {seed + count}: {wrong}")
                return 1
            count += 1
    print(f"{count} seeds from {seed} on, {len(list(targets.all()))} targets each: nothing but answers and our errors")
    return 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else int(time.time())))
