"""Reads what strangers made, in processes with hard limits: decoder.py asks, `python -m sandbox` does it."""
