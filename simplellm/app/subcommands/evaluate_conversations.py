"""The command `evaluate` on conversations: the replies are scored, each conversation alone."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

import torch

from simplellm.app.console import write_json
from simplellm.app.options import EvaluateOptions
from simplellm.app.screen import Screen
from simplellm.app.subcommands.shared import checkpoint_of, device_of, load_sampler
from simplellm.checkpoint.step_folder import open_source
from simplellm.data.conversations.conversation import Conversation
from simplellm.data.prepared_conversations import encode_conversations
from simplellm.device import fast_float32
from simplellm.errors import SettingError
from simplellm.evaluation.advice import MEANINGS, is_too_short, too_short_to_score
from simplellm.evaluation.exact_replies import ExactReplies, exact_replies
from simplellm.model.reply_scoring import evaluate_replies
from simplellm.model.scoring import Evaluation
from simplellm.training.conversation_sources import SortedFiles

Scores = tuple[Evaluation, ExactReplies]
MakeProgress = Callable[[str, bool], Callable[[float], None]]  # what is done, is it shown


def evaluate_conversations(
    options: EvaluateOptions, screen: Screen, found: SortedFiles, progress: MakeProgress
) -> int:
    """Score the replies of the files of conversations; texts among them are refused."""
    if found.texts:
        names = ", ".join(file.name for file in found.texts[:3])
        raise SettingError(
            f"{options.data} has conversations and texts ({names}), which have different figures",
            fix="evaluate them one by one, or --format text",
        )
    conversations = [one for file in found.conversations for one in file.conversations]
    folder = checkpoint_of(options, screen)
    is_shown = not options.json and sys.stderr is not None and sys.stderr.isatty()
    source = open_source(folder)
    template = source.generation.template(source.tokenizer)
    if template is None:
        raise SettingError(
            f"{options.data} has conversations, but the model has no chat template",
            fix="use a model that was trained on conversations, or --format text",
        )

    def score(device: torch.device) -> Scores:
        sampler = load_sampler(folder, device, options)
        marked = encode_conversations(conversations, template, sampler.tokenizer)
        with fast_float32(device):
            line = progress("scored", is_shown)
            scores = evaluate_replies(sampler.model, marked, sampler.tokenizer, line)
            line = progress("answered", is_shown)
            return scores, exact_replies(sampler, template, conversations, line)

    evaluation, exact = device_of(options, screen).run(score)
    _show(options, screen, evaluation, exact, conversations)
    return 0


def _show(
    options: EvaluateOptions,
    screen: Screen,
    evaluation: Evaluation,
    exact: ExactReplies,
    conversations: list[Conversation],
) -> None:
    figures = {
        **evaluation.to_mapping(),
        "replies": sum(len(one.replies) for one in conversations),
        "exact_match": exact.share,
        "exact_match_any": exact.any_share,
    }
    if options.json:
        write_json(figures)
    else:
        screen.table(("", "", ""), figure_rows(figures))
    if is_too_short(evaluation.tokens):
        size = evaluation.tokens, evaluation.bytes
        screen.notice(too_short_to_score(*size, "what the replies say", "score more of them"))


def figure_rows(figures: Mapping[str, float]) -> list[tuple[str, str, str]]:
    """Name, value and meaning of each figure."""
    return [
        (name.replace("_", " "), f"{value:.6g}", MEANINGS[name]) for name, value in figures.items()
    ]
