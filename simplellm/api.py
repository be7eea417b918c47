"""The public Python API: `train`, `load`, and the `Model` they give.

    run = simplellm.train("my-text.txt", budget="2m")
    model = simplellm.load(run)
    print(model.generate("The judge", temperature=0.7))

Errors are SimpleLLMError and its subclasses. Nothing is printed: pass `notice` to receive messages.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from simplellm.base.packaged import BASE, NONE, base_folder
from simplellm.checkpoint.export.checkpoint_model import exported_model, with_network
from simplellm.checkpoint.export.export import Exported, ExportJob
from simplellm.checkpoint.find_runs import find_checkpoint, free_name
from simplellm.checkpoint.generation import NOTHING_STATED, Generation
from simplellm.checkpoint.run_log import LogRecord, Sinks
from simplellm.checkpoint.step_folder import open_model
from simplellm.config.model import ModelConfig
from simplellm.config.sampling import SamplingParams
from simplellm.config.setting import current_names, reject_unknown_keys
from simplellm.config.training import TrainConfig
from simplellm.data.conversations.conversation import USER
from simplellm.data.conversations.request import turns_to_answer
from simplellm.data.dataset import encode_document
from simplellm.data.source import TextFormat
from simplellm.data.text_files import STDIN_NAME
from simplellm.data.tokenizer import Tokenizer
from simplellm.data.utf8 import utf8_length
from simplellm.device import choose_device, fast_float32
from simplellm.errors import Notice, SettingError, TextError
from simplellm.evaluation.analyze import Candidate, candidates
from simplellm.inference.beams import reply_to
from simplellm.inference.chat import reply_to_messages
from simplellm.inference.quantize import is_quantized
from simplellm.inference.quantize import quantize as quantized
from simplellm.inference.sampler import Sampler
from simplellm.model.scoring import Evaluation, evaluate
from simplellm.model.transformer import SimpleLLM
from simplellm.storage.user_paths import expand_user
from simplellm.training.context import TrainingContext
from simplellm.training.distributed import joined
from simplellm.training.held_out_text import held_out_documents
from simplellm.training.result import Result
from simplellm.training.sources import Sources
from simplellm.training.start import start
from simplellm.training.threads import adapted_to_load

Messages = str | Sequence[Mapping[str, str]]
TextOrPaths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclass(frozen=True)
class Run:
    """A finished training. Figures are those of its best checkpoint on validation text.

    path: the run folder. val_loss: nats per token. bits_per_byte: of validation text.
    """

    name: str
    path: Path
    steps: int
    best_step: int
    val_loss: float
    perplexity: float
    bits_per_byte: float
    train_seconds: float
    tokens_per_second: float
    parameters: int

    def load(self, device: str = "auto") -> Model:
        """The model of the best checkpoint."""
        return load(self, device=device)


RunOrPath = Run | str | os.PathLike[str]


class Model:
    """A trained model with its tokenizer.

    network: the torch module, in evaluation mode. tokenizer: its tokenizer. path: its checkpoint.
    """

    def __init__(
        self,
        network: SimpleLLM,
        tokenizer: Tokenizer,
        path: Path,
        generation: Generation = NOTHING_STATED,
    ) -> None:
        self.network = network
        self.tokenizer = tokenizer
        self.path = path
        ends, template = generation.end_ids(tokenizer), generation.template(tokenizer)
        self._sampler = Sampler(network, tokenizer, ends, template)

    def generate(self, prompt: str, params: SamplingParams | None = None, **settings: Any) -> str:
        """The whole reply to `prompt`. `settings`: fields of SamplingParams, such as top_k=40."""
        return "".join(self.stream(prompt, params, **settings))

    def stream(
        self, prompt: str, params: SamplingParams | None = None, **settings: Any
    ) -> Iterator[str]:
        """The reply to `prompt`, piece by piece as it is sampled; a piece has whole characters."""
        _require_text(prompt)
        chosen = _sampling_params(params, settings)
        reply = reply_to(self._sampler, self._sampler.encode(prompt), chosen)
        return (piece.text for piece in reply if piece.text)

    def chat(
        self, messages: Messages, params: SamplingParams | None = None, **settings: Any
    ) -> str:
        """The whole reply of a chat model to `messages`, by its chat template.

        messages: a list such as [{"role": "user", "content": "Hello"}], the last of a user, or a
        text: one message of a user. settings: as in `generate`; replies may have 500 tokens.
        """
        return "".join(self.stream_chat(messages, params, **settings))

    def stream_chat(
        self, messages: Messages, params: SamplingParams | None = None, **settings: Any
    ) -> Iterator[str]:
        """The reply of `chat`, piece by piece as it is sampled."""
        is_text = isinstance(messages, str)
        given = [{"role": USER, "content": messages}] if is_text else list(messages)
        turns = turns_to_answer(given, "the list of messages")
        chosen = _sampling_params(params or SamplingParams.of_chat(), settings)
        reply = reply_to_messages(self._sampler, turns, chosen)
        return (piece.text for piece in reply if piece.text)

    def evaluate(self, text: str) -> Evaluation:
        """Loss, perplexity, accuracy and bits per byte of `text`."""
        _require_text(text)
        if not text:
            raise TextError("there is no text to evaluate", fix="pass a text of some words")
        ids = encode_document(self.tokenizer, text)
        with fast_float32(self.device):
            return evaluate(self.network, ids, utf8_length(text), unscored=self.tokenizer.bos_ids)

    def next_tokens(
        self, prompt: str, top: int = 10, params: SamplingParams | None = None, **settings: Any
    ) -> list[Candidate]:
        """The `top` most likely next tokens, before and after the sampling settings."""
        _require_text(prompt)
        chosen = _sampling_params(params, settings)
        return candidates(self._sampler, self._sampler.encode(prompt), chosen, top)

    def export(
        self,
        path: str | os.PathLike[str],
        format: str,
        type: str | None = None,
        *,
        force: bool = False,
        notice: Notice = lambda message: None,
    ) -> Exported:
        """Write the model for other programs, as `simplellm export` does; what was written.

        path: the file or folder to write. format: "gguf", "onnx" or "hf". type: number format of
        the matrices, such as "f16"; None is "f32". force: replace an earlier export. notice:
        receives messages. The weights are those of `network`, also if they were changed; those of
        the checkpoint if `network` has weights in 8 bits.
        """
        job = ExportJob.of(format, type, _output_path(path), force)
        model = exported_model(self.path, held_out_documents, notice)
        if not is_quantized(self.network):
            model = with_network(model, self.network)
        return job.write(model)

    @property
    def config(self) -> ModelConfig:
        return self.network.config

    @property
    def device(self) -> torch.device:
        return self.network.token_embedding.weight.device


def train(
    text_or_paths: TextOrPaths,
    *,
    name: str | None = None,
    checkpoints: str | os.PathLike[str] = "checkpoints",
    device: str = "auto",
    base: RunOrPath | None = None,
    val_data: str | os.PathLike[str] | None = None,
    encoding: str = "utf-8",
    notice: Notice = lambda message: None,
    log: Callable[[LogRecord], None] = lambda record: None,
    **settings: Any,
) -> Run:
    """Train a new model and return its run, which is saved in the folder `checkpoints`.

    text_or_paths: files, folders or globs, or a string with the text itself (it is taken as text
    if it has a line break). name: of the run; default: after the text. base: a run or checkpoint
    to fine-tune, "base" (the base model of the package) or "none" (random weights); None is the
    base model where that pays. val_data: a file to hold out instead of the last part of the text.
    settings: fields of the model and training configs, such as n_layer=6 or budget="10m"; the
    recipe chooses the others. notice: receives messages. log: receives each record of log.jsonl.
    """
    started_at = time.perf_counter()
    texts, stdin = _texts(text_or_paths)
    _check_names(settings)
    val_text = os.fspath(val_data) if val_data else None
    sources = Sources(texts, val_text, TextFormat(encoding))
    folder = Path(checkpoints)
    started_from = _base_folder(base, folder, notice)
    if stdin is not None and name is None:
        name = free_name("text", folder)
    chosen_device = choose_device(device)
    with joined(chosen_device) as world, adapted_to_load():
        context = TrainingContext(
            checkpoints=folder,
            device=chosen_device,
            world=world,
            sink=_LogSink(log) if world.is_main else Sinks(),
            notice=notice,
            should_stop=lambda: False,
            stdin=stdin,
            started_at=started_at,
        )
        result = start(sources, settings, name, context, started_from, may_choose_base=base is None)
    return _finished(result)


def load(
    source: RunOrPath | None = None,
    *,
    checkpoints: str | os.PathLike[str] = "checkpoints",
    device: str = "auto",
    quantize: str = "off",
    context: int | None = None,
) -> Model:
    """A trained model, verified before use.

    source: a Run, the name of a run in `checkpoints`, or the path of a run, a checkpoint folder, a
    model folder as `transformers` saves it, or a GGUF file; None is the newest run.
    quantize: "int8" for weights in 8 bits, else "off". context: at most so many tokens; None is the
    context of the model, and 4096 for models from elsewhere.
    """
    if quantize not in ("off", "int8"):
        raise SettingError(f"quantize is off or int8, got {quantize!r}", fix="quantize='int8'")
    wanted = _path_of(source) if source is not None else None
    folder = find_checkpoint(wanted, Path(checkpoints), lambda message: None)
    if context is not None:
        context = int(ModelConfig.setting("block_size").check(context))
    opened = open_model(folder, choose_device(device), context)
    network = quantized(opened.model) if quantize == "int8" else opened.model
    return Model(network, opened.tokenizer, folder, opened.generation)


def _base_folder(base: RunOrPath | None, checkpoints: Path, notice: Notice) -> Path | None:
    """The checkpoint that training starts from; None for random weights, or to choose it later."""
    if base is None or base == NONE:
        return None
    if base == BASE:
        return base_folder()
    return find_checkpoint(_path_of(base), checkpoints, notice)


def _finished(result: Result) -> Run:
    figures = {key: value for key, value in asdict(result).items() if key in Run.__annotations__}
    return Run(**{**figures, "name": result.run, "path": Path(result.path).parent})


def _check_names(settings: dict[str, Any]) -> None:
    """SettingError for the name of no model or training setting; former names are accepted."""
    declared = [*ModelConfig.settings(), *TrainConfig.settings()]
    names = [setting.name for setting in declared]
    reject_unknown_keys(current_names(settings, declared), names, "train()")


class _LogSink:
    """Passes the records of a training to a function."""

    def __init__(self, log: Callable[[LogRecord], None]) -> None:
        self.write = log


def _texts(text_or_paths: TextOrPaths) -> tuple[tuple[str, ...], io.BytesIO | None]:
    """What Sources and stdin are for `text_or_paths`; text itself goes in as standard input."""
    if isinstance(text_or_paths, str) and "\n" in text_or_paths:
        return (STDIN_NAME,), io.BytesIO(text_or_paths.encode("utf-8", "replace"))
    if isinstance(text_or_paths, (str, os.PathLike)):
        text_or_paths = [text_or_paths]
    try:
        texts = tuple(os.fspath(path) for path in text_or_paths)
    except TypeError as error:
        fix = "train('my-text.txt'), or a list of paths"
        raise TextError(f"train() needs a text or paths, got {text_or_paths!r}", fix=fix) from error
    if not texts or STDIN_NAME in texts:
        raise TextError(f"train() needs a text or paths, got {texts}", fix="train('my-text.txt')")
    return texts, None


def _path_of(source: RunOrPath) -> str:
    """The name or path that find_checkpoint takes."""
    try:
        return os.fspath(source.path if isinstance(source, Run) else source)
    except TypeError as error:
        fix = "load('my-run')"
        raise SettingError(f"a run is a Run, a name or a path, got {source!r}", fix=fix) from error


def _output_path(path: str | os.PathLike[str]) -> Path:
    try:
        return Path(expand_user(os.fsdecode(path)))
    except TypeError as error:
        raise SettingError(f"export() needs a path, got {path!r}", fix="'model.gguf'") from error


def _require_text(text: object) -> None:
    if not isinstance(text, str):
        raise TextError(f"a text is a str, got {type(text).__name__}", fix="pass a str")


def _sampling_params(params: SamplingParams | None, settings: dict[str, Any]) -> SamplingParams:
    """`params` with `settings` over them; SettingError for a name that is no setting."""
    base = params.to_mapping() if params is not None else {}
    return SamplingParams.from_mapping({**base, **settings})
