"""README.md in RUN/model."""

import json

from whisper_shard.dataset.index import open_dataset


def read_front_matter(text):
    _, block, body = text.split("---\n", 2)
    return {name: json.loads(value) for name, value in (line.split(": ", 1) for line in block.splitlines())}, body


def test_card_of_a_run_names_base_data_recipe_and_scores(finished, task):
    run, _, _, report = finished
    fields, body = read_front_matter((run / "model" / "README.md").read_text("utf-8"))
    assert fields["base_model"] == "tiny" and fields["library_name"] == "transformers"
    assert fields["license"] == "other" and fields["language"] == "en"
    assert fields["model-index"][0]["results"][0]["metrics"][0]["value"] == round(100 * report.wer, 2)
    low, high = report.wer_interval
    assert f"**{report.wer:.2%}** | {low:.2%} to {high:.2%} | {report.cer:.2%} |" in body
    for part in ("train", "eval"):
        assert open_dataset(task / part).description.digest in body
    assert "| label_smoothing | 0.1 |" in body and "| full_final | 0.2 |" in body
    assert f"weights kept: {report.chosen} (step {report.best_step})" in body
    assert "transformers 5" in body and "&#" not in body
    assert str(task) not in body, "a card is published: it names no folders of the machine"
