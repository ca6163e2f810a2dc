"""A web server for one dataset and one person: it answers this machine only, and only who knows its address.

It listens on the loopback interface. A web site that a browser has open could still send requests there, under a name
of its own that it lets point to 127.0.0.1 (DNS rebinding): so the Host header must be an address of loopback. Other
users of the machine could send requests, too: so the path begins with a random token. No file has a path here: an
utterance is named by its row in the index.
"""

import re
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlencode

from whisper_shard.audio.members import encode_wav
from whisper_shard.audio.samples import to_float32, to_int16
from whisper_shard.browse.table import FoundPage, Query, UtteranceTable
from whisper_shard.dataset.index import Dataset, open_dataset
from whisper_shard.dataset.reader import UtteranceReader, decode_audio, open_reader
from whisper_shard.dataset.sources.open import open_source
from whisper_shard.errors import ConfigError, WhisperShardError
from whisper_shard.report.page import render_page
from whisper_shard.storage.location import Location

HOST = "127.0.0.1"
"""The only address that is listened on."""
MAX_QUERY_CHARS = 2_000
"""Of the part of an address behind the question mark."""
_AUDIO = re.compile(r"([0-9]{1,12})\.wav", re.ASCII)
_RANGE = re.compile(r"bytes=([0-9]{0,15})-([0-9]{0,15})", re.ASCII)
_TIMEOUT_SECONDS = 60.0


class BrowseServer(ThreadingHTTPServer):
    """Serves the utterances of one dataset until it is shut down."""

    daemon_threads = True

    def __init__(self, dataset: Dataset, reader: UtteranceReader, *, port: int) -> None:
        """Listen; nothing is answered before `serve_forever`.

        Args:
            dataset: What is shown.
            reader: Of its audio; used by one thread at a time.
            port: 0: any that is free.

        Raises:
            DatasetError: The index is damaged.
            ConfigError: The port is taken, or not allowed.
        """
        self.dataset = dataset
        self.table = UtteranceTable(dataset)
        self.token = secrets.token_urlsafe(16)
        self._reader = reader
        self._reading = threading.Lock()
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise ConfigError(
                f"--port {port}: {error.strerror}; give another one, or 0 for any that is free"
            ) from error

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://{HOST}:{self.server_port}/{self.token}/"

    @property
    def hosts(self) -> tuple[str, ...]:
        """What a browser that means this server writes into the Host header."""
        return f"{HOST}:{self.server_port}", f"localhost:{self.server_port}"

    def read_wav(self, row: int) -> bytes:
        """Return the audio of an utterance.

        Raises:
            DatasetError: It is damaged.
        """
        with self._reading:
            samples = decode_audio(self._reader.read(row))
            return encode_wav(to_int16(to_float32(samples)))


@contextmanager
def open_server(dataset: Location | str, *, port: int = 0) -> Iterator[BrowseServer]:
    """Open a dataset and listen; close both at the end.

    Raises:
        DatasetError: No finished dataset there, or its index is damaged.
        ConfigError: The port is taken, or URL, bucket or credentials are wrong.
        EnvironmentFault: The network fails.
    """
    opened = open_dataset(dataset)
    with (
        closing(open_reader(opened, open_source(opened))) as reader,
        BrowseServer(opened, reader, port=port) as server,
    ):
        yield server


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """What is sent."""

    body: bytes
    kind: str = "text/plain; charset=utf-8"
    status: HTTPStatus = HTTPStatus.OK
    headers: Mapping[str, str] = field(default_factory=dict)


