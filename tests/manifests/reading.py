"""Reading manifests in tests."""

from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.manifests.formats import open_manifest
from whisper_shard.manifests.rows import as_rows


def write(path, content):
    """Write text as UTF-8, or bytes, and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def touch(folder, *names):
    """Create empty files."""
    for name in names:
        write(folder / name, b"x")


def read_all(path, **settings):
    """Return the manifest, its rows and their rejections."""
    manifest = open_manifest(path, PrepareConfig(**settings))
    pairs = [pair for table in manifest.read() for pair in as_rows(table, folder=manifest.folder)]
    return manifest, [row for row, _ in pairs], [rejection for _, rejection in pairs if rejection is not None]


def read_rows(path, **settings):
    """Return the valid rows."""
    _, rows, rejections = read_all(path, **settings)
    rejected = {rejection.row for rejection in rejections}
    return [row for row in rows if row.row not in rejected]


def notes_of(path, **settings):
    """Return all notes, of opening and of reading."""
    manifest, _, _ = read_all(path, **settings)
    return [*manifest.notes, *manifest.repairs()]
