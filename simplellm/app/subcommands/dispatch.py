"""From the options of a command to the function that runs it."""

from __future__ import annotations

from simplellm.app import options as of
from simplellm.app.subcommands.analyze import analyze
from simplellm.app.subcommands.bench import bench
from simplellm.app.subcommands.chat import chat
from simplellm.app.subcommands.evaluate import evaluate
from simplellm.app.subcommands.export import export
from simplellm.app.subcommands.find_lr import find_lr
from simplellm.app.subcommands.generate import generate
from simplellm.app.subcommands.import_model import import_model
from simplellm.app.subcommands.prune import prune
from simplellm.app.subcommands.runs import runs
from simplellm.app.subcommands.serve import serve
from simplellm.app.subcommands.sweep import sweep
from simplellm.app.subcommands.talk import talk
from simplellm.app.subcommands.train import train
from simplellm.app.subcommands.verify import verify


def run_command(options: of.Options) -> int:
    """Run the command that `options` belong to; returns the exit code."""
    match options:
        case of.TalkOptions():  # before ChatOptions, its base class
            return talk(options)
        case of.ChatOptions():
            return chat(options)
        case of.TrainOptions():
            return train(options)
        case of.FindLrOptions():
            return find_lr(options)
        case of.SweepOptions():
            return sweep(options)
        case of.GenerateOptions():
            return generate(options)
        case of.AnalyzeOptions():
            return analyze(options)
        case of.ServeOptions():
            return serve(options)
        case of.EvaluateOptions():
            return evaluate(options)
        case of.ExportOptions():
            return export(options)
        case of.BenchOptions():
            return bench(options)
        case of.PruneOptions():  # before RunsOptions, its base class
            return prune(options)
        case of.RunsOptions():
            return runs(options)
        case of.ImportOptions():
            return import_model(options)
        case of.VerifyOptions():
            return verify(options)
    raise AssertionError(f"no command takes {type(options).__name__}")
