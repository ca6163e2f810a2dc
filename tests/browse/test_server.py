"""The server, asked by a real HTTP client over a real socket."""

import io
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
import soundfile

from tests.making import make_dataset
from tests.report.reading import HOSTILE
from whisper_shard.browse.server import open_server
from whisper_shard.errors import ConfigError


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "train"
    make_dataset(folder, [0.2 + 0.01 * number for number in range(60)], text=HOSTILE)
    with open_server(str(folder)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


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
    beyond = get(server.url + "7.wav", headers={"Range": f"bytes={size}-"})
    assert (beyond.status_code, beyond.headers["Content-Range"]) == (416, f"bytes */{size}")
    for odd in ("bytes=-", "bytes=0-1,5-6", "lines=1-2", "bytes=x-"):
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
    with open_server(str(tmp_path / "train")) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}).start()
        answer = get(server.url + "0.wav")
        server.shutdown()
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
