"""Show the most likely next tokens, before and after the sampling settings.

Teaches: the distribution over the next token, and what temperature, top-k and top-p do to it.

    python examples/next_tokens.py                              # a tiny new model
    python examples/next_tokens.py RUN "The judge put on the"   # a trained run and a prompt
"""

from __future__ import annotations

import sys

from tiny_model import open_or_train

import simplellm

PROMPT = "The judge put on the"
WIDTH = 30  # characters of the longest bar
SETTINGS = (
    {"temperature": 1.0, "top_k": 0, "top_p": 1.0},  # the model's own distribution
    {"temperature": 0.5, "top_k": 0, "top_p": 1.0},  # sharper: likely tokens become more likely
    {"temperature": 1.5, "top_k": 0, "top_p": 1.0},  # flatter
    {"temperature": 1.0, "top_k": 5, "top_p": 1.0},  # only the 5 most likely tokens
    {"temperature": 1.0, "top_k": 0, "top_p": 0.5},  # the most likely half of the probability
)


def show(model: simplellm.Model, prompt: str, settings: dict[str, float]) -> None:
    candidates = model.next_tokens(prompt, top=8, **settings)
    print(", ".join(f"{name} {value:g}" for name, value in settings.items()))
    for candidate in candidates:
        share = candidate.sampling_probability if candidate.kept else 0.0
        bar = "#" * round(WIDTH * share) if candidate.kept else "(excluded)"
        print(f"  {candidate.text!r:<12} {candidate.probability:7.4f} -> {share:7.4f}  {bar}")
    print()


def main(arguments: list[str]) -> None:
    model = open_or_train(arguments[0] if arguments else None)
    prompt = arguments[1] if len(arguments) > 1 else PROMPT
    print(f"after {prompt!r}: probability by the model -> probability after the settings\n")
    for settings in SETTINGS:
        show(model, prompt, settings)


if __name__ == "__main__":
    main(sys.argv[1:])
