"""A model hub on the loopback: as much of its HTTP as huggingface_hub needs to fetch and to push a model repository."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

# What only its owner may do is asked with this.
TOKEN = "hf_of_this_test"  # noqa: S105
# Larger files, and those of these names, go another way: they are put beside the commit.
_LFS_FROM = 4096


@dataclass
class Repo:
    """A repository: files of each commit, and the commit of each branch and tag."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    private: bool = False
    messages: list[str] = field(default_factory=list)

    def commit(self, files: Mapping[str, bytes], message: str = "", name: str = "main") -> str:
        hashes = sorted((path, hashlib.sha256(content).hexdigest()) for path, content in files.items())
        oid = hashlib.sha256(json.dumps([len(self.commits), hashes]).encode()).hexdigest()[:40]
        self.commits[oid] = dict(files)
        self.names[name] = oid
        self.messages.append(message)
        return oid

    def commit_folder(self, root: Path, name: str = "main") -> str:
        paths = (path for path in root.rglob("*") if path.is_file())
        return self.commit({path.relative_to(root).as_posix(): path.read_bytes() for path in paths}, name=name)

    def find(self, revision: str) -> str | None:
        oid = self.names.get(revision, revision)
        return oid if oid in self.commits else None


@dataclass
class Hub:
    """The server's state, and what it was asked."""

    url: str
    home: Path
    repos: dict[str, Repo] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    # Path -> a size that is told before the download, in place of the file's own.
    told: dict[str, int] = field(default_factory=dict)
    # Path -> bytes that are sent in place of the file's own; the size is the same.
    forged: dict[str, bytes] = field(default_factory=dict)

    def environment(self, **more: str) -> dict[str, str]:
        """For a process that asks this hub and has a cache of this test's own."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        # The protocol of its large storage is not HTTP of this kind.
        own = {"HF_ENDPOINT": self.url, "HF_HOME": str(self.home), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN}
        return {**kept, **own, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", **more}

    def python(self, code: str, *argv: object, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs Python with this hub."""
        command = [sys.executable, "-c", code, *map(str, argv)]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, env=self.environment(**environment), timeout=300
        )

    def export(self, *argv: object, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs `rar-export` with this hub."""
        return self.python("import sys; from rar.export.cli import main; sys.exit(main())", *argv, **environment)

    def fetched(self) -> list[str]:
        """The files that were downloaded since this was called last."""
        files = [line.split("/resolve/", 1)[1].split("/", 1)[1] for line in self.asked if line.startswith("GET /")]
        self.asked.clear()
        return sorted(files)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._resolve(body=False)

    def do_GET(self) -> None:
        place = unquote(urlsplit(self.path).path)
        if "/resolve/" in place:
            self._resolve(body=True)
        elif place.startswith("/api/models/"):
            self._told(place.removeprefix("/api/models/"))
        else:
            self._json(404, {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        place = unquote(urlsplit(self.path).path)
        hub = self.server.hub
        hub.asked.append(f"POST {place}")
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._json(401, {"error": "Invalid username or password."})
        elif place == "/api/repos/create":
            self._create(json.loads(body))
        elif place.endswith("/info/lfs/objects/batch"):
            objects = [
                {**one, "actions": {"upload": {"href": f"{hub.url}/lfs/{one['oid']}", "header": {}}}}
                for one in json.loads(body)["objects"]
            ]
            self._json(200, {"transfer": "basic", "objects": objects})
        elif "/preupload/" in place:
            files = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["size"] > _LFS_FROM else "regular",
                    "shouldIgnore": False,
                }
                for one in json.loads(body)["files"]
            ]
            self._json(200, {"files": files})
        elif "/commit/" in place:
            self._commit(place, [json.loads(line) for line in body.splitlines()])
        else:
            self._json(404, {})

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        oid = self.path.rsplit("/", 1)[1]
        if hashlib.sha256(content).hexdigest() != oid:
            self._json(400, {"error": "another content"})
            return
        self.server.hub.blobs[oid] = content
        self._json(200, {})

    def _resolve(self, *, body: bool) -> None:
        self.server.hub.asked.append(f"{self.command} {unquote(self.path)}")
        name, _, rest = self.path.strip("/").partition("/resolve/")
        revision, _, path = rest.partition("/")
        repo = self._repo(name)
        if repo is None:
            return
        oid = repo.find(unquote(revision))
        if oid is None:
            self._json(404, {}, {"X-Error-Code": "RevisionNotFound"})
            return
        content = repo.commits[oid].get(unquote(path))
        if content is None:
            self._json(404, {}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": oid})
            return
        etag = hashlib.sha256(content).hexdigest()
        self.send_response(200)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": oid, "Content-Length": str(len(content))}
        if (told := self.server.hub.told.get(unquote(path))) is not None:
            headers["X-Linked-Size"] = str(told)
        for header, value in headers.items():
            self.send_header(header, value)
        self.end_headers()
        if body:
            self.wfile.write(self.server.hub.forged.get(unquote(path), content))

    def _told(self, place: str) -> None:
        """What a repository is, or the files of a commit."""
        name = "/".join(place.split("/")[:2])
        repo = self._repo(name)
        if repo is None:
            return
        asked = place.removeprefix(name).strip("/").split("/", 1)
        oid = repo.find(asked[1] if len(asked) > 1 else "main")
        files = repo.commits[oid] if oid else {}
        if asked[0] == "tree":
            self._json(200, [{"type": "file", "path": path, "size": len(files[path]), "oid": ""} for path in files])
        else:
            self._json(200, {"id": name, "sha": oid, "private": repo.private, "siblings": []})

    def _repo(self, name: str) -> Repo | None:
        """The repository; None, and an answer was sent, if there is none that may be seen."""
        repo = self.server.hub.repos.get(name)
        if repo is None or (repo.private and self.headers.get("Authorization") != f"Bearer {TOKEN}"):
            self._json(404 if repo is None else 401, {}, {"X-Error-Code": "RepoNotFound"})
            return None
        return repo

    def _create(self, asked: dict[str, Any]) -> None:
        hub = self.server.hub
        name = f"{asked['organization']}/{asked['name']}"
        told = {"url": f"{hub.url}/{name}", "name": name}
        if name in hub.repos:
            self._json(409, told)
            return
        hub.repos[name] = Repo(private=asked.get("visibility") == "private" or bool(asked.get("private")))
        hub.repos[name].commit({".gitattributes": b"*.onnx filter=lfs\n"})
        self._json(200, told)

    def _commit(self, place: str, lines: list[dict[str, Any]]) -> None:
        hub = self.server.hub
        name = place.removeprefix("/api/models/").partition("/commit/")[0]
        repo = hub.repos[name]
        files = dict(repo.commits[repo.names["main"]])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = hub.blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        oid = repo.commit(files, lines[0]["value"]["summary"])
        self._json(200, {"commitUrl": f"{hub.url}/{name}/commit/{oid}", "commitOid": oid})

    def _json(self, status: int, value: object, headers: Mapping[str, str] | None = None) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        own = {"Content-Type": "application/json", "Content-Length": str(len(content))}
        for name, one in {**own, **(headers or {})}.items():
            self.send_header(name, one)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: Hub


@contextmanager
def served(home: Path) -> Iterator[Hub]:
    """A hub without repositories, until the block ends.

    Args:
        home: The folder for the cache of who asks it.
    """
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.hub = Hub(f"http://127.0.0.1:{server.server_address[1]}", home)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.hub
        finally:
            server.shutdown()
            thread.join()
