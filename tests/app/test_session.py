"""Session: settings, turns and context."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from simplellm.app.answer import Answer, complete_text
from simplellm.app.conversation import Conversation, Turn, load
from simplellm.app.framing import TURN_END
from simplellm.app.journal import Journal, last_run
from simplellm.app.loaded_run import LoadedRun
from simplellm.app.preferences import Preferences
from simplellm.app.session import Session
from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.step_folder import load_model
from simplellm.config.sampling import SamplingParams
from simplellm.errors import CheckpointError, SettingError
from simplellm.inference.sampler import Sampler

GREEDY = SamplingParams(temperature=0, max_new_tokens=12)


@pytest.fixture(scope="module")
def sampler(trained: Path) -> Sampler:
    return Sampler(*load_model(RunFolder(trained / "tiny").best(), torch.device("cpu")))


@pytest.fixture
def session(sampler: Sampler, trained: Path) -> Session:
    params = SamplingParams(max_new_tokens=5, seed=3)
    return Session(sampler, trained / "tiny", params, defaults=params)


def turn(session: Session, answer: Answer, n_pieces: int | None = None) -> Answer:
    """Generate an answer, or only its first pieces, and keep it."""
    list(islice(answer, n_pieces))
    session.keep(answer)
    return answer


# ---------------------------------------------------------------- settings

BAD = {
    "temperature": ["hot", "6", "nan"], "top_k": ["-3", "1.5"], "top_p": ["0", "1.1"],
    "min_p": ["1"], "seed": ["-1"],
    "repetition_penalty": ["0"], "max_new_tokens": ["0", "100001"],
}  # fmt: skip


@pytest.mark.parametrize(
    "name, text", [(name, text) for name, texts in BAD.items() for text in texts]
)
def test_a_bad_value_leaves_the_settings_as_they_were(session, name, text):
    before = session.params
    with pytest.raises(SettingError):
        session.change(name, text)
    assert session.params is before


def test_a_change_makes_new_settings_and_reset_brings_the_old_ones_back(session):
    before = session.params
    session.change("temperature", "0.3")
    session.set_context("on")
    assert (before.temperature, session.params.temperature, session.params.top_k) == (
        0.8,
        0.3,
        before.top_k,
    )
    session.reset()
    assert session.params == before and not session.keeps_context


def test_the_ninth_stop_text_is_refused(session):
    for n in range(8):
        session.add_stop(str(n))
    with pytest.raises(SettingError):
        session.add_stop("9")
    assert session.params.stop == tuple("01234567")


@pytest.mark.parametrize("switch", [Session.set_context, Session.set_probabilities])
def test_a_switch_is_on_or_off(session, switch):
    with pytest.raises(SettingError):
        switch(session, "maybe")
    assert not session.keeps_context and not session.shows_probabilities


def remembering(session: Session, folder: Path, **flags: object) -> Session:
    """A session as `simplellm chat` starts it: with flags, and settings kept for the run."""
    params = SamplingParams(**flags)
    new = Session(
        session.sampler,
        session.run_path,
        params,
        defaults=params,
        flags=tuple(flags),
        preferences=Preferences(folder / "p"),
    )
    new.recall_settings()
    return new


def test_settings_are_kept_for_the_next_session(session, tmp_path):
    first = remembering(session, tmp_path)
    first.change("temperature", "0.3")
    first.add_stop("END")
    first.change("seed", "7")
    first.set_context("on")
    first.set_probabilities("on")
    second = remembering(session, tmp_path)
    assert second.params == first.params != SamplingParams()
    assert second.keeps_context and second.shows_probabilities
    second.reset()
    third = remembering(session, tmp_path)
    assert third.params == SamplingParams() and not third.keeps_context


def test_a_flag_overrides_kept_settings_and_is_not_kept(session, tmp_path):
    remembering(session, tmp_path).change("temperature", "0.3")
    flagged = remembering(session, tmp_path, temperature=2.0, top_k=5)
    assert (flagged.params.temperature, flagged.params.top_k) == (2.0, 5)
    flagged.change("min_p", "0.1")
    after = remembering(session, tmp_path).params
    assert (after.temperature, after.top_k, after.min_p) == (0.3, 50, 0.1)
    flagged.reset()
    assert (
        flagged.params.temperature == 2.0
        and remembering(session, tmp_path).params == SamplingParams()
    )


# ---------------------------------------------------------------- turns


def test_the_model_sees_earlier_turns_only_with_context_on(session):
    turn(session, session.ask("The judge"))
    assert session.ask("Jack").reply.prompt_ids == session.sampler.encode("Jack")
    session.set_context("on")
    first = session.turns[0]
    expected = [*first.ids, *session.sampler.encode(TURN_END), *session.sampler.encode("Jack")]
    assert session.ask("Jack").reply.prompt_ids == expected
    assert session.sampler.tokenizer.decode(expected) == f"The judge{first.reply}{TURN_END}Jack"
    session.clear()
    assert (
        session.ask("Jack").reply.prompt_ids == session.sampler.encode("Jack")
        and session.turns == []
    )


def test_a_turn_records_its_settings_and_pieces(session):
    answer = turn(session, session.ask("The judge"))
    (said,) = session.turns
    assert (said.prompt, said.reply, said.stop_reason) == ("The judge", answer.reply.text, "length")
    assert said.params == session.params and said.params.seed == 3
    assert [piece.token for piece in said.pieces if piece.token is not None] == answer.reply.new_ids


def test_earlier_turns_are_read_from_the_cache(session, monkeypatch):
    session.set_context("on")
    turn(session, session.ask("The judge"))
    read: list[int] = []
    read_all = session.sampler._read
    monkeypatch.setattr(
        session.sampler, "_read", lambda new: read.append(len(new)) or read_all(new)
    )
    answer = session.ask("Jack")
    next(iter(answer))
    assert (
        read[0] <= len(session.sampler.encode("Jack")) + 2
    )  # the end of the turn, and the last sampled token


def test_text_hidden_by_a_stop_text_is_not_kept(session):
    text = turn(session, session.ask("The judge")).reply.text
    session.add_stop(text[1:3])
    shown = turn(session, session.ask("The judge")).reply.text
    assert shown == text[:1] == session.turns[-1].reply
    session.set_context("on")
    session.turns = session.turns[-1:]
    context, _ = session.framing.context(session.turns, len(session.turns))
    assert session.sampler.tokenizer.decode(context) == f"The judge{shown}{TURN_END}"


def test_a_partial_reply_is_kept_and_marked(session):
    answer = turn(session, session.ask("The judge"), n_pieces=2)
    assert (
        session.turns[-1].reply == answer.reply.text
        and session.turns[-1].stop_reason == "interrupted"
    )


def test_a_reply_interrupted_before_its_first_token_keeps_the_prompt(session):
    session.keep(session.ask("The judge"))
    assert [(one.prompt, one.reply) for one in session.turns] == [("The judge", "")]
    assert turn(session, session.regen()).reply.text == session.turns[0].reply != ""


@pytest.mark.parametrize("act", [Session.regen, Session.extend, Session.undo])
def test_commands_on_the_last_turn_need_a_turn(session, act):
    with pytest.raises(SettingError, match="there is no turn yet"):
        act(session)


def test_regen_answers_the_same_prompt_with_another_seed_and_shows_it(session):
    turn(session, session.ask("The judge"))
    seeds = set()
    for _ in range(5):
        answer = turn(session, session.regen())
        assert answer.reply.prompt_ids == session.sampler.encode("The judge")
        assert any(
            str(answer.reply.seed) in note and "seed 3 again" in note for note in answer.notes
        )
        seeds.add(session.turns[-1].params.seed)
    assert (
        len(session.turns) == 1 and len(seeds) == 5 and 3 not in seeds and session.params.seed == 3
    )


def test_regen_reports_when_the_reply_cannot_differ(session):
    turn(session, session.ask("The judge"))
    session.change("temperature", "0")
    assert "the same" in session.regen().notes[0]


def test_regen_sees_the_turns_before_the_last_one_only(session):
    session.set_context("on")
    turn(session, session.ask("One"))
    second = turn(session, session.ask("Two"))
    assert session.regen().reply.prompt_ids == second.reply.prompt_ids


def test_an_empty_answer_does_not_replace_the_last_turn(session):
    turn(session, session.ask("The judge"))
    before = list(session.turns)
    for answer in (session.regen(), session.extend()):
        session.keep(answer)
        assert session.turns == before


def test_undo_removes_one_turn(session):
    turn(session, session.ask("One"))
    first = list(session.turns)
    turn(session, session.ask("Two"))
    assert session.undo().prompt == "Two" and session.turns == first


# ---------------------------------------------------------------- continue


@pytest.mark.parametrize("prompt", ["The judge", "한국어 문장", "🙂"])
def test_continue_completes_an_interrupted_reply_as_if_uninterrupted(sampler, prompt):
    whole = turn(
        Session(sampler, Path("x"), GREEDY), Session(sampler, Path("x"), GREEDY).ask(prompt)
    ).reply
    for n in range(1, 12):
        session = Session(sampler, Path("x"), GREEDY)
        turn(session, session.ask(prompt), n_pieces=n)
        turn(session, session.extend())
        assert session.turns[0].reply.startswith(whole.text.rstrip("\ufffd"))
        assert len(session.turns) == 1 and session.turns[0].prompt == prompt


def test_an_incomplete_character_is_generated_again(session, monkeypatch):
    """한 has three bytes. A reply that ends after two of them continues with all three."""
    tokens = [session.sampler.tokenizer.ranks[bytes([byte])] for byte in "a한b".encode()]
    said = iter([*tokens[:3], *tokens[1:]])

    def next_logits(ids: list[int]) -> object:
        logits = torch.zeros(session.sampler.model.config.vocab_size)
        logits[next(said)] = 1000.0
        return logits.numpy()

    monkeypatch.setattr(session.sampler, "next_logits", next_logits)
    session.change("max_new_tokens", "3")
    assert turn(session, session.ask("x")).reply.text == "a" and session.turns[-1].reply == "a"
    session.change("max_new_tokens", "4")
    turn(session, session.extend())
    assert session.turns[-1].reply == "a한b"


def test_continue_works_after_the_end_and_after_a_stop_text(session):
    text = turn(session, session.ask("The judge")).reply.text
    session.add_stop(text[1:3])
    turn(session, session.ask("The judge"))
    assert session.turns[-1].stop_reason == "stop"
    session.remove_stops()
    answer = turn(session, session.extend())
    assert session.turns[-1].reply == text[:1] + answer.reply.text and len(session.turns) == 2


def test_continue_shows_the_end_of_the_last_line_first(session):
    session.turns = [Turn("The\njudge", " said")]
    assert session.extend().before == "judge said"
    session.turns = [Turn("x" * 5000, "")]
    assert len(session.extend().before) < 500


# ---------------------------------------------------------------- the context


def context_of(turns: list[Turn], sampler: Sampler, **params: int) -> Session:
    return Session(sampler, Path("x"), SamplingParams(**params), turns=turns, keeps_context=True)


@settings(deadline=None, max_examples=examples(60))
@given(
    turns=st.lists(st.builds(Turn, st.text(max_size=20), st.text(max_size=20)), max_size=8),
    prompt=st.text(min_size=1, max_size=40),
    max_new_tokens=st.integers(1, 100),
)
def test_the_newest_whole_turns_that_fit_are_the_context(sampler, turns, prompt, max_new_tokens):
    session = context_of(list(turns), sampler, max_new_tokens=max_new_tokens)
    answer, encode = session.ask(prompt), sampler.encode
    own = (
        encode(prompt)[-session.context_limit :]
        if len(encode(prompt)) > sampler.block_size
        else encode(prompt)
    )
    parts = [[*encode(one.prompt + one.reply), *encode(TURN_END)] for one in turns]
    n_kept = max(
        (
            n
            for n in range(len(turns) + 1)
            if len(own) + sum(map(len, parts[len(turns) - n :])) <= session.context_limit
        ),
        default=0,
    )
    kept = parts[len(turns) - n_kept :]
    room = session.context_limit - len(own)
    is_part = bool(turns) and not n_kept and room > 0  # of the last turn, the newest part
    kept = [parts[-1][-room:]] if is_part else kept
    assert any(f"the last {room} tokens of" in note for note in answer.notes) == is_part
    assert answer.reply.prompt_ids == [*(token for part in kept for token in part), *own]
    assert (
        len(answer.reply.prompt_ids) <= max(session.context_limit, len(own)) <= sampler.block_size
    )
    n_out = len(turns) - n_kept
    assert any("left out" in note and note.startswith(f"{n_out} ") for note in answer.notes) == (
        n_out > 0
    )


def test_turns_left_out_are_reported_when_their_number_grows(sampler):
    session = context_of([Turn("The judge said nothing", " and the baker laughed.")] * 6, sampler)
    assert "left out" in session.ask("x").notes[0] and session.ask("x").notes == ()
    session.turns.append(session.turns[0])
    assert "left out" in session.ask("x").notes[0]


def test_room_is_left_for_the_reply(sampler):
    block_size = sampler.block_size
    limits = {
        n: context_of([], sampler, max_new_tokens=n).context_limit
        for n in (1, 5, block_size, 10_000)
    }
    assert limits == {
        1: block_size - 1,
        5: block_size - 5,
        block_size: block_size // 2,
        10_000: block_size // 2,
    }


def test_a_prompt_longer_than_the_context_is_cut_with_a_notice(session, story):
    n = session.context_limit
    answer = session.ask(story)
    assert answer.reply.prompt_ids == session.sampler.encode(story)[-n:]
    assert answer.notes == (
        f"the prompt is longer than the context: the model sees only its last {n} tokens",
    )
    assert turn(session, answer).turn.prompt == story and session.turns[0].prompt == story


def test_a_prompt_that_fits_is_not_cut(session):
    text = "a b" * session.sampler.block_size
    ids = session.sampler.encode(text)
    for n in range(1, 40):
        prompt = session.sampler.tokenizer.decode(ids[:n])
        if len(session.sampler.encode(prompt)) <= session.sampler.block_size:
            assert session.ask(prompt).notes == ()


def test_five_megabytes_cost_no_more_than_the_context(session, story, monkeypatch):
    read: list[int] = []
    encode = session.sampler.tokenizer.encode
    monkeypatch.setattr(
        session.sampler.tokenizer, "encode", lambda text: read.append(len(text)) or encode(text)
    )
    turn(session, session.ask(story * 200))
    session.set_context("on")
    assert "left out" in session.ask("and").notes[0]
    assert session.n_context_tokens("and") == session.context_limit and max(read) < 50_000 < len(
        session.turns[0].prompt
    )


def test_the_context_is_counted_without_reading_turns_again(session, monkeypatch):
    session.set_context("on")
    turn(session, session.ask("The judge"))
    expected = len(session.ask("Jack").reply.prompt_ids)
    read: list[str] = []
    encode = session.sampler.tokenizer.encode
    monkeypatch.setattr(
        session.sampler.tokenizer, "encode", lambda text: read.append(text) or encode(text)
    )
    assert session.n_context_tokens("Jack") == expected and set(read) == {"Jack", TURN_END}


# ---------------------------------------------------------------- files and other runs


def test_every_turn_is_saved_at_once(session, tmp_path):
    session.journal = Journal(tmp_path, session.run_path)
    steps: list[Callable[[], object]] = [
        lambda: turn(session, session.ask("One")), lambda: turn(session, session.ask("둘"),
        n_pieces=1),
        lambda: turn(session, session.extend()), lambda: turn(session, session.regen()),
        session.undo, session.undo,
        lambda: turn(session, session.ask("Three")),
    ]  # fmt: skip
    for step in steps:
        step()
        assert load(session.journal.path) == session.turns
    path, turns = session.journal.path, session.turns
    session.clear()
    turn(session, session.ask("Four"))
    assert (
        session.journal.path != path
        and load(path) == turns
        and load(session.journal.path) == session.turns
    )


def test_a_conversation_that_cannot_be_saved_is_reported_once_and_continues(session, tmp_path):
    told: list[str] = []
    (tmp_path / "file").write_text("x")
    session.journal, session.notice = Journal(tmp_path / "file", session.run_path), told.append
    turn(session, session.ask("One"))
    turn(session, session.ask("Two"))
    assert len(session.turns) == 2 and len(told) == 1 and "not saved" in told[0]


def test_a_conversation_is_loaded_with_its_context_switch(session, tmp_path):
    session.set_context("on")
    turn(session, session.ask("One"))
    turns = list(session.turns)
    session.save(str(tmp_path / "c"))
    session.clear()
    session.set_context("off")
    session.load(str(tmp_path / "c"))
    assert session.turns == turns and session.keeps_context


def opened(sampler: Sampler, path: Path) -> Callable[[str], LoadedRun]:
    def load_run(requested: str) -> LoadedRun:
        if requested != "other":
            raise CheckpointError(f"there is no run {requested}")
        return LoadedRun(sampler, path, {"run": "other"})

    return load_run


def test_another_run_uses_its_own_kept_settings(session, trained, tmp_path):
    session = remembering(session, tmp_path)
    session.load_run = opened(
        Sampler(session.sampler.model, session.sampler.tokenizer), tmp_path / "other"
    )
    session.change("temperature", "0.3")
    turn(session, session.ask("The judge"))
    before = session.turns[0]
    session.switch("other")
    assert (
        session.run_path == tmp_path / "other"
        and session.params == SamplingParams()
        and session.facts == {"run": "other"}
    )
    assert (
        session.turns == [before] and session.turns[0].ids is None and session.turns[0].pieces == ()
    )
    session.change("temperature", "1.5")
    turn(session, session.regen())
    assert remembering(session, tmp_path).params.temperature == 1.5
    session.run_path = trained / "tiny"
    assert remembering(session, tmp_path).params.temperature == 0.3


def test_a_run_that_cannot_be_loaded_leaves_the_current_one(session, tmp_path):
    sampler, path, params = session.sampler, session.run_path, session.params
    session.load_run = opened(sampler, tmp_path)
    turn(session, session.ask("The judge"))
    with pytest.raises(CheckpointError):
        session.switch("missing")
    assert (session.sampler, session.run_path, session.params) == (
        sampler,
        path,
        params,
    ) and session.turns[0].ids


def test_the_last_conversation_of_any_run_names_its_run(tmp_path):
    folder, checkpoints = tmp_path / "conversations", tmp_path / "runs"
    for name in ("older", "talked", "training"):
        (checkpoints / name).mkdir(parents=True)
    assert last_run(folder, checkpoints) is None
    for age, run in ((30, "older"), (20, "talked"), (10, "elsewhere/other")):
        journal = Journal(folder, checkpoints / run)
        journal.write(Conversation([Turn("a", "b")]))
        os.utime(journal.path, (1e9 - age, 1e9 - age))
    assert last_run(folder, checkpoints) == (checkpoints / "talked").resolve()


def test_the_ids_of_a_reply_that_ends_with_invalid_bytes_are_kept(tokenizer):
    table = {tokenizer.token_bytes(token): token for token in range(256)}
    ids = [table[bytes([byte])] for byte in (65, 0xF1, 0xDD, 0xDD)]
    reply = SimpleNamespace(text="A\ufffd\ufffd", new_ids=ids, end_ids=frozenset())
    assert complete_text(reply, tokenizer) == (reply.text, tuple(ids[:3]))
