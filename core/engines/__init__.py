"""The engines Kinora knows, as data: a file a family, and known.py for all of them."""
