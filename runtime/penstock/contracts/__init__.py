"""Values and interfaces that the runtime and plugins share. No web framework is imported here."""
