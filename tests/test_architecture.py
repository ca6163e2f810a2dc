"""docs/architecture.md names files that exist; CONTRIBUTING.md tells how to extend, and each way works as it says."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from tests.making import make_dataset, make_waveform

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "whisper_shard"


def test_every_file_of_the_walks_exists():
    text = (ROOT / "docs/architecture.md").read_text()
    known = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")}
    names = {name for name in re.findall(r"`([\w/]+\.py)`", text) if "/" in name}
    names -= {"tests/test_house_rules.py", "whisper_shard/__init__.py"}
    assert len(names) > 40
    assert names <= known


# Each entry: the file that is added, its content; the file that registers it, and what is changed there.
EXTENSIONS = {
    "manifest format": (
        "manifests/lines.py",
        '''"""One recording a line: the path, a bar, the transcript."""
import pyarrow as pa
from whisper_shard.manifests.manifest import Manifest
from whisper_shard.manifests.rows import MANIFEST_SCHEMA
from whisper_shard.storage.atomic import sha256_of_file

class Lines:
    def recognizes(self, path, head, /):
        return path.suffix == ".lines"

    def open(self, path, head, config, /):
        digest = lambda: sha256_of_file(path)
        return Manifest(path=path, format="lines", folder=path.parent, read=lambda: read(path), digest=digest)

def read(path):
    pairs = [line.split("|") for line in path.read_text().splitlines()]
    columns = {"row": range(len(pairs)), "source": [p[0] for p in pairs], "transcript": [p[1] for p in pairs]}
    rest = {name: [None] * len(pairs) for name in MANIFEST_SCHEMA.names if name not in columns}
    yield pa.table({**columns, **rest}, schema=MANIFEST_SCHEMA)
''',
        "manifests/formats.py",
        ("FORMATS: dict[str, ManifestFormat] = {", "Lines", "lines", "Lines()"),
    ),
    "filter": (
        "prepare/digits.py",
        '''"""Drop texts with digits."""
from dataclasses import dataclass

@dataclass(frozen=True, slots=True, kw_only=True)
class NoDigits:
    def reject(self, utterance):
        return utterance.reject("digits", utterance.text) if any(c.isdigit() for c in utterance.text) else None
''',
        "prepare/filters.py",
        ("FILTERS: dict[str, type[Filter]] = {", "NoDigits", "no_digits", "NoDigits"),
    ),
    "decoder": (
        "audio/raw.py",
        '''"""Headerless 16-bit samples at 16 kHz, in files named *.raw."""
import numpy as np
from whisper_shard.audio.recording import Recording

class RawDecoder:
    def claims(self, head, suffix, /):
        return suffix == "raw"

    def decode(self, file, *, max_seconds):
        samples = np.frombuffer(file.read(), "<i2")
        return Recording(waveform=samples.astype(np.float32) / 32768, sample_rate=16_000)
''',
        "audio/decoders.py",
        ("DECODERS: Mapping[str, MakeDecoder] = {", "RawDecoder", "raw", "RawDecoder"),
    ),
    "augmentation": (
        "stream/augment/reverse.py",
        '''"""Play backwards."""
from dataclasses import dataclass

@dataclass(frozen=True, slots=True, kw_only=True)
class Reverse:
    p: float = 1.0

    def __call__(self, waveform, rng):
        return waveform[::-1].copy()
''',
        "stream/augment/transforms.py",
        ("AUGMENTATIONS: dict[str, Callable[..., Augmentation]] = {", "Reverse", "reverse", "Reverse"),
    ),
    "export": (
        "export/listing.py",
        '''"""The names of the tensors, one a line."""
from whisper_shard.export.format import ExportFormat

def write_names(loaded, folder, dtype):
    (folder / "names.txt").write_text("\\n".join(loaded.model.state_dict()))

NAMES = ExportFormat(tool="people", dtypes=("none",), write=write_names)
''',
        "export/formats.py",
        ("EXPORTS: dict[str, ExportFormat] = {", "NAMES", "names", "NAMES"),
    ),
    "storage scheme": (
        "storage/memory.py",
        '''"""A store in the memory of this process."""
from obstore.store import MemoryStore

STORE = MemoryStore()

def open_memory(location, config, settings):
    return STORE
''',
        "storage/location.py",
        ("SCHEMES = {", "", "mem", 'Scheme("mem://NAME/FOLDER", "whisper_shard.storage.memory:open_memory")'),
    ),
    "command": (
        "cli/commands/hello.py",
        '''"""The command hello."""
from dataclasses import dataclass
from whisper_shard.cli.command import Command
from whisper_shard.cli.console import say

@dataclass(frozen=True, slots=True, kw_only=True)
class HelloConfig:
    """Greet somebody."""

    times: int = 1
    """How often."""

def run_hello(config, *, name):
    for _ in range(config.times):
        say(f"hello {name}")
    return 0

COMMAND = Command(config=HelloConfig, positionals={"name": "who"}, run=run_hello)
''',
        "cli/commands/__init__.py",
        ("COMMANDS: dict[str, Command] = {", "COMMAND", "hello", "COMMAND"),
    ),
}


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the package with one file and one entry added for each kind of extension."""
    root = tmp_path_factory.mktemp("extended")
    shutil.copytree(PACKAGE, root / "whisper_shard", ignore=shutil.ignore_patterns("__pycache__"))
    for file, content, registry, (family, name, kind, value) in EXTENSIONS.values():
        (root / "whisper_shard" / file).write_text(content)
        path = root / "whisper_shard" / registry
        source = path.read_text()
        assert source.count(family) == 1, f"{registry} has no {family}"
        module = "whisper_shard." + file.removesuffix(".py").replace("/", ".")
        entry = f'\n    "{kind}": {value},\n    '
        imported = f"from {module} import {name}\n\n" if name else ""  # a scheme is imported when it is used
        path.write_text(source.replace(family, f"{imported}{family}{entry}"))
    return root


