"""Small corpora in the layouts in which speech corpora are published, made after their documentation."""

import gzip
import json

import soundfile

from tests.audio.talks import make_talk
from tests.making import make_waveform
from tests.manifests.hub import write_hub
from tests.manifests.reading import write

RATE = 16_000


def record(path, seed, *, seconds=1.5, rate=RATE):
    """Write a recording; the suffix decides the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, make_waveform(seconds * rate / RATE, seed=seed), rate)
    return path


def make_librispeech(folder):
    """Write two speakers for training and one for evaluation."""
    for split, speaker, chapter in [
        ("train-clean-100", 103, 1240),
        ("train-clean-100", 19, 198),
        ("dev-clean", 84, 121123),
    ]:
        lines = []
        for i in range(3):
            name = f"{speaker}-{chapter}-{i:04d}"
            record(folder / f"{split}/{speaker}/{chapter}/{name}.flac", seed=i)
            lines.append(f"{name} CHAPTER {chapter} SENTENCE {i}\n")
        write(folder / f"{split}/{speaker}/{chapter}/{speaker}-{chapter}.trans.txt", "".join(lines))
    write(folder / "SPEAKERS.TXT", "; ID | SEX | SUBSET\n")
    return folder


def make_ljspeech(folder):
    """Write three utterances, one with quotes and figures."""
    texts = ['Printing, in the "only" sense', "in being 16 comparatively modern.", "has never been surpassed."]
    lines = []
    for i, text in enumerate(texts):
        record(folder / f"wavs/LJ001-000{i}.wav", seed=i, rate=22_050)
        lines.append(f"LJ001-000{i}|{text}|{text.replace('16', 'sixteen')}\n")
    write(folder / "metadata.csv", "".join(lines))
    write(folder / "README", "The LJ Speech Dataset")
    return folder


COMMON_VOICE = (
    "client_id path sentence_id sentence sentence_domain up_votes down_votes age gender accents variant locale segment"
).replace(" ", "\t")


def make_common_voice(folder):
    """Write the folder of a language."""
    rows = []
    for i, text in enumerate(
        ['"Da ist er", sagte sie.', "Das ist ein Satz.", "Noch ein Satz, mit Komma.", "Der vierte Satz."]
    ):
        name = f"common_voice_de_{1000 + i}.mp3"
        record(folder / "clips" / name, seed=i, rate=32_000)
        rows.append(f"{'ab' * 64}{i % 2}\t{name}\t{'cd' * 32}\t{text}\t\t2\t0\tfourties\tmale_masculine\t\t\tde\t")
    parts = {"validated": rows, "train": rows[:2], "dev": rows[2:3], "test": rows[3:], "other": []}
    for name, part in parts.items():
        write(folder / f"{name}.tsv", "\n".join([COMMON_VOICE, *part, ""]))
    write(folder / "clip_durations.tsv", "clip\tduration[ms]\n")
    return folder


def make_mls(folder):
    """Write a language of Multilingual LibriSpeech."""
    for split, count in (("train", 3), ("dev", 1), ("test", 1)):
        lines = []
        for i in range(count):
            name = f"6892_10317_{i:06d}"
            record(folder / f"{split}/audio/6892/10317/{name}.flac", seed=i)
            lines.append(f"{name}\tzdanie numer {i} z ksi\u0105\u017cki\n")
        write(folder / split / "transcripts.txt", "".join(lines))
        write(folder / split / "segments.txt", "6892_10317_000000\thttp://www.archive.org/a.mp3\t13.63\t33.63\n")
    write(folder / "metainfo.txt", "SPEAKER | GENDER | PARTITION\n6892 | F | train\n")
    return folder


def make_voxpopuli(folder):
    """Write the transcribed data of a language of VoxPopuli."""
    for split, count in (("train", 3), ("dev", 1), ("test", 1)):
        lines = ["id\traw_text\tnormalized_text\tspeaker_id\tsplit\tgender\tis_gold_transcript\taccent\n"]
        for i in range(count):
            name = f"2018{i}613-0900-PLENARY-4-en_20180613-15:01:2{i}_{split}"
            record(folder / f"2018/{name}.ogg", seed=i)
            lines.append(
                f"{name}\tMr President, number {i}.\tmr president number {i}\t12539{i}\t{split}\tmale\tTrue\tNone\n"
            )
        write(folder / f"asr_{split}.tsv", "".join(lines))
    return folder


def make_audiofolder(folder):
    """Write recordings with a list in the folder of each split."""
    for split, count in (("train", 3), ("test", 1)):
        for i in range(count):
            record(folder / f"{split}/clips/{i}.wav", seed=i)
        lines = [f'clips/{i}.wav,"Sentence {i}, from {split}",{i}\n' for i in range(count)]
        write(folder / f"{split}/metadata.csv", "".join(["file_name,transcription,take\n", *lines]))
    return folder


def make_classes(folder):
    """Write recordings whose folder says what is said."""
    for word in ("yes", "no_way"):
        for i in range(2):
            record(folder / word / f"{i}.wav", seed=i)
    return folder


def make_recordings(folder):
    """Write two recordings of a sentence each, without texts."""
    for i in range(2):
        (folder / "may").mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / f"may/{i}.flac", make_talk([0.5], seed=i)[0], RATE)
    return folder


def make_hub(folder):
    """Write a data set as a hub stores it, with embedded recordings."""
    write_hub(folder / "data/train-00000-of-00002.parquet", range(3))
    write_hub(folder / "data/train-00001-of-00002.parquet", range(3, 6))
    write_hub(folder / "data/validation-00000-of-00001.parquet", range(6, 8))
    return folder


def make_nemo(folder):
    """Write a manifest of NeMo with three segments of one recording, and one of a whole recording."""
    record(folder / "talk.wav", seed=0, seconds=9.0)
    record(folder / "short.wav", seed=1, seconds=1.5)
    lines = [
        {"audio_filepath": "talk.wav", "offset": 3.0 * i, "duration": 2.5, "text": f"part {i} of the talk"}
        for i in range(3)
    ]
    lines.append({"audio_filepath": "short.wav", "duration": 1.5, "text": "a recording of its own"})
    return write(folder / "manifest.json", "".join(f"{json.dumps(line)}\n" for line in lines))


def make_csv(folder):
    """Write a compressed table with semicolons and names of its own."""
    lines = ["clip;said;speaker"]
    for i in range(3):
        record(folder / f"audios/{i}.mp3", seed=i)
        lines.append(f"audios\\{i}.mp3;Sentence number {i}, with a comma;Ann")
    return write(folder / "corpus.csv.gz", gzip.compress("\r\n".join(lines).encode("utf-16")))


def make_kaldi(folder):
    """Write a data folder with segments, its paths relative to the folder of the recipe."""
    root = folder.parents[1]
    for i in (1, 2):
        record(root / f"corpus/talk{i}.wav", seed=i, seconds=6.0)
    write(folder / "wav.scp", "talk1 corpus/talk1.wav\ntalk2 corpus/talk2.wav\n")
    write(folder / "text", "ann-talk1-1 HELLO THERE\nann-talk1-2 GOOD MORNING\nbob-talk2-1 GOOD NIGHT\n")
    write(folder / "segments", "ann-talk1-1 talk1 0.5 2.0\nann-talk1-2 talk1 2.25 4.0\nbob-talk2-1 talk2 0 -1\n")
    write(folder / "utt2spk", "ann-talk1-1 ann\nann-talk1-2 ann\nbob-talk2-1 bob\n")
    write(folder / "utt2lang", "ann-talk1-1 en\nann-talk1-2 en\nbob-talk2-1 en\n")
    write(folder / "spk2utt", "ann ann-talk1-1 ann-talk1-2\nbob bob-talk2-1\n")
    return folder


def make_lhotse(folder):
    """Write recordings and supervisions of two splits."""
    for split, count in (("train", 3), ("dev", 1)):
        path = record(folder.parent / f"audio/{split}.wav", seed=count, seconds=9.0)
        sources = [{"type": "file", "channels": [0], "source": str(path)}]
        recording = {"id": split, "sources": sources, "sampling_rate": RATE, "num_samples": 9 * RATE, "duration": 9.0}
        lines = [
            {
                "id": f"{split}-{i}",
                "recording_id": split,
                "start": 3.0 * i,
                "duration": 2.5,
                "channel": 0,
                "speaker": "ann",
            }
            | {"text": f"supervision {i} of {split}", "language": "English"}
            for i in range(count)
        ]
        for kind, objects in (("recordings", [recording]), ("supervisions", lines)):
            text = "".join(f"{json.dumps(value)}\n" for value in objects)
            write(folder / f"demo_{kind}_{split}.jsonl.gz", gzip.compress(text.encode()))
    return folder


def make_subtitles(folder):
    """Write four talks, each of two utterances with a long pause between them, with subtitles of every kind."""
    for i, name in enumerate(("one.mp3", "two.wav", "three.wav", "four.wav")):
        record(folder / name, seed=i, seconds=9.0)
    write(
        folder / "one.srt",
        "1\n00:00:00,500 --> 00:00:01,500\n<i>Hello</i> there\n\n2\n00:00:01,600 --> 00:00:02,500\nand welcome\n\n"
        "3\n00:00:05,000 --> 00:00:07,000\n[APPLAUSE] Thank you\n",
    )
    write(
        folder / "two.en.vtt",
        "WEBVTT\n\n00:00.500 --> 00:02.500\n<v Ann>Good morning\n\n00:05.000 --> 00:08.000\nGood night &amp; sleep\n",
    )
    intervals = "".join(
        f'{a}\n{b}\n"{text}"\n' for a, b, text in ((0, 3, "the first"), (3, 5, ""), (5, 8, "the second"))
    )
    write(
        folder / "three.TextGrid",
        f'"ooTextFile"\n"TextGrid"\n0\n9\n<exists>\n1\n"IntervalTier"\n"utterances"\n0\n9\n3\n{intervals}',
    )
    write(
        folder / "four.ctm",
        "four 1 0.5 0.9 one\nfour 1 1.5 0.9 phrase\nfour 1 5.0 1.0 another\nfour 1 6.0 1.0 phrase\n",
    )
    return folder
