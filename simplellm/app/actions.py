"""What each command does: from parsed options to the library, and from its answer to the screen."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from simplellm.app.attempt import on_device, watched
from simplellm.app.chat import chat as converse
from simplellm.app.chat import is_terminal, show
from simplellm.app.commands.conversation import runs_table
from simplellm.app.console import decoded, standard_input, write_json
from simplellm.app.conversation import Journal
from simplellm.app.conversation import resume as last_conversation
from simplellm.app.interrupt import Interrupt
from simplellm.app.preferences import Preferences, state_folder
from simplellm.app.render import Screen
from simplellm.app.session import Opened, Session
from simplellm.app.shades import summary_of
from simplellm.checkpoint.find_runs import find_checkpoint, find_run, list_runs
from simplellm.checkpoint.run import Run
from simplellm.checkpoint.step_folder import load_model
from simplellm.checkpoint.step_names import step_of
from simplellm.config.sampling import SamplingParams
from simplellm.config.toml import read_toml
from simplellm.data.corpus import STDIN_NAME, read_corpus
from simplellm.data.dataset import encode_document
from simplellm.device import describe, fast_float32
from simplellm.errors import CheckpointError, SettingError, TextError
from simplellm.evaluation.analyze import candidates, token_probabilities
from simplellm.inference.beams import IGNORED_SETTINGS, reply_to
from simplellm.inference.quantize import is_quantized, quantize
from simplellm.inference.reply import Reply, StreamedToken
from simplellm.inference.sampler import Sampler
from simplellm.model.scoring import Evaluation
from simplellm.model.scoring import evaluate as score
from simplellm.model.transformer import SimpleLLM
from simplellm.training.job import resume, start
from simplellm.training.result import Result
from simplellm.training.run_info import Sources

PACKAGE = Path(__file__).resolve().parents[1]
DEFAULT_TEXTS = [
    folder / "the-verdict.txt" for folder in (PACKAGE, PACKAGE.parent)
]  # in a wheel, in a clone
DEFAULT_TEXT = next((path for path in DEFAULT_TEXTS if path.is_file()), DEFAULT_TEXTS[-1])
Options = dict[str, Any]


def talk(options: Options) -> int:
    """Without a command: chat with the newest run, after training one where there is none."""
    screen = screen_of(options)
    try:
        folder = _checkpoint(options, screen)
    except CheckpointError:
        if options["run"] or any(run.step_folders() for run in list_runs(folder_of(options))):
            raise
        if not DEFAULT_TEXT.is_file():
            raise TextError(
                f"there is no run, and no {DEFAULT_TEXT} to train on",
                fix="simplellm train YOUR-TEXT",
            ) from None
        screen.notice(
            f"no trained model in {options['checkpoints']}: training one on {DEFAULT_TEXT.name}, about a minute"
        )
        folder = Path(_train(Sources((str(DEFAULT_TEXT),)), None, options, screen)[0].path)
    return _chat_with(folder, {**options, "history": True, "continue": False}, screen)


def train(options: Options) -> int:
    screen = screen_of(options)
    options = {**options, "given": given_of(options)}
    if options["resume"]:
        result, interrupt = _resume(options, screen)
    else:
        result, interrupt = _train(sources_of(options), options["name"], options, screen)
    if options["json"]:
        write_json({name: value for name, value in asdict(result).items() if name != "stopped"})
    else:
        screen.line(
            f"{result.run}: {result.bits_per_byte:.3f} bits/byte at step {result.best_step} of {result.steps}, {result.path}"
        )
    screen.notice(f"talk to it: simplellm chat --run {result.run}")
    return interrupt.exit_code


def chat(options: Options) -> int:
    screen = screen_of(options)
    return _chat_with(_checkpoint(options, screen), options, screen)


def generate(options: Options) -> int:
    params = SamplingParams(**options["sampling"])
    screen = screen_of(options)
    if params.num_beams > 1 and (
        ignored := [name for name in IGNORED_SETTINGS if name in options["sampling"]]
    ):
        screen.notice(f"beams draw nothing, so these have no effect: {', '.join(ignored)}")
    folder, prompt, pieces = _checkpoint(options, screen), _prompt(options), list[StreamedToken]()

    def write(device: torch.device) -> tuple[Sampler, Reply]:
        pieces.clear()
        sampler = _loaded(folder, device, options)
        reply = reply_to(sampler, sampler.encode(prompt), params)
        for piece in reply:
            pieces.append(piece)
            if options["json"]:
                continue
            if options["probs"]:
                screen.token(piece)
            else:
                screen.exact(piece.text)
        return sampler, reply

    sampler, reply = on_device(
        options, screen.notice, write, lambda: any(piece.text for piece in pieces)
    )
    if options["json"]:
        write_json({
            "text": reply.text, "prompt_tokens": len(reply.prompt_ids), "new_tokens": len(reply.new_ids),
            "seconds": reply.seconds, "tokens_per_second": reply.tokens_per_second, "seed": reply.seed,
            "stop_reason": reply.stop_reason,
            **(
                {"probs": [one.to_mapping() for one in token_probabilities(sampler, reply, pieces)]}
                if options["probs"] else {}
            ),
        })  # fmt: skip
        return 0
    screen.line()
    if options["probs"]:
        screen.notice(summary_of(pieces))
    return 0


def evaluate(options: Options) -> int:
    screen = screen_of(options)
    text = read_corpus([options["data"]], options["encoding"], standard_input()).text()
    folder = _checkpoint(options, screen)

    def score_on(device: torch.device) -> Evaluation:
        sampler = _loaded(folder, device, options)
        ids = encode_document(sampler.tokenizer, text)
        with fast_float32(device):
            return score(sampler.model, ids, len(text.encode("utf-8", "replace")))

    evaluation = on_device(options, screen.notice, score_on)
    if options["json"]:
        write_json(evaluation.to_mapping())
    else:
        screen.table(
            ("", ""),
            [
                (name.replace("_", " "), f"{value:.6g}")
                for name, value in evaluation.to_mapping().items()
            ],
        )
    return 0


def analyze(options: Options) -> int:
    params = SamplingParams(**options["sampling"])
    screen = screen_of(options)
    sampler = _sampler(options, screen)
    found = candidates(sampler, sampler.encode(_prompt(options)), params, options["top"])
    if options["json"]:
        write_json({"candidates": [candidate.to_mapping() for candidate in found]})
        return 0
    rows = [
        (str(candidate.token), repr(candidate.text), f"{candidate.probability:.4f}",
         f"{candidate.sampling_probability:.4f}" if candidate.kept else "-")
        for candidate in found
    ]  # fmt: skip
    screen.table(("token", "text", "probability", "after the settings"), rows)
    return 0


def runs(options: Options) -> int:
    screen = screen_of(options)
    if options["json"]:
        write_json([row for run in list_runs(folder_of(options)) if (row := run.summary())])
    elif table := runs_table(folder_of(options)):
        show(screen, table)
    else:
        screen.notice(f"no runs in {options['checkpoints']}; train one: simplellm train TEXT")
    return 0


# ---------------------------------------------------------------- what the commands share


def given_of(options: Options) -> dict[str, Any]:
    """The settings of --config, under those of the flags."""
    return {**(read_toml(Path(options["config"])) if options["config"] else {}), **options["given"]}


def sources_of(options: Options) -> Sources:
    if not options["texts"]:
        raise SettingError("train needs a TEXT", fix="simplellm train my-text.txt")
    return Sources(tuple(options["texts"]), options["val_data"], options["encoding"])


def base_of(options: Options, screen: Screen) -> Path | None:
    """The checkpoint of --from."""
    base = options.get("from")
    return find_checkpoint(base, folder_of(options), screen.notice) if base else None


def _train(
    sources: Sources, name: str | None, options: Options, screen: Screen
) -> tuple[Result, Interrupt]:
    base_folder = base_of(options, screen)
    return watched(
        lambda context: start(sources, options["given"], name, context, base_folder),
        options,
        screen,
    )


def _resume(options: Options, screen: Screen) -> tuple[Result, Interrupt]:
    run, _ = find_run(options["name"] or options["run"], folder_of(options))
    accepts, texts = options["accept_changes"], tuple(options["texts"])
    return watched(
        lambda context: resume(run, options["given"], context, texts, accepts), options, screen
    )


def _chat_with(folder: Path, options: Options, screen: Screen) -> int:
    """Talk to a checkpoint. What people set and say is remembered on a terminal; a pipe is the same every time."""
    opened, params, state = (
        _open(folder, options, screen),
        SamplingParams(**options["sampling"]),
        state_folder(),
    )
    is_live, keeps = (
        is_terminal(screen),
        options["history"] and (is_terminal(screen) or options["continue"]),
    )
    session = Session(
        opened.sampler, opened.path, params, opened.facts, params, tuple(options["sampling"]),
        preferences=Preferences(state / "settings.json", screen.notice) if is_live else None,
        journal=Journal(state / "conversations", opened.path) if keeps else None,
        open_run=lambda wish: _open(find_checkpoint(wish, folder_of(options), screen.notice), options, screen),
        checkpoints=folder_of(options), notice=screen.notice,
    )  # fmt: skip
    session.recall_settings()
    if options["continue"]:
        session.resume(*last_conversation(state / "conversations", opened.path, screen.notice))
    converse(session, screen, options["history"])
    return 0


def _open(folder: Path, options: Options, screen: Screen) -> Opened:
    sampler, run = load_sampler(folder, options, screen), Run(folder.resolve().parent)
    return Opened(sampler, run.path, _facts(run, folder, sampler.model))


def load_sampler(folder: Path, options: Options, screen: Screen) -> Sampler:
    """The model in a checkpoint's folder, on the device and in the number format that were asked for."""
    return on_device(options, screen.notice, lambda device: _loaded(folder, device, options))


