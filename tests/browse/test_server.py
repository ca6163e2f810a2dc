"""The server, asked by a real HTTP client over a real socket."""

import io
import re
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import requests
import soundfile

from tests.foreign import encode, make_index, write_tar
from tests.making import make_dataset
from tests.report.reading import HOSTILE
from tests.s3 import BUCKET, upload_folder
from whisper_shard.browse.server import open_server
from whisper_shard.dataset.views import filter_dataset
from whisper_shard.errors import ConfigError


@contextmanager
def serve(location):
    with open_server(str(location)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "train"
    make_dataset(folder, [0.2 + 0.01 * number for number in range(60)], text=HOSTILE)
    with serve(folder) as server:
        yield server


def get(url, **settings):
    with requests.Session() as session:
        session.trust_env = False
        return session.get(url, timeout=10, **settings)


def test_a_page_searches_sorts_and_escapes(server):
    answer = get(server.url, params={"sort": "seconds", "order": "descending", "text": "utt"})
    assert answer.status_code == 200 and answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "60 found; page 1 of 2" in answer.text and "<script" not in answer.text and "&lt;script&gt;" in answer.text
    assert re.findall(r'src="(\d+)\.wav"', answer.text)[:3] == ["59", "58", "57"]
    assert "default-src 'none'" in answer.text and "media-src 'self'" in answer.text
    (link,) = set(re.findall(r'href="(\?[^"]+)">next<', answer.text))
    following = get(server.url + link.replace("&amp;", "&"))
    assert "page 2 of 2" in following.text
    assert re.findall(r'src="(\d+)\.wav"', following.text)[-1] == "0"


def test_audio_is_played_whole_and_in_parts(server):
    whole = get(server.url + "7.wav")
    samples, rate = soundfile.read(io.BytesIO(whole.content))
    assert (whole.status_code, rate, len(samples)) == (200, 16_000, round(0.27 * 16_000))
    size = len(whole.content)
    for wanted, start, end in (("0-99", 0, 100), ("100-", 100, size), ("-50", size - 50, size), ("9-999999", 9, size)):
        part = get(server.url + "7.wav", headers={"Range": f"bytes={wanted}"})
        assert (part.status_code, part.content) == (206, whole.content[start:end]), wanted
        assert part.headers["Content-Range"] == f"bytes {start}-{end - 1}/{size}"
    for nothing in (f"{size}-", "-0"):
        beyond = get(server.url + "7.wav", headers={"Range": f"bytes={nothing}"})
        assert (beyond.status_code, beyond.headers["Content-Range"]) == (416, f"bytes */{size}")
    for odd in ("bytes=-", "bytes=0-1,5-6", "lines=1-2", "bytes=x-", "bytes=9-2", f"bytes={'9' * 400}-"):
        assert get(server.url + "7.wav", headers={"Range": odd}).status_code == 200, odd


def test_many_requests_at_once(server):
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda row: get(f"{server.url}{row}.wav"), range(60)))
    lengths = [len(soundfile.read(io.BytesIO(answer.content))[0]) for answer in answers]
    assert lengths == [round((0.2 + 0.01 * number) * 16_000) for number in range(60)]


@pytest.mark.parametrize(
    "path", ["60.wav", "-1.wav", "0.wav/", "../etc/passwd", "%2e%2e/x", "0.flac", "x/0.wav", "¹.wav"]
)
def test_nothing_else_is_there(server, path):
    prepared = requests.Request("GET", server.url).prepare()
    prepared.url = server.url + path  # as it stands: requests would resolve the dots
    with requests.Session() as session:
        assert session.send(prepared, timeout=10).status_code == 404


def test_only_who_knows_the_address_is_answered(server):
    root = f"http://127.0.0.1:{server.server_port}/"
    for path in ("", "0.wav", "wrong/", f"{server.token[:-1]}/", f"x/{server.token}/"):
        assert get(root + path).status_code == 404, path


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1.evil.example:{port}", ""]
)
def test_a_page_under_another_name_is_refused(server, host):
    answer = get(server.url, headers={"Host": host.format(port=server.server_port)})
    assert answer.status_code == 403 and "utt" not in answer.text
    assert get(server.url.replace("127.0.0.1", "localhost")).status_code == 200


def exchange(server, request):
    """Send bytes as they are; return the first line of the answer."""
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as connection:
        connection.sendall(request)
        return connection.makefile("rb").readline().decode()


