"""Settings from flags, model configs: parsed, completed, validated, frozen. No I/O but reading configs."""
