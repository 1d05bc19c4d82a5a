"""What is resident, in which tier, and how it moves."""
