"""The pages in a real browser: wide and narrow, light and dark, with clicks. Skipped where there is no Chromium."""

import json
import threading
import wave

import pytest

from tests.browser import NAMES, find_browser, running_browser
from tests.making import make_dataset
from tests.prepare.corpora import make_corpus, prepare
from tests.report.reading import HOSTILE
from tests.score.test_page import evaluate, make_report, make_slice
from tests.train.run.test_summary import make_run
from whisper_shard.browse.server import open_server
from whisper_shard.report.page import data_url
from whisper_shard.score.compare import compare_evaluations
from whisper_shard.score.page import PageDetails, build_page
from whisper_shard.train.run.folder import RunFolder
from whisper_shard.train.run.page import write_run_page

pytestmark = pytest.mark.skipif(find_browser() is None, reason=f"no browser on the PATH: {', '.join(NAMES)}")
LONG = "Donaudampfschifffahrtsgesellschaftskapit\u00e4nsm\u00fctzenabzeichen" * 3
"""A word that is wider than a telephone."""
PAGES = ("report", "score", "run", "browse")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with running_browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The address of a dataset that is served."""
    folder = tmp_path_factory.mktemp("served") / "train"
    make_dataset(folder, [0.5 + 0.01 * number for number in range(60)], text=f"{HOSTILE} {LONG}")
    with open_server(str(folder)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server.url
        server.shutdown()
        thread.join()


def write_report(folder):
    corpus = make_corpus(
        folder / "corpus", 30, extra=[("bad.wav", b"RIFF\0\0\0\0WAVEnothing"), (f"{LONG[:90]}.wav", b"")]
    )
    prepare(corpus, folder / "out", jobs=1, eval_fraction=0, max_reject_fraction=1.0)
    return folder / "out/train/report.html"


def write_score(folder):
    with wave.open(str(folder / "clip.wav"), "wb") as clip:
        clip.setparams((1, 2, 16_000, 0, "NONE", ""))
        clip.writeframes(bytes(32_000))
    references = [
        f"the {number} words that speaker {number} says {LONG if number == 3 else ''}" for number in range(40)
    ]
    hypotheses = [
        text.replace("the", "a").replace("says", "") + " um" * (number % 7) for number, text in enumerate(references)
    ]
    slices = [make_slice("speaker", name, errors) for name, errors in (("ann", 30), ("bob", 10), (LONG, 20))]
    found = compare_evaluations("an older score", evaluate(references, hypotheses), evaluate(references, references))
    report = make_report(references, hypotheses, slices=slices, comparison=found, settings={"text form": LONG})
    clip = data_url("audio/wav", (folder / "clip.wav").read_bytes())
    labels = {str(number): [f"speaker{number:03d}"] for number in range(40)}
    (folder / "score.html").write_text(build_page(report, PageDetails(clips={"3": clip, "6": clip}, labels=labels)))
    return folder / "score.html"


def write_run(folder):
    run = make_run(folder / "run", lr=0.5, wer=0.3)
    samples = [{"key": "utt", "reference": f"{HOSTILE} {LONG}", "hypothesis": LONG}]
    lines = [{"kind": "train", "step": step, "loss": 3.0 / (step + 1), "lr": 1e-5 * step} for step in range(21)]
    for step, wer in ((0, 0.5), (10, 0.4), (20, 0.3)):
        interval = {"wer_low": wer - 0.1, "wer_high": wer + 0.1}
        lines.append({"kind": "eval", "step": step, "wer": wer, "cer": 0.2, "samples": samples, **interval})
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_run_page(RunFolder(path=run))
    return run / "run.html"


@pytest.fixture(scope="module")
def addresses(tmp_path_factory, served):
    """Where the pages are, by name."""
    writers = {"report": write_report, "score": write_score, "run": write_run}
    files = {name: write(tmp_path_factory.mktemp(name)).as_uri() for name, write in writers.items()}
    return {**files, "browse": served}


@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", PAGES)
def test_pages_fit_and_are_silent(browser, addresses, tmp_path, name, width, is_dark):
    page = browser.open(addresses[name], width=width, is_dark=is_dark)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.errors == []
    assert {url.partition("?")[0] for url in page.requests} <= {
        addresses[name], *(f"{addresses[name]}{number}.wav" for number in range(60))
    }  # fmt: skip
    background = "getComputedStyle(document.documentElement).backgroundColor"
    text = page.evaluate("getComputedStyle(document.body).color")
    assert text == ("rgb(255, 255, 255)" if is_dark else "rgb(0, 0, 0)"), page.evaluate(background)
    page.screenshot(tmp_path / f"{name}.png")
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_long_transcript_of_a_run_is_wrapped(browser, addresses):
    page = browser.open(addresses["run"], width=390)
    hidden = (
        "Array.from(document.querySelectorAll('.scroll')).filter((box) => box.scrollWidth > box.clientWidth).length"
    )
    assert page.evaluate(hidden) == 0


@pytest.mark.parametrize("name", ["report", "score", "browse"])
def test_players_play(browser, addresses, name):
    page = browser.open(addresses[name])
    seconds = (
        "(async () => { const player = [...document.querySelectorAll('audio')].at(-1);"
        "player.preload = 'auto'; player.load();"
        "await new Promise((done) => { if (player.readyState) done(); player.onloadedmetadata = done;"
        "player.onerror = done }); return player.error ? player.error.message : player.duration })()"
    )
    assert page.evaluate(seconds) >= 0.5
    assert page.errors == []


def test_a_click_on_a_head_sorts_a_table(browser, addresses):
    page = browser.open(addresses["score"])
    page.evaluate("[...document.querySelectorAll('table.sortable')].at(-1).id = 'sorted'")
    column = "Array.from(document.querySelectorAll('#sorted tbody tr'), (row) => row.cells[0].textContent.trim())"
    before = page.evaluate(column)
    assert before[0] == "ann" and len(before) == 3
    page.click("#sorted th")
    assert page.evaluate(column) == sorted(before, key=str.lower)
    page.click("#sorted th")
    assert page.evaluate(column) == sorted(before, key=str.lower, reverse=True)
    assert page.evaluate("document.querySelector('#sorted th').getAttribute('aria-sort')") == "descending"


def test_typing_searches_a_list_and_a_button_shows_more(browser, addresses):
    page = browser.open(addresses["score"])
    shown = "Array.from(document.querySelectorAll('#utterances ~ .list .item')).filter((i) => !i.hidden).length"
    assert page.evaluate(shown) == 20
    page.click("#utterances ~ .list .more")
    assert page.evaluate(shown) == 40
    page.click("#utterances ~ .list input")
    page.type("speaker007")
    assert page.evaluate(shown) == 1
    assert page.evaluate("document.querySelector('#utterances ~ .list output').textContent") == "1 of 40"


def test_the_browse_page_searches_and_sorts(browser, addresses):
    page = browser.open(addresses["browse"])
    assert "60 found" in page.evaluate("document.body.innerText")
    page.click("input[name=text]")
    page.type("utt0004")
    page.forget_events()
    page.press_enter()
    page.wait_for_load()
    assert "10 found; page 1 of 1" in page.evaluate("document.body.innerText")
    page.evaluate("document.querySelector('select[name=sort]').value = 'seconds'")
    page.evaluate("document.querySelector('select[name=order]').value = 'descending'")
    page.forget_events()
    page.click("button")
    page.wait_for_load()
    assert page.evaluate("document.querySelector('audio').getAttribute('src')") == "49.wav"
    assert page.errors == []
