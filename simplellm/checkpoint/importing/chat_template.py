"""Check of a chat template: whether it can be parsed in jinja2's sandbox."""

from __future__ import annotations

from simplellm.data.template_sandbox import sandbox
from simplellm.errors import CheckpointError


def check_template(template: str, source: str) -> None:
    """CheckpointError for a template that does not parse. Nothing of it is run.

    Without jinja2 (the extra `hub`) it stays unchecked: it is first needed in a chat.
    """
    try:
        environment = sandbox()
    except ImportError:
        return
    try:
        environment.parse(template)
    except RecursionError as error:
        raise CheckpointError(f"the chat template of {source} is nested too deeply") from error
    except Exception as error:  # a TemplateError, whose class needs jinja2
        raise CheckpointError(
            f"the chat template of {source} does not parse: {str(error)[:200]}",
            fix="use the template of the original model",
        ) from error
