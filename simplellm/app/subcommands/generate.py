"""The command `generate`: one reply to a prompt."""

from __future__ import annotations

import torch

from simplellm.app.console import write_json
from simplellm.app.options import GenerateOptions
from simplellm.app.prompt_text import without_line_end
from simplellm.app.screen import Screen
from simplellm.app.shading import ABOUT_INVALID, summary_of
from simplellm.app.subcommands.shared import (
    checkpoint_of,
    device_of,
    load_sampler,
    prompt_source,
    read_messages,
    read_prompt,
    screen_of,
)
from simplellm.config.sampling import SamplingParams
from simplellm.data.conversations.conversation import SYSTEM, USER, Turn
from simplellm.errors import SettingError
from simplellm.evaluation.analyze import n_invalid_bytes, token_probabilities
from simplellm.inference.beams import IGNORED_SETTINGS, reply_to
from simplellm.inference.chat import reply_to_messages
from simplellm.inference.reply import Reply, StreamedToken
from simplellm.inference.sampler import Sampler
from simplellm.storage.json_files import JsonObject


def generate(options: GenerateOptions) -> int:
    params = (SamplingParams.of_chat if options.is_chat else SamplingParams)(**options.sampling)
    screen = screen_of(options)
    _warn_of_unused_settings(params, options, screen)
    messages = _messages(options) if options.is_chat else []
    folder = checkpoint_of(options, screen)
    prompt = "" if options.is_chat else read_prompt(options.prompt, screen)
    pieces: list[StreamedToken] = []

    def write_reply(device: torch.device) -> tuple[Sampler, Reply]:
        pieces.clear()
        sampler = load_sampler(folder, device, options)
        if options.is_chat:
            reply = reply_to_messages(sampler, messages, params)
        else:
            reply = reply_to(sampler, sampler.encode(prompt), params)
        for piece in reply:
            pieces.append(piece)
            _show(piece, options, screen)
        return sampler, reply

    sampler, reply = device_of(options, screen).run(
        write_reply, is_final=lambda: any(piece.text for piece in pieces)
    )
    if options.json:
        write_json(_to_json(sampler, reply, pieces, with_probs=options.probs))
        return 0
    screen.line()
    if options.probs:
        screen.notice(summary_of(pieces))
    elif n_invalid := n_invalid_bytes(sampler.tokenizer, reply.new_ids):
        such_bytes = "one such byte" if n_invalid == 1 else f"{n_invalid} such bytes"
        screen.notice(f"{ABOUT_INVALID}; this reply has {such_bytes}")
    return 0


def _messages(options: GenerateOptions) -> list[Turn]:
    """The messages to answer; TextError or SettingError says what is wrong with them."""
    if options.messages is None:
        turns = [Turn(USER, without_line_end(prompt_source(options.prompt)))]
    else:
        turns = read_messages(options.messages)
    if options.system is None:
        return turns
    if turns[0].role == SYSTEM:
        raise SettingError(
            f"{options.messages} has a system message already", fix="leave --system out"
        )
    return [Turn(SYSTEM, options.system), *turns]


def _warn_of_unused_settings(
    params: SamplingParams, options: GenerateOptions, screen: Screen
) -> None:
    unused = [name for name in IGNORED_SETTINGS if name in options.sampling]
    if params.num_beams > 1 and unused:
        screen.notice(f"beam search does not sample; no effect: {', '.join(unused)}")


def _show(piece: StreamedToken, options: GenerateOptions, screen: Screen) -> None:
    if options.json:
        return
    if options.probs:
        screen.token(piece)
    else:
        screen.exact(piece.text)


def _to_json(
    sampler: Sampler, reply: Reply, pieces: list[StreamedToken], with_probs: bool
) -> JsonObject:
    document: JsonObject = {
        "text": reply.text,
        "prompt_tokens": len(reply.prompt_ids),
        "new_tokens": len(reply.new_ids),
        "seconds": reply.seconds,
        "tokens_per_second": reply.tokens_per_second,
        "seed": reply.seed,
        "stop_reason": reply.stop_reason,
    }
    if n_invalid := n_invalid_bytes(sampler.tokenizer, reply.new_ids):
        document["invalid_bytes"] = n_invalid
    if with_probs:
        document["probs"] = [
            token.to_mapping() for token in token_probabilities(sampler, reply, pieces)
        ]
    return document
