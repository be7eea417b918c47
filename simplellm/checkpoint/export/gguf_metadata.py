"""Metadata of a GGUF file: what a reader needs to build the model."""

from __future__ import annotations

import gguf

from simplellm.checkpoint.export.exported_model import ExportedModel

FILE_TYPES = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "bf16": gguf.LlamaFileType.MOSTLY_BF16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
}


def add_metadata(writer: gguf.GGUFWriter, model: ExportedModel, type: str) -> None:
    """Add name, shape and constants of the model."""
    config = model.config
    hub = model.hub_config
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(model.name)
    writer.add_size_label(gguf.size_label(model.n_parameters, 0, 0, 0))
    writer.add_file_type(FILE_TYPES[type])
    if type == "q8_0":
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(config.inner_size)
    writer.add_head_count(config.n_head)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_size)
    writer.add_value_length(config.head_size)
    if "rms_norm_eps" in hub:
        writer.add_layer_norm_rms_eps(hub["rms_norm_eps"])
    else:
        writer.add_layer_norm_eps(hub["layer_norm_epsilon"])
    if config.facts.has_rotary_positions:
        writer.add_rope_freq_base(hub["rope_theta"])
        writer.add_rope_dimension_count(config.head_size)