def test_requests_that_are_no_http(server):
    path, host = f"/{server.token}/".encode(), b"Host: " + server.hosts[0].encode()
    assert " 200 " in exchange(server, b"GET " + path + b" HTTP/1.1\r\n" + host + b"\r\n\r\n")
    for request, status in (
        (path + b" HTTP/1.1\r\n\r\n", 403),
        (path + b" HTTP/1.1\r\n" + host + b"\r\nHost: evil.example\r\n\r\n", 403),
        (b"http://evil.example" + path + b" HTTP/1.1\r\n" + host + b"\r\n\r\n", 404),
        (path + b"..%2f..%2fetc/passwd HTTP/1.1\r\n" + host + b"\r\n\r\n", 404),
        (path + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", 414),
        (path + b" HTTP/1.1\r\n" + host + b"\r\nX: " + b"a" * 70_000 + b"\r\n\r\n", 431),
    ):
        assert f" {status} " in exchange(server, b"GET " + request), request[:80]


def played_seconds(server):
    """Return how long each utterance of the page is that is played."""
    clips = re.findall(r'src="(\d+\.wav)"', get(server.url).text)
    played = (soundfile.read(io.BytesIO(get(server.url + clip).content)) for clip in clips)
    return [len(samples) / rate for samples, rate in played]


@pytest.mark.slow
def test_a_dataset_in_a_bucket(s3, tmp_path):
    make_dataset(tmp_path / "train", [0.3, 0.4, 0.5], per_shard=2)
    upload_folder(tmp_path / "train", f"s3://{BUCKET}/browsed/train")
    with serve(f"s3://{BUCKET}/browsed/train") as server:
        assert played_seconds(server) == [0.3, 0.4, 0.5]


def test_a_view_shows_what_it_keeps(tmp_path):
    make_dataset(tmp_path / "train", [0.3, 0.4, 0.5], per_shard=2)
    filter_dataset(tmp_path / "train", tmp_path / "view", "num_samples > 6000")
    with serve(tmp_path / "view") as server:
        assert played_seconds(server) == [0.4, 0.5]
        assert get(server.url + "2.wav").status_code == 404


def test_tars_of_others(tmp_path):
    members = {
        f"utt{number:05d}.{suffix}": body
        for number, seconds in enumerate((0.3, 0.5))
        for suffix, body in (("wav", encode(seconds, rate=8_000)), ("txt", b"what is said"))
    }
    write_tar(tmp_path / "tars/a.tar", members)
    make_index(tmp_path / "tars", tmp_path / "out")
    with serve(tmp_path / "out") as server:
        assert sorted(played_seconds(server)) == [0.3, 0.5]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_only_reading_is_possible(server, method):
    assert requests.request(method, server.url, timeout=10).status_code == 501
    head = requests.head(server.url + "0.wav", timeout=10)
    assert (head.status_code, head.content) == (200, b"") and int(head.headers["Content-Length"]) > 6_000


@pytest.mark.parametrize(
    "query", ["page=x", "page=999999999999", "page=-1", "a=" * 3_000, "&".join(["a=1"] * 50), "text=%ff%00"]
)
def test_odd_queries_are_answered(server, query):
    assert get(f"{server.url}?{query}").status_code == 200


def test_a_damaged_utterance_is_named(tmp_path):
    dataset = make_dataset(tmp_path / "train", [0.3])
    path = dataset.shard_path(0)
    content = bytearray(path.read_bytes())
    content[3_000] ^= 0xFF
    path.write_bytes(content)
    with serve(tmp_path / "train") as server:
        answer = get(server.url + "0.wav")
    assert answer.status_code == 500 and "utterance utt00000: audio at byte" in answer.text


def test_a_port_that_is_taken_is_named(server):
    with (
        pytest.raises(ConfigError, match=rf"--port {server.server_port}: Address already in use; give another one"),
        open_server(str(server.dataset.folder), port=server.server_port),
    ):
        pass


def test_ctrl_c_ends_the_command(server):
    command = [sys.executable, "-m", "whisper_shard", "inspect", str(server.dataset.folder), "--browse"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        url = re.search(r"http://127\.0\.0\.1:\d+/\S+/", process.stdout.readline())[0]
        assert get(url).status_code == 200
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, "ended\n", "")
