"""What completions and chat completions have in common: sampling settings, streams and choices."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from simplellm.config.sampling import SamplingParams
from simplellm.config.setting import Setting
from simplellm.inference.reply import random_seed
from simplellm.server.api_error import bad_request
from simplellm.server.fields import Fields, checked

MAX_CHOICES = 16
MAX_TOP = 20  # most likely tokens at each place; OpenAI's limit
SAMPLED = tuple(
    setting
    for setting in SamplingParams.settings()
    if setting.name not in ("max_new_tokens", "num_beams")
)
N = Setting("n", "int", 1, "replies to each prompt", minimum=1, maximum=MAX_CHOICES)
STREAM = Setting("stream", "bool", False, "send the tokens as they come")
INCLUDE_USAGE = Setting("include_usage", "bool", False, "end a stream with the token counts")
OBFUSCATION = Setting("include_obfuscation", "bool", False, "accepted; nothing is added")
TOKEN_IDS = Setting("return_token_ids", "bool", False, "report ids and bytes of tokens, as vLLM")
STREAM_OPTIONS = "stream_options"
MODEL = "model"
READ = (
    MODEL,
    STREAM_OPTIONS,
    N.name,
    STREAM.name,
    TOKEN_IDS.name,
    *(setting.name for setting in SAMPLED),
)


@dataclass(frozen=True)
class ReplyOptions:
    """How to reply.

    max_tokens: of each reply; 0 is possible, while `params.max_new_tokens` is at least 1.
    top: number of most likely tokens to report at each place; None reports no probabilities.
    token_ids: whether to report the ids of the prompt and of the reply.
    """

    params: SamplingParams
    max_tokens: int
    n: int = 1
    stream: bool = False
    include_usage: bool = False
    top: int | None = None
    token_ids: bool = False

    @property
    def has_tokens(self) -> bool:
        """Whether something is reported about each token."""
        return self.top is not None or self.token_ids

    def params_of_choice(self, number: int) -> SamplingParams:
        """The settings of one of `n` replies: the seeds follow each other."""
        highest = SamplingParams.setting("seed").maximum
        assert highest is not None
        seed = random_seed() if self.params.seed is None else self.params.seed + number
        return replace(self.params, seed=seed % (int(highest) + 1))


def read_options(
    fields: Fields, defaults: SamplingParams, token_limits: tuple[str, ...], fewest: int
) -> ReplyOptions:
    """The options of a request; ApiError names the parameter that is wrong.

    token_limits: names of the parameter for the length of a reply. fewest: its lowest value.
    """
    given = {setting.name: fields.raw(setting.name) for setting in SAMPLED}
    values = {
        setting.name: checked(setting, given[setting.name])
        for setting in SAMPLED
        if given[setting.name] is not None
    }
    max_tokens = _max_tokens(fields, defaults, token_limits, fewest)
    values["max_new_tokens"] = max(max_tokens, 1)
    stream = fields.value(STREAM)
    return ReplyOptions(
        replace(defaults, **values),
        max_tokens,
        fields.value(N),
        stream,
        _include_usage(fields.raw(STREAM_OPTIONS), stream),
        token_ids=fields.value(TOKEN_IDS),
    )


def read_model(fields: Fields) -> str | None:
    name = fields.raw(MODEL)
    if name is not None and not isinstance(name, str):
        raise bad_request("model is the name of a model", MODEL, "invalid_value")
    return name


def _max_tokens(
    fields: Fields, defaults: SamplingParams, names: tuple[str, ...], fewest: int
) -> int:
    setting = SamplingParams.setting("max_new_tokens")
    found = {}
    for name in names:
        value = fields.value(replace(setting, name=name, default=None, minimum=fewest, auto=""))
        if value is not None:
            found[name] = value
    if len(set(found.values())) > 1:
        raise bad_request(f"{' and '.join(found)} differ; give one of them", names[-1])
    return next(iter(found.values()), defaults.max_new_tokens)


def _include_usage(value: Any, stream: bool) -> bool:
    if value is None:
        return False
    if not isinstance(value, dict):
        raise bad_request("stream_options is an object", STREAM_OPTIONS, "invalid_value")
    if not stream:
        raise bad_request("stream_options needs stream", STREAM_OPTIONS)
    options = Fields(value)
    options.refuse_others((INCLUDE_USAGE.name, OBFUSCATION.name), {})
    options.value(OBFUSCATION)
    return bool(options.value(INCLUDE_USAGE))
