"""Train a model on a text and generate text with it, from Python.

Teaches: training, reading the result, sampling settings, streaming, evaluation, reproducible seeds.

    python examples/train_and_generate.py                       # a few steps on the story
    python examples/train_and_generate.py my-text.txt 60s       # a text of yours and a budget
"""

from __future__ import annotations

import sys
import tempfile

from tiny_model import STORY, TINY

import simplellm


def main(arguments: list[str]) -> None:
    text, settings = (arguments[0], {"budget": arguments[1]}) if arguments else (STORY, TINY)

    # Runs are saved in the folder `checkpoints`, by default ./checkpoints; here it is temporary.
    # Settings that are not given are chosen for the text, the budget and the machine.
    with tempfile.TemporaryDirectory() as folder:
        run = simplellm.train(text, name="example", checkpoints=folder, seed=1, **settings)
        print(f"run {run.name}: {run.parameters:,} parameters, best after {run.best_step} steps")
        print(f"validation loss {run.val_loss:.3f} nats per token")
        print(f"                {run.bits_per_byte:.3f} bits per byte\n")

        model = simplellm.load(run)  # the best checkpoint, verified before use

    # Sampling settings are keyword arguments, or a SamplingParams object that can be reused.
    careful = simplellm.SamplingParams(temperature=0.5, max_new_tokens=40, seed=7)
    reply = model.generate("The judge", careful)
    print(f"temperature 0.5: The judge{reply!r}")
    print(f"temperature 1.2: The judge{model.generate('The judge', careful, temperature=1.2)!r}\n")

    # The same seed gives the same reply. A stream yields the pieces as they are sampled.
    pieces = list(model.stream("The judge", careful))
    assert "".join(pieces) == reply
    print(f"the same reply in {len(pieces)} pieces: {' | '.join(pieces[:8])} ...\n")

    evaluation = model.evaluate("The judge put the lamp on the bench.")
    print(
        f"a sentence of {evaluation.tokens} tokens: perplexity {evaluation.perplexity:.1f}, ",
        end="",
    )
    print(f"{evaluation.bits_per_byte:.3f} bits per byte")

    try:
        model.generate("The judge", temperature=-1)
    except simplellm.SimpleLLMError as error:  # errors say what is wrong and how to fix it
        print(f"an error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
