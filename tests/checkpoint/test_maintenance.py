"""A notice of maintenance or preemption of a machine stops a run as a signal does."""

import http.client
import http.server
import io
import signal
import threading
import time

from focalnet_jax.checkpoint import maintenance
from focalnet_jax.checkpoint.preemption import StopRequest
from tests.commands import ENVIRONMENT, SMALL, start


def test_a_notice_is_seen_after_an_answer_that_is_not_http(monkeypatch, capsys):
    answers = iter([http.client.BadStatusLine("garbage"), http.client.IncompleteRead(b""), io.BytesIO(b"TRUE")])

    def answer(*_, **__):
        if isinstance(given := next(answers), Exception):
            raise given
        return given

    monkeypatch.setattr(maintenance, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(maintenance.urllib.request, "urlopen", answer)
    with StopRequest(25.0) as stop, maintenance.watched(on_tpu=True):
        deadline = time.monotonic() + 20
        while stop.received is None and time.monotonic() < deadline:
            time.sleep(0.01)
    assert stop.received == signal.SIGTERM
    assert "this machine is about to be stopped" in capsys.readouterr().err


def test_a_machines_notice_stops_the_run_as_a_signal_does(tmp_path):
    """The test's server imitates Google's metadata server."""

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            answer = "TRUE" if self.path.endswith("/instance/preempted") else "NONE"
            self.send_response(200 if self.headers["Metadata-Flavor"] == "Google" else 403)
            self.end_headers()
            self.wfile.write(answer.encode())

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("localhost", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        env = ENVIRONMENT | {"GCE_METADATA_HOST": f"localhost:{server.server_port}"}
        process = start("train.py", *SMALL, "--config.total_steps=1000000", "--workdir", tmp_path, env=env)
        _, stderr = process.communicate(timeout=120)
        server.shutdown()
    assert process.returncode == 42, stderr
    assert "preempted is TRUE: this machine is about to be stopped" in stderr
