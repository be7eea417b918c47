"""The command `export`: write a model in the format of another program."""

from __future__ import annotations

from dataclasses import asdict

from simplellm.app.console import write_json
from simplellm.app.options import ExportOptions
from simplellm.app.subcommands.shared import checkpoint_of, screen_of
from simplellm.checkpoint.export.checkpoint_model import exported_model
from simplellm.checkpoint.export.export import ExportJob
from simplellm.training.held_out_text import held_out_documents


def export(options: ExportOptions) -> int:
    screen = screen_of(options)
    job = ExportJob.of(options.format, options.type, options.out, options.force)
    folder = checkpoint_of(options, screen)
    exported = job.write(exported_model(folder, held_out_documents, screen.notice))
    if options.json:
        write_json(asdict(exported))
    else:
        screen.notice(
            f"{exported.path}: {exported.format}, {exported.type}, {exported.bytes:,} bytes"
        )
    return 0
