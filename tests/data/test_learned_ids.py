"""Which ids of conversations are learned, against a reference by hand, and how they are cut."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simplellm.data.chat_template import CHATML_TOKENS, IM_END, ChatTemplate
from simplellm.data.conversation_parts import fitting_parts
from simplellm.data.conversations.conversation import ASSISTANT, SYSTEM, USER, Conversation, Turn
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


def reference(turns: tuple[Turn, ...], tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
    """The ids of each turn, written out by hand: a reply and its <|im_end|> are learned."""
    start, end = (tokenizer.special_tokens[text] for text in CHATML_TOKENS)
    ids: list[int] = []
    learned: list[bool] = []
    for turn in turns:
        header = [start, *tokenizer.encode(f"{turn.role}\n")]
        text, line_end = tokenizer.encode(turn.text), tokenizer.encode("\n")
        ids += [*header, *text, end, *line_end]
        learned += [False] * len(header) + [turn.is_reply] * (len(text) + 1)
        learned += [False] * len(line_end)
    return ids, learned


def test_the_mask_is_that_of_a_reference_token_by_token(tokenizer: Tokenizer) -> None:
    conversations = [Conversation(TURNS, "here"), Conversation(TURNS[1:3], "there")]
    marked = encode_conversations(conversations, ChatTemplate(), tokenizer)
    for number, one in enumerate(conversations):
        part = slice(*marked.starts[number : number + 2])
        ids, learned = reference(one.turns, tokenizer)
        assert tokenizer.decode(marked.ids[part].tolist()) == tokenizer.decode(ids)
        assert marked.is_learned[part].sum() == sum(learned)
        text = b"".join(
            (tokenizer.special_text(token) or "").encode() or tokenizer.token_bytes(token)
            for token in marked.ids[part][marked.is_learned[part]].tolist()
        )
        assert text.decode() == "".join(turn.text + IM_END for turn in one.replies)


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
