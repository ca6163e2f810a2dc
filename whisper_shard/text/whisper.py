"""Whisper's own normalizers of text, the ones by which its error rates are published.

They are those of transformers, whose file is loaded alone: it needs nothing else of transformers, which would bring
torch into each process that prepares texts.

Source: arXiv:2212.04356, appendix C.
"""

import json
import sys
from collections.abc import Callable
from functools import cache
from importlib.machinery import PathFinder
from importlib.resources import files
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from whisper_shard.errors import EnvironmentFault

SPELLING_NAME = "english_spelling.json"
"""British spellings and their American forms, a file of this package.

Source: whisper/normalizers/english.json of openai/whisper (MIT), https://github.com/openai/whisper, see
english_spelling.LICENSE.
"""
_NORMALIZERS = "models/whisper/english_normalizer.py"


@cache
def whisper_normalizer(*, is_english: bool) -> Callable[[str], str]:
    """Return the normalizer of English, which also unites spellings, contractions and numbers, or of other languages.

    Its result may begin or end with a space.

    Raises:
        EnvironmentFault: This version of transformers has it elsewhere.
    """
    module = _load_normalizers()
    if not is_english:
        basic: Callable[[str], str] = module.BasicTextNormalizer()
        return basic
    spelling = json.loads(files("whisper_shard.text").joinpath(SPELLING_NAME).read_text("utf-8"))
    english: Callable[[str], str] = module.EnglishTextNormalizer(spelling)
    return english


def _load_normalizers() -> ModuleType:
    # Not importlib.util.find_spec, which fails where a test has put something else into sys.modules.
    package = PathFinder.find_spec("transformers", sys.path)
    for folder in (package and package.submodule_search_locations) or ():
        if (path := Path(folder, _NORMALIZERS)).is_file():
            spec = spec_from_file_location("whisper_shard_whisper_normalizers", path)
            if spec and spec.loader:
                module = module_from_spec(spec)
                spec.loader.exec_module(module)
                return module
    raise EnvironmentFault(f"transformers has no {_NORMALIZERS}; install the version that constraints.txt names")
