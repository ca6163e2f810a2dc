"""Object storage: a real S3 server, every fault of a network, and the errors that people meet."""

import logging
import multiprocessing
import pickle
import random
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.s3 import BUCKET, PUBLIC, READER_KEY, READER_SECRET, SECRET_KEY, FaultProxy, ScriptedServer
from whisper_shard.errors import ConfigError, DatasetError, EnvironmentFault
from whisper_shard.storage.location import Location, parse_location
from whisper_shard.storage.object_store import ObjectChanged, ObjectStore
from whisper_shard.storage.stores import StorageConfig

DATA = random.Random(0).randbytes(9_000_000)
QUICK = ObjectStore(StorageConfig(request_timeout_seconds=0.5, retry_budget_seconds=1.0))
PATIENT = ObjectStore(StorageConfig(request_timeout_seconds=2.0, retry_budget_seconds=20.0))

pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def location(s3: FaultProxy, request: pytest.FixtureRequest) -> Location:
    """An object of 9 MB; requests for it go through the proxy."""
    location = Location("s3", BUCKET, f"{request.node.name[:60]}/object.bin".replace(" ", "-"))
    ObjectStore().put(location, DATA)
    s3.reset_counts()
    return location


def read(store: ObjectStore, location: Location, offset: int = 1000, num_bytes: int = 8_500_000) -> bytes:
    return store.get_range(location, offset, num_bytes).data


class TestPlainUse:
    def test_what_is_written_is_read_back(self, s3, tmp_path):
        folder = parse_location(f"s3://{BUCKET}/plain")
        (tmp_path / "file").write_bytes(DATA)
        PATIENT.put(folder.join("small"), b"abc")
        PATIENT.put(folder.join("inner/large file+%.tar"), tmp_path / "file")
        assert PATIENT.get(folder.join("small"), max_bytes=3) == b"abc"
        assert PATIENT.get(folder.join("inner/large file+%.tar"), max_bytes=10_000_000) == DATA
        assert PATIENT.head(folder.join("small")).num_bytes == 3
        listed = {str(info.location): info.num_bytes for info in PATIENT.list(folder)}
        assert listed == {str(folder.join("small")): 3, str(folder.join("inner/large file+%.tar")): len(DATA)}
        PATIENT.delete(folder.join("small"))
        PATIENT.delete(folder.join("small"))
        with pytest.raises(FileNotFoundError, match=r"s3://corpora/plain/small: does not exist"):
            PATIENT.get(folder.join("small"), max_bytes=3)
        with pytest.raises(FileNotFoundError, match="does not exist"):
            PATIENT.head(folder.join("small"))

    def test_a_range_is_one_request_that_sends_no_more(self, s3, location):
        piece = PATIENT.get_range(location, 1000, 8_500_000)
        assert piece.data == DATA[1000:8_501_000]
        assert piece.num_requests == s3.num_gets() == 1
        assert s3.bytes_sent == 8_500_000
        assert piece.info.num_bytes == len(DATA)
        assert PATIENT.get_range(location, 8_999_990, 100).data == DATA[-10:]
        with pytest.raises(DatasetError, match=r"object.bin: ends too early; restore it"):
            PATIENT.get_range(location, 9_000_000, 1)

    def test_an_object_longer_than_expected_is_not_read(self, s3, location):
        with pytest.raises(DatasetError, match=r"has 9000000 bytes, at most 1000 are expected of such a file"):
            PATIENT.get(location, max_bytes=1000)
        assert s3.bytes_sent < 9_000_000, "what buffers of sockets take, 4 MB and more, is sent all the same"

    def test_of_many_who_create_an_object_one_succeeds(self, s3):
        location = parse_location(f"s3://{BUCKET}/create/lease")
        PATIENT.put(location, b"mine", if_absent=True)
        PATIENT.put(location, b"mine", if_absent=True)  # a repeated upload that meets itself
        with pytest.raises(FileExistsError, match="s3://corpora/create/lease: exists already"):
            PATIENT.put(location, b"another", if_absent=True)
        assert PATIENT.get(location, max_bytes=10) == b"mine"

    @pytest.mark.slow
    def test_an_upload_that_breaks_off_leaves_nothing_and_is_repeated(self, s3):
        location = parse_location(f"s3://{BUCKET}/broken/large")
        s3.inject("status", method="PUT", times=6)
        PATIENT.put(location, DATA)
        assert PATIENT.get(location, max_bytes=len(DATA)) == DATA
        gone = parse_location(f"s3://{BUCKET}/broken/gone")
        s3.inject("status", method="PUT")
        with pytest.raises(EnvironmentFault, match=r"gone: the server reports a fault of its own \(status 500\)"):
            QUICK.put(gone, DATA)
        s3.heal()
        with pytest.raises(FileNotFoundError):
            PATIENT.head(gone)

    def test_many_threads_read_at_once(self, s3, location):
        rng = random.Random(1)
        ranges = [(rng.randrange(8_000_000), rng.randrange(1, 1_000_000)) for _ in range(64)]
        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(lambda part: read(PATIENT, location, *part), ranges))
        assert found == [DATA[offset : offset + count] for offset, count in ranges]

    def test_a_store_goes_to_another_process(self, s3, location):
        copy = pickle.loads(pickle.dumps(PATIENT))
        assert read(copy, location) == DATA[1000:8_501_000]


