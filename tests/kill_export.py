"""Kills exports at random moments, again and again: after each the bundle is as before the export or as after it.

    python tests/kill_export.py FOLDER KILLS SEED [KIND...]

Half of the kills come at a random moment, half at a random access to the bundle's files: those moments are short. Each
export runs in a process that is forked from this one, in which no thread and no session runs.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import shutil
import signal
import struct
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TypeGuard

import numpy as np
from PIL import Image

from rar.export.cli import main as export
from rar.runtime import Bundle

KINDS = ("memory", "tune", "clip", "engine")
_COUNT = struct.Struct("q")
# What an export does to files, as Python's audit hooks call it.
_EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.chmod", "os.listdir", "os.scandir"}
# Seconds that no export needs.
_HANGS = 600


def in_child(work: Callable[[], None]) -> int:
    """Forks a child that does the work; its process."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def wait(child: int) -> None:
    """Waits for a child that must succeed."""
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == 0, f"exit code {code}"


def _is_path(value: object) -> TypeGuard[str | bytes | os.PathLike[str]]:
    return isinstance(value, (str, bytes, os.PathLike))


def run(arguments: list[str]) -> None:
    assert export(arguments) == 0, arguments


class Harness:
    """The inputs of the exports, and the bundles that they change.

    Args:
        folder: An empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "bundle"
        chance = np.random.default_rng(0)
        for label in ("cat", "dog", "owl"):
            (folder / "pictures" / label).mkdir(parents=True)
            for i in range(20):
                pixels = chance.integers(0, 256, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "pictures" / label / f"{i}.png")
        (folder / "descriptions.json").write_text(json.dumps({name: [f"a {name}"] for name in ("cat", "dog", "owl")}))
        wait(in_child(self._checkpoint))
        wait(in_child(lambda: run(self.clip(folder / "encoder"))))
        shutil.copytree(folder / "encoder", folder / "filled")
        wait(in_child(lambda: run(self.memory(folder / "filled"))))

    def _checkpoint(self) -> None:
        import open_clip
        import torch

        vision = {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 8}
        text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
        config = self.folder / "rar-tiny.json"
        config.write_text(json.dumps({"embed_dim": 32, "vision_cfg": vision, "text_cfg": text}))
        open_clip.add_model_config(config)
        torch.save(open_clip.create_model(config.stem).state_dict(), self.folder / "rar-tiny.pt")

    def clip(self, root: Path) -> list[str]:
        weights = ["--pretrained", str(self.folder / "rar-tiny.pt")]
        return ["clip", str(root), "--model", str(self.folder / "rar-tiny.json"), *weights]

    def memory(self, root: Path) -> list[str]:
        texts = ["--descriptions", str(self.folder / "descriptions.json")]
        return ["memory", str(root), "--images", str(self.folder / "pictures"), *texts, "--dim", "8"]

    def tune(self, root: Path) -> list[str]:
        return ["tune", str(root), "--val", str(self.folder / "pictures"), "--k", "3"]

    def engine(self, root: Path) -> list[str]:
        return ["engine", str(root), "--target", "sm86"]

    def begin(self, kind: str) -> None:
        """Lays out the bundle that the export changes."""
        shutil.rmtree(self.root, ignore_errors=True)
        if kind != "clip":
            shutil.copytree(self.folder / ("encoder" if kind == "engine" else "filled"), self.root)

    def command(self, kind: str) -> list[str]:
        commands: dict[str, Callable[[Path], list[str]]] = {
            "memory": self.memory, "tune": self.tune, "clip": self.clip, "engine": self.engine,
        }  # fmt: skip
        return commands[kind](self.root)

    def once(self, kind: str, stop_at: int, seconds: float) -> int:
        """Runs an export, to be killed at an access to the bundle or after some seconds; how many accesses it made."""
        count = mmap.mmap(-1, _COUNT.size)

        def watched() -> None:
            root = str(self.root)

            def hook(event: str, given: tuple[object, ...]) -> None:
                if event not in _EVENTS or not any(root in os.fsdecode(one) for one in given if _is_path(one)):
                    return
                (done,) = _COUNT.unpack(count[:])
                count[:] = _COUNT.pack(done + 1)
                if done + 1 == stop_at:
                    os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(hook)
            run(self.command(kind))

        child = in_child(watched)
        deadline = time.monotonic() + min(seconds, _HANGS)
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                break
            time.sleep(0.005)
        return int(_COUNT.unpack(count[:])[0])


def state(root: Path) -> dict[str, object]:
    """What the manifest says; nothing where there is no bundle yet, or an empty one."""
    if not (root / "bundle.json").exists():
        return {}
    components: dict[str, object] = json.loads((root / "bundle.json").read_text())["components"]
    return components


def check(kind: str, before: dict[str, object], root: Path) -> str:
    """Which of the two states was left, and that it is whole.

    Raises:
        AssertionError: It is neither.
    """
    after = state(root)
    if after:
        Bundle.open(root).verify()
    if after == before:
        return "before"
    changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    expected = {"memory": {"memory"}, "tune": {"memory"}, "clip": {"clip"}}
    if kind == "engine":
        assert all(name.startswith("engines/") for name in changed), changed
    else:
        assert changed <= expected[kind], changed
    return "after"


def kill_kind(harness: Harness, kind: str, kills: int, chance: random.Random) -> Counter[str]:
    """Kills so many exports of one kind.

    Raises:
        AssertionError: One left something else than the state before or after, or the last something behind.
    """
    found: Counter[str] = Counter()
    harness.begin(kind)
    began = time.monotonic()
    accesses = harness.once(kind, -1, _HANGS)
    lasted = time.monotonic() - began
    assert check(kind, {}, harness.root) == "after" if kind == "clip" else accesses > 0
    harness.begin(kind)
    for kill in range(kills):
        before = state(harness.root)
        if kill % 2:
            stop_at, seconds = chance.randint(1, accesses), float(_HANGS)
        else:
            stop_at, seconds = -1, chance.uniform(0, lasted)
        harness.once(kind, stop_at, seconds)
        left = check(kind, before, harness.root)
        found[left] += 1
        moment = f"access {stop_at} of {accesses}" if kill % 2 else f"{seconds:.2f} of {lasted:.2f} s"
        print(f"kill {kind} at {moment}: as {left}", flush=True)
        if left == "after" and kind in ("clip", "engine"):  # there is nothing more to do
            harness.begin(kind)
    wait(in_child(lambda: run(harness.command(kind))))
    Bundle.open(harness.root).verify()
    left_behind = [path.name for path in harness.root.iterdir() if path.name.startswith(".")]
    assert left_behind == [], left_behind
    folders = {path.name for path in harness.root.iterdir() if path.is_dir()}
    names = {name.partition("/")[0] for name in state(harness.root)}
    assert len(folders - {"checks"}) == len(names), (folders, names)
    return found


def main(folder: str, kills: int, seed: int, kinds: list[str]) -> None:
    """Kills so many exports of each kind."""
    if "clip" in kinds:  # only once, and not in each child
        import open_clip  # noqa: F401
        import torch  # noqa: F401
    harness = Harness(Path(folder))
    for kind in kinds:
        counts = kill_kind(harness, kind, kills, random.Random(f"{seed} {kind}"))
        print(f"{kind}: {kills} kills, {counts['before']} as before, {counts['after']} as after", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:] or list(KINDS))
