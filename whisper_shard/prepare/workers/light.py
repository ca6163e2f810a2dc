"""What keeps a process of `prepare` from importing what it does not use."""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType

import pyarrow as pa


class _NoPandas(MetaPathFinder):
    """Lets ``import pandas`` fail."""

    def find_spec(self, name: str, _path: Sequence[str] | None, _target: ModuleType | None = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(name)


def keep_pandas_out() -> None:
    """Let pyarrow find out now, and for good, that there is no pandas in this process.

    At the first list that becomes an array, pyarrow imports pandas, only to ask whether the list is a Series: 0.2 s of
    CPU time in each process. Afterwards ``to_pandas`` does not work here; pandas itself can still be imported.
    """
    if "pandas" in sys.modules:
        return
    finder = _NoPandas()
    sys.meta_path.insert(0, finder)
    try:
        pa.array([0])
    finally:
        sys.meta_path.remove(finder)
