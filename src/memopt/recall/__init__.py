"""Finding messages, stated memories and documents again, in one scope, exactly, without a model."""
