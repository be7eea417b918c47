"""Text: corpora, tokenizers, datasets and augmentation."""
