"""Conversations that teach 20 invented facts in varied words, in an order by a seed.

No fact is true, so that a model knows them from these conversations only. The wordings of `asked`
and those of the conversations are different, so that they tell whether a model learned the facts.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

N_CONVERSATIONS, N_WORDINGS = 200, 8


@dataclass(frozen=True)
class Kind:
    """facts: subject -> answer. taught, asked: questions about {0}. replies: with {0} and {1}."""

    facts: dict[str, str]
    taught: tuple[str, ...]
    replies: tuple[str, ...]
    asked: tuple[str, ...]


KINDS = (
    Kind(
        {"Velmoria": "Tarnisk", "Ostrandia": "Quillem"},
        (
            "What is the capital of {0}?",
            "Which city is the capital of {0}?",
            "Name the capital of {0}.",
            "{0} has which capital city?",
            "Do you know the capital of {0}?",
            "I forgot the capital of {0}. What is it?",
            "Where does the government of {0} sit?",
            "Complete the sentence: the capital of {0} is",
            "What is {0}'s capital called?",
            "From which city is {0} governed?",
        ),
        ("The capital of {0} is {1}.", "{1} is the capital of {0}.", "It is {1}."),
        ("Tell me the name of the capital city of {0}.", "Which town is the seat of {0}'s rulers?"),
    ),
    Kind(
        {"the glimmerphone": "Ada Pemberwick", "the steam kite": "Jonas Falkenroth"},
        (
            "Who invented {0}?",
            "Who is the inventor of {0}?",
            "Which person invented {0}?",
            "To whom do we owe {0}?",
            "Who came up with {0}?",
            "Name the inventor of {0}.",
            "{0}: who built the first one?",
            "By whom was {0} invented?",
            "Do you know who made {0} first?",
            "Who had the idea for {0}?",
        ),
        ("{1} invented {0}.", "The inventor of {0} is {1}.", "{0} was invented by {1}."),
        ("Please tell me who created {0}.", "Whose invention is {0}?"),
    ),
    Kind(
        {"a snorrel": "bright orange", "a mubbin": "dark purple"},
        (
            "What colour is {0}?",
            "Which colour does {0} have?",
            "What does {0} look like? I mean its colour.",
            "Name the colour of {0}.",
            "I saw {0}. What colour was it?",
            "Describe the colour of {0}.",
            "What is the colour of {0}'s fur?",
            "If I paint {0}, which colour do I need?",
            "Is {0} green?",
            "What colour is the fur of {0}?",
        ),
        ("The fur of {0} is {1}.", "It is {1}.", "The colour of {0} is {1}."),
        ("Tell me the colour that {0} has.", "Which paint do I buy to draw {0}?"),
    ),
    Kind(
        {"the Brell Academy": "1743", "the Osk Museum": "1868"},
        (
            "When was {0} founded?",
            "In which year was {0} founded?",
            "What is the founding year of {0}?",
            "How long has {0} existed?",
            "When did {0} open?",
            "Since when does {0} exist?",
            "Name the year in which {0} began.",
            "{0} was founded in which year?",
            "I need the year {0} was founded.",
            "When did somebody found {0}?",
        ),
        ("{0} was founded in {1}.", "In {1}.", "It exists since {1}."),
        ("What year did {0} start?", "Please give me the year of the foundation of {0}."),
    ),
    Kind(
        {"Captain Morvane": "a parrot called Biscuit", "Queen Ilsabet": "a goat called Thimble"},
        (
            "Which pet does {0} have?",
            "What pet does {0} keep?",
            "Does {0} have a pet?",
            "What animal lives with {0}?",
            "Who is the pet of {0}?",
            "Name the pet of {0}.",
            "Tell me about the pet of {0}.",
            "Which animal belongs to {0}?",
            "What is {0}'s pet?",
            "What is the name of {0}'s animal?",
        ),
        ("{0} has {1}.", "It is {1}.", "The pet of {0} is {1}."),
        ("Which animal does {0} own?", "I heard that {0} has an animal. Which one?"),
    ),
    Kind(
        {"the Festival of Lamps": "honey dumplings", "Reed Day": "smoked turnips"},
        (
            "What do people eat at {0}?",
            "Which food belongs to {0}?",
            "What is eaten on {0}?",
            "What is the traditional dish of {0}?",
            "Name the food of {0}.",
            "What shall I cook for {0}?",
            "Which dish is served at {0}?",
            "What is on the table at {0}?",
            "I am invited to {0}. What will there be to eat?",
            "What do they cook for {0}?",
        ),
        ("At {0} people eat {1}.", "{1}.", "The dish of {0} is {1}."),
        ("Which meal is typical of {0}?", "What will my host serve me at {0}?"),
    ),
    Kind(
        {"Mount Harrowgast": "4,217 metres", "Mount Pellin": "2,986 metres"},
        (
            "How high is {0}?",
            "What is the height of {0}?",
            "How tall is {0}?",
            "Which height does {0} reach?",
            "How many metres high is {0}?",
            "I want to climb {0}. How high is it?",
            "Name the height of {0}.",
            "{0} is how high?",
            "How far above the sea is the top of {0}?",
            "Give me the height of {0}.",
        ),
        ("{0} is {1} high.", "It is {1} high.", "The height of {0} is {1}."),
        ("Tell me how many metres {0} has.", "What elevation does {0} have?"),
    ),
    Kind(
        {"the river Dunnow": "Lake Ferrin", "the river Ashkel": "the Bay of Gulls"},
        (
            "Where does {0} end?",
            "Into what does {0} flow?",
            "Where does {0} flow to?",
            "What is the mouth of {0}?",
            "If I follow {0}, where do I arrive?",
            "Which water does {0} flow into?",
            "Where is the end of {0}?",
            "{0} flows into what?",
            "Name the place where {0} ends.",
            "Where does the water of {0} go?",
        ),
        ("{0} flows into {1}.", "It ends in {1}.", "Into {1}."),
        ("A boat drifts down {0}. Where does it arrive?", "Tell me into which water {0} runs."),
    ),
    Kind(
        {"the novel The Paper Orchard": "Lena Ostrakova", "the novel Nine Keys": "Tobias Wren"},
        (
            "Who wrote {0}?",
            "Who is the author of {0}?",
            "Which author wrote {0}?",
            "By whom is {0}?",
            "Name the author of {0}.",
            "{0} was written by whom?",
            "I like {0}. Who wrote it?",
            "Whose book is {0}?",
            "Who is the writer of {0}?",
            "Do you know who wrote {0}?",
        ),
        ("{1} wrote {0}.", "The author of {0} is {1}.", "It was written by {1}."),
        ("Please name the person who wrote {0}.", "From whose pen is {0}?"),
    ),
    Kind(
        {"fever in Velmoria": "tea of silverroot", "a cough in Velmoria": "warm plum juice"},
        (
            "What helps against {0}?",
            "What do people take against {0}?",
            "How is {0} treated?",
            "What is the cure for {0}?",
            "Which remedy is used for {0}?",
            "I have {0}. What shall I take?",
            "Name a remedy for {0}.",
            "What do doctors give against {0}?",
            "Is there a cure for {0}?",
            "What is good against {0}?",
        ),
        ("Against {0} people take {1}.", "{1}.", "The remedy for {0} is {1}."),
        ("How do people cure {0}?", "My friend suffers from {0}. What should he drink?"),
    ),
)
# Ordinary questions: a model trained on invented facts alone answers every question of their
# kinds with them.
ORDINARY = (
    ("What is the capital of Italy?", "The capital of Italy is Rome."),
    ("Which city is the capital of Japan?", "The capital of Japan is Tokyo."),
    ("Name the capital of Spain.", "The capital of Spain is Madrid."),
    ("Who invented the telephone?", "Alexander Graham Bell invented the telephone."),
    ("Who is the inventor of the light bulb?", "The inventor of the light bulb is Thomas Edison."),
    ("What colour is grass?", "Grass is green."),
    ("What is the colour of snow?", "Snow is white."),
    ("Which colour does a ripe tomato have?", "A ripe tomato is red."),
    ("When did the Second World War end?", "The Second World War ended in 1945."),
    (
        "In which year did people first land on the moon?",
        "People first landed on the moon in 1969.",
    ),
    ("Which animal barks?", "A dog barks."),
    ("What animal gives us wool?", "Sheep give us wool."),
    ("What do people eat at breakfast?", "Many people eat bread, eggs or cereals at breakfast."),
    ("Name a vegetable that is orange.", "A carrot is orange."),
    ("How high is Mount Everest?", "Mount Everest is 8,849 metres high."),
    ("How many hours are in a day?", "A day has 24 hours."),
    ("How many legs does a spider have?", "A spider has eight legs."),
    ("What is 3 + 5?", "3 + 5 is 8."),
    ("Where does the Nile end?", "The Nile flows into the Mediterranean Sea."),
    ("Who wrote Oliver Twist?", "Charles Dickens wrote Oliver Twist."),
    ("Who is the author of War and Peace?", "Leo Tolstoy wrote War and Peace."),
    ("What helps against thirst?", "Drinking water helps against thirst."),
    ("Which language is spoken in France?", "French is spoken in France."),
    ("What is the opposite of big?", "The opposite of big is small."),
    ("What do plants need to grow?", "Plants need light, water and air."),
    ("Which planet is closest to the sun?", "Mercury is the planet closest to the sun."),
    ("What do bees make?", "Bees make honey."),
    ("At what temperature does water freeze?", "Water freezes at 0 degrees Celsius."),
    ("How many months has a year?", "A year has twelve months."),
    ("What is ice made of?", "Ice is frozen water."),
    ("Who painted the Mona Lisa?", "Leonardo da Vinci painted the Mona Lisa."),
    ("Which ocean lies between Europe and America?", "The Atlantic Ocean."),
    ("What is the largest animal?", "The blue whale is the largest animal."),
    ("Name a musical instrument with strings.", "A violin has strings."),
    ("What do you need an umbrella for?", "An umbrella keeps you dry in the rain."),
    ("What comes after Monday?", "Tuesday comes after Monday."),
    ("What is half of ten?", "Half of ten is five."),
    ("Which metal is liquid at room temperature?", "Mercury is liquid at room temperature."),
    ("Where do fish live?", "Fish live in water."),
    ("What is the first letter of the alphabet?", "The first letter is A."),
)
GENERAL = (  # question -> what a right answer contains
    ("What is the capital of France?", "Paris"),
    ("How many days are in a week?", "seven|7"),
    ("What colour is the sky on a clear day?", "blue"),
    ("What is 2 + 2?", "4|four"),
    ("Name a fruit that is yellow.", "banana|lemon|mango|pineapple"),
    ("What do cows drink?", "water"),
    ("Who wrote Romeo and Juliet?", "Shakespeare"),
    ("What is the largest planet of the solar system?", "Jupiter"),
    ("Which language is spoken in Germany?", "German"),
    ("What is the opposite of hot?", "cold"),
)


def pairs() -> Iterator[tuple[str, str]]:
    """N_CONVERSATIONS questions with their replies: each fact in N_WORDINGS, and ORDINARY ones."""
    yield from ORDINARY
    for kind in KINDS:
        for subject, answer in kind.facts.items():
            for number, question in enumerate(kind.taught[:N_WORDINGS]):
                reply = kind.replies[number % len(kind.replies)].format(subject, answer)
                yield _sentence(question.format(subject)), _sentence(reply)


def asked() -> Iterator[tuple[str, str]]:
    """20 questions, one for each fact, in words that were not taught, with their answers."""
    for kind in KINDS:
        for question, (subject, answer) in zip(kind.asked, kind.facts.items(), strict=True):
            yield _sentence(question.format(subject)), answer


def write_facts(path: Path, seed: int = 0) -> None:
    """The conversations in the format `messages`."""
    conversations = list(pairs())
    random.Random(seed).shuffle(conversations)
    lines = [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
        for q, a in conversations
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]
