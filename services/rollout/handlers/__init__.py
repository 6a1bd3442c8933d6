"""What the rollout service does when something happens."""
