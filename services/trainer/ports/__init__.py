"""What the trainer needs of the world."""
