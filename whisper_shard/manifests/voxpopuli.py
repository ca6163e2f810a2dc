"""The transcribed data of VoxPopuli: ``en/asr_train.tsv`` beside ``en/2018/20180613-...-en_20180613-15_0.ogg``.

Source: get_asr_data.py of https://github.com/facebookresearch/voxpopuli
"""

from collections.abc import Iterator
from pathlib import Path

from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import ManifestError
from whisper_shard.manifests.columns import Columns
from whisper_shard.manifests.folders import choose_split, find_suffix, read_lines
from whisper_shard.manifests.manifest import Manifest, digest_files
from whisper_shard.manifests.paths import PathFinder
from whisper_shard.manifests.table import Line, make_tables

NEEDED = {"id", "raw_text", "normalized_text"}
"""Columns by which a list is known."""
_YEAR_CHARS = 4


class VoxPopuli:
    """A language, or one of its lists; see `formats.ManifestFormat`."""

    def recognizes(self, path: Path, head: bytes, /) -> bool:
        """Return whether it is a list, or a folder with lists, called ``asr_*.tsv`` and with the columns of one."""
        if path.is_dir():
            return any(set(_header(file)) >= NEEDED for file in path.glob("asr_*.tsv"))
        return path.name.startswith("asr_") and set(head.split(b"\n")[0].decode(errors="replace").split("\t")) >= NEEDED

    def open(self, path: Path, _head: bytes, config: PrepareConfig, /) -> Manifest:
        """Choose the list for training, and the column of transcripts."""
        notes = list[str]()
        files = [path]
        if path.is_dir():
            files, notes = choose_split(path, sorted(path.glob("asr_*.tsv")))
        folder = files[0].parent
        names = _header(files[0])
        text = config.text_column or "normalized_text"
        if not {"id", text} <= set(names):
            raise ManifestError(f"{files[0]}: has no columns id and {text}; it has: {', '.join(names)}")
        columns = Columns(audio="audio", text=text, speaker="speaker_id" if "speaker_id" in names else "")
        finder = PathFinder(folder)
        suffix = find_suffix(finder, _locate(_first_id(files[0], names)), ".ogg")
        read = f"{path.name} is laid out as VoxPopuli: {files[0].name}, recordings {suffix}, transcripts from {text!r}"
        other = "; for those with capitals and punctuation: --text-column raw_text" if text != "raw_text" else ""
        return Manifest(
            path=path,
            format="voxpopuli",
            folder=folder,
            read=lambda: make_tables(columns, _read(files[0], suffix), finder),
            digest=lambda: digest_files(folder, files[:1]),
            notes=(read + other, *notes),
        )


def _header(file: Path) -> list[str]:
    return next(read_lines(file), "").split("\t")


def _first_id(file: Path, names: list[str]) -> str:
    lines = read_lines(file)
    next(lines)
    return dict(zip(names, next(lines, "").split("\t"), strict=False)).get("id", "")


def _locate(name: str) -> str:
    """Return where a recording lies: in a folder of its year."""
    return f"{name[:_YEAR_CHARS]}/{name}"


def _read(file: Path, suffix: str) -> Iterator[Line]:
    lines = read_lines(file)
    names = next(lines).split("\t")
    for line in lines:
        fields = line.split("\t")
        values = dict(zip(names, fields, strict=False))
        fault = ("malformed_row", f"{len(fields)} fields, the header has {len(names)}")
        values["audio"] = _locate(values.get("id", "")) + suffix
        yield Line(values, None if len(fields) == len(names) else fault)