class TestFaults:
    """The bytes asked for, or one line when the budget is spent."""

    @pytest.mark.parametrize(
        "fault",
        [
            {"kind": "reset", "after_bytes": 3_000_000, "times": 2},
            {"kind": "reset", "after_bytes": 0, "times": 3},
            {"kind": "cut", "after_bytes": 5_000_000, "times": 1},
            {"kind": "stall", "after_bytes": 5_000_000, "times": 1},
            {"kind": "stall", "after_bytes": 0, "times": 1},
            {"kind": "drip", "after_bytes": 100_000, "times": 1},
            {"kind": "status", "status": 500, "times": 5},
            {"kind": "status", "status": 503, "code": "SlowDown", "headers": {"Retry-After": "1"}, "times": 4},
            {"kind": "status", "status": 429, "code": "TooManyRequests", "times": 3},
            {"kind": "status", "status": 400, "code": "RequestTimeout", "times": 2},
        ],
        ids=lambda fault: f"{fault['kind']}-{fault.get('after_bytes', fault.get('status'))}",
    )
    def test_a_fault_that_passes_changes_nothing(self, s3, location, fault):
        injected = s3.inject(**fault)
        piece = PATIENT.get_range(location, 1000, 8_500_000)
        assert piece.data == DATA[1000:8_501_000]
        assert injected.times == 0
        assert piece.num_requests == s3.num_gets() == fault["times"] + 1

    def test_a_download_that_breaks_again_goes_on_where_it_broke(self, s3, location):
        s3.inject("cut", after_bytes=3_000_000, times=3)  # a reset would also discard what the client has not read yet
        assert read(PATIENT, location, 0, 8_500_000) == DATA[:8_500_000]
        begins = [int(byte_range.split("=")[1].split("-")[0]) for _, _, byte_range in s3.requests]
        assert begins[:2] == [0, 0]
        assert begins[2] >= 2_000_000
        assert begins[3] >= 4_000_000

    def test_a_slow_network_is_no_fault(self, s3, location):
        """Each request reaches its time limit, each brings some of the bytes."""
        store = ObjectStore(StorageConfig(request_timeout_seconds=1.0, retry_budget_seconds=3.0))
        s3.inject("drip", bytes_per_second=4_300_000, after_bytes=65_536)
        assert read(store, location, 0, 8_900_000) == DATA[:8_900_000]

    @pytest.mark.parametrize(
        ("fault", "message"),
        [
            ({"kind": "reset", "after_bytes": 100}, "the connection breaks"),
            ({"kind": "cut", "after_bytes": 100}, "the connection breaks"),
            ({"kind": "stall", "after_bytes": 100}, "the server does not answer in time"),
            ({"kind": "drip", "after_bytes": 100}, "the server does not answer in time"),
            ({"kind": "status", "status": 500}, r"the server reports a fault of its own \(status 500\)"),
            ({"kind": "status", "status": 503, "code": "SlowDown"}, "the server asks to slow down"),
        ],
        ids=lambda value: value["kind"] + str(value.get("status", "")) if isinstance(value, dict) else "",
    )
    def test_a_fault_that_stays_ends_in_one_line_when_the_budget_is_spent(self, s3, location, caplog, fault, message):
        s3.inject(**fault)
        began = time.monotonic()
        with pytest.raises(EnvironmentFault, match=rf"^s3://corpora/\S+: {message}; given up after \d+ s") as caught:
            read(QUICK, location)
        assert "\n" not in str(caught.value)
        assert 1.0 <= time.monotonic() - began < 1.0 + 0.5 + 2.0  # budget, one request, a pause

    def test_a_wait_is_announced(self, s3, location, caplog):
        s3.inject("status", times=4)
        with caplog.at_level(logging.WARNING):
            read(PATIENT, location)
        assert len(caplog.records) == 1
        assert "trying again for up to" in caplog.text
        assert SECRET_KEY not in caplog.text

    def test_an_object_replaced_between_two_reads_is_noticed(self, s3, location):
        etag = PATIENT.get_range(location, 0, 10).info.etag
        PATIENT.put(location, DATA[::-1])
        with pytest.raises(ObjectChanged):
            PATIENT.get_range(location, 0, 10, etag=etag)

    def test_an_object_replaced_while_a_download_is_broken_is_noticed(self, s3, location):
        s3.inject("reset", after_bytes=5_000_000, times=2)
        s3.inject("run", times=1, action=lambda: PATIENT.put(location, DATA[::-1]))
        with pytest.raises(ObjectChanged):
            read(PATIENT, location)

    def test_a_server_that_ignores_the_condition_is_noticed(self):
        def answer(request):
            return 206, {"ETag": '"2"', "Content-Range": "bytes 0-9/100"}, b"0123456789"

        with ScriptedServer(answer) as server, pytest.raises(ObjectChanged):
            store = ObjectStore(StorageConfig(endpoint=server.endpoint, anonymous=True))
            store.get_range(Location("s3", "b", "k"), 0, 10, etag='"1"')

    def test_a_server_that_cannot_send_ranges_is_named(self):
        with ScriptedServer(lambda request: (200, {}, b"0123456789")) as server:
            store = ObjectStore(StorageConfig(endpoint=server.endpoint, anonymous=True))
            with pytest.raises(ConfigError, match="the server cannot send a part of a file"):
                store.get_range(Location("s3", "b", "k"), 2, 3)

    @pytest.mark.slow
    def test_a_server_that_is_down_for_a_while_is_waited_for(self, s3, location):
        s3.refuse()
        threading.Timer(3.0, s3.listen).start()
        assert read(PATIENT, location) == DATA[1000:8_501_000]

    @pytest.mark.slow
    def test_a_server_that_is_killed_in_the_middle_and_started_again(self, s3, s3_server, location):
        killed = threading.Event()
        s3.inject("run", times=1, action=lambda: (s3_server.kill(), killed.set()))
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(read, PATIENT, location)
            assert killed.wait(10)
            s3_server.start()  # by the main thread: the server ends with the thread that started it
            assert reading.result() == DATA[1000:8_501_000]

    @pytest.mark.long
    def test_a_server_that_is_down_for_a_minute_is_waited_for(self, s3, location):
        s3.refuse()
        threading.Timer(60.0, s3.listen).start()
        began = time.monotonic()
        assert read(ObjectStore(), location) == DATA[1000:8_501_000]
        assert time.monotonic() - began < 75

    @pytest.mark.long
    @pytest.mark.timeout(600)
    def test_any_mixture_of_faults_gives_the_bytes(self, s3, location):
        kinds = ["reset", "cut", "stall", "status", "drip"]
        for seed in range(60):
            rng = random.Random(seed)
            s3.heal()
            for _ in range(rng.randrange(1, 6)):
                s3.inject(rng.choice(kinds), times=1, after_bytes=rng.randrange(9_000_000), status=503)
            offset, num_bytes = rng.randrange(8_000_000), rng.randrange(1, 9_000_000)
            assert read(PATIENT, location, offset, num_bytes) == DATA[offset : offset + num_bytes], f"seed {seed}"


