"""What the systems that run code pay for their environments: one module for each."""
