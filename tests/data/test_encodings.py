"""Names of encodings, and the guess of an encoding by bytes."""

from __future__ import annotations

import random

import pytest

from simplellm.data.encodings import likely_encoding, standard_name

TEXTS = {
    "cp949": "판사는 램프를 바라보며 천천히 웃었다. 그림은 벽에 걸려 있었고 아무도 보지 않았다.\n",
    "shift_jis": "私はその人を常に先生と呼んでいた。だからここでもただ先生と書くだけです。\n",
    "euc-jp": "私はその人を常に先生と呼んでいた。だからここでもただ先生と書くだけです。\n",
    "gb18030": "我在朦胧中，眼前展开一片海边碧绿的沙地来，上面深蓝的天空中挂着一轮金黄的圆月。\n",
    "big5": "我在朦朧中，眼前展開一片海邊碧綠的沙地來，上面深藍的天空中掛著一輪金黃的圓月。\n",
    "cp1251": "Все счастливые семьи похожи друг на друга, каждая несчастливая несчастлива.\n",
    "koi8-r": "Все счастливые семьи похожи друг на друга, каждая несчастливая несчастлива.\n",
    "cp1253": "Τη γλώσσα μου έδωσαν ελληνική, το σπίτι φτωχικό στις αμμουδιές του Ομήρου.\n",
    "cp1250": "Příliš žluťoučký kůň úpěl ďábelské ódy, když šel přes les a řeku.\n",
    "cp1252": "“Où est-il?” demanda le juge très étonné; “là-bas”, répondit l’élève.\n",
}


@pytest.mark.parametrize("encoding", TEXTS)
def test_the_encoding_of_a_text_is_recognized(encoding):
    assert likely_encoding((TEXTS[encoding] * 5).encode(encoding)) == encoding


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("text", [*TEXTS.values(), "The judge looked at the lamp.\n"])
def test_utf_16_without_a_mark_is_recognized(encoding, text):
    assert likely_encoding(text.encode(encoding)) == encoding


def test_a_few_damaged_bytes_in_utf_8_are_recognized_as_such():
    data = (TEXTS["cp949"] * 9).encode()
    assert likely_encoding(data[:100] + b"\xff" + data[100:]) == "utf-8"


def test_binary_data_is_no_text():
    data = random.Random(1).randbytes(4000)
    assert likely_encoding(data) is None and likely_encoding(b"abc\0def") is None


@pytest.mark.parametrize(
    ("name", "standard"),
    [("utf16", "utf-16"), ("UTF8", "utf-8"), ("U16", "utf-16"), ("latin1", "iso8859-1"),
     ("ms949", "cp949"), ("utf_16_le", "utf-16-le")],
)  # fmt: skip
def test_every_name_of_an_encoding_is_one_standard_name(name, standard):
    assert standard_name(name) == standard
