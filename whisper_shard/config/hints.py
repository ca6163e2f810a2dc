"""Hints for settings that do not exist: misspelt ones, and those that other tools have under another name.

No hint is better than a wrong one: a name is only compared with settings of the same command, and has to be nearly
equal to one of them unless it is listed here.
"""

import difflib
from collections.abc import Mapping, Sequence

NAMES_ELSEWHERE: Mapping[str, tuple[str, ...]] = {
    "audio_column": ("audio_col", "audio_column_name", "audio_field", "path_column"),
    "batch_seconds": ("batch_duration", "max_duration", "max_batch_duration", "max_tokens_per_batch"),
    "batch": ("batch_size",),
    "batch_size": ("global_batch_size", "per_device_train_batch_size", "train_batch_size"),
    "beams": ("beam_size", "num_beams"),
    "by": ("group_by", "slice_by"),
    "cache": ("cache_dir",),
    "compile": ("torch_compile",),
    "decode_timeout_seconds": ("timeout", "timeout_seconds"),
    "ema": ("ema_decay", "use_ema"),
    "epochs": ("max_epochs", "n_epochs", "num_epochs", "num_train_epochs"),
    "eval": ("dev_data", "eval_data", "eval_dataset", "valid_data", "validation_data", "validation_dataset"),
    "eval_batch": ("eval_batch_size", "per_device_eval_batch_size"),
    "eval_corpus": ("dev_csv", "dev_manifest", "eval_csv", "eval_manifest", "test_csv", "valid_manifest"),
    "eval_every": ("eval_steps", "val_check_interval"),
    "eval_fraction": (
        "dev_fraction", "dev_size", "test_fraction", "test_size", "val_fraction", "val_size", "val_split",
    ),
    "eval_limit": ("max_eval_samples",),
    "format": ("output_format",),
    "freeze_layers": ("freeze_encoder_layers", "num_frozen_layers"),
    "jobs": (
        "n_jobs", "nj", "num_jobs", "num_proc", "num_processes", "num_workers", "preprocessing_num_workers", "workers",
    ),
    "label_smoothing": ("label_smoothing_factor",),
    "language": ("lang",),
    "limit": ("max_eval_samples", "max_samples", "num_samples"),
    "log_every": ("log_every_n_steps", "log_interval", "logging_steps"),
    "lora_rank": ("lora_r", "use_lora"),
    "lr": ("learning_rate", "max_lr", "peak_lr"),
    "max_grad_norm": ("clip_grad", "clip_grad_norm", "grad_clip", "gradient_clip_val"),
    "max_new_tokens": ("generation_max_length", "max_decode_len"),
    "max_seconds": (
        "max_audio_duration", "max_duration", "max_duration_in_seconds", "max_len_seconds", "max_length_seconds",
    ),
    "max_steps": ("max_train_steps", "num_steps", "num_train_steps", "steps", "total_steps"),
    "micro_batch": ("grad_accum", "gradient_accumulation", "gradient_accumulation_steps", "micro_batch_size"),
    "min_seconds": ("min_audio_duration", "min_duration", "min_duration_in_seconds", "min_length_seconds"),
    "min_text_chars": ("min_chars", "min_text_length", "min_text_len"),
    "model": ("base_model", "model_id", "model_name", "model_name_or_path", "pretrained_model"),
    "out": ("output", "output_dir"),
    "output": ("out", "output_dir"),
    "patience": ("early_stop", "early_stopping", "early_stopping_patience"),
    "precision": ("amp", "bf16", "dtype", "fp16", "half", "mixed_precision", "torch_dtype"),
    "prefetch": ("prefetch_factor",),
    "rebuild": ("force", "overwrite", "overwrite_output", "overwrite_output_dir"),
    "save_every": ("checkpoint_every", "save_interval", "save_steps"),
    "segment": ("vad", "vad_filter"),
    "seed": ("data_seed", "random_seed", "random_state", "seed_everything"),
    "shard_mb": ("max_shard_size", "shard_size"),
    "spec_augment": ("apply_spec_augment", "specaugment", "use_specaugment"),
    "split_by": ("group_by", "split_by_speaker"),
    "stochastic_depth": ("encoder_layerdrop", "layer_drop", "layerdrop"),
    "tensorboard": ("use_tensorboard",),
    "text_column": ("text_col", "text_column_name", "transcript_column", "transcription_column_name"),
    "text_form": ("normalizer", "text_normalizer"),
    "text_style": (
        "do_lower_case", "lower_case", "lowercase", "normalize_text", "normalizer", "punctuation", "remove_punctuation",
        "text_normalization", "text_normalizer",
    ),
    "tokenizer": ("tokenizer_name", "tokenizer_path"),
    "trim_db": ("top_db",),
    "vad": ("vad_filter",),
    "warmup": ("num_warmup_steps", "warmup_ratio", "warmup_steps"),
    "weight_decay": ("wd",),
    "workers": ("dataloader_num_workers", "n_workers", "num_loader_workers", "num_workers"),
}  # fmt: skip
"""Names of other tools for a setting, by its name here.

Source: the arguments of transformers' Seq2SeqTrainer and its speech recipes, Lightning, NeMo, Lhotse, icefall, ESPnet.
"""
REMARKS: Mapping[str, str] = {
    "batch_seconds": "padded seconds per step; utterances are filtered by `prepare --max-seconds`",
    "batch_size": "of a whole step, over all ranks",
    "max_seconds": "of an utterance",
    "micro_batch": "utterances per forward pass; batch_size stays that of a step",
    "segment": "vad",
    "warmup": "a share of all steps, 0 to 1",
}
"""What is different about a setting that has another name elsewhere."""
_LOGGERS = ("comet", "logger", "mlflow", "report_to", "use_wandb", "wandb", "wandb_entity", "wandb_project")
_OVERWRITE = ("clear", "force", "overwrite", "overwrite_output", "overwrite_output_dir", "rebuild")
_ONE_DEVICE = ("device", "devices", "gpus", "num_gpus")
_DEVICES = ("device", "devices", "gpus", "local_rank", "nproc_per_node", "num_gpus")
INSTEAD: Mapping[str, Mapping[str, str]] = {
    "prepare": {
        **dict.fromkeys(("output", "output_dir", "out"), "OUT is the second argument, without a flag"),
        **dict.fromkeys(("corpus", "input", "manifest", "train_csv"), "CORPUS is the first argument, without a flag"),
        **dict.fromkeys(("sample_rate", "sampling_rate", "sr"), "everything is stored at 16 kHz, Whisper's rate"),
        **dict.fromkeys(("delimiter", "separator", "sep"), "delimiters are recognized; see --dry-run"),
        **dict.fromkeys(("resume", "resume_from_checkpoint"), "the same command resumes"),
    },
    "train": {
        **dict.fromkeys(
            _LOGGERS, "name it: --tracker wandb, mlflow or trackio; metrics are always in RUN/metrics.jsonl"
        ),
        **dict.fromkeys(_OVERWRITE, "the same command resumes; to train anew, name a new RUN"),
        **dict.fromkeys(_DEVICES, "a GPU is used if there is one, several with bin/train-ddp"),
        **dict.fromkeys(("output", "output_dir", "out"), "RUN is the second argument, without a flag"),
        **dict.fromkeys(("resume_from_checkpoint", "ckpt_path"), "the same command resumes"),
        **dict.fromkeys(("extend_steps", "extra_epochs", "more_epochs"), "raise --epochs with --extend"),
        **dict.fromkeys(("push_to_hub", "hub_model_id"), "RUN/model is a folder of the format of the model hub"),
        **dict.fromkeys(("max_seconds", "min_seconds"), "utterances are filtered by `prepare`"),
    },
    "score": {
        **dict.fromkeys(_ONE_DEVICE, "a GPU is used if there is one"),
    },
    "transcribe": {
        **dict.fromkeys(_ONE_DEVICE, "a GPU is used if there is one"),
        **dict.fromkeys(("model", "model_name", "model_size"), "MODEL is the first argument, without a flag"),
        **dict.fromkeys(("beam_size", "beams", "num_beams"), "it takes the most probable token, see --temperatures"),
    },
}
"""What to do instead, by command, for names of other tools that no setting corresponds to."""
_NEARLY_EQUAL = 0.8  # of difflib: warmpu and warmup have 0.83; max_duration and max_padding, no typing error, 0.61


