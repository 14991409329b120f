"""Is imported while a request runs; a module of the same name lies beside another model."""

PLACE = "later, of journal"
