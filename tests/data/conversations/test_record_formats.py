"""JSON records of conversations: messages, ShareGPT, prompts, Alpaca, chatterbot-corpus."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reading_files import detected, read, read_as

from simplellm.errors import TextError

PAIR = [("user", "이름이 뭐야?"), ("assistant", "나는 봇이야.")]
LONG = [("system", "짧게 답해."), *PAIR, ("user", "Ça va?\u2028Oui?"), ("assistant", "네.\n\n  네")]


def messages(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in turns]


def sharegpt(*turns: tuple[str, str]) -> list[dict[str, str]]:
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    return [{"from": names[role], "value": text} for role, text in turns]


RECORDS = {  # format -> (record, its turns)
    "messages": ({"messages": messages(*LONG)}, LONG),
    "sharegpt": ({"conversations": sharegpt(*LONG), "id": "1"}, LONG),
    "alpaca": (
        {"instruction": "번역해.", "input": "Good morning", "output": "좋은 아침이에요."},
        [("user", "번역해.\n\nGood morning"), ("assistant", "좋은 아침이에요.")],
    ),
    "prompt": ({"prompt": PAIR[0][1], "completion": PAIR[1][1]}, PAIR),
    "chatterbot": (
        {"categories": ["인사"], "conversations": [["안녕", "안녕하세요!", "잘 지내?", "네."]]},
        [
            ("user", "안녕"),
            ("assistant", "안녕하세요!"),
            ("user", "잘 지내?"),
            ("assistant", "네."),
        ],
    ),
}


@pytest.mark.parametrize("format", RECORDS)
def test_a_record_is_detected_and_read(tmp_path: Path, format: str) -> None:
    record, turns = RECORDS[format]
    assert detected(tmp_path, [record]) == format
    result = read(tmp_path, [record])
    assert result.turns == [turns] and result.summary.format == format
    assert result.conversations[0].source.startswith(f"{tmp_path / 'a.jsonl'} line 1")


LAYOUTS = {
    "lines": lambda records: "\n".join(map(json.dumps, records)),
    "array in one line": json.dumps,
    "indented array": lambda records: json.dumps(records, indent=2),
    "array, a record in each line": lambda records: (
        "[\n" + ",\n".join(map(json.dumps, records)) + "\n]\n"
    ),
    "indented records": lambda records: "\n".join(json.dumps(one, indent=1) for one in records),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("format", RECORDS)
def test_records_may_be_lines_or_an_array_in_any_file(
    tmp_path: Path, format: str, layout: str
) -> None:
    record, turns = RECORDS[format]
    other = json.loads(json.dumps(record, ensure_ascii=False).replace("안녕", "하이"))
    other["extra"] = "😀"
    content = LAYOUTS[layout]([record, other])
    names = ("a.jsonl", "a.json", "a.txt")
    assert {detected(tmp_path, content, name) for name in names} == {format}
    found = read_as(tmp_path, format, content).turns
    assert found[0] == turns and len(found) == 2


def test_messages_of_a_spanning_array_are_placed_at_their_lines(tmp_path: Path) -> None:
    content = json.dumps([{"messages": messages(*PAIR)}, {"messages": messages(*LONG)}], indent=1)
    sources = [one.source for one in read(tmp_path, content, "a.json").conversations]
    lines = content.split("\n")
    starts = [number for number, line in enumerate(lines, 1) if line == " {"]
    assert sources == [f"{tmp_path / 'a.json'} line {number}" for number in starts]


def test_records_of_an_array_in_one_line_have_numbers(tmp_path: Path) -> None:
    content = json.dumps([{"messages": messages(*PAIR)}, {"messages": messages(*LONG)}])
    sources = [one.source for one in read(tmp_path, content, "a.json").conversations]
    assert [source.partition("a.json ")[2] for source in sources] == [
        "line 1 record 1", "line 1 record 2",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("record", "turns"),
    [
        (messages(*PAIR), PAIR),
        ({"messages": [{"role": "developer", "content": "짧게"}, *messages(*PAIR)]},
         [("system", "짧게"), *PAIR]),
        ({"messages": [{"role": "User", "content": [{"type": "text", "text": "가"},
                                                    {"type": "text", "text": "나"}]},
                       {"role": "ASSISTANT", "content": "다"}], "tools": []},
         [("user", "가나"), ("assistant", "다")]),
        ({"messages": [*messages(PAIR[0]),
                       {"role": "assistant", "content": None, "tool_calls": None},
                       *messages(PAIR[1])]}, PAIR),
        ({"conversations": messages(*PAIR)}, PAIR),
        ({"conversations": sharegpt(*PAIR), "system": "짧게"}, [("system", "짧게"), *PAIR]),
        ({"conversation": [{"from": "Human", "value": "가"}, {"from": "chatgpt", "value": "나"}]},
         [("user", "가"), ("assistant", "나")]),
        ({"prompt": "가\n\n###\n\n", "completion": " 나\n"},
         [("user", "가\n\n###"), ("assistant", "나")]),
        ({"prompt": messages(("system", "짧게"), PAIR[0]), "completion": messages(PAIR[1])},
         [("system", "짧게"), *PAIR]),
        ({"prompt": "가", "response": "나"}, [("user", "가"), ("assistant", "나")]),
        ({"question": "가", "answer": "나", "id": 3}, [("user", "가"), ("assistant", "나")]),
        ({"prompt": "다", "response": "라", "history": [["가", "나"]], "system": "짧게"},
         [("system", "짧게"), ("user", "가"), ("assistant", "나"), ("user", "다"),
          ("assistant", "라")]),
        ({"instruction": "가", "input": "", "output": "나"}, [("user", "가"), ("assistant", "나")]),
        ({"instruction": "가", "output": "나"}, [("user", "가"), ("assistant", "나")]),
        ({"instruction": "가", "context": "다", "response": "나", "category": "qa"},
         [("user", "가\n\n다"), ("assistant", "나")]),
        (["가", "나"], [("user", "가"), ("assistant", "나")]),
        ({"dialog": ["가", "나"]}, [("user", "가"), ("assistant", "나")]),
    ],
)  # fmt: skip
def test_usual_variants_are_read(
    tmp_path: Path, record: object, turns: list[tuple[str, str]]
) -> None:
    assert read(tmp_path, [record]).turns == [turns]


def test_names_and_weights_of_messages_are_kept(tmp_path: Path) -> None:
    turns = messages(*LONG)
    turns[1] |= {"name": "민수"}
    turns[2] |= {"weight": 0}
    turns[4] |= {"weight": 1}
    (conversation,) = read(tmp_path, [{"messages": turns}]).conversations
    assert [turn.name for turn in conversation.turns] == [None, "민수", None, None, None]
    assert [turn.is_learned for turn in conversation.turns] == [True, True, False, True, True]


def test_each_conversation_of_a_chatterbot_record_has_its_number(tmp_path: Path) -> None:
    record = {"categories": ["a"], "conversations": [["가", "나"], ["다"], ["라", "마", "바"]]}
    result = read(tmp_path, [record, record | {"conversations": [["사", "아"]]}])
    assert [one.source.partition(" line ")[2] for one in result.conversations] == [
        "1 conversation 1", "1 conversation 3", "2 conversation 1",
    ]  # fmt: skip
    assert result.dropped == {"conversations without a reply": 1, "turns after the last reply": 1}


def test_a_text_in_place_of_a_conversation_has_no_reply(tmp_path: Path) -> None:
    result = read(tmp_path, [{"conversations": [["가", "나"], "다 - '라'"]}])
    assert len(result.turns) == 1 and result.dropped == {"conversations without a reply": 1}


CALL = {"type": "function", "function": {"name": "날씨", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("record", "named"),
    [
        ({"messages": [*messages(PAIR[0]), {"role": "assistant", "content": None,
                                            "tool_calls": [CALL]}]}, "'tool_calls' of '날씨'"),
        ({"messages": [*messages(PAIR[0]), {"role": "assistant", "content": "",
                                            "function_call": {"name": "날씨"}}]},
         "'function_call' of '날씨'"),
        ({"messages": [*messages(*PAIR), {"role": "tool", "content": "3", "tool_call_id": "a"}]},
         "tool_call_id"),
        ({"messages": [*messages(*PAIR), {"role": "tool", "content": "3"}]}, "role 'tool'"),
        ({"messages": [*messages(*PAIR), {"role": "function", "content": "3"}]},
         "role 'function'"),
        ({"messages": messages(*PAIR), "tools": [CALL]}, "'tools' of '날씨'"),
        ({"messages": messages(*PAIR), "functions": [CALL["function"]]}, "'functions' of '날씨'"),
        ({"conversations": [*sharegpt(PAIR[0]), {"from": "function_call", "value": "{}"}]},
         "role 'function_call'"),
        ({"conversations": [*sharegpt(*PAIR), {"from": "observation", "value": "3"}]},
         "role 'observation'"),
        ({"conversations": sharegpt(*PAIR), "tools": "[{}]"}, "'tools'"),
    ],
)  # fmt: skip
def test_tool_calls_are_refused_by_name_and_line(
    tmp_path: Path, record: object, named: str
) -> None:
    format = "messages" if "messages" in record else "sharegpt"
    good = {"messages": messages(*PAIR)} if format == "messages" else RECORDS["sharegpt"][0]
    with pytest.raises(TextError) as caught:
        read(tmp_path, [good, record], format=format)
    assert named in str(caught.value) and "tool calls are not supported" in str(caught.value)
    assert f"{tmp_path / 'a.jsonl'} line 2 has" in str(caught.value)
    kept = read(tmp_path, [good, record], format=format, share=0.5)
    assert len(kept.conversations) == 1 and "1 of 2 lines are unusable" in kept.notices[0]


@pytest.mark.parametrize(
    ("format", "record", "message"),
    [
        ("messages", {"messages": [*messages(*PAIR), {"role": "narrator", "content": "a"}]},
         "has the unknown role 'narrator'; known are system, user, assistant"),
        ("messages", {"messages": [{"content": "a"}]}, "without role or content; its keys: 'cont"),
        ("messages", {"messages": [{"role": None, "content": "a"}]}, "a turn without a role"),
        ("messages", {"messages": ["a"]}, "no JSON object but str"),
        ("messages", {"messages": [{"role": "user", "content": 3}]}, "no text but int"),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
         "part of the type 'image_url': only text"),
        ("messages", {"Messages": []}, "or \"conversations\"; its keys: 'M"),
        ("messages", 3, "is no JSON object but int"),
        ("sharegpt", {"conversations": [{"from": "elf", "value": "a"}]}, "unknown role 'elf'"),
        ("prompt", {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "f": 6},
         "its keys: 'a', 'b', 'c', 'd', 'e', ..."),
        ("prompt", {"prompt": "a", "completion": None}, "has no texts"),
        ("prompt", {"prompt": "a", "completion": "b", "history": ["a"]}, "has a history"),
        ("alpaca", {"instruction": "a", "input": "b"}, "has no texts \"instruction\" and"),
        ("alpaca", [], "has no texts \"instruction\" and"),
        ("chatterbot", {"categories": []}, "has no list \"conversations\""),
        ("chatterbot", {"conversations": [["a", "b"], {"가": "나"}]},
         "conversation 2 has no list \"conversations\"; its keys: '가'"),
        ("chatterbot", {"conversations": [["a", "b"], 3]},
         "conversation 2 is no list of texts but int"),
        ("chatterbot", {"conversations": [["a", True]]}, "has a turn that is no text but bool"),
    ],
)  # fmt: skip
def test_the_error_for_a_bad_record_says_what_and_where(
    tmp_path: Path, format: str, record: object, message: str
) -> None:
    good = RECORDS[format][0]
    with pytest.raises(TextError) as caught:
        read(tmp_path, [good, good, record], format=format)
    assert message in str(caught.value) and "a.jsonl line 3" in str(caught.value)
    assert caught.value.fix


@pytest.mark.parametrize("line", ["{", "nonsense", "[" * 100_000, '{"a": 1' + "0" * 5000])
def test_the_error_for_a_line_that_is_not_json_has_its_number(tmp_path: Path, line: str) -> None:
    good = json.dumps(RECORDS["messages"][0])
    content = f"{good}\n\n{line}\n{good}\n"
    with pytest.raises(TextError, match=r"a\.jsonl line 3 is not JSON"):
        read(tmp_path, content)
    kept = read(tmp_path, content, share=0.4)
    assert len(kept.turns) == 1 and "1 of 3 lines are unusable and left out" in kept.notices[0]
    with pytest.raises(TextError, match="1 of 3 lines are unusable, more than 30%"):
        read(tmp_path, content, share=0.3)


def test_a_bad_first_line_does_not_hide_the_others(tmp_path: Path) -> None:
    content = '{"messages": [\n' + json.dumps(RECORDS["messages"][0]) + "\n"
    assert read(tmp_path, content, share=0.5).turns == [LONG]


def test_an_array_that_is_cut_off_is_an_error_at_its_line(tmp_path: Path) -> None:
    whole = json.dumps([{"messages": messages(*PAIR)}] * 2, indent=1)
    cut = whole[: whole.rindex("\n", 0, -2)]
    with pytest.raises(TextError, match=rf"a\.json line {cut.count(chr(10)) + 1} is not JSON"):
        read(tmp_path, cut, "a.json")


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: text.encode("utf-8-sig"),
        lambda text: text.encode("utf-16"),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.encode().rstrip(b"\n"),
    ],
    ids=["byte order mark", "utf-16", "CRLF", "no line end"],
)
def test_byte_order_marks_and_line_ends_make_no_difference(tmp_path: Path, encode: object) -> None:
    records = [{"messages": messages(*LONG)}, {"messages": messages(*PAIR)}]
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    assert read(tmp_path, encode(text)).turns == [LONG, PAIR]


def test_another_encoding_can_be_named(tmp_path: Path) -> None:
    text = json.dumps({"messages": messages(*PAIR)}, ensure_ascii=False)
    assert read(tmp_path, text.encode("cp949"), encoding="cp949").turns == [PAIR]
    with pytest.raises(TextError) as caught:
        read(tmp_path, text.encode("cp949") * 20, "b.jsonl")
    assert "--encoding cp949" in caught.value.fix


turn_texts = st.text(min_size=1, max_size=20).filter(str.strip)
conversations = st.lists(
    st.lists(turn_texts, min_size=2, max_size=6).filter(lambda texts: len(texts) % 2 == 0),
    min_size=1,
    max_size=4,
    unique_by=tuple,
)


@given(conversations, st.sampled_from(["messages", "sharegpt", "chatterbot"]), st.booleans())
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_written_is_read_back(
    tmp_path: Path, texts: list[list[str]], format: str, escapes: bool
) -> None:
    expected = [
        [("assistant" if number % 2 else "user", text) for number, text in enumerate(one)]
        for one in texts
    ]
    writers = {
        "messages": lambda one: {"messages": messages(*one)},
        "sharegpt": lambda one: {"conversations": sharegpt(*one)},
        "chatterbot": lambda one: [text for _, text in one],
    }
    lines = [json.dumps(writers[format](one), ensure_ascii=escapes) for one in expected]
    assert read_as(tmp_path, format, "\n".join(lines)).turns == expected
