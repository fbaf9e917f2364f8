"""A proxy before the server of `tests.storage.bucket` that disturbs requests as a network and a busy service do."""

import asyncio
import json
import random
import re
import threading
import urllib.parse
from dataclasses import dataclass, field

from tests.storage.bucket import Server, addresses, free_port

CUT_BEFORE, CUT_AFTER, CUT_BODY, STALL, SLOW = "cut before", "cut after", "cut body", "stall", "slow"
FLIP = "flip"
_REASONS = {401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 429: "Too Many Requests"}


MIXED = (429, 500, 503, CUT_BEFORE, CUT_AFTER, CUT_BODY)


@dataclass
class Fault:
    """What happens to the requests that match.

    Attributes:
      kind: an HTTP status, which is answered instead of the server's answer; `CUT_BEFORE`, the connection ends without
        the server seeing the request; `CUT_AFTER`, the server's answer is lost; `CUT_BODY`, only half of the answer's
        body arrives; `STALL`, no answer for `seconds`, then as `CUT_BEFORE`; `SLOW`, the answer comes `seconds` later;
        `FLIP`, a bit of the answer's body is wrong.
      methods: the methods of the requests.
      target: pattern that is searched for in `METHOD PATH?QUERY NAME`, with the name of the object.
      chance: probability for each matching request.
      times: the number of requests to disturb; unlimited if negative.
      skip: the number of matching requests to let through first.
    """

    kind: int | str
    methods: tuple[str, ...] = ("GET", "POST", "PUT", "DELETE", "PATCH")
    target: str = ""
    chance: float = 1.0
    times: int = -1
    skip: int = 0
    seconds: float = 0.0


@dataclass
class Request:
    """A request that arrived.

    Attributes:
      method: its method.
      target: its path and query.
      name: name of the object, or "".
      fault: kind of the fault that it meets, or None.
      sent: bytes of the answer's body.
    """

    method: str
    target: str
    name: str
    fault: int | str | None
    sent: int = 0


@dataclass
class _Message:
    start: str
    headers: dict[str, str]
    raw_head: bytes
    body: bytes = field(default=b"", repr=False)


def failing(share):
    """Faults of the kinds in `MIXED`, equally often; `share` is the share of requests that fail."""
    each = share / len(MIXED)
    return [Fault(kind, chance=each / (1 - index * each)) for index, kind in enumerate(MIXED)]


class Proxy:
    """A server with one bucket behind a proxy; `environment` leads processes to the proxy.

    `faults` may be changed at any time; the first one that matches a request applies. `requests` is the log.
    `on_request` is called with each request before it is forwarded. The `server` itself stays reachable without faults,
    to look at the bucket.
    """

    def __init__(self, seed: int = 0):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.server = Server(public_port=self.port)  # the addresses of resumable uploads lead to the proxy, too
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.on_request = lambda request: None
        self._random = random.Random(seed)
        self._connections: set[asyncio.Task] = set()  # asyncio alone keeps no reference to a connection that is paused
        self._loop = asyncio.new_event_loop()
        started = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(started,), daemon=True)
        self._thread.start()
        assert started.wait(30)

    @property
    def environment(self):
        """Environment of a test's process that uses the proxy."""
        return self.server.environment | self.addresses

    @property
    def addresses(self):
        """The environment variables of any process that uses the proxy."""
        return addresses(self.url)

    def close(self):
        """Ends the proxy and the server."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop)
        self._thread.join()
        self.server.close()

    def disturbed(self):
        """The log without the requests that met no fault."""
        return [request for request in self.requests if request.fault is not None]

    def _serve(self, started):
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(asyncio.start_server(self._connection, "127.0.0.1", self.port))
        started.set()
        self._loop.run_forever()

    async def _end(self):
        connections = asyncio.all_tasks() - {asyncio.current_task()}
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        self._loop.stop()

    async def _connection(self, reader, writer):
        self._connections.add(asyncio.current_task())
        try:
            while (message := await _read(reader, writer)) is not None:
                if not await self._answer(message, writer):
                    writer.transport.abort()
                    return
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(asyncio.current_task())
            writer.close()

    async def _answer(self, message, writer):
        """Answers a request; returns whether the connection stays open."""
        method, target, _ = message.start.split(" ", 2)
        name = _object_name(target, message.body)
        fault = self._fault(method, f"{method} {target} {name}")
        request = Request(method, target, name, fault.kind if fault else None)
        self.requests.append(request)
        self.on_request(request)
        kind = request.fault
        if isinstance(kind, int):
            await _send(writer, _error(kind))
            return True
        if kind in (STALL, SLOW):
            await asyncio.sleep(fault.seconds)
        if kind in (CUT_BEFORE, STALL):
            return False
        answer = await self._forward(message)
        if kind == CUT_AFTER:
            return False
        if kind == CUT_BODY:
            await _send(writer, answer.raw_head + answer.body[: len(answer.body) // 2])
            return False
        request.sent = len(answer.body)
        if kind == FLIP:
            middle = len(answer.body) // 2
            answer.body = answer.body[:middle] + bytes([answer.body[middle] ^ 1]) + answer.body[middle + 1 :]
        await _send(writer, answer.raw_head + answer.body)
        return True

    def _fault(self, method, text):
        for fault in self.faults:
            if method not in fault.methods or not re.search(fault.target, text) or not fault.times:
                continue
            if fault.skip:
                fault.skip -= 1
            elif self._random.random() < fault.chance:
                fault.times -= 1
                return fault
        return None

    async def _forward(self, message):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        try:
            await _send(writer, message.raw_head + message.body)
            return await _read(reader, head_only=message.start.startswith("HEAD"))
        finally:
            writer.close()


async def _read(reader, writer=None, *, head_only=False):
    """Reads a request or an answer; returns None at the end of the connection.

    `writer` answers clients that wait for permission to send a large body, as TensorStore does above 1 MB.
    """
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    start, *lines = head.decode("latin-1").split("\r\n")[:-2]
    headers = {name.strip().lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
    message = _Message(start, headers, head)
    if headers.get("expect", "").lower() == "100-continue":
        await _send(writer, b"HTTP/1.1 100 Continue\r\n\r\n")
        message.raw_head = re.sub(rb"(?i)\r\nexpect:[^\r]*", b"", head)  # the server would answer it too
    if head_only or start.split(" ")[1] in ("204", "304"):
        return message
    if headers.get("transfer-encoding", "").lower() == "chunked":
        message.body = await _read_chunks(reader)
    elif "content-length" in headers:
        message.body = await reader.readexactly(int(headers["content-length"]))
    elif start.startswith("HTTP"):
        message.body = await reader.read()
    return message


async def _read_chunks(reader):
    """Reads a chunked body; returns it as it was sent."""
    raw = b""
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        raw += line + await reader.readexactly(size + 2)
        if not size:
            return raw


def _object_name(target, body):
    """The name of the object that a request reads or writes, or "" for a listing."""
    url = urllib.parse.urlsplit(target)
    if "uploadType=multipart" in url.query:
        return json.loads(re.search(rb"\{.*\}", body[:1000]).group())["name"]
    if names := urllib.parse.parse_qs(url.query).get("name"):
        return names[0]
    return urllib.parse.unquote(url.path.rpartition("/o/")[2]) if "/o/" in url.path else ""


async def _send(writer, content):
    writer.write(content)
    await writer.drain()


def _error(status):
    """An error as the service answers it."""
    reason = _REASONS.get(status, "Service Unavailable")
    body = json.dumps({"error": {"code": status, "message": reason, "errors": [{"reason": reason}]}}).encode()
    head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body