class _Handler(BaseHTTPRequestHandler):
    server: BrowseServer
    timeout = _TIMEOUT_SECONDS  # of a client that stops in the middle of a request

    def do_GET(self) -> None:
        """Answer a request."""
        self._send(self._answer())

    def do_HEAD(self) -> None:
        """Answer a request without its body."""
        self._send(self._answer())

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""

    def _answer(self) -> _Answer:
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or hosts[0] not in self.server.hosts:
            return _refuse(HTTPStatus.FORBIDDEN)
        path, _, query = self.path.partition("?")
        folder, _, name = path.rpartition("/")
        if not secrets.compare_digest(folder.encode(), f"/{self.server.token}".encode()):
            return _refuse(HTTPStatus.NOT_FOUND)
        try:
            if not name:
                return _Answer(body=_render(self.server, query).encode(), kind="text/html; charset=utf-8")
            if (match := _AUDIO.fullmatch(name)) and int(match[1]) < self.server.dataset.num_utterances:
                return _cut(self.server.read_wav(int(match[1])), self.headers.get("Range", ""))
        except WhisperShardError as error:
            return _Answer(body=str(error).encode(errors="replace"), status=HTTPStatus.INTERNAL_SERVER_ERROR)
        return _refuse(HTTPStatus.NOT_FOUND)

    def _send(self, answer: _Answer) -> None:
        self.send_response(answer.status)
        headers = {
            "Content-Type": answer.kind,
            "Content-Length": str(len(answer.body)),
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",  # the token is in the address
            "X-Frame-Options": "DENY",
            "Cache-Control": "no-store",
            **answer.headers,
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)


def _refuse(status: HTTPStatus) -> _Answer:
    return _Answer(body=f"{status.value} {status.phrase}\n".encode(), status=status)


def _cut(audio: bytes, wanted: str) -> _Answer:
    """Return a sound, or the one range of its bytes that is asked for: browsers need that to jump to a place.

    A range that ends before it begins, or cannot be read, is ignored.

    Source: RFC 9110, section 14.
    """
    match, size = _RANGE.fullmatch(wanted.strip()), len(audio)
    headers = {"Accept-Ranges": "bytes"}
    if match is None or not any(match.groups()) or (all(match.groups()) and int(match[2]) < int(match[1])):
        return _Answer(body=audio, kind="audio/wav", headers=headers)
    if match[1]:
        start, end = int(match[1]), min(int(match[2] or size), size - 1)
    else:  # the last bytes
        start, end = max(size - int(match[2]), 0), size - 1
    if start > end:
        headers["Content-Range"] = f"bytes */{size}"
        return _Answer(body=b"", status=HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, headers=headers)
    headers["Content-Range"] = f"bytes {start}-{end}/{size}"
    part = audio[start : end + 1]
    return _Answer(body=part, kind="audio/wav", status=HTTPStatus.PARTIAL_CONTENT, headers=headers)


def _render(server: BrowseServer, query: str) -> str:
    wanted = _read_query(query)
    found = server.table.find(wanted)
    return render_page(
        "browse.html",
        name=str(server.dataset.location),
        query=wanted,
        columns=server.table.sort_columns,
        found=found,
        cards=[_describe(row) for row in found.rows],
        pages=_page_links(wanted, found),
    )


def _read_query(query: str) -> Query:
    try:
        values = {name: value[-1] for name, value in parse_qs(query[:MAX_QUERY_CHARS], max_num_fields=8).items()}
    except ValueError:  # more fields
        values = {}
    page = values.get("page", "")
    return Query(
        text=values.get("text", ""),
        sort=values.get("sort", ""),
        is_descending=values.get("order") == "descending",
        page=int(page) - 1 if re.fullmatch("[0-9]{1,9}", page) else 0,
    )


def _page_links(query: Query, found: FoundPage) -> dict[str, str]:
    """Return the links to other pages, by their words."""
    order = "descending" if query.is_descending else "ascending"
    pages = {"first": 0, "previous": found.page - 1, "next": found.page + 1, "last": found.num_pages - 1}
    return {
        word: "?" + urlencode({"text": query.text, "sort": query.sort, "order": order, "page": page + 1})
        for word, page in pages.items()
        if 0 <= page < found.num_pages and page != found.page
    }


def _describe(row: Mapping[str, object]) -> dict[str, object]:
    """Return a card: the address of the audio, the text, and everything else that is known."""
    numbers = {
        name: value
        for name, value in row.items()
        if name not in ("text", "position", "num_samples", "num_chars") and value not in (None, "")
    }
    facts = [f"{name} {value:.5g}" if isinstance(value, float) else f"{value}" for name, value in numbers.items()]
    return {"clip": f"{row['position']}.wav", "text": row["text"], "facts": facts}
