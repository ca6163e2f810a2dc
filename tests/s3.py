"""A real S3 server for tests (SeaweedFS, on loopback), and a proxy that counts requests and injects faults.

The client signs the name of the host that it talks to, the proxy passes that name on unchanged, and the server checks
the signature against the name it is given: so signed requests pass through the proxy.
"""

import ctypes
import fcntl
import http.client
import json
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import forkserver
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote

ACCESS_KEY, SECRET_KEY = "testkey", "testsecret"
READER_KEY, READER_SECRET = "readkey", "readsecret"
"""May read PUBLIC, and nothing else."""
BUCKET, PUBLIC = "corpora", "public"
"""Anybody may read and write PUBLIC; BUCKET asks for a key."""
_IDENTITIES = {
    "identities": [
        {
            "name": "owner",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        },
        {
            "name": "reader",
            "credentials": [{"accessKey": READER_KEY, "secretKey": READER_SECRET}],
            "actions": [f"Read:{PUBLIC}", f"List:{PUBLIC}"],
        },
        {"name": "anonymous", "actions": [f"Read:{PUBLIC}", f"List:{PUBLIC}", f"Write:{PUBLIC}"]},
    ]
}
_PIECE = 1 << 16
_START_SECONDS = 60


def environment(endpoint: str, *, key: str = ACCESS_KEY, secret: str = SECRET_KEY) -> dict[str, str]:
    """The variables that lead a program to a server."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_REGION": "us-east-1",
    }


def reserve_ports(count: int) -> tuple[list[int], IO[str]]:
    """Return ports that nothing listens on, 10,000 above each neither, and the lock that reserves them.

    They lie below those that the system gives out. Other test processes take others while the lock is open.
    """
    for first in range(11_000, 20_000, count):
        ports = list(range(first, first + count))
        lock = Path(tempfile.gettempdir(), f"s3-ports-{first}.lock").open("a")  # noqa: SIM115 - the caller keeps it open
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if all(_is_free(port) and _is_free(port + 10_000) for port in ports):
                return ports, lock
        lock.close()
    raise OSError("no ports are free")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class S3Server:
    """SeaweedFS in a folder of its own; its data survive `kill` and `start`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        (self.port, *self._ports), self._lock = reserve_ports(5)
        self.endpoint = f"http://127.0.0.1:{self.port}"
        (folder / "data").mkdir(exist_ok=True)
        (folder / "s3.json").write_text(json.dumps(_IDENTITIES))

    @property
    def pid(self) -> int:
        """Process of the server.

        Raises:
            RuntimeError: It does not run.
        """
        if self._process is None:
            raise RuntimeError("the server does not run")
        return self._process.pid

    def start(self, timeout: float = _START_SECONDS) -> None:
        """Start the server and wait until it answers."""
        master, volume, filer, admin = self._ports
        flags = {
            "dir": self.folder / "data", "ip": "127.0.0.1", "ip.bind": "127.0.0.1", "master.telemetry": "false",
            "admin.ui": "false", "webdav": "false", "s3.config": self.folder / "s3.json", "s3.port": self.port,
            "s3.port.grpc": self.port + 10_000, "s3.port.iceberg": 0, "s3.port.lance": 0,
            "s3.autoCreateBucket": "false", "bucket": f"{BUCKET},{PUBLIC}",
            "master.port": master, "master.port.grpc": master + 10_000, "volume.port": volume,
            "volume.port.grpc": volume + 10_000, "filer.port": filer, "filer.port.grpc": filer + 10_000,
            "admin.port": admin, "admin.port.grpc": admin + 10_000,
            "filer.localSocket": self.folder / "filer", "s3.localSocket": self.folder / "s3",
        }  # fmt: skip
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [Path(sys.executable).parent / "weed", "mini", *(f"-{name}={value}" for name, value in flags.items())],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, preexec_fn=_die_with_parent,
            )  # fmt: skip
        self._wait(time.monotonic() + timeout)

    def kill(self) -> None:
        """End the server at once, as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """End the server, and let others have its ports."""
        self.kill()
        self._lock.close()

    def _wait(self, deadline: float) -> None:
        """Wait until both buckets exist: anybody may list one of them, and the other is made before it."""
        while time.monotonic() < deadline:
            assert self._process is not None and self._process.poll() is None, (self.folder / "log").read_text()[-4000:]
            with suppress(OSError), urllib.request.urlopen(f"{self.endpoint}/{PUBLIC}?list-type=2", timeout=2):
                return
            time.sleep(0.05)
        raise TimeoutError((self.folder / "log").read_text()[-4000:])


@contextmanager
def running_s3() -> Iterator[S3Server]:
    """A server that is gone at the end, with all its data."""
    folder = Path(tempfile.mkdtemp(prefix="s3-"))  # short: the name of a Unix socket has at most 107 bytes
    server = S3Server(folder)
    try:
        server.start()
        yield server
    finally:
        server.close()
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(kw_only=True)
class Fault:
    """What the proxy does to some requests instead of passing them on untouched."""

    kind: str
    """``reset``, ``cut``, ``stall``, ``drip``, ``status``, ``corrupt`` or ``run`` (only calls ``action``)."""
    times: int = 1_000_000
    """Requests it strikes."""
    after_bytes: int = 0
    """Bytes of the body that pass before it strikes."""
    part: str = ""
    """Strikes only requests whose path contains this."""
    method: str = "GET"
    """Strikes only this method."""
    status: int = 500
    """Answer of ``status``, with `code` in the body."""
    code: str = "InternalError"
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 3600.0
    """How long ``stall`` says nothing."""
    bytes_per_second: float = 1000.0
    """Speed of ``drip``."""
    action: Callable[[], Any] | None = None
    """Called when it strikes, before anything is passed on."""


class FaultProxy:
    """Stands between a client and a server: counts, delays, and breaks what it is told to break."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.delay_seconds = 0.0
        self.requests: list[tuple[str, str, str | None]] = []
        self.bytes_sent = 0
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._clients: set[socket.socket] = set()
        self._server: _ProxyServer | None = None
        self.port = 0
        self.listen()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def counts(self) -> Counter[str]:
        """Requests by method."""
        return Counter(method for method, _, _ in self.requests)

    def num_gets(self, part: str = "") -> int:
        """GET requests whose path contains ``part``."""
        return sum(method == "GET" and part in path for method, path, _ in self.requests)

    def reset_counts(self) -> None:
        self.requests, self.bytes_sent = [], 0

    def inject(self, kind: str, **settings: Any) -> Fault:
        """Add a fault; the first that fits a request and has times left strikes it."""
        fault = Fault(kind=kind, **settings)
        self._faults.append(fault)
        return fault

    def heal(self) -> None:
        """Remove all faults and delays, and listen."""
        self._faults, self.delay_seconds = [], 0.0
        if self._server is None:
            self.listen()

    def listen(self) -> None:
        """Accept connections, on the same port as before."""
        self._server = _ProxyServer(("127.0.0.1", self.port), self)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def refuse(self) -> None:
        """Drop all connections and refuse new ones, as a machine does whose server is down."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        for client in list(self._clients):
            _reset(client)

    def take_fault(self, method: str, path: str) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.times > 0 and fault.method == method and fault.part in path:
                    fault.times -= 1
                    return fault
        return None

    def count(self, method: str, path: str, byte_range: str | None) -> None:
        with self._lock:
            self.requests.append((method, path, byte_range))

    def count_bytes(self, num_bytes: int) -> None:
        with self._lock:
            self.bytes_sent += num_bytes


class _ProxyServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], proxy: FaultProxy) -> None:
        self.proxy = proxy
        super().__init__(address, _ProxyHandler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.proxy._clients.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.proxy._clients.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: broken connections are what this server is for."""


