"""What tests share: memory adapters, factories, a simulator of kills."""