def _loaded(folder: Path, device: torch.device, options: Options) -> Sampler:
    model, tokenizer = load_model(folder, device)
    sampler = Sampler(quantize(model) if options.get("quantize") == "int8" else model, tokenizer)
    if device.type != "cpu":
        sampler.probe()
    return sampler


def _facts(run: Run, folder: Path, model: SimpleLLM) -> dict[str, str]:
    config = model.config
    best = run.pointer("best") or {}
    return {
        "run": run.name,
        "step": str(step_of(folder)),
        "bits per byte": f"{best['bits_per_byte']:.3f}" if "bits_per_byte" in best else "unknown",
        "architecture": f"{config.architecture}, {config.n_layer} layers of {config.n_embd}, {config.n_head} heads",
        "context": f"{config.block_size} tokens",
        "vocabulary": f"{config.vocab_size} tokens",
        "parameters": f"{model.n_parameters:,}",
        "device": describe(
            model.token_embedding.weight.device, "int8" if is_quantized(model) else "float32"
        ),
        "path": str(folder),
    }


def _sampler(options: Options, screen: Screen) -> Sampler:
    return load_sampler(_checkpoint(options, screen), options, screen)


def _checkpoint(options: Options, screen: Screen) -> Path:
    return find_checkpoint(options["run"], folder_of(options), screen.notice)


def folder_of(options: Options) -> Path:
    return Path(options["checkpoints"])


def _prompt(options: Options) -> str:
    text: str = options["prompt"]
    if text != STDIN_NAME:
        return text
    stream = standard_input()
    if stream is None:
        raise TextError("there is no standard input to read", fix="--prompt TEXT")
    return decoded(stream.read(), sys.stdin.encoding)


def screen_of(options: Options) -> Screen:
    return Screen(color=options["color"])
