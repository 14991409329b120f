"""Settings of the server and configs of models: parsed, completed, validated, frozen. Files are only read."""
