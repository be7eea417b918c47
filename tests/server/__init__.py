"""Tests of the HTTP server, most of them against a real one on loopback."""
