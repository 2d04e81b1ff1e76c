"""Other vendors' APIs, a package each: names and shapes. app/intake/accept.py is the one way in for all of them."""
