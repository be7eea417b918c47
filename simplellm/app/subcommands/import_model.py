"""The command `import`: make a run of a model from elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from simplellm.app.console import write_json
from simplellm.app.options import ImportOptions
from simplellm.app.subcommands.shared import screen_of
from simplellm.checkpoint.find_runs import free_name, new_run
from simplellm.checkpoint.importing.hub import download, is_hub_name
from simplellm.checkpoint.importing.import_run import import_run
from simplellm.checkpoint.importing.read_source import read_source
from simplellm.checkpoint.importing.source_model import SourceModel
from simplellm.errors import SettingError
from simplellm.storage.files import remove_leftovers
from simplellm.storage.json_files import JsonObject
from simplellm.storage.user_paths import expand_user

SLOW_PARAMETERS = 20_000_000  # from which an import may take more than 3 seconds (measured)


def import_model(options: ImportOptions) -> int:
    screen = screen_of(options)
    if not options.source.strip():
        raise SettingError(
            "SOURCE is empty", fix="name a model folder, a .gguf file or hf:OWNER/NAME"
        )
    name = options.name or free_name(_stem(options.source), options.checkpoints)
    run = new_run(name, options.checkpoints)  # before anything is downloaded or read
    source = _source(options)
    if source.n_parameters >= SLOW_PARAMETERS:
        screen.notice(f"reading {source.source}: {source.n_parameters:,} parameters")
    remove_leftovers(options.checkpoints)
    folder, n_parameters = import_run(source, run, {"command": list(options.arguments)})
    result: JsonObject = {
        "run": run.name,
        "path": str(folder),
        "architecture": source.config.architecture,
        "parameters": n_parameters,
        "vocabulary": source.config.vocab_size,
        "context": source.config.block_size,
    }
    if options.json:
        write_json(result)
    else:
        screen.line(
            f"{run.name}: {result['architecture']}, {n_parameters:,} parameters, "
            f"vocabulary {result['vocabulary']}, context {result['context']}, {folder}"
        )
    screen.notice(f"chat with it: {options.command(f'chat --run {run.name}')}")
    return 0


def _stem(source: str) -> str:
    """The name of the model in a path or a name on the hub."""
    return source.partition("@")[0].rpartition("/")[2] if is_hub_name(source) else Path(source).stem


def _source(options: ImportOptions) -> SourceModel:
    if is_hub_name(options.source):
        folder, exact_name = download(options.source)
        return replace(read_source(folder, options.context), source=exact_name)
    return read_source(Path(expand_user(options.source)), options.context)