def hint_at_setting(name: str, known: Sequence[str], *, command: str = "", as_flag: bool = False) -> str:
    """Return ``; ...`` with the setting that was probably meant or with what to do instead, or nothing.

    Args:
        name: A name that is no setting.
        known: The settings of the command.
        command: Name of the command, for what to do instead.
        as_flag: Write settings as flags.
    """
    name = name.replace("-", "_")
    if sentence := INSTEAD.get(command, {}).get(name):
        return f"; {sentence}"
    for setting in known:
        if name in NAMES_ELSEWHERE.get(setting, ()):
            remark = f" ({REMARKS[setting]})" if setting in REMARKS else ""
            return f"; here it is {_show(setting, as_flag=as_flag)}{remark}"
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=_NEARLY_EQUAL) or _holding_all_words(name, known)
    return f"; did you mean {_show(nearest[0], as_flag=as_flag)!r}?" if nearest else ""


def _holding_all_words(name: str, known: Sequence[str]) -> list[str]:
    """Return the only setting that has all words of a name, two or more: min_chars is min_text_chars."""
    words = set(name.split("_"))
    found = [setting for setting in known if words <= set(setting.split("_"))]
    return found if len(found) == 1 and len(words) > 1 else []


def _show(setting: str, *, as_flag: bool) -> str:
    return "--" + setting.replace("_", "-") if as_flag else setting
