"""Fault injection: killed processes, failing disks, flipped bits and hostile files."""
