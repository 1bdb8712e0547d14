"""A small server with the routes of the Hub that ``datasets`` uses, for tests without a net."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub(folder: Path) -> Iterator[str]:
    """Serve ``folder/OWNER/NAME/...`` as data sets of the Hub; gives the address."""

    class Handler(BaseHTTPRequestHandler):
        def _send(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def _json(self, content: object) -> None:
            self._send(200, json.dumps(content).encode(), Content_Type="application/json")

        def _missing(self, code: str) -> None:
            self._send(404, X_Error_Code=code, X_Error_Message=code)

        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            asked = self.rfile.read(length)
            parts = unquote(urlsplit(self.path).path).strip("/").split("/")
            if parts[:1] == ["datasets"] and "resolve" in parts:
                at = parts.index("resolve")
                self._file(folder.joinpath(*parts[1:at]), "/".join(parts[at + 2 :]))
            elif parts[:2] == ["api", "datasets"]:
                self._api(parts[2:], asked)
            else:
                self._missing("EntryNotFound")

        do_HEAD = do_POST = do_GET

        def _file(self, root: Path, name: str) -> None:
            if not root.is_dir():
                return self._missing("RepoNotFound")
            if not (root / name).is_file():
                return self._missing("EntryNotFound")
            body = (root / name).read_bytes()
            etag = f'"{hashlib.sha1(body, usedforsecurity=False).hexdigest()}"'
            self._send(200, body, ETag=etag, X_Repo_Commit=COMMIT, Accept_Ranges="none")

        def _api(self, parts: list[str], asked: bytes) -> None:
            root = folder.joinpath(*parts[:2])
            if not root.is_dir():
                return self._missing("RepoNotFound")
            rest = parts[2:]
            files = sorted(file for file in root.rglob("*") if file.is_file())
            if rest[:1] == ["tree"]:
                return self._json([_entry(root, f) for f in files if _below(root, f, rest[2:])])
            if rest[:1] == ["paths-info"]:
                wanted = json.loads(asked)["paths"]
                found = [root / name for name in wanted if (root / name).exists()]
                return self._json([_entry(root, file) for file in found])
            siblings = [{"rfilename": _name(root, file)} for file in files]
            ident = "/".join(parts[:2])
            facts = {"_id": "1", "id": ident, "sha": COMMIT, "siblings": siblings}
            return self._json(
                facts | {"private": False, "downloads": 0, "likes": 0, "tags": []}
            )

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def _name(root: Path, file: Path) -> str:
    return file.relative_to(root).as_posix()


def _below(root: Path, file: Path, folder: list[str]) -> bool:
    return _name(root, file).startswith("".join(f"{part}/" for part in folder))


def _entry(root: Path, file: Path) -> dict[str, object]:
    if file.is_dir():
        return {"type": "directory", "path": _name(root, file), "oid": COMMIT, "size": 0}
    body = file.read_bytes()
    oid = hashlib.sha1(body, usedforsecurity=False).hexdigest()
    return {"type": "file", "path": _name(root, file), "oid": oid, "size": len(body)}
