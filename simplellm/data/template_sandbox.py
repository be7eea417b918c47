"""Chat templates in jinja2's sandbox, with the variables and functions of `transformers`."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

from simplellm.errors import CheckpointError, TextError

if TYPE_CHECKING:
    from jinja2 import Template, nodes
    from jinja2.parser import Parser
    from jinja2.sandbox import SandboxedEnvironment

SHOWN_CHARACTERS = 200  # of a message of a template
Message = Mapping[str, str]


class TemplateRefusal(Exception):
    """A template called `raise_exception`."""


@functools.cache
def sandbox() -> SandboxedEnvironment:
    """The environment of all templates; ImportError without jinja2 (the extra `hub`)."""
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """The tag of `transformers` around what the model writes."""

        tags = {"generation"}

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = _now
    return environment


def render(source: str, messages: Sequence[Message], is_open: bool, **names: str) -> str:
    """The text of a template. is_open: add_generation_prompt. names: further variables.

    CheckpointError without jinja2 and for an invalid template, TextError where it refuses these
    messages.
    """
    template = _compiled(source)
    try:
        return template.render(
            messages=[dict(message) for message in messages],
            tools=None,
            documents=None,
            add_generation_prompt=is_open,
            **names,
        )
    except MemoryError:
        raise
    except Exception as error:  # a template is a program: it can raise what Python raises
        reason = str(error)[:SHOWN_CHARACTERS] or type(error).__name__
        raise TextError(
            f"the chat template of the model refuses this conversation: {reason}",
            fix="use the roles that the model knows, in an order that it knows",
        ) from error


@functools.lru_cache(maxsize=16)
def _compiled(source: str) -> Template:
    try:
        environment = sandbox()
    except ImportError as error:
        raise CheckpointError(
            "the chat template of this model needs the package jinja2",
            fix='pip install "simplellm[hub]"',
        ) from error
    try:
        return environment.from_string(source)
    except Exception as error:  # a TemplateError, or a RecursionError of deep nesting
        raise CheckpointError(
            f"the chat template of this model is invalid: {str(error)[:SHOWN_CHARACTERS]}",
            fix="use the template of the original model",
        ) from error


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The filter `tojson` of `transformers`; that of jinja2 escapes characters of HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise(message: object) -> NoReturn:
    raise TemplateRefusal(str(message))


def _now(format: str) -> str:
    return datetime.now().strftime(format)
