"""Chat templates of well-known models, as they are published, and conversations for tests."""

from __future__ import annotations

from simplellm.data.chat_template import CHATML
from simplellm.data.conversations.conversation import ASSISTANT, SYSTEM, USER, Turn

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    "+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{% endif %}"
)
QWEN25 = r"""{%- if tools %}
    {{- '<|im_start|>system\n# Tools\n\n' }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- '<|im_end|>\n' }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""  # noqa: E501
ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>
'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""
TEMPLATES = {
    "ChatML": CHATML, "SmolLM2": SMOLLM2, "Llama 3": LLAMA3, "Qwen2.5": QWEN25, "Zephyr": ZEPHYR,
}  # fmt: skip
SPECIAL = (
    "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
    "<|eot_id|>", "</s>",
)  # fmt: skip
BOS = "<|begin_of_text|>"
EOS = "</s>"


def turns(*texts: str, system: str | None = None) -> list[Turn]:
    """A user and an assistant take turns; a system message stands before them."""
    spoken = [Turn((USER, ASSISTANT)[number % 2], text) for number, text in enumerate(texts)]
    return spoken if system is None else [Turn(SYSTEM, system), *spoken]


CONVERSATIONS = [
    turns("Hello, who are you?"),
    turns("Hello", "Good day.", "And now?", "Now we talk."),
    turns("무엇을 할 수 있나요?", "저는 한국어로 대답합니다 👍🏽.", system="한국어로 대답하세요."),
    turns("```python\ndef f(x):\n    return x\n```", "\tA function:\n\n1. it takes `x`\n2. …\n"),
    turns("  spaces before and after  ", " a\n", "\n\nlines\n\n", "\n\n b \n\n"),
    turns("", " ", "\n", ""),
    turns("> quote", "<b>html</b> & 'quotes' \"too\" {{ 7 * 7 }} {% raw %}", "<|", "|>"),
    turns("e\u0301 ﬁ 👩\u200d👩\u200d👧 \u200b\u202e ①", "\r\n\r\n\u2028x\u00a0"),
    [Turn(SYSTEM, "Be kind."), Turn(USER, "a"), Turn(ASSISTANT, "b"), Turn(SYSTEM, "Be short.")],
    [Turn(ASSISTANT, "\nWelcome!"), Turn(USER, "Thanks"), Turn(ASSISTANT, "How can I help?")],
]
