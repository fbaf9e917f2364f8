"""A server that plays the Hugging Face Hub on loopback, as far as huggingface_hub uses it for models and data sets.

`python -m tests.hub.server FOLDER --port N` serves the folders FOLDER/ORG/NAME as models and FOLDER/datasets/ORG/NAME
as data sets, for trying by hand. It prints the environment variables that a command needs. HF_TOKEN=hf_writer may
write, HF_TOKEN=hf_reader may only read.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path

from tests.hub.handler import Handler


@dataclass
class Repository:
    """Commits, the newest last, and who may read them."""

    commits: dict[str, dict[str, bytes | Path]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False

    def commit(self, files, branch="main"):
        """Adds a commit with these files and those of the commit before."""
        files = {**self.commits.get(self.refs.get(branch, ""), {}), **files}
        digest = hashlib.sha1(f"{len(self.commits)} {sorted(files)}".encode())
        for content in files.values():
            digest.update(content if isinstance(content, bytes) else str(content).encode())
        self.commits[digest.hexdigest()] = files
        self.refs[branch] = digest.hexdigest()
        return digest.hexdigest()

    def files(self, revision="main"):
        """The files of a branch or commit by path."""
        return self.commits[self.refs.get(revision, revision)]


@dataclass
class Fault:
    """What goes wrong with matching requests: a status, a connection that stalls or is cut, or flipped bits."""

    pattern: str
    status: int = 0
    cut_after: int | None = None
    stalls: float = 0  # seconds that pass before the connection is cut
    flipped: bool = False
    times: int = 10**9
    headers: dict[str, str] = field(default_factory=dict)


class Hub:
    """The repositories, the faults, and a log of the requests."""

    def __init__(self, port=0):
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}  # large files that were uploaded, by SHA-256
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, dict[str, str]]] = []  # method, path, headers
        self.lock = threading.Lock()
        answering = type("Answering", (Handler,), {"hub": self})
        # Large files are on another host than the hub, which must not get the token.
        self.servers = [ThreadingHTTPServer(("127.0.0.1", number), answering) for number in (port, 0)]
        self.url, self.storage = (f"http://127.0.0.1:{server.server_address[1]}" for server in self.servers)

    def add(self, repo, files, **options):
        """A repository with one more commit of these files."""
        made = self.repositories.setdefault(repo, Repository(**options))
        made.commit(files)
        return made

    def fail(self, pattern, **options):
        """Makes requests that match go wrong from now on; the options are those of `Fault`."""
        self.faults.append(Fault(pattern, **options))

    def asked(self, pattern):
        """The requests that match, as "METHOD path"."""
        return [f"{method} {path}" for method, path, _ in self.requests if re.search(pattern, f"{method} {path}")]


@contextmanager
def serving(port=0):
    hub = Hub(port)
    for server in hub.servers:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield hub
    finally:
        for server in hub.servers:
            server.shutdown()
            server.server_close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=0)
    flags = parser.parse_args()
    with serving(flags.port) as hub:
        folders = [path for path in flags.folder.glob("*/*") if path.parent.name != "datasets"]
        for folder in sorted([*folders, *flags.folder.glob("datasets/*/*")]):
            files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
            hub.add(folder.relative_to(flags.folder).as_posix(), files)
        print(f"export HF_ENDPOINT={hub.url} HF_HUB_DISABLE_XET=1", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
