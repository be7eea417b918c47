"""Sampling: filters, decoder, batching, beam search, quantization."""
