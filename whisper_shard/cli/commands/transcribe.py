"""The command `transcribe`, and the lines it prints."""

from typing import TYPE_CHECKING

from whisper_shard.cli.command import Command
from whisper_shard.cli.console import Progress, say, say_error, say_warning
from whisper_shard.config.transcribe import TranscribeConfig
from whisper_shard.errors import EXIT_ERROR
from whisper_shard.report.quantities import describe_duration, describe_number

if TYPE_CHECKING:
    from whisper_shard.transcribe.events import Event
    from whisper_shard.transcribe.run import TranscribeReport


def run_transcribe(config: TranscribeConfig, *, model: str, recording: tuple[str, ...]) -> int:
    """Transcribe recordings and show the text as it comes."""
    from whisper_shard.transcribe.run import transcribe_recordings

    with Progress("transcribing") as progress:
        shown = _Display(progress, side_by_side=config.batch > 1)
        report = transcribe_recordings(model, recording, config, shown.show)
    say(describe_report(report))
    if report.num_failed:
        say_error(f"{report.num_failed} of {describe_number(report.num_recordings, 'recording')} not transcribed")
        return EXIT_ERROR
    return 0


class _Display:
    """Prints the events of a run."""

    def __init__(self, progress: Progress, *, side_by_side: bool) -> None:
        self._progress, self._side_by_side = progress, side_by_side
        self._lengths: dict[str, float] = {}
        self._languages: dict[str, str] = {}

    def show(self, event: "Event") -> None:
        """Print one event."""
        from whisper_shard.transcribe import events

        match event:
            case events.Begun():
                self._lengths[event.name] = event.seconds
                speech = event.speech_seconds
                extra = "" if speech is None else f", {describe_duration(speech)} of them in windows around speech"
                self._progress.say(f"{event.name}: {describe_duration(event.seconds)}{extra}")
            case events.Heard():
                self._show_text(event)
            case events.Finished():
                for file in event.files:
                    self._progress.say(f"{event.name}: {file} written")
            case events.Kept():
                extra = f"; {', '.join(event.files)} written from it" if event.files else ""
                self._progress.say(f"{event.name}: transcribed by an earlier run with the same settings, kept{extra}")
            case events.Redone():
                self._progress.say(f"{event.name}: transcribed anew: {event.cause}")
            case events.Failed():
                say_warning(f"{event.name}: {event.cause}")

    def _show_text(self, event: "Event") -> None:
        from whisper_shard.transcribe.events import Heard
        from whisper_shard.transcribe.formats import describe_time

        assert isinstance(event, Heard)
        if event.language and self._languages.get(event.name) != event.language:
            self._languages[event.name] = event.language
            self._progress.say(f"{event.name}: language {event.language}")
        front = f"{event.name} " if self._side_by_side else ""
        for segment in event.segments:
            start, end = (describe_time(time, with_hours=False) for time in (segment.start, segment.end))
            self._progress.say(f"{front}[{start} --> {end}] {segment.text.strip()}")
        done, total = round(event.position_seconds), round(self._lengths[event.name])
        self._progress.update(min(done, total), total, f"seconds of {event.name}")


def describe_report(report: "TranscribeReport") -> str:
    """Say what became of the recordings."""
    done = report.num_recordings - report.num_kept - report.num_failed
    speed = report.audio_seconds / max(report.seconds, 1e-9)
    kept = f"; {report.num_kept} kept" if report.num_kept else ""
    lengths = f"{describe_duration(report.audio_seconds)} in {describe_duration(report.seconds)}"
    took = f", {lengths} ({speed:.1f} times real time)" if done else ""
    return f"{describe_number(done, 'recording')} transcribed{took}{kept}"


COMMAND = Command(
    config=TranscribeConfig,
    positionals={
        "model": "model folder such as run/model, or a name on the model hub",
        "recording": "audio or video files, folders of them, or URLs",
    },
    repeated="recording",
    run=run_transcribe,
)
