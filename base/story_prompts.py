"""Prompts for generated stories, dialogues, letters, diaries and descriptions.

A prompt is a function of its seed: a kind of text, parts from `story_words.toml`, a request and the
first words of the answer. The given first words vary the texts.
"""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

WORDS = Path(__file__).with_name("story_words.toml")
# Shares of the kinds.
KINDS = {
    "story": 10,
    "tale": 5,
    "dialogue": 5,
    "scene": 4,
    "letter": 3,
    "memory": 4,
    "diary": 2,
    "description": 3,
}


@dataclass(frozen=True)
class StoryPrompt:
    """A request to the model and the first words of the answer, which belong to the text."""

    seed: int
    kind: str
    request: str
    opening: str


@cache
def words() -> dict[str, list[str]]:
    """The lists of `story_words.toml` by name."""
    return tomllib.loads(WORDS.read_text(encoding="utf-8"))


def story_prompt(seed: int) -> StoryPrompt:
    """The prompt number `seed`: equal seeds give equal prompts."""
    rng = random.Random(seed)
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    request, opening = MAKERS[kind](rng)
    return StoryPrompt(seed, kind, request, opening)


def _pick(rng: random.Random, name: str) -> str:
    return rng.choice(words()[name])


def _details(rng: random.Random) -> str:
    """A word to use, for variety, and the length."""
    word = _pick(rng, rng.choice(("nouns", "verbs", "adjectives")))
    return f'Use the word "{word}". Write about {rng.choice((100, 150, 200))} words.'


def _story(rng: random.Random) -> tuple[str, str]:
    name, person, place = _pick(rng, "names"), _pick(rng, "people"), _pick(rng, "places")
    thing, problem = _pick(rng, "objects"), _pick(rng, "problems")
    request = (
        f"Write a short story {_pick(rng, 'styles')}. It is about {name}, {person}. "
        + rng.choice((f"It is about {thing}. ", f"It happens {place}. ", ""))
        + f"In the story {problem}. At the end {name} is {_pick(rng, 'feelings')}. {_details(rng)}"
    )
    opening = rng.choice(
        [
            f"{name} was",
            f"{name} had",
            f"One morning {name}",
            f"It was late when {name}",
            f"{name} did not",
            f"Nobody knew why {name}",
            f'"Where is {thing}?" asked {name}.',
            f'"{rng.choice(("Wait", "Look", "Listen", "Come here", "Stop"))}," said {name}.',
            f"{place.capitalize()} there was {thing}",
            f"Every day {name}",
            f"On the first day of {rng.choice(('spring', 'winter', 'autumn', 'school'))} {name}",
            f"When {name} was young,",
            f"The {_pick(rng, 'adjectives')} {_pick(rng, 'nouns')}",
            f"{name} and {_pick(rng, 'names')}",
        ]
    )
    return request, opening


def _tale(rng: random.Random) -> tuple[str, str]:
    person, place = _pick(rng, "people"), _pick(rng, "places")
    request = (
        f"Tell a short {rng.choice(('fairy tale', 'fable', 'folk tale', 'bedtime story'))} "
        f"{_pick(rng, 'styles')} about {person} and {_pick(rng, 'objects')}. "
        f"It begins when {_pick(rng, 'problems')}. {_details(rng)}"
    )
    opening = rng.choice(
        [
            f"Once upon a time there was {person} who lived {place}.",
            f"Once there lived {person} {place}.",
            f"Long ago, {place},",
            f"There was once {person} who",
            f"{person.capitalize()} once",
            "In the old days",
        ]
    )
    return request, opening


def _two_names(rng: random.Random) -> tuple[str, str]:
    first, second = rng.sample(words()["names"], 2)
    return first, second


def _dialogue(rng: random.Random) -> tuple[str, str]:
    first, second = _two_names(rng)
    request = (
        f"Write a conversation between {first} and {second} about {_pick(rng, 'topics')}. "
        f"{first} is {_pick(rng, 'feelings')}. Each line begins with the name. {_details(rng)}"
    )
    opening = rng.choice(
        [
            f"{first}: Good {rng.choice(('morning', 'evening', 'day'))}, {second}.",
            f"{first}: {second}, I",
            f"{first}: Do you",
            f"{first}: I have",
            f"{first}: What",
            f"{first}: Why did you",
            f"{first}: Have you heard",
        ]
    )
    return request, opening


def _scene(rng: random.Random) -> tuple[str, str]:
    first, second = _two_names(rng)
    request = (
        f"Write a scene from a novel. {first} and {second} talk {_pick(rng, 'places')} about "
        f"{_pick(rng, 'topics')}, and {_pick(rng, 'problems')}. {_details(rng)} "
        "Most of it is what they say, in quotation marks."
    )
    opening = rng.choice(
        [
            f'"I do not understand," said {first}.',
            f'"You are late," {second} said.',
            f'"Tell me about it," said {first}.',
            f'"Is it true?" asked {first}.',
            f'"My dear {second}," said {first},',
            '"I thought',
            '"What do you',
            f"{first} looked at {second}",
            f"{second} put down",
        ]
    )
    return request, opening


def _letter(rng: random.Random) -> tuple[str, str]:
    first, second = _two_names(rng)
    request = (
        f"Write a letter from {first}, {_pick(rng, 'people')}, to {second}. It is about "
        f"{_pick(rng, 'topics')} and tells that {_pick(rng, 'problems')}. {_details(rng)} "
        f"{first} is {_pick(rng, 'feelings')}."
    )
    opening = f"{rng.choice(('Dear', 'My dear', 'Dearest', 'Dear'))} {second},\n\n"
    return request, opening + rng.choice(["I", "It", "Thank you", "You", "We", "When", "Last week"])


def _memory(rng: random.Random) -> tuple[str, str]:
    request = (
        f"Write a short story in the first person, {_pick(rng, 'styles')}. The narrator remembers "
        f"{_pick(rng, 'people')} {_pick(rng, 'places')}. "
        f"{_pick(rng, 'problems').capitalize()}. {_details(rng)}"
    )
    opening = rng.choice(
        [
            "I was",
            "I remember",
            "I never",
            "When I was a child,",
            "That year I",
            "I had known",
            "I met",
            "My father",
            "My aunt",
            "We were",
            "It began",
            f"I first saw {_pick(rng, 'names')}",
        ]
    )
    return request, opening


def _diary(rng: random.Random) -> tuple[str, str]:
    request = (
        f"Write a page of the diary of {_pick(rng, 'people')}. Today {_pick(rng, 'problems')} "
        f"{_pick(rng, 'places')}. The writer is {_pick(rng, 'feelings')}. {_details(rng)}"
    )
    day = rng.choice(["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"])
    opening = rng.choice([f"{day}. ", "Today ", "This morning ", f"{day} evening. I "])
    return request, opening.rstrip()


def _description(rng: random.Random) -> tuple[str, str]:
    request = (
        f"Describe {_pick(rng, 'sights')} {rng.choice(('in plain words', 'like a novelist'))}. "
        f"{_details(rng)}"
    )
    return request, rng.choice(["The", "It was", "There was", "In the", "At first", "On the"])


MAKERS = {
    "story": _story,
    "tale": _tale,
    "dialogue": _dialogue,
    "scene": _scene,
    "letter": _letter,
    "memory": _memory,
    "diary": _diary,
    "description": _description,
}