class TestErrorsThatPeopleMeet:
    """Each is one line that says what to do, at once, and without a secret."""

    def refused(self, kind, message, act):
        began = time.monotonic()
        with pytest.raises(kind, match=message) as caught:
            act()
        assert time.monotonic() - began < 10
        assert "\n" not in str(caught.value)
        assert SECRET_KEY not in str(caught.value)

    def test_no_such_bucket(self, s3):
        location = Location("s3", "nowhere", "data/x")
        message = "^s3://nowhere/data/x: there is no bucket 'nowhere' there; check its name, the endpoint and the regi"
        self.refused(ConfigError, message, lambda: QUICK.get(location, max_bytes=10))
        self.refused(ConfigError, message, lambda: QUICK.put(location, b"x"))
        self.refused(ConfigError, "there is no bucket", lambda: list(QUICK.list(location)))

    @pytest.mark.parametrize(("key", "secret"), [("testkey", "wrong"), ("unknown", "wrong")])
    def test_wrong_credentials(self, s3, location, monkeypatch, key, secret):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
        message = "the server does not accept the credentials; check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        self.refused(ConfigError, message, lambda: QUICK.get(location, max_bytes=10))
        self.refused(ConfigError, message, lambda: QUICK.head(location))  # whose answer does not say why

    def test_access_denied(self, s3, location, monkeypatch):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", READER_KEY)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", READER_SECRET)
        message = "access denied; ask the owner of the bucket for the right to {} there"
        self.refused(ConfigError, message.format("read"), lambda: QUICK.get(location, max_bytes=10))
        self.refused(ConfigError, message.format("read"), lambda: QUICK.head(location))
        self.refused(ConfigError, message.format("write"), lambda: QUICK.put(location, b"x"))

    @pytest.fixture
    def no_credentials(self, s3, monkeypatch, tmp_path):
        """As on a machine where nobody has set anything, and no cloud answers."""
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
        with ScriptedServer(lambda request: (404, {}, b"")) as nothing:
            monkeypatch.setenv("AWS_METADATA_ENDPOINT", nothing.endpoint)
            yield

    def test_no_credentials(self, location, no_credentials):
        message = "no credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
        self.refused(ConfigError, message, lambda: QUICK.get(location, max_bytes=10))

    def test_half_the_credentials(self, location, no_credentials, monkeypatch):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testkey")
        self.refused(
            ConfigError,
            "the credentials are not complete; set AWS_ACCESS_KEY_ID and",
            lambda: QUICK.get(location, max_bytes=10),
        )

    def test_a_public_bucket_needs_none(self, location, no_credentials):
        anonymous = ObjectStore(StorageConfig(anonymous=True, retry_budget_seconds=2.0))
        anonymous.put(Location("s3", PUBLIC, "open"), b"to all")
        assert anonymous.get(Location("s3", PUBLIC, "open"), max_bytes=10) == b"to all"
        self.refused(ConfigError, "access denied", lambda: anonymous.get(location, max_bytes=10))

    def test_a_profile_gives_keys(self, location, no_credentials, monkeypatch, tmp_path):
        (tmp_path / ".aws").mkdir()
        keys = f"aws_access_key_id = testkey\naws_secret_access_key = {SECRET_KEY}\n"
        (tmp_path / ".aws/credentials").write_text(f"[default]\n{keys}[lab]\n{keys}")
        (tmp_path / ".aws/config").write_text("[default]\nregion = eu-west-1\n[profile sso]\nsso_session = x\n")
        assert len(QUICK.get(location, max_bytes=len(DATA))) == len(DATA)
        for profile, message in [
            ("sso", "the profile 'sso' of AWS_PROFILE has no static keys; run eval"),
            ("none", "the profile 'none' of AWS_PROFILE does not exist in ~/.aws"),
        ]:
            monkeypatch.setenv("AWS_PROFILE", profile)
            self.refused(ConfigError, message, lambda: QUICK.get(location, max_bytes=10))
        monkeypatch.setenv("AWS_PROFILE", "lab")
        assert len(QUICK.get(location, max_bytes=len(DATA))) == len(DATA)

    @pytest.mark.parametrize(
        ("status", "code", "extra", "message"),
        [
            (301, "PermanentRedirect", "", "the bucket lies in another region; set AWS_REGION to its own"),
            (
                400,
                "AuthorizationHeaderMalformed",
                "<Region>eu-west-1</Region>",
                "lies in another region, eu-west-1; set",
            ),
            (403, "RequestTimeTooSkewed", "", "the clock of this machine differs too much"),
            (400, "ExpiredToken", "", "the session of the credentials has expired"),
            (507, "InsufficientStorage", "", "no space is left there"),
        ],
    )
    def test_what_the_cloud_says(self, status, code, extra, message):
        body = f"<Error><Code>{code}</Code><Message>...</Message>{extra}</Error>".encode()
        with ScriptedServer(lambda request: (status, {}, body)) as server:
            config = StorageConfig(endpoint=server.endpoint, anonymous=True, retry_budget_seconds=2.0)
            act = lambda: ObjectStore(config).get(Location("s3", "b", "k"), max_bytes=10)  # noqa: E731
            self.refused((ConfigError, EnvironmentFault), message, act)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("endpoint", "kind", "message"),
        [
            ("http://no-such-host.invalid:80", EnvironmentFault, "the name of the server cannot be resolved"),
            ("http://127.0.0.1:1", EnvironmentFault, "the server refuses connections; check the endpoint"),
            ("ftp://127.0.0.1:1", ConfigError, "the endpoint does not speak the protocol of its URL"),
        ],
    )
    def test_no_server(self, endpoint, kind, message):
        config = StorageConfig(endpoint=endpoint, anonymous=True, retry_budget_seconds=2.0)
        self.refused(kind, message, lambda: ObjectStore(config).get(Location("s3", "b", "k"), max_bytes=10))

    def test_https_where_there_is_only_http(self, s3):
        config = StorageConfig(endpoint=s3.endpoint.replace("http:", "https:"), retry_budget_seconds=2.0)
        message = "the endpoint does not speak the protocol of its URL"
        self.refused(ConfigError, message, lambda: ObjectStore(config).get(Location("s3", "b", "k"), max_bytes=10))

    def test_settings_without_sense(self):
        with pytest.raises(ConfigError, match="request_timeout_seconds is 0; it must be above 0"):
            StorageConfig(request_timeout_seconds=0)
        with pytest.raises(ConfigError, match="retry_budget_seconds is -1; it must be at least 0"):
            StorageConfig(retry_budget_seconds=-1)


