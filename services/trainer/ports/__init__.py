"""What the trainer needs of the world, and what HTTP needs of the trainer."""