class _ProxyHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _ProxyServer

    def setup(self) -> None:
        super().setup()
        self._upstream: http.client.HTTPConnection | None = None

    def finish(self) -> None:
        with suppress(OSError):
            super().finish()
        if self._upstream is not None:
            self._upstream.close()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (OSError, http.client.HTTPException):
            self.close_connection = True

    def _forward(self) -> None:
        proxy = self.server.proxy
        if proxy._server is not self.server:  # it refuses by now, and this connection was accepted just before
            raise ConnectionError
        proxy.count(self.command, self.path, self.headers.get("Range"))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        time.sleep(proxy.delay_seconds)
        fault = proxy.take_fault(self.command, self.path)
        if fault is not None and fault.action is not None:
            fault.action()
        if fault is not None and fault.kind == "status":
            self._answer(fault)
            return
        response = self._ask(body)
        self.send_response_only(response.status, response.reason)
        for name, value in response.getheaders():
            if name.lower() not in {"transfer-encoding", "connection"}:
                self.send_header(name, value)
        length = response.getheader("Content-Length")
        if length is None and self.command != "HEAD":  # chunked: the end of the connection is the end of the body
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if self.command != "HEAD":
            self._send_body(response, fault)
        response.close()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _forward

    def _ask(self, body: bytes) -> http.client.HTTPResponse:
        for attempt in range(2):  # the server may have closed the connection that was kept
            try:
                if self._upstream is None:
                    self._upstream = http.client.HTTPConnection("127.0.0.1", self.server.proxy.target_port, timeout=60)
                self._upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    self._upstream.putheader(name, value)
                self._upstream.endheaders(body)
                return self._upstream.getresponse()
            except (OSError, http.client.HTTPException):
                self._upstream = None
                if attempt:
                    raise
        raise AssertionError

    def _answer(self, fault: Fault) -> None:
        body = f"<Error><Code>{fault.code}</Code><Message>said the test</Message></Error>".encode()
        self.send_response(fault.status)
        for name, value in {"Content-Length": str(len(body)), **fault.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _send_body(self, response: http.client.HTTPResponse, fault: Fault | None) -> None:
        sent = 0
        while piece := response.read(_PIECE if fault is None or sent else max(1, min(fault.after_bytes, _PIECE))):
            if fault is not None and sent >= fault.after_bytes:
                piece = self._strike(fault, piece)
            self.server.proxy.count_bytes(len(piece))
            self.wfile.write(piece)
            sent += len(piece)

    def _strike(self, fault: Fault, piece: bytes) -> bytes:
        if fault.kind == "reset":
            _reset(self.connection)
            raise ConnectionResetError
        if fault.kind == "cut":
            self.connection.shutdown(socket.SHUT_RDWR)
            raise ConnectionAbortedError
        if fault.kind == "stall":
            _sleep_while_open(self.connection, fault.seconds)
        elif fault.kind == "drip":
            step = max(1, round(fault.bytes_per_second / 10))
            for start in range(0, len(piece) - step, step):
                self.wfile.write(piece[start : start + step])
                time.sleep(0.1)
            return piece[(len(piece) - 1) // step * step :]
        elif fault.kind == "corrupt":
            return bytes(value ^ 0x55 for value in piece)
        return piece


def _sleep_while_open(connection: socket.socket, seconds: float) -> None:
    """Wait so long, or until the other side hangs up."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        connection.settimeout(0.1)
        with suppress(TimeoutError):
            if not connection.recv(1, socket.MSG_PEEK):
                raise ConnectionAbortedError
            time.sleep(0.1)
    connection.settimeout(None)


def _reset(connection: socket.socket) -> None:
    """Close with RST instead of FIN."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RD)
        connection.close()


Answer = tuple[int, dict[str, str], bytes]
"""Status, headers and body."""


class ScriptedServer:
    """Answers each request as a function says; for what the real server cannot be made to say."""

    def __init__(
        self, answer: Callable[[BaseHTTPRequestHandler], Answer], *, certificate: tuple[Path, Path] | None = None
    ) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                status, headers, body = answer(self)
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        scheme = "http" if certificate is None else "https"
        self.endpoint = f"{scheme}://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def __enter__(self) -> "ScriptedServer":
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def restart_forkserver() -> None:
    """Let the next loader processes have the environment of now; a server of an earlier test has that of then."""
    forkserver._forkserver._stop()


def upload_folder(folder: Path, url: str) -> None:
    """Put all files of a folder into a bucket."""
    from whisper_shard.storage.location import parse_location
    from whisper_shard.storage.object_store import ObjectStore

    store, target = ObjectStore(), parse_location(url)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            store.put(target.join(path.relative_to(folder).as_posix()), path)


def serve_folder(folder: Path) -> Callable[[BaseHTTPRequestHandler], Answer]:
    """Answer GET with the files of a folder, or with a range of one, as plain web servers do."""

    def answer(request: BaseHTTPRequestHandler) -> Answer:
        path = folder / unquote(request.path).lstrip("/")
        if not path.is_file():
            return 404, {}, b""
        content = path.read_bytes()
        headers = {"ETag": f'"{zlib.crc32(content):08x}"'}
        if byte_range := request.headers.get("Range"):
            first, last = (int(end) for end in byte_range.removeprefix("bytes=").split("-"))
            body = content[first : last + 1]
            return 206, {**headers, "Content-Range": f"bytes {first}-{first + len(body) - 1}/{len(content)}"}, body
        return 200, headers, content

    return answer


def make_certificates(folder: Path) -> tuple[Path, Path, Path]:
    """Make an authority and a server's certificate; return the authority's, the server's, and the server's key."""
    authority, authority_key = folder / "authority.pem", folder / "authority.key"
    server, key, request, names = (folder / name for name in ("server.pem", "server.key", "server.csr", "names"))
    names.write_text("subjectAltName=IP:127.0.0.1\nbasicConstraints=critical,CA:FALSE\n")
    new_key = ["-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test"]
    for command in (
        ["req", "-x509", "-days", "2", *new_key, "-keyout", authority_key, "-out", authority],
        ["req", *new_key, "-keyout", key, "-out", request],
        ["x509", "-req", "-days", "2", "-in", request, "-CA", authority, "-CAkey", authority_key, "-CAcreateserial",
         "-extfile", names, "-out", server],
    ):  # fmt: skip
        subprocess.run(["openssl", *command], check=True, capture_output=True)
    return authority, server, key
