"""The command `chat`: a conversation with a trained model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from simplellm.app.chat import chat_loop
from simplellm.app.device_fallback import DeviceFallback
from simplellm.app.journal import Journal, last_conversation, last_run
from simplellm.app.loaded_run import LoadedRun, Names, display_name, has_chat
from simplellm.app.options import ChatOptions
from simplellm.app.preferences import Preferences, state_folder
from simplellm.app.screen import Screen
from simplellm.app.session import Session
from simplellm.app.subcommands.shared import checkpoint_of, device_of, load_sampler, screen_of
from simplellm.checkpoint.find_runs import find_checkpoint, run_of
from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.single_turn import is_single_turn
from simplellm.checkpoint.step_names import step_of
from simplellm.config.sampling import SamplingParams
from simplellm.device import describe
from simplellm.evaluation.advice import missing_figure
from simplellm.inference.quantize import is_quantized
from simplellm.model.transformer import SimpleLLM

CONVERSATIONS = "conversations"  # folder of the saved ones, in the state folder


def chat(options: ChatOptions) -> int:
    screen = screen_of(options)
    if options.continue_last and not options.run and (state := state_folder()):
        run = last_run(state / CONVERSATIONS, options.checkpoints)
        options = replace(options, run=str(run)) if run else options
    folder = checkpoint_of(options, screen)
    return chat_with(folder, options, screen, device_of(options, screen))


def chat_with(folder: Path, options: ChatOptions, screen: Screen, device: DeviceFallback) -> int:
    """Chat with the checkpoint in `folder`.

    On a terminal, settings and conversations are kept from one session to the next. With piped
    input or output they are not, so that every call gives the same result.
    """
    loaded = _load(folder, options, device)
    params = SamplingParams(**options.sampling)
    state = _used_state_folder(options, screen)
    preferences = None
    if state and screen.is_interactive:
        preferences = Preferences(state / "settings.json", screen.notice)
    journal = None
    if state and options.keep_history:
        journal = Journal(state / CONVERSATIONS, loaded.path)

    def load_run(requested: str) -> LoadedRun:
        found = find_checkpoint(requested, options.checkpoints, screen.notice)
        return _load(found, options, device)

    session = Session(
        loaded.sampler,
        loaded.path,
        params,
        facts=loaded.facts,
        defaults=params,
        flags=tuple(options.sampling),
        preferences=preferences,
        journal=journal,
        load_run=load_run,
        checkpoints=options.checkpoints,
        notice=screen.notice,
        names=loaded.names,
        is_single_turn=loaded.is_single_turn,
    )
    if screen.is_interactive and (steps := RunFolder(loaded.path).steps_missing()) is not None:
        command = options.command(f"train --resume --name {loaded.path.name}")
        screen.notice(
            f"this training stopped at step {steps[0]} of {steps[1]}; finish it: {command}"
        )
    _begin(session, options, screen)
    if options.continue_last and state:
        session.resume(*last_conversation(state / CONVERSATIONS, loaded.path, screen.notice))
    chat_loop(session, screen, options.keep_history)
    return 0


def _used_state_folder(options: ChatOptions, screen: Screen) -> Path | None:
    """Where this chat keeps settings and conversations; None for a chat that keeps nothing."""
    if not (screen.is_interactive or options.continue_last):
        return None
    folder = state_folder()
    if folder is None:
        screen.notice(
            "nothing is kept for the next chat, because the home folder is unknown; "
            "XDG_STATE_HOME can name a folder"
        )
    return folder


def _begin(session: Session, options: ChatOptions, screen: Screen) -> None:
    """The mode of the model, the settings kept for it, and the system message of --system."""
    if has_chat(session.sampler, screen.notice):
        session.enter(is_chat=True)
    elif options.system is not None:
        session.require_template().check(session.sampler.tokenizer)
    session.recall_settings()
    if options.system is not None:
        session.set_system(options.system)
        session.start_system = options.system


def _load(folder: Path, options: ChatOptions, device: DeviceFallback) -> LoadedRun:
    sampler = device.run(lambda torch_device: load_sampler(folder, torch_device, options))
    run = run_of(folder)
    facts = _facts(run, folder, sampler.model)
    return LoadedRun(sampler, run.path, facts, _names(run), is_single_turn(run))


def _names(run: RunFolder) -> Names:
    """Names that run.json records for a model of the replies of one person, or defaults."""
    return Names(
        run.recorded_text("partner") or Names.user,
        run.recorded_text("me") or display_name(run.name),
    )


def _facts(run: RunFolder, folder: Path, model: SimpleLLM) -> dict[str, str]:
    """What `/info` shows of a model."""
    config = model.config
    figures = run.figures_of(folder)
    missing = missing_figure(figures.get("tokens"), run.copied_share())
    bits_per_byte = figures.get("bits_per_byte")
    quality = "not measured" if bits_per_byte is None else f"{bits_per_byte:.3f}"
    if missing:
        quality = f"none, the validation text is {missing}"
    device = model.token_embedding.weight.device
    source = run.imported_from()
    layers = "1 layer" if config.n_layer == 1 else f"{config.n_layer} layers"
    heads = "1 head" if config.n_head == 1 else f"{config.n_head} heads"
    return {
        "run": run.name,
        **({"imported from": source} if source else {}),
        "step": str(max(step_of(folder), 0)),
        "bits per byte": quality,
        "architecture": f"{config.architecture}, {layers} of {config.n_embd}, {heads}",
        "context": f"{config.block_size} tokens",
        "vocabulary": f"{config.vocab_size} tokens",
        "parameters": f"{model.n_parameters:,}",
        "device": describe(device, "int8" if is_quantized(model) else "float32"),
        "path": str(folder),
    }
