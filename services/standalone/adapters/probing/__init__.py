"""The probe of a base before it is added: a small one of its config, through the trainer and the engine."""
