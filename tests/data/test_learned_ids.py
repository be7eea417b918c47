"""Which ids of conversations are learned, against a reference by hand, and how they are cut."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simplellm.data.chat_template import CHATML_TOKENS, ChatTemplate
from simplellm.data.conversation_parts import fitting_parts, separate_replies
from simplellm.data.conversations.conversation import ASSISTANT, SYSTEM, USER, Conversation, Turn
from simplellm.data.marked_ids import MarkedIds
from simplellm.data.prepared_conversations import encode_conversations
from simplellm.data.tokenizer import Tokenizer

TURNS = (
    Turn(SYSTEM, "Be brief."),
    Turn(USER, "안녕? <|im_end|>"),
    Turn(ASSISTANT, "안녕하세요!"),
    Turn(USER, "Bye"),
    Turn(ASSISTANT, "Not learned", is_learned=False),
    Turn(USER, "Bye"),
    Turn(ASSISTANT, "See you.\n"),
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    texts = (f"{turn.role}\n{turn.text}" for turn in TURNS)
    return Tokenizer.train(texts, 290).with_special_tokens(CHATML_TOKENS)


def reference(turns: tuple[Turn, ...], tokenizer: Tokenizer) -> list[tuple[int, bool]]:
    """The ids of ChatML, written out by hand, and whether each is learned.

    A reply and its <|im_end|> are. A token that has the end of the role's line and the beginning of
    the reply belongs to the reply.
    """
    start, end = (tokenizer.special_tokens[text] for text in CHATML_TOKENS)
    (line_end,) = tokenizer.encode("\n")
    pairs: list[tuple[int, bool]] = []
    for turn in turns:
        pairs.append((start, False))
        left = len(f"{turn.role}\n")  # bytes of the line of the role
        for token in tokenizer.encode(f"{turn.role}\n{turn.text}"):
            left -= len(tokenizer.token_bytes(token))
            pairs.append((token, turn.is_reply and left < 0))
        pairs += [(end, turn.is_reply), (line_end, False)]
    return pairs


def test_the_mask_is_that_of_a_reference_id_by_id(tokenizer: Tokenizer) -> None:
    conversations = [Conversation(TURNS, "here"), Conversation(TURNS[1:3], "there")]
    marked = encode_conversations(conversations, ChatTemplate(), tokenizer)
    for number, one in enumerate(conversations):
        part = slice(*marked.starts[number : number + 2])
        pairs = zip(marked.ids[part].tolist(), marked.is_learned[part].tolist(), strict=True)
        assert list(pairs) == reference(one.turns, tokenizer)


def test_the_bytes_of_the_learned_ids_are_those_of_the_replies(tokenizer: Tokenizer) -> None:
    one = Conversation(TURNS, "here")
    marked = encode_conversations([one], ChatTemplate(), tokenizer)
    replies = "".join(turn.text for turn in one.replies)
    assert marked.learned_bytes(tokenizer) == len(replies.encode())


# ---------------------------------------------------------------- long conversations

ROLES = st.lists(st.sampled_from([(USER, ASSISTANT), (SYSTEM, USER, ASSISTANT)]), min_size=1)


@given(roles=ROLES, limit=st.integers(4, 40), data=st.data())
@settings(max_examples=60)
def test_parts_have_each_turn_once_and_begin_as_a_conversation(
    roles: list[tuple[str, ...]], limit: int, data: st.DataObject
) -> None:
    names = [role for group in roles for role in group]
    sizes = data.draw(st.lists(st.integers(1, 12), min_size=len(names), max_size=len(names)))
    turns = tuple(
        Turn(role, f"{number}".ljust(size))
        for number, (role, size) in enumerate(zip(names, sizes, strict=True))
    )

    def length(some: object) -> int:
        return sum(len(turn.text) for turn in some)  # type: ignore[attr-defined]

    parts = list(fitting_parts(Conversation(turns, "here"), length, limit))
    others = [turn for part in parts for turn in part.turns if turn.role != SYSTEM]
    assert others == [turn for turn in turns if turn.role != SYSTEM]
    for part in parts:
        n_users = sum(turn.role == USER for turn in part.turns)
        assert next(turn.role for turn in part.turns if turn.role != SYSTEM) == USER
        assert length(part.turns) <= limit or n_users == 1
        first = turns.index(next(turn for turn in part.turns if turn.role == USER))
        before = [turn for turn in turns[:first] if turn.role == SYSTEM]
        assert list(part.turns[: len(before)]) == before


# ---------------------------------------------------------------- replies that are written last

THINKING = (  # the rule of Qwen3: an empty block of thoughts in the last reply only
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
    "{% if loop.last and message.role == 'assistant' %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ message.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def learned_texts(marked: MarkedIds, tokenizer: Tokenizer) -> list[str]:
    """What is learned of each document."""
    parts = [slice(*marked.starts[number : number + 2]) for number in range(len(marked))]
    return [tokenizer.decode(marked.ids[p][marked.is_learned[p]].tolist()) for p in parts]


def test_each_reply_is_learned_as_a_chat_asks_for_it(tokenizer: Tokenizer) -> None:
    template = ChatTemplate(THINKING)
    marked = encode_conversations([Conversation(TURNS, "here")], template, tokenizer)
    replies = [turn.text for turn in TURNS if turn.is_reply]
    assert learned_texts(marked, tokenizer) == [f"<think>\n\n</think>\n\n{r}" for r in replies]
    for number, end in enumerate((2, 6)):  # the turns before each reply
        start, stop = marked.starts[number : number + 2]
        prompt = template.encode(TURNS[:end], tokenizer, is_open=True)
        assert marked.ids[start:stop][: len(prompt)].tolist() == prompt


def test_replies_are_learned_together_where_the_template_writes_them_alike(
    tokenizer: Tokenizer,
) -> None:
    one = Conversation(TURNS, "here")
    assert list(separate_replies(one, ChatTemplate())) == [one]
    alone = list(separate_replies(one, ChatTemplate(THINKING)))
    assert [part.replies for part in alone] == [(turn,) for turn in one.replies]
    assert list(separate_replies(alone[1], ChatTemplate(THINKING))) == [alone[1]]
