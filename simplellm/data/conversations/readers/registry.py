"""The conversation formats by name, and the detection of the format of a file.

The first records or lines of a file decide: the format that fits most of them, if it fits at least
half. JSON lines with a text under `--text-key` stay a text, as do all other files.
"""

from __future__ import annotations

from simplellm.config.did_you_mean import did_you_mean
from simplellm.data.conversations.format import Format, Sample, record_format
from simplellm.data.conversations.options import FORMAT_NAMES, TEXT, ReadOptions
from simplellm.data.conversations.readers import (
    alpaca,
    chatterbot,
    kakaotalk,
    messages,
    prompt_completion,
    saved_chat,
    sharegpt,
    telegram,
    transcript,
    whatsapp,
)
from simplellm.data.source import Source
from simplellm.errors import SettingError

MIN_FIT = 0.5  # share of the records of a sample (guess)

FORMATS = {  # of formats that fit equally well the first is chosen
    format.name: format
    for format in (
        saved_chat.FORMAT,
        telegram.FORMAT,
        record_format(
            "messages", 'JSON records with "messages": role and content (OpenAI)',
            messages.fits, messages.turns,
        ),
        record_format(
            "sharegpt", 'JSON records with "conversations": from and value',
            sharegpt.fits, sharegpt.turns,
        ),
        record_format(
            "alpaca", 'JSON records with "instruction", "input" and "output"',
            alpaca.fits, alpaca.turns,
        ),
        record_format(
            "prompt", 'JSON records with "prompt" and "completion", or question and answer',
            prompt_completion.fits, prompt_completion.turns,
        ),
        record_format(
            "chatterbot", "JSON lists of texts that alternate (chatterbot-corpus)",
            chatterbot.fits, chatterbot.turns, chatterbot.parts,
        ),
        whatsapp.FORMAT,
        kakaotalk.FORMAT,
        transcript.FORMAT,
    )
}  # fmt: skip


def detect_format(source: Source, options: ReadOptions) -> Format | None:
    """The format of a file, or the one that `options.format` forces; None for a text.

    SettingError for an unknown name; TextError if the file cannot be read.
    """
    if options.format is not None:
        return named_format(options.format)
    sample = Sample.of(source, options.me)
    key = source.format.text_key
    texts = [isinstance(one, dict) and isinstance(one.get(key), str) for one in sample.records]
    if any(texts) and sum(texts) >= MIN_FIT * len(texts):
        return None
    fits = {format.name: format.fits(sample) for format in FORMATS.values()}
    best = max(fits, key=lambda name: fits[name])
    return FORMATS[best] if fits[best] >= MIN_FIT else None


def named_format(name: str) -> Format | None:
    """The format with this name; None for TEXT; SettingError if there is none."""
    if name == TEXT:
        return None
    if name not in FORMATS:
        known = ", ".join(FORMAT_NAMES)
        raise SettingError(
            f"format is one of {known}, not {name!r}",
            fix=did_you_mean(name, FORMAT_NAMES, prefix="--format ", otherwise="choose one"),
        )
    return FORMATS[name]
