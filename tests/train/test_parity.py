"""In 30 s windows the loop learns what the usual Trainer learns: same batches, same schedule, same losses."""

import itertools

import pytest
import torch

from tests.train.running import of_kind, tiny_config
from whisper_shard.dataset.index import open_dataset
from whisper_shard.model.labels import Labeler
from whisper_shard.model.whisper import load_whisper
from whisper_shard.stream.loader import open_loader
from whisper_shard.train.events import Stepped
from whisper_shard.train.loop import train_model

STEPS = 8


def losses_of_the_trainer(batches, config, folder):
    """Fine-tune by Seq2SeqTrainer on batches in their order; return the loss of every step."""
    from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

    loaded = load_whisper(config.model)
    labeler = Labeler(loaded.tokenizer)
    rows = [
        {"waveform": waveform[:length].numpy(), "text": text}
        for batch in batches
        for waveform, length, text in zip(batch.waveforms, batch.num_samples, batch.texts, strict=True)
    ]
    losses, optimizer = [], config.optimizer

    def collate(rows):
        labels = labeler.label_batch([row["text"] for row in rows])
        waveforms = [row["waveform"] for row in rows]
        features = loaded.processor.feature_extractor(waveforms, sampling_rate=16000, return_tensors="pt")
        return {
            "input_features": features.input_features,
            "decoder_input_ids": labels.decoder_input_ids,
            "labels": labels.labels,
        }

    class InOrder(Seq2SeqTrainer):
        def _get_train_sampler(self, *_):
            return torch.utils.data.SequentialSampler(rows)

        def training_step(self, *inputs, **keywords):
            loss = super().training_step(*inputs, **keywords)
            losses.append(loss.item())
            return loss

    arguments = Seq2SeqTrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=config.stream.batch_size, max_steps=STEPS, use_cpu=True,
        learning_rate=optimizer.lr, warmup_steps=round(optimizer.warmup * STEPS), lr_scheduler_type="cosine",
        weight_decay=0.0, max_grad_norm=optimizer.max_grad_norm, remove_unused_columns=False, report_to=[],
        save_strategy="no", disable_tqdm=True, seed=config.stream.seed,
    )  # fmt: skip
    InOrder(model=loaded.model, args=arguments, train_dataset=rows, data_collator=collate).train()
    return losses


def test_full_windows_follow_the_trainer(task, tmp_path):
    config = tiny_config(
        task, window="full", max_steps=STEPS, lr=1e-3, warmup=0.25, weight_decay=0.0, dropout=0.0, augment=(),
        eval_every=99, save_every=99,
    )  # fmt: skip
    events = []
    train_model(task, tmp_path / "run", config, events.append)
    ours = [event.loss for event in of_kind(events, Stepped)]
    batches = list(itertools.islice(open_loader(open_dataset(task / "train"), config.stream), STEPS))
    theirs = losses_of_the_trainer(batches, config, tmp_path / "trainer")
    assert ours == pytest.approx(theirs, rel=1e-4)
    assert ours[-1] < ours[0] - 0.05, "they learn"
