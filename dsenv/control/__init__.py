"""What an agent sees of a training and what its actions mean; shared by environments and plug-ins."""