class TestOtherClouds:
    @pytest.fixture
    def blobs(self):
        """A small server that speaks what Google's and Microsoft's have in common, and the objects that it holds."""
        blobs: dict[str, bytes] = {}

        def answer(request):
            path = request.path.partition("?")[0]
            if request.command == "PUT":
                blobs[path] = request.rfile.read(int(request.headers["Content-Length"]))
            if path not in blobs:
                return 404, {}, b""
            etag = f'"{zlib.crc32(blobs[path])}"'
            headers = {"ETag": etag, "Last-Modified": "Tue, 24 Nov 2026 00:00:00 GMT"}
            if request.command == "PUT":
                return 201, headers, b""
            if request.headers.get("If-Match", etag) != etag:
                return 412, {}, b""
            if byte_range := request.headers.get("Range"):
                first, last = map(int, byte_range.removeprefix("bytes=").split("-"))
                body = blobs[path][first : last + 1]
                headers["Content-Range"] = f"bytes {first}-{first + len(body) - 1}/{len(blobs[path])}"
                return 206, headers, body
            return 200, headers, blobs[path]

        with ScriptedServer(answer) as server:
            yield server, blobs

    def check(self, location):
        PATIENT.put(location, b"0123456789")
        piece = PATIENT.get_range(location, 2, 3)
        assert piece.data == b"234"
        assert PATIENT.get_range(location, 5, 5, etag=piece.info.etag).data == b"56789"
        PATIENT.put(location, b"9876543210")
        with pytest.raises(ObjectChanged):
            PATIENT.get_range(location, 0, 5, etag=piece.info.etag)
        with pytest.raises(FileNotFoundError, match="does not exist"):
            PATIENT.get(location.parent.join("missing"), max_bytes=1)

    def test_google_cloud_storage(self, blobs, monkeypatch):
        server, content = blobs
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.endpoint)
        self.check(Location("gs", "bucket", "a/b"))
        assert list(content) == ["/bucket/a%2Fb"]

    def test_azure_blob_storage(self, blobs, monkeypatch):
        server, content = blobs
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", server.endpoint)
        self.check(Location("az", "container", "a/b"))
        assert list(content) == ["/container/a/b"]

    def test_azure_without_an_account(self, monkeypatch):
        for name in ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_ENDPOINT"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(
            ConfigError, match="az://container/a: the credentials are not complete; set AZURE_STORAGE_ACC"
        ):
            QUICK.get(Location("az", "container", "a"), max_bytes=1)

    def test_https_is_read_and_never_written(self, https_server, monkeypatch):
        monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
        endpoint, certificate, folder = https_server
        (folder / "a b").write_bytes(DATA)
        location = parse_location(f"{endpoint}/a%20b")
        with pytest.raises(ConfigError, match="the certificate of the server is not valid here; name its authority in"):
            QUICK.get(location, max_bytes=10)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
        assert PATIENT.get_range(location, 1000, 5_000_000).data == DATA[1000:5_001_000]
        with pytest.raises(FileNotFoundError, match="does not exist"):
            QUICK.get(location.parent.join("missing"), max_bytes=10)
        for act in (lambda: QUICK.put(location, b""), lambda: QUICK.delete(location)):
            with pytest.raises(ConfigError, match="what lies behind https can only be read"):
                act()
        with pytest.raises(ConfigError, match="files behind https cannot be listed"):
            list(QUICK.list(location.parent))
        monkeypatch.setenv("AWS_CA_BUNDLE", str(folder / "missing.pem"))
        with pytest.raises(ConfigError, match="cannot read these certificates"):
            QUICK.get(location, max_bytes=10)


