"""Engines behind one contract (base); siblings know nothing of each other."""
