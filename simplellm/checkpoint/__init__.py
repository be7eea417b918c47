"""The run folder: saving, loading, verifying, and the Hugging Face mapping."""
