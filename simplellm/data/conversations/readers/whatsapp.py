"""The format `whatsapp`: a chat exported by WhatsApp as .txt.

    [31.01.24, 21:05:33] Minsu: Are you home?      iOS
    31/01/2024, 21:05 - Minsu: Are you home?       Android

Dates and times are read in the styles of all languages of the phones. A message may have many
lines. Dropped are messages of the program itself ("Messages are end-to-end encrypted"), media
without a caption, and deleted messages; the mark of an edited message is removed. Whose messages
are the replies, `--me` says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from simplellm.data.conversations import chat_export
from simplellm.data.conversations.chat_export import visible
from simplellm.data.conversations.dated_lines import (
    DELETED,
    MEDIA,
    NOTICES,
    blocks,
    is_log,
    messages,
    parse_head,
)
from simplellm.data.conversations.format import Dropped, Format, Sample
from simplellm.data.conversations.found import Found
from simplellm.data.conversations.options import ReadOptions
from simplellm.data.source import Source, numbered_lines

MIN_SHARE = 0.05  # of the lines that begin a message; the others continue one (guess)
MAX_MEDIA = 40  # characters of a placeholder; notices are longer (guess)

PROGRAM_MARK = "\u200e"  # in exports of iOS before each text that the program itself wrote
EDITED = re.compile(r"\s*(?:\u200e\s*<[^<>\n]{3,60}>|<This message was edited>)\s*$")
# `<Media omitted>`, `<attached: 0001.jpg>`, `IMG-0001.jpg (file attached)` and their translations
PLACEHOLDER = re.compile(
    r"<[^<>\n\"=/]{1,40}[ :][^<>\n\"=]{1,80}>"
    r"|[^\n]{1,200}\.\w{2,5} \((?:file attached|파일 첨부됨?|Datei angehängt|archivo adjunto"
    r"|fichier joint|arquivo anexado|file allegato|bestand bijgevoegd|файл добавлен"
    r"|ファイル添付|添付ファイル|文件附件|附件檔案)\)"
    r"|(?:image|video|audio|sticker|GIF|document|Contact card|video note) omitted"
    r"|(?:이미지|사진|동영상|비디오|오디오|스티커|문서|연락처)[^\n]{0,12} ?(?:생략됨|제외됨|누락됨)"
    r"|null"
)
DOCUMENT = re.compile(r"[^\n]{1,200} • ?\u200e[^\n]*")  # `report.pdf • 3 pages document omitted`
DELETED_TEXTS = re.compile(
    r"(?:this message was deleted|you deleted this message|diese nachricht wurde gelöscht"
    r"|du hast diese nachricht gelöscht|se eliminó este mensaje|eliminaste este mensaje"
    r"|ce message a été supprimé|vous avez supprimé ce message|mensagem apagada"
    r"|você apagou esta mensagem|questo messaggio è stato eliminato"
    r"|이 메시지는 삭제되었습니다|(?:이 )?메시지를 삭제했습니다|삭제된 메시지입니다"
    r"|このメッセージは削除されました|此訊息已刪除|此消息已删除)\.?",
    re.IGNORECASE,
)


def fits(sample: Sample) -> float:
    heads = [head for _, line in sample.lines if (head := parse_head(line))]
    is_chat = any(head.speaker for head in heads) and not is_log(heads)
    in_style = sum(head.separator != "," for head in heads)
    is_dense = len(heads) >= MIN_SHARE * len(sample.lines)
    return in_style / len(heads) if is_chat and is_dense else 0.0


def read(source: Source, options: ReadOptions, dropped: Dropped) -> Iterator[Found]:
    found = messages(blocks(numbered_lines(source.decoded())), _text, dropped)
    yield from chat_export.conversations(source.name, found, options)


def _text(lines: list[str]) -> tuple[str, str]:
    """The text of a message, and the reason to drop it if there is one."""
    first, caption = lines[0], "\n".join(lines[1:])
    if DELETED_TEXTS.fullmatch(visible(first)) and not caption:
        return "", DELETED
    is_program = first.startswith(PROGRAM_MARK) and not EDITED.fullmatch(first)
    is_media = PLACEHOLDER.fullmatch(visible(first)) or DOCUMENT.fullmatch(first)
    if is_media or is_program:
        if caption.strip():
            return visible(EDITED.sub("", caption)), ""
        return "", MEDIA if is_media or len(first) <= MAX_MEDIA else NOTICES
    return visible(EDITED.sub("", "\n".join(lines))), ""


FORMAT = Format(
    "whatsapp", "a chat exported by WhatsApp as .txt; needs --me", fits, read, uses_me=True
)
