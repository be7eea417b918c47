"""A reply to messages, by the chat template of the model."""

from __future__ import annotations

from collections.abc import Iterable

from simplellm.config.sampling import SamplingParams
from simplellm.data.conversations.conversation import Turn
from simplellm.errors import SettingError, TextError
from simplellm.inference.beams import reply_to
from simplellm.inference.reply import Reply
from simplellm.inference.sampler import Sampler


def reply_to_messages(sampler: Sampler, turns: Iterable[Turn], params: SamplingParams) -> Reply:
    """A reply to the last message; iterate over it.

    SettingError for a model without a chat template, TextError for messages that the template
    refuses or that are longer than the context.
    """
    if sampler.template is None:
        raise SettingError(
            "the model has no chat template: it continues text, and answers no messages",
            fix="use a model that was trained on conversations",
        )
    ids = sampler.template.encode(turns, sampler.tokenizer, is_open=True)
    if len(ids) >= sampler.block_size:
        raise TextError(
            f"the messages have {len(ids):,} tokens, the context of the model {sampler.block_size}",
            fix="leave out the earliest messages",
        )
    return reply_to(sampler, ids, params)
