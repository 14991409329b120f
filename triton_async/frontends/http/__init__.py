"""v2 HTTP endpoint."""