class TestProcesses:
    def test_a_forked_process_refuses_instead_of_hanging(self, s3, location):
        read(PATIENT, location)
        context = multiprocessing.get_context("fork")
        results = context.Queue()
        child = context.Process(target=_try_to_read, args=(location, results), daemon=True)
        child.start()
        assert "was forked from one that had used object storage" in results.get(timeout=20)
        child.join(20)
        assert child.exitcode == 0

    def test_a_process_that_was_spawned_reads(self, s3, location):
        read(PATIENT, location)
        context = multiprocessing.get_context("spawn")  # a forkserver has the environment of an earlier test
        results = context.Queue()
        child = context.Process(target=_try_to_read, args=(location, results), daemon=True)
        child.start()
        assert results.get(timeout=60) == len(DATA)
        child.join(20)

    @pytest.mark.slow
    def test_ctrl_c_ends_a_request_that_waits(self, s3, location):
        s3.inject("stall")
        code = (
            "import sys\n"
            "from whisper_shard.storage.location import parse_location\n"
            "from whisper_shard.storage.object_store import ObjectStore\n"
            "from whisper_shard.storage.stores import StorageConfig\n"
            "print('ready', flush=True)\n"
            "store = ObjectStore(StorageConfig(request_timeout_seconds=2.0))\n"
            "store.get(parse_location(sys.argv[1]), max_bytes=10_000_000)\n"
        )
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(location)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert child.stdout.readline() == "ready\n"
        time.sleep(1.0)
        child.send_signal(2)
        began = time.monotonic()
        _, errors = child.communicate(timeout=60)
        assert time.monotonic() - began < 15
        assert "KeyboardInterrupt" in errors

    def test_importing_storage_opens_nothing(self):
        code = "import whisper_shard.storage.object_store, threading, os; print(len(os.listdir('/proc/self/task')))"
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert ran.stdout.strip() == "1"


def _try_to_read(location: Location, results: "multiprocessing.Queue[object]") -> None:
    try:
        results.put(len(PATIENT.get(location, max_bytes=len(DATA))))
    except EnvironmentFault as error:
        results.put(str(error))
