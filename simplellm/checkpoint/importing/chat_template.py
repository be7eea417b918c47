"""Check of a chat template: whether it can be parsed in jinja2's sandbox."""

from __future__ import annotations

from simplellm.errors import CheckpointError


def check_template(template: str, source: str) -> None:
    """CheckpointError for a template that does not parse. Nothing of it is run.

    Without jinja2 (the extra `hub`) it stays unchecked: no reply needs it.
    """
    try:
        from jinja2 import TemplateError, nodes
        from jinja2.ext import Extension, loopcontrols
        from jinja2.parser import Parser
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        return

    class Generation(Extension):
        """The tag of `transformers` around what the model writes."""

        tags = {"generation"}

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    sandbox = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    try:
        sandbox.parse(template)
    except TemplateError as error:
        raise CheckpointError(
            f"the chat template of {source} does not parse: {str(error)[:200]}",
            fix="use the template of the original model",
        ) from error
    except RecursionError as error:
        raise CheckpointError(f"the chat template of {source} is nested too deeply") from error
