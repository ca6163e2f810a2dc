"""What the project promises of itself: homes of libraries, module sizes, a light import."""

import ast
import functools
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

PACKAGE = Path("whisper_shard")
MODULES = sorted(PACKAGE.rglob("*.py"))
HOMES = {
    "soundfile": {"audio/sndfile.py", "audio/members.py", "stream/augment/sounds.py", "demo/speech.py"},
    "av": {"audio/ffmpeg.py", "demo/speech.py"},
    "librosa": {"cli/doctor.py"},
    "msgspec": {"dataset/columns.py", "dataset/description.py", "dataset/reader.py"},
    "soxr": {"audio/resample.py"},
    "joblib": {"prepare/workers/pool.py", "prepare/workers/cluster.py", "prepare/workers/trackers.py"},
    "webdataset": {"stream/gopen.py", "stream/loader.py", "stream/processes.py", "bench/stages.py"},
    "audiomentations": {"stream/augment/transforms.py"},
    "torchaudio": {"model/log_mel.py", "model/spec_augment.py"},
    "evaluate": {"score/hf_metric.py"},
    "jiwer": {"score/alignment.py", "score/hf_metric.py"},
    "distributed": {"prepare/workers/cluster.py"},
    "ray": {"prepare/workers/cluster.py"},
    "tomli_w": {"config/toml.py"},
    "bitsandbytes": {"train/adamw_8bit.py"},
    "tyro": {"cli/flags.py"},
    "rich": {"cli/console.py"},
    "regex": {"text/rules.py"},
    "tokenizers": {"text/tokens.py", "model/labels.py", "demo/tiny_whisper.py"},
    "jinja2": {"report/page.py"},
    "wandb": {"train/trackers.py"},
    "mlflow": {"train/trackers.py"},
    "trackio": {"train/trackers.py"},
    "onnxruntime": {"audio/speech.py", "export/onnx.py"},
    "obstore": {"storage/stores.py", "storage/object_store.py"},
}


@functools.cache
def imported_packages(path):
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("library", HOMES)
def test_each_heavy_library_is_used_and_only_at_home(library):
    users = {str(path.relative_to(PACKAGE)) for path in MODULES if library in imported_packages(path)}
    assert users, f"{library} is a dependency that nothing uses"
    assert users <= HOMES[library]


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_modules_stay_readable(path):
    source = path.read_text()
    assert len(source.splitlines()) <= 440, f"{path} is too long to read in one sitting"
    assert source.isascii(), f"{path} holds characters outside ASCII"


def test_no_package_holds_more_than_a_fifth_of_the_lines():
    lines = Counter()
    for path in MODULES:
        lines[path.relative_to(PACKAGE).parts[0]] += len(path.read_text().splitlines())
    assert max(lines.values()) <= sum(lines.values()) / 5, lines.most_common(3)


def test_results_of_benchmarks_are_named_by_date_and_say_where_they_were_measured():
    results = sorted(Path("benchmarks/results").glob("*.json"))
    assert results
    for path in results:
        content = json.loads(path.read_text())
        assert path.name.startswith(f"{content['date']}-"), f"{path}: name it {content['date']}-<name>.json"
        assert content["machine"]["cores"] >= 1


def test_importing_the_package_is_light():
    code = (
        "import sys, whisper_shard; heavy = {'torch', 'numpy', 'pyarrow', 'librosa'} & set(sys.modules); print(heavy)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


def test_help_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from whisper_shard.cli.main import main\n"
        "try:\n    main(['train', '--help'])\n"
        "except SystemExit as stop:\n"
        "    print(stop.code, {'torch', 'librosa', 'webdataset', 'pyarrow'} & set(sys.modules))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip().splitlines()[-1] == "0 set()"