def run(extended, *arguments, path=()):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [extended, *path]))}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=extended, capture_output=True, text=True, timeout=100
    )


def test_a_manifest_format_a_decoder_and_a_filter(extended, tmp_path):
    samples = (make_waveform(1.5) * 20_000).astype("<i2")
    (tmp_path / "a.raw").write_bytes(samples.tobytes())
    soundfile.write(tmp_path / "b.wav", samples, 16_000)
    (tmp_path / "corpus.lines").write_text("a.raw|the first one\nb.wav|number 2\n")
    (tmp_path / "c.toml").write_text('[prepare]\neval_fraction = 0.0\n[[prepare.filters]]\nkind = "no_digits"\n')
    ran = run(
        extended, "-m", "whisper_shard", "prepare", str(tmp_path / "corpus.lines"), str(tmp_path / "out"),
        "--config", str(tmp_path / "c.toml"), "--jobs", "1",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "1 utterance" in ran.stdout and "digits 1" in ran.stdout


def test_an_augmentation(extended):
    code = (
        "import numpy as np, whisper_shard\n"
        "from whisper_shard.stream.augment.transforms import augment, build_augmentations\n"
        "made = build_augmentations(({'kind': 'reverse'},))\n"
        "waveform = np.array([0, 0.25, 0.5], np.float32)\n"
        "print(whisper_shard.__file__, augment(waveform, made, max_samples=9, key=(1,)).tolist())\n"
    )
    ran = run(extended, "-c", code)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == f"{extended}/whisper_shard/__init__.py [0.5, 0.25, 0.0]\n"


@pytest.mark.slow
def test_an_export(extended, tiny_folder, tmp_path):
    ran = run(extended, "-m", "whisper_shard", "export", str(tiny_folder), str(tmp_path / "out"), "--format", "names")
    assert ran.returncode == 0, ran.stderr
    assert "model.encoder.conv1.weight" in (tmp_path / "out/names.txt").read_text().splitlines()


@pytest.mark.slow
def test_a_storage_scheme(extended, tmp_path):
    make_dataset(tmp_path / "set", [0.3, 0.2, 0.4, 0.1])
    code = (
        "import sys\n"
        "from tests.s3 import upload_folder\n"
        "from pathlib import Path\n"
        "from whisper_shard import StreamConfig, open_dataset, open_loader\n"
        "upload_folder(Path(sys.argv[1]), 'mem://here/set')\n"
        "for batch in open_loader(open_dataset('mem://here/set'), StreamConfig(batch_size=4, workers=0), epochs=1):\n"
        "    print(batch.num_samples.tolist())\n"
    )
    ran = run(extended, "-c", code, str(tmp_path / "set"), path=[ROOT])
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "[1600, 3200, 4800, 6400]\n"


def test_a_command(extended):
    ran = run(extended, "-m", "whisper_shard", "hello", "world", "--times", "2")
    assert (ran.returncode, ran.stdout) == (0, "hello world\nhello world\n")
    assert "hello NAME" in run(extended, "-m", "whisper_shard", "--help").stdout
