"""Run the tests marked cuda and write how many passed, failed and were skipped.

python -m benchmarks.run_cuda_tests --out tests.json
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path


def main() -> None:
    """Run pytest, write the counts, and exit as it does."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    words = [sys.executable, "-m", "pytest", "-m", "cuda", "-p", "no:cacheprovider", "tests/train", "tests/stream"]
    ran = subprocess.run(words, check=False, capture_output=True, text=True)
    print(ran.stdout, ran.stderr)
    counts = dict.fromkeys(("passed", "failed", "skipped", "error"), 0)
    counts |= {name: int(count) for count, name in re.findall(r"(\d+) (passed|failed|skipped|error)", ran.stdout)}
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", ran.stdout, flags=re.MULTILINE)
    summary = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    args.out.write_text(json.dumps({"summary": summary, "failures": failed, **counts}))
    sys.exit(ran.returncode)


if __name__ == "__main__":
    main()
