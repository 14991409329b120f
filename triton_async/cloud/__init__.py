"""Model repositories in object storage: what is there, and copies of it. Blocking: never on the loop thread."""
