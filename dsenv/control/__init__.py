"""What an agent sees of a training run and what its actions mean; shared by environments and plans."""
