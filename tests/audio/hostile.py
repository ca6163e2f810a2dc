"""Files that make FFmpeg, left to itself, open other files, connect to hosts or listen on ports."""

import struct

from tests.audio.recordings import write_av
from tests.making import make_waveform

SDP = b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 34567 RTP/AVP 0\n"


def make_texts(path, url):
    """Return texts that refer to a path or an address, by the name of their format."""
    refs = {"path": path, "file": f"file:{path}", "url": url, "pipe": "pipe:0", "concat": f"concat:{path}|{path}"}
    texts = {"sdp": SDP.decode()}
    for name, ref in refs.items():
        texts |= {
            f"hls-{name}": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{ref}\n#EXT-X-ENDLIST\n",
            f"m3u-{name}": f"#EXTM3U\n{ref}\n",
            f"concat-{name}": f"ffconcat version 1.0\nfile '{ref}'\n",
            f"asx-{name}": f'<ASX version="3.0"><Entry><Ref href="{ref}"/></Entry></ASX>\n',
            f"asf-{name}": f"[Reference]\r\nRef1={ref}\r\n",
            f"pls-{name}": f"[playlist]\nFile1={ref}\nNumberOfEntries=1\n",
            f"xspf-{name}": f'<?xml version="1.0"?><playlist version="1" xmlns="http://xspf.org/ns/0/"><trackList>'
            f"<track><location>{ref}</location></track></trackList></playlist>",
            f"smil-{name}": f'<smil><body><audio src="{ref}"/></body></smil>',
            f"dash-{name}": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
            'mediaPresentationDuration="PT9S"><Period><AdaptationSet mimeType="audio/mp4"><Representation id="a" '
            f'bandwidth="1"><BaseURL>{ref}</BaseURL></Representation></AdaptationSet></Period></MPD>',
            f"rtsp-{name}": f"RTSPtext\n{ref}\n",
        }
    return {name: text.encode() for name, text in texts.items()}


def make_mov(folder, target):
    """Return an m4a file whose samples are said to lie in another file: an alias, and a plain reference."""
    write_av(folder / "own.m4a", "ipod", "aac", make_waveform(1.0), 16_000)
    content = (folder / "own.m4a").read_bytes()
    target = str(target).encode()
    alias = bytes(10) + bytes([27]) + b"volume".ljust(27, b"\0") + bytes(12) + bytes([63]) + b"x".ljust(63, b"\0")
    alias += bytes(16) + struct.pack(">hh", 1, 1) + bytes(16)
    alias += struct.pack(">hh", 2, len(target)) + target + b"\0" * (len(target) % 2) + struct.pack(">hh", -1, 0)
    return {
        "mov-alias": _replace_dref(content, b"alis", bytes(4) + alias.ljust(160, b"\0")),
        "mov-url": _replace_dref(content, b"url ", bytes(4) + b"file:" + target + b"\0"),
    }


def _replace_dref(content, kind, body):
    """Replace the data reference of the only track; the movie box is behind the samples, so no offset changes."""
    place = content.index(b"dref") + 12  # behind type, version, flags and count
    old = content[place : place + struct.unpack_from(">I", content, place)[0]]
    new = struct.pack(">I", 8 + len(body)) + kind + body
    content = bytearray(content.replace(old, new))
    assert content.index(b"mdat") < content.index(b"moov")
    for name in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        at = content.index(name) - 4
        struct.pack_into(">I", content, at, struct.unpack_from(">I", content, at)[0] + len(new) - len(old))
    return bytes(content)
