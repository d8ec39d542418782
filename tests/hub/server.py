"""A model hub on the loopback address: the protocol of huggingface.co as its clients speak it, and its misfortunes.

    with Hub() as hub:
        hub.add("owner/model", folder)                        one call a repository: files as they lie in a folder
        with hub.fault("cut", "model.safetensors", times=1):  the connection ends in the middle, once
            ...

Small files are answered in place, under the git hash of their content; large ones (in Git LFS on the hub, here told by
their suffix) by a redirect to a second host, with the SHA-256 and size on the answer itself. Metadata is open, files of
a gated repository are not: 401 without a token, 403 with one that has no access.
"""

import contextlib
import functools
import hashlib
import json
import re
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cilmp.tests.hub.uploads import Uploads

LARGE = (".safetensors", ".bin", ".pth", ".pt", ".model", ".gguf")
TOKEN = "hf_accepted"  # of an account that accepted every licence
PIECE = 1 << 16
HTML = b"<!doctype html><html><body>Please sign in to this network.</body></html>"


def git_hash(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@functools.cache
def _sha256(path, _stamp):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@dataclass
class Repository:
    """id, kind ("models", "datasets") and files of a repository; everything is at one commit, "main"."""

    id: str
    folder: Path
    kind: str = "models"
    gated: bool = False
    private: bool = False

    @property
    def commit(self):
        return hashlib.sha1(self.id.encode()).hexdigest()

    def names(self):
        return sorted(p.relative_to(self.folder).as_posix() for p in self.folder.rglob("*") if p.is_file())

    def hash_of(self, name):
        """SHA-256 of a large file, git hash of another."""
        path = self.folder / name
        if path.suffix in LARGE:
            return _sha256(str(path), path.stat().st_mtime_ns)
        return git_hash(path.read_bytes())

    def entry(self, name):
        """What the hub lists about a file."""
        size, about = (self.folder / name).stat().st_size, {"rfilename": name, "path": name, "type": "file"}
        about |= {"size": size, "oid": git_hash(name.encode()), "blobId": git_hash(name.encode())}
        if Path(name).suffix in LARGE:
            about["lfs"] = {"oid": self.hash_of(name), "sha256": self.hash_of(name), "size": size, "pointerSize": 134}
        return about

    def info(self):
        return {"_id": self.commit[:24], "id": self.id, "modelId": self.id, "sha": self.commit, "private": self.private,
                "gated": "manual" if self.gated else False, "disabled": False, "tags": [], "downloads": 0, "likes": 0,
                "siblings": [self.entry(n) for n in self.names()]}  # fmt: skip


@dataclass
class Fault:
    """What goes wrong, for requests whose path holds `match`; times None: always."""

    kind: str
    match: str
    times: int = None
    at: int = 0  # bytes that are sent before it happens


@dataclass
class Request:
    method: str
    host: str  # "hub" or "cdn"
    path: str
    range: str = None
    token: str = None
    agent: str = ""
    sent: int = 0


class Hub:
    """The server, in threads of its own; `url` is what HF_ENDPOINT should be, `requests` all that was asked."""

    def __init__(self):
        self.repositories, self.faults, self.requests, self.uploads = {}, [], [], {}
        self.closing, self.lock = threading.Event(), threading.Lock()
        self.servers = [self._serve(handler) for handler in (Front, Store)]
        self.url, self.cdn = (f"http://127.0.0.1:{s.server_address[1]}" for s in self.servers)

    def _serve(self, handler):
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.hub, server.daemon_threads, server.block_on_close = self, True, False
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return server

    def add(self, name, folder, gated=False, private=False):
        """Serve a folder as a repository; "dataset:" before the name of a data set."""
        kind, _, name = name.rpartition(":")
        repository = Repository(name, Path(folder), f"{kind or 'model'}s", gated, private)
        for file in repository.names():  # of large ones once, before a client waits for it
            repository.hash_of(file)
        self.repositories[repository.kind, name] = repository
        return repository

    @contextlib.contextmanager
    def fault(self, kind, match="", times=None, at=0):
        fault = Fault(kind, match, times, at)
        self.faults.append(fault)
        try:
            yield fault
        finally:
            self.faults.remove(fault)

    def fault_of(self, path, *kinds):
        with self.lock:
            for fault in self.faults:
                if fault.kind in kinds and fault.match in path and fault.times != 0:
                    fault.times = None if fault.times is None else fault.times - 1
                    return fault
        return None

    def asked(self, match="", method=None):
        return [r for r in self.requests if match in r.path and method in (None, r.method)]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.closing.set()
        for server in self.servers:
            server.shutdown()
            server.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    host = ""

    @property
    def hub(self):
        return self.server.hub

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.handle_it()

    def do_GET(self):
        self.handle_it()

    def handle_it(self):
        path = unquote(urlsplit(self.path).path)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        about = self.headers.get("Range"), token, self.headers.get("User-Agent", "")
        self.request_ = Request(self.command, self.host, path, *about)
        self.hub.requests.append(self.request_)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.answer(path)

    def say(self, status, body=b"", kind="application/json", **headers):
        """A whole answer; `_` in names of headers stands for `-`."""
        body = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
        self.send_response(status)
        headers.setdefault("Content_Length", str(len(body)))
        for name, value in {"Content_Type": kind, **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
            self.request_.sent += len(body)

    def misfortune(self, path):
        """Whether a fault that is no matter of content was acted out."""
        if self.hub.fault_of(path, "silent"):
            self.hub.closing.wait(120)
            self.close_connection = True
        elif fault := self.hub.fault_of(path, "503", "500"):
            self.say(int(fault.kind), {"error": "Service unavailable"})
        elif self.hub.fault_of(path, "html"):
            self.say(200, HTML, "text/html")
        else:
            return False
        return True

    def send_file(self, path, **headers):
        """A file, a range of it where asked for, with what goes wrong on the way."""
        size = path.stat().st_size
        start = int(re.match(r"bytes=(\d+)-", self.headers.get("Range") or "bytes=0-")[1])
        name = urlsplit(self.path).path
        half, wrong = self.hub.fault_of(name, "half"), self.hub.fault_of(name, "wrong")
        cut, quiet = self.hub.fault_of(name, "cut"), self.hub.fault_of(name, "stall")
        size = size // 2 if half else size
        if ranged := "Range" in self.headers:
            headers["Content_Range"] = f"bytes {start}-{size - 1}/{size}"
        self.send_response(206 if ranged else 200)
        for header, value in {"Content_Length": str(size - start), "Accept_Ranges": "bytes", **headers}.items():
            self.send_header(header.replace("_", "-"), value)
        self.end_headers()
        if self.command == "HEAD":
            return
        with open(path, "rb") as file:
            file.seek(start)
            while piece := file.read(min(PIECE, size - file.tell())):
                if (cut or quiet) and file.tell() > (cut or quiet).at:
                    if quiet:
                        self.hub.closing.wait(120)
                    self.close_connection = True
                    return
                self.wfile.write(bytes(b ^ 1 for b in piece) if wrong else piece)
                self.request_.sent += len(piece)


class Front(Uploads, Handler):
    """The hub itself: metadata, small files, redirects."""

    host = "hub"
    API = re.compile(r"^/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?(?:/(.*))?$")
    FILE = re.compile(r"^/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)$")
    KEPT = re.compile(r"^/api/resolve-cache/(models|datasets)/([^/]+/[^/]+)/([0-9a-f]{40})/(.+)$")

    def answer(self, path):
        if self.misfortune(path) or (self.command in ("POST", "PUT") and self.taken(path, TOKEN, LARGE)):
            return
        if found := self.KEPT.match(path):
            self.file(*found.groups(), direct=True)
        elif found := self.FILE.match(path):
            self.file(*found.groups())
        elif found := self.API.match(path):
            self.api(*found.groups())
        elif path == "/":
            self.say(200, HTML, "text/html")
        else:
            self.say(404, {"error": "Sorry, we can't find the page you are looking for."})

    def api(self, kind, name, what, revision, _):
        if (repository := self.repository(kind, name, revision)) is None:
            return
        if what == "tree":
            self.say(200, [repository.entry(n) for n in repository.names()])
        else:
            self.say(200, repository.info(), X_Repo_Commit=repository.commit)

    def file(self, kind, name, revision, filename, direct=False):
        if (repository := self.repository(kind or "models", name, revision)) is None:
            return
        token = self.request_.token
        if repository.gated and token != TOKEN:
            words = f"Access to model {name} is restricted."
            self.fail(403 if token else 401, "GatedRepo", words)
        elif filename not in repository.names():
            self.fail(404, "EntryNotFound", "Entry not found", X_Repo_Commit=repository.commit)
        elif Path(filename).suffix in LARGE:
            digest, size = repository.hash_of(filename), (repository.folder / filename).stat().st_size
            self.say(302, b"Found. Redirecting", "text/plain", Location=f"{self.hub.cdn}/{digest}/{filename}?sign=1",
                     X_Repo_Commit=repository.commit, X_Linked_Size=str(size), X_Linked_ETag=f'"{digest}"',
                     ETag=f'"{digest}"')  # fmt: skip
        elif not direct:
            place = f"/api/resolve-cache/{repository.kind}/{name}/{repository.commit}/{filename}"
            size = (repository.folder / filename).stat().st_size
            self.say(307, b"Temporary Redirect.", "text/plain", Location=place, X_Repo_Commit=repository.commit,
                     X_Linked_Size=str(size), X_Linked_ETag=f'"{repository.hash_of(filename)}"')  # fmt: skip
        else:
            about = {"X_Repo_Commit": repository.commit, "ETag": f'"{repository.hash_of(filename)}"'}
            self.send_file(repository.folder / filename, Content_Type="text/plain", **about)

    def repository(self, kind, name, revision):
        """The repository asked for; else the answer is given and None comes back."""
        repository = self.hub.repositories.get((kind, name))
        if repository is None:  # who has no token is not told that there is none
            token = self.request_.token
            self.fail(404 if token else 401, "RepoNotFound", "Repository not found" if token else
                      "Invalid username or password.")  # fmt: skip
        elif revision not in (None, "main", repository.commit):
            repository = self.fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repository

    def fail(self, status, code, message, **more):
        self.say(status, {"error": message}, X_Error_Code=code, X_Error_Message=message, **more)


class Store(Handler):
    """The second host: content by hash, ranges; it must not see anybody's token."""

    host = "cdn"

    def answer(self, path):
        if self.misfortune(path):
            return
        digest, _, name = path.lstrip("/").partition("/")
        for repository in self.hub.repositories.values():
            if (repository.folder / name).is_file() and repository.hash_of(name) == digest:
                return self.send_file(repository.folder / name, Content_Type="application/octet-stream",
                                      ETag=f'"{digest}"')  # fmt: skip
        self.say(403, b"<Error><Code>AccessDenied</Code></Error>", "application/xml")
