"""How the hub on loopback answers: the pages, files and calls that huggingface_hub uses for models and data sets."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import time
from http.server import BaseHTTPRequestHandler
from urllib.parse import quote, unquote, urlsplit

from tests.hub.content import LARGE, chunks_of, etag_of, size_of

TOKEN, READER = "hf_writer", "hf_reader"  # the tokens that the server knows; the second may not write


class Handler(BaseHTTPRequestHandler):
    """Answers one request at a time of a connection."""

    protocol_version = "HTTP/1.1"
    hub = None  # the `tests.hub.server.Hub`

    def log_message(self, *_):
        """Prints nothing: `Hub.requests` is the log."""

    def _begin(self):
        """Logs the request and reads its body; returns its path, or None if a fault has answered it."""
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length) if length else b""
        if self.headers.get("Transfer-Encoding") == "chunked":
            self.body = b"".join(self._chunks())
        hub, path = self.hub, self.path
        self.cut_after, self.stalls = None, 0
        with hub.lock:
            hub.requests.append((self.command, path, {name.lower(): value for name, value in self.headers.items()}))
            self.flipped = False
            for fault in hub.faults:
                if fault.times > 0 and re.search(fault.pattern, f"{self.command} {path}"):
                    fault.times -= 1
                    if fault.status:
                        self._error(fault.status, "", "a fault of the test", fault.headers)
                        return None
                    self.cut_after, self.stalls, self.flipped = fault.cut_after, fault.stalls, fault.flipped
                    break
        return urlsplit(path).path

    def _chunks(self):
        while size := int(self.rfile.readline().strip() or b"0", 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def do_GET(self):
        """Answers with a repository, its files, or one of them."""
        path = self._begin()
        if path is None:
            return
        if match := re.fullmatch(r"/api/(?:models/|(datasets/))([^/]+/[^/]+?)(?:/revision/(.+))?", path):
            return self._info((match[1] or "") + match[2], unquote(match[3] or "main"))
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path):
            return self._tree(match[1], unquote(match[2]))
        if match := re.fullmatch(r"/((?:datasets/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._resolve(*map(unquote, match.groups()))
        if match := re.fullmatch(r"/cdn/((?:datasets/)?[^/]+/[^/]+)/(\w+)/(.+)", path):
            return self._content(self.hub.repositories[match[1]].commits[match[2]][unquote(match[3])], {})
        if path == "/api/whoami-v2":
            return self._json({"name": "tester", "type": "user"})
        self._error(404, "", "no such page")

    do_HEAD = do_GET

    def do_POST(self):
        """Answers what creates, checks and commits."""
        path = self._begin()
        if path is None:
            return
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self._create(json.loads(self.body))
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/(.+)", path):
            return self._preupload(match[1])
        if match := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            return self._batch()
        if path == "/verify":
            given = json.loads(self.body)
            known = len(self.hub.objects.get(given["oid"], b"")) == given["size"]
            return self._json({}) if known else self._error(422, "", "the object is not there")
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/(.+)", path):
            return self._commit(match[1], match[2])
        self._error(404, "", "no such page")

    def do_PUT(self):
        """Keeps a large file."""
        path = self._begin()
        if path is None:
            return
        if self.cut_after is not None:
            return self._hang_up()
        oid = path.removeprefix("/upload/")
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self._error(400, "", "the bytes are others")
        self.hub.objects[oid] = self.body
        self._json({})

    # Reading

    def _reader(self):
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ")

    def _repository(self, repo, revision="main"):
        """The repository, if it exists and may be read; otherwise None, and the error has been sent."""
        found, token = self.hub.repositories.get(repo), self._reader()
        if token and token not in (TOKEN, READER):
            self._error(401, "", "Invalid credentials in Authorization header")
        elif found is None or (found.private and not token):
            # Without a token the hub does not say whether a repository exists.
            self._error(404 if token else 401, "RepoNotFound", "Repository not found")
        elif found.gated and self.command != "POST" and "/api/" not in self.path:
            self._error(403 if token else 401, "GatedRepo", "Access to model is restricted")
        elif revision not in found.refs and revision not in found.commits:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return found
        return None

    def _info(self, repo, revision):
        if found := self._repository(repo, revision):
            files = [{"rfilename": name} for name in sorted(found.files(revision))]
            if "blobs=" in self.path:
                files = [file | {"size": size_of(found.files(revision)[file["rfilename"]])} for file in files]
            sha = found.refs.get(revision, revision)
            self._json(
                {
                    "id": repo.removeprefix("datasets/"),
                    "modelId": repo,
                    "sha": sha,
                    "private": found.private,
                    "siblings": files,
                }
            )

    def _tree(self, repo, revision):
        if found := self._repository(repo, revision):
            files = sorted(found.files(revision).items())
            self._json([{"type": "file", "path": n, "size": size_of(c), "oid": etag_of(n, c)} for n, c in files])

    def _resolve(self, repo, revision, name):
        found = self._repository(repo, revision)
        if found is None:
            return
        commit = found.refs.get(revision, revision)
        if name not in found.commits[commit]:
            return self._error(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
        content = found.commits[commit][name]
        etag = f'"{etag_of(name, content)}"'
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if not name.endswith(LARGE):
            return self._content(content, headers | {"ETag": etag})
        self._answer(
            302,
            b"",
            headers
            | {
                "Location": f"{self.hub.storage}/cdn/{repo}/{commit}/{quote(name)}",
                "X-Linked-Etag": etag,
                "X-Linked-Size": str(size_of(content)),
            },
        )

    def _content(self, content, headers):
        """A file or, for a request with a range, its end."""
        size, first = size_of(content), 0
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            first = int(match[1])
        if first >= size > 0:
            return self._error(416, "", "the range is beyond the end", {"Content-Range": f"bytes */{size}"})
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{size - 1}/{size}")
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(size - first))
        self.end_headers()
        if self.command == "HEAD":
            return
        left = size - first if self.cut_after is None else min(self.cut_after, size - first)
        for chunk in chunks_of(content, first, left):
            self.wfile.write(bytes([chunk[0] ^ 1]) + chunk[1:] if self.flipped else chunk)
        if self.cut_after is not None:
            self._hang_up()

    # Writing

    def _writer(self):
        """Whether the request may write; otherwise the error has been sent."""
        token = self._reader()
        if token != TOKEN:
            known = token == READER
            self._error(403 if known else 401, "", "no right to write" if known else "Invalid username or password.")
        return token == TOKEN

    def _create(self, given):
        repo = f"{given.get('organization') or 'tester'}/{given['name']}"
        if not self._writer():
            return
        if repo in self.hub.repositories:
            return self._error(409, "", "You already created this model repo")
        private = given.get("visibility") == "private" or given.get("private") is True
        self.hub.add(repo, {".gitattributes": b"*.safetensors filter=lfs\n"}, private=private)
        self._json({"url": f"{self.hub.url}/{repo}", "name": repo, "id": "1"})

    def _preupload(self, repo):
        if self._writer() and self._repository(repo):
            files = [
                {"path": file["path"], "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular"}
                for file in json.loads(self.body)["files"]
            ]
            self._json({"files": [file | {"shouldIgnore": False, "oid": None} for file in files]})

    def _batch(self):
        if self._writer():
            hub = self.hub.url
            objects = [
                {
                    **given,
                    "actions": {
                        "upload": {"href": f"{self.hub.storage}/upload/{given['oid']}", "header": {}},
                        "verify": {"href": f"{hub}/verify", "header": {}},
                    },
                }
                for given in json.loads(self.body)["objects"]
            ]
            self._json({"transfer": "basic", "objects": objects})

    def _commit(self, repo, branch):
        found = self._repository(repo) if self._writer() else None
        if found is None:
            return
        files = {}
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header" and value.get("parentCommit") not in (None, found.refs[branch]):
                return self._error(412, "", "A commit has happened since. Please refresh and try again.")
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
        commit = found.commit(files, branch)
        self._json({"success": True, "commitOid": commit, "commitUrl": f"{self.hub.url}/{repo}/commit/{commit}"})

    # Answers

    def _json(self, value):
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _error(self, status, code, message, headers=None):
        stated = {"X-Error-Code": code} if code else {}
        body = json.dumps({"error": message}).encode()
        self._answer(
            status, body, {"X-Error-Message": message, "Content-Type": "application/json"} | stated | (headers or {})
        )

    def _answer(self, status, body, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _hang_up(self):
        self.close_connection = True
        self.wfile.flush()
        time.sleep(self.stalls)
        self.connection.shutdown(socket.SHUT_RDWR)
