#!/bin/sh
# Makes build/peers, an environment for the other loaders on top of the project's own, and measures all of them.
# Their requirements conflict (NumPy, transformers, xxhash), so they are installed without dependencies first.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
[ -x build/peers/bin/python ] || {
    "$python" -m venv build/peers
    site=$(build/peers/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")
    "$python" -c "import sysconfig; print(sysconfig.get_path('purelib'))" >"$site/project.pth"
    build/peers/bin/pip install -q --no-deps lhotse==1.33.0 datasets==5.2.0 litdata==0.2.76 mosaicml-streaming==0.13.0
    build/peers/bin/pip install -q intervaltree lilcom click tabulate sortedcontainers cytoolz audioread dill xxhash \
        multiprocess aiohttp lightning-utilities boto3==1.43.117 aiobotocore==3.10.0 s3fs==2026.9.0 fsspec==2026.9.0 \
        tifffile Brotli zstandard zstd python-snappy catalogue azure-storage-blob matplotlib
}
ln -sf "$(cd "$(dirname "$python")" && pwd)/weed" build/peers/bin/weed
build/peers/bin/python -m benchmarks.bench_peers
exec build/peers/bin/python -m benchmarks.bench_peers_s3
