"""An instruction or a contrast made an ARM: sampled under it, and trained on what it says."""
