"""Analysis, copied passages, loss curves, reports and benchmarks of trained models."""
