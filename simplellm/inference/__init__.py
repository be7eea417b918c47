"""Replies: sampling filters, stop sequences, sampler, decoder, batching, beams, quantization."""
