"""What `rrg new` writes: one piece of each kind with its test, and, as .txt, what stands around them in a package."""
