"""A module of the same name lies beside another model."""

WHO = "journal"
