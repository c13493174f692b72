"""Find plugins, load them, and call their code so that no fault of it harms the rest."""
